//! What a comparison of Stripe's total with the accepted events comes to, and the sentences that
//! people read about it. `jobs/reconcile_stripe/compare.rs` decides which case it is.

use std::fmt;

use crate::units::calendar::instant;

/// An amount by which Stripe's total is below what was sent, in Stripe's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Below 0 when the total is above what was sent.
    pub amount: i64,
    /// When this amount was first seen.
    pub since: i64,
}

/// How Stripe's total of an invoice differs from the accepted events, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The total is what was sent.
    Agrees,
    /// The total has the unconfirmed event: Stripe accepted it.
    UnconfirmedArrived { seq: i64 },
    /// The total has been without these events for a day: they are not received, and planned anew.
    /// The unconfirmed event `arrived` if the total has it.
    EventsMissing { missing: Vec<i64>, arrived: Option<i64> },
    /// Events are younger than a day, or the shortfall is: nothing follows yet.
    TooEarly,
    /// The total has been too low for a day, and no missing events explain it.
    StripeHasLess(Unexplained),
    /// The total has been too high for a day: somebody else sends to the meter.
    StripeHasMore(Unexplained),
    /// Stripe refuses to give a total: the Stripe customer was deleted, or the meter is unknown.
    NoTotal { stripe_customer: String, answer: String },
}

/// An amount that no missing events explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexplained {
    /// Stripe's total of the events before `until`.
    pub total: i64,
    pub until: i64,
    /// As [`Shortfall::amount`].
    pub shortfall: i64,
    /// The amount is beside another one that a person has acknowledged.
    pub beside_acknowledged: bool,
}

impl Difference {
    /// Whether a person must look.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::StripeHasLess(_) | Self::StripeHasMore(_) | Self::NoTotal { .. })
    }

    /// The case of an amount that no missing events explain.
    pub fn unexplained(found: Unexplained) -> Self {
        if found.shortfall < 0 { Self::StripeHasMore(found) } else { Self::StripeHasLess(found) }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees => f.write_str("Stripe has what was sent"),
            Self::UnconfirmedArrived { seq } => write!(f, "Stripe has the unconfirmed event {seq}"),
            Self::EventsMissing { missing, .. } => write!(f, "Stripe does not have the events {missing:?}"),
            Self::TooEarly => f.write_str("too early to say"),
            Self::StripeHasLess(found) => found.describe(f, "less"),
            Self::StripeHasMore(found) => found.describe(f, "more"),
            Self::NoTotal { stripe_customer, answer } => {
                write!(f, "Stripe has no total of {stripe_customer}: {answer}")
            }
        }
    }
}

impl Unexplained {
    fn describe(&self, f: &mut fmt::Formatter<'_>, word: &str) -> fmt::Result {
        let Self { total, until, shortfall, .. } = *self;
        let until = instant(until);
        let beside = if self.beside_acknowledged { " and acknowledged" } else { "" };
        let amount = shortfall.unsigned_abs();
        write!(
            f,
            "Stripe has {total} of the events before {until}, {amount} {word} than was sent{beside}; no events that are missing explain it"
        )
    }
}
