//! `meter demo`: a made-up month of AWS bills, booked, delivered again, restated; a budget that is
//! overrun; and the proof.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use books::audit::stats::OF_A_DEMO;
use books::units::calendar::Month;
use books::units::money::Currency;
use books::units::quantity::{Quantity, UNIT};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use fake_aws::{FileKind, Layout, Spec};
use jiff::Timestamp;
use jobs::ingest_cur::IngestCur;
use jobs::job::{Context, Job};
use jobs::{enforce_budgets, roll_periods};
use libsql::params;

use super::run::show_enforce;
use super::{BadUsage, Exit, demo_stripe, entitlements, ingest, notifications, print, verify};
use crate::config::{Config, ExportConfig, FormatConfig};
use crate::wiring::{self, Open};

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
    /// Only run the made-up Stripe account, for a worker with the key sk_test_demo, until told to
    /// stop
    Stripe {
        /// Where
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:12111")]
        listen: std::net::SocketAddr,
    },
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

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match (args.action, args.keep) {
        (Some(Action::Generate(generate)), _) => make(&generate, config, now),
        (Some(Action::Stripe { listen }), _) => demo_stripe::serve(listen).await,
        (None, None) => {
            let folder = tempfile::tempdir().context("a temporary folder is needed")?;
            show(folder.path(), now, false).await
        }
        (None, Some(folder)) => {
            if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(BadUsage(format!("{} is not empty; name a new folder", folder.display())).into());
            }
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            // its configuration works from everywhere
            let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
            show(&folder, now, true).await
        }
    }
}

fn make(args: &Generate, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
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
    let export = fake_aws::write(&args.folder, &spec)?;
    print::out(&format!(
        "{} lines in {} files; manifest {}",
        print::count(export.rows),
        export.files.len(),
        export.manifest.display()
    ));
    Ok(Exit::Ok)
}

async fn show(folder: &Path, now: Timestamp, kept: bool) -> anyhow::Result<Exit> {
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
    let books = wiring::open_books(&config, Open::CREATE).await?;
    books.migrate(now).await?;
    // the account that it will bill in ends with it
    books.remember(OF_A_DEMO, "1".into()).await?;
    let context = wiring::context(&config, books).await?;
    let job = || IngestCur {
        export: "demo".into(),
        month,
        dry_run: false,
        accept_restatement: false,
        allow_unknown_line_types: false,
    };

    step(1, "AWS delivers the month so far, and meter books it");
    let export = fake_aws::write(&bucket, &spec)?;
    for customer in export.customers.iter().skip(STRANGERS) {
        context.books.add_customer(customer).await?;
    }
    ingest_and_show(job(), &context, &config, now).await?;

    step(2, "the same bill again: nothing changes, no data file is read");
    ingest_and_show(job(), &context, &config, now).await?;

    step(3, "AWS restates the bill; first a dry run, then the differences are appended to the ledger");
    fake_aws::write(&bucket, &Spec { restated: 1, ..spec.clone() })?;
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

    let who = plan_for_demo(&context, month, now).await?;
    budget_and_block(&context, &config, &who, now).await?;

    let restate = async || -> anyhow::Result<()> {
        fake_aws::write(&bucket, &Spec { restated: 2, ..spec })?;
        ingest_and_show(job(), &context, &config, now).await
    };
    demo_stripe::bill(&context, &config, month, now, restate).await?;

    step(13, "the proof");
    let done = verify::audit(&context.books, false).await?;
    if kept {
        std::fs::write(folder.join("meter.toml"), toml::to_string_pretty(&config)?)?;
        print::out(&format!(
            "\nGo on with: meter --config {} work|status|usage|versions|discover|entitlements|turn|notifications list",
            folder.join("meter.toml").display()
        ));
    } else {
        print::out("\n`meter demo --keep FOLDER` keeps the bills and the books, to look around in.");
    }
    Ok(done)
}

/// Minutes, credentials and prices of the demo's plan, made to fit its bill: half of what the first
/// customer used is included.
async fn plan_for_demo(context: &Context, month: Month, now: Timestamp) -> anyhow::Result<String> {
    let usage = context.books.usage(month, None).await?;
    let chime = usage.iter().filter(|u| u.known && u.meter == "chime_minutes");
    let first = chime.max_by_key(|u| u.quantity).context("the demo's bill has Chime minutes")?;
    let half = Quantity::from_scaled(first.quantity.scaled() / UNIT / 2 * UNIT);
    step(5, "a plan, and a budget for what is beyond it");
    let toml = format!(
        "[[plans]]\nname = \"demo\"\ncurrency = \"USD\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         [plans.meters]\nturn_allocations = {{ included = \"3\", price = \"0.45\" }}\n\
         chime_minutes = {{ included = \"{half}\", price = \"0.01\", report = \"overage\" }}\n\
         storage_gb = {{ included = \"5\" }}\ntransfer_gb = {{ included = \"100\" }}\n"
    );
    print::out(&format!("{}\n", toml.trim_end()));
    let meters = ["chime_minutes", "storage_gb", "transfer_gb"].map(str::to_owned);
    context.books.apply_plans(super::plan::read(&toml)?, &meters, false, now).await?;
    context.books.transaction(async |c| Ok(c.execute("UPDATE customers SET plan = 'demo'", ()).await?)).await?;
    roll_periods::roll(&context.books, now, false, 0).await?;
    Ok(first.customer.clone())
}

/// A budget that is overrun, the block, the raise and the unblock.
async fn budget_and_block(context: &Context, config: &Config, who: &str, now: Timestamp) -> anyhow::Result<()> {
    let books = &context.books;
    let usd: Currency = "USD".parse()?;
    let set = async |minor: i64| -> anyhow::Result<()> {
        books.set_budget(who, "", Some(minor), usd, "demo", now).await?;
        print::out(&format!("$ meter budget set {who} {}\n$ meter run enforce-budgets", usd.written(minor)));
        enforce_budgets::enforce(context, now, false, 0).await?;
        entitlements::table(&books.entitlements(Some(who.to_owned())).await?, config, now);
        Ok(())
    };
    enforce_budgets::enforce(context, now, false, 0).await?;
    let decided = books.entitlements(Some(who.to_owned())).await?;
    let spent = decided.first().map_or(0, |e| e.overage_cost_minor);
    set(spent + 100).await?;

    step(6, "TURN: the web backend asks before each credential; the limit holds at once, between two enforcements");
    let take = async || -> anyhow::Result<bool> {
        let id = who.to_owned();
        let row = books.with_connection(async move |c| {
            let mut rows = c.query(&statement("take_turn"), params![id, None::<i64>]).await?;
            let answer = match rows.next().await? {
                Some(row) => (row.get::<i64>(0)? == 1, row.get::<String>(1)?, row.get::<i64>(2)?, row.get::<i64>(3)?),
                None => (false, "no such customer".into(), 0, 0),
            };
            while rows.next().await?.is_some() {}
            Ok(answer)
        });
        let (granted, answer, used, limit) = row.await?;
        print::out(&format!("  {} ({used} of {limit} used): {answer}", if granted { "yes" } else { "NO " }));
        Ok(granted)
    };
    while take().await? {}

    step(7, "the next enforcement: the budget is spent, so whatever is beyond the plan is blocked");
    let report = enforce_budgets::enforce(context, now, false, usize::MAX).await?;
    show_enforce(&report, now);
    print::out(&format!("\n$ meter explain-entitlement {who} chime_minutes"));
    let explained = entitlements::ExplainArgs { customer: who.to_owned(), meter: "chime_minutes".into() };
    entitlements::explain_from(books, explained, config, now).await?;

    step(8, "the customer raises the budget, and goes on");
    set(spent + 1000).await?;
    take().await?;
    print::out("\n$ meter notifications list");
    notifications::table(&books.notifications(None, Some(who.to_owned()), 20).await?, now);
    Ok(())
}

/// A statement of the contract with the web backend, as it is printed there.
fn statement(name: &str) -> String {
    let page = include_str!("../../docs/backend-contract.md");
    let block = page.split(&format!("<!-- statement: {name} -->\n```sql\n")).nth(1).unwrap_or_default();
    block.split("```").next().unwrap_or_default().to_owned()
}

pub(super) fn step(number: u8, title: &str) {
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
        let unknown_customers = of_meter.iter().filter(|u| !u.known).copied();
        let chosen = of_meter.iter().filter(|u| u.known).take(3).copied().chain(unknown_customers);
        rows.extend(chosen.map(|u| {
            let note = if u.known || u.customer.is_empty() { "" } else { "no customer row yet; kept for it" };
            let customer = format!("  {}", print::customer(&u.customer));
            vec![meter.name.clone(), customer, print::quantity(u.quantity), meter.unit.clone(), note.to_owned()]
        }));
    }
    print::table(&["meter", "  customer", ">quantity", "unit", ""], rows);
    Ok(())
}
