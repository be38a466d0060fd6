//! `meter demo generate`: made-up bills in AWS's own layout, and the reports about a bucket that
//! all customers share.

use std::path::{Path, PathBuf};

use books::units::calendar::Month;
use clap::{Args as ClapArgs, ValueEnum};
use fake_aws::bucket::{BillState, BucketSpec, BucketWorld, LogDelivery, LogForm, WrittenReports};
use fake_aws::inventories::Form;
use fake_aws::{FileKind, Layout, Spec};
use jiff::Timestamp;

use crate::config::{Config, is_bucket_name};
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::visible;

/// Most months of one run.
const MOST_MONTHS: u8 = 24;

#[derive(Debug, ClapArgs)]
pub(super) struct Generate {
    /// Folder in the place of a bucket; with --bucket, one that holds buckets
    folder: PathBuf,
    /// Write into FOLDER/NAME, as S3 servers on a folder keep the bucket NAME
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Prefix of the export in the bucket
    #[arg(long, value_name = "PREFIX", default_value = "cur")]
    prefix: String,
    /// Key of the cost allocation tag [default: that of the configuration]
    #[arg(long, value_name = "KEY")]
    tag: Option<String>,
    /// Month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Months up to that one, each with its bill
    #[arg(long, value_name = "N", default_value_t = 1)]
    months: u8,
    /// Layout
    #[arg(long, value_enum, default_value_t = Kind::Cur2)]
    format: Kind,
    /// Kind of the data files
    #[arg(long, value_enum, default_value_t = Files::Parquet)]
    files_as: Files,
    /// Lines of a bill
    #[arg(long, default_value_t = 20_000)]
    rows: u64,
    /// Data files of a bill
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
    let root = bucket_folder(args)?;
    for month in months(args, month)? {
        bill(args, (&root, month), config, now)?;
    }
    if let Some(name) = &args.bucket {
        let prefix = args.prefix.trim_matches('/');
        print::out("Into a bucket, or a server of S3's on this machine with --endpoint-url:");
        print::out(&format!("  aws s3 sync {} s3://{name}", root.display()));
        print::out("Without one:");
        let tag = args.tag.as_ref().map_or(String::new(), |tag| format!(" --tag {tag}"));
        print::out(&format!("  meter init --bucket {}/{prefix}{tag}", as_folder(&root)));
    }
    Ok(Exit::Ok)
}

/// As `meter init` takes a folder.
fn as_folder(path: &Path) -> String {
    let shown = path.display();
    if path.is_absolute() || path.starts_with(".") || path.starts_with("..") {
        shown.to_string()
    } else {
        format!("./{shown}")
    }
}

/// The folder that stands for the bucket, once bucket and prefix are what S3 could have.
fn bucket_folder(args: &Generate) -> anyhow::Result<PathBuf> {
    let fault = |text: String| Err(BadUsage(text).into());
    if args.prefix.split('/').any(|part| part == ".." || part == ".") || args.prefix.contains("//") {
        return fault(format!("--prefix `{}` is no prefix of a bucket: write exports/meter", args.prefix));
    }
    if let Some(why) = args.tag.as_deref().and_then(Config::tag_key_fault) {
        return fault(format!("--tag: {why}"));
    }
    match &args.bucket {
        None => Ok(args.folder.clone()),
        Some(name) if is_bucket_name(name) && !name.starts_with('.') => Ok(args.folder.join(name)),
        Some(name) => fault(format!(
            "--bucket `{name}` is no bucket name: at least 3 of a-z, 0-9, `-`, `.` and `_`, such as my-billing-bucket"
        )),
    }
}

/// The months with a bill, oldest first.
fn months(args: &Generate, last: Month) -> anyhow::Result<Vec<Month>> {
    if !(1..=MOST_MONTHS).contains(&args.months) {
        return Err(BadUsage(format!("--months must be 1 to {MOST_MONTHS}, not {}", args.months)).into());
    }
    if args.months > 1 && args.shared_bucket.is_some() {
        let why = "--shared-bucket makes S3's reports of one month: leave --months away, and run it for each --month";
        return Err(BadUsage(why.into()).into());
    }
    Ok(last.back_to(args.months - 1))
}

/// Makes the bill of a month in the folder that stands for the bucket.
fn bill(args: &Generate, (root, month): (&Path, Month), config: &Config, now: Timestamp) -> anyhow::Result<()> {
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
        tag_key: args.tag.clone().unwrap_or_else(|| config.tag_keys().swap_remove(0)),
        prefix: args.prefix.clone(),
        ..spec_of(month, now)?
    };
    if let Some(name) = &args.bucket {
        spec.bucket.clone_from(name);
    }
    let bucket = match &args.shared_bucket {
        Some(name) => Some(share_bucket(&mut spec, name)?),
        None => None,
    };
    if root.is_file() {
        return Err(BadUsage(format!("{} is a file; name a folder", visible::path(root))).into());
    }
    let export = fake_aws::write(root, &spec)?;
    print::out(&format!(
        "{} lines in {} files; manifest {}",
        print::count(export.rows),
        export.files.len(),
        export.manifest.display()
    ));
    if let Some(bucket) = bucket {
        let (inventories, logs) = write_reports(&bucket, root, (&spec, now))?;
        print::out(&format!(
            "{} Inventories in {}; {} files of access logs in {}",
            inventories,
            root.join("inventory").join(&bucket.spec().bucket).join("meter").display(),
            print::count(u64::try_from(logs)?),
            root.join("access-logs").display()
        ));
    }
    Ok(())
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
