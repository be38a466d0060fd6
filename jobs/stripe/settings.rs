//! How usage is billed: plain settings that jobs get from the configuration.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::account::StripeAccount;

#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// Meters that are billed, by their names in the books.
    pub meters: BTreeMap<String, Mapping>,
    /// Seconds after its period during which an invoice takes usage.
    pub grace: i64,
    /// The most requests for totals on one UTC day.
    pub reads_per_day: u32,
    /// The settle delay: seconds after a restore for which Stripe's totals are not yet believed to
    /// include everything that the lost books sent.
    pub settle_delay: i64,
    pub mode: StripeMode,
}

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

/// Whether usage is sent, and to which account.
#[derive(Clone, Debug, Default)]
pub enum StripeMode {
    /// Nothing is sent; jobs report what they would send.
    #[default]
    DryRun,
    Stripe(StripeAccount),
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self {
            meters: BTreeMap::new(),
            grace: 3600,
            reads_per_day: 300,
            settle_delay: 86_400,
            mode: StripeMode::DryRun,
        }
    }
}
