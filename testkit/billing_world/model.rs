//! The naive model: what becomes of each unit of usage by docs/billing.md, day by day. Pure.
//!
//! It knows a world's facts: usage by day, plans and budgets with the instants of their changes,
//! and the periods of the subscriptions at Stripe. It shares no code with the books, goes forward
//! from one day to the next, and never looks ahead. So no later change of a plan, a budget, a
//! subscription or an anchor can give back in it what was due, or bill what was included.
//!
//! Exact, up to rounding ([`TOLERANCE`]), for each customer, meter and billing period:
//!
//! - used, within the plan, not priced, and what is beyond the plan and priced (billed + house);
//! - of the latter, how much is house. If both meters share one budget, the document does not say
//!   which of them is billed first: then what both cost together is exact.
//!
//! Bounded: if a customer has budgets for all meters and for single ones, what is billed first also
//! decides how much is left of the other. Then no more than each budget is billed.
//!
//! Not in the model, because it depends on when things became known: on which invoice an amount is,
//! and what waits. `check` says of these that accepted and deferred amounts are the target, that
//! invoices have what was accepted, and which reasons an amount may be deferred for.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::scene::{DAY, METERS, UNIT, at};

/// By how much books and model may differ, in 10⁻¹⁰ units: each rounds a share once a stretch or
/// day.
pub const TOLERANCE: i128 = 1000;
/// A minor unit of money has so many parts; prices are in these.
pub const CENT: i128 = 1000;

/// Which part of a meter's usage a plan reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Total,
    Overage,
    Nothing,
}

/// What a plan says of a meter: units included, and thousandths of a cent for each further one.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub included: i64,
    pub price: Option<i64>,
    pub report: Report,
}

const fn terms(included: i64, price: Option<i64>, report: Report) -> Option<Terms> {
    Some(Terms { included, price, report })
}

/// The plans of a world, each with its terms for [`METERS`]; none: the plan lacks the meter.
pub const PLANS: [(&str, [Option<Terms>; 2]); 5] = [
    ("pro", [terms(0, Some(1000), Report::Total), terms(150, Some(2000), Report::Overage)]),
    ("big", [terms(700, Some(800), Report::Overage), terms(1100, Some(1500), Report::Overage)]),
    ("tiers", [terms(400, Some(1000), Report::Total), terms(300, Some(2000), Report::Total)]),
    // the price of storage is Stripe's alone
    ("open", [terms(0, Some(1200), Report::Overage), terms(250, None, Report::Overage)]),
    ("bare", [None, terms(200, None, Report::Nothing)]),
];

/// A budget for what is beyond the plan, as it was set at an instant.
#[derive(Clone, Debug)]
pub struct Budget {
    pub from: i64,
    /// The meter that it is for; empty for all together.
    pub meter: &'static str,
    /// In cents; none: it was removed.
    pub amount: Option<i64>,
    pub currency: &'static str,
}

/// Who pays for what is beyond the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    House,
    Customer,
}

/// What is known of a customer apart from the books.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Whether the books have the customer's row.
    pub has_row: bool,
    /// Plans, each with the instant from which it holds. The first one holds before, too.
    pub plans: Vec<(i64, &'static str)>,
    pub budgets: Vec<Budget>,
    /// The Stripe customers that the books were given, the present one last.
    pub stripe_ids: Vec<String>,
    /// All Stripe customers.
    pub at_stripe: Vec<String>,
    /// Number of the newest id that was made at Stripe.
    pub made: u32,
    /// When Stripe began a period that the one before it did not announce: of another
    /// subscription, or because the billing cycle got another anchor.
    pub unannounced: Vec<i64>,
}

/// A billing period: of a subscription, or a calendar month or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: i64,
    pub end: i64,
    pub subscription: Option<String>,
    /// The month that it is part of.
    pub month: (i64, i64),
}

/// What became of the usage of a meter in a period, in 10⁻¹⁰ units.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    pub used: i128,
    pub within: i128,
    /// Beyond the plan and priced, whoever pays.
    pub priced: i128,
    /// The part of it that the company pays.
    pub house: i128,
    pub not_priced: i128,
    /// The part of `within` that goes to Stripe, whose tiers leave it free.
    pub free_at_stripe: i128,
    /// What the billed part of `priced` costs, in 10⁻¹⁰ thousandths of a cent.
    pub cost: i128,
    /// What was used in advance before and after the period.
    pub advance: (i128, i128),
}

/// A period, and what became of its usage.
#[derive(Clone, Debug)]
pub struct Owed {
    pub span: Span,
    /// By place in [`METERS`].
    pub meters: [Parts; 2],
    /// Whether budgets were ever set for all meters together, and for each one.
    pub limited: [bool; 3],
    /// The most that all meters together, and each one, may cost by budgets that held on every day,
    /// in cents.
    pub limits: (Option<i64>, [Option<i64>; 2]),
    /// Whether a plan began on one of its days.
    pub changes_plan: bool,
}

/// Usage in 10⁻¹⁰ units by meter and day.
pub type Usage = BTreeMap<(&'static str, i64), i64>;

fn date(t: i64) -> Date {
    at(t).to_zoned(TimeZone::UTC).date()
}

fn second(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()
}

/// The periods from the calendar month of `first` until `now`, one after another: those of the
/// subscriptions, and calendar months between them.
pub fn timeline(of_subscriptions: &[Span], first: i64, now: i64) -> Vec<Span> {
    let mut found = vec![];
    let mut t = second(date(first).first_of_month());
    while t <= now {
        let span = of_subscriptions.iter().find(|s| s.start <= t && t < s.end).cloned().unwrap_or_else(|| {
            let month = (second(date(t).first_of_month()), second(date(t).last_of_month().tomorrow().unwrap()));
            let next = of_subscriptions.iter().map(|s| s.start).filter(|start| *start > t).min();
            Span { start: t, end: month.1.min(next.unwrap_or(i64::MAX)), subscription: None, month }
        });
        t = span.end;
        found.push(span);
    }
    found
}

/// The period of a day: a subscription's that has its last second, or else its first; without a
/// subscription the period that has its last second.
fn owner(periods: &[Span], day: i64) -> Option<usize> {
    let holds = |second: i64| periods.iter().position(|p| p.start <= second && second < p.end);
    // the day on which the last period ends is not over
    let (first, last) = (holds(day * DAY), holds(day * DAY + DAY - 1)?);
    let billed = |at: &usize| periods[*at].subscription.is_some();
    Some(last).filter(billed).or(first.filter(billed)).or(Some(last))
}

impl Facts {
    /// The plans that a customer has on a day: more than one on the day of a change.
    fn plans_on(&self, day: i64) -> Vec<[Option<Terms>; 2]> {
        let before = self.plans.iter().rfind(|(from, _)| *from <= day * DAY).or(self.plans.first());
        let during = self.plans.iter().filter(|(from, _)| day * DAY < *from && *from < (day + 1) * DAY);
        let named = |(_, name): &(i64, &str)| PLANS.iter().find(|(plan, _)| plan == name).unwrap().1;
        before.into_iter().chain(during).map(named).collect()
    }

    /// The budget for `meter` on a day in cents; the outer none: none was ever set before the day,
    /// so nothing was promised. The larger one holds on the day of a change.
    fn budget_on(&self, day: i64, meter: &str) -> Option<Option<i64>> {
        self.budgets.iter().find(|b| b.from <= day * DAY)?;
        // all plans are in USD, and a budget in another currency is worth nothing
        let worth = |b: &Budget| b.amount.map(|amount| if b.currency == "USD" { amount } else { 0 });
        let of_meter = || self.budgets.iter().filter(|b| b.meter == meter);
        let before = of_meter().rfind(|b| b.from <= day * DAY).and_then(worth);
        let during = of_meter().filter(|b| day * DAY < b.from && b.from < (day + 1) * DAY).filter_map(worth);
        Some(before.into_iter().chain(during).max())
    }

    /// How much more of a meter may be billed on a day, when all meters and this one have cost so
    /// much in the period; none: there is no limit. Of two budgets the tighter one counts, and
    /// without any that still holds it is nothing.
    fn room_on(&self, day: i64, meter: &str, (all, own): (i128, i128)) -> Option<i128> {
        let left = |amount: Option<i64>, spent: i128| {
            amount.map(|cents| (i128::from(cents) * CENT * i128::from(UNIT) - spent).max(0))
        };
        let (of_all, of_meter) = (self.budget_on(day, "")?, self.budget_on(day, meter)?);
        Some([left(of_all, all), left(of_meter, own)].into_iter().flatten().min().unwrap_or(0))
    }
}

/// A day of a period: the plans that hold, and how many days of the month are left with it.
struct DayTerms {
    plans: Vec<[Option<Terms>; 2]>,
    to_come: i128,
    month_days: i128,
}

/// A meter's amounts in a period so far.
#[derive(Clone, Copy, Default)]
struct Running {
    parts: Parts,
    /// Included amounts of the days so far, of those on which the books grant them.
    earned: i128,
    /// What was within these.
    granted: i128,
}

impl Running {
    /// Adds a day's usage, and returns how much of it is beyond the plan and has a price, and the
    /// price.
    fn use_some(&mut self, meter: usize, used: i128, day: &DayTerms) -> (i128, Option<i128>) {
        let terms = day.plans.last().unwrap()[meter];
        let included = day.plans.iter().filter_map(|plan| plan[meter]).map(|t| i128::from(t.included)).max();
        let included = included.unwrap_or(0) * i128::from(UNIT);
        let report = terms.map_or(Report::Nothing, |t| t.report);
        let left = match report {
            // Stripe's tiers leave it free, the whole amount on each invoice
            Report::Total => included - self.parts.free_at_stripe,
            _ => (self.earned + included * day.to_come) / day.month_days - self.parts.advance.0 - self.granted,
        };
        let within = used.min(left.max(0));
        self.parts.used += used;
        self.parts.within += within;
        if report == Report::Total {
            self.parts.free_at_stripe += within;
        } else {
            self.granted += within;
            self.earned += included;
        }
        if report == Report::Nothing {
            self.parts.not_priced += used - within;
            return (0, None);
        }
        self.parts.priced += used - within;
        (used - within, terms.and_then(|t| t.price).map(i128::from))
    }
}

/// What became of a customer's usage in each period.
pub fn owed(facts: &Facts, usage: &Usage, periods: &[Span], beyond: Beyond) -> Vec<Owed> {
    let days = periods.first().map_or(0, |p| p.start / DAY)..periods.last().map_or(0, |p| p.end / DAY + 1);
    let mut own: Vec<Vec<i64>> = vec![vec![]; periods.len()];
    for day in days {
        if let Some(at) = owner(periods, day) {
            own[at].push(day);
        }
    }
    let (mut found, mut advance) = (vec![], [0; 2]);
    for (span, days) in periods.iter().zip(own) {
        let owed = of_period(facts, usage, (span, &days), advance, beyond);
        advance = owed.meters.map(|parts| parts.advance.1);
        found.push(owed);
    }
    found
}

fn of_period(facts: &Facts, usage: &Usage, (span, days): (&Span, &[i64]), advance: [i128; 2], beyond: Beyond) -> Owed {
    let (first, last) = (days.first().copied().unwrap_or(0), days.last().copied().unwrap_or(-1));
    let (month_start, month_end) = (span.month.0.div_euclid(DAY), span.month.1.div_euclid(DAY));
    // the month's last day and length if nothing had cut it
    let planned = if span.end == span.month.1 { last } else { last.max(month_end - 1) };
    let month = if span.start == span.month.0 { planned - first + 1 } else { month_end - month_start };
    let month_days = i128::from(month.max(1));
    let begin = |advance| Running { parts: Parts { advance: (advance, 0), ..Parts::default() }, ..Running::default() };
    let mut meters = advance.map(begin);
    let mut spent = 0;
    for day in days {
        let to_come = i128::from(planned - day + 1).min(month_days);
        let terms = DayTerms { plans: facts.plans_on(*day), to_come, month_days };
        for (at, meter) in meters.iter_mut().enumerate() {
            let used = i128::from(usage.get(&(METERS[at], *day)).copied().unwrap_or(0));
            let (amount, Some(price)) = meter.use_some(at, used, &terms) else { continue };
            let room = facts.room_on(*day, METERS[at], (spent, meter.parts.cost)).filter(|_| beyond == Beyond::House);
            let billed = room.map_or(amount, |room| amount.min(room / price));
            meter.parts.house += amount - billed;
            meter.parts.cost += billed * price;
            spent += billed * price;
        }
    }
    for meter in &mut meters {
        let parts = &mut meter.parts;
        parts.advance.1 = (parts.advance.0 + meter.granted - meter.earned / month_days).max(0);
    }
    let limit = |meter| limit(facts, days, meter).filter(|_| beyond == Beyond::House);
    Owed {
        limits: (limit(""), METERS.map(limit)),
        limited: ["", METERS[0], METERS[1]].map(|meter| facts.budgets.iter().any(|b| b.meter == meter)),
        changes_plan: facts.plans.iter().skip(1).any(|(from, _)| days.contains(&from.div_euclid(DAY))),
        meters: meters.map(|running| running.parts),
        span: span.clone(),
    }
}

/// The largest budget of a meter on some days, in cents; none if there is none on one of them.
fn limit(facts: &Facts, days: &[i64], meter: &str) -> Option<i64> {
    let amounts: Option<Vec<i64>> = days.iter().map(|day| facts.budget_on(*day, meter).flatten()).collect();
    amounts.and_then(|amounts| amounts.into_iter().max())
}
