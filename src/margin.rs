//! Margins: what customers are billed, less what AWS charges for their use.
//!
//! Revenue is that of the bill preview ([`jobs::push_stripe::bill`]): the metered lines of the
//! invoice of a billing period. The cost beside it is that of the period's days, so both are about
//! the same time, whatever day the period began on. What belongs to no bill is of the days of a
//! calendar month.

use std::collections::{BTreeMap, BTreeSet};

use books::Database;
use books::units::calendar::{Day, Month};
use books::units::money::Currency;
use books::units::quantity::Quantity;
use books::usage::cost::{BilledCost, BookedCost, CustomerDays, MonthCost};
use jiff::Timestamp;
use jobs::push_stripe::bill::{Bills, CustomerBill, CustomerWithoutBill, InvoiceState, WantedBills, bills};
use schemars::JsonSchema;
use serde::Serialize;

use crate::statement::StatementSettings;

/// Revenue and costs. Amounts are exact, in the major unit of their currency.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Margins {
    /// The calendar month of what belongs to no bill.
    pub month: String,
    pub customers: Vec<CustomerMargin>,
    /// Costs of customers on days of the month that are in no billing period, and all of customers
    /// of whom no bill can be made.
    pub without_bill: Vec<BookedCost>,
    /// Costs of lines without a customer, in the month.
    pub unattributed: Vec<BookedCost>,
    /// What AWS's bills of the month say: the same costs by bill, and what is excluded.
    pub bills: Vec<BilledCost>,
    /// By currency; empty when one customer is asked for.
    pub totals: BTreeMap<String, MarginTotal>,
    /// Customers of whom no bill can be made.
    pub unknown: Vec<CustomerWithoutBill>,
}

/// A customer's billing period.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerMargin {
    pub customer: String,
    pub plan: String,
    pub currency: Currency,
    pub period_start: Timestamp,
    /// Exclusive.
    pub period_end: Timestamp,
    /// The days whose costs are counted.
    pub first_day: Day,
    pub last_day: Day,
    pub invoice: InvoiceState,
    pub lines: Vec<MarginLine>,
    /// The sum of the metered lines; none when a price is not known.
    pub revenue: Option<Quantity>,
    /// By currency.
    pub costs: BTreeMap<String, Quantity>,
    /// None when a price is not known, or a cost is in another currency.
    pub margin: Option<Quantity>,
}

/// A meter in one currency.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MarginLine {
    /// The meter of usage, or a cost meter that prices no meter's usage.
    pub meter: String,
    pub currency: String,
    /// None when the price is not known.
    pub revenue: Option<Quantity>,
    pub cost: Quantity,
    /// None when the price is not known, or the meter has a cost in another currency.
    pub margin: Option<Quantity>,
}

/// Everything in one currency.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MarginTotal {
    pub revenue: Quantity,
    /// Of the customers and periods of the bills.
    pub cost: Quantity,
    /// Of customers, and on no bill.
    pub without_bill: Quantity,
    /// Of lines without a customer.
    pub unattributed: Quantity,
    /// Revenue less all three costs; none when a price is not known, or there are two currencies.
    pub margin: Option<Quantity>,
}

/// Revenue less cost of the wanted bills; `month` is that of costs without a bill.
///
/// # Errors
/// When the books cannot be read.
pub async fn margins(
    books: &Database,
    settings: &StatementSettings,
    wanted: WantedBills,
    month: Month,
    now: Timestamp,
) -> anyhow::Result<Margins> {
    let customer = wanted.customer.clone();
    let found = match settings.billing.meters.is_empty() {
        true => Bills::default(),
        false => bills(books, &settings.billing, wanted, now).await?,
    };
    let days = |bill: &CustomerBill| CustomerDays {
        customer: bill.customer.clone(),
        first: bill.first_day,
        last: bill.last_day,
    };
    let costs = books.costs_of(&found.bills.iter().map(days).collect::<Vec<_>>()).await?;
    let customers = found.bills.iter().zip(costs).map(|(bill, costs)| margin(bill, costs, settings));
    let mut margins = Margins {
        month: month.to_string(),
        customers: customers.collect(),
        unknown: found.unknown,
        ..Margins::default()
    };
    let unknown: BTreeSet<&str> = margins.unknown.iter().map(|of| of.customer.as_str()).collect();
    for MonthCost { all, without_period } in books.costs_in(month, customer.clone()).await? {
        // the costs of a period are beside its bill, which may be that of the month before
        let has_bills = !settings.billing.meters.is_empty() && !unknown.contains(all.customer.as_str());
        let cost = if has_bills { without_period } else { all.cost };
        if all.customer.is_empty() {
            margins.unattributed.push(all);
        } else if !cost.is_zero() {
            margins.without_bill.push(BookedCost { cost, ..all });
        }
    }
    if customer.is_none() {
        margins.bills = books.billed_costs(month).await?;
        margins.totals = totals(&margins);
    }
    Ok(margins)
}

/// The margin of a bill. Pure.
fn margin(bill: &CustomerBill, costs: Vec<BookedCost>, settings: &StatementSettings) -> CustomerMargin {
    let own = bill.currency.to_string();
    let mut lines: BTreeMap<(String, String), MarginLine> = BTreeMap::new();
    for line in &bill.lines {
        let revenue = line.amount.map(|of| bill.currency.major(of.minor));
        let (meter, currency) = (line.meter.clone(), own.clone());
        let line = MarginLine { meter, currency, revenue, cost: Quantity::ZERO, margin: None };
        lines.insert((line.meter.clone(), own.clone()), line);
    }
    let mut by_currency: BTreeMap<String, Quantity> = BTreeMap::new();
    for BookedCost { meter, currency, cost, .. } in costs {
        let meter = settings.costs.get(&meter).cloned().flatten().unwrap_or(meter);
        let none = || MarginLine {
            meter: meter.clone(),
            currency: currency.clone(),
            revenue: Some(Quantity::ZERO),
            cost: Quantity::ZERO,
            margin: None,
        };
        lines.entry((meter.clone(), currency.clone())).or_insert_with(none).cost += cost;
        *by_currency.entry(currency).or_default() += cost;
    }
    let mut lines: Vec<MarginLine> = lines.into_values().collect();
    let foreign: BTreeSet<String> =
        lines.iter().filter(|line| line.currency != own).map(|line| line.meter.clone()).collect();
    for line in lines.iter_mut().filter(|line| !foreign.contains(&line.meter)) {
        line.margin = line.revenue.map(|revenue| revenue - line.cost);
    }
    let revenue = bill.amount.map(|of| bill.currency.major(of.minor));
    let cost = by_currency.get(&own).copied().unwrap_or_default();
    CustomerMargin {
        customer: bill.customer.clone(),
        plan: bill.plan.clone(),
        currency: bill.currency,
        period_start: bill.period_start,
        period_end: bill.period_end,
        first_day: bill.first_day,
        last_day: bill.last_day,
        invoice: bill.invoice,
        revenue,
        margin: revenue.filter(|_| foreign.is_empty()).map(|revenue| revenue - cost),
        lines,
        costs: by_currency,
    }
}

fn totals(margins: &Margins) -> BTreeMap<String, MarginTotal> {
    let mut totals: BTreeMap<String, MarginTotal> = BTreeMap::new();
    for of in &margins.customers {
        for line in &of.lines {
            totals.entry(line.currency.clone()).or_default().revenue += line.revenue.unwrap_or_default();
        }
        for (currency, cost) in &of.costs {
            totals.entry(currency.clone()).or_default().cost += *cost;
        }
    }
    for of in &margins.without_bill {
        totals.entry(of.currency.clone()).or_default().without_bill += of.cost;
    }
    for of in &margins.unattributed {
        totals.entry(of.currency.clone()).or_default().unattributed += of.cost;
    }
    let is_known = margins.customers.iter().all(|of| of.revenue.is_some()) && totals.len() == 1;
    for of in totals.values_mut().filter(|_| is_known) {
        of.margin = Some(of.revenue - of.cost - of.without_bill - of.unattributed);
    }
    totals
}
