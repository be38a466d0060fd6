//! What is to be sent for one customer and one meter, and what has to wait. Pure.
//!
//! What the books say of a billing period, less everything that was sent for it and is not proven
//! not received, is what is to be sent. While the period's invoice can still take it, it goes
//! there; later it is carried forward to the invoice of the period that is open, because Stripe
//! puts late usage of a finalised period on no invoice at all
//! (<https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period>). A negative
//! amount never takes an invoice's total below zero, where Stripe would cut it off: what is beyond
//! waits in the books.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use books::limits::plan::{ReportMode, Terms};
use books::stripe::invoice::{LARGEST_VALUE, closes};
use books::units::calendar::minute;
use books::units::quantity::{Quantity, UNIT, divide_half_even};

/// Why an amount waits in the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeferReason {
    /// The customer has no Stripe id.
    NoStripeCustomer,
    /// No subscription has a period that could take it.
    NoSubscription,
    /// The subscription has no item for the meter, as far as `sync_stripe` knows.
    NoItem,
    /// The subscription bills nothing now (paused, incomplete).
    Inactive,
    /// The item's price is in another currency than the plan.
    Currency,
    /// It has more than 15 digits.
    TooLarge,
    /// It would take the invoice below zero.
    BelowZero,
    /// An event of this customer and meter was refused, and nobody has looked at it.
    Refused,
    /// Stripe has no active meter for it.
    NoMeter,
    /// The books were restored from a backup, and what the lost ones had sent of it is not taken
    /// over from Stripe's totals yet.
    Restored,
}

impl DeferReason {
    const ALL: [(Self, &'static str); 10] = [
        (Self::NoStripeCustomer, "no_stripe_customer"),
        (Self::NoSubscription, "no_subscription"),
        (Self::NoItem, "no_item"),
        (Self::Inactive, "inactive"),
        (Self::Currency, "currency"),
        (Self::TooLarge, "too_large"),
        (Self::BelowZero, "below_zero"),
        (Self::Refused, "refused"),
        (Self::NoMeter, "no_meter"),
        (Self::Restored, "restored"),
    ];

    /// All of them, as they are stored.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|(_, name)| *name)
    }

    /// As it is stored.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(deferred, _)| *deferred == self).map_or("no_meter", |(_, name)| name)
    }
}

/// What the books say, in Stripe's units, rounded half-even once; none when it has too many digits.
pub fn target(used: Quantity, terms: Terms, per_unit: Decimal) -> Option<i64> {
    let reported = match terms.report {
        ReportMode::None => return Some(0),
        ReportMode::Total => used,
        ReportMode::Overage => used - terms.included,
    };
    if reported <= Quantity::ZERO {
        return Some(0);
    }
    let product = reported.scaled().checked_mul(per_unit.mantissa())?;
    let divisor = UNIT.checked_mul(10_i128.checked_pow(per_unit.scale())?)?;
    let (units, _) = divide_half_even(product, divisor);
    i64::try_from(units).ok().filter(|units| *units <= LARGEST_VALUE)
}

/// A subscription, as far as billing goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodBilling {
    /// Whether events for its open period are billed now.
    pub active: bool,
    /// Currency of the item for the meter; none when there is no such item.
    pub item: Option<String>,
}

/// A billing period of the customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeriodCase {
    pub start: i64,
    pub end: i64,
    /// First instant that its invoice does not cover: its end, or when the subscription ended.
    pub until: i64,
    /// Its subscription; none for a calendar month, which no invoice covers.
    pub billing: Option<PeriodBilling>,
    /// What the books say; none when it has too many digits.
    pub target: Option<i64>,
    pub currency: String,
    pub used: Quantity,
    /// The plan whose terms hold for the period.
    pub plan: String,
}

/// An event that is not proven not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierEvent {
    /// The period for whose usage it is.
    pub period_start: i64,
    pub timestamp: i64,
    /// Start and end of the period on whose invoice it is.
    pub invoice: (i64, i64),
    pub value: i64,
    /// Whether Stripe may have it, or get it: not when it was refused or discarded.
    pub billed: bool,
    /// Whether Stripe is known to have it.
    pub accepted: bool,
}

/// Everything that a decision rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingCase {
    /// What holds everything back, if anything does.
    pub deferred: Option<DeferReason>,
    /// Periods that have begun, in order: those that may have changed, and the open one.
    pub periods: Vec<PeriodCase>,
    /// Events that are on an invoice, in order of their times.
    pub sent: Vec<EarlierEvent>,
}

/// An event to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventToSend {
    pub value: i64,
    /// Bounds of the period on whose invoice it goes.
    pub billed: (i64, i64),
    pub timestamp: i64,
    /// It is not sent from this instant on.
    pub send_before: i64,
}

/// What is decided for a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodDecision {
    /// What is to be sent.
    pub event: Option<EventToSend>,
    pub deferred: Option<(i64, DeferReason)>,
}

/// Stripe's totals are asked for from minute to minute, so an event never lies in the broken minute
/// at the end of its period: the next period's total would have it.
fn timestamp(period: &PeriodCase, now: i64) -> i64 {
    now.min(minute(period.until) - 1).max(period.start)
}

/// Where an amount for period `own` goes: the period, or what holds it back.
fn destination(case: &BillingCase, own: &PeriodCase, now: i64, grace: i64) -> Result<usize, DeferReason> {
    let open = |p: &PeriodCase| p.start <= now && now < p.until;
    let at = if now < closes(own.until, grace) {
        case.periods.iter().position(|p| p == own)
    } else {
        case.periods.iter().position(open)
    };
    let period = at.and_then(|at| case.periods.get(at)).ok_or(DeferReason::NoSubscription)?;
    let billing = period.billing.as_ref().ok_or(DeferReason::NoSubscription)?;
    // a period that is over is invoiced whatever became of the subscription
    if open(period) && !billing.active {
        return Err(DeferReason::Inactive);
    }
    match &billing.item {
        None => Err(DeferReason::NoItem),
        Some(currency) if *currency != own.currency => Err(DeferReason::Currency),
        Some(_) => at.ok_or(DeferReason::NoSubscription),
    }
}

/// What is to be done for each period, as of `now`; an invoice takes events for `grace` seconds
/// after its period.
pub fn decide(case: &BillingCase, now: i64, grace: i64) -> Vec<PeriodDecision> {
    let within = |p: &PeriodCase, at: i64| p.start <= at && at < p.end;
    // what each invoice has at least: positive events only once they are accepted, negative ones
    // from the start
    let sure = |s: &&EarlierEvent| s.billed && (s.accepted || s.value < 0);
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
            decisions.push(PeriodDecision { event: None, deferred: Some((LARGEST_VALUE, DeferReason::TooLarge)) });
            continue;
        };
        if delta == 0 {
            decisions.push(PeriodDecision::default());
            continue;
        }
        let at = case.deferred.map_or_else(|| destination(case, own, now, grace), Err);
        let (period, at) = match at {
            Ok(at) => (&case.periods[at], at),
            Err(why) => {
                decisions.push(PeriodDecision { event: None, deferred: Some((delta, why)) });
                continue;
            }
        };
        let value =
            if delta > 0 { delta } else { delta.max(i64::try_from(-floors[at].max(0)).unwrap_or(-LARGEST_VALUE)) };
        floors[at] += i128::from(value.min(0));
        let event = EventToSend {
            value,
            billed: (period.start, period.end),
            timestamp: timestamp(period, now),
            send_before: closes(period.until, grace),
        };
        decisions.push(PeriodDecision {
            event: (value != 0).then_some(event),
            deferred: (value != delta).then_some((delta - value, DeferReason::BelowZero)),
        });
    }
    decisions
}

/// Events, and how much of each is on its invoice. A final invoice that came out below zero,
/// because what Stripe had taken was not there later, was cut off at zero: so much of its negative
/// events, the newest first, did nothing and is still to be taken back.
fn effects(sent: &[EarlierEvent], now: i64, grace: i64) -> Vec<(&EarlierEvent, i64)> {
    let mut totals: BTreeMap<i64, i64> = BTreeMap::new();
    let is_final = |s: &EarlierEvent| s.accepted && s.billed && now >= s.invoice.1 + grace;
    for s in sent.iter().filter(|s| is_final(s)) {
        let total = totals.entry(s.invoice.0).or_default();
        *total = total.saturating_add(s.value);
    }
    let mut effects: Vec<(&EarlierEvent, i64)> = sent.iter().map(|s| (s, s.value)).collect();
    for (s, effect) in effects.iter_mut().rev().filter(|(s, _)| is_final(s) && s.value < 0) {
        let Some(total) = totals.get_mut(&s.invoice.0).filter(|total| **total < 0) else { continue };
        let cut = (*total).max(*effect);
        *effect -= cut;
        *total -= cut;
    }
    effects
}

/// When something that is deferred may be free by time alone: an invoice closes, or the next period
/// begins.
pub fn look_again(case: &BillingCase, now: i64, grace: i64) -> Option<i64> {
    let times = case.periods.iter().flat_map(|p| [closes(p.until, grace), p.end]);
    times.filter(|t| *t > now).min()
}

#[cfg(test)]
mod tests;
