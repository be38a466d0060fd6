//! How usage is billed: plain settings that jobs get from the configuration.

use std::collections::BTreeMap;

use super::account::StripeAccount;
use super::mapping::Mapping;
use books::limits::overage_billing::OverageBilling;

/// How usage is billed: the configuration of the Stripe jobs.
#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// Meters that are billed, by their names in the books.
    pub meters: BTreeMap<String, Mapping>,
    /// Seconds after its period during which an invoice takes usage.
    pub grace: i64,
    /// Who pays for usage beyond the overage budget.
    pub overage: OverageBilling,
    /// The most requests for totals on one UTC day.
    pub reads_per_day: u32,
    /// The settle delay: seconds after a restore for which Stripe's totals are not yet believed to
    /// include everything that the lost books sent.
    pub settle_delay: i64,
    pub mode: StripeMode,
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
            overage: OverageBilling::UpToBudget,
            reads_per_day: 300,
            settle_delay: 86_400,
            mode: StripeMode::DryRun,
        }
    }
}
