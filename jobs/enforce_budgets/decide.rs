//! Decides whether a customer may go on using each meter, and up to which limit. Pure and exact:
//! nothing is rounded.
//!
//! A meter is allowed while usage is within the included amount, or while the cost of the
//! customer's overage is below the budget (and the cost of this meter's overage below its own
//! budget, if it has one). The two forms of the answer agree: *allowed* means that usage is below
//! the effective limit, and the limit is the first quantity, to ten decimals, at which the cost
//! reaches the budget. A price that is billed nowhere counts as none ([`Terms::billed_price`]).

use books::limits::entitlement::{PaymentStatus, Reason};
use books::limits::plan::Terms;
use books::units::money::{Cost, Currency, Price};
use books::units::quantity::Quantity;

/// The facts that decide for one customer.
#[derive(Clone, Debug)]
pub struct CustomerCase<'a> {
    pub payment: PaymentStatus,
    /// The plan's currency; none when the plan is unknown.
    pub currency: Option<Currency>,
    /// What all overage may cost, in minor units; none = no such budget is set.
    pub budget: Option<i64>,
    /// True when a budget is in another currency than the plan. It cannot be compared with a cost.
    pub budget_in_other_currency: bool,
    /// True when usage is so old that the policy allows no overage.
    pub data_too_old: bool,
    pub meters: Vec<MeterCase<'a>>,
}

/// A meter of the case.
#[derive(Clone, Debug)]
pub struct MeterCase<'a> {
    pub meter: &'a str,
    /// None = the meter is not part of the plan.
    pub terms: Option<Terms>,
    /// What is included: a plan that was changed in the period, or a cut month, includes another
    /// amount than the plan says.
    pub grant: Grant,
    /// Usage of the period.
    pub used: Quantity,
    /// What its own overage may cost, in minor units; none = no such budget is set.
    pub budget: Option<i64>,
}

/// What is included in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The usage up to which it is included.
    pub until: Quantity,
    /// What earlier overage of the period cost, by the plan of then.
    pub cost_before: Cost,
}

impl MeterCase<'_> {
    fn included(&self) -> Quantity {
        self.grant.until
    }

    /// Usage, at least 0: when AWS takes back more than it billed in the period, the rest is no
    /// allowance.
    pub fn counted(&self) -> Quantity {
        self.used.max(Quantity::ZERO)
    }

    fn price(&self) -> Option<Price> {
        self.terms.and_then(|terms| terms.billed_price(self.meter))
    }

    fn cost(&self) -> Cost {
        let over = (self.used - self.included()).max(Quantity::ZERO);
        self.price().map_or(Cost::ZERO, |price| Cost::of(over, price)).plus(self.grant.cost_before)
    }
}

/// The answer for one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDecision {
    pub allowed: bool,
    pub reason: Reason,
    /// The reason once the limit is reached.
    pub stop: Reason,
    /// The quantity at which it must stop; none = nowhere.
    pub limit: Option<Quantity>,
    pub included: Quantity,
    /// Cost of its overage.
    pub cost: Cost,
}

/// The answers for a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerDecision {
    /// Cost of all overage.
    pub cost: Cost,
    /// In the order of the case's meters.
    pub meters: Vec<MeterDecision>,
}

pub fn decide(case: &CustomerCase<'_>) -> CustomerDecision {
    let costs: Vec<Cost> = case.meters.iter().map(MeterCase::cost).collect();
    let total = costs.iter().fold(Cost::ZERO, |sum, cost| sum.plus(*cost));
    let decide_one = |(at, meter): (usize, &MeterCase<'_>)| {
        let others = costs.iter().enumerate().filter(|(i, _)| *i != at).fold(Cost::ZERO, |sum, (_, c)| sum.plus(*c));
        let (limit, stop) = limit(case, meter, others);
        let allowed = limit.is_none_or(|limit| meter.counted() < limit);
        let reason = match allowed {
            true if meter.counted() < meter.included() => Reason::WithinIncluded,
            true => Reason::WithinBudget,
            false => stop,
        };
        MeterDecision { allowed, reason, stop, limit, included: meter.included(), cost: costs[at] }
    };
    CustomerDecision { cost: total, meters: case.meters.iter().enumerate().map(decide_one).collect() }
}

/// The limit of a meter, given the cost of the others, and the reason once it is reached.
fn limit(case: &CustomerCase<'_>, meter: &MeterCase<'_>, others: Cost) -> (Option<Quantity>, Reason) {
    if let Some(reason) = case.payment.stops() {
        return (Some(Quantity::ZERO), reason);
    }
    let Some(currency) = case.currency else { return (Some(Quantity::ZERO), Reason::UnknownPlan) };
    if meter.terms.is_none() {
        return (Some(Quantity::ZERO), Reason::NotInPlan);
    }
    let included = |reason| (Some(meter.included()), reason);
    let Some(price) = meter.price() else { return included(Reason::IncludedUsed) };
    if case.payment == PaymentStatus::PastDue {
        return included(Reason::PastDue);
    }
    if case.data_too_old {
        return included(Reason::DataTooOld);
    }
    if case.budget_in_other_currency {
        return included(Reason::BudgetInOtherCurrency);
    }
    let of = |minor| Cost::of_minor(minor, currency);
    // what this meter's overage may cost, and which budget limits it
    let room = match (case.budget, meter.budget) {
        (None | Some(0), None) => return included(Reason::NoBudget),
        (None, Some(own)) => (of(own), Reason::MeterBudgetSpent),
        (Some(all), None) => (of(all).less(others), Reason::BudgetSpent),
        (Some(all), Some(own)) => {
            let left = of(all).less(others);
            if of(own) < left { (of(own), Reason::MeterBudgetSpent) } else { (left, Reason::BudgetSpent) }
        }
    };
    match price.quantity_for(room.0.less(meter.grant.cost_before)) {
        Some(beyond) => (Some(meter.included() + beyond), room.1),
        None => (None, room.1),
    }
}

#[cfg(test)]
mod tests;
