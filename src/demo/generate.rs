//! `meter demo generate`: one made-up bill in AWS's own layout, and the reports about a bucket that
//! all customers share.

use std::path::{Path, PathBuf};

use books::units::calendar::Month;
use clap::{Args as ClapArgs, ValueEnum};
use fake_aws::bucket::{BillState, BucketSpec, BucketWorld, LogDelivery, LogForm, WrittenReports};
use fake_aws::inventories::Form;
use fake_aws::{FileKind, Layout, Spec};
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;

#[derive(Debug, ClapArgs)]
pub(super) struct Generate {
    /// Folder in the place of a bucket
    folder: PathBuf,
    /// Month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Layout
    #[arg(long, value_enum, default_value_t = Kind::Cur2)]
    format: Kind,
    /// Kind of the data files
    #[arg(long, value_enum, default_value_t = Files::Parquet)]
    files_as: Files,
    /// Lines
    #[arg(long, default_value_t = 20_000)]
    rows: u64,
    /// Data files
    #[arg(long, default_value_t = 2)]
    files: u32,
    /// Customers
    #[arg(long, default_value_t = 40)]
    customers: u32,
    /// Seed of the random numbers; the same seed makes the same bill
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Replace the last delivery, as AWS does for exports that are set to overwrite
    #[arg(long)]
    overwrite: bool,
    /// Deliver the n-th restatement of the bill instead of its first version
    #[arg(long, default_value_t = 0, value_name = "N")]
    restated: u32,
    /// Bill a bucket that all customers share, too, and make S3's reports about it: Inventories in
    /// FOLDER/inventory/NAME/meter, access logs in FOLDER/access-logs; keys are c/{customer}/…, and
    /// the parameter of requests is x-cc
    #[arg(long, value_name = "NAME")]
    shared_bucket: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Legacy,
    Cur2,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Files {
    Parquet,
    Csv,
    CsvGz,
}

/// A bill of `month`; of the current month only the past days.
pub(super) fn spec_of(month: Month, now: Timestamp) -> anyhow::Result<Spec> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).day();
    let days = if month == Month::of(now) { u8::try_from(today - 1)?.max(1) } else { 31 };
    Ok(Spec { year: month.year(), month: u8::try_from(month.number())?, days, ..Spec::default() })
}

pub(super) fn run(args: &Generate, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let month = args.month.unwrap_or_else(|| Month::of(now));
    if args.files == 0 || args.rows == 0 || args.customers == 0 {
        return Err(BadUsage("--rows, --files and --customers must be at least 1".into()).into());
    }
    let mut spec = Spec {
        layout: match args.format {
            Kind::Legacy => Layout::Legacy,
            Kind::Cur2 => Layout::Cur2,
        },
        kind: match args.files_as {
            Files::Parquet => FileKind::Parquet,
            Files::Csv => FileKind::Csv,
            Files::CsvGz => FileKind::CsvGz,
        },
        rows: args.rows,
        files: args.files,
        customers: args.customers,
        seed: args.seed,
        restated: args.restated,
        create_new: !args.overwrite,
        tag_key: config.tag_keys().swap_remove(0),
        ..spec_of(month, now)?
    };
    let bucket = match &args.shared_bucket {
        Some(name) => Some(share_bucket(&mut spec, name)?),
        None => None,
    };
    if args.folder.is_file() {
        return Err(BadUsage(format!("{} is a file; name a folder", args.folder.display())).into());
    }
    let export = fake_aws::write(&args.folder, &spec)?;
    print::out(&format!(
        "{} lines in {} files; manifest {}",
        print::count(export.rows),
        export.files.len(),
        export.manifest.display()
    ));
    if let Some(bucket) = bucket {
        let (inventories, logs) = write_reports(&bucket, &args.folder, (&spec, now))?;
        print::out(&format!(
            "{} Inventories in {}; {} files of access logs in {}",
            inventories,
            args.folder.join("inventory").join(&bucket.spec().bucket).join("meter").display(),
            print::count(u64::try_from(logs)?),
            args.folder.join("access-logs").display()
        ));
    }
    Ok(Exit::Ok)
}

/// Puts the lines of a shared bucket into a bill: in its first version some days lack a part.
pub(super) fn share_bucket(spec: &mut Spec, name: &str) -> anyhow::Result<BucketWorld> {
    let world = BucketWorld::new(BucketSpec::beside(spec, name));
    let world = world.map_err(|error| BadUsage(format!("--shared-bucket: {error}")))?;
    let state = if spec.restated == 0 { BillState::First } else { BillState::Restated };
    spec.shared_bucket = Some(world.bill(state)?);
    Ok(world)
}

/// Writes what S3 has reported by `now`: late lines of access logs come with a restated bill.
pub(super) fn write_reports(
    world: &BucketWorld,
    folder: &Path,
    (spec, now): (&Spec, Timestamp),
) -> anyhow::Result<(usize, usize)> {
    let deliveries = if spec.restated == 0 { LogDelivery::First } else { LogDelivery::Late };
    let inventories = match spec.kind {
        FileKind::Parquet => Form::Parquet,
        FileKind::Csv | FileKind::CsvGz => Form::Csv,
    };
    let written = WrittenReports { until: now, inventories, logs: LogForm::ByEventTime, deliveries };
    world.write_reports(folder, written)
}
