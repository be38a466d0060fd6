//! How usage is billed: plain settings that the configuration makes and jobs are given.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::account::StripeAccount;

/// How usage is billed.
#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// Meters that are billed, by our names.
    pub meters: BTreeMap<String, Mapping>,
    /// How long an invoice takes usage after its period, in seconds.
    pub grace: i64,
    /// Requests for totals on one day.
    pub reads_per_day: u32,
    /// How long after books were restored from a backup Stripe's totals are believed to have all
    /// that the lost ones had sent, in seconds.
    pub settle_delay: i64,
    pub mode: StripeMode,
}

/// Where a meter goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Stripe's name of the meter.
    pub event_name: String,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    /// What Stripe shows to the owner.
    pub display_name: String,
}

/// Where usage goes.
#[derive(Clone, Debug, Default)]
pub enum StripeMode {
    /// Nowhere: what would be sent is only told.
    #[default]
    DryRun,
    Stripe(StripeAccount),
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self { meters: BTreeMap::new(), grace: 3600, reads_per_day: 300, settle_delay: 86_400, mode: StripeMode::DryRun }
    }
}
