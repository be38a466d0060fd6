//! Differences between the books and what was sent → events: loads some customers, asks [`decide`]
//! for each meter, and writes events, totals and what is deferred in the same transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libsql::Connection;
use serde::{Deserialize, Serialize};

use super::decide::{
    BillingCase, DeferReason, EarlierEvent, PeriodBilling, PeriodCase, PeriodDecision, decide, look_again, target,
};
use crate::stripe::Mapping;
use books::limits::plan::{Plan, Plans};
use books::store::error::BooksError;
use books::stripe::billing_target::{self, DueCustomer, NewTarget};
use books::stripe::invoice::{LARGEST_VALUE, closes};
use books::stripe::meter_event::{self, EventState, NewMeterEvent};
use books::units::quantity::Quantity;

/// A meter that is planned for.
#[derive(Clone, Debug)]
pub(super) struct MappedMeter {
    pub(super) mapping: Mapping,
    /// Stripe's id; none when the account has no such active meter.
    pub(super) stripe_id: Option<String>,
}

/// What all plans of a run share.
#[derive(Debug)]
pub(super) struct PlanInputs {
    pub(super) meters: BTreeMap<String, MappedMeter>,
    pub(super) plans: Plans,
    pub(super) grace: i64,
    /// Nothing is asked of an account, so what it has is taken for granted.
    pub(super) dry: bool,
}

/// An event that was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedEvent {
    pub customer: String,
    pub meter: String,
    /// Start of the period whose usage it is.
    pub period_start: jiff::Timestamp,
    /// Start of the period on whose invoice it goes.
    pub billed_start: jiff::Timestamp,
    pub value: i64,
}

/// What was planned for some customers.
#[derive(Debug, Default)]
pub(super) struct PlanOutcome {
    pub(super) customers: u64,
    pub(super) events: Vec<PlannedEvent>,
    pub(super) deferred: BTreeMap<DeferReason, u64>,
    /// Customers of a plan that is not known: nothing is planned for them.
    pub(super) unknown_plan: u64,
    /// True when there may be more.
    pub(super) more: bool,
}

/// What is to be written.
#[derive(Debug, Default)]
struct Changes {
    events: Vec<NewMeterEvent>,
    totals: Vec<NewTarget>,
    withdrawn: Vec<i64>,
    not_resent: Vec<i64>,
    looked_at: Vec<(String, Option<i64>)>,
    put_off: Vec<(String, i64)>,
}

/// Plans for at most `limit` customers that are due, and writes it.
pub(super) async fn plan(c: &Connection, inputs: &PlanInputs, limit: u32, now: i64) -> Result<PlanOutcome, BooksError> {
    let asked = billing_target::due(c, limit, now).await?;
    let outcome = plan_for(c, inputs, &asked, now).await?;
    Ok(PlanOutcome { more: u64::from(limit) == outcome.customers, ..outcome })
}

/// Plans for these customers, each with the first day whose usage may have changed, and writes it;
/// a dry run only tells.
pub(super) async fn plan_for(
    c: &Connection,
    inputs: &PlanInputs,
    asked: &[(String, String)],
    now: i64,
) -> Result<PlanOutcome, BooksError> {
    let meters: Vec<String> = inputs.meters.keys().cloned().collect();
    let due = billing_target::load(c, asked, &meters, now, inputs.grace).await?;
    let mut outcome = PlanOutcome { customers: u64::try_from(due.len()).unwrap_or(u64::MAX), ..PlanOutcome::default() };
    let mut changes = Changes::default();
    for (customer, due) in &due {
        match judge(customer, due, inputs, now, &mut outcome, &mut changes) {
            Next::Look(again) => changes.looked_at.push((customer.clone(), again)),
            Next::PutOff(until) => changes.put_off.push((customer.clone(), until)),
        }
    }
    if inputs.dry {
        return Ok(outcome);
    }
    if !changes.not_resent.is_empty() {
        billing_target::stop_resending(c, &changes.not_resent).await?;
    }
    if !changes.events.is_empty() {
        let prefix = books::store::settings::get(c, "prefix").await?.unwrap_or_else(|| "meter".into());
        meter_event::insert(c, &changes.events, &prefix, now).await?;
    }
    billing_target::store_targets(c, &changes.totals, now).await?;
    billing_target::looked_at(c, &changes.looked_at).await?;
    billing_target::put_off(c, &changes.put_off).await?;
    // makes its customer due again: the period whose usage it is may not be among those that were
    // looked at
    if !changes.withdrawn.is_empty() {
        billing_target::withdraw(c, &changes.withdrawn, now).await?;
    }
    Ok(outcome)
}

/// What comes next for a customer.
enum Next {
    /// It is done, and may have to be looked at again by time alone.
    Look(Option<i64>),
    /// Nothing could be decided: it stays due as it is.
    PutOff(i64),
}

/// Decides for one customer.
fn judge(
    id: &str,
    due: &DueCustomer,
    inputs: &PlanInputs,
    now: i64,
    outcome: &mut PlanOutcome,
    changes: &mut Changes,
) -> Next {
    // usage under a tag that no customer has, or that of one who is gone
    if !due.known {
        return Next::Look(None);
    }
    // a changed subscription moves bounds of periods first
    if !due.settled {
        return Next::PutOff(now + 60);
    }
    let mut again: Option<i64> = None;
    let mut unknown = false;
    for (meter, to) in &inputs.meters {
        let (case, deferred) = case(due, meter, to, (inputs, now), &mut unknown, changes);
        let Some((case, used, plans)) = case else { continue };
        let decisions = decide(&case, now, inputs.grace);
        if decisions.iter().any(|d| d.deferred.is_some()) && deferred.is_none() {
            again = [again, look_again(&case, now, inputs.grace)].into_iter().flatten().min();
        }
        for ((period, decision), (used, plan)) in case.periods.iter().zip(&decisions).zip(used.iter().zip(plans)) {
            note(id, meter, due, to, period, decision, outcome, changes);
            total(id, meter, due, period, decision, *used, &plan, changes);
        }
    }
    outcome.unknown_plan += u64::from(unknown);
    // it is told every day until the plan is there
    if unknown { Next::PutOff(now + 86_400) } else { Next::Look(again) }
}

/// A case, and the usage and the plan of each of its periods.
type Loaded = (BillingCase, Vec<Quantity>, Vec<String>);

/// What is known of one meter of a customer.
fn case(
    due: &DueCustomer,
    meter: &str,
    to: &MappedMeter,
    (inputs, now): (&PlanInputs, i64),
    unknown: &mut bool,
    changes: &mut Changes,
) -> (Option<Loaded>, Option<DeferReason>) {
    let stripe = due.stripe_customer.as_deref();
    let sent = due.sent.get(meter).map(Vec::as_slice).unwrap_or_default();
    // what was planned for another Stripe customer, or for a period that is no subscription's any
    // more, and never sent is planned anew
    let is_final = |s: &billing_target::SentEvent| {
        let period = due.periods.iter().find(|p| p.start <= s.timestamp && s.timestamp < p.end);
        period.is_some_and(|p| now >= closes(until(p), inputs.grace))
    };
    let astray = |s: &&billing_target::SentEvent| {
        s.state == EventState::Pending
            && (s.invoice.is_none() || is_final(s) || stripe.is_some_and(|id| s.stripe_customer != id))
    };
    changes.withdrawn.extend(sent.iter().filter(astray).map(|s| s.seq));
    let unconfirmed = sent.iter().filter(|s| s.state == EventState::Unconfirmed && is_final(s));
    changes.not_resent.extend(unconfirmed.map(|s| s.seq));
    // what is on no invoice bills nothing
    let kept = sent.iter().filter(|s| !astray(s));
    let deferred = if stripe.is_none() {
        Some(DeferReason::NoStripeCustomer)
    } else if due.refused.contains(meter) {
        Some(DeferReason::Refused)
    } else if to.stripe_id.is_none() && !inputs.dry {
        Some(DeferReason::NoMeter)
    } else if due.restored.contains(meter) {
        Some(DeferReason::Restored)
    } else {
        None
    };
    let mut case = BillingCase { deferred, periods: vec![], sent: kept.filter_map(|s| event(s, stripe)).collect() };
    let (mut used, mut plans) = (vec![], vec![]);
    for period in &due.periods {
        let stored = due.totals.get(&(meter.to_owned(), period.start));
        // the terms of a period that is over stay what they were
        let name = match stored {
            Some(total) if now >= period.end => &total.plan,
            _ => &due.plan,
        };
        let Some(plan) = inputs.plans.at(name, period.start) else {
            *unknown = true;
            return (None, deferred);
        };
        let amount = due.usage.get(&(meter.to_owned(), period.start)).copied().unwrap_or_default();
        case.periods.push(period_case(due, meter, to, plan, period, amount, inputs.dry));
        used.push(amount);
        plans.push(name.clone());
    }
    (Some((case, used, plans)), deferred)
}

fn event(s: &billing_target::SentEvent, stripe: Option<&str>) -> Option<EarlierEvent> {
    Some(EarlierEvent {
        invoice: s.invoice?,
        period_start: s.period_start,
        timestamp: s.timestamp,
        value: s.value,
        // one invoice is one Stripe customer's
        billed: !matches!(s.state, EventState::Refused | EventState::Discarded)
            && Some(s.stripe_customer.as_str()) == stripe,
        accepted: s.state == EventState::Accepted,
    })
}

/// When the invoice of a period is made. One without a subscription has none, and ends as it is.
fn until(period: &billing_target::DuePeriod) -> i64 {
    if period.subscription.is_some() { period.covered_until } else { period.end }
}

fn period_case(
    due: &DueCustomer,
    meter: &str,
    to: &MappedMeter,
    plan: &Plan,
    period: &billing_target::DuePeriod,
    used: Quantity,
    dry: bool,
) -> PeriodCase {
    let until = until(period);
    let billing = period.subscription.as_ref().filter(|_| until > period.start).map(|id| {
        let status = due.subscriptions.get(id).map(|(status, _)| status.as_str()).unwrap_or_default();
        let key = |stripe_id: &String| (id.clone(), stripe_id.clone());
        let item = to.stripe_id.as_ref().and_then(|stripe_id| due.items.get(&key(stripe_id)).cloned());
        PeriodBilling {
            active: matches!(status, "trialing" | "active" | "past_due" | "unpaid"),
            // without an account nobody knows what it has
            item: item.or_else(|| dry.then(|| plan.currency.to_string())),
        }
    });
    // a calendar month is on no invoice: whatever was sent for it has to come back
    let terms = plan.meters.get(meter).filter(|_| period.subscription.is_some());
    PeriodCase {
        start: period.start,
        end: period.end,
        until: if until > period.start { until } else { period.end },
        billing,
        target: terms.map_or(Some(0), |terms| target(used, *terms, to.mapping.per_unit)),
        currency: plan.currency.to_string(),
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of one loop, taken out to be read")]
fn note(
    id: &str,
    meter: &str,
    due: &DueCustomer,
    to: &MappedMeter,
    period: &PeriodCase,
    decision: &PeriodDecision,
    outcome: &mut PlanOutcome,
    changes: &mut Changes,
) {
    if let Some((_, why)) = decision.deferred {
        *outcome.deferred.entry(why).or_default() += 1;
    }
    let (Some(event), Some(stripe_customer)) = (decision.event, due.stripe_customer.clone()) else { return };
    outcome.events.push(PlannedEvent {
        customer: id.to_owned(),
        meter: meter.to_owned(),
        period_start: books::units::calendar::instant(period.start),
        billed_start: books::units::calendar::instant(event.billed.0),
        value: event.value,
    });
    changes.events.push(NewMeterEvent {
        customer: id.to_owned(),
        meter: meter.to_owned(),
        period_start: period.start,
        billed: event.billed,
        stripe_customer,
        event_name: to.mapping.event_name.clone(),
        value: event.value,
        timestamp: event.timestamp,
        send_before: event.send_before,
    });
}

/// What is to be stored of a period, if it says anything that is not stored.
#[expect(clippy::too_many_arguments, reason = "one step of one loop, taken out to be read")]
fn total(
    id: &str,
    meter: &str,
    due: &DueCustomer,
    period: &PeriodCase,
    decision: &PeriodDecision,
    used: Quantity,
    plan: &str,
    changes: &mut Changes,
) {
    let stored = due.totals.get(&(meter.to_owned(), period.start));
    let (deferred, because) = decision.deferred.map_or((0, None), |(amount, why)| (amount, Some(why.name())));
    let target = period.target.unwrap_or(LARGEST_VALUE);
    let sent = due
        .sent
        .get(meter)
        .is_some_and(|sent| sent.iter().any(|s| period.start <= s.timestamp && s.timestamp < period.end));
    // kept for every period that an invoice covers, so that the plan of that time is known later
    let nothing = used.is_zero() && !sent && decision.event.is_none() && deferred == 0;
    if stored.is_none() && nothing && period.billing.is_none() {
        return;
    }
    let same = stored.is_some_and(|s| {
        (s.plan.as_str(), s.period_end, s.target, s.deferred, s.deferred_reason.as_deref())
            == (plan, period.end, target, deferred, because)
    });
    if !same {
        changes.totals.push(NewTarget {
            customer: id.to_owned(),
            meter: meter.to_owned(),
            period_start: period.start,
            period_end: period.end,
            plan: plan.to_owned(),
            target,
            deferred,
            deferred_reason: because,
        });
    }
    // the invoice that takes a carried amount is to be compared too
    if let Some(event) = decision.event.filter(|e| e.billed.0 != period.start)
        && !due.totals.contains_key(&(meter.to_owned(), event.billed.0))
        && !changes.totals.iter().any(|t| t.customer == id && t.meter == meter && t.period_start == event.billed.0)
    {
        changes.totals.push(NewTarget {
            customer: id.to_owned(),
            meter: meter.to_owned(),
            period_start: event.billed.0,
            period_end: event.billed.1,
            plan: due.plan.clone(),
            target: 0,
            deferred: 0,
            deferred_reason: None,
        });
    }
}

/// Meters for which the account has nothing active, of those that are mapped.
pub(super) fn missing(inputs: &PlanInputs) -> BTreeSet<String> {
    inputs.meters.iter().filter(|(_, t)| t.stripe_id.is_none()).map(|(name, _)| name.clone()).collect()
}

/// A shared inputs.
pub(super) type SharedInputs = Arc<PlanInputs>;
