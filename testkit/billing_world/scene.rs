//! What every world begins with: its customers, meters and instants.

use jiff::Timestamp;

pub const HOUR: i64 = 3600;
pub const DAY: i64 = 86_400;
/// Customers of a world. The n-th has the Stripe customer `cus_n` and the subscription `sub_n`.
pub const CUSTOMERS: [&str; 3] = ["ann", "bob", "cyd"];
pub const METERS: [&str; 2] = ["chime_minutes", "storage_gb"];
/// Stripe's units for each of ours.
pub(super) const PER_UNIT: [i64; 2] = [1000, 7];
pub(super) const UNIT: i64 = 10_000_000_000;

/// How a customer is known when a world begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub plan: &'static str,
    pub row: bool,
    /// Whether the books have the Stripe id.
    pub stripe_id: bool,
    /// Whether there is a subscription at Stripe.
    pub subscribed: bool,
    /// Whether the web backend's webhook has announced it.
    pub announced: bool,
}

impl Start {
    /// A customer with everything.
    pub fn known() -> Self {
        Self { plan: "pro", row: true, stripe_id: true, subscribed: true, announced: true }
    }
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn day_text(day: i64) -> String {
    at(day * DAY).to_string()[..10].to_owned()
}
