//! `push_stripe`: billing targets → meter events → Stripe, each event exactly once.
//!
//! Three steps, and a crash may interrupt each of them. *Planning*: for each customer, meter and
//! billing period, the billing target less everything that counts as sent becomes an event
//! ([`decide`]). `books/stripe/placement.rs` says which events count as sent. Planning is one
//! transaction, so two runs at the same time cannot plan the same amount twice. *Sending*: the
//! contents of an event were fixed before its first attempt, so every attempt has the same
//! identifier, and Stripe takes it once (`send`). *Settling*: an event without a clear answer is
//! unconfirmed and counts as sent. Stripe's own totals decide about it (`reconcile_stripe`).
//!
//! Only due customers are planned. Triggers and newly booked versions make a customer
//! due when something may have changed. `reconcile_stripe` makes every customer due once a day, in
//! case these missed a change.

pub mod bill;
mod changed_usage;
pub mod decide;
pub mod forecast_bill;
mod planner;
mod send;
pub mod simulate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use self::changed_usage::{ChangedBill, ChangedBills, changed_bills};
pub use self::decide::DeferReason;
pub use self::planner::PlannedEvent;
use self::planner::{MappedMeter, PlanInputs, PlanOutcome};
use self::send::{RunClock, SendStop, SendTally};
use crate::context::Context;
use crate::job::{Failure, Job, Mode};
use crate::stripe::preconditions::{check_clock, failure, find_meters};
use crate::stripe::{BillingSettings, LISTED, StripeAccount, StripeMode};
use books::limits::overage_billing::{self, OverageHistory};
use books::limits::plan::{Plans, ReportMode};
use books::store::pace::Pace;
use books::store::settings;
use books::stripe::billing_target::{self, Waiting};
use books::stripe::due::{self, Backlog, DueSince};
use books::stripe::meter_event;
use books::stripe::no_invoice::CustomerWithoutInvoice;
use books::stripe::restore::billing_hold;
use books::stripe::stripe_meter::StripeMeter;
use books::units::calendar::instant;
use books::{BooksError, Database};

/// Customers that are planned in one transaction.
const CHUNK: Pace = Pace::new(200, 2000);
/// Due customers that are looked up at once.
const DUE_AT_ONCE: u32 = 10_000;
/// Amounts above 0 that have been deferred for so many seconds need a person; a report counts them
/// for one day. Stripe takes events of the last 35 days.
const DEFERRED_TOO_LONG: i64 = 25 * 86_400;
const DAY: i64 = 86_400;
/// The setting with the [`planned_for`] of the last run.
const PLANNED_FOR: &str = "planned_for";
/// Seconds for which a billing period that is over is looked at for usage without an invoice: two
/// months, in which AWS restates a bill.
const LOOK_BACK: i64 = 62 * 86_400;

/// Plan and send meter events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushStripe {
    /// Plan, but write and send nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a run planned and sent.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct PushReport {
    /// True if nothing was written or sent, because a dry run was asked for or there is no key.
    pub dry_run: bool,
    /// Customers that were planned.
    pub customers: u64,
    /// Meter events that were stored as pending, or would be.
    pub planned: u64,
    pub attempts: u64,
    pub accepted: u64,
    /// Refused by Stripe, now or in an error report.
    pub refused: u64,
    /// Stripe may or may not have them: they are sent again, or Stripe's totals decide.
    pub unconfirmed: u64,
    /// Stripe certainly did not take them: they are sent again.
    pub retried: u64,
    /// Not sent before their invoice closed: their amounts are planned again.
    pub expired: u64,
    /// Deferred amounts of the planned customers, counted by reason.
    pub deferred: BTreeMap<DeferReason, u64>,
    /// Deferred amounts of all other customers, counted by reason, without those that a person has
    /// acknowledged.
    pub waiting: BTreeMap<DeferReason, u64>,
    /// Amounts above 0, of all customers, that have now been deferred for 25 days.
    pub deferred_too_long: u64,
    /// Numbers of events that were never sent, although Stripe already has their identifiers.
    /// Another program may be sending from a copy of these books.
    pub foreign: Vec<String>,
    /// Meters that are missing in the account, or not active there.
    pub missing_meters: Vec<String>,
    /// Meters that plans report and that are not mapped to a meter in Stripe: their usage is not
    /// billed.
    pub unmapped: Vec<String>,
    /// Customers with an unknown plan.
    pub unknown_plan: u64,
    /// Stripe's error reports that were read.
    pub error_reports: u64,
    pub stopped: Option<String>,
    /// When the backup was made, if nothing was planned or sent because billing of restored books
    /// is on hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_hold: Option<Timestamp>,
    /// Some of the planned events.
    pub events: Vec<PlannedEvent>,
    /// Of a preview: customers with usage that their plan bills and that no invoice can take.
    pub without_invoice: u64,
    /// Some of them.
    pub customers_without_invoice: Vec<CustomerWithoutInvoice>,
}

impl Job for PushStripe {
    const KIND: &'static str = "push_stripe";
    const DESCRIPTION: &'static str = "send metered usage to Stripe";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = PushReport;

    fn key(&self) -> Option<String> {
        Some(if self.dry_run { "push_stripe dry run".to_owned() } else { Self::KIND.to_owned() })
    }

    fn needs_attention(report: &PushReport) -> bool {
        let deferred = [
            DeferReason::Currency,
            DeferReason::SeveralItems,
            DeferReason::TooLarge,
            DeferReason::Refused,
            DeferReason::NoMeter,
        ];
        report.refused + report.deferred_too_long + report.unknown_plan > 0
            || report.on_hold.is_some()
            || !report.foreign.is_empty()
            || !report.missing_meters.is_empty()
            || !report.unmapped.is_empty()
            || deferred.iter().any(|why| report.deferred.contains_key(why) || report.waiting.contains_key(why))
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<PushReport, Failure> {
        let report = if self.dry_run {
            preview(&context.books, &context.billing, now).await?.truncated(LISTED)
        } else {
            push(&context.books, &context.billing, now).await?
        };
        if !report.foreign.is_empty() {
            let names = report.foreign.join(", ");
            tracing::error!(
                "Stripe has the identifiers of events that were never sent ({names}): does a copy of these books send too?"
            );
        }
        for (why, count) in &report.deferred {
            tracing::info!(reason = why.name(), count, "{count} amount(s) are deferred: {}", why.name());
        }
        if let Some(why) = &report.stopped {
            tracing::warn!("sending stopped early, the next run goes on: {why}");
        }
        Ok(report)
    }
}

impl PushReport {
    /// The report with at most `most` of the planned events.
    pub fn truncated(mut self, most: usize) -> Self {
        self.events.truncate(most);
        self
    }

    fn add_planned(&mut self, outcome: PlanOutcome) {
        self.customers += outcome.customers;
        self.planned += u64::try_from(outcome.events.len()).unwrap_or(u64::MAX);
        self.unknown_plan += outcome.unknown_plan;
        for (why, count) in outcome.deferred {
            *self.deferred.entry(why).or_default() += count;
        }
        self.events.extend(outcome.events);
    }
}

/// What a push as of `now` would plan, with every event. Writes nothing and sends nothing. With an
/// account it asks Stripe for its meters when a push would, and fails as a push would.
pub async fn preview(books: &Database, billing: &BillingSettings, now: Timestamp) -> Result<PushReport, Failure> {
    books.require_migrated().await?;
    let situation = Situation::read(books, billing, now).await?;
    let mut report =
        PushReport { dry_run: true, unmapped: unmapped(&situation.plans, billing, now), ..PushReport::default() };
    if billing.meters.is_empty() {
        return Ok(report);
    }
    if let StripeMode::Stripe(_) = &billing.mode {
        report.on_hold = situation.on_hold;
        if report.on_hold.is_some() {
            return Ok(report);
        }
    }
    let meters: Vec<String> = billing.meters.keys().cloned().collect();
    let mut backlog = situation.backlog;
    if situation.planned_for.as_ref() != Some(&planned_for(&situation.plans_fingerprint, billing)) {
        // the next run makes every customer due
        backlog.planned_version = 0;
    }
    let (second, names) = (now.as_second(), meters.clone());
    let planned = books.with_connection(async move |c| {
        tokio::try_join!(
            due::would_be_due(c, backlog, &names, second),
            due::waiting_of_others(c, backlog, &names, second)
        )
    });
    let (customers, waiting) = planned.await?;
    report.waiting = by_reason(waiting);
    // as a push, it asks Stripe when there is something to do; meters and items are known then, and
    // the plan is that of a push
    let (known, mode) = match &billing.mode {
        StripeMode::Stripe(account) if !customers.is_empty() || backlog.events => {
            (meters_of(account, books, billing, now).await?, Mode::Write)
        }
        _ => (books.stripe_meters().await?, Mode::DryRun),
    };
    let overage = OverageHistory::with(situation.overage, billing.overage, now);
    let inputs = plan_inputs(billing, &known, situation.plans, overage, mode);
    if mode == Mode::Write {
        report.missing_meters = inputs.missing_meters();
    }
    report.deferred_too_long = situation.waiting.since;
    let since = instant(now.as_second() - LOOK_BACK);
    let without = books.without_invoice(&inputs.plans, &meters, since, now).await?;
    report.without_invoice = u64::try_from(without.len()).unwrap_or(u64::MAX);
    report.customers_without_invoice = without.into_iter().take(LISTED).collect();
    let outcomes = books.with_connection(async move |c| {
        let mut outcomes = vec![];
        for some in customers.chunks(CHUNK.rows()) {
            outcomes.push(planner::preview(c, &inputs, some, second).await?);
        }
        Ok(outcomes)
    });
    for outcome in outcomes.await? {
        report.add_planned(outcome);
    }
    Ok(report)
}

/// Plans and sends as of `now`; without an account it is a [`preview`]. The report lists a few of
/// the planned events, because a first run may plan millions. Everything written before an error
/// stays, and the next run continues.
pub async fn push(books: &Database, billing: &BillingSettings, now: Timestamp) -> Result<PushReport, Failure> {
    let StripeMode::Stripe(account) = &billing.mode else {
        return Ok(preview(books, billing, now).await?.truncated(LISTED));
    };
    books.require_migrated().await?;
    let situation = Situation::read(books, billing, now).await?;
    let mut report = PushReport { unmapped: unmapped(&situation.plans, billing, now), ..PushReport::default() };
    if billing.meters.is_empty() {
        return Ok(report);
    }
    report.on_hold = situation.on_hold;
    if report.on_hold.is_some() {
        return Ok(report);
    }
    report.deferred_too_long = situation.waiting.since;
    report.waiting = by_reason(situation.waiting.by_reason.clone());
    let run = Push { books, billing, account, clock: RunClock::starts(now) };
    let overage = match situation.overage.as_ref().filter(|known| known.newest() == billing.overage) {
        Some(known) => known.clone(),
        None => books.note_overage_billing(billing.overage, now).await?,
    };
    let marked = run.mark_due(&situation).await?;
    let recovered = run.recover(&situation, &mut report, now).await?;
    let backlog = if marked || recovered { books.backlog(now).await? } else { situation.backlog };
    if !backlog.customers && !backlog.events {
        return Ok(report);
    }
    let inputs = Arc::new(run.inputs(overage).await?);
    report.missing_meters = inputs.missing_meters();
    run.plan_all(&inputs, &mut report).await?;
    let tally = send::send(books, account, run.clock).await?;
    add(&mut report, tally)?;
    Ok(report)
}

/// What a run reads first, in one request on a server.
struct Situation {
    plans: Plans,
    /// When the backup was made from which these books were restored, while billing is on hold.
    on_hold: Option<Timestamp>,
    overage: Option<OverageHistory>,
    plans_fingerprint: String,
    planned_for: Option<String>,
    backlog: Backlog,
    /// Whether there are events of earlier runs to recover.
    to_recover: bool,
    /// Deferred amounts, and those that have now been deferred for too long.
    waiting: Waiting,
}

impl Situation {
    async fn read(books: &Database, billing: &BillingSettings, now: Timestamp) -> Result<Self, BooksError> {
        let stale = match &billing.mode {
            StripeMode::Stripe(account) => now.as_second() - send::stale_after(account),
            StripeMode::DryRun => i64::MIN,
        };
        let (now, long_ago) = (now.as_second(), now.as_second() - DEFERRED_TOO_LONG);
        books
            .with_connection(async move |c| {
                let (plans, hold, overage, plans_fingerprint, planned_for, backlog, to_recover, waiting) = tokio::try_join!(
                    Plans::load(c),
                    billing_hold(c),
                    overage_billing::load(c),
                    due::plans_fingerprint(c),
                    settings::get(c, PLANNED_FOR),
                    due::backlog(c, now),
                    meter_event::to_recover(c, stale, now),
                    billing_target::waiting(c, long_ago - DAY, long_ago),
                )?;
                let on_hold = hold.map(|hold| hold.backup_at);
                Ok(Self {
                    plans,
                    on_hold,
                    overage,
                    plans_fingerprint,
                    planned_for,
                    backlog,
                    to_recover,
                    waiting,
                })
            })
            .await
    }
}

/// A run that plans and sends.
struct Push<'a> {
    books: &'a Database,
    billing: &'a BillingSettings,
    account: &'a StripeAccount,
    clock: RunClock,
}

impl Push<'_> {
    /// Makes customers due for changes without a trigger: newly booked versions, and a changed
    /// configuration. Returns whether there was one.
    async fn mark_due(&self, situation: &Situation) -> Result<bool, BooksError> {
        let (backlog, planned_for) = (situation.backlog, planned_for(&situation.plans_fingerprint, self.billing));
        if situation.planned_for.as_ref() != Some(&planned_for) {
            let version = backlog.newest_version.max(backlog.planned_version).to_string();
            let done = [settings::write(PLANNED_FOR, &planned_for), settings::write(due::PLANNED_VERSION, &version)];
            self.books.mark_all_due("", done.into()).await?;
            return Ok(true);
        }
        if backlog.newest_version <= backlog.planned_version {
            return Ok(false);
        }
        self.books.mark_due_for_bookings(backlog, self.billing.meters.keys().cloned().collect()).await?;
        Ok(true)
    }

    /// Reads Stripe's error reports, and recovers events of earlier runs. Returns whether there
    /// was anything to do.
    async fn recover(
        &self,
        situation: &Situation,
        report: &mut PushReport,
        now: Timestamp,
    ) -> Result<bool, BooksError> {
        if situation.backlog.reports {
            let done = self.books.read_error_reports(now).await?;
            report.error_reports += done.reports;
            report.refused += done.refused;
        }
        if situation.to_recover {
            let stale = now.as_second() - send::stale_after(self.account);
            report.expired = self.books.recover_events(stale, now).await?.expired;
        }
        Ok(situation.backlog.reports || situation.to_recover)
    }

    /// Reads the account's meters. Checks that it is the account that was used before, and that
    /// its clock agrees with this machine's.
    async fn inputs(&self, overage: OverageHistory) -> Result<PlanInputs, Failure> {
        let now = self.clock.now();
        let found = meters_of(self.account, self.books, self.billing, now).await?;
        let known = self.books.stripe_meters().await?;
        let new: Vec<StripeMeter> = found.iter().filter(|m| !known.contains(m)).cloned().collect();
        self.books.keep_stripe_meters(new, now).await?;
        // read after the fingerprint: customers are planned again for a plan that came in between
        let plans = self.books.plans().await?;
        Ok(plan_inputs(self.billing, &found, plans, overage, Mode::Write))
    }

    /// Plans all due customers, some in each transaction.
    async fn plan_all(&self, inputs: &Arc<PlanInputs>, report: &mut PushReport) -> Result<(), BooksError> {
        let mut pace = CHUNK;
        // more than that is too large for an answer of the server
        let mut most = usize::MAX;
        for round in 0_u64.. {
            let (due, waiting) = self.books.due(DUE_AT_ONCE, self.clock.now()).await?;
            let due: Arc<[DueSince]> = due.into();
            if round == 0 {
                report.waiting = by_reason(waiting);
            }
            let mut done = 0;
            while done < due.len() {
                let next = done..due.len().min(done + pace.rows().min(most));
                let (start, customers) = (Instant::now(), next.len());
                let (due, some) = (Arc::clone(&due), next.clone());
                let (inputs, now) = (Arc::clone(inputs), self.clock.now().as_second());
                let planned =
                    self.books.transaction(async move |c| planner::plan_due(c, &inputs, &due[some], now).await);
                match planned.await {
                    Err(BooksError::TooLarge(_)) if customers > 1 => most = customers / 2,
                    other => {
                        report.add_planned(other?);
                        report.events.truncate(LISTED);
                        pace.learn(customers, start);
                        done = next.end;
                    }
                }
            }
            if due.len() < usize::try_from(DUE_AT_ONCE).unwrap_or(usize::MAX) {
                break;
            }
        }
        Ok(())
    }
}

fn by_reason(counts: BTreeMap<String, u64>) -> BTreeMap<DeferReason, u64> {
    counts.into_iter().filter_map(|(name, count)| Some((DeferReason::named(&name)?, count))).collect()
}

/// The account's active meter for each mapped one. Checks that it is the account that was used
/// before, and that its clock agrees with this machine's.
async fn meters_of(
    account: &StripeAccount,
    books: &Database,
    billing: &BillingSettings,
    now: Timestamp,
) -> Result<Vec<StripeMeter>, Failure> {
    let (remote, date) = account.meters().await.map_err(failure)?;
    check_clock(date, now)?;
    find_meters(books, billing, &remote).await
}

fn plan_inputs(
    billing: &BillingSettings,
    found: &[StripeMeter],
    plans: Plans,
    overage: OverageHistory,
    mode: Mode,
) -> PlanInputs {
    let id = |name: &String| found.iter().find(|m| m.meter == *name).map(|m| m.stripe_id.clone());
    let meters = billing
        .meters
        .iter()
        .map(|(name, mapping)| (name.clone(), MappedMeter { mapping: mapping.clone(), stripe_id: id(name) }));
    PlanInputs { meters: meters.collect(), plans, overage, grace: billing.grace, mode }
}

/// Meters that a current plan reports and that are not mapped to a meter in Stripe.
fn unmapped(plans: &Plans, billing: &BillingSettings, now: Timestamp) -> Vec<String> {
    let current = plans.names().into_iter().filter_map(|name| plans.at(name, now.as_second()));
    let reported = current.flat_map(|p| p.meters.iter()).filter(|(_, t)| t.report != ReportMode::None).map(|(m, _)| m);
    let missing: BTreeSet<&String> = reported.filter(|m| !billing.meters.contains_key(*m)).collect();
    missing.into_iter().cloned().collect()
}

/// What concerns every customer when it changes: grace, mapping and plans.
fn planned_for(plans_fingerprint: &str, billing: &BillingSettings) -> String {
    let mapped = billing.meters.iter().map(|(name, m)| (name, format!("{}*{}", m.event_name, m.per_unit)));
    let mapped: BTreeMap<&String, String> = mapped.collect();
    serde_json::json!({ "meters": mapped, "grace": billing.grace, "plans": plans_fingerprint }).to_string()
}

fn add(report: &mut PushReport, tally: SendTally) -> Result<(), Failure> {
    report.attempts = tally.attempts;
    report.accepted = tally.accepted;
    report.refused += tally.refused;
    report.unconfirmed = tally.unconfirmed;
    report.retried = tally.retried;
    report.foreign = tally.foreign;
    match tally.stopped {
        None => Ok(()),
        Some(SendStop::Key(why)) => {
            Err(Failure::GiveUp(anyhow!("{why}; nothing is lost: correct METER_STRIPE__KEY and run again")))
        }
        Some(SendStop::Away(why, asked)) if report.accepted == 0 => {
            let why = anyhow!("sending stopped, and nothing is lost: {why}");
            Err(asked
                .map_or_else(|| Failure::Retry(anyhow!("{why}")), |wait| Failure::RetryAfter(wait, anyhow!("{why}"))))
        }
        Some(SendStop::Away(why, _)) => {
            report.stopped = Some(why);
            Ok(())
        }
    }
}
