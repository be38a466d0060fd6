//! A stateful fake of Stripe's usage-based billing API over HTTP, for demos, tests and benches.
//!
//! It implements meters, meter events with their adjustments and summaries, prices with their
//! products, subscriptions and customers. It also computes the invoices that Stripe would make:
//! which invoice each event is on, and which events were taken and are on none. It is as strict as
//! Stripe's documentation: an identifier is refused for a day after its use, answers are stored
//! under their Idempotency-Key, only one call at a time passes for each customer and meter, and
//! unknown parameters are errors. A script of faults makes it fail in every way in which a server
//! and its network can fail.
//!
//! It shares no code with the worker that it tests, so that a misreading of Stripe's rules is not
//! made twice. "By belief" marks behaviour that was chosen here because the real Stripe's is
//! unknown.

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
mod new_prices;
mod new_subscriptions;
mod periods;
mod prices;
mod products;
mod recorded;
mod serving;
mod subscriptions;
mod summaries;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_faults;
#[cfg(test)]
mod tests_items;
#[cfg(test)]
mod tests_setup;
mod world;

use std::time::Duration;

pub use faults::{Fault, Seen};
pub use invoices::{InvoiceLine, SubscriptionPeriod};
pub use ledger::Event;
pub use prices::{PriceTerms, Tier, Transform};
pub use recorded::{Counts, Recorded};
pub use serving::FakeStripe;
pub use subscriptions::Subscription;
pub use world::World;

/// A day in seconds. For so long an identifier counts as used, a key is replayed, and an event can
/// be cancelled.
pub(crate) const DAY: i64 = 86_400;

/// The fake's behaviour. The objects are set up in its [`World`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The accepted secret key.
    pub key: String,
    /// The value of `livemode` in every object.
    pub livemode: bool,
    /// The instant of the fake's clock. None: the system's clock; otherwise it is set with
    /// [`World::set_now`].
    pub now: Option<i64>,
    /// How long after the end of its period an invoice is finalised.
    pub grace_seconds: i64,
    /// How long after receipt, by the fake's clock, summaries include an event.
    pub summary_lag_seconds: i64,
    /// Meter events per second of real time; more are answered with 429.
    pub events_per_second: Option<u32>,
    /// How long, in real time, a meter event is in flight before its answer.
    pub latency: Duration,
    /// Whether requests are kept in memory for [`World::requests`].
    pub remember_requests: bool,
    /// Whether an event for an unknown customer is answered with 200 and reported later, instead
    /// of refused with 400.
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
