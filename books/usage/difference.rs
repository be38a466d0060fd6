//! What a booking changes, by customer, meter and day, before it is booked.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::calendar::Day;
use crate::units::quantity::Quantity;
use crate::usage::ledger::{Adjustment, Adjustments, Cells};

/// A change of a customer's usage of a meter on a day.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageDifference {
    /// Customer id; empty for usage without a tag.
    pub customer: String,
    pub meter: String,
    pub day: Day,
    /// What is booked of the bill.
    pub before: Quantity,
    pub after: Quantity,
}

impl UsageDifference {
    pub fn change(&self) -> Quantity {
        self.after - self.before
    }
}

/// What is to be booked beside what is booked of the same bill, in the order of the entries. Pure.
pub fn differences(entries: &Adjustments, booked: &Cells) -> Vec<UsageDifference> {
    let mut found = Vec::with_capacity(entries.entries.len());
    let mut known = booked.named().peekable();
    for Adjustment { cell, .. } in &entries.entries {
        let (customer, meter) = entries.names(cell);
        let place = (customer, meter, cell.day);
        while known.next_if(|(of, _)| *of < place).is_some() {}
        let before = known.next_if(|(of, _)| *of == place).map_or(0, |(_, quantity)| quantity);
        let before = Quantity::from_scaled(i128::from(before));
        found.push(UsageDifference {
            customer: customer.to_owned(),
            meter: meter.to_owned(),
            day: cell.day,
            before,
            after: before + Quantity::from_scaled(i128::from(cell.quantity)),
        });
    }
    found
}

/// Changes of usage by customer, each by meter and day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageChanges(BTreeMap<String, BTreeMap<(String, Day), Quantity>>);

impl UsageChanges {
    pub fn add(&mut self, of: &UsageDifference) {
        let customer = self.0.entry(of.customer.clone()).or_default();
        *customer.entry((of.meter.clone(), of.day)).or_default() += of.change();
    }

    /// The changes of a customer, by meter and day.
    pub fn of(&self, customer: &str) -> impl Iterator<Item = (&str, Day, Quantity)> {
        let all = self.0.get(customer).into_iter().flatten();
        all.map(|((meter, day), change)| (meter.as_str(), *day, *change))
    }

    /// The customers with a change, each with its first day. Usage without a tag is nobody's.
    pub fn customers(&self) -> impl Iterator<Item = (&String, Day)> {
        let named = self.0.iter().filter(|(customer, _)| !customer.is_empty());
        named.filter_map(|(customer, days)| Some((customer, days.keys().map(|(_, day)| *day).min()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::ledger::{Cell, SharedCells, adjustments};

    fn cells(of: &[(&str, &str, i32, i64)]) -> Cells {
        let names = |name: fn(&(&str, &str, i32, i64)) -> String| {
            of.iter().map(name).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let (customers, meters) = (names(|of| of.0.to_owned()), names(|of| of.1.to_owned()));
        let cell = |of: &(&str, &str, i32, i64)| {
            let first = |names: &[String], name: &str| names.iter().position(|n| n == name).unwrap();
            Cell {
                customer: u32::try_from(first(&customers, of.0)).unwrap(),
                meter: u32::try_from(first(&meters, of.1)).unwrap(),
                day: Day::from_epoch(of.2).unwrap(),
                quantity: of.3,
            }
        };
        Cells::sorted(&customers, &meters, of.iter().map(cell).collect())
    }

    #[test]
    fn each_entry_has_what_was_booked_before_it() {
        let booked = cells(&[("a", "m", 1, 5), ("a", "m", 2, 7), ("b", "m", 1, 1), ("b", "n", 1, 2)]);
        let observed = cells(&[("a", "m", 1, 5), ("a", "m", 2, 4), ("b", "n", 1, 2), ("c", "m", 3, 9)]);
        let found = differences(&adjustments(&observed, &booked, &SharedCells::new()).unwrap(), &booked);
        let text: Vec<String> = found
            .iter()
            .map(|of| {
                format!("{} {} {} {} {}", of.customer, of.meter, of.day.epoch(), of.before.scaled(), of.after.scaled())
            })
            .collect();
        assert_eq!(text, ["a m 2 7 4", "b m 1 1 0", "c m 3 0 9"]);
        let mut changes = UsageChanges::default();
        found.iter().chain(&found).for_each(|of| changes.add(of));
        let of_a: Vec<_> = changes.of("a").map(|(meter, day, change)| (meter, day.epoch(), change.scaled())).collect();
        assert_eq!(of_a, [("m", 2, -6)]);
        assert_eq!(changes.customers().count(), 3);
    }
}
