//! The result of comparing Stripe's total with the accepted events, and the sentence that
//! describes it to people. `jobs/reconcile_stripe/compare.rs` decides which case applies.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::units::calendar::instant;

/// The amount by which Stripe's total is below the sum of the events sent, in Stripe's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Below 0 for a surplus: the total is above that sum.
    pub amount: i64,
    /// When this amount was first seen.
    pub since: i64,
}

/// How Stripe's total of an invoice compares with the accepted events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The total is the sum of the events sent, less what a person has acknowledged. It may
    /// include events that were discarded while unconfirmed.
    Agrees,
    /// The total includes the unconfirmed event: Stripe accepted it.
    UnconfirmedArrived { seq: i64 },
    /// The total has not included these events for a day: they become not received, and their
    /// amounts are planned again. `arrived` is the unconfirmed event, if the total includes it.
    EventsMissing { missing: Vec<i64>, arrived: Option<i64> },
    /// An event, or the shortfall, is younger than a day: nothing is decided yet.
    TooEarly,
    /// The total has been too low for a day, and no missing events explain the shortfall.
    StripeHasLess(Unexplained),
    /// The total has been too high for a day: another program sends to the meter.
    StripeHasMore(Unexplained),
    /// Stripe gives no total: the Stripe customer was deleted, the meter is unknown, or the answer
    /// cannot be read.
    NoTotal { stripe_customer: String, answer: String },
}

/// A shortfall or surplus that no missing events explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexplained {
    /// Stripe's total of the events before `until`.
    pub total: i64,
    pub until: i64,
    /// As [`Shortfall::amount`].
    pub shortfall: i64,
    /// The amount comes on top of one that a person has acknowledged.
    pub beside_acknowledged: bool,
}

impl Difference {
    /// Whether the difference needs a person.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::StripeHasLess(_) | Self::StripeHasMore(_) | Self::NoTotal { .. })
    }

    /// `StripeHasMore` for a surplus, `StripeHasLess` for a shortfall.
    pub fn unexplained(found: Unexplained) -> Self {
        if found.shortfall < 0 { Self::StripeHasMore(found) } else { Self::StripeHasLess(found) }
    }
}

impl JsonSchema for Difference {
    fn schema_name() -> Cow<'static, str> {
        "Difference".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// The sentence for people.
impl Serialize for Difference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
