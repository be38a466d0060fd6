//! `push_stripe`: what the books say → events → Stripe, each exactly once.
//!
//! Three steps, each of which a crash may cut short anywhere. *Planning*: in one transaction, for
//! each customer, meter and billing period, what the books say less all that was sent and is not
//! proven not received becomes an event (`plan`, [`decide`]); so two runs beside each other cannot
//! plan the same amount twice. *Sending*: what an event says was fixed before its first attempt, so
//! every repetition carries the same identifier, and Stripe takes it once (`send`). *Settling*:
//! what nobody can say of an attempt is unconfirmed, counts as sent, and is decided by Stripe's own
//! totals (`reconcile_stripe`).
//!
//! Only customers for whom something may have changed are looked at; triggers and the numbers of
//! ledger entries say who, and `reconcile_stripe` makes everybody due once a day in case they did
//! not.

pub mod decide;
mod plan;
mod send;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::decide::DeferReason;
pub use self::plan::PlannedEvent;
use self::plan::{MappedMeter, PlanInputs, SharedInputs};
use self::send::{RunClock, SendStop, SendTally};
use crate::job::{Context, Failure, Job};
use crate::stripe::preconditions::{check_clock, failure, match_meters};
use crate::stripe::{BillingSettings, LISTED, StripeAccount, StripeMode};
use books::limits::plan::ReportMode;
use books::stripe::billing_target::StripeMeter;
use books::units::calendar::instant;
use books::{BooksError, Database};

/// Customers that are planned in one transaction on a local file.
const CHUNK: u32 = 1000;
/// The same over a network.
const REMOTE_CHUNK: u32 = 100;
/// What would be billed and is deferred for longer than this is told to a person, for a day: Stripe
/// takes events of the last 35 days.
const DEFERRED_TOO_LONG: i64 = 25 * 86_400;
const DAY: i64 = 86_400;

/// Send what is to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushStripe {
    /// Only tell what would be sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What was sent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PushReport {
    /// True when nothing was sent or written, because it was asked for so or because there is no
    /// key.
    pub dry_run: bool,
    /// Customers whose totals were looked at.
    pub customers: u64,
    /// Meter events that were made, or would be.
    pub planned: u64,
    pub attempts: u64,
    pub accepted: u64,
    /// Refused by Stripe, now or in an error report.
    pub refused: u64,
    /// Nobody knows; they are sent again, or Stripe's totals decide.
    pub unconfirmed: u64,
    /// Not taken; they are sent again.
    pub again: u64,
    /// Too late for their invoice, and planned anew.
    pub expired: u64,
    /// Amounts that wait in the books, of the customers that were looked at, by reason.
    pub deferred: BTreeMap<DeferReason, u64>,
    /// Amounts to be billed that have waited for 25 days now, of all customers.
    pub deferred_too_long: u64,
    /// Meter events whose identifier Stripe had although nothing was sent under it: another program
    /// sends from a copy of these books?
    pub strange: Vec<String>,
    /// Meters that the account does not have, or that take no events.
    pub missing_meters: Vec<String>,
    /// Meters that plans report and that are mapped to none of Stripe's: their usage is billed
    /// nowhere.
    pub unmapped: Vec<String>,
    /// Customers of a plan that is not known.
    pub unknown_plan: u64,
    /// Error reports of Stripe that were read.
    pub error_reports: u64,
    pub stopped: Option<String>,
    /// That these books were restored from a backup, while something waits for it.
    pub restored: Option<RestoreProgress>,
    /// Some of what was planned.
    pub events: Vec<PlannedEvent>,
}

/// Books that were restored from a backup.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RestoreProgress {
    /// When the backup was made.
    pub backup_at: Timestamp,
    /// When Stripe's totals are believed.
    pub believed_at: Timestamp,
    /// Amounts that wait for it.
    pub waiting: u64,
}

impl Job for PushStripe {
    const KIND: &'static str = "push_stripe";
    const ABOUT: &'static str = "send metered usage to Stripe";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = PushReport;

    fn key(&self) -> Option<String> {
        Some(if self.dry_run { "push_stripe dry run".to_owned() } else { Self::KIND.to_owned() })
    }

    fn needs_a_person(report: &PushReport) -> bool {
        let deferred = [DeferReason::Currency, DeferReason::TooLarge, DeferReason::Refused, DeferReason::NoMeter];
        report.refused + report.deferred_too_long + report.unknown_plan > 0
            || !report.strange.is_empty()
            || !report.missing_meters.is_empty()
            || !report.unmapped.is_empty()
            || deferred.iter().any(|why| report.deferred.contains_key(why))
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<PushReport, Failure> {
        let report = push(context, now, self.dry_run, LISTED).await?;
        if !report.strange.is_empty() {
            let names = report.strange.join(", ");
            tracing::error!(
                "Stripe has the identifiers of events that were never sent ({names}): does a copy of these books send too?"
            );
        }
        for (why, count) in &report.deferred {
            tracing::info!(reason = why.name(), count, "{count} amount(s) wait: {}", why.name());
        }
        if let Some(why) = &report.stopped {
            tracing::warn!("sending stopped early, the next run goes on: {why}");
        }
        Ok(report)
    }
}

/// Plans and sends as of `now`; lists at most `shown` of what was planned.
///
/// # Errors
/// What Stripe or the database says. What was written then stays, and the next run goes on.
pub async fn push(context: &Context, now: Timestamp, dry_run: bool, shown: usize) -> Result<PushReport, Failure> {
    let (books, billing, clock) = (&context.books, &context.billing, RunClock::starts(now));
    books.require_migrated().await?;
    let account = match &billing.mode {
        StripeMode::Stripe(account) if !dry_run => account,
        StripeMode::Stripe(_) | StripeMode::DryRun => return tell(context, now, shown).await,
    };
    let mut report = PushReport { unmapped: unmapped(context, now).await?, ..PushReport::default() };
    if billing.meters.is_empty() {
        return Ok(report);
    }
    let mut begun = None;
    if books.restoration(now).await?.is_some_and(|r| !r.seen) {
        // by the right clock: the lost books are taken to have sent nothing later
        inputs(context, account, clock).await?;
        begun = books.begin_restored(billing.grace, now).await?;
    }
    if let Some((restoration, open)) = begun {
        let backup_at = instant(restoration.backup_at);
        tracing::warn!(
            %backup_at,
            open,
            "these books were restored from a backup of {backup_at}: what was sent since is taken over from Stripe's totals, \
             {open} open event(s) with it; nothing is sent for the periods that this concerns until then"
        );
    }
    wake(books, billing, now).await?;
    let waiting = books.unseen_entries(now).await?;
    if waiting.reports {
        let (read, refused) = books.read_error_reports(now).await?;
        report.error_reports += read;
        report.refused += refused;
    }
    let stale = now.as_second() - send::stale_after(account);
    report.expired = books.recover_events(stale, now).await?.expired;
    let long_ago = now.as_second() - DEFERRED_TOO_LONG;
    report.deferred_too_long = books.deferred_since(long_ago - DAY, long_ago).await?;
    let waiting = books.unseen_entries(now).await?;
    if !waiting.customers && !waiting.events {
        report.restored = restored(context, now, begun.is_some()).await?;
        return Ok(report);
    }
    let inputs = Arc::new(inputs(context, account, clock).await?);
    report.missing_meters = plan::missing(&inputs).into_iter().collect();
    plan_all(books, &inputs, clock, &mut report, shown).await?;
    report.restored = restored(context, now, begun.is_some()).await?;
    let tally = send::send(books, account, clock).await?;
    add(&mut report, tally)?;
    Ok(report)
}

/// What is to be told of a restoration: always when it has just been found, later while something
/// waits.
async fn restored(context: &Context, now: Timestamp, begun: bool) -> Result<Option<RestoreProgress>, BooksError> {
    let Some(found) = context.books.restoration(now).await? else { return Ok(None) };
    let waiting = context.books.restored_waiting().await?;
    let told = RestoreProgress {
        backup_at: instant(found.backup_at),
        believed_at: instant(found.at.saturating_add(context.billing.quiet)),
        waiting,
    };
    Ok((begun || waiting > 0).then_some(told))
}

/// Meters that a plan which holds now reports, and that are mapped to none of Stripe's.
async fn unmapped(context: &Context, now: Timestamp) -> Result<Vec<String>, BooksError> {
    let plans = context.books.plans().await?;
    let current = plans.names().into_iter().filter_map(|name| plans.at(name, now.as_second()));
    let reported = current.flat_map(|p| p.meters.iter()).filter(|(_, t)| t.report != ReportMode::None).map(|(m, _)| m);
    let missing: BTreeSet<&String> = reported.filter(|m| !context.billing.meters.contains_key(*m)).collect();
    Ok(missing.into_iter().cloned().collect())
}

/// Everything that makes customers due, but what triggers see.
async fn wake(books: &Database, billing: &BillingSettings, now: Timestamp) -> Result<(), BooksError> {
    let mapped: Vec<String> = billing.meters.iter().map(|(name, m)| format!("{name}={}", m.event_name)).collect();
    // another grace, other meters or other plans: everybody
    let mark = format!("{} {} {}", mapped.join(" "), billing.grace, books.plans_mark().await?);
    books.wake_all_when("planned_for", mark, String::new()).await?;
    let waiting = books.unseen_entries(now).await?;
    if waiting.entry > waiting.looked_at {
        books.wake_for_entries(waiting, billing.meters.keys().cloned().collect()).await?;
    }
    Ok(())
}

/// What would be planned; nothing is written, and nobody is asked.
async fn tell(context: &Context, now: Timestamp, shown: usize) -> Result<PushReport, Failure> {
    let billing = &context.billing;
    let unmapped = if billing.meters.is_empty() { vec![] } else { unmapped(context, now).await? };
    let mut report = PushReport { dry_run: true, unmapped, ..PushReport::default() };
    if billing.meters.is_empty() {
        return Ok(report);
    }
    let known: BTreeMap<String, String> =
        context.books.stripe_meters().await?.into_iter().map(|m| (m.meter, m.stripe_id)).collect();
    let targets = billing.meters.iter().map(|(name, mapping)| {
        (name.clone(), MappedMeter { mapping: mapping.clone(), stripe_id: known.get(name).cloned() })
    });
    let inputs =
        PlanInputs { meters: targets.collect(), plans: context.books.plans().await?, grace: billing.grace, dry: true };
    let entries = context.books.unseen_entries(now).await?;
    let inputs: SharedInputs = Arc::new(inputs);
    let outcome = preview_plans(&context.books, inputs, entries, now.as_second()).await?;
    take(&mut report, outcome, shown);
    report.restored = restored(context, now, false).await?;
    Ok(report)
}

/// Asks the account what it has, and makes sure that it is the one that was used before, and that
/// clocks agree.
async fn inputs(context: &Context, account: &StripeAccount, clock: RunClock) -> Result<PlanInputs, Failure> {
    let billing = &context.billing;
    let (remote, date) = account.meters().await.map_err(failure)?;
    let now = clock.now();
    check_clock(date, now)?;
    let known = context.books.stripe_meters().await?;
    let found = match_meters(billing, &known, &remote).map_err(|why| Failure::GiveUp(anyhow!(why)))?;
    let keep: Vec<StripeMeter> = found.iter().filter(|m| !known.contains(m)).cloned().collect();
    if !keep.is_empty() {
        context.books.keep_stripe_meters(keep, now).await?;
    }
    let id = |name: &String| found.iter().find(|m| m.meter == *name).map(|m| m.stripe_id.clone());
    let targets =
        billing.meters.iter().map(|(name, m)| (name.clone(), MappedMeter { mapping: m.clone(), stripe_id: id(name) }));
    Ok(PlanInputs { meters: targets.collect(), plans: context.books.plans().await?, grace: billing.grace, dry: false })
}

/// Plans for all who are due, some in each transaction.
async fn plan_all(
    books: &Database,
    inputs: &SharedInputs,
    clock: RunClock,
    report: &mut PushReport,
    shown: usize,
) -> Result<(), BooksError> {
    let limit = if books.is_local() { CHUNK } else { REMOTE_CHUNK };
    loop {
        let (inputs, now) = (Arc::clone(inputs), clock.now().as_second());
        let outcome = books.transaction(async move |c| plan::plan(c, &inputs, limit, now).await).await?;
        let more = outcome.more;
        take(report, outcome, shown);
        if !more {
            return Ok(());
        }
    }
}

fn take(report: &mut PushReport, outcome: plan::PlanOutcome, shown: usize) {
    report.customers += outcome.customers;
    report.planned += u64::try_from(outcome.events.len()).unwrap_or(u64::MAX);
    report.unknown_plan += outcome.unknown_plan;
    for (why, count) in outcome.deferred {
        *report.deferred.entry(why).or_default() += count;
    }
    let room = shown.saturating_sub(report.events.len());
    report.events.extend(outcome.events.into_iter().take(room));
}

fn add(report: &mut PushReport, tally: SendTally) -> Result<(), Failure> {
    report.attempts = tally.attempts;
    report.accepted = tally.accepted;
    report.refused += tally.refused;
    report.unconfirmed = tally.unconfirmed;
    report.again = tally.again;
    report.strange = tally.strange;
    match tally.stopped {
        None => Ok(()),
        Some(SendStop::Key(why)) => {
            Err(Failure::GiveUp(anyhow!("{why}; nothing is lost: mend METER_STRIPE__KEY and run again")))
        }
        Some(SendStop::Away(why, asked)) if report.accepted == 0 => {
            let why = anyhow!("Stripe cannot be reached, nothing is lost: {why}");
            Err(asked
                .map_or_else(|| Failure::Retry(anyhow!("{why}")), |wait| Failure::RetryAfter(wait, anyhow!("{why}"))))
        }
        Some(SendStop::Away(why, _)) => {
            report.stopped = Some(why);
            Ok(())
        }
    }
}

/// What would be planned for everybody who is due; writes nothing.
async fn preview_plans(
    books: &Database,
    inputs: SharedInputs,
    waiting: books::stripe::billing_target::UnseenEntries,
    now: i64,
) -> Result<plan::PlanOutcome, BooksError> {
    books
        .with_connection(async move |c| {
            let meters: Vec<String> = inputs.meters.keys().cloned().collect();
            let customers = books::stripe::billing_target::would_be_due(c, waiting, &meters, now).await?;
            let mut told = plan::PlanOutcome::default();
            for some in customers.chunks(1000) {
                let outcome = plan::plan_for(c, &inputs, some, now).await?;
                told.customers += outcome.customers;
                told.unknown_plan += outcome.unknown_plan;
                told.events.extend(outcome.events);
                for (why, count) in outcome.deferred {
                    *told.deferred.entry(why).or_default() += count;
                }
            }
            Ok(told)
        })
        .await
}
