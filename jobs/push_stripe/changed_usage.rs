//! What a change of usage makes of bills, before it is booked.
//!
//! Periods are loaded and rated by the code of a push, once with the usage that is booked and once
//! with the changed one. A period costs what Stripe would charge for its own usage: a correction is
//! on the period whose usage it corrects, whichever invoice has it. Nothing is written.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bill::{CustomerPages, NoBill};
use super::plan_inputs;
use super::planner::{PlanInputs, Planner, RatedPeriod};
use super::simulate::outcome;
use crate::job::Mode;
use crate::stripe::BillingSettings;
use books::limits::overage_billing::{self, OverageHistory};
use books::limits::plan::Plans;
use books::store::connection::Connection;
use books::stripe::due::DueSince;
use books::stripe::planning::{DueCustomer, DuePeriod};
use books::units::calendar::instant;
use books::usage::difference::UsageChanges;
use books::{BooksError, Database};

/// A billing period that a change makes cost another amount. Amounts are minor units; none when
/// only Stripe's price says what the period costs.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedBill {
    pub customer: String,
    pub currency: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub before_minor: Option<i64>,
    pub after_minor: Option<i64>,
    /// What the company pays.
    pub house_before_minor: i64,
    pub house_after_minor: i64,
}

/// What a change makes of bills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedBills {
    /// By customer and period.
    pub bills: Vec<ChangedBill>,
    /// Customers with a change of whom no bill can be made, and why.
    pub unknown: Vec<(String, NoBill)>,
    /// Tags with a change that are no customer's id.
    pub no_customer: Vec<String>,
}

/// The amount of a period, and what the company pays of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Amounts {
    charged: Option<i64>,
    house: i64,
}

/// Rates the billing periods that a change concerns, without it and with it.
///
/// # Errors
/// When the books cannot be read.
pub async fn changed_bills(
    books: &Database,
    billing: &BillingSettings,
    changes: UsageChanges,
    now: Timestamp,
) -> Result<ChangedBills, BooksError> {
    let billing = billing.clone();
    books
        .with_connection(async move |c| {
            let (plans, overage) = tokio::try_join!(Plans::load(c), overage_billing::load(c))?;
            let overage = OverageHistory::with(overage, billing.overage, now);
            let inputs = plan_inputs(&billing, &[], plans, overage, Mode::DryRun);
            read(c, &inputs, &changes, now.as_second()).await
        })
        .await
}

async fn read(
    c: &Connection,
    inputs: &PlanInputs,
    changes: &UsageChanges,
    now: i64,
) -> Result<ChangedBills, BooksError> {
    let mut found = ChangedBills::default();
    let since = |(customer, day): (&String, _)| DueSince { customer: customer.clone(), from_day: format!("{day}") };
    let asked: Vec<DueSince> = changes.customers().map(since).collect();
    let mut pages = CustomerPages::listed(&asked);
    let nobody = |customer| DueSince { customer, from_day: String::new() };
    while let Some(page) = pages.next(c, inputs, now, nobody).await? {
        for (customer, due) in page {
            if !due.known {
                found.no_customer.push(customer);
                continue;
            }
            if !due.periods_are_current {
                found.unknown.push((customer, NoBill::PeriodsPending));
                continue;
            }
            match of_customer(inputs, (&customer, &due), changes, now) {
                Some(bills) => found.bills.extend(bills),
                None => found.unknown.push((customer, NoBill::UnknownPlan)),
            }
        }
    }
    found.no_customer.sort_unstable();
    found.bills.sort_by(|a, b| (&a.customer, a.period_start).cmp(&(&b.customer, b.period_start)));
    Ok(found)
}

/// The periods of a customer that cost another amount; none if a plan is unknown. Pure.
fn of_customer(
    inputs: &PlanInputs,
    (customer, due): (&str, &DueCustomer),
    changes: &UsageChanges,
    now: i64,
) -> Option<Vec<ChangedBill>> {
    let planner = Planner::new(inputs, now);
    let before = planner.rate(due)?;
    let after = planner.rate(&changed(inputs, (customer, due), changes))?;
    let both = due.periods.iter().zip(before.iter().zip(&after));
    let bills = both.filter_map(|(period, (before, after))| {
        let (was, is) = (amounts(inputs, period, before), amounts(inputs, period, after));
        let any = after.values().next().filter(|_| was != is)?;
        Some(ChangedBill {
            customer: customer.to_owned(),
            currency: any.currency.to_string(),
            period_start: instant(period.start),
            period_end: instant(period.end),
            before_minor: was.charged,
            after_minor: is.charged,
            house_before_minor: was.house,
            house_after_minor: is.house,
        })
    });
    Some(bills.collect())
}

/// The customer with the changed usage.
fn changed(inputs: &PlanInputs, (customer, due): (&str, &DueCustomer), changes: &UsageChanges) -> DueCustomer {
    let mut due = due.clone();
    for (meter, day, change) in changes.of(customer).filter(|(meter, ..)| inputs.meters.contains_key(*meter)) {
        let period = due.periods.iter().find(|period| (period.days.first..=period.days.last).contains(&day));
        let Some(period) = period else { continue };
        let stretches = due.history.stretches(period.days.first, period.days.last);
        if let Some(stretch) = stretches.iter().find(|stretch| (stretch.first..=stretch.last).contains(&day)) {
            *due.usage.entry((meter.to_owned(), stretch.first)).or_default() += change;
        }
    }
    due
}

fn amounts(inputs: &PlanInputs, period: &DuePeriod, rated: &RatedPeriod) -> Amounts {
    let mut sum = Amounts { charged: Some(0), house: 0 };
    for (meter, rated) in rated {
        let Some(mapped) = inputs.meters.get(meter) else { continue };
        let of = outcome(&inputs.plans, period, (meter, rated), mapped.mapping.per_unit);
        sum.charged = sum.charged.zip(of.amount).map(|(sum, one)| sum.saturating_add(one.minor));
        sum.house = sum.house.saturating_add(of.house());
    }
    sum
}
