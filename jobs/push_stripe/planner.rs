//! Plans meter events from the difference between billing targets and what was sent.
//!
//! A [`Planner`] takes loaded customers one by one, calls [`decide`] for each of their meters, and
//! collects the changes. [`plan_due`] loads, plans and writes in one transaction, with four
//! requests to a server.

use std::collections::BTreeMap;

use books::store::connection::{Connection, Write};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decide::{
    BillingCase, DeferReason, Deferral, PeriodBilling, PeriodCase, PeriodDecision, SentEvent, decide, look_again,
    timestamp,
};
use crate::job::Mode;
use crate::stripe::Mapping;
use books::limits::overage_billing::{OverageBilling, OverageHistory};
use books::limits::plan::Plans;
use books::limits::rating::{Agreement, Rated, StretchUsage, rate};
use books::store::error::BooksError;
use books::stripe::billing_target::{self, Cut, NewTarget, StoredTarget, UsageParts, target};
use books::stripe::due::{self, DueAgain, DueSince};
use books::stripe::invoice::{InvoicePeriod, LARGEST_VALUE};
use books::stripe::meter_event::{self, EventState, NewMeterEvent};
use books::stripe::placement::{Change, place};
use books::stripe::planning::{self, DueCustomer, DuePeriod, DueSubscription, EarlierMeterEvent};
use books::units::calendar::instant;
use books::units::quantity::Quantity;

/// Seconds until a customer with a changed subscription is planned again. By then `roll_periods`
/// has adapted the billing periods.
const UNTIL_PERIODS_FOLLOW: i64 = 60;
/// Seconds until a customer with an unknown plan is planned again. The report counts the customer
/// each time.
const UNTIL_PLAN_IS_KNOWN: i64 = 86_400;

/// A meter that is mapped to a meter in Stripe.
#[derive(Clone, Debug)]
pub(super) struct MappedMeter {
    pub(super) mapping: Mapping,
    /// Stripe's id; none if the account has no active meter with that event name.
    pub(super) stripe_id: Option<String>,
}

/// The inputs that all transactions of a run share.
#[derive(Debug)]
pub(super) struct PlanInputs {
    pub(super) meters: BTreeMap<String, MappedMeter>,
    pub(super) plans: Plans,
    pub(super) overage: OverageHistory,
    pub(super) grace: i64,
    /// A dry run makes no request to Stripe: every meter and subscription item counts as present.
    pub(super) mode: Mode,
}

impl PlanInputs {
    pub(super) fn meter_names(&self) -> Vec<String> {
        self.meters.keys().cloned().collect()
    }

    /// Mapped meters without an active meter in the account.
    pub(super) fn missing_meters(&self) -> Vec<String> {
        self.meters.iter().filter(|(_, m)| m.stripe_id.is_none()).map(|(name, _)| name.clone()).collect()
    }
}

/// An event that a run planned, or would plan.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PlannedEvent {
    pub customer: String,
    pub meter: String,
    /// Start of the period in which the usage was.
    pub period_start: jiff::Timestamp,
    /// Start of the invoiced period.
    pub billed_start: jiff::Timestamp,
    pub value: i64,
}

/// The result of planning some customers.
#[derive(Debug, Default)]
pub(super) struct PlanOutcome {
    pub(super) customers: u64,
    pub(super) events: Vec<PlannedEvent>,
    pub(super) deferred: BTreeMap<DeferReason, u64>,
    /// Customers with an unknown plan: nothing is planned for them.
    pub(super) unknown_plan: u64,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) events: Vec<NewMeterEvent>,
    pub(super) targets: Vec<NewTarget>,
    withdrawn: Vec<i64>,
    not_resent: Vec<i64>,
    planned: Vec<DueAgain>,
    postponed: Vec<DueAgain>,
    /// Customers with usage on days before their first billing period.
    unrolled: Vec<String>,
}

/// Plans customers, and writes the changes. `asked` may have been read before the transaction.
pub(super) async fn plan_due(
    c: &Connection,
    inputs: &PlanInputs,
    asked: &[DueSince],
    now: i64,
) -> Result<PlanOutcome, BooksError> {
    let planner = plan(c, inputs, asked, now).await?;
    c.batch(planner.changes.writes(now)?).await?;
    Ok(planner.outcome)
}

/// Plans customers and writes nothing. `asked` has each customer with the first day on which usage
/// may have changed.
pub(super) async fn preview(
    c: &Connection,
    inputs: &PlanInputs,
    asked: &[DueSince],
    now: i64,
) -> Result<PlanOutcome, BooksError> {
    Ok(plan(c, inputs, asked, now).await?.outcome)
}

async fn plan<'a>(
    c: &Connection,
    inputs: &'a PlanInputs,
    asked: &[DueSince],
    now: i64,
) -> Result<Planner<'a>, BooksError> {
    let due = planning::load(c, asked, &inputs.meter_names(), now, inputs.grace).await?;
    let mut planner = Planner::new(inputs, now);
    for (customer, due) in &due {
        planner.plan_customer(customer, due);
    }
    Ok(planner)
}

/// Collects the changes for customers, as of one instant. Pure.
pub(super) struct Planner<'a> {
    inputs: &'a PlanInputs,
    now: i64,
    outcome: PlanOutcome,
    pub(super) changes: Changes,
}

/// One meter of one customer.
#[derive(Clone, Copy)]
struct CustomerMeter<'a> {
    customer: &'a str,
    due: &'a DueCustomer,
    meter: &'a str,
    mapped: &'a MappedMeter,
}

/// What became of the usage of a period, by meter.
pub(super) type RatedPeriod = BTreeMap<String, Rated>;

impl<'a> Planner<'a> {
    pub(super) fn new(inputs: &'a PlanInputs, now: i64) -> Self {
        Self { inputs, now, outcome: PlanOutcome::default(), changes: Changes::default() }
    }

    pub(super) fn plan_customer(&mut self, customer: &str, due: &DueCustomer) {
        // usage with a tag that no customer has, or the tag of a removed customer
        if !due.known {
            self.changes.planned.push(due_again(customer, None));
            return;
        }
        self.outcome.customers += 1;
        // after a change of the subscription the periods' bounds change first
        if !due.periods_are_current {
            if due.used_before_first_period {
                self.changes.unrolled.push(customer.to_owned());
            }
            self.changes.postponed.push(due_again(customer, Some(self.now + UNTIL_PERIODS_FOLLOW)));
            return;
        }
        let Some(rated) = self.rate(due) else {
            self.outcome.unknown_plan += 1;
            self.changes.postponed.push(due_again(customer, Some(self.now + UNTIL_PLAN_IS_KNOWN)));
            return;
        };
        let mut again = None;
        for (meter, mapped) in &self.inputs.meters {
            let of = CustomerMeter { customer, due, meter, mapped };
            again = [again, self.plan_meter(of, &rated)].into_iter().flatten().min();
        }
        self.changes.planned.push(due_again(customer, again));
    }

    /// Rates the periods of a customer, in order; none if a plan is unknown.
    pub(super) fn rate(&self, due: &DueCustomer) -> Option<Vec<RatedPeriod>> {
        let mut found: Vec<RatedPeriod> = vec![];
        for period in &due.periods {
            let overage = self.inputs.overage.at(period.days.start);
            let rated = self.rate_next(due, &found, overage, &due.usage)?;
            found.push(rated);
        }
        Some(found)
    }

    /// Rates the period after those in `before`, with this usage; none if a plan is unknown.
    pub(super) fn rate_next(
        &self,
        due: &DueCustomer,
        before: &[RatedPeriod],
        overage: OverageBilling,
        usage: &StretchUsage,
    ) -> Option<RatedPeriod> {
        let (at, meters) = (before.len(), self.inputs.meter_names());
        let agreement = Agreement { plans: &self.inputs.plans, history: &due.history, overage };
        let advance = meters.iter().map(|meter| (meter.clone(), advance_before(due, before, at, meter)));
        rate(due.periods.get(at)?.days, agreement, &meters, usage, &advance.collect())
    }

    /// The input of [`decide`] for a meter; collects the changes of its events.
    fn case(&mut self, of: CustomerMeter<'_>, rated: &[RatedPeriod]) -> BillingCase {
        let mut sent = vec![];
        for event in of.events() {
            let placed = place(event, self.now, self.inputs.grace);
            match placed.change {
                Some(Change::Withdraw) => self.changes.withdrawn.push(event.seq),
                Some(Change::StopResending) => self.changes.not_resent.push(event.seq),
                None => {}
            }
            sent.extend(placed.sent.map(|invoice| SentEvent {
                period_start: event.period_start,
                timestamp: event.timestamp,
                invoice,
                value: event.value,
                billed: placed.billed,
                accepted: event.state == EventState::Accepted,
            }));
        }
        let periods = of
            .due
            .periods
            .iter()
            .zip(rated)
            .filter_map(|(period, rated)| rated.get(of.meter).map(|rated| self.period_case(of, period, rated)));
        BillingCase { deferred: of.deferred(self.inputs.mode), periods: periods.collect(), sent }
    }

    fn period_case(&self, of: CustomerMeter<'_>, period: &DuePeriod, rated: &Rated) -> PeriodCase {
        let until = period.takes_until();
        let cut = Cut::of(rated.house);
        PeriodCase {
            start: period.start,
            end: period.end,
            until: if until > period.start { until } else { period.end },
            billing: of.billing(period, rated, self.inputs.mode).map(|billing| PeriodBilling {
                items: of.items_at(period, timestamp((period.start, until), self.now)),
                ..billing
            }),
            target: target(rated.reported, of.mapped.mapping.per_unit, cut).filter(|_| UsageParts::fit(rated)),
            currency: rated.currency.to_string(),
        }
    }

    /// Plans a meter. Returns when a deferred amount may become sendable through time alone.
    fn plan_meter(&mut self, of: CustomerMeter<'_>, rated: &[RatedPeriod]) -> Option<i64> {
        let case = self.case(of, rated);
        let mut decisions = decide(&case, self.now, self.inputs.grace);
        for decision in &mut decisions {
            let Some(event) = decision.event.filter(|e| of.stripe_customer_at(e.timestamp).is_none()) else { continue };
            let amount = event.value + decision.deferred.map_or(0, |d| d.amount);
            let deferred = Some(Deferral { amount, reason: DeferReason::NoStripeCustomer });
            *decision = PeriodDecision { event: None, deferred };
        }
        for (at, (period, decision)) in case.periods.iter().zip(&decisions).enumerate() {
            self.add_event(of, period, decision);
            if let Some(rated) = rated[at].get(of.meter) {
                self.add_target(of, period, PlannedPeriod { decision, rated });
            }
        }
        let waits = case.deferred.is_none() && decisions.iter().any(|d| d.deferred.is_some());
        if waits { look_again(&case, self.now, self.inputs.grace) } else { None }
    }

    fn add_event(&mut self, of: CustomerMeter<'_>, period: &PeriodCase, decision: &PeriodDecision) {
        if let Some(Deferral { reason, .. }) = decision.deferred {
            *self.outcome.deferred.entry(reason).or_default() += 1;
        }
        let Some(event) = decision.event else { return };
        let Some(stripe_customer) = of.stripe_customer_at(event.timestamp) else { return };
        self.outcome.events.push(PlannedEvent {
            customer: of.customer.to_owned(),
            meter: of.meter.to_owned(),
            period_start: instant(period.start),
            billed_start: instant(event.billed.start),
            value: event.value,
        });
        self.changes.events.push(NewMeterEvent {
            customer: of.customer.to_owned(),
            meter: of.meter.to_owned(),
            period_start: period.start,
            billed: event.billed,
            stripe_customer: stripe_customer.to_owned(),
            event_name: of.mapped.mapping.event_name.clone(),
            value: event.value,
            timestamp: event.timestamp,
            send_before: event.send_before,
        });
    }

    /// Adds the billing target of a period, unless an equal one is stored.
    fn add_target(&mut self, of: CustomerMeter<'_>, period: &PeriodCase, planned: PlannedPeriod<'_>) {
        let PlannedPeriod { decision, rated } = planned;
        let stored = of.stored(period.start);
        let has_event = of.events().iter().any(|event| period.start <= event.timestamp && event.timestamp < period.end);
        let is_empty = rated.used.is_zero() && !has_event && *decision == PeriodDecision::default();
        // stored for every period with an invoice; and until what was used in advance is made up
        // for, because the next period begins with it
        let advanced = || {
            self.changes.targets.iter().any(|t| t.customer == of.customer && t.meter == of.meter)
                || of.due.targets.keys().any(|(meter, start)| meter == of.meter && *start < period.start)
        };
        if stored.is_none() && is_empty && period.billing.is_none() && !advanced() {
            return;
        }
        let new = of.target(period, planned);
        if !stored.is_some_and(|stored| is_same_target(stored, &new)) {
            self.changes.targets.push(new);
        }
        if let Some(event) = decision.event.filter(|e| e.billed.start != period.start) {
            self.add_carrying_target(of, event.billed, rated);
        }
    }

    /// Adds a billing target of 0 for the invoice that takes a carried forward amount, if it has
    /// none: only invoices with a billing target are compared with Stripe's total.
    fn add_carrying_target(&mut self, of: CustomerMeter<'_>, billed: InvoicePeriod, rated: &Rated) {
        let added = |t: &NewTarget| t.customer == of.customer && t.meter == of.meter && t.period_start == billed.start;
        if of.stored(billed.start).is_some() || self.changes.targets.iter().any(added) {
            return;
        }
        self.changes.targets.push(NewTarget {
            customer: of.customer.to_owned(),
            meter: of.meter.to_owned(),
            period_start: billed.start,
            period_end: billed.end,
            plan: rated.plan.clone(),
            target: 0,
            deferred: 0,
            deferred_reason: None,
            parts: UsageParts::default(),
        });
    }
}

impl<'a> CustomerMeter<'a> {
    /// The Stripe customer on whose invoice an event of this instant is: that of the subscription,
    /// whatever the customer's Stripe id is now.
    fn stripe_customer_at(self, timestamp: i64) -> Option<&'a str> {
        let period = self.due.periods.iter().find(|p| p.start <= timestamp && timestamp < p.end);
        let subscription = period.and_then(|p| self.due.subscriptions.get(p.subscription.as_ref()?));
        let of_subscription = subscription.and_then(|s| s.stripe_customer.as_deref());
        of_subscription.or(self.due.stripe_customer.as_deref())
    }

    fn events(self) -> &'a [EarlierMeterEvent] {
        self.due.events.get(self.meter).map(Vec::as_slice).unwrap_or_default()
    }

    fn stored(self, period_start: i64) -> Option<&'a StoredTarget> {
        self.due.targets.get(&(self.meter.to_owned(), period_start))
    }

    /// Why everything of the meter is deferred, if it is.
    fn deferred(self, mode: Mode) -> Option<DeferReason> {
        let known = || self.due.subscriptions.values().any(|s| s.stripe_customer.is_some());
        if self.due.stripe_customer.is_none() && !known() {
            Some(DeferReason::NoStripeCustomer)
        } else if self.due.refused.contains(self.meter) {
            Some(DeferReason::Refused)
        } else if self.mapped.stripe_id.is_none() && mode == Mode::Write {
            Some(DeferReason::NoMeter)
        } else {
            None
        }
    }

    /// The subscription that bills a period; none if the period has no invoice.
    fn billing(self, period: &DuePeriod, rated: &Rated, mode: Mode) -> Option<PeriodBilling> {
        let id = period.subscription.as_ref().filter(|_| period.takes_until() > period.start)?;
        let subscription = self.due.subscriptions.get(id);
        let status = subscription.map(|s| s.status.as_str()).unwrap_or_default();
        let stripe_id = self.mapped.stripe_id.as_ref();
        let item = stripe_id.and_then(|meter| self.due.items.get(&(id.clone(), meter.clone())));
        let item = item.map(|items| items.currency.clone());
        Some(PeriodBilling {
            active: matches!(status, "trialing" | "active" | "past_due" | "unpaid"),
            item: item.or_else(|| (mode == Mode::DryRun).then(|| rated.currency.to_string())),
            items: 0,
        })
    }

    /// How many items of the period's Stripe customer carry the meter at an instant: Stripe bills
    /// an event of then as often, also if the subscriptions differ.
    fn items_at(self, period: &DuePeriod, timestamp: i64) -> u64 {
        let own = period.subscription.as_ref().and_then(|id| self.due.subscriptions.get(id));
        let Some(meter) = self.mapped.stripe_id.as_ref() else { return 0 };
        let Some(stripe_customer) = own.and_then(|own| own.stripe_customer.as_ref()) else { return 0 };
        let lives = |s: &DueSubscription| s.started <= timestamp && s.ended.is_none_or(|ended| timestamp < ended);
        let carries = self
            .due
            .subscriptions
            .iter()
            .filter(|(_, s)| s.stripe_customer.as_ref() == Some(stripe_customer) && lives(s));
        carries.filter_map(|(id, _)| self.due.items.get(&(id.clone(), meter.clone()))).map(|items| items.count).sum()
    }

    fn target(self, period: &PeriodCase, planned: PlannedPeriod<'_>) -> NewTarget {
        let PlannedPeriod { decision, rated } = planned;
        NewTarget {
            customer: self.customer.to_owned(),
            meter: self.meter.to_owned(),
            period_start: period.start,
            period_end: period.end,
            plan: rated.plan.clone(),
            target: period.target.unwrap_or(LARGEST_VALUE),
            deferred: decision.deferred.map_or(0, |d| d.amount),
            deferred_reason: decision.deferred.map(|d| d.reason.name()),
            parts: UsageParts::of(rated),
        }
    }
}

/// What was decided about a period, and what became of its usage.
#[derive(Clone, Copy)]
struct PlannedPeriod<'a> {
    decision: &'a PeriodDecision,
    rated: &'a Rated,
}

/// What was used in advance before period `at`: as the period before it was rated in this run, else
/// as it is stored.
fn advance_before(due: &DueCustomer, rated: &[RatedPeriod], at: usize, meter: &str) -> Quantity {
    let follows = at > 0 && due.periods[at - 1].end == due.periods[at].start;
    if let Some(rated) = rated.get(at.wrapping_sub(1)).filter(|_| follows).and_then(|rated| rated.get(meter)) {
        return rated.advance;
    }
    let first = (meter.to_owned(), i64::MIN);
    let before = due.targets.range(first..(meter.to_owned(), due.periods[at].start)).next_back();
    before.map_or(Quantity::ZERO, |(_, stored)| Quantity::from_scaled(i128::from(stored.parts.advance)))
}

fn due_again(customer: &str, due_at: Option<i64>) -> DueAgain {
    DueAgain { customer: customer.to_owned(), due_at }
}

fn is_same_target(stored: &StoredTarget, new: &NewTarget) -> bool {
    stored.plan == new.plan
        && stored.period_end == new.period_end
        && stored.target == new.target
        && stored.deferred == new.deferred
        && stored.parts == new.parts
        && stored.deferred_reason.as_deref() == new.deferred_reason
}

impl Changes {
    fn writes(self, now: i64) -> Result<Vec<Write>, BooksError> {
        let mut writes = vec![];
        if !self.not_resent.is_empty() {
            writes.push(meter_event::stop_resending(&self.not_resent)?);
        }
        writes.extend(meter_event::insert(&self.events, now)?);
        writes.extend(billing_target::store_targets(&self.targets, now)?);
        writes.extend(due::mark_planned(&self.planned)?);
        if !self.postponed.is_empty() {
            writes.push(due::postpone(&self.postponed)?);
        }
        if !self.unrolled.is_empty() {
            writes.push(planning::roll_again(&self.unrolled)?);
        }
        // last, because it makes the customer due again: the period of the usage may not be among
        // the planned ones
        if !self.withdrawn.is_empty() {
            writes.push(meter_event::withdraw(&self.withdrawn, now)?);
        }
        Ok(writes)
    }
}
