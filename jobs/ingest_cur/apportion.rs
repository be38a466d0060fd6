//! Usage of shared buckets → usage of customers, by S3's own reports.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::aggregate::{Totals, UsageTooLarge};
use books::shared_bucket::reports::Reports;
use books::shared_bucket::shares::{ShareState, SharedDay, divide};
use books::units::calendar::Day;
use books::units::quantity::{Quantity, Rounding};
use books::usage::ledger::{Cell, Cells, SharedCells, UNATTRIBUTED};
use books::usage::meter::Rules;

/// The names of the shared buckets.
pub(super) fn buckets(rules: &Rules) -> Vec<String> {
    rules.shared_buckets.iter().map(|rule| rule.bucket.clone()).collect()
}

/// Customers, meters and days that have a share.
pub(super) fn shared_cells(days: &[SharedDay]) -> SharedCells<'_> {
    let mut cells = SharedCells::new();
    for SharedDay { day, shares, .. } in days {
        let customers = shares.iter().map(|(customer, _)| customer.as_str()).filter(|customer| !customer.is_empty());
        cells.extend(customers.map(|customer| (customer, day.meter.as_str(), day.day)));
    }
    cells
}

/// Meters and days with a held amount.
pub(super) fn held_cells(days: &[SharedDay]) -> HashSet<(&str, Day)> {
    let held = days.iter().filter(|shared| shared.state == ShareState::Held);
    held.map(|shared| (shared.day.meter.as_str(), shared.day.day)).collect()
}

impl Totals {
    /// Adds the usage of shared buckets to that of customers, and what stays without one. Pure.
    ///
    /// # Errors
    /// When a sum is too large to be booked.
    pub(super) fn apportion(
        &mut self,
        reports: &Reports,
        rules: &Rules,
        delivered: Timestamp,
    ) -> anyhow::Result<Vec<SharedDay>> {
        let of_bucket = |bucket: &str| rules.shared_buckets.iter().find(|rule| rule.bucket == bucket);
        let billed = std::mem::take(&mut self.billed_days);
        let days = billed.into_iter().filter_map(|day| {
            let rule = of_bucket(&day.bucket)?;
            Some(divide(day, rule, reports, delivered.as_second()))
        });
        let days: Vec<SharedDay> = days.collect();
        let mut sums: BTreeMap<(&str, &str, Day), Quantity> = BTreeMap::new();
        for SharedDay { day, shares, .. } in &days {
            for (customer, share) in shares {
                *sums.entry((customer, &day.meter, day.day)).or_default() += *share;
            }
        }
        let mut more = vec![];
        let (mut customers, mut names) = (BTreeMap::new(), vec![]);
        for ((customer, name, day), billed) in sums {
            let Some(place) = self.meters.iter().position(|meter| meter.meter == name) else { continue };
            let own = &mut self.meters[place];
            *(if customer == UNATTRIBUTED { &mut own.unattributed } else { &mut own.apportioned }) += billed;
            let too_large = |_| {
                let customer = if customer == UNATTRIBUTED {
                    "usage without a customer".into()
                } else {
                    format!("customer {customer}")
                };
                UsageTooLarge { customer, meter: name.to_owned(), day, billed }
            };
            let (quantity, fit) = billed.times(rules.meters[place].factor).map_err(too_large)?;
            own.booked += quantity;
            self.rounded_cells += u64::from(fit == Rounding::Rounded);
            let customer = *customers.entry(customer).or_insert_with(|| {
                names.push(customer.to_owned());
                names.len() - 1
            });
            let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            if !quantity.is_zero() {
                let quantity = quantity.to_cell().map_err(too_large)?;
                more.push(Cell { customer: number(customer), meter: number(place), day, quantity });
            }
        }
        let meters: Vec<String> = self.meters.iter().map(|meter| meter.meter.clone()).collect();
        self.observed.add(&Cells::sorted(&names, &meters, more))?;
        Ok(days)
    }
}
