//! What no bill has, and what the books cannot hold.

use super::UsageAggregator;
use books::units::calendar::Day;
use books::units::quantity::Quantity;

/// Kinds of line of watched products, and bytes of their names. A bill has some hundreds.
const MOST_KINDS: usize = 100_000;
const MOST_NAMES: usize = 16 << 20;

/// Usage of a customer, meter and day that the books cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{customer} has {billed} of {meter} on {day}: the books hold 900,000,000 units of a customer, meter and day \
     at most. If that is right, count the meter in a larger unit (`unit` and `factor` of the meter in meter.toml); \
     if not, the bill is wrong: ask AWS for a corrected one"
)]
pub struct UsageTooLarge {
    pub customer: String,
    pub meter: String,
    pub day: Day,
    /// As the bill has it, before the meter's factor.
    pub billed: Quantity,
}

impl UsageAggregator {
    /// What is wrong when there are more kinds of line than a bill has: they all stay in memory.
    pub fn too_many_kinds(&self) -> Option<String> {
        let (kinds, bytes) = (self.line_groups.len(), self.names.bytes);
        (kinds > MOST_KINDS || bytes > MOST_NAMES).then(|| {
            format!(
                "it has {kinds} kinds of line so far, with {} MiB of product codes, usage types, line types and units, \
                 far more than any bill; it is damaged or was not made by AWS: export the bill anew",
                bytes >> 20
            )
        })
    }
}
