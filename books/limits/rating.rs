//! Rating: what becomes of the usage of a billing period. Pure.
//!
//! Every unit ends in one of four parts: *within* the plan, *billable*, *house* (beyond the overage
//! budget: the company pays) or *not priced* (the plan reports no usage beyond what it includes).
//!
//! **Included amounts are granted in advance.** At the start of a period its whole share of the
//! month may be used: all of a whole month, else the share by days. What was within the plan when
//! it was used stays so. If a cancellation, a new anchor or another plan then leaves fewer days
//! of that grant, what was used in advance is taken off the next included amount. So no change
//! gives back overage that was due, none bills what was included when it was used, and cutting a
//! month into periods grants no more than the month. Lago and Orb make an invoice at the change of
//! a plan; here Stripe makes the invoices, so the difference waits for the next grant.
//!
//! `report = "total"` leaves the included amount to the tiers of Stripe's price, which grant it in
//! full on each invoice: there nothing is prorated. Days with such a plan are counted apart from
//! the others of a period.

use std::collections::BTreeMap;

use crate::store::connection::Row;

use crate::limits::overage_billing::OverageBilling;
use crate::limits::plan::{Plan, Plans, ReportMode, Terms};
use crate::limits::terms::{Caps, Stretch, TermsHistory};
use crate::store::error::BooksError;
use crate::units::calendar::Day;
use crate::units::money::{Cost, Currency};
use crate::units::quantity::Quantity;

/// A billing period to be rated. `start` is in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodDays {
    pub start: i64,
    pub first: Day,
    pub last: Day,
    /// Its last day if nothing had cut it.
    pub planned_last: Day,
    /// Days of the month that it was to be part of when it began.
    pub month_days: i64,
}

impl PeriodDays {
    /// The last two are none until `roll_periods` has computed them.
    pub fn new(start: i64, first: Day, last: Day, planned_last: Option<Day>, month_days: Option<i64>) -> Self {
        let month_days = month_days.unwrap_or_else(|| Stretch { first, last }.days());
        Self { start, first, last, planned_last: planned_last.unwrap_or(last), month_days }
    }

    /// Reads first day, last day, planned last day and month's days from column `at` on.
    pub(crate) fn read(start: i64, row: &Row, at: i32) -> Result<Self, BooksError> {
        let day =
            |text: String| text.parse::<Day>().map_err(|e| BooksError::Integrity(format!("billing_periods: {e}")));
        let (first, last) = (day(row.get(at)?)?, day(row.get(at + 1)?)?);
        let planned_last = row.get::<Option<String>>(at + 2)?.map(day).transpose()?;
        Ok(Self::new(start, first, last, planned_last, row.get(at + 3)?))
    }
}

/// What a customer agreed to, for one run of rating.
#[derive(Clone, Copy, Debug)]
pub struct Agreement<'a> {
    pub plans: &'a Plans,
    pub history: &'a TermsHistory,
    pub overage: OverageBilling,
}

/// What became of the usage of one meter in one period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rated {
    pub used: Quantity,
    pub within: Quantity,
    pub billable: Quantity,
    pub house: Quantity,
    pub not_priced: Quantity,
    /// What is reported to Stripe: what is billable, and with `report = "total"` what is within.
    pub reported: Quantity,
    /// What was used in advance of the days that are over; it is taken off the next grant.
    pub advance: Quantity,
    /// What the plan includes in the period, as far as it can be used.
    pub included: Quantity,
    /// The usage of the period up to which the last stretch is within the plan.
    pub included_until: Quantity,
    /// What the overage before the last stretch cost.
    pub cost_before: Cost,
    pub billable_cost: Cost,
    pub house_cost: Cost,
    /// The plan at the end of the period, and its currency.
    pub plan: String,
    pub currency: Currency,
}

/// The usage of a stretch by meter.
pub type StretchUsage = BTreeMap<(String, Day), Quantity>;

/// Rates a period of a customer for `meters`. `usage` is by meter and first day of each of the
/// period's [`TermsHistory::stretches`]; `advance` by meter, as the period before left it. None if
/// the customer's plan is unknown now, or no plan that the customer ever had is known.
pub fn rate(
    period: PeriodDays,
    agreement: Agreement<'_>,
    meters: &[String],
    usage: &StretchUsage,
    advance: &BTreeMap<String, Quantity>,
) -> Option<BTreeMap<String, Rated>> {
    agreement.plans.at(&agreement.history.plans.last()?.plan, period.start)?;
    let stretches = agreement.history.stretches(period.first, period.last);
    let held = |stretch: &Stretch| -> Option<TermedStretch<'_>> {
        let known = |name: &&str| agreement.plans.at(name, period.start);
        let mut plans: Vec<&Plan> = agreement.history.plans_on(*stretch).iter().filter_map(known).collect();
        // a name that no plan has was a mistake: what it was set right to counts
        if plans.is_empty() {
            plans.push(agreement.history.plans_after(*stretch).iter().find_map(known)?);
        }
        let currency = plans.last()?.currency.to_string();
        let caps = match agreement.overage {
            OverageBilling::UpToBudget => agreement.history.caps_on(*stretch, &currency),
            OverageBilling::All => None,
        };
        Some(TermedStretch { stretch: *stretch, plans, caps })
    };
    let held = stretches.iter().map(held).collect::<Option<Vec<_>>>()?;
    // a period without days still has a plan
    let days = Stretch { first: period.first, last: period.last.max(period.first) };
    let on = agreement.history.plans_on(days);
    let held_last = on.iter().rev().find_map(|name| agreement.plans.at(name, period.start));
    let set_right =
        || agreement.history.plans_after(days).iter().find_map(|name| agreement.plans.at(name, period.start));
    let plan = held_last.or_else(set_right)?;
    let mut meters: Vec<MeterRating<'_>> = meters
        .iter()
        .map(|meter| {
            let of = |s: &TermedStretch<'_>| usage.get(&(meter.clone(), s.stretch.first)).copied().unwrap_or_default();
            MeterRating::new(
                meter,
                held.iter().map(of).collect(),
                advance.get(meter).copied().unwrap_or_default(),
                plan,
                period.month_days,
            )
        })
        .collect();
    let mut spent = Cost::ZERO;
    for (at, stretch) in held.iter().enumerate() {
        for meter in &mut meters {
            meter.add(at, stretch, period, &mut spent);
        }
    }
    Some(meters.into_iter().map(|meter| (meter.meter.to_owned(), meter.done())).collect())
}

/// A stretch with the plans and budgets that held on it.
struct TermedStretch<'a> {
    stretch: Stretch,
    plans: Vec<&'a Plan>,
    caps: Option<Caps>,
}

impl TermedStretch<'_> {
    /// The terms of a meter at the end of the stretch.
    fn terms(&self, meter: &str) -> Option<Terms> {
        self.plans.last().and_then(|plan| plan.meters.get(meter)).copied()
    }

    /// The largest included amount among the plans that held.
    fn included(&self, meter: &str) -> Quantity {
        let included = |plan: &&Plan| plan.meters.get(meter).map_or(Quantity::ZERO, |terms| terms.included);
        self.plans.iter().map(included).max().unwrap_or_default()
    }

    /// How much more the overage of a meter may cost; none = there is no limit.
    fn room(&self, meter: &str, spent: Cost, of_meter: Cost) -> Option<Cost> {
        let caps = self.caps.as_ref()?;
        let currency = self.plans.last()?.currency;
        let left = |minor: i64, spent: Cost| Cost::of_minor(minor, currency).less(spent);
        let own = caps.meters.get(meter).map(|minor| left(*minor, of_meter));
        match (caps.all.map(|minor| left(minor, spent)), own) {
            (Some(all), Some(own)) => Some(all.min(own)),
            (None, None) => Some(Cost::ZERO),
            (all, own) => all.or(own),
        }
    }
}

/// The rating of one meter, stretch by stretch.
struct MeterRating<'a> {
    meter: &'a str,
    usage: Vec<Quantity>,
    advance: Quantity,
    /// Included amounts of the days so far, each times its days, but for days with
    /// `report = "total"`.
    earned: i128,
    /// What was within these amounts.
    granted: Quantity,
    /// What Stripe's tiers leave free of the days with `report = "total"`.
    free_at_stripe: Quantity,
    month_days: i128,
    /// What is beyond the plan so far.
    beyond: Quantity,
    rated: Rated,
}

impl<'a> MeterRating<'a> {
    fn new(meter: &'a str, usage: Vec<Quantity>, advance: Quantity, plan: &Plan, month_days: i64) -> Self {
        let used = usage.iter().copied().sum();
        let zero = Quantity::ZERO;
        let rated = Rated {
            used,
            within: zero,
            billable: zero,
            house: zero,
            not_priced: zero,
            reported: zero,
            advance: zero,
            included: zero,
            included_until: zero,
            cost_before: Cost::ZERO,
            billable_cost: Cost::ZERO,
            house_cost: Cost::ZERO,
            plan: plan.name.clone(),
            currency: plan.currency,
        };
        Self {
            meter,
            usage: net(usage),
            advance,
            earned: 0,
            granted: zero,
            free_at_stripe: zero,
            month_days: i128::from(month_days.max(1)),
            beyond: zero,
            rated,
        }
    }

    fn add(&mut self, at: usize, stretch: &TermedStretch<'_>, period: PeriodDays, spent: &mut Cost) {
        let used = self.usage[at];
        let terms = stretch.terms(self.meter);
        let included = stretch.included(self.meter);
        let report = terms.map_or(ReportMode::None, |terms| terms.report);
        let to_planned_end = i64::from(period.planned_last.epoch()) - i64::from(stretch.stretch.first.epoch()) + 1;
        let for_days = |days: i64| included.scaled() * i128::from(days.clamp(0, period.month_days));
        let left = match report {
            ReportMode::Total => included - self.free_at_stripe,
            _ => self.share(self.earned + for_days(to_planned_end)) - self.advance - self.granted,
        };
        let left = left.max(Quantity::ZERO);
        // below 0 only if AWS took back more than it had billed in the whole period
        let within = used.min(left);
        let beyond = used - within;
        if report == ReportMode::Total {
            self.free_at_stripe += within;
            self.rated.reported += within;
        } else {
            self.granted += within;
            self.earned += for_days(stretch.stretch.days());
        }
        self.rated.included = self.rated.within + left;
        self.rated.included_until = self.rated.included + self.beyond;
        self.rated.cost_before = self.rated.billable_cost.plus(self.rated.house_cost);
        self.rated.within += within;
        self.beyond += beyond;
        let price = terms.and_then(|terms| terms.billed_price(self.meter));
        match (report, price) {
            (ReportMode::None, _) => self.rated.not_priced += beyond,
            // the price is Stripe's alone, so nobody can say what the overage costs
            (_, None) => self.bill(beyond),
            (_, Some(price)) => {
                let room = stretch.room(self.meter, *spent, self.rated.billable_cost);
                let billable = room.map_or(beyond, |room| price.affordable(room).map_or(beyond, |q| q.min(beyond)));
                let cost = Cost::of(billable, price);
                self.bill(billable);
                self.rated.billable_cost = self.rated.billable_cost.plus(cost);
                *spent = spent.plus(cost);
                self.rated.house += beyond - billable;
                self.rated.house_cost = self.rated.house_cost.plus(Cost::of(beyond - billable, price));
            }
        }
    }

    fn bill(&mut self, billable: Quantity) {
        self.rated.billable += billable;
        self.rated.reported += billable;
    }

    fn done(mut self) -> Rated {
        self.rated.advance = (self.advance + self.granted - self.share(self.earned)).max(Quantity::ZERO);
        self.rated
    }

    /// The share of a month in amounts times days.
    fn share(&self, amounts: i128) -> Quantity {
        Quantity::from_scaled(amounts / self.month_days)
    }
}

/// What AWS takes back lowers the usage before it, and only if there is too little the usage after.
fn net(mut usage: Vec<Quantity>) -> Vec<Quantity> {
    let last = usage.len().saturating_sub(1);
    let backwards = (0..last).rev().map(|at| (at + 1, at));
    for (from, into) in backwards.chain((0..last).map(|at| (at, at + 1))) {
        let back = usage[from].min(Quantity::ZERO);
        usage[into] += back;
        usage[from] += -back;
    }
    usage
}

#[cfg(test)]
mod tests;
