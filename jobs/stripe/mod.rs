//! The client of Stripe's API, and the settings of billing.
//!
//! [`transport`] makes one call; [`account`] has the requests and the rate limit; [`objects`]
//! reads the answers; [`preconditions`] checks whether a run may use an account; [`check`]
//! compares the account with the configuration, for people, and [`check_items`] each customer's
//! items with the plan.

pub mod account;
pub mod check;
pub mod check_items;
pub mod mapping;
pub mod objects;
pub mod preconditions;
pub mod settings;
pub mod transport;

pub use account::{SendCounters, StripeAccount};
pub use mapping::Mapping;
pub use objects::{Page, RemoteItem, RemoteMeter, RemotePrice, RemoteSubscription, Unsupported};
pub use settings::{BillingSettings, StripeMode};

/// The most examples that a stored report lists.
pub(crate) const LISTED: usize = 20;
