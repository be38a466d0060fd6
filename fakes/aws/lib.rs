//! Makes AWS billing exports, and reports of S3, that look like AWS's own, for demos, tests and
//! benches.
//!
//! No bill with Amazon Chime lines has ever been published, so whoever meters Chime needs bills of
//! their own making. What is written here follows real files: the keys, the manifests, the columns
//! and their physical types, the line types that carry an amount and must not be counted, and
//! products that share a usage type. The exact totals come with every bill, summed from the
//! integers that the amounts were made from.
//!
//! A bucket that all customers share can be in the bill, with S3's reports about it: [`bucket`].
//!
//! Nothing is shared with the reader that is tested by it, so that a misreading of the format is
//! not made twice.

mod amount;
pub mod bucket;
mod columns;
mod cur2;
pub mod inventories;
mod kinds;
mod legacy;
mod manifest;
mod places;
mod plan;
mod random;
#[cfg(test)]
mod tests;
mod totals;
mod write_csv;
mod write_parquet;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use bucket::BucketBill;
use places::{Month, Places};
use plan::{Line, Plan, Pool, bucket_lines};
use totals::Totals;

/// How many lines are made and written at a time; what bounds the memory, with the row groups.
const BATCH: usize = 50_000;

/// Which of the two kinds of billing export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The legacy Cost and Usage Report.
    Legacy,
    /// CUR 2.0, delivered by Data Exports.
    Cur2,
}

/// The format of the data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Parquet,
    Csv,
    CsvGz,
}

/// What bill to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub layout: Layout,
    /// The format of the data files.
    pub kind: FileKind,
    /// Name of the report or export.
    pub report: String,
    /// What the keys in the bucket start with; may be empty.
    pub prefix: String,
    /// The bucket, as the manifest names it.
    pub bucket: String,
    pub account: String,
    /// Year of the billing period.
    pub year: i16,
    /// Month of the billing period, 1 to 12.
    pub month: u8,
    /// Month to date: there is usage for the first so many days only, at least 1 and at most the
    /// whole month.
    ///
    /// The lines of a day do not depend on it: with `rows` grown in step, a later delivery keeps
    /// the earlier days (but for the few places that the tax lines take).
    pub days: u8,
    /// Days after the end of the last day with usage until the bill is delivered.
    pub late_days: u8,
    /// Number of lines in all files together.
    pub rows: u64,
    /// Number of data files, at least 1.
    pub files: u32,
    /// Rows in a row group of Parquet.
    pub row_group_rows: usize,
    /// Number of customers, at least 1; the first ones are the largest.
    pub customers: u32,
    /// The cost allocation tag that names the customer.
    pub tag_key: String,
    /// How many lines of a hundred are of Chime or S3.
    pub share_percent: u8,
    /// How many of a hundred Chime and S3 lines have no customer tag.
    pub untagged_percent: u8,
    /// All the columns of a real bill (more than 120), or only some 25.
    pub wide: bool,
    /// What all chance comes from.
    pub seed: u64,
    /// 0 is the first version of the bill. In the n-th restatement some amounts of past days (all
    /// but the last) are a little lower or higher, a few lines are gone and as many are new.
    pub restated: u32,
    /// There is no column for the customer tag at all, so that no line has it.
    pub tag_column_missing: bool,
    /// A new folder for each delivery; otherwise a delivery overwrites the one before.
    pub create_new: bool,
    /// Lines of a bucket that all customers share, beside the `rows`.
    pub shared_bucket: Option<BucketBill>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            layout: Layout::Cur2,
            kind: FileKind::Parquet,
            report: "bill".into(),
            prefix: "cur".into(),
            bucket: "billing".into(),
            account: "111122223333".into(),
            year: 2026,
            month: 10,
            days: 31,
            late_days: 0,
            rows: 20_000,
            files: 2,
            row_group_rows: 1_000_000,
            customers: 40,
            tag_key: "chitchatter-customer-id".into(),
            share_percent: 40,
            untagged_percent: 3,
            wide: true,
            seed: 7,
            restated: 0,
            tag_column_missing: false,
            create_new: true,
            shared_bucket: None,
        }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Export {
    /// The version of the bill: `assemblyId` or `executionId`.
    pub version: String,
    pub root: PathBuf,
    pub manifest: PathBuf,
    /// The data files, in the manifest's order.
    pub files: Vec<PathBuf>,
    /// All customers that lines are drawn for, largest first.
    pub customers: Vec<String>,
    /// The exact totals of the metered usage types.
    pub totals: Vec<MeterTotal>,
    pub rows: u64,
}

/// The exact total of one meter, scaled by 10^10.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterTotal {
    /// `chime_minutes`, `storage_gb` or `transfer_gb`.
    pub meter: &'static str,
    /// Usage on lines with the customer tag.
    pub attributed: i128,
    /// Usage on lines without it.
    pub unattributed: i128,
    /// Amounts on credit lines of the same usage types, which are no usage.
    pub excluded: i128,
    /// Number of lines of these usage types, credits too.
    pub lines: u64,
}

/// Writes one delivery of a bill; `folder` stands for the bucket.
///
/// The manifests come last and each appears at once, as AWS's do. Older deliveries stay where they
/// are, and so do the surplus files of an overwritten one.
pub fn write(folder: &Path, spec: &Spec) -> Result<Export> {
    check(spec)?;
    let month = Month::of(spec)?;
    let pool = Pool::new(spec);
    let places = Places::new(spec, &month)?;
    let columns = columns::of(spec, &month, &pool)?;
    let mut plan = Plan::new(spec, &month, &pool)?;
    let mut totals = Totals::default();
    let mut files = vec![];
    let rows = spec.rows + u64::try_from(bucket_lines(spec, &month).len())?;
    for (key, rows) in places.data.iter().zip(shares(rows, spec.files)) {
        let path = folder.join(key);
        let parent = path.parent().context("a data file without a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let mut batches = Batches { plan: &mut plan, totals: &mut totals, left: rows };
        match spec.kind {
            FileKind::Parquet => write_parquet::write(&path, spec, &month, &columns, &mut batches),
            FileKind::Csv | FileKind::CsvGz => write_csv::write(&path, spec, &month, &columns, &mut batches),
        }
        .with_context(|| format!("cannot write {}", path.display()))?;
        files.push(path);
    }
    let text = manifest::text(spec, &month, &places, &columns)?;
    let mut newest = PathBuf::new();
    for key in &places.manifests {
        newest = manifest::put(folder, key, &text)?;
    }
    Ok(Export {
        version: places.version,
        root: folder.join(places.root),
        manifest: newest,
        files,
        customers: pool.customers,
        totals: totals.totals(),
        rows,
    })
}

/// Refuses what no bill can look like.
fn check(spec: &Spec) -> Result<()> {
    ensure!((2000..=9000).contains(&spec.year), "year {} is out of range", spec.year);
    ensure!((1..=12).contains(&spec.month), "there is no month {}", spec.month);
    ensure!(spec.files > 0, "a bill has at least one data file");
    ensure!(spec.row_group_rows > 0, "a row group has at least one row");
    ensure!(spec.customers > 0, "there is at least one customer");
    ensure!(spec.share_percent <= 100 && spec.untagged_percent <= 100, "a share is at most 100 percent");
    ensure!(!spec.report.is_empty(), "the report needs a name");
    Ok(())
}

/// How many rows go into each file: as even as can be.
fn shares(rows: u64, files: u32) -> impl Iterator<Item = u64> {
    let files = u64::from(files);
    (0..files).map(move |file| rows / files + u64::from(file < rows % files))
}

/// The lines of one data file, a batch at a time.
struct Batches<'a, 'b> {
    plan: &'a mut Plan<'b>,
    totals: &'a mut Totals,
    left: u64,
}

impl Batches<'_, '_> {
    /// How many lines the next batch has; no later one has more.
    fn longest(&self) -> usize {
        usize::try_from(self.left).unwrap_or(BATCH).min(BATCH)
    }

    /// The next lines in place of those in `lines`; false when the file is complete.
    fn next(&mut self, lines: &mut Vec<Line>) -> bool {
        lines.clear();
        lines.extend(self.plan.take(self.longest()));
        self.left = self.left.saturating_sub(u64::try_from(lines.len()).unwrap_or(u64::MAX));
        self.totals.count(lines);
        !lines.is_empty()
    }
}
