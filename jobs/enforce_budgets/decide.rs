//! May a customer go on using a meter, and up to where? Pure, and exact: nothing is rounded here.
//!
//! A meter is allowed while it is within its included amount, or while what the customer's overage
//! has cost is below the budget (and what this meter's has cost is below its own budget, if it has
//! one). The two forms of the answer are one: *allowed* means that what is used is less than the
//! effective limit, and the limit is the first quantity, to ten decimals, at which the cost reaches
//! the budget.

use books::limits::entitlement::{PaymentStatus, Reason};
use books::limits::plan::Terms;
use books::units::money::{Cost, Currency};
use books::units::quantity::Quantity;

/// What is to be decided for one customer.
#[derive(Clone, Debug)]
pub struct CustomerCase<'a> {
    pub payment: PaymentStatus,
    /// The plan's currency; none when no plan of that name is known.
    pub currency: Option<Currency>,
    /// What all overage together may cost, in minor units, if that was ever said.
    pub budget: Option<i64>,
    /// A budget is in another currency than the plan, so that nobody can say what it is worth.
    pub budget_in_other_currency: bool,
    /// The bill is so old that the policy allows no overage.
    pub data_too_old: bool,
    pub meters: Vec<MeterCase<'a>>,
}

/// A meter of the case.
#[derive(Clone, Debug)]
pub struct MeterCase<'a> {
    pub meter: &'a str,
    /// What the plan says of it; none = it is not part of the plan.
    pub terms: Option<Terms>,
    /// What was used in the period.
    pub used: Quantity,
    /// What its own overage may cost, in minor units, if that was said.
    pub budget: Option<i64>,
}

impl MeterCase<'_> {
    fn included(&self) -> Quantity {
        self.terms.map_or(Quantity::ZERO, |t| t.included)
    }

    /// What counts as used: what AWS took back beyond what it gave in the period is no allowance.
    pub fn counted(&self) -> Quantity {
        self.used.max(Quantity::ZERO)
    }

    fn cost(&self) -> Cost {
        let over = (self.used - self.included()).max(Quantity::ZERO);
        self.terms.and_then(|t| t.price).map_or(Cost::ZERO, |price| Cost::of(over, price))
    }
}

/// The answer for one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDecision {
    pub allowed: bool,
    pub reason: Reason,
    /// Why not, once the limit is reached.
    pub stop: Reason,
    /// Where it must stop; none = nowhere.
    pub limit: Option<Quantity>,
    /// Units that are paid for.
    pub included: Quantity,
    /// What its overage has cost.
    pub cost: Cost,
}

/// The answers for a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerDecision {
    /// What all overage has cost.
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

/// Where a meter must stop given what the others have cost, and why there.
fn limit(case: &CustomerCase<'_>, meter: &MeterCase<'_>, others: Cost) -> (Option<Quantity>, Reason) {
    if let Some(reason) = case.payment.stops() {
        return (Some(Quantity::ZERO), reason);
    }
    let Some(currency) = case.currency else { return (Some(Quantity::ZERO), Reason::UnknownPlan) };
    let Some(terms) = meter.terms else { return (Some(Quantity::ZERO), Reason::NotInPlan) };
    let included = |reason| (Some(terms.included), reason);
    let Some(price) = terms.price else { return included(Reason::IncludedUsed) };
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
    // what this meter's overage may cost, and which budget says so
    let room = match (case.budget, meter.budget) {
        (None | Some(0), None) => return included(Reason::NoBudget),
        (None, Some(own)) => (of(own), Reason::MeterBudgetSpent),
        (Some(all), None) => (of(all).less(others), Reason::BudgetSpent),
        (Some(all), Some(own)) => {
            let left = of(all).less(others);
            if of(own) < left { (of(own), Reason::MeterBudgetSpent) } else { (left, Reason::BudgetSpent) }
        }
    };
    match price.quantity_for(room.0) {
        Some(beyond) => (Some(terms.included + beyond), room.1),
        None => (None, room.1),
    }
}

#[cfg(test)]
mod tests;
