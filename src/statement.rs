//! A customer's statement: one billing period as the customer reads it, with the figures of the
//! bill preview ([`jobs::push_stripe::bill`]).

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Context as _;
use books::Database;
use books::customers::periods::TurnPeriod;
use books::limits::budget::Budget;
use books::limits::plan::{Plans, TURN};
use books::stripe::billing_target::Conservation;
use books::units::calendar::Day;
use books::units::money::{Currency, Money, Price};
use books::units::quantity::Quantity;
use jiff::Timestamp;
use jobs::push_stripe::bill::{CustomerBill, InvoiceLine, InvoiceState, WantedBills, WantedPeriods, bills};
use jobs::stripe::BillingSettings;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;

/// The version of the JSON form; it grows when a field is renamed, removed or means another thing.
pub const FORM: u32 = 2;

/// What statements are made with.
#[derive(Clone, Debug)]
pub struct StatementSettings {
    pub billing: BillingSettings,
    /// The unit of each meter in the plural: minutes.
    pub units: BTreeMap<String, String>,
    /// The name that people read of each meter: Call minutes.
    pub names: BTreeMap<String, String>,
    /// Each cost meter, and the meter whose lines it sums, if it names one. No statement has costs.
    pub costs: BTreeMap<String, Option<String>>,
}

impl StatementSettings {
    pub fn new(config: &Config, billing: BillingSettings) -> Self {
        Self { billing, units: config.units(), names: config.display_names(), costs: config.cost_names() }
    }
}

/// A customer's statement of one billing period. Quantities are exact.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Statement {
    pub form: u32,
    pub customer: String,
    /// The display name; null when it has none.
    pub name: Option<String>,
    pub plan: String,
    pub currency: Currency,
    pub period_start: Timestamp,
    /// Exclusive.
    pub period_end: Timestamp,
    pub made_at: Timestamp,
    pub invoice: InvoiceState,
    pub meters: Vec<StatementMeter>,
    /// The sum of the amounts; null when a price is not known.
    pub amount: Option<Money>,
    /// What the customer agreed to pay beyond the plan.
    pub budgets: Vec<StatementBudget>,
    pub turn: Vec<StatementTurn>,
}

/// One meter of a statement.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct StatementMeter {
    pub meter: String,
    pub name: String,
    pub unit: String,
    pub included: Quantity,
    /// What became of the usage of the period.
    #[serde(flatten)]
    pub usage: Conservation,
    /// What is charged, with corrections of other periods.
    pub charged: Quantity,
    /// Of each further unit; null when the plan has none.
    pub price: Option<Price>,
    pub amount: Option<Money>,
    pub corrections: Vec<StatementCorrection>,
    /// Charged on later invoices.
    pub later: Vec<StatementCorrection>,
    pub days: Vec<StatementDay>,
}

/// Usage of another period, or on another period's invoice.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct StatementCorrection {
    pub period_start: Timestamp,
    pub quantity: Quantity,
}

/// Usage of a day (UTC).
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct StatementDay {
    pub day: Day,
    pub quantity: Quantity,
}

/// A limit of what is paid beyond the plan.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct StatementBudget {
    /// The meter that it caps; empty for all together.
    pub meter: String,
    pub amount: Money,
}

/// Relay connections in the period.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct StatementTurn {
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub used: i64,
    /// Null when the plan does not include them.
    pub included: Option<Quantity>,
}

/// The statement of the newest billing period that begins in `starts` (seconds since 1970); none
/// when no period begins then, or no bill of it can be made.
///
/// # Errors
/// When the books cannot be read.
pub async fn statement(
    books: &Database,
    settings: &StatementSettings,
    customer: &str,
    starts: Range<i64>,
    now: Timestamp,
) -> anyhow::Result<Option<Statement>> {
    let wanted = WantedBills { customer: Some(customer.to_owned()), periods: WantedPeriods::Begin(starts) };
    let found = bills(books, &settings.billing, wanted, now).await?;
    let Some(bill) = found.bills.into_iter().max_by_key(|bill| bill.period_start) else { return Ok(None) };
    let days = books.usage_between((bill.first_day, bill.last_day), Some(customer.to_owned())).await?;
    let mut by_meter: BTreeMap<String, Vec<StatementDay>> = BTreeMap::new();
    for of in days {
        let day = of.day.unwrap_or_default().parse().context("a day of usage")?;
        by_meter.entry(of.meter).or_default().push(StatementDay { day, quantity: of.quantity });
    }
    let budgets = books.budgets(customer).await?;
    let turn = books.turn_periods(Some(customer.to_owned()), now).await?;
    let plans = books.plans().await?;
    let known = books.customers(None, Some(customer.to_owned())).await?;
    let name = known.into_iter().next().and_then(|known| known.display_name);
    let meters = bill.lines.iter().map(|line| meter(line, settings, by_meter.remove(&line.meter).unwrap_or_default()));
    Ok(Some(Statement {
        form: FORM,
        customer: customer.to_owned(),
        name,
        meters: meters.collect(),
        budgets: budgets.into_iter().filter_map(|of| budget(of, bill.currency)).collect(),
        turn: turn.iter().filter_map(|of| turn_of(of, &bill, &plans)).collect(),
        plan: bill.plan,
        currency: bill.currency,
        period_start: bill.period_start,
        period_end: bill.period_end,
        made_at: now,
        invoice: bill.invoice,
        amount: bill.amount,
    }))
}

fn meter(line: &InvoiceLine, settings: &StatementSettings, days: Vec<StatementDay>) -> StatementMeter {
    let correction = |of: &jobs::push_stripe::bill::Correction| StatementCorrection {
        period_start: of.period_start,
        quantity: Quantity::of_stripe(of.value, line.per_unit),
    };
    StatementMeter {
        meter: line.meter.clone(),
        name: settings.names.get(&line.meter).unwrap_or(&line.meter).clone(),
        unit: settings.units.get(&line.meter).cloned().unwrap_or_else(|| "units".into()),
        included: line.included,
        usage: line.usage,
        charged: Quantity::of_stripe(line.charged, line.per_unit),
        price: line.price,
        amount: line.amount,
        corrections: line.corrections.iter().map(correction).collect(),
        later: line.carried.iter().map(correction).collect(),
        days,
    }
}

/// None for a budget in another currency: it counts as none.
fn budget(of: Budget, currency: Currency) -> Option<StatementBudget> {
    let minor = of.amount_minor.filter(|_| of.currency == currency.to_string())?;
    Some(StatementBudget { meter: of.meter, amount: Money { minor, currency } })
}

/// None for a count that no moment of the period belongs to.
fn turn_of(of: &TurnPeriod, bill: &CustomerBill, plans: &Plans) -> Option<StatementTurn> {
    if of.starts_at >= bill.period_end || of.ends_at <= bill.period_start {
        return None;
    }
    let plan = plans.at(&bill.plan, of.starts_at.as_second());
    let included = plan.and_then(|plan| plan.meters.get(TURN)).map(|terms| terms.included);
    Some(StatementTurn { period_start: of.starts_at, period_end: of.ends_at, used: of.used, included })
}
