//! From the facts about a customer to a judgement: what may be used, and what differs from what is
//! stored. Only [`RunInputs::load`] reads anything; [`judge`] is pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::decide::{CustomerCase, CustomerDecision, Grant, MeterCase, MeterDecision, decide};
use super::instants::{first_second, next_count};
use super::notifications::Watch;
use crate::context::{Context, OnStale};
use crate::job::Mode;
use crate::stripe::StripeMode;
use books::customers::billing_period;
use books::limits::customer_facts::{CurrentPeriod, CustomerFacts, TurnRow};
use books::limits::enforcement::{self, LastRun};
use books::limits::entitlement::{Entitlement, Freshness, PaymentStatus, Reason, storable};
use books::limits::open_usage::{MeasuredAdds, MeasuredUsage};
use books::limits::overage_billing::OverageBilling;
use books::limits::plan::{Plan, Plans, TURN};
use books::limits::rating::{Agreement, StretchUsage, rate};
use books::limits::settled::{NewestBill, OpenUsage, SettledDays, newest_bills, open_window, usage_through};
use books::measured::metered_day::MeteredDay;
use books::store::error::BooksError;
use books::store::rows;
use books::units::calendar::{CLOCK_SKEW, instant};
use books::units::money::Cost;
use books::units::quantity::{Quantity, UNIT};

/// What has changed for everybody since the run before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinceLast {
    /// Plans, configuration, the backup, or a day is open again: everybody may be decided
    /// otherwise.
    Inputs,
    /// Nothing but that a bill has settled days.
    SettledDays,
    Nothing,
}

/// Every customer is looked at so often.
const SWEEP: SignedDuration = SignedDuration::from_hours(24);

/// What all decisions of a run share.
#[derive(Debug)]
pub(super) struct RunInputs {
    plans: Plans,
    /// Meters of the configuration.
    metered: Vec<String>,
    /// Meters to sum the usage of: those of the configuration and those of plans.
    pub(super) meters: Vec<String>,
    /// Meters that a current plan has and the configuration has not.
    pub(super) unmetered: BTreeSet<String>,
    /// Which measured usage counts beside the bill.
    pub(super) open: OpenUsage,
    pub(super) as_of: Option<Timestamp>,
    pub(super) freshness: Freshness,
    /// Usage is so old that the policy allows no overage.
    pub(super) too_old: bool,
    pub(super) watch: Watch,
    /// What the books keep of this run, once it is over.
    pub(super) run: LastRun,
    pub(super) since_last: SinceLast,
    pub(super) now: Timestamp,
    /// The later one of the worker's clock and the database's.
    pub(super) latest: Timestamp,
}

impl RunInputs {
    /// `planned` are versions of bills that count as booked; none but in a preview of a change.
    pub(super) async fn load(
        context: &Context,
        now: Timestamp,
        mode: Mode,
        planned: &[NewestBill],
    ) -> Result<Self, BooksError> {
        let shared = context.books.with_connection(async |c| {
            let ran = async { tokio::try_join!(enforcement::read(c), enforcement::restored(c)) };
            tokio::try_join!(rows::clock(c), newest_bills(c), Plans::load(c), ran)
        });
        let (clock, mut bills, plans, (last, restored)) = shared.await?;
        bills.retain(|bill| planned.iter().all(|new| (&new.payer, new.month) != (&bill.payer, bill.month)));
        bills.extend_from_slice(planned);
        let through = usage_through(&bills);
        let clock = instant(clock);
        let latest = now.max(clock);
        let now = match mode {
            Mode::DryRun => now,
            // when the worker's clock is ahead, the database's time counts, so no decision is from
            // the future
            Mode::Write => now.min(clock),
        };
        let policy = &context.enforcement;
        let payers: BTreeSet<&str> = context.exports.values().map(|e| e.payer.as_str()).collect();
        // the oldest payer counts; one that has no booked usage is left out
        let as_of = payers.iter().filter_map(|p| through.get(*p).copied()).min();
        let freshness = match as_of {
            None => Freshness::None,
            Some(at) if now.duration_since(at) > policy.stale_after => Freshness::Stale,
            Some(_) => Freshness::Fresh,
        };
        let without_bill = payers.iter().any(|p| !through.contains_key(*p));
        let blocks = policy.on_stale == OnStale::BlockOverage;
        let measuring = &context.measuring;
        let settled = SettledDays::new(&payers, &bills, measuring.settle_after);
        let meters = measuring.meters.iter().map(|m| (m.meter.clone(), m.accrues)).collect();
        let open = OpenUsage::new(meters, &settled, now);
        let metered: BTreeSet<String> = context.read_settings.rules.meters.iter().map(|m| m.name.clone()).collect();
        let in_plans = plans.iter().flat_map(|p| p.meters.keys()).filter(|m| *m != TURN).cloned();
        let current = plans.names().into_iter().filter_map(|name| plans.at(name, now.as_second()));
        let has_key = matches!(context.billing.mode, StripeMode::Stripe(_));
        let too_old = blocks && (freshness == Freshness::Stale || without_bill);
        let decided_by = (&plans, &metered, &open.meters, policy, too_old, &restored);
        let run = LastRun {
            enforced_at: now,
            stale_after: policy.stale_after,
            on_stale: policy.on_stale.name().to_owned(),
            notifies: context.webhook.is_some(),
            thresholds: policy.thresholds.clone(),
            inputs: digest(&format!("{decided_by:?}")),
            restored,
            as_of,
            open_days: open.days.clone(),
            undivided_days: open.undivided.clone(),
            swept_at: last.as_ref().map_or(Timestamp::UNIX_EPOCH, |last| last.swept_at),
            missed: last.as_ref().map_or(0, |last| last.missed),
        };
        let since_last = last.as_ref().map_or(SinceLast::Inputs, |last| since(last, &run));
        let unmetered = current.flat_map(|p| p.meters.keys()).filter(|m| *m != TURN && !metered.contains(*m));
        Ok(Self {
            unmetered: unmetered.cloned().collect(),
            metered: metered.iter().cloned().collect(),
            meters: metered.iter().cloned().chain(in_plans).collect::<BTreeSet<_>>().into_iter().collect(),
            plans,
            open,
            as_of,
            freshness,
            too_old,
            watch: Watch::new(&run, last.as_ref(), has_key),
            run,
            since_last,
            now,
            latest,
        })
    }

    /// Whether a run has to look at everybody.
    pub(super) fn must_sweep(&self) -> bool {
        let since = self.now.duration_since(self.run.swept_at);
        self.since_last == SinceLast::Inputs || since >= SWEEP || since < -CLOCK_SKEW
    }

    /// Meters of the configuration and of the plan, and TURN.
    fn meters_of<'a>(&'a self, plan: Option<&'a Plan>) -> Vec<&'a str> {
        let configured = self.metered.iter().map(String::as_str);
        let in_plan = plan.into_iter().flat_map(|p| p.meters.keys().map(String::as_str));
        configured.chain([TURN]).chain(in_plan).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn since(last: &LastRun, run: &LastRun) -> SinceLast {
    // a day comes each day, and the oldest one goes
    let (_, newest) = open_window(last.enforced_at);
    let (oldest, _) = open_window(run.enforced_at);
    // a clock that was ahead has decided by usage that had not come yet
    let was_ahead = last.enforced_at.duration_since(run.enforced_at) > CLOCK_SKEW;
    let counts = |of: &MeteredDay, run: &LastRun| run.open_days.contains(&of.day) || run.undivided_days.contains(of);
    if was_ahead
        || last.inputs != run.inputs
        || run.open_days.iter().any(|day| *day <= newest && !last.open_days.contains(day))
        || run.undivided_days.iter().any(|of| of.day <= newest && !counts(of, last))
    {
        SinceLast::Inputs
    } else if last.open_days.iter().any(|day| *day >= oldest && !run.open_days.contains(day))
        || last.undivided_days.iter().any(|of| of.day >= oldest && !counts(of, run))
    {
        SinceLast::SettledDays
    } else {
        SinceLast::Nothing
    }
}

/// A TURN period that gets another limit, or another count at which it is decided anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TurnLimitChange {
    pub(super) starts_at: i64,
    pub(super) allowed_until: Option<i64>,
    pub(super) reason: &'static str,
    pub(super) decided_until: Option<i64>,
    /// Whether it is another limit.
    pub(super) is_other_limit: bool,
}

/// What is decided for one customer.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) entitlements: Vec<Entitlement>,
    pub(super) turn: Vec<TurnLimitChange>,
    /// Meters of stored decisions that the customer has no more.
    pub(super) obsolete: Vec<String>,
    pub(super) plan_is_unknown: bool,
    pub(super) other_currency: bool,
    /// When it becomes another one by time alone, in seconds.
    pub(super) due_at: i64,
}

impl Judgement {
    /// True when everything is stored already, but for the time of the decisions.
    pub(super) fn changes_nothing(&self, facts: &CustomerFacts) -> bool {
        self.turn.is_empty()
            && self.obsolete.is_empty()
            && self.entitlements.iter().all(|e| facts.decided.get(&e.meter).is_some_and(|was| was.same_except_time(e)))
    }

    /// True when it differs from what is stored in more than time alone explains. While uses run,
    /// usage and what follows from it differ at each second; when they end, the customer is due.
    /// The count of TURN credentials is stored now and then.
    pub(super) fn contradicts(&self, facts: &CustomerFacts) -> bool {
        let runs = facts.open.as_ref().is_some_and(MeasuredUsage::runs);
        // on the day of another plan, what is included can follow usage
        let answer = |e: &Entitlement| (e.period_start, e.allowed, e.reason, e.budget_minor, e.meter_budget_minor);
        let differs = |e: &Entitlement| {
            facts.decided.get(&e.meter).is_none_or(|was| match runs {
                true => answer(e) != answer(was),
                false => e.decision_differs(was) || e.meter != TURN && !e.same_except_time(was),
            })
        };
        !self.obsolete.is_empty()
            || self.turn.iter().any(|limit| limit.is_other_limit)
            || self.entitlements.iter().any(differs)
    }
}

/// Judges one customer; none when there is no current billing period. Pure.
///
/// # Errors
/// When measured usage does not fit into 128 bits.
pub(super) fn judge(
    customer: &str,
    facts: &CustomerFacts,
    inputs: &RunInputs,
) -> Result<Option<Judgement>, BooksError> {
    let Some(mut judgement) = judge_with(customer, facts, &facts.measured, inputs) else { return Ok(None) };
    if let Some(open) = facts.open.as_ref().filter(|open| open.runs()) {
        // when a use ends, what is stored becomes exact again
        let now = inputs.now.as_second();
        judgement.due_at = facts.next_bound.min(open.next_edge(now).unwrap_or(facts.next_bound));
        // usage never falls, so what fits then fits before
        open.adds_at(facts.next_bound)?;
        look_ahead(&mut judgement, facts, open, inputs);
    }
    Ok(Some(judgement))
}

/// Finds when running uses change the judgement, before the next bound.
fn look_ahead(judgement: &mut Judgement, facts: &CustomerFacts, open: &MeasuredUsage, inputs: &RunInputs) {
    let customer = judgement.entitlements.first().map_or(String::new(), |e| e.customer.clone());
    let mut known: BTreeMap<i64, Vec<Outcome>> = BTreeMap::new();
    let mut has = |second: i64, changed: &dyn Fn(&[Outcome]) -> bool| {
        let outcomes = || {
            let adds = open.adds_at(second).unwrap_or_default();
            let later = judge_with(&customer, facts, &adds, inputs).unwrap_or_default();
            later.entitlements.iter().map(|e| Outcome::of(e, &inputs.watch)).collect()
        };
        changed(known.entry(second).or_insert_with(outcomes))
    };
    let (now, bound) = (inputs.now.as_second(), facts.next_bound);
    let current: Vec<Outcome> = judgement.entitlements.iter().map(|e| Outcome::of(e, &inputs.watch)).collect();
    let Some(first) = first_second(now, bound, |second| has(second, &|of| *of != *current)) else { return };
    judgement.due_at = judgement.due_at.min(first);
    for (at, e) in judgement.entitlements.iter_mut().enumerate().filter(|(_, e)| e.allowed) {
        let is_blocked = |of: &[Outcome]| of.get(at).is_some_and(|of| !of.allowed);
        // from where the first search began, so that both look at the same seconds
        e.blocked_at = first_second(now, bound, |second| has(second, &is_blocked)).map(instant);
    }
}

/// What a decision says and what is notified of it: what must not change unnoticed.
#[derive(PartialEq, Eq)]
struct Outcome {
    allowed: bool,
    reason: Reason,
    reached: Vec<bool>,
}

impl Outcome {
    fn of(e: &Entitlement, watch: &Watch) -> Self {
        Self { allowed: e.allowed, reason: e.reason, reached: watch.reached(e) }
    }
}

/// Judges by what measurements add to the bill; all else is as it was read.
fn judge_with(customer: &str, facts: &CustomerFacts, measured: &MeasuredAdds, inputs: &RunInputs) -> Option<Judgement> {
    let period = facts.period.as_ref()?;
    let of = Subject { customer, facts, measured, inputs, period };
    let plan = inputs.plans.at(&facts.plan, period.start);
    let current_turn = facts.turn.iter().find(|row| row.starts_at < period.end);
    let turn_used = current_turn.map_or(0, |row| row.used);
    let used = |meter: &str| match meter {
        TURN => Quantity::from_scaled(i128::from(turn_used) * UNIT),
        meter => facts.usage.get(meter).copied().unwrap_or_default() + of.used_measured(meter),
    };
    let meters = inputs.meters_of(plan);
    let case = of.case(plan, &meters, &of.grants(plan, current_turn), used);
    let decided = decide(&case);
    Some(Judgement {
        entitlements: of.entitlements(&case, &decided),
        turn: of.turn_limits(&case, &decided),
        obsolete: facts.decided.keys().filter(|m| !meters.contains(&m.as_str())).cloned().collect(),
        plan_is_unknown: plan.is_none(),
        other_currency: case.budget_in_other_currency,
        due_at: facts.next_bound,
    })
}

/// The customer that is judged.
struct Subject<'a> {
    customer: &'a str,
    facts: &'a CustomerFacts,
    measured: &'a MeasuredAdds,
    inputs: &'a RunInputs,
    period: &'a CurrentPeriod,
}

impl Subject<'_> {
    /// What measurements add to the bill in the period.
    fn used_measured(&self, meter: &str) -> Quantity {
        self.measured.iter().filter(|((of, _), _)| of == meter).map(|(_, adds)| *adds).sum()
    }

    /// What is included in the current period, where it differs from the plan.
    fn grants(&self, plan: Option<&Plan>, turn: Option<&TurnRow>) -> BTreeMap<String, Grant> {
        let facts = self.facts;
        let mut grants: BTreeMap<String, Grant> = BTreeMap::new();
        let days = self.period.days;
        let stretches = facts.history.stretches(days.first, days.last);
        let single = || facts.usage.iter().map(|(meter, used)| ((meter.clone(), days.first), *used)).collect();
        let mut usage: StretchUsage = if stretches.len() > 1 { facts.stretches.clone() } else { single() };
        for ((meter, day), more) in self.measured {
            if let Some(of) = stretches.iter().find(|s| (s.first..=s.last).contains(day)) {
                *usage.entry((meter.clone(), of.first)).or_default() += *more;
            }
        }
        let agreement = Agreement { plans: &self.inputs.plans, history: &facts.history, overage: OverageBilling::All };
        let rated = rate(days, agreement, &self.inputs.meters, &usage, &facts.advance).unwrap_or_default();
        for (meter, rated) in rated.into_iter().filter(|_| !stretches.is_empty()) {
            grants.insert(meter, Grant { until: rated.included_until, cost_before: rated.cost_before });
        }
        if let Some((terms, row)) = plan.and_then(|p| p.meters.get(TURN)).zip(turn) {
            grants.insert(TURN.to_owned(), Grant { until: turn_grant(terms.included, facts, row), ..Grant::default() });
        }
        grants
    }

    fn case<'m>(
        &self,
        plan: Option<&Plan>,
        meters: &[&'m str],
        grants: &BTreeMap<String, Grant>,
        used: impl Fn(&str) -> Quantity,
    ) -> CustomerCase<'m> {
        let facts = self.facts;
        let currency = plan.map(|p| p.currency);
        let other = |code: &String| currency.is_some_and(|c| c.to_string() != *code);
        let budget = |meter: &str| facts.budgets.get(meter).map(|b| b.amount_minor);
        let meter = |meter: &&'m str| {
            let terms = plan.and_then(|p| p.meters.get(*meter).copied());
            let whole = Grant { until: terms.map_or(Quantity::ZERO, |t| t.included), ..Grant::default() };
            let grant = grants.get(*meter).copied().unwrap_or(whole);
            MeterCase { meter, terms, grant, used: used(meter), budget: budget(meter) }
        };
        CustomerCase {
            payment: PaymentStatus::of(&facts.status, facts.subscription.as_deref()),
            currency,
            budget: budget(""),
            budget_in_other_currency: facts.budgets.values().any(|b| other(&b.currency)),
            data_too_old: self.inputs.too_old,
            meters: meters.iter().map(meter).collect(),
        }
    }

    fn entitlements(&self, case: &CustomerCase<'_>, decided: &CustomerDecision) -> Vec<Entitlement> {
        let minor = |cost: Cost| case.currency.map_or(0, |currency| cost.to_minor(currency));
        let budget_counts = !case.budget_in_other_currency;
        let one = |(m, d): (&MeterCase<'_>, &MeterDecision)| {
            let live = m.meter == TURN;
            let used = storable(m.counted());
            let by_bill = MeterCase { used: m.used - self.used_measured(m.meter), ..m.clone() };
            let used_billed = storable(by_bill.counted());
            Entitlement {
                customer: self.customer.to_owned(),
                meter: m.meter.to_owned(),
                period_start: instant(self.period.start),
                period_end: instant(self.period.end),
                allowed: d.allowed,
                reason: d.reason,
                used,
                used_billed,
                used_measured: used - used_billed,
                included: if m.terms.is_some() { d.included } else { Quantity::ZERO },
                // a limit above every storable quantity is stored as none
                effective_limit: d.limit.filter(|limit| !d.allowed || storable(*limit) == *limit).map(storable),
                overage_cost_minor: minor(decided.cost),
                meter_cost_minor: minor(d.cost),
                budget_minor: case.budget.filter(|_| budget_counts).unwrap_or(0),
                meter_budget_minor: m.budget.filter(|_| budget_counts),
                currency: case.currency.map(|c| c.to_string()).unwrap_or_default(),
                as_of: if live { None } else { self.inputs.as_of },
                freshness: if live { Freshness::Live } else { self.inputs.freshness },
                decided_at: self.inputs.now,
                blocked_at: None,
            }
        };
        case.meters.iter().zip(&decided.meters).map(one).collect()
    }

    /// The open TURN periods with another limit than the stored one. The current period's follows
    /// from the decision; a later one is decided with nothing used.
    fn turn_limits(&self, case: &CustomerCase<'_>, decided: &CustomerDecision) -> Vec<TurnLimitChange> {
        let mut changes = vec![];
        for row in &self.facts.turn {
            let is_current = row.starts_at < self.period.end;
            let decision = if is_current {
                case.meters.iter().zip(&decided.meters).find(|(m, _)| m.meter == TURN).map(|(_, d)| d.clone())
            } else {
                let plan = self.inputs.plans.at(&self.facts.plan, row.starts_at);
                decide(&self.case(plan, &[TURN], &BTreeMap::new(), |_| Quantity::ZERO)).meters.into_iter().next()
            };
            let Some(MeterDecision { limit, stop, included, .. }) = decision else { continue };
            let (allowed_until, reason) = (limit.map(whole_units), stop.name());
            let thresholds = &self.inputs.run.thresholds;
            let next = || next_count(row.used, whole_units(included), allowed_until, thresholds);
            let decided_until = is_current.then(next);
            let is_other_limit = (row.allowed_until, row.reason.as_str()) != (allowed_until, reason);
            if is_other_limit || row.decided_until != decided_until {
                let starts_at = row.starts_at;
                changes.push(TurnLimitChange { starts_at, allowed_until, reason, decided_until, is_other_limit });
            }
        }
        changes
    }
}

/// How many TURN credentials the current period includes: its share of the month, less what earlier
/// periods used in advance of their time.
fn turn_grant(included: Quantity, facts: &CustomerFacts, current: &TurnRow) -> Quantity {
    let mut advance = Quantity::ZERO;
    for before in &facts.turn_before {
        let used = Quantity::from_scaled(i128::from(before.used) * UNIT);
        advance = (advance + used - month_share(included, before.starts_at, before.ends_at)).max(Quantity::ZERO);
    }
    (month_share(included, current.starts_at, current.ends_at) - advance).max(Quantity::ZERO)
}

/// The share of a time in an amount for the month that begins with it, at most all of it.
fn month_share(amount: Quantity, from: i64, to: i64) -> Quantity {
    let (start, end) = billing_period::month_of(from, from);
    let (part, whole) = (i128::from(to - from), i128::from((end - start).max(1)));
    if part >= whole { amount } else { Quantity::from_scaled(amount.scaled() * part / whole) }
}

/// The number of whole units at which a count reaches a limit.
fn whole_units(limit: Quantity) -> i64 {
    let units = (limit.scaled() + UNIT - 1).div_euclid(UNIT);
    i64::try_from(units).unwrap_or(i64::MAX)
}
