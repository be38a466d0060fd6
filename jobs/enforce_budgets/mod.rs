//! `enforce_budgets`: usage, plan, budget and payment status → what each customer may go on using.
//!
//! A run decides for those who are *due* ([`books::limits::due`]): something about them changed, or
//! the instant has come at which time alone changes the decision (`instants`). It looks at every
//! customer once a day, when plans or the configuration changed, and when a person asks for it. A
//! customer whom it then finds changed without having been due was missed, and it says so.
//!
//! Customers are taken and loaded page by page and judged by pure functions (`judge`, [`decide`]).
//! The facts about those whose entitlements would change are read again under the write lock. Where
//! they are the same, the judgement holds; the others are judged again. In a local file to which
//! nothing was written meanwhile they are the same, and so they are for those who were taken
//! because they were due and have not become due again: they are not read. Entitlements are written
//! with their history, their TURN limits, their notifications and the next instant in one
//! transaction. So concurrent runs, or the web backend beside a run, decide by what is true when
//! they write.
//!
//! Measurements are not among the facts that are compared: one that comes after its page was read
//! makes its customer due again.

mod changed_usage;
pub mod decide;
mod instants;
mod judge;
mod notifications;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use books::store::connection::{Connection, Sight};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use self::changed_usage::{ChangedAnswer, ChangedAnswers, PlannedUsage, changed_answers};
use self::judge::{Judgement, RunInputs, SinceLast, judge};
use crate::context::{Context, OnStale};
use crate::job::{Failure, Job, Mode};
use books::limits::customer_facts::{self, CustomerFacts};
use books::limits::decisions::{NewDecisions, ObsoleteEntitlement, StoredNotifications, TurnLimit};
use books::limits::due::{self, JudgedCustomer, NextDecision, Taken};
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::limits::settled::OpenUsage;
use books::store::error::BooksError;
use books::store::pace::Pace;
use books::units::calendar::CLOCK_SKEW;
use books::usage::difference::UsageChanges;

/// Customers that are written in one transaction.
const CHUNK: Pace = Pace::new(400, 2000);
/// Customers and meters of a page: with few meters 2,000 customers, and a server's answer has at
/// most 10 MB.
const PAGE: usize = 12_000;
/// Changes that a stored report lists.
const STORED_CHANGES: usize = 20;

/// Decide for the customers that are due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnforceBudgets {
    /// Only report what would change, for every customer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Which customers a run looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Everybody,
    /// Those who are due; everybody, when something changed for everybody or a day has passed.
    Due,
}

/// A decision that differs from the one before it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EntitlementChange {
    /// None when there was no decision yet.
    pub was: Option<Entitlement>,
    pub is: Entitlement,
}

/// The report of a run.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct EnforceReport {
    /// True when nothing was written.
    pub dry_run: bool,
    /// True when every customer was looked at.
    pub everybody: bool,
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
    /// Customers who had changed although nothing had made them due; the first of them by name.
    pub missed: u64,
    pub missed_customers: Vec<String>,
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
    const DESCRIPTION: &'static str = "decide for customers what may go on being used";
    const DUE: Option<&'static str> = Some(due::EARLIEST);
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
            || report.missed > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<EnforceReport, Failure> {
        let (mode, extent) = match self.dry_run {
            true => (Mode::DryRun, Extent::Everybody),
            false => (Mode::Write, Extent::Due),
        };
        let mut run = Run::begin(context, now, mode, extent).await?;
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
    let mut run = Run::begin(context, now, mode, Extent::Everybody).await?;
    while run.next_page().await? {}
    run.finish().await
}

/// What the next run would change: for one customer, or for all. Writes nothing.
pub async fn preview(context: &Context, customer: Option<String>, now: Timestamp) -> Result<EnforceReport, BooksError> {
    let Some(customer) = customer else { return enforce(context, now, Mode::DryRun).await };
    let mut run = Run::begin(context, now, Mode::DryRun, Extent::Everybody).await?;
    run.pages = Pages::Listed(vec![customer]);
    run.next_page().await?;
    Ok(run.report)
}

/// A run on its way through the customers.
struct Run<'a> {
    context: &'a Context,
    mode: Mode,
    inputs: Arc<RunInputs>,
    /// Usage that counts as booked; none but in a preview of a change.
    changes: Arc<UsageChanges>,
    report: EnforceReport,
    pages: Pages,
    pace: Pace,
}

/// The customers that a run has yet to look at.
enum Pages {
    /// All of them; these are the next ones.
    Listed(Vec<String>),
    /// Those who are due; so many pages were taken.
    Due(i64),
    Over,
}

/// A customer for whom something is to be written.
#[derive(Debug)]
struct Candidate {
    customer: String,
    facts: CustomerFacts,
    judgement: Judgement,
    /// What was stored as its instant, when it was taken.
    taken: i64,
}

impl Candidate {
    fn judged(&self) -> JudgedCustomer<'_> {
        let counted = self.facts.turn.iter().map(|period| period.used).sum();
        JudgedCustomer { customer: &self.customer, taken: self.taken, counted }
    }
}

/// The facts about a page of customers.
struct Page {
    read: ReadAt,
    facts: BTreeMap<String, CustomerFacts>,
    /// The customers of the page after it.
    next: Vec<String>,
}

/// Which state of the books the facts about a page were read from.
#[derive(Clone, Copy)]
struct ReadAt {
    /// The newest booked version from before usage was summed.
    newest_version: i64,
    /// From before anything was read. What the run decides about other customers of the page is
    /// left out.
    sight: Option<Sight>,
    /// All of them were due and are taken.
    taken: bool,
}

/// What a page has found: for whom something is to be written, when the others are due next, and
/// who was not due and would be decided otherwise.
#[derive(Default)]
struct Judged {
    candidates: Vec<Candidate>,
    others: Vec<NextDecision>,
    suspects: Vec<String>,
}

impl<'a> Run<'a> {
    async fn begin(context: &'a Context, now: Timestamp, mode: Mode, extent: Extent) -> Result<Self, BooksError> {
        context.books.require_migrated().await?;
        let inputs = RunInputs::load(context, now, mode, &[]).await?;
        Self::with(context, (mode, extent), inputs).await
    }

    async fn with(
        context: &'a Context,
        (mode, extent): (Mode, Extent),
        mut inputs: RunInputs,
    ) -> Result<Self, BooksError> {
        let is_stale = inputs.freshness == Freshness::Stale || inputs.too_old;
        let everybody = extent == Extent::Everybody || inputs.must_sweep();
        if everybody {
            inputs.run.swept_at = inputs.now;
        }
        let report = EnforceReport {
            dry_run: mode == Mode::DryRun,
            everybody,
            unmetered: inputs.unmetered.iter().cloned().collect(),
            as_of: inputs.as_of,
            freshness: Some(inputs.freshness),
            on_stale: is_stale.then_some(context.enforcement.on_stale),
            ..EnforceReport::default()
        };
        let is_measured = !inputs.open.meters.is_empty() && inputs.since_last == SinceLast::SettledDays;
        if mode == Mode::Write && is_measured {
            context.books.transaction(async |c| due::make_measured_due(c).await).await?;
        }
        let limit = page(&inputs);
        let pages = if everybody {
            let first = context.books.with_connection(async move |c| customer_facts::ids_after(c, "", limit).await);
            Pages::Listed(first.await?)
        } else {
            Pages::Due(0)
        };
        let (inputs, changes) = (Arc::new(inputs), Arc::default());
        Ok(Self { context, mode, inputs, changes, report, pages, pace: CHUNK })
    }

    /// Decides for the next page of customers; false when there is none.
    async fn next_page(&mut self) -> Result<bool, BooksError> {
        let taken = self.take().await?;
        if taken.stored.is_empty() {
            return Ok(false);
        }
        let decided = self.decide(&taken).await;
        if decided.is_err() && !taken.due.is_empty() {
            // the next try has them at once; if this fails as well, after their lease
            let give_back = async move |c: &Connection| due::give_back(c, &taken).await;
            drop(self.context.books.with_connection(give_back).await);
        }
        decided.map(|()| true)
    }

    /// Decides for those that were taken.
    async fn decide(&mut self, taken: &Taken) -> Result<(), BooksError> {
        let Page { mut read, facts, next } = self.load(taken).await?;
        if let Pages::Listed(listed) = &mut self.pages {
            *listed = next;
        }
        let Judged { candidates: mut rest, others, suspects } = self.preview(facts, taken)?;
        if self.mode == Mode::DryRun {
            return Ok(());
        }
        self.look_at(suspects, taken).await?;
        while !rest.is_empty() {
            let start = Instant::now();
            let later = rest.split_off(self.pace.rows().min(rest.len()));
            let (some, inputs) = (std::mem::replace(&mut rest, later), Arc::clone(&self.inputs));
            let rows = some.len();
            let write = async move |c: &Connection| write(c, some, read, &inputs).await;
            let (stored, sight) = self.context.books.transaction(write).await?;
            read.sight = sight;
            self.report.notifications += stored.to_send;
            self.report.not_sent += stored.not_sent;
            self.pace.learn(rows, start);
        }
        if !others.is_empty() {
            self.context.books.with_connection(async move |c| due::store_next(c, &others).await).await?;
        }
        Ok(())
    }

    /// Takes the customers of the next page, before anything about them is read.
    async fn take(&mut self) -> Result<Taken, BooksError> {
        let (now, limit) = (self.inputs.now.as_second(), page(&self.inputs));
        match &mut self.pages {
            Pages::Over => Ok(Taken::default()),
            Pages::Listed(listed) => {
                let ids = std::mem::take(listed);
                if self.mode == Mode::DryRun || ids.is_empty() {
                    return Ok(Taken { stored: ids.into_iter().map(|id| (id, due::NEVER)).collect(), due: vec![] });
                }
                self.context.books.with_connection(async move |c| due::take_of(c, &ids, now).await).await
            }
            Pages::Due(pages) => {
                let page = *pages;
                *pages += 1;
                let take = async move |c: &Connection| due::take(c, now, page, limit).await;
                let taken = self.context.books.with_connection(take).await?;
                if u32::try_from(taken.stored.len()).is_ok_and(|n| n < limit) {
                    self.pages = Pages::Over;
                }
                Ok(taken)
            }
        }
    }

    /// Keeps what the run decided by.
    async fn finish(self) -> Result<EnforceReport, BooksError> {
        let mut run = self.inputs.run.clone();
        if self.report.everybody {
            run.missed = self.report.missed;
        }
        if self.mode == Mode::Write {
            self.context.books.keep_enforcement(run).await?;
        }
        Ok(self.report)
    }

    async fn load(&self, taken: &Taken) -> Result<Page, BooksError> {
        let ids: Vec<String> = taken.stored.keys().cloned().collect();
        let (inputs, is_listed) = (Arc::clone(&self.inputs), matches!(self.pages, Pages::Listed(_)));
        let changes = Arc::clone(&self.changes);
        let load = self.context.books.with_connection(async move |c| {
            let now = inputs.now.as_second();
            let sight = c.sight().await?;
            let stored = customer_facts::read(c, &ids, &inputs.meters, &inputs.open, now);
            let next = async {
                match ids.last().filter(|_| is_listed) {
                    Some(last) => customer_facts::ids_after(c, last, page(&inputs)).await,
                    None => Ok(vec![]),
                }
            };
            let (stored, next) = tokio::try_join!(stored, next)?;
            let mut facts = customer_facts::complete(c, stored.customers, &inputs.open, now).await?;
            for (customer, facts) in &mut facts {
                facts.change_usage(changes.of(customer), &inputs.meters, now)?;
            }
            let read = ReadAt { newest_version: stored.newest_version, sight, taken: !is_listed };
            Ok(Page { read, facts, next })
        });
        load.await
    }

    /// Counts who was missed: whoever is still not due, although the decision is another one. What
    /// changed after the page was taken has made its customer due.
    async fn look_at(&mut self, suspects: Vec<String>, taken: &Taken) -> Result<(), BooksError> {
        if suspects.is_empty() {
            return Ok(());
        }
        let now = self.inputs.now.as_second();
        let stored = self.context.books.with_connection(async move |c| due::read(c, &suspects).await).await?;
        for customer in stored
            .iter()
            .filter(|(id, at)| due::waits(**at, now) && taken.stored.get(*id) == Some(*at))
            .map(|(id, _)| id)
        {
            tracing::error!(customer, "{customer} was to be decided anew, and nothing had made the customer due");
            self.report.missed += 1;
            if self.report.missed_customers.len() < STORED_CHANGES {
                self.report.missed_customers.push(customer.clone());
            }
        }
        Ok(())
    }

    /// Judges and counts customers. Pure.
    fn preview(&mut self, loaded: BTreeMap<String, CustomerFacts>, taken: &Taken) -> Result<Judged, BooksError> {
        let report = &mut self.report;
        let due: BTreeSet<&String> = taken.due.iter().collect();
        let mut judged = Judged::default();
        for (customer, facts) in loaded {
            report.customers += 1;
            // what is decided is later than what this run knows; a later run takes the customer
            if self.mode == Mode::Write && is_from_the_future(&facts, &self.inputs) {
                report.from_the_future += 1;
                continue;
            }
            let at = taken.stored.get(&customer).copied().unwrap_or(due::NEVER);
            let next = |customer: String, due_at| NextDecision { customer, taken: at, due_at };
            let Some(judgement) = judge(&customer, &facts, &self.inputs)? else {
                report.without_period += 1;
                judged.others.push(next(customer, facts.next_bound));
                continue;
            };
            report.unknown_plan += u64::from(judgement.plan_is_unknown);
            report.budget_in_other_currency += u64::from(judgement.other_currency);
            for e in judgement.entitlements.iter().filter(|e| !e.allowed) {
                report.not_allowed += 1;
                report.not_in_plan += u64::from(matches!(e.reason, Reason::NotInPlan | Reason::UnknownPlan));
            }
            if is_settled(&judgement, &facts, &self.inputs) {
                if judgement.due_at != at {
                    judged.others.push(next(customer, judgement.due_at));
                }
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
            let nothing_for_all = self.inputs.since_last != SinceLast::Inputs;
            if nothing_for_all && !due.contains(&customer) && judgement.contradicts(&facts) {
                judged.suspects.push(customer.clone());
            }
            judged.candidates.push(Candidate { customer, facts, judgement, taken: at });
        }
        Ok(judged)
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
/// notifications are new, and what the next candidates of the page may find unchanged.
async fn write(
    c: &Connection,
    candidates: Vec<Candidate>,
    read: ReadAt,
    inputs: &RunInputs,
) -> Result<(StoredNotifications, Option<Sight>), BooksError> {
    let now = inputs.now.as_second();
    let untouched = read.sight.is_some() && read.sight == c.sight().await?;
    let mut ids: Vec<String> = match untouched {
        true => vec![],
        false => candidates.iter().map(|candidate| candidate.customer.clone()).collect(),
    };
    if read.taken && !ids.is_empty() {
        let judged: Vec<JudgedCustomer<'_>> = candidates.iter().map(Candidate::judged).collect();
        let unchanged = due::unchanged(c, &judged, now).await?;
        ids.retain(|id| !unchanged.contains(id));
    }
    let stored = customer_facts::read(c, &ids, &[], &OpenUsage::default(), now).await?;
    // `change` must differ for every block of a meter. The time of the decision tells apart blocks
    // of different seconds, the place in the history those of one second. The place alone would
    // not do: books that were restored from a backup give out the same places again
    let change = now * 4096 + (stored.newest_change + 1).rem_euclid(4096);
    let same_ledger = stored.newest_version == read.newest_version;
    let stored: BTreeMap<String, String> = stored.customers.into_iter().map(|s| (s.id, s.facts)).collect();
    let again: BTreeSet<String> = ids.into_iter().collect();
    let is_same = |known: &Candidate| {
        !again.contains(&known.customer) || same_ledger && stored.get(&known.customer) == Some(&known.facts.stored)
    };
    let (mut judged, moved): (Vec<_>, Vec<_>) = candidates.into_iter().partition(is_same);
    let mut decisions = NewDecisions::default();
    if !moved.is_empty() {
        let Judged { candidates, others, .. } = judge_again(c, moved, inputs).await?;
        judged.extend(candidates);
        decisions.next = others;
    }
    for Candidate { customer, facts, judgement, taken } in &judged {
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
            decided_until: limit.decided_until,
        }));
        let (customer, due_at) = (customer.clone(), judgement.due_at);
        decisions.next.push(NextDecision { customer, taken: *taken, due_at });
        let made = &mut decisions.notifications;
        for e in &judgement.entitlements {
            made.extend(notifications::of_meter(before(e), e, &inputs.watch, change)?);
        }
        made.extend(notifications::of_budget(&facts.decided, &judgement.entitlements, &inputs.watch)?);
    }
    let made = decisions.store(c, now).await?;
    Ok((made, if untouched { c.sight().await? } else { None }))
}

/// Judges customers about whom something changed, by what is stored now.
async fn judge_again(c: &Connection, moved: Vec<Candidate>, inputs: &RunInputs) -> Result<Judged, BooksError> {
    let taken: BTreeMap<String, i64> = moved.into_iter().map(|known| (known.customer, known.taken)).collect();
    let (ids, now) = (taken.keys().cloned().collect::<Vec<_>>(), inputs.now.as_second());
    let stored = customer_facts::read(c, &ids, &inputs.meters, &inputs.open, now).await?;
    let mut judged = Judged::default();
    for (customer, facts) in customer_facts::complete(c, stored.customers, &inputs.open, now).await? {
        let taken = taken.get(&customer).copied().unwrap_or(due::NEVER);
        match judge(&customer, &facts, inputs)? {
            Some(judgement) => judged.candidates.push(Candidate { customer, facts, judgement, taken }),
            None => judged.others.push(NextDecision { customer, taken, due_at: facts.next_bound }),
        }
    }
    Ok(judged)
}
