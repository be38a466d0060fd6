//! What the current billing period will cost, if usage goes on as it is forecast.
//!
//! Customers are loaded and rated by the code of a push, once with what is expected and once with
//! the upper bound. A line costs what Stripe would charge for the period's own usage, as in
//! [`simulate`](super::simulate). Nothing is written.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::bill::{CustomerPages, NEVER};
use super::plan_inputs;
use super::planner::{PlanInputs, Planner, RatedPeriod};
use super::simulate::outcome;
use crate::job::Mode;
use crate::stripe::BillingSettings;
use books::limits::overage_billing::{self, OverageHistory};
use books::limits::plan::Plans;
use books::stripe::due::DueSince;
use books::stripe::planning::{DueCustomer, DuePeriod};
use books::units::calendar::Day;
use books::units::money::Money;
use books::units::quantity::Quantity;
use books::{BooksError, Database};

/// What will be added to the usage of a billing period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedUsage {
    pub p50: Quantity,
    pub p90: Option<Quantity>,
}

/// What is expected of customers, by customer and meter.
pub type ExpectedOfCustomers = BTreeMap<String, BTreeMap<String, ExpectedUsage>>;

/// A meter's line of a forecast bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastLine {
    /// Of the billing period.
    pub last_day: Day,
    pub p50: Money,
    /// With the upper bound of every meter; none when one has none.
    pub p90: Option<Money>,
}

/// Lines by customer and meter.
pub type ForecastLines = BTreeMap<(String, String), ForecastLine>;

/// Rates the current billing periods of the customers with what is expected. A customer of whom no
/// bill can be made has no line, nor has a meter of which the price is not known.
///
/// # Errors
/// When the books cannot be read.
pub async fn forecast_bills(
    books: &Database,
    billing: &BillingSettings,
    expected: ExpectedOfCustomers,
    now: Timestamp,
) -> Result<ForecastLines, BooksError> {
    let (billing, second) = (billing.clone(), now.as_second());
    books
        .with_connection(async move |c| {
            let (plans, overage) = tokio::try_join!(Plans::load(c), overage_billing::load(c))?;
            let overage = OverageHistory::with(overage, billing.overage, now);
            let inputs = plan_inputs(&billing, &[], plans, overage, Mode::DryRun);
            let since = |customer| DueSince { customer, from_day: NEVER.to_owned() };
            let asked: Vec<DueSince> = expected.keys().cloned().map(since).collect();
            let mut pages = CustomerPages::listed(&asked);
            let mut found = ForecastLines::new();
            while let Some(page) = pages.next(c, &inputs, second, since).await? {
                let whole = page.iter().filter(|(_, due)| due.known && due.periods_are_current);
                for (customer, due) in whole {
                    let Some(expected) = expected.get(customer) else { continue };
                    for (meter, line) in lines(&inputs, due, expected, second).unwrap_or_default() {
                        found.insert((customer.clone(), meter), line);
                    }
                }
            }
            Ok(found)
        })
        .await
}

/// The lines of the current period; none without one, or when a plan is unknown. Pure.
fn lines(
    inputs: &PlanInputs,
    due: &DueCustomer,
    expected: &BTreeMap<String, ExpectedUsage>,
    now: i64,
) -> Option<BTreeMap<String, ForecastLine>> {
    let at = due.periods.iter().position(|period| period.start <= now && now < period.end)?;
    let period = &due.periods[at];
    let rated = |adds: &dyn Fn(&ExpectedUsage) -> Option<Quantity>| -> Option<RatedPeriod> {
        let due = with_expected(due, period, expected, adds)?;
        Planner::new(inputs, now).rate(&due)?.into_iter().nth(at)
    };
    let (p50, p90) = (rated(&|of| Some(of.p50))?, rated(&|of| of.p90));
    let amount = |of: &RatedPeriod, meter: &str| -> Option<Money> {
        let per_unit = inputs.meters.get(meter)?.mapping.per_unit;
        outcome(&inputs.plans, period, (meter, of.get(meter)?), per_unit).amount
    };
    let line = |meter: &String| {
        let line = ForecastLine {
            last_day: period.days.last,
            p50: amount(&p50, meter)?,
            p90: p90.as_ref().and_then(|p90| amount(p90, meter)),
        };
        Some((meter.clone(), line))
    };
    Some(expected.keys().filter_map(line).collect())
}

/// The customer with more usage on the last stretch of a period: what will be used falls under the
/// terms of now. None when an amount is not known.
fn with_expected(
    due: &DueCustomer,
    period: &DuePeriod,
    expected: &BTreeMap<String, ExpectedUsage>,
    adds: &dyn Fn(&ExpectedUsage) -> Option<Quantity>,
) -> Option<DueCustomer> {
    let mut due = due.clone();
    let stretch = due.history.stretches(period.days.first, period.days.last).pop()?;
    for (meter, of) in expected {
        *due.usage.entry((meter.clone(), stretch.first)).or_default() += adds(of)?;
    }
    Some(due)
}
