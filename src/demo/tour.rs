//! The tour: a month of bills, booked, delivered again and restated; a bucket that all customers
//! share; a budget that is overrun; billing; a meeting that is measured; and the audit.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use books::customers::by_hand::TurnAnswer;
use books::limits::budget::BudgetChange;
use books::units::calendar::Month;
use books::units::money::Currency;
use books::units::quantity::{Quantity, UNIT};
use books::usage::cost::CostColumn;
use fake_aws::Spec;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets::EnforceReport;
use jobs::ingest_cur::IngestCur;
use jobs::job::{Job, Mode};
use jobs::{enforce_budgets, roll_periods};

use super::generate::{share_bucket, spec_of, write_reports};
use super::meeting;
use super::shared;
use super::step::step;
use super::stripe;
use crate::config::{Config, CostMeterConfig, DatabaseConfig, ExportConfig, FormatConfig, StripeConfig};
use crate::exit::Exit;
use crate::health::MADE_BY_DEMO;
use crate::plan_file::PlanFile;
use crate::print;
use crate::wiring::{self, Open};

/// Customers of the bill that have no row, so that the tour shows what happens to their usage.
const UNKNOWN_CUSTOMERS: usize = 2;

/// Runs the tour in a folder.
pub(super) async fn run(folder: &Path, now: Timestamp) -> anyhow::Result<(Config, Exit)> {
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
        cost_meters: cost_meters(),
        shared_buckets: vec![shared::config(folder)],
        stripe: StripeConfig { meters: stripe::meters(), ..StripeConfig::default() },
        database: DatabaseConfig { url: folder.join("meter.db").display().to_string(), ..DatabaseConfig::default() },
        ..Config::default()
    };
    let mut spec = spec_of(month, now)?;
    let shared_bucket = share_bucket(&mut spec, shared::BUCKET)?;
    let books = wiring::open_books(&config, Open::MIGRATED).await?;
    // its Stripe account lives in this process only
    books.put_setting(MADE_BY_DEMO, "1".into()).await?;
    let context = wiring::context(&config, books).await?;
    let job = || IngestCur::new("demo", month);

    step(1, "AWS delivers the month so far, and meter books it");
    let export = fake_aws::write(&bucket, &spec)?;
    for customer in export.customers.iter().skip(UNKNOWN_CUSTOMERS) {
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

    step(5, "S3's reports say whose the gigabytes of the shared bucket are, and the bill is divided");
    write_reports(&shared_bucket, &folder.join(shared::REPORTS), (&spec, now))?;
    shared::read(&context, now).await?;
    ingest_and_show(job(), &context, &config, now).await?;
    shared::show(&context, now).await?;

    let who = plan_for_demo(&context, month, now).await?;
    budget_and_block(&context, &config, &who, now).await?;

    let restate = async || -> anyhow::Result<()> {
        fake_aws::write(&bucket, &Spec { restated: 2, ..spec })?;
        ingest_and_show(job(), &context, &config, now).await
    };
    stripe::bill(&context, &config, now, restate).await?;

    meeting::block(&context, now).await?;

    step(15, "the proof");
    let audit = context.books.verify().await?;
    print::audit::show(&audit);
    Ok((config, print::audit::exit(&audit)))
}

/// What AWS charges for each meter.
fn cost_meters() -> Vec<CostMeterConfig> {
    let cost = |name: &str, of: &str| CostMeterConfig {
        name: name.into(),
        cost_of: Some(of.into()),
        products: vec![],
        usage_types: vec![],
        line_types: vec![],
        amount_column: CostColumn::Unblended.name().into(),
    };
    vec![cost("chime_cost", "chime_minutes"), cost("storage_cost", "storage_gb"), cost("transfer_cost", "transfer_gb")]
}

/// Minutes, credentials and prices of the demo's plan, made to fit its bill: half of what the first
/// customer used is included.
async fn plan_for_demo(context: &Context, month: Month, now: Timestamp) -> anyhow::Result<String> {
    let usage = context.books.usage(month, None).await?;
    let chime = usage.iter().filter(|u| u.known && u.meter == "chime_minutes");
    let first = chime.max_by_key(|u| u.quantity).context("the demo's bill has Chime minutes")?;
    let half = Quantity::from_scaled(first.quantity.scaled() / UNIT / 2 * UNIT);
    step(6, "a plan, and a budget for what is beyond it");
    let toml = format!(
        "[[plans]]\nname = \"demo\"\ncurrency = \"USD\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         [plans.meters]\nturn_allocations = {{ included = \"3\" }}\n\
         chime_minutes = {{ included = \"{half}\", price = \"0.01\", report = \"overage\" }}\n\
         storage_gb = {{ included = \"5\" }}\ntransfer_gb = {{ included = \"100\" }}\n"
    );
    print::lines(&format!("{}\n", toml.trim_end()));
    let meters = ["chime_minutes", "storage_gb", "transfer_gb"].map(str::to_owned);
    let plans = PlanFile::read(Path::new("plans.toml"), toml, &meters).map_err(|faults| anyhow!("{faults:?}"))?.plans;
    context.books.apply_plans(plans, &meters, now).await?;
    context.books.put_all_on_plan("demo").await?;
    roll_periods::roll(&context.books, now, Mode::Write).await?;
    Ok(first.customer.clone())
}

/// A budget that is overrun, the block, the raise and the unblock.
async fn budget_and_block(context: &Context, config: &Config, who: &str, now: Timestamp) -> anyhow::Result<()> {
    let books = &context.books;
    let usd: Currency = "USD".parse()?;
    let set = async |minor: i64| -> anyhow::Result<EnforceReport> {
        let change = BudgetChange {
            customer: who.to_owned(),
            meter: String::new(),
            amount_minor: Some(minor),
            currency: usd,
            set_by: "demo".to_owned(),
        };
        books.set_budget(change, now).await?;
        print::out(&format!("$ meter budget set {who} {}", usd.written(minor)));
        print::out("$ meter run enforce-budgets");
        Ok(enforce_budgets::enforce(context, now, Mode::Write).await?)
    };
    let show = async || -> anyhow::Result<()> {
        let runs = print::decided::Runs::read(books, config, now).await?;
        print::entitlements::table(&books.entitlements(Some(who.to_owned())).await?, config, &runs);
        Ok(())
    };
    enforce_budgets::enforce(context, now, Mode::Write).await?;
    let decided = books.entitlements(Some(who.to_owned())).await?;
    let spent = decided.first().map_or(0, |e| e.overage_cost_minor);
    set(spent + 100).await?;
    show().await?;

    step(7, "TURN: the web backend asks before each credential; the limit holds at once, between two enforcements");
    let take = async || -> anyhow::Result<bool> {
        let TurnAnswer { granted, reason, used, limit } = books.take_turn(who).await?.context("no such customer")?;
        print::out(&format!("  {} ({used} of {limit} used): {reason}", if granted { "yes" } else { "NO " }));
        Ok(granted)
    };
    while take().await? {}

    step(8, "the customer lowers the budget: the next enforcement blocks what is beyond the plan");
    print::enforce::show(&set(spent / 2).await?, now);
    print::out("");
    print::out(&format!("$ meter explain-entitlement {who} chime_minutes"));
    print::entitlements::explain(books, who, "chime_minutes", config, now).await?;

    step(9, "the customer raises the budget, and goes on");
    set(spent + 1000).await?;
    show().await?;
    print::out("");
    print::out("$ meter notifications list");
    print::notifications::table(&books.notifications(None, Some(who.to_owned()), 20).await?, now);
    Ok(())
}

async fn ingest_and_show(job: IngestCur, context: &Context, config: &Config, now: Timestamp) -> anyhow::Result<()> {
    let report = job.run(context, now).await.map_err(|f| anyhow::anyhow!("{:#}", f.error()))?;
    print::ingest::show(&report, config);
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
