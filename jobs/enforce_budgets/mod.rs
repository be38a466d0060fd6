//! `enforce_budgets`: usage, plan, budget and payment status → who may go on using what.
//!
//! Constant work: every run looks at every customer, whatever has changed, so that what one run
//! missed the next one finds; a change of usage, of a budget, of a plan or of a subscription is one
//! code path. Customers are loaded page by page and judged by a pure function ([`decide::decide`]);
//! only those whose entitlements would change are loaded again under the write lock, judged again,
//! and written together with their history, their TURN limits and their notifications in one
//! transaction. So a run in which nothing changed writes nothing, and one that is beside another
//! run, or beside the backend, decides by what is true when it writes.

pub mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use self::decide::{CustomerCase, CustomerDecision, MeterCase, decide};
use crate::context::{Context, OnStale};
use crate::job::{Failure, Job};
use books::Database;
use books::limits::entitlement::{
    self, CustomerFacts, Entitlement, Freshness, ObsoleteEntitlement, PaymentStatus, PeriodUsage, Reason, TurnLimit,
    TurnRow, storable,
};
use books::limits::notification::{self, NewNotification, NotificationKind};
use books::limits::plan::{Plan, Plans, TURN};
use books::store::error::BooksError;
use books::units::calendar::instant;
use books::units::money::{Cost, Currency};
use books::units::quantity::{Quantity, UNIT};

/// Customers that are written in one transaction on a local file: few enough that the web backend
/// hardly waits for it.
const CHUNK: usize = 500;
/// The same over a network, where servers end transactions after seconds.
const REMOTE_CHUNK: usize = 100;
/// Changes that a stored report lists.
const SHOWN: usize = 20;
/// Clocks of several hosts differ by less than this.
const SKEW: SignedDuration = SignedDuration::from_secs(300);

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
    /// Before; none when there was no decision yet.
    pub was: Option<Entitlement>,
    pub is: Entitlement,
}

/// What was decided.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EnforceReport {
    /// True when nothing was written.
    pub dry_run: bool,
    /// Customers that were looked at.
    pub customers: u64,
    /// Customers for whom something was written, or would be.
    pub changed: u64,
    /// Meters that were allowed and are not any more.
    pub blocked: u64,
    /// Meters that were not allowed and are.
    pub unblocked: u64,
    /// Meters that are not allowed now.
    pub not_allowed: u64,
    pub notifications: u64,
    /// Customers without a current billing period: `roll_periods` has to run first. Their
    /// entitlements stay.
    pub without_period: u64,
    /// Customers whose decisions are later than this worker's clock, which is behind the
    /// database's. Their entitlements stay.
    pub from_the_future: u64,
    /// Customers of a plan that is not known: everything is blocked for them.
    pub unknown_plan: u64,
    /// Customers with a budget in another currency than their plan: it counts as none.
    pub budget_in_other_currency: u64,
    /// Meters that a plan has and the configuration has not: nothing new is booked for them.
    pub unmetered: Vec<String>,
    /// Up to when AWS has told of usage.
    pub as_of: Option<Timestamp>,
    pub freshness: Option<Freshness>,
    /// What is done about it, when it is stale.
    pub on_stale: Option<OnStale>,
    pub changes: Vec<EntitlementChange>,
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
        let report = enforce(context, now, self.dry_run, SHOWN).await?;
        if let Some(policy) = report.on_stale {
            let as_of = report.as_of.map_or("nothing".to_owned(), |at| at.to_string());
            tracing::warn!(?policy, "the bill is stale: what is booked reaches up to {as_of}");
        }
        Ok(report)
    }
}

/// What all decisions of a run share.
#[derive(Debug)]
struct RunInputs {
    plans: Plans,
    metered: Vec<String>,
    /// Meters whose usage is summed: also those that only plans name.
    meters: Vec<String>,
    /// Meters that a plan which holds has, and the configuration has not.
    unmetered: BTreeSet<String>,
    as_of: Option<Timestamp>,
    freshness: Freshness,
    too_old: bool,
    thresholds: Vec<u32>,
    now: Timestamp,
    /// The later one of our clock and the database's.
    latest: Timestamp,
}

impl RunInputs {
    async fn of(context: &Context, now: Timestamp, dry_run: bool) -> Result<Self, BooksError> {
        // a worker whose clock is ahead decides by the database's, so that no decision is ever from
        // the future
        let clock = context.books.clock().await?;
        let (now, latest) = if dry_run { (now, now.max(clock)) } else { (now.min(clock), now.max(clock)) };
        let policy = &context.enforcement;
        let told = context.books.usage_through().await?;
        let payers: BTreeSet<&str> = context.exports.values().map(|e| e.payer.as_str()).collect();
        // the oldest of what was told; a payer of whom no usage was ever booked says nothing about
        // the others
        let as_of = payers.iter().filter_map(|p| told.get(*p).copied()).min();
        let freshness = match as_of {
            None => Freshness::None,
            Some(at) if now.duration_since(at) > policy.stale_after => Freshness::Stale,
            Some(_) => Freshness::Fresh,
        };
        let blocks = policy.on_stale == OnStale::BlockOverage;
        let without_bill = payers.iter().any(|p| !told.contains_key(*p));
        let plans = context.books.plans().await?;
        let metered: BTreeSet<String> = context.read_settings.rules.meters.iter().map(|m| m.name.clone()).collect();
        let in_plans = plans.iter().flat_map(|p| p.meters.keys()).filter(|m| *m != TURN).cloned();
        let unmetered = plans.names().into_iter().filter_map(|name| plans.at(name, now.as_second()));
        let unmetered = unmetered.flat_map(|p| p.meters.keys()).filter(|m| *m != TURN && !metered.contains(*m));
        Ok(Self {
            unmetered: unmetered.cloned().collect(),
            metered: metered.iter().cloned().collect(),
            meters: metered.iter().cloned().chain(in_plans).collect::<BTreeSet<_>>().into_iter().collect(),
            plans,
            as_of,
            freshness,
            too_old: blocks && (freshness == Freshness::Stale || without_bill),
            thresholds: policy.thresholds.clone(),
            now,
            latest,
        })
    }
}

/// What is decided for one customer.
#[derive(Debug, Default)]
struct Judgement {
    entitlements: Vec<Entitlement>,
    /// TURN counters that get another limit: start of the period, limit, reason.
    turn: Vec<(i64, Option<i64>, &'static str)>,
    /// Meters that are no more.
    gone: Vec<String>,
    plan_is_unknown: bool,
    other_currency: bool,
}

impl Judgement {
    fn changes_nothing(&self, facts: &CustomerFacts) -> bool {
        self.turn.is_empty()
            && self.gone.is_empty()
            && self.entitlements.iter().all(|e| facts.decided.get(&e.meter).is_some_and(|was| was.same_except_time(e)))
    }
}

/// Decides for every customer as of `now`; lists at most `shown` changes.
///
/// # Errors
/// What the database says. What is written then stays; the next run goes on.
pub async fn enforce(
    context: &Context,
    now: Timestamp,
    dry_run: bool,
    shown: usize,
) -> Result<EnforceReport, BooksError> {
    let books = &context.books;
    books.require_migrated().await?;
    let inputs = Arc::new(RunInputs::of(context, now, dry_run).await?);
    let mut report = EnforceReport {
        dry_run,
        unmetered: inputs.unmetered.iter().cloned().collect(),
        as_of: inputs.as_of,
        freshness: Some(inputs.freshness),
        on_stale: (inputs.freshness == Freshness::Stale || inputs.too_old).then_some(context.enforcement.on_stale),
        ..EnforceReport::default()
    };
    let mut after = String::new();
    loop {
        let ids = books.customers_after(after).await?;
        let Some(last) = ids.last() else { break };
        after = last.clone();
        let (entry, changed) = look(books, ids, &inputs, &mut report, shown).await?;
        if dry_run {
            continue;
        }
        for some in changed.chunks(if books.is_local() { CHUNK } else { REMOTE_CHUNK }) {
            let (some, inputs) = (some.to_vec(), Arc::clone(&inputs));
            report.notifications += books.transaction(async move |c| write(c, &some, entry, &inputs).await).await?;
        }
    }
    Ok(report)
}

/// Customers for whom something would be written, and the usage that was summed for them.
type Changed = Vec<(String, PeriodUsage)>;

/// Judges a page of customers, counts, and returns those for whom something would be written; and
/// the newest entry of the ledger from before their usage was summed.
async fn look(
    books: &Database,
    ids: Vec<String>,
    inputs: &Arc<RunInputs>,
    report: &mut EnforceReport,
    shown: usize,
) -> Result<(i64, Changed), BooksError> {
    let (on, now) = (Arc::clone(inputs), inputs.now.as_second());
    let load = books.with_connection(async move |c| {
        let entry = entitlement::newest_entry(c).await?;
        let mut facts = entitlement::load_facts(c, &ids, now).await?;
        entitlement::add_usage(c, &mut facts, &ids, &on.meters, now).await?;
        Ok((entry, facts))
    });
    let (entry, loaded) = load.await?;
    let mut changed = vec![];
    for (customer, facts) in loaded {
        report.customers += 1;
        // one that neither clock has reached was made by a clock that is right again, and is judged
        // anew
        let is_after = |e: &Entitlement, now: Timestamp| e.decided_at.duration_since(now) > SKEW;
        let later = |e: &Entitlement| is_after(e, inputs.now) && !is_after(e, inputs.latest);
        if !report.dry_run && facts.decided.values().any(later) {
            report.from_the_future += 1;
            continue;
        }
        let Some(judgement) = judge(&customer, &facts, inputs) else {
            report.without_period += 1;
            continue;
        };
        report.unknown_plan += u64::from(judgement.plan_is_unknown);
        report.budget_in_other_currency += u64::from(judgement.other_currency);
        report.not_allowed += judgement.entitlements.iter().map(|e| u64::from(!e.allowed)).sum::<u64>();
        if judgement.changes_nothing(&facts) {
            continue;
        }
        for is in judgement.entitlements {
            let was = facts.decided.get(&is.meter);
            if was.is_some_and(|was| !is.decision_differs(was)) {
                continue;
            }
            report.blocked += u64::from(!is.allowed && was.is_some_and(|was| was.allowed));
            report.unblocked += u64::from(is.allowed && was.is_some_and(|was| !was.allowed));
            if report.changes.len() < shown {
                report.changes.push(EntitlementChange { was: was.cloned(), is });
            }
        }
        changed.push((customer, PeriodUsage { period: facts.period, usage: facts.usage }));
    }
    report.changed += u64::try_from(changed.len()).unwrap_or(u64::MAX);
    Ok((entry, changed))
}

/// Judges customers again, under the write lock, and writes what that says. Returns how many
/// notifications were made. Sums of usage are taken over while the ledger and the period are what
/// they were when `entry` was its newest entry; else they are summed again.
async fn write(
    c: &libsql::Connection,
    changed: &[(String, PeriodUsage)],
    entry: i64,
    inputs: &RunInputs,
) -> Result<u64, BooksError> {
    let now = inputs.now.as_second();
    let customers: Vec<String> = changed.iter().map(|(customer, _)| customer.clone()).collect();
    let mut loaded = entitlement::load_facts(c, &customers, now).await?;
    let same_ledger = entitlement::newest_entry(c).await? == entry;
    let mut again = vec![];
    for (customer, summed) in changed {
        let Some(facts) = loaded.get_mut(customer) else { continue };
        if same_ledger && facts.period == summed.period {
            facts.usage.clone_from(&summed.usage);
        } else {
            again.push(customer.clone());
        }
    }
    entitlement::add_usage(c, &mut loaded, &again, &inputs.meters, now).await?;
    // a block is no crossing of an amount: when it was decided tells it from the one before, and
    // the place in history from another of that second. Not the place alone: books that were
    // restored from a backup give out the same ones again
    let change = now * 4096 + (entitlement::newest_change(c).await? + 1).rem_euclid(4096);
    let (mut rows, mut gone, mut limits, mut notifications) = (vec![], vec![], vec![], vec![]);
    let judgements: BTreeMap<&str, Judgement> = loaded
        .iter()
        .filter_map(|(customer, facts)| Some((customer.as_str(), judge(customer, facts, inputs)?)))
        .filter(|(customer, judgement)| loaded.get(*customer).is_some_and(|a| !judgement.changes_nothing(a)))
        .collect();
    let before = |e: &Entitlement| loaded.get(&e.customer).and_then(|a| a.decided.get(&e.meter));
    for (customer, judgement) in &judgements {
        rows.extend(
            judgement.entitlements.iter().filter(|e| before(e).is_none_or(|was| !was.same_except_time(e))).cloned(),
        );
        gone.extend(judgement.gone.iter().map(|meter| ObsoleteEntitlement { customer, meter }));
        limits.extend(judgement.turn.iter().map(|(starts_at, allowed_until, reason)| TurnLimit {
            customer,
            starts_at: *starts_at,
            allowed_until: *allowed_until,
            reason,
        }));
        for e in &judgement.entitlements {
            notifications.extend(notifications_of(before(e), e, &inputs.thresholds, change));
        }
        let any = judgement.entitlements.first();
        notifications.extend(any.map(|e| budget_notifications(before(e), e, &inputs.thresholds)).unwrap_or_default());
    }
    let differ: Vec<&Entitlement> =
        rows.iter().filter(|e| before(e).is_none_or(|was| e.decision_differs(was))).collect();
    entitlement::store(c, &rows, &differ).await?;
    entitlement::remove(c, &gone).await?;
    entitlement::store_turn_limits(c, &limits).await?;
    notification::record(c, &notifications, now).await
}

/// Decides for one customer; none when there is no current billing period. Pure.
fn judge(customer: &str, facts: &CustomerFacts, inputs: &RunInputs) -> Option<Judgement> {
    let period = facts.period.as_ref()?;
    let (start, end) = (period.start, period.end);
    let payment = PaymentStatus::of(&facts.status, facts.subscription.as_deref());
    let plan = inputs.plans.at(&facts.plan, start);
    let counted = |row: &&TurnRow| row.starts_at <= start;
    let turn_used = facts.turn.iter().find(counted).map_or(0, |row| row.used);
    let names: BTreeSet<&str> = inputs
        .metered
        .iter()
        .map(String::as_str)
        .chain([TURN])
        .chain(plan.iter().flat_map(|p| p.meters.keys().map(String::as_str)))
        .collect();
    let used = |meter: &str| match meter {
        TURN => Quantity::from_scaled(i128::from(turn_used) * UNIT),
        meter => facts.usage.get(meter).copied().unwrap_or_default(),
    };
    let names: Vec<&str> = names.into_iter().collect();
    let case = case(facts, payment, plan, inputs.too_old, &names, used);
    let decided = decide(&case);
    let mut judgement = Judgement {
        entitlements: entitlements(customer, (start, end), &case, &decided, inputs),
        gone: facts.decided.keys().filter(|m| !names.contains(&m.as_str())).cloned().collect(),
        plan_is_unknown: plan.is_none(),
        other_currency: case.budget_in_other_currency,
        ..Judgement::default()
    };
    for row in &facts.turn {
        // periods to come start with nothing used
        let limit = if counted(&row) {
            names.iter().position(|n| *n == TURN).map(|at| (decided.meters[at].limit, decided.meters[at].stop))
        } else {
            let plan = inputs.plans.at(&facts.plan, row.starts_at);
            let later = self::case(facts, payment, plan, inputs.too_old, &[TURN], |_| Quantity::ZERO);
            decide(&later).meters.first().map(|d| (d.limit, d.stop))
        };
        let Some((limit, reason)) = limit else { continue };
        let (until, reason) = (limit.map(whole_units), reason.name());
        if (row.allowed_until, row.reason.as_str()) != (until, reason) {
            judgement.turn.push((row.starts_at, until, reason));
        }
    }
    Some(judgement)
}

/// The number of whole units at which a count reaches a limit.
fn whole_units(limit: Quantity) -> i64 {
    let units = (limit.scaled() + UNIT - 1).div_euclid(UNIT);
    i64::try_from(units).unwrap_or(i64::MAX)
}

fn case<'a>(
    facts: &CustomerFacts,
    payment: PaymentStatus,
    plan: Option<&Plan>,
    data_too_old: bool,
    names: &[&'a str],
    used: impl Fn(&str) -> Quantity,
) -> CustomerCase<'a> {
    let currency: Option<Currency> = plan.map(|p| p.currency);
    let other = |code: &String| currency.is_some_and(|c| c.to_string() != *code);
    let budget = |meter: &str| facts.budgets.get(meter).map(|b| b.amount_minor);
    CustomerCase {
        payment,
        currency,
        budget: budget(""),
        budget_in_other_currency: facts.budgets.values().any(|b| other(&b.currency)),
        data_too_old,
        meters: names
            .iter()
            .map(|meter| MeterCase {
                meter,
                terms: plan.and_then(|p| p.meters.get(*meter).copied()),
                used: used(meter),
                budget: budget(meter),
            })
            .collect(),
    }
}

fn entitlements(
    customer: &str,
    (start, end): (i64, i64),
    case: &CustomerCase<'_>,
    decided: &CustomerDecision,
    inputs: &RunInputs,
) -> Vec<Entitlement> {
    let minor = |cost: Cost| case.currency.map_or(0, |currency| cost.to_minor(currency));
    let counts = !case.budget_in_other_currency;
    let one = |(m, d): (&MeterCase<'_>, &decide::MeterDecision)| {
        let live = m.meter == TURN;
        Entitlement {
            customer: customer.to_owned(),
            meter: m.meter.to_owned(),
            period_start: instant(start),
            period_end: instant(end),
            allowed: d.allowed,
            reason: d.reason,
            used: storable(m.counted()),
            included: d.included,
            // a limit that is larger than any count can be is none
            effective_limit: d.limit.filter(|limit| !d.allowed || storable(*limit) == *limit).map(storable),
            overage_cost_minor: minor(decided.cost),
            meter_cost_minor: minor(d.cost),
            budget_minor: case.budget.filter(|_| counts).unwrap_or(0),
            meter_budget_minor: m.budget.filter(|_| counts),
            currency: case.currency.map(|c| c.to_string()).unwrap_or_default(),
            as_of: if live { None } else { inputs.as_of },
            freshness: if live { Freshness::Live } else { inputs.freshness },
            decided_at: inputs.now,
        }
    };
    case.meters.iter().zip(&decided.meters).map(one).collect()
}

/// A share of some amount that may be reached.
type Shares = [(NotificationKind, i128, i64); 2];

/// What a meter has used of its two amounts: the included one, and its own budget.
fn shares(e: &Entitlement) -> Shares {
    [
        (NotificationKind::IncludedUsed, e.used.scaled(), i64::try_from(e.included.scaled()).unwrap_or(i64::MAX)),
        (NotificationKind::BudgetUsed, i128::from(e.meter_cost_minor), e.meter_budget_minor.unwrap_or(0)),
    ]
}

fn is_reached(part: i128, whole: i64, percent: u32) -> bool {
    whole > 0 && part * 100 >= i128::from(whole) * i128::from(percent)
}

/// What the backend is told of a meter: crossings, and a change of the answer. What the decision
/// before had reached already was told then; should it be made again (a restated bill took usage
/// back and gave it again), the table of notifications keeps one of each.
fn notifications_of(
    was: Option<&Entitlement>,
    is: &Entitlement,
    thresholds: &[u32],
    change: i64,
) -> Vec<NewNotification> {
    let before = was.filter(|was| was.period_start == is.period_start).map(shares);
    let mut found = vec![];
    for (at, (kind, part, whole)) in shares(is).into_iter().enumerate() {
        let had = |percent| before.is_some_and(|b| b[at].2 == whole && is_reached(b[at].1, whole, percent));
        let crossed = thresholds.iter().filter(|p| is_reached(part, whole, **p) && !had(**p));
        found.extend(crossed.map(|p| new_notification(is, is.meter.clone(), kind, *p, whole)));
    }
    // before the first decision everything that the plan has was allowed
    let in_plan = !matches!(is.reason, Reason::NotInPlan | Reason::UnknownPlan);
    if was.map_or(in_plan, |was| was.allowed) != is.allowed {
        let kind = if is.allowed { NotificationKind::Unblocked } else { NotificationKind::Blocked };
        found.push(new_notification(is, is.meter.clone(), kind, 0, change));
    }
    found
}

/// What the backend is told of the budget for all meters; any entitlement of the customer knows it.
fn budget_notifications(was: Option<&Entitlement>, is: &Entitlement, thresholds: &[u32]) -> Vec<NewNotification> {
    let before = was.filter(|was| was.period_start == is.period_start && was.budget_minor == is.budget_minor);
    let reached = |e: &Entitlement, percent| is_reached(i128::from(e.overage_cost_minor), e.budget_minor, percent);
    let crossed = thresholds.iter().filter(|p| reached(is, **p) && !before.is_some_and(|was| reached(was, **p)));
    crossed.map(|p| new_notification(is, String::new(), NotificationKind::BudgetUsed, *p, is.budget_minor)).collect()
}

fn new_notification(
    e: &Entitlement,
    meter: String,
    kind: NotificationKind,
    percent: u32,
    base: i64,
) -> NewNotification {
    let mut data = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| drop(data.insert(name.to_owned(), value));
    put("customer", e.customer.clone().into());
    put("period_start", e.period_start.to_string().into());
    put("period_end", e.period_end.to_string().into());
    put("overage_cost_minor", e.overage_cost_minor.into());
    put("budget_minor", e.budget_minor.into());
    put("currency", e.currency.clone().into());
    if percent > 0 {
        put("percent", percent.into());
    }
    if !meter.is_empty() {
        put("meter", meter.clone().into());
        put("allowed", e.allowed.into());
        put("reason", e.reason.name().into());
        put("used", e.used.to_string().into());
        put("included", e.included.to_string().into());
        put("effective_limit", e.effective_limit.map(|l| l.to_string()).into());
        put("meter_cost_minor", e.meter_cost_minor.into());
        put("meter_budget_minor", e.meter_budget_minor.into());
    }
    NewNotification {
        customer: e.customer.clone(),
        meter,
        kind,
        period_start: e.period_start.as_second(),
        percent,
        base,
        data,
    }
}
