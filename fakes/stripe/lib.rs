//! A stateful fake of Stripe's usage-based billing API over HTTP, for demos, tests and benches.
//!
//! It knows meters, meter events and their adjustments and summaries, prices, subscriptions and
//! customers, and it keeps the books that Stripe would: which event is on which invoice, and which
//! was taken and is on none. It is as strict as Stripe is said to be: identifiers are refused when
//! they come again within a day, answers are kept under their Idempotency-Key, one call at a time
//! is let through per customer and meter, and unknown parameters are errors. A script of faults
//! makes it fail in every way that a server and the network before it can fail.
//!
//! Nothing is shared with the worker that is tested by it, so that a misreading of Stripe's rules
//! is not made twice. What is not known of the real Stripe and was chosen here is marked "by
//! belief" where it is written.

mod adjustments;
mod answers;
mod customers;
mod error_reports;
mod faults;
mod form;
mod handling;
mod invoices;
mod keys;
mod ledger;
mod lists;
mod meter_events;
mod meters;
mod periods;
mod prices;
mod recorded;
mod serving;
mod subscriptions;
mod summaries;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_faults;
mod world;

use std::time::Duration;

pub use faults::{Fault, Seen};
pub use invoices::InvoiceLine;
pub use ledger::Event;
pub use recorded::{Counts, Recorded};
pub use serving::FakeStripe;
pub use subscriptions::Subscription;
pub use world::World;

/// A day in seconds: how long an identifier counts as used, a key is replayed and an event can be
/// cancelled.
pub(crate) const DAY: i64 = 86_400;

/// How the fake behaves; the rest is set up in its [`World`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The secret key that is accepted.
    pub key: String,
    /// What every object says of `livemode`.
    pub livemode: bool,
    /// The time by the fake's clock: the system's if not given, otherwise set by hand with
    /// [`World::set_now`].
    pub now: Option<i64>,
    /// How long after its period's end an invoice is finalised.
    pub grace_seconds: i64,
    /// How long after receipt, by the fake's clock, an event shows in the summaries.
    pub summary_lag_seconds: i64,
    /// How many meter events a second of real time are let through before they get a 429.
    pub events_per_second: Option<u32>,
    /// How long, in real time, a meter event counts as in flight before it is answered.
    pub latency: Duration,
    /// Whether requests are kept in memory for [`World::requests`].
    pub remember_requests: bool,
    /// Whether an unknown customer is reported afterwards (200, then an error report) instead of
    /// refused with a 400.
    pub late_customer_errors: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            key: "sk_test_fake".to_owned(),
            livemode: false,
            now: None,
            grace_seconds: 3600,
            summary_lag_seconds: 0,
            events_per_second: None,
            latency: Duration::ZERO,
            remember_requests: true,
            late_customer_errors: false,
        }
    }
}
