//! Budgets and decisions in JSON: rows of the contract with the web backend, with money as in every
//! other document.

use books::limits::budget::Budget;
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::units::money::Money;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// A budget, or a change of one.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct BudgetRow {
    /// The meter that it caps; empty for all together.
    meter: String,
    /// None when the budget was taken away.
    amount: Option<Money<String>>,
    set_by: String,
    set_at: Timestamp,
}

impl BudgetRow {
    pub(crate) fn all(of: Vec<Budget>) -> Vec<Self> {
        of.into_iter().map(Self::from).collect()
    }
}

impl From<Budget> for BudgetRow {
    fn from(Budget { meter, amount_minor, currency, set_by, set_at }: Budget) -> Self {
        Self { meter, amount: amount_minor.map(|minor| Money { minor, currency }), set_by, set_at }
    }
}

/// A decision and its facts.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct EntitlementRow {
    customer: String,
    meter: String,
    /// The first instant of the billing period.
    period_start: Timestamp,
    /// Exclusive.
    period_end: Timestamp,
    allowed: bool,
    reason: Reason,
    /// What counts: `used_billed` and `used_measured` together.
    used: Quantity,
    /// What `used` is by the bill alone; for TURN the live count.
    used_billed: Quantity,
    /// What measurements add on days that no bill has settled.
    used_measured: Quantity,
    included: Quantity,
    /// The quantity at which it must stop; none = nowhere.
    effective_limit: Option<Quantity>,
    /// What all overage of the customer costs.
    overage_cost: Money<String>,
    /// What this meter's overage costs.
    meter_cost: Money<String>,
    /// What all overage may cost.
    budget: Money<String>,
    /// What this meter's overage may cost; none when it has no budget of its own.
    meter_budget: Option<Money<String>>,
    /// Until when usage is booked.
    as_of: Option<Timestamp>,
    freshness: Freshness,
    decided_at: Timestamp,
    /// When running uses take the meter to its limit, at the present level; none = not before
    /// something else changes.
    blocked_at: Option<Timestamp>,
}

impl EntitlementRow {
    pub(crate) fn all(of: Vec<Entitlement>) -> Vec<Self> {
        of.into_iter().map(Self::from).collect()
    }

    pub(crate) fn meter(&self) -> &str {
        &self.meter
    }
}

impl From<Entitlement> for EntitlementRow {
    fn from(of: Entitlement) -> Self {
        let money = |minor| Money { minor, currency: of.currency.clone() };
        Self {
            overage_cost: money(of.overage_cost_minor),
            meter_cost: money(of.meter_cost_minor),
            budget: money(of.budget_minor),
            meter_budget: of.meter_budget_minor.map(money),
            customer: of.customer,
            meter: of.meter,
            period_start: of.period_start,
            period_end: of.period_end,
            allowed: of.allowed,
            reason: of.reason,
            used: of.used,
            used_billed: of.used_billed,
            used_measured: of.used_measured,
            included: of.included,
            effective_limit: of.effective_limit,
            as_of: of.as_of,
            freshness: of.freshness,
            decided_at: of.decided_at,
            blocked_at: of.blocked_at,
        }
    }
}
