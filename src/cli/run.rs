//! `meter run`: runs a job in this process, without the queue.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets::{self, EnforceBudgets};
use jobs::ingest_cur::{CheckMonths, IngestCur};
use jobs::job::{Job, Mode};
use jobs::push_stripe::PushStripe;
use jobs::roll_periods::{self, RollPeriods, RollPeriodsReport};
use serde_json::Value;

use super::payload::{self, JobArgs};
use super::{failure, select};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::format::counted;
use crate::metrics::Metrics;
use crate::print::{self, OutputFormat};
use crate::wiring::{self, Open};
use crate::worker::{Kind, Kinds, RunOutcome, ValidatedPayload};

/// Kinds with a dry run.
const DRY: [&str; 4] = [IngestCur::KIND, RollPeriods::KIND, EnforceBudgets::KIND, PushStripe::KIND];

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Only show what would change (ingest_cur, roll_periods, enforce_budgets)
    #[arg(long)]
    dry_run: bool,
    /// Run as of this instant (2026-03-01T00:00:00Z). A future one needs --dry-run, and so does any
    /// for enforce_budgets
    #[arg(long, value_name = "INSTANT", value_parser = super::instant::instant)]
    as_of: Option<Timestamp>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let Args { mut job, dry_run, as_of, json } = args;
    let kind = payload::kind(&Kinds::all(), &job.kind)?;
    // decisions of another time would be stored as those of today
    if as_of.is_some_and(|at| at > now || kind.name == EnforceBudgets::KIND) && !dry_run {
        let what = if kind.name == EnforceBudgets::KIND { "another time" } else { "the future" };
        let act = match DRY.contains(&kind.name) {
            true => "add --dry-run".to_owned(),
            false => format!("{} has no dry run", kind.name),
        };
        return Err(BadUsage(format!("{what} can only be shown: {act}")).into());
    }
    if dry_run {
        match &job.payload {
            Some(_) => {
                return Err(BadUsage("--dry-run and --payload: write \"dry_run\": true into the payload".into()).into());
            }
            None => job.fields.push("dry_run=true".into()),
        }
    }
    let ValidatedPayload { payload, .. } = payload::read(&kind, &job)?;
    let now = as_of.unwrap_or(now);
    let fields = serde_json::from_str::<Value>(&payload)?;
    let dry = fields.get("dry_run") == Some(&Value::Bool(true));
    if let Some(export) = fields.get("export").and_then(Value::as_str) {
        select::exports(config, Some(export))?;
    }
    if let Some(bucket) = fields.get("bucket").and_then(Value::as_str) {
        select::shared_buckets(config, Some(bucket))?;
    }
    let open = if dry { Open::DRY_RUN } else { Open::MIGRATED };
    let books = wiring::open_books(config, open).await?;
    let context = wiring::context(config, books.counted()).await?;
    match kind.name {
        RollPeriods::KIND if !json => roll_periods(&context, Mode::of(dry), now).await,
        // a person who asks wants more than what is due
        EnforceBudgets::KIND if json => {
            let report = enforce_budgets::enforce(&context, now, Mode::of(dry)).await?;
            let report_and_cost = counted(serde_json::to_string(&report)?, context.books.traffic());
            print::json(&serde_json::from_str::<Value>(&report_and_cost)?)?;
            Ok(done::<EnforceBudgets>(&report))
        }
        EnforceBudgets::KIND => enforce(&context, Mode::of(dry), now).await,
        CheckMonths::KIND if !json => check_months(&payload, &context, now).await,
        _ => here((&kind, payload), OutputFormat::of(json), context, now).await,
    }
}

/// Runs any job, and prints what its report says, or the report.
async fn here(
    (kind, payload): (&Kind, String),
    format: OutputFormat,
    context: Context,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let (metrics, books) = (Metrics::new(&[kind.name])?, context.books.clone());
    match kind.run(payload, context, now, metrics).await.counted(books.traffic()) {
        RunOutcome::Report { report, attention } => {
            let value = serde_json::from_str::<Value>(&report)?;
            match value.get("sentence").and_then(Value::as_str).filter(|_| format == OutputFormat::Text) {
                None => print::json(&value)?,
                Some(sentence) => {
                    print::out(&format!("{}: {sentence}", kind.name));
                    if attention {
                        // all that is known, for whoever must act
                        print::json(&value)?;
                    }
                    print::cost(&books);
                }
            }
            Ok(if attention { Exit::NeedsAttention } else { Exit::Ok })
        }
        RunOutcome::Failed(failure) => {
            anyhow::bail!("{} failed{}: {:#}", kind.name, failure::advice(&failure), failure.error())
        }
        RunOutcome::HandedBack | RunOutcome::Cancelled | RunOutcome::Lost => {
            anyhow::bail!("{} was stopped before its end", kind.name)
        }
    }
}

fn done<J: Job>(report: &J::Report) -> Exit {
    if J::needs_attention(report) { Exit::NeedsAttention } else { Exit::Ok }
}

async fn roll_periods(context: &Context, mode: Mode, now: Timestamp) -> anyhow::Result<Exit> {
    let report = roll_periods::roll_unless_restored(context, now, mode).await?;
    show_rolled(&report, now);
    print::cost(&context.books);
    Ok(done::<RollPeriods>(&report))
}

/// Prints what was closed, or would be.
fn show_rolled(report: &RollPeriodsReport, now: Timestamp) {
    let would = if report.dry_run { "would be " } else { "" };
    if !report.counts.is_empty() {
        let row = |c: &roll_periods::ClosedTurnPeriod| {
            let limit = c.allowed_until.map_or("none".to_owned(), print::count);
            vec![c.customer.clone(), c.starts_at.to_string(), c.ends_at.to_string(), print::count(c.used), limit]
        };
        print::table(&["customer", "from", "to before", ">used", ">limit"], report.counts.iter().map(row).collect());
    }
    if report.on_hold {
        print::out(
            "these books were restored from a backup: periods are closed when every subscription has been read again (`meter restore status`)",
        );
        return;
    }
    print::out(&format!(
        "as of {now:.0}: {} TURN count(s) {would}closed, {} {would}opened or given other bounds; billing periods of {} customer(s) looked at",
        print::count(report.closed),
        print::count(report.opened),
        print::count(report.customers)
    ));
    if report.merged > 0 {
        print::out(&format!(
            "{} open period(s) {would}removed because the subscription changed; their counts {would}merged into the period that now covers that time",
            print::count(report.merged)
        ));
    }
    if report.overlapping_subscriptions > 0 {
        let names = report.overlapping_customers.join(", ");
        print::out(&format!("{names}: several subscriptions are active; the one that began last decides"));
    }
}

async fn check_months(payload: &str, context: &Context, now: Timestamp) -> anyhow::Result<Exit> {
    let job: CheckMonths = serde_json::from_str(payload)?;
    let report = job.run(context, now).await.map_err(|f| failure::error(&f))?;
    print::months::show(&report);
    print::cost(&context.books);
    Ok(done::<CheckMonths>(&report))
}

async fn enforce(context: &Context, mode: Mode, now: Timestamp) -> anyhow::Result<Exit> {
    let report = enforce_budgets::enforce(context, now, mode).await?;
    print::enforce::show(&report, now);
    print::cost(&context.books);
    Ok(done::<EnforceBudgets>(&report))
}
