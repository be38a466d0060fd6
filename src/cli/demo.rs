//! `meter demo`: a made-up month of AWS bills, booked, delivered again, restated, and proven.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bills::{FileKind, Layout, Spec};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use jiff::Timestamp;
use jobs::books::period::Month;
use jobs::ingest_cur::IngestCur;
use jobs::job::{Context, Job};

use super::{BadUsage, Done, ingest, print, verify};
use crate::config::{Config, ExportConfig, FormatConfig};
use crate::wiring;

/// Customers of the demo that have no row, to show what becomes of their usage.
const STRANGERS: usize = 2;

/// Where the demo lives.
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Keep everything in this new or empty folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Only make a bill, in AWS's own layout
    Generate(Generate),
}

/// A bill to make.
#[derive(Debug, ClapArgs)]
struct Generate {
    /// Folder that stands for the bucket
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
    /// Seed; the same seed gives the same bill
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Write over the last delivery, as AWS does for exports that are set to overwrite
    #[arg(long)]
    overwrite: bool,
    /// Deliver the n-th restatement of the bill instead of its first version
    #[arg(long, default_value_t = 0, value_name = "N")]
    restated: u32,
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

/// A bill of `month`; of the current month only the days that are over.
fn spec_of(month: Month, now: Timestamp) -> anyhow::Result<Spec> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).day();
    let days = if month == Month::of(now) { u8::try_from(today - 1)?.max(1) } else { 31 };
    Ok(Spec { year: month.year(), month: u8::try_from(month.number())?, days, ..Spec::default() })
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Done> {
    match (args.action, args.keep) {
        (Some(Action::Generate(generate)), _) => make(&generate, config, now),
        (None, None) => {
            let folder = tempfile::tempdir().context("a temporary folder is needed")?;
            show(folder.path(), now, false).await
        }
        (None, Some(folder)) => {
            if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(BadUsage(format!("{} is not empty; name a new folder", folder.display())).into());
            }
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            show(&folder, now, true).await
        }
    }
}

fn make(args: &Generate, config: &Config, now: Timestamp) -> anyhow::Result<Done> {
    let month = args.month.unwrap_or_else(|| Month::of(now));
    if args.files == 0 || args.rows == 0 || args.customers == 0 {
        return Err(BadUsage("--rows, --files and --customers must be at least 1".into()).into());
    }
    let spec = Spec {
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
        tag_key: config.tag_key.clone(),
        ..spec_of(month, now)?
    };
    let export = bills::write(&args.folder, &spec)?;
    print::out(&format!(
        "{} lines in {} files; manifest {}",
        print::count(export.rows),
        export.files.len(),
        export.manifest.display()
    ));
    Ok(Done::Well)
}

async fn show(folder: &Path, now: Timestamp, kept: bool) -> anyhow::Result<Done> {
    let month = Month::of(now);
    let bucket = folder.join("bucket");
    let config = Config {
        exports: vec![ExportConfig {
            name: "demo".into(),
            location: bucket.display().to_string(),
            format: FormatConfig::Auto,
            payer: "default".into(),
            region: None,
            endpoint: None,
        }],
        database: crate::config::DatabaseConfig {
            url: folder.join("meter.db").display().to_string(),
            ..crate::config::DatabaseConfig::default()
        },
        ..Config::default()
    };
    let spec = spec_of(month, now)?;
    let books = wiring::open_books(&config).await?;
    books.migrate(now).await?;
    let context = wiring::context(&config, books).await?;
    let job = || IngestCur {
        export: "demo".into(),
        month,
        dry_run: false,
        accept_restatement: false,
        allow_unknown_line_types: false,
    };

    step(1, "AWS delivers the month so far, and meter books it");
    let export = bills::write(&bucket, &spec)?;
    for customer in export.customers.iter().skip(STRANGERS) {
        context.books.add_customer(customer).await?;
    }
    ingest_and_show(job(), &context, &config, now).await?;

    step(2, "the same bill again: nothing changes, no data file is read");
    ingest_and_show(job(), &context, &config, now).await?;

    step(3, "AWS restates the bill; first a dry run, then the differences are appended to the ledger");
    bills::write(&bucket, &Spec { restated: 1, ..spec })?;
    ingest_and_show(IngestCur { dry_run: true, ..job() }, &context, &config, now).await?;
    let before = ledger_entries(&context).await?;
    ingest_and_show(job(), &context, &config, now).await?;
    let added = ledger_entries(&context).await? - before;
    print::out(&format!(
        "  {} entries stand as they were, {} were appended",
        print::count(before),
        print::count(added)
    ));

    step(4, "the books: the customers who used most of each meter");
    show_usage(&context, &config, month).await?;

    step(5, "the proof");
    let done = verify::audit(&context.books, false).await?;
    if kept {
        std::fs::write(folder.join("meter.toml"), toml::to_string_pretty(&config)?)?;
        print::out(&format!(
            "\nGo on with: meter --config {} usage|versions|discover|ingest",
            folder.join("meter.toml").display()
        ));
    } else {
        print::out("\n`meter demo --keep FOLDER` keeps the bills and the books, to look around in.");
    }
    Ok(done)
}

fn step(number: u8, title: &str) {
    print::out(&format!("\n{number}. {title}\n"));
}

async fn ingest_and_show(job: IngestCur, context: &Context, config: &Config, now: Timestamp) -> anyhow::Result<()> {
    let report = job.run(context, now).await.map_err(|f| anyhow::anyhow!("{:#}", f.error()))?;
    ingest::show(&report, config);
    Ok(())
}

async fn ledger_entries(context: &Context) -> anyhow::Result<i64> {
    Ok(context.books.versions(None).await?.iter().map(|v| v.entries).sum())
}

async fn show_usage(context: &Context, config: &Config, month: Month) -> anyhow::Result<()> {
    let usage = context.books.usage(month, None).await?;
    let mut rows = vec![];
    for meter in &config.meters {
        let mut of_meter: Vec<_> = usage.iter().filter(|u| u.meter == meter.name).collect();
        of_meter.sort_by_key(|u| std::cmp::Reverse(u.quantity));
        let strangers = of_meter.iter().filter(|u| !u.known).copied();
        let chosen = of_meter.iter().filter(|u| u.known).take(3).copied().chain(strangers);
        rows.extend(chosen.map(|u| {
            let note = if u.known || u.customer.is_empty() { "" } else { "no customer row yet; kept for it" };
            let customer = format!("  {}", print::customer(&u.customer));
            vec![meter.name.clone(), customer, print::quantity(u.quantity), meter.unit.clone(), note.to_owned()]
        }));
    }
    print::table(&["meter", "  customer", ">quantity", "unit", ""], rows);
    Ok(())
}
