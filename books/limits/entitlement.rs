//! Entitlements: which meters a customer may go on using.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::connection::Value;
use crate::store::error::BooksError;
use crate::units::calendar::instant;
use crate::units::quantity::Quantity;

/// Why a meter may or may not be used. The stored names are part of the contract with the web
/// backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Within what the plan includes.
    WithinIncluded,
    /// Beyond what the plan includes, and within the budget.
    WithinBudget,
    /// The included amount is used up, and the plan has no price for more.
    IncludedUsed,
    /// The included amount is used up, and the customer has set no budget for more.
    NoBudget,
    /// The budget for all meters is spent.
    BudgetSpent,
    /// The meter's own budget is spent.
    MeterBudgetSpent,
    /// The included amount is used up, and a payment is late.
    PastDue,
    /// Stripe has stopped trying to collect.
    Unpaid,
    /// The subscription is paused.
    Paused,
    /// The subscription or the account is over.
    Canceled,
    /// The plan does not name the meter.
    NotInPlan,
    /// The customer's plan is unknown.
    UnknownPlan,
    /// The included amount is used up, and the bill is too old to allow more.
    DataTooOld,
    /// The included amount is used up, and the budget is in another currency than the plan.
    BudgetInOtherCurrency,
}

impl Reason {
    /// Every reason, its stored name, and a sentence for people.
    pub const ALL: [(Self, &'static str, &'static str); 14] = [
        (Self::WithinIncluded, "within_included", "it is within what the plan includes"),
        (Self::WithinBudget, "within_budget", "what the plan includes is used up, and the overage budget is not spent"),
        (Self::IncludedUsed, "included_used", "what the plan includes is used up, and the plan has no price for more"),
        (Self::NoBudget, "no_budget", "what the plan includes is used up, and no overage budget is set"),
        (Self::BudgetSpent, "budget_spent", "the overage budget is spent"),
        (Self::MeterBudgetSpent, "meter_budget_spent", "this meter's own overage budget is spent"),
        (Self::PastDue, "past_due", "what the plan includes is used up, and a payment is late"),
        (Self::Unpaid, "unpaid", "the subscription is unpaid"),
        (Self::Paused, "paused", "the subscription is paused"),
        (Self::Canceled, "canceled", "the subscription or the account is over"),
        (Self::NotInPlan, "not_in_plan", "the plan does not have this meter"),
        (Self::UnknownPlan, "unknown_plan", "the customer's plan is not known"),
        (Self::DataTooOld, "data_too_old", "what the plan includes is used up, and the bill is too old to allow more"),
        (
            Self::BudgetInOtherCurrency,
            "budget_in_other_currency",
            "what the plan includes is used up, and the overage budget is in another currency than the plan",
        ),
    ];

    fn entry(self) -> (&'static str, &'static str) {
        Self::ALL.iter().find(|(reason, ..)| *reason == self).map_or(("", ""), |(_, name, words)| (name, words))
    }

    /// As it is stored.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    pub fn words(self) -> &'static str {
        self.entry().1
    }

    /// True when a decision with this reason says nothing about a later billing period. Who does
    /// not pay stays blocked.
    pub fn ends_with_period(self) -> bool {
        !matches!(self, Self::Unpaid | Self::Paused | Self::Canceled)
    }

    /// The reason that is stored under `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(reason, ..)| *reason)
    }
}

/// Whether the customer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    Good,
    /// A payment is late: only what is included may be used.
    PastDue,
    /// Stripe has stopped trying to collect: nothing may be used.
    Unpaid,
    /// The subscription is paused: nothing may be used.
    Paused,
    /// The subscription or the account is over: nothing may be used.
    Canceled,
}

impl PaymentStatus {
    /// The worse of the customer's own status and the status of the governing subscription
    /// (<https://docs.stripe.com/api/subscriptions/object#subscription_object-status>).
    pub fn of(customer: &str, subscription: Option<&str>) -> Self {
        match (customer, subscription) {
            ("canceled", _) | (_, Some("canceled")) => Self::Canceled,
            (_, Some("paused")) => Self::Paused,
            (_, Some("unpaid")) => Self::Unpaid,
            ("past_due", _) | (_, Some("past_due")) => Self::PastDue,
            _ => Self::Good,
        }
    }

    /// The reason why nothing at all may be used, if there is one.
    pub fn stops(self) -> Option<Reason> {
        match self {
            Self::Good | Self::PastDue => None,
            Self::Unpaid => Some(Reason::Unpaid),
            Self::Paused => Some(Reason::Paused),
            Self::Canceled => Some(Reason::Canceled),
        }
    }
}

/// How old the data behind a decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Counted as it happens.
    Live,
    /// From a bill that is new enough.
    Fresh,
    /// From a bill that is older than the configuration allows, or nobody decides any more.
    Stale,
    /// No bill is booked yet, or nobody has decided about the period.
    None,
}

impl Freshness {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Live, "live"), (Self::Fresh, "fresh"), (Self::Stale, "stale"), (Self::None, "none")];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(f, _)| *f == self).map_or("none", |(_, name)| name)
    }

    fn named(name: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == name).map_or(Self::None, |(f, _)| *f)
    }
}

/// A decision and its facts. Money is in minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Entitlement {
    pub customer: String,
    pub meter: String,
    /// First instant of the billing period.
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub allowed: bool,
    pub reason: Reason,
    /// What counts: `used_billed` and `used_measured` together.
    pub used: Quantity,
    /// What `used` is by the bill alone; for TURN the live count.
    pub used_billed: Quantity,
    /// What measurements add on days that no bill has settled.
    pub used_measured: Quantity,
    pub included: Quantity,
    /// The quantity at which it must stop; none = nowhere.
    pub effective_limit: Option<Quantity>,
    /// Cost of all overage of the customer.
    pub overage_cost_minor: i64,
    /// Cost of this meter's overage.
    pub meter_cost_minor: i64,
    /// What all overage may cost.
    pub budget_minor: i64,
    /// What this meter's overage may cost; none = it has no budget of its own.
    pub meter_budget_minor: Option<i64>,
    pub currency: String,
    /// Until when usage is booked.
    pub as_of: Option<Timestamp>,
    /// As far as the bill decides it; see [`freshness_at`](super::enforcement::freshness_at).
    pub freshness: Freshness,
    pub decided_at: Timestamp,
    /// When running uses take the meter to its limit, at the present level; none = not before
    /// something else changes.
    pub blocked_at: Option<Timestamp>,
}

impl Entitlement {
    /// True when only the time of the decision differs, and how old the bill was.
    pub fn same_except_time(&self, other: &Self) -> bool {
        let Self { as_of, freshness, decided_at, .. } = *other;
        Self { as_of, freshness, decided_at, ..self.clone() } == *other
    }

    /// True when the answer or its terms differ; usage, freshness and the limit may differ anyway.
    pub fn decision_differs(&self, other: &Self) -> bool {
        let decision =
            |e: &Self| (e.period_start, e.allowed, e.reason, e.included, e.budget_minor, e.meter_budget_minor);
        decision(self) != decision(other)
    }
}

/// A quantity that a cell can hold, so that the stored decision equals the computed one.
pub fn storable(quantity: Quantity) -> Quantity {
    scaled(cell(quantity))
}

pub(super) fn scaled(cell: i64) -> Quantity {
    Quantity::from_scaled(i128::from(cell))
}

/// The largest quantity in a cell: the quantity is that or more.
pub const LARGEST: Quantity = Quantity::from_scaled(9_223_372_036_854_775_807);

/// A quantity in a cell. A larger one becomes [`LARGEST`]; it is shown and not computed with.
fn cell(quantity: Quantity) -> i64 {
    i64::try_from(quantity.scaled()).unwrap_or(if quantity < Quantity::ZERO { i64::MIN } else { i64::MAX })
}

pub(super) const COLUMNS: &str = "customer, meter, period_start, period_end, allowed, reason, used, included, \
    effective_limit, overage_cost_minor, meter_cost_minor, budget_minor, meter_budget_minor, currency, as_of, \
    freshness, decided_at, used_measured, blocked_at";

/// An entitlement as a row of [`COLUMNS`], as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct StoredEntitlement(
    String,
    String,
    i64,
    i64,
    i64,
    String,
    i64,
    i64,
    Option<i64>,
    i64,
    i64,
    i64,
    Option<i64>,
    String,
    Option<i64>,
    String,
    i64,
    i64,
    Option<i64>,
);

impl TryFrom<StoredEntitlement> for Entitlement {
    type Error = BooksError;

    fn try_from(stored: StoredEntitlement) -> Result<Self, BooksError> {
        let StoredEntitlement(customer, meter, start, end, allowed, reason, used, included, limit, ..) = stored;
        let StoredEntitlement(
            ..,
            cost,
            meter_cost,
            budget,
            meter_budget,
            currency,
            as_of,
            freshness,
            decided,
            measured,
            blocked_at,
        ) = stored;
        Ok(Self {
            customer,
            meter,
            period_start: instant(start),
            period_end: instant(end),
            allowed: allowed == 1,
            reason: reason_named(&reason)?,
            used: scaled(used),
            used_billed: scaled(used) - scaled(measured),
            used_measured: scaled(measured),
            included: scaled(included),
            effective_limit: limit.map(scaled),
            overage_cost_minor: cost,
            meter_cost_minor: meter_cost,
            budget_minor: budget,
            meter_budget_minor: meter_budget,
            currency,
            as_of: as_of.map(instant),
            freshness: Freshness::named(&freshness),
            decided_at: instant(decided),
            blocked_at: blocked_at.map(instant),
        })
    }
}

/// An entitlement as a row of [`COLUMNS`], as it is written.
pub(super) fn row(e: &Entitlement) -> [Value; 19] {
    [
        e.customer.as_str().into(),
        e.meter.as_str().into(),
        e.period_start.as_second().into(),
        e.period_end.as_second().into(),
        i64::from(e.allowed).into(),
        e.reason.name().into(),
        cell(e.used).into(),
        cell(e.included).into(),
        e.effective_limit.map(cell).into(),
        e.overage_cost_minor.into(),
        e.meter_cost_minor.into(),
        e.budget_minor.into(),
        e.meter_budget_minor.into(),
        e.currency.as_str().into(),
        e.as_of.map(Timestamp::as_second).into(),
        e.freshness.name().into(),
        e.decided_at.as_second().into(),
        cell(e.used_measured).into(),
        e.blocked_at.map(Timestamp::as_second).into(),
    ]
}

pub(super) fn reason_named(name: &str) -> Result<Reason, BooksError> {
    Reason::named(name).ok_or_else(|| BooksError::Integrity(format!("reason `{name}` of an entitlement")))
}
