//! Stripe, as far as metering goes: an account, its objects, and the settings of billing.
//!
//! [`transport`] makes one call; [`account`] has the requests and their rate; [`objects`] reads the
//! answers; [`preconditions`] says whether a run may work with an account; [`check`] compares the
//! account with the configuration for people.

pub mod account;
pub mod check;
pub mod objects;
pub mod preconditions;
pub mod settings;
pub mod transport;

pub use account::{SendCounters, StripeAccount};
pub use objects::{Page, RemoteItem, RemoteMeter, RemotePrice, RemoteSubscription};
pub use settings::{BillingSettings, Mapping, StripeMode};

/// Examples that a stored report names.
pub(crate) const LISTED: usize = 20;
