//! What no bill has, and what the books cannot hold.

use super::UsageAggregator;
use books::units::calendar::Day;
use books::units::quantity::Quantity;

/// Kinds of line of watched products, and bytes of their names. A bill has some hundreds.
const MOST_KINDS: usize = 100_000;
const MOST_NAMES: usize = 16 << 20;

/// Values of the customer tag, and bytes of them.
const MOST_CUSTOMERS: usize = 500_000;
const MOST_IDS: usize = 32 << 20;

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
    /// What is wrong when there is more than a bill has of what stays in memory, or costs in
    /// several currencies.
    pub fn too_much(&self) -> Option<String> {
        let costs = self.costs.as_ref().and_then(|costs| costs.too_much());
        self.too_many_kinds().or_else(|| self.too_many_customers()).or(costs).or_else(|| self.no_one_currency())
    }

    fn too_many_customers(&self) -> Option<String> {
        let (values, bytes) = (self.customers.texts.len(), self.customers.bytes);
        (values > MOST_CUSTOMERS || bytes > MOST_IDS).then(|| {
            format!(
                "it has {values} values of the customer tag so far, with {} MiB of text, and {MOST_CUSTOMERS} with {} MiB \
                 are read at most; check that `tag_key` is the tag with the customer's id",
                bytes >> 20,
                MOST_IDS >> 20
            )
        })
    }

    fn too_many_kinds(&self) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use books::usage::meter::Rules;

    #[test]
    fn customers_beyond_any_bill_are_too_much() {
        let rules = Rules {
            tag_keys: vec!["who".into()],
            meters: vec![],
            ignore: vec![],
            watched: vec![],
            shared_buckets: vec![],
            costs: vec![],
        };
        let new = || UsageAggregator::new(Arc::new(rules.clone()), "2026-10".parse().unwrap());
        for (length, most, said) in
            [(8, MOST_CUSTOMERS - 1, "500001 values of"), (256, MOST_IDS / 256, "131074 values of")]
        {
            let mut aggregator = new();
            for n in 0..most {
                aggregator.customers.intern(&format!("{n:0length$}"));
            }
            assert_eq!(aggregator.too_much(), None, "{length}");
            aggregator.customers.intern("one more");
            let why = aggregator.too_much().unwrap();
            assert!(why.contains(said) && why.contains("and 500000 with 32 MiB are read at most"), "{why}");
        }
    }
}
