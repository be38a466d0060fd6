//! `meter run`: a job here and now, without the queue.

use books::limits::entitlement::Entitlement;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets::{self, EnforceBudgets, EnforceReport};
use jobs::job::{Job, Mode};
use jobs::roll_periods::{self, RollPeriods, RollPeriodsReport};
use serde_json::Value;

use super::enqueue::{self, What};
use super::entitlements::money;
use super::{BadUsage, Exit, print};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::wiring::{self, Open};
use crate::worker::{Kind, Kinds, RunOutcome, ValidatedPayload};

/// Which job.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    what: What,
    /// Only show what would change (ingest_cur, roll_periods, enforce_budgets)
    #[arg(long)]
    dry_run: bool,
    /// As if it were this instant (2026-03-01T00:00:00Z); one to come, and any for enforce_budgets,
    /// needs --dry-run
    #[arg(long, value_name = "INSTANT")]
    as_of: Option<Timestamp>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let Args { mut what, dry_run, as_of, json } = args;
    let kind = enqueue::kind_of(&Kinds::all(), &what.kind)?;
    // decisions of another time would stand as those of today
    if as_of.is_some_and(|at| at > now || kind.name == EnforceBudgets::KIND) && !dry_run {
        let what = if kind.name == EnforceBudgets::KIND { "another time" } else { "what is still to come" };
        return Err(BadUsage(format!("{what} can only be looked at: add --dry-run")).into());
    }
    if dry_run {
        match &what.payload {
            Some(_) => {
                return Err(BadUsage("--dry-run and --payload: write \"dry_run\": true into the payload".into()).into());
            }
            None => what.fields.push("dry_run=true".into()),
        }
    }
    let ValidatedPayload { payload, .. } = enqueue::payload(&kind, &what)?;
    let now = as_of.unwrap_or(now);
    let dry = serde_json::from_str::<Value>(&payload)?.get("dry_run") == Some(&Value::Bool(true));
    let books = if dry {
        wiring::open_books(config, Open::DRY_RUN).await?
    } else {
        wiring::open_books(config, Open::CREATE).await?
    };
    if !dry {
        books.migrate(now).await?;
    }
    let context = wiring::context(config, books).await?;
    match kind.name {
        RollPeriods::KIND if !json => roll_periods(&context, dry, now).await,
        EnforceBudgets::KIND if !json => enforce(&context, dry, now).await,
        _ => here(&kind, payload, context, now).await,
    }
}

/// Runs any job, and prints its report as JSON.
async fn here(kind: &Kind, payload: String, context: Context, now: Timestamp) -> anyhow::Result<Exit> {
    let metrics = Metrics::new(&[kind.name])?;
    match kind.run(payload, context, now, metrics).await {
        RunOutcome::Report { report, attention } => {
            print::json(&serde_json::from_str::<Value>(&report)?)?;
            Ok(if attention { Exit::NeedsAttention } else { Exit::Ok })
        }
        RunOutcome::Failed(failure) => {
            let advice = if failure.is_retryable() { " (the next run may succeed)" } else { "" };
            eprintln!("meter: {} failed{advice}: {:#}", kind.name, failure.error());
            Ok(Exit::Failed)
        }
        RunOutcome::HandedBack | RunOutcome::Cancelled | RunOutcome::Lost => Ok(Exit::Failed),
    }
}

fn done<J: Job>(report: &J::Report) -> Exit {
    if J::needs_attention(report) { Exit::NeedsAttention } else { Exit::Ok }
}

async fn roll_periods(context: &Context, dry_run: bool, now: Timestamp) -> anyhow::Result<Exit> {
    let report = roll_periods::roll_unless_restored(context, now, Mode::of(dry_run)).await?;
    show_rolled(&report, now);
    Ok(done::<RollPeriods>(&report))
}

/// What was closed, or would be.
pub(super) fn show_rolled(report: &RollPeriodsReport, now: Timestamp) {
    let would = if report.dry_run { "would be " } else { "" };
    if !report.counts.is_empty() {
        let row = |c: &roll_periods::ClosedTurnPeriod| {
            let limit = c.allowed_until.map_or("none".to_owned(), print::count);
            vec![c.customer.clone(), c.starts_at.to_string(), c.ends_at.to_string(), print::count(c.used), limit]
        };
        print::table(&["customer", "from", "to before", ">used", ">limit"], report.counts.iter().map(row).collect());
    }
    if report.awaits_subscriptions {
        print::out(
            "these books were restored from a backup: periods are closed when every subscription has been read again (`meter run sync-stripe`)",
        );
        return;
    }
    print::out(&format!(
        "as of {now:.0}: {} TURN count(s) {would}closed, {} period(s) {would}opened or given other bounds, for {} customer(s)",
        print::count(report.closed),
        print::count(report.opened),
        print::count(report.customers)
    ));
    if report.merged > 0 {
        print::out(&format!(
            "{} open period(s) {would}done away with by a changed subscription; their counts go to the period that takes their time",
            print::count(report.merged)
        ));
    }
    if report.overlapping_subscriptions > 0 {
        let names = report.overlapping_customers.join(", ");
        print::out(&format!("more than one subscription lives for {names}; the one that began last decides"));
    }
}

async fn enforce(context: &Context, dry_run: bool, now: Timestamp) -> anyhow::Result<Exit> {
    let report = enforce_budgets::enforce(context, now, Mode::of(dry_run)).await?;
    show_enforce(&report, now);
    Ok(done::<EnforceBudgets>(&report))
}

/// Who is blocked or unblocked, and what each decision rests on.
pub(super) fn show_enforce(report: &EnforceReport, now: Timestamp) {
    let would = if report.dry_run { "would be " } else { "" };
    let answer = |e: &Entitlement| if e.allowed { "allowed" } else { "BLOCKED" };
    let row = |c: &enforce_budgets::EntitlementChange| {
        let e = &c.is;
        let was = c.was.as_ref().map_or("new", answer);
        let limit = e.effective_limit.map_or("none".to_owned(), print::quantity);
        let cost = format!("{} of {}", money(e.overage_cost_minor, &e.currency), money(e.budget_minor, &e.currency));
        vec![
            e.customer.clone(),
            e.meter.clone(),
            format!("{was} -> {}", answer(e)),
            e.reason.name().to_owned(),
            print::quantity(e.used),
            print::quantity(e.included),
            limit,
            cost,
        ]
    };
    if !report.changes.is_empty() {
        let titles = ["customer", "meter", "decision", "reason", ">used", ">included", ">limit", ">overage of budget"];
        print::table(&titles, report.changes.iter().map(row).collect());
    }
    print::out(&format!(
        "as of {now:.0}: {} customer(s) looked at, {} {would}changed; {} meter(s) {would}blocked, {} {would}unblocked; {} not allowed in all",
        print::count(report.customers),
        print::count(report.changed),
        print::count(report.blocked),
        print::count(report.unblocked),
        print::count(report.not_allowed)
    ));
    let age =
        report.as_of.map(|at| format!("AWS has told of usage up to {at}, {} ago", print::span(now.duration_since(at))));
    print::out(&age.unwrap_or_else(|| "no bill with usage is booked: only TURN credentials are counted".to_owned()));
    let policy = |policy| serde_json::to_string(&policy).unwrap_or_default();
    let stale = report
        .on_stale
        .map(|p| format!("the bill is older than enforce.stale_after_hours; policy: {}", policy(p).trim_matches('"')));
    let notes = [
        (u64::from(stale.is_some()), stale.unwrap_or_default()),
        (
            report.without_period,
            "customer(s) without a current billing period: `meter run roll-periods` opens them".to_owned(),
        ),
        (report.unknown_plan, "customer(s) of a plan that is not known, for whom everything is blocked".to_owned()),
        (
            report.budget_in_other_currency,
            "customer(s) with a budget in another currency than the plan; it counts as none".to_owned(),
        ),
        (
            report.from_the_future,
            "customer(s) with decisions later than this worker's clock, left as they are: it is behind the database's"
                .to_owned(),
        ),
    ];
    if !report.unmetered.is_empty() {
        print::out(&format!("look at it: a plan has meters that are not configured: {}", report.unmetered.join(", ")));
    }
    for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
        print::out(&format!("look at it: {} {note}", print::count(*count)));
    }
}
