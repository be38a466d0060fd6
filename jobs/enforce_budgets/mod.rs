//! `enforce_budgets`: usage, plan, budget and payment status → what each customer may go on using.
//!
//! Constant work: every run looks at every customer, whatever has changed, so the next run finds
//! what one run missed. A change of usage, budget, plan or subscription is one code path.
//!
//! Customers are loaded page by page and judged by pure functions (`judge`, [`decide`]). The facts
//! about those whose entitlements would change are read again under the write lock. Where they are
//! the same, the judgement holds; the others are judged again. Entitlements are written with their
//! history, their TURN limits and their notifications in one transaction. So a run in which nothing
//! changed writes only that it ran, and concurrent runs, or the web backend beside a run, decide by
//! what is true when they write.
//!
//! Measurements are not among the facts that are compared. One that comes after its page was read
//! is for the next run, which reads it like every run: no decision is lost, and it is as if the
//! measurement had come a moment after the decision.

pub mod decide;
mod judge;
mod notifications;

use std::collections::BTreeMap;
use std::sync::Arc;

use books::store::connection::Connection;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::judge::{Judgement, RunInputs, judge};
use crate::context::{Context, OnStale};
use crate::job::{Failure, Job, Mode};
use books::limits::customer_facts::{self, CustomerFacts};
use books::limits::decisions::{NewDecisions, ObsoleteEntitlement, StoredNotifications, TurnLimit};
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::limits::settled::OpenUsage;
use books::store::error::BooksError;
use books::store::pace::Pace;
use books::units::calendar::CLOCK_SKEW;

/// Customers that are written in one transaction.
const CHUNK: Pace = Pace::new(400, 2000);
/// Customers and meters of a page: with few meters 2,000 customers, and a server's answer has at
/// most 10 MB.
const PAGE: usize = 12_000;
/// Changes that a stored report lists.
const STORED_CHANGES: usize = 20;

/// Decide for every customer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnforceBudgets {
    /// Only report what would change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// A decision that differs from the one before it.
#[derive(Clone, Debug, Serialize)]
pub struct EntitlementChange {
    /// None when there was no decision yet.
    pub was: Option<Entitlement>,
    pub is: Entitlement,
}

/// The report of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EnforceReport {
    /// True when nothing was written.
    pub dry_run: bool,
    /// Customers that were judged.
    pub customers: u64,
    /// Customers for whom something was written, or would be.
    pub changed: u64,
    /// Meters that were allowed, or not decided and in the plan, and are not allowed any more.
    pub blocked: u64,
    /// Meters that were not allowed and are now.
    pub unblocked: u64,
    /// Meters that are not allowed now.
    pub not_allowed: u64,
    /// Those of them that the customer's plan does not have.
    pub not_in_plan: u64,
    /// Notifications that will be sent.
    pub notifications: u64,
    /// Notifications that are recorded as known and not sent.
    pub not_sent: u64,
    /// Customers without a current billing period: `roll_periods` has to run first. Their
    /// entitlements stay.
    pub without_period: u64,
    /// Customers with decisions later than this worker's clock, which is behind the database's.
    /// Their entitlements stay.
    pub from_the_future: u64,
    /// Customers of an unknown plan, for whom everything is blocked.
    pub unknown_plan: u64,
    /// Customers with a budget in another currency than their plan. The budget does not count.
    pub budget_in_other_currency: u64,
    /// Meters that a plan has and the configuration has not: nothing new is booked for them.
    pub unmetered: Vec<String>,
    /// Until when usage is booked.
    pub as_of: Option<Timestamp>,
    pub freshness: Option<Freshness>,
    /// What happens to overage, when usage is stale.
    pub on_stale: Option<OnStale>,
    pub changes: Vec<EntitlementChange>,
}

impl EnforceReport {
    /// Keeps the first `listed` changes; the counts stay.
    pub fn truncate(&mut self, listed: usize) {
        self.changes.truncate(listed);
    }
}

impl Job for EnforceBudgets {
    const KIND: &'static str = "enforce_budgets";
    const DESCRIPTION: &'static str = "decide for every customer what may go on being used";
    type Report = EnforceReport;

    fn key(&self) -> Option<String> {
        Some(if self.dry_run { "enforce_budgets dry run".to_owned() } else { Self::KIND.to_owned() })
    }

    fn needs_attention(report: &EnforceReport) -> bool {
        let stale = report.on_stale.is_some_and(|policy| policy != OnStale::Keep);
        stale
            || !report.unmetered.is_empty()
            || report.unknown_plan > 0
            || report.budget_in_other_currency > 0
            || report.from_the_future > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<EnforceReport, Failure> {
        let mut run = Run::begin(context, now, Mode::of(self.dry_run)).await?;
        while run.next_page().await? {
            // page by page: at the start of a month, every decision of every customer changes
            run.report.truncate(STORED_CHANGES);
        }
        let report = run.finish().await?;
        if let Some(policy) = report.on_stale {
            let as_of = report.as_of.map_or("nothing".to_owned(), |at| at.to_string());
            tracing::warn!(?policy, "the bill is stale: what is booked reaches up to {as_of}");
        }
        Ok(report)
    }
}

/// Decides for every customer as of `now`, and lists every change.
/// After an error, customers that were written stay written; the next run goes on.
pub async fn enforce(context: &Context, now: Timestamp, mode: Mode) -> Result<EnforceReport, BooksError> {
    let mut run = Run::begin(context, now, mode).await?;
    while run.next_page().await? {}
    run.finish().await
}

/// What the next run would change: for one customer, or for all. Writes nothing.
pub async fn preview(context: &Context, customer: Option<String>, now: Timestamp) -> Result<EnforceReport, BooksError> {
    let Some(customer) = customer else { return enforce(context, now, Mode::DryRun).await };
    let mut run = Run::begin(context, now, Mode::DryRun).await?;
    run.next = vec![customer];
    run.next_page().await?;
    Ok(run.report)
}

/// A run on its way through the customers.
struct Run<'a> {
    context: &'a Context,
    mode: Mode,
    inputs: Arc<RunInputs>,
    report: EnforceReport,
    /// The customers of the next page.
    next: Vec<String>,
    pace: Pace,
}

/// A customer for whom something is to be written.
#[derive(Debug)]
struct Candidate {
    customer: String,
    facts: CustomerFacts,
    judgement: Judgement,
}

/// The facts about a page of customers.
struct Page {
    /// The newest booked version from before usage was summed.
    newest_version: i64,
    facts: BTreeMap<String, CustomerFacts>,
    /// The customers of the page after it.
    next: Vec<String>,
}

impl<'a> Run<'a> {
    async fn begin(context: &'a Context, now: Timestamp, mode: Mode) -> Result<Self, BooksError> {
        context.books.require_migrated().await?;
        let inputs = Arc::new(RunInputs::load(context, now, mode).await?);
        let is_stale = inputs.freshness == Freshness::Stale || inputs.too_old;
        let report = EnforceReport {
            dry_run: mode == Mode::DryRun,
            unmetered: inputs.unmetered.iter().cloned().collect(),
            as_of: inputs.as_of,
            freshness: Some(inputs.freshness),
            on_stale: is_stale.then_some(context.enforcement.on_stale),
            ..EnforceReport::default()
        };
        let limit = page(&inputs);
        let next = context.books.with_connection(async move |c| customer_facts::ids_after(c, "", limit).await).await?;
        Ok(Self { context, mode, inputs, report, next, pace: CHUNK })
    }

    /// Decides for the next page of customers; false when there is none.
    async fn next_page(&mut self) -> Result<bool, BooksError> {
        let Some(last) = self.next.last().cloned() else { return Ok(false) };
        let Page { newest_version, facts, next } = self.load(last).await?;
        self.next = next;
        let mut rest = self.preview(facts);
        while self.mode == Mode::Write && !rest.is_empty() {
            let start = Instant::now();
            let later = rest.split_off(self.pace.rows().min(rest.len()));
            let (some, inputs) = (std::mem::replace(&mut rest, later), Arc::clone(&self.inputs));
            let rows = some.len();
            let write = async move |c: &Connection| write(c, some, newest_version, &inputs).await;
            let stored = self.context.books.transaction(write).await?;
            self.report.notifications += stored.to_send;
            self.report.not_sent += stored.not_sent;
            self.pace.learn(rows, start);
        }
        Ok(true)
    }

    /// Keeps that every customer was looked at.
    async fn finish(self) -> Result<EnforceReport, BooksError> {
        if self.mode == Mode::Write {
            self.context.books.keep_enforcement(self.inputs.run.clone()).await?;
        }
        Ok(self.report)
    }

    async fn load(&mut self, last: String) -> Result<Page, BooksError> {
        let (ids, inputs) = (std::mem::take(&mut self.next), Arc::clone(&self.inputs));
        let load = self.context.books.with_connection(async move |c| {
            let stored = customer_facts::read(c, &ids, &inputs.meters, &inputs.open, inputs.now.as_second());
            let next = customer_facts::ids_after(c, &last, page(&inputs));
            let (stored, next) = tokio::try_join!(stored, next)?;
            let facts = customer_facts::complete(c, stored.customers, &inputs.open).await?;
            Ok(Page { newest_version: stored.newest_version, facts, next })
        });
        load.await
    }

    /// Judges and counts customers; returns those for whom something would be written. Pure.
    fn preview(&mut self, loaded: BTreeMap<String, CustomerFacts>) -> Vec<Candidate> {
        let report = &mut self.report;
        let mut candidates = vec![];
        for (customer, facts) in loaded {
            report.customers += 1;
            if self.mode == Mode::Write && is_from_the_future(&facts, &self.inputs) {
                report.from_the_future += 1;
                continue;
            }
            let Some(judgement) = judge(&customer, &facts, &self.inputs) else {
                report.without_period += 1;
                continue;
            };
            report.unknown_plan += u64::from(judgement.plan_is_unknown);
            report.budget_in_other_currency += u64::from(judgement.other_currency);
            for e in judgement.entitlements.iter().filter(|e| !e.allowed) {
                report.not_allowed += 1;
                report.not_in_plan += u64::from(matches!(e.reason, Reason::NotInPlan | Reason::UnknownPlan));
            }
            if is_settled(&judgement, &facts, &self.inputs) {
                continue;
            }
            report.changed += u64::from(!judgement.changes_nothing(&facts));
            for is in &judgement.entitlements {
                let was = facts.decided.get(&is.meter);
                if was.is_some_and(|was| !is.decision_differs(was)) {
                    continue;
                }
                if notifications::answer_changed(was, is) {
                    let count = if is.allowed { &mut report.unblocked } else { &mut report.blocked };
                    *count += 1;
                }
                report.changes.push(EntitlementChange { was: was.cloned(), is: is.clone() });
            }
            candidates.push(Candidate { customer, facts, judgement });
        }
        candidates
    }
}

/// True when nothing is to be written for a customer.
fn is_settled(judgement: &Judgement, facts: &CustomerFacts, inputs: &RunInputs) -> bool {
    judgement.changes_nothing(facts) && !judgement.entitlements.iter().any(|e| inputs.watch.has_news(e))
}

/// True when a decision is later than the worker's clock and not later than the database's. One
/// that is later than both was made by a clock that was wrong and is right again; it is judged
/// anew.
fn is_from_the_future(facts: &CustomerFacts, inputs: &RunInputs) -> bool {
    let is_after = |e: &Entitlement, now: Timestamp| e.decided_at.duration_since(now) > CLOCK_SKEW;
    facts.decided.values().any(|e| is_after(e, inputs.now) && !is_after(e, inputs.latest))
}

/// Customers of a page. An open day of a measured meter needs a part of a meter's place.
fn page(inputs: &RunInputs) -> u32 {
    let open_days = inputs.open.meters.len() * inputs.open.days.len().min(31);
    u32::try_from(PAGE / (inputs.meters.len() + 3 + open_days / 14)).unwrap_or(u32::MAX).max(1)
}

/// Writes what is to change for candidates, by what is true under the write lock. Returns how many
/// notifications are new.
async fn write(
    c: &Connection,
    candidates: Vec<Candidate>,
    newest_version: i64,
    inputs: &RunInputs,
) -> Result<StoredNotifications, BooksError> {
    let now = inputs.now.as_second();
    let ids: Vec<String> = candidates.iter().map(|candidate| candidate.customer.clone()).collect();
    let stored = customer_facts::read(c, &ids, &[], &OpenUsage::default(), now).await?;
    // `change` must differ for every block of a meter. The time of the decision tells apart blocks
    // of different seconds, the place in the history those of one second. The place alone would
    // not do: books that were restored from a backup give out the same places again
    let change = now * 4096 + (stored.newest_change + 1).rem_euclid(4096);
    let same_ledger = stored.newest_version == newest_version;
    let stored: BTreeMap<String, String> = stored.customers.into_iter().map(|s| (s.id, s.facts)).collect();
    let is_same = |known: &Candidate| same_ledger && stored.get(&known.customer) == Some(&known.facts.stored);
    let (mut judged, moved): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_same);
    if !moved.is_empty() {
        judged.extend(judge_again(c, moved, inputs).await?);
    }
    let mut decisions = NewDecisions::default();
    for Candidate { customer, facts, judgement } in &judged {
        let before = |e: &Entitlement| facts.decided.get(&e.meter);
        let differs = |e: &&Entitlement| before(e).is_none_or(|was| !was.same_except_time(e));
        let is_new = |e: &&Entitlement| before(e).is_none_or(|was| e.decision_differs(was));
        decisions.entitlements.extend(judgement.entitlements.iter().filter(differs));
        decisions.changed.extend(judgement.entitlements.iter().filter(is_new));
        decisions.obsolete.extend(judgement.obsolete.iter().map(|meter| ObsoleteEntitlement { customer, meter }));
        decisions.turn_limits.extend(judgement.turn.iter().map(|limit| TurnLimit {
            customer,
            starts_at: limit.starts_at,
            allowed_until: limit.allowed_until,
            reason: limit.reason,
        }));
        let made = &mut decisions.notifications;
        for e in &judgement.entitlements {
            made.extend(notifications::of_meter(before(e), e, &inputs.watch, change));
        }
        made.extend(notifications::of_budget(&facts.decided, &judgement.entitlements, &inputs.watch));
    }
    decisions.store(c, now).await
}

/// Judges customers about whom something changed, by what is stored now.
async fn judge_again(c: &Connection, moved: Vec<Candidate>, inputs: &RunInputs) -> Result<Vec<Candidate>, BooksError> {
    let ids: Vec<String> = moved.into_iter().map(|candidate| candidate.customer).collect();
    let stored = customer_facts::read(c, &ids, &inputs.meters, &inputs.open, inputs.now.as_second()).await?;
    let mut judged = vec![];
    for (customer, facts) in customer_facts::complete(c, stored.customers, &inputs.open).await? {
        let Some(judgement) = judge(&customer, &facts, inputs) else { continue };
        if !is_settled(&judgement, &facts, inputs) {
            judged.push(Candidate { customer, facts, judgement });
        }
    }
    Ok(judged)
}
