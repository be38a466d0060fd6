//! Decides which events are planned for one customer and meter, and which amounts are deferred.
//! Pure.
//!
//! The amount for a billing period is its billing target, less everything that counts as sent for
//! it. While the period's own invoice is open or in grace, the amount goes on that invoice. Later,
//! or if the period has no invoice, it is carried forward to the invoice of the open period,
//! because Stripe puts late usage of a finalised period on no invoice
//! (<https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period>). A
//! negative amount never takes an invoice's total below zero, because Stripe would cut the total
//! off at zero. The rest of the amount is deferred.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use books::stripe::invoice::{InvoicePeriod, LARGEST_VALUE, closes};
use books::units::calendar::minute;

/// Why an amount is deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeferReason {
    /// The customer has no Stripe id.
    NoStripeCustomer,
    /// No subscription has a period that can take it.
    NoSubscription,
    /// The subscription has no item for the meter, as `sync_stripe` last read it.
    NoItem,
    /// The subscription bills nothing now (paused, incomplete).
    Inactive,
    /// More than one item of the Stripe customer carries the meter: Stripe would bill it as often.
    SeveralItems,
    /// The item's price is in another currency than the plan.
    Currency,
    /// It has more than 15 digits, or the books cannot hold the usage of the period.
    TooLarge,
    /// It would take the invoice below zero.
    BelowZero,
    /// An event of this customer and meter was refused, and a person has not decided about it yet.
    Refused,
    /// Stripe has no active meter for it.
    NoMeter,
}

impl DeferReason {
    const ALL: [Self; 10] = [
        Self::NoStripeCustomer,
        Self::NoSubscription,
        Self::NoItem,
        Self::SeveralItems,
        Self::Inactive,
        Self::Currency,
        Self::TooLarge,
        Self::BelowZero,
        Self::Refused,
        Self::NoMeter,
    ];

    /// The names in the database.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(Self::name)
    }

    /// The reason with this name in the database.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What is missing, and what to do.
    pub fn words(self) -> &'static str {
        match self {
            Self::NoStripeCustomer => "the customer has no Stripe id (customers.stripe_customer_id)",
            Self::NoSubscription => "no subscription's invoice can take it; it goes on the next one there is",
            Self::NoItem => {
                "the subscription has no item for the meter: add the price to it, then `meter run sync-stripe`"
            }
            Self::SeveralItems => {
                "several items of the Stripe customer carry the meter, so Stripe would bill it as often: `meter stripe check`"
            }
            Self::Inactive => "the subscription is paused or incomplete; it goes out when it is active again",
            Self::Currency => "the item's price is in another currency than the plan: one of them must change",
            Self::TooLarge => "the period has more usage than Stripe (15 digits) or the books (922 million units) take",
            Self::BelowZero => {
                "a correction that would take the invoice below zero; it goes out when there is usage to set it against"
            }
            Self::Refused => "Stripe refused an event of this customer and meter: `meter events list --state refused`",
            Self::NoMeter => "Stripe has no active meter for it: `meter stripe check`",
        }
    }

    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoStripeCustomer => "no_stripe_customer",
            Self::NoSubscription => "no_subscription",
            Self::NoItem => "no_item",
            Self::SeveralItems => "several_items",
            Self::Inactive => "inactive",
            Self::Currency => "currency",
            Self::TooLarge => "too_large",
            Self::BelowZero => "below_zero",
            Self::Refused => "refused",
            Self::NoMeter => "no_meter",
        }
    }
}

/// What planning reads of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodBilling {
    /// Whether events for its open period are billed now.
    pub active: bool,
    /// Currency of the item for the meter; none when there is no such item.
    pub item: Option<String>,
    /// How many items of the Stripe customer carry the meter at the time of the period's events.
    pub items: u64,
}

/// A billing period of the customer. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodCase {
    pub start: i64,
    pub end: i64,
    /// First instant that its invoice does not cover: its end, or when the subscription ended.
    pub until: i64,
    /// Its subscription; none for a calendar month, which has no invoice.
    pub billing: Option<PeriodBilling>,
    /// The billing target; none if it is [`DeferReason::TooLarge`].
    pub target: Option<i64>,
    /// The currency of the plan that sets the terms of the period.
    pub currency: String,
}

/// An event that counts as sent, as `books/stripe/placement.rs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentEvent {
    /// Start of the period in which the usage was.
    pub period_start: i64,
    pub timestamp: i64,
    /// Start and end of the time that its invoice covers.
    pub invoice: InvoicePeriod,
    pub value: i64,
    /// Whether Stripe has it or may still get it. False for a refused or discarded event.
    pub billed: bool,
    /// Whether Stripe is known to have it.
    pub accepted: bool,
}

/// The input of [`decide`]: one customer and one meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingCase {
    /// Why everything is deferred, if it is.
    pub deferred: Option<DeferReason>,
    /// Periods that have begun, in order: those that may have changed, and the open one.
    pub periods: Vec<PeriodCase>,
    /// Events that are on an invoice, in order of their times.
    pub sent: Vec<SentEvent>,
}

/// An event to be stored. Instants are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventToStore {
    pub value: i64,
    /// Start and end of the invoiced period.
    pub billed: InvoicePeriod,
    pub timestamp: i64,
    /// No attempt begins at or after this instant.
    pub send_before: i64,
}

/// The decision for a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodDecision {
    pub event: Option<EventToStore>,
    pub deferred: Option<Deferral>,
}

/// An amount that cannot be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deferral {
    pub amount: i64,
    pub reason: DeferReason,
}

/// The time of an event. Stripe gives totals between whole minutes, so an event never lies in the
/// last, incomplete minute of its period: the next period's total would include it.
pub(super) fn timestamp((start, until): (i64, i64), now: i64) -> i64 {
    now.min(minute(until) - 1).max(start)
}

/// The index of the period that is invoiced with an amount for period `own`, or why the amount is
/// deferred.
fn destination(case: &BillingCase, own: &PeriodCase, now: i64, grace: i64) -> Result<usize, DeferReason> {
    let open = |p: &PeriodCase| p.start <= now && now < p.until;
    // a period that is over and whose events would be billed twice is billed by the open one
    let twice = own.billing.as_ref().is_some_and(|billing| billing.items > 1) && !open(own);
    let at = if own.billing.is_some() && !twice && now < closes(own.until, grace) {
        case.periods.iter().position(|p| p == own)
    } else {
        case.periods.iter().position(open)
    };
    let period = at.and_then(|at| case.periods.get(at)).ok_or(DeferReason::NoSubscription)?;
    let billing = period.billing.as_ref().ok_or(DeferReason::NoSubscription)?;
    // a period that is over is invoiced in every state of the subscription
    if open(period) && !billing.active {
        return Err(DeferReason::Inactive);
    }
    match &billing.item {
        None => Err(DeferReason::NoItem),
        Some(_) if billing.items > 1 => Err(DeferReason::SeveralItems),
        Some(currency) if *currency != own.currency => Err(DeferReason::Currency),
        Some(_) => at.ok_or(DeferReason::NoSubscription),
    }
}

/// Decides for each period, as of `now`. An invoice takes events for `grace` seconds after its
/// period.
pub fn decide(case: &BillingCase, now: i64, grace: i64) -> Vec<PeriodDecision> {
    let within = |p: &PeriodCase, at: i64| p.start <= at && at < p.end;
    // the smallest possible total of each invoice: positive events count once they are accepted,
    // negative ones at once
    let sure = |s: &&SentEvent| s.billed && (s.accepted || s.value < 0);
    let floor = |p: &PeriodCase| -> i128 {
        case.sent.iter().filter(|s| within(p, s.timestamp)).filter(sure).map(|s| i128::from(s.value)).sum()
    };
    let effects = effects(&case.sent, now, grace);
    let mut floors: Vec<i128> = case.periods.iter().map(floor).collect();
    let mut decisions = vec![];
    for own in &case.periods {
        let of_period = effects.iter().filter(|(s, _)| within(own, s.period_start));
        let sent: i128 = of_period.map(|(_, effect)| i128::from(*effect)).sum();
        let delta = own.target.map(|target| i128::from(target) - sent);
        let delta = delta.and_then(|d| i64::try_from(d).ok()).filter(|d| (-LARGEST_VALUE..=LARGEST_VALUE).contains(d));
        let Some(delta) = delta else {
            decisions.push(PeriodDecision {
                event: None,
                deferred: Some(Deferral { amount: LARGEST_VALUE, reason: DeferReason::TooLarge }),
            });
            continue;
        };
        if delta == 0 {
            decisions.push(PeriodDecision::default());
            continue;
        }
        let at = case.deferred.map_or_else(|| destination(case, own, now, grace), Err);
        let (period, at) = match at {
            Ok(at) => (&case.periods[at], at),
            Err(reason) => {
                decisions.push(PeriodDecision { event: None, deferred: Some(Deferral { amount: delta, reason }) });
                continue;
            }
        };
        let value =
            if delta > 0 { delta } else { delta.max(i64::try_from(-floors[at].max(0)).unwrap_or(-LARGEST_VALUE)) };
        floors[at] += i128::from(value.min(0));
        let event = EventToStore {
            value,
            billed: InvoicePeriod { start: period.start, end: period.end },
            timestamp: timestamp((period.start, period.until), now),
            send_before: closes(period.until, grace),
        };
        decisions.push(PeriodDecision {
            event: (value != 0).then_some(event),
            deferred: (value != delta).then_some(Deferral { amount: delta - value, reason: DeferReason::BelowZero }),
        });
    }
    decisions
}

/// Events, and the part of each that has an effect on its invoice. A final invoice comes out below
/// zero if events that Stripe had taken turned out to be missing. Stripe cuts it off at zero. Part
/// of its negative events, the newest first, then had no effect and is still to be taken back.
fn effects(sent: &[SentEvent], now: i64, grace: i64) -> Vec<(&SentEvent, i64)> {
    let mut totals: BTreeMap<i64, i64> = BTreeMap::new();
    let is_final = |s: &SentEvent| s.accepted && s.billed && now >= s.invoice.end + grace;
    for s in sent.iter().filter(|s| is_final(s)) {
        let total = totals.entry(s.invoice.start).or_default();
        *total = total.saturating_add(s.value);
    }
    let mut effects: Vec<(&SentEvent, i64)> = sent.iter().map(|s| (s, s.value)).collect();
    for (s, effect) in effects.iter_mut().rev().filter(|(s, _)| is_final(s) && s.value < 0) {
        let Some(total) = totals.get_mut(&s.invoice.start).filter(|total| **total < 0) else { continue };
        let cut = (*total).max(*effect);
        *effect -= cut;
        *total -= cut;
    }
    effects
}

/// When a deferred amount may become sendable through time alone: an invoice closes, or the next
/// period begins.
pub fn look_again(case: &BillingCase, now: i64, grace: i64) -> Option<i64> {
    let times = case.periods.iter().flat_map(|p| [closes(p.until, grace), p.end]);
    times.filter(|t| *t > now).min()
}

#[cfg(test)]
mod tests;
