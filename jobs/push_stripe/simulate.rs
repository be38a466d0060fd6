//! What other prices would have made of past billing periods.
//!
//! Periods are loaded and rated by the code of a push, once with the plans that hold and once with
//! those that are tried; so with the same plans both sides are the same. A line costs what Stripe
//! would charge for the period's own usage: corrections of earlier periods are on the period whose
//! usage they correct, also when another invoice has them.
//!
//! Customers keep the plans, budgets and usage that they had. Nobody can know what they would have
//! used at another price. Nothing is written.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::Timestamp;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::bill::{CustomerPages, CustomerWithoutBill, NoBill, charged};
use super::plan_inputs;
use super::planner::{PlanInputs, Planner, RatedPeriod};
use crate::job::Mode;
use crate::stripe::BillingSettings;
use books::limits::overage_billing::{self, OverageBilling, OverageHistory};
use books::limits::plan::{Plan, Plans};
use books::limits::rating::{Rated, StretchUsage};
use books::limits::terms::Stretch;
use books::store::connection::Connection;
use books::stripe::billing_target::{Cut, target};
use books::stripe::due::DueSince;
use books::stripe::planning::{DailyUsage, DueCustomer, DuePeriod, WantedDays, daily_usage};
use books::units::calendar::{Day, instant};
use books::units::money::{Currency, Money, Price, charge};
use books::units::quantity::Quantity;
use books::usage::cost::{BookedCost, CustomerDays};
use books::{BooksError, Database};

/// Customers of whom usage by day is loaded at once.
const BY_DAY_AT_ONCE: usize = 50;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct WantedSimulation {
    /// None: of all customers.
    pub customer: Option<String>,
    /// The plans that are tried. The newest version of each holds in all periods, in place of the
    /// plan of its name.
    pub plans: Vec<Plan>,
    /// Periods that begin in this time, in seconds since 1970.
    pub begin: Range<i64>,
}

/// Past periods, with the plans that hold and with those that are tried.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct Simulation {
    pub periods: Vec<SimulatedPeriod>,
    /// Customers of whom no bill can be made.
    pub unknown: Vec<CustomerWithoutBill>,
}

/// A billing period of a customer.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct SimulatedPeriod {
    pub customer: String,
    /// The plan at the end of the period.
    pub plan: String,
    pub currency: Currency,
    pub period_start: Timestamp,
    /// Exclusive.
    pub period_end: Timestamp,
    pub first_day: Day,
    pub last_day: Day,
    /// By meter.
    pub lines: Vec<SimulatedLine>,
    /// What AWS charges for the use of these days, by currency and in its major unit.
    pub costs: BTreeMap<String, Quantity>,
}

/// A meter in a period.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct SimulatedLine {
    pub meter: String,
    pub used: Quantity,
    pub now: PriceOutcome,
    pub then: PriceOutcome,
}

/// What prices make of a meter's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct PriceOutcome {
    /// What the plan includes in the period.
    pub included: Quantity,
    pub price: Option<Price>,
    /// In the meter's unit.
    pub charged: Quantity,
    /// None when the plan has no price for what is charged.
    pub amount: Option<Money>,
    /// What the usage is worth that the company pays; none without usage.
    pub house_worth: Option<Money>,
    /// The first day on which usage went beyond what may be used.
    pub blocked_on: Option<Day>,
}

impl PriceOutcome {
    /// What the company pays, in minor units.
    pub fn house(&self) -> i64 {
        self.house_worth.map_or(0, |of| of.minor)
    }
}

/// The sums of one currency, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SimulatedTotal {
    pub currency: Currency,
    pub customers: u64,
    pub periods: u64,
    pub now_minor: i64,
    pub then_minor: i64,
    pub house_now_minor: i64,
    pub house_then_minor: i64,
    /// Periods and meters that come to their limit.
    pub blocked_now: u64,
    pub blocked_then: u64,
}

impl SimulatedPeriod {
    /// What the period costs with the plans that hold, and with those that are tried.
    pub fn amounts(&self) -> (i64, i64) {
        let sum = |of: fn(&SimulatedLine) -> &PriceOutcome| {
            self.lines.iter().fold(0, |sum: i64, line| sum.saturating_add(of(line).amount.map_or(0, |of| of.minor)))
        };
        (sum(|line| &line.now), sum(|line| &line.then))
    }
}

impl Simulation {
    /// The sums of each currency, by its code.
    pub fn totals(&self) -> BTreeMap<String, SimulatedTotal> {
        let mut totals: BTreeMap<String, SimulatedTotal> = BTreeMap::new();
        let mut last: Option<(&str, Currency)> = None;
        for period in &self.periods {
            let currency = period.currency;
            let total = totals.entry(currency.to_string()).or_insert(SimulatedTotal {
                currency,
                customers: 0,
                periods: 0,
                now_minor: 0,
                then_minor: 0,
                house_now_minor: 0,
                house_then_minor: 0,
                blocked_now: 0,
                blocked_then: 0,
            });
            total.customers += u64::from(last != Some((period.customer.as_str(), currency)));
            last = Some((period.customer.as_str(), currency));
            total.periods += 1;
            let (now, then) = period.amounts();
            total.now_minor = total.now_minor.saturating_add(now);
            total.then_minor = total.then_minor.saturating_add(then);
            for line in &period.lines {
                total.house_now_minor = total.house_now_minor.saturating_add(line.now.house());
                total.house_then_minor = total.house_then_minor.saturating_add(line.then.house());
                total.blocked_now += u64::from(line.now.blocked_on.is_some());
                total.blocked_then += u64::from(line.then.blocked_on.is_some());
            }
        }
        totals
    }

    /// What AWS charges for the use of all periods, by currency and in its major unit.
    pub fn costs(&self) -> BTreeMap<&str, Quantity> {
        let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
        for (currency, cost) in self.periods.iter().flat_map(|period| &period.costs) {
            *sums.entry(currency).or_default() += *cost;
        }
        sums
    }

    /// Amounts of each customer and currency over all periods: with the plans that hold, and with
    /// those that are tried.
    pub fn by_customer(&self) -> BTreeMap<(String, String), (i64, i64)> {
        let mut found: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        for period in &self.periods {
            let (now, then) = period.amounts();
            let sums = found.entry((period.customer.clone(), period.currency.to_string())).or_default();
            *sums = (sums.0.saturating_add(now), sums.1.saturating_add(then));
        }
        found
    }
}

/// Rates past periods with the plans that hold and with those that are tried.
///
/// # Errors
/// When the books cannot be read.
pub async fn simulate(
    books: &Database,
    billing: &BillingSettings,
    wanted: WantedSimulation,
    now: Timestamp,
) -> Result<Simulation, BooksError> {
    let billing = billing.clone();
    let rated = books
        .with_connection(async move |c| {
            let (plans, overage) = tokio::try_join!(Plans::load(c), overage_billing::load(c))?;
            let tried = with_tried(&plans, &wanted.plans);
            let overage = OverageHistory::with(overage, billing.overage, now);
            let inputs = |plans| plan_inputs(&billing, &[], plans, overage.clone(), Mode::DryRun);
            let run = SimulationRun { now: inputs(plans), then: inputs(tried), wanted, at: now.as_second() };
            run.read(c).await
        })
        .await;
    let mut found = rated?;
    let days = |period: &SimulatedPeriod| CustomerDays {
        customer: period.customer.clone(),
        first: period.first_day,
        last: period.last_day,
    };
    let costs = books.costs_of(&found.periods.iter().map(days).collect::<Vec<_>>()).await?;
    for (period, costs) in found.periods.iter_mut().zip(costs) {
        for BookedCost { currency, cost, .. } in costs {
            *period.costs.entry(currency).or_default() += cost;
        }
    }
    Ok(found)
}

/// The plans of which some are replaced in all their versions, by the newest one that is tried.
fn with_tried(plans: &Plans, tried: &[Plan]) -> Plans {
    let others = plans.iter().filter(|plan| tried.iter().all(|tried| tried.name != plan.name));
    let is_newest =
        |plan: &&Plan| tried.iter().all(|other| other.name != plan.name || other.effective_from <= plan.effective_from);
    let newest = tried.iter().filter(is_newest);
    let tried = newest.map(|plan| Plan { effective_from: Timestamp::UNIX_EPOCH, ..plan.clone() });
    Plans::new(others.cloned().chain(tried))
}

/// A period, and what it was rated as.
struct RatedTwice<'a> {
    due: &'a DueCustomer,
    at: usize,
    now: &'a [RatedPeriod],
    then: &'a [RatedPeriod],
}

struct SimulationRun {
    now: PlanInputs,
    then: PlanInputs,
    wanted: WantedSimulation,
    at: i64,
}

impl SimulationRun {
    async fn read(&self, c: &Connection) -> Result<Simulation, BooksError> {
        let day = i32::try_from(self.wanted.begin.start.div_euclid(86_400)).ok().and_then(Day::from_epoch);
        let from_day = day.map_or(String::new(), |day| day.to_string());
        let since = |customer| DueSince { customer, from_day: from_day.clone() };
        let mut found = Simulation::default();
        let mut pages = CustomerPages::of(c, self.wanted.customer.as_ref()).await?;
        while let Some(page) = pages.next(c, &self.now, self.at, since).await? {
            let mut rated = vec![];
            for (customer, due) in page.iter().filter(|(_, due)| due.known) {
                let mut unknown = |why| found.unknown.push(CustomerWithoutBill { customer: customer.clone(), why });
                if !due.periods_are_current {
                    unknown(NoBill::PeriodsPending);
                    continue;
                }
                match (self.rated(&self.now, due), self.rated(&self.then, due)) {
                    (Some(now), Some(then)) => rated.push((customer, due, now, then)),
                    _ => unknown(NoBill::UnknownPlan),
                }
            }
            for some in rated.chunks(BY_DAY_AT_ONCE) {
                let wanted: Vec<WantedDays> =
                    some.iter().flat_map(|(customer, due, ..)| self.days(customer, due)).collect();
                let by_day = daily_usage(c, &wanted, &self.now.meter_names()).await?;
                let none = DailyUsage::new();
                for (customer, due, now, then) in some {
                    let by_day = by_day.get(*customer).unwrap_or(&none);
                    for at in (0..due.periods.len()).filter(|at| self.wants(&due.periods[*at])) {
                        let rated = RatedTwice { due, at, now, then };
                        found.periods.extend(self.period(customer, &rated, by_day));
                    }
                }
            }
        }
        Ok(found)
    }

    fn rated(&self, inputs: &PlanInputs, due: &DueCustomer) -> Option<Vec<RatedPeriod>> {
        Planner::new(inputs, self.at).rate(due)
    }

    fn wants(&self, period: &DuePeriod) -> bool {
        self.wanted.begin.contains(&period.start)
    }

    fn days(&self, customer: &str, due: &DueCustomer) -> Vec<WantedDays> {
        let periods = due.periods.iter().filter(|period| self.wants(period));
        let days = |period: &DuePeriod| WantedDays {
            customer: customer.to_owned(),
            first: period.days.first,
            last: period.days.last,
        };
        periods.map(days).collect()
    }

    /// None for a period without meters.
    fn period(&self, customer: &str, of: &RatedTwice<'_>, by_day: &DailyUsage) -> Option<SimulatedPeriod> {
        let period = &of.due.periods[of.at];
        let (now, then) = (&of.now[of.at], &of.then[of.at]);
        let any = then.values().next()?;
        let blocked_now = self.blocked(&self.now, of.due, &of.now[..of.at], by_day);
        let blocked_then = self.blocked(&self.then, of.due, &of.then[..of.at], by_day);
        let lines = then.iter().filter_map(|(meter, rated)| {
            let per_unit = self.now.meters.get(meter)?.mapping.per_unit;
            let of_now = outcome(&self.now.plans, period, (meter, now.get(meter)?), per_unit);
            let of_then = outcome(&self.then.plans, period, (meter, rated), per_unit);
            let is_known = of_now.price.is_some() || of_then.price.is_some() || !rated.used.is_zero();
            is_known.then(|| SimulatedLine {
                meter: meter.clone(),
                used: rated.used,
                now: PriceOutcome { blocked_on: blocked_now.get(meter).copied(), ..of_now },
                then: PriceOutcome { blocked_on: blocked_then.get(meter).copied(), ..of_then },
            })
        });
        Some(SimulatedPeriod {
            customer: customer.to_owned(),
            plan: any.plan.clone(),
            currency: any.currency,
            period_start: instant(period.start),
            period_end: instant(period.end),
            first_day: period.days.first,
            last_day: period.days.last,
            lines: lines.collect(),
            costs: BTreeMap::new(),
        })
    }

    /// The first day of the period after `before` on which usage of a meter is beyond what may be
    /// used, by meter.
    fn blocked(
        &self,
        inputs: &PlanInputs,
        due: &DueCustomer,
        before: &[RatedPeriod],
        by_day: &DailyUsage,
    ) -> BTreeMap<String, Day> {
        let planner = Planner::new(inputs, self.at);
        let mut found = BTreeMap::new();
        let Some(period) = due.periods.get(before.len()) else { return found };
        let stretches = due.history.stretches(period.days.first, period.days.last);
        let has_budget =
            |stretch: &Stretch, rated: &Rated| due.history.caps_on(*stretch, &rated.currency.to_string()).is_some();
        // without a budget nothing beyond the plan may be used, although what was used is billed
        let is_beyond = |stretch: &Stretch, rated: &Rated| {
            let unlimited = rated.billable > Quantity::ZERO && !has_budget(stretch, rated);
            rated.house > Quantity::ZERO || rated.not_priced > Quantity::ZERO || unlimited
        };
        let rate = |usage: &StretchUsage| planner.rate_next(due, before, OverageBilling::UpToBudget, usage);
        // most never are, and rating each day is dear
        let comes_to_it =
            |rated: &RatedPeriod| rated.values().any(|rated| stretches.iter().any(|stretch| is_beyond(stretch, rated)));
        if !rate(&due.usage).is_some_and(|rated| comes_to_it(&rated)) {
            return found;
        }
        let mut usage = StretchUsage::new();
        let mut days: Vec<(&(String, Day), &Quantity)> =
            by_day.iter().filter(|((_, day), _)| (period.days.first..=period.days.last).contains(day)).collect();
        days.sort_by_key(|((_, day), _)| *day);
        for ((meter, day), used) in days {
            let Some(stretch) = stretches.iter().find(|s| (s.first..=s.last).contains(day)) else { continue };
            *usage.entry((meter.clone(), stretch.first)).or_default() += *used;
            if found.contains_key(meter) {
                continue;
            }
            let rated = rate(&usage);
            if rated.as_ref().and_then(|rated| rated.get(meter)).is_some_and(|rated| is_beyond(stretch, rated)) {
                found.insert(meter.clone(), *day);
            }
        }
        found
    }
}

/// What plans make of a meter's usage, as Stripe charges it. Pure.
pub(super) fn outcome(
    plans: &Plans,
    period: &DuePeriod,
    (meter, rated): (&str, &Rated),
    per_unit: Decimal,
) -> PriceOutcome {
    let terms = plans.at(&rated.plan, period.start).and_then(|plan| plan.meters.get(meter)).copied();
    let quantity = target(rated.reported, per_unit, Cut::of(rated.house)).unwrap_or(i64::MAX);
    let charged = charged(quantity, per_unit, terms);
    let price = terms.and_then(|terms| terms.billed_price(meter));
    let money = |minor| Money { minor, currency: rated.currency };
    PriceOutcome {
        included: rated.included,
        price,
        charged: Quantity::of_stripe(charged, per_unit),
        amount: match (charged, price) {
            (0, _) => Some(money(0)),
            (_, None) => None,
            (charged, Some(price)) => charge(charged, per_unit, price, rated.currency).map(money),
        },
        house_worth: Some(money(rated.house_cost.to_minor(rated.currency))),
        blocked_on: None,
    }
}
