//! Which meter in Stripe gets the usage of a meter.

use rust_decimal::Decimal;

/// The meter in Stripe for a meter of the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// `event_name` of the meter in Stripe.
    pub event_name: String,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    /// The name in Stripe's dashboard.
    pub display_name: String,
}
