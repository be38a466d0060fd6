//! Finds versions that take back too much booked usage. Pure.
//!
//! AWS restates bills, mostly by little. When a meter's month shrinks by a large share, or when
//! customers lose a large share of their booked usage (to each other, or to nobody because the
//! export lost its tag), the version is more likely an accident than the truth, and a person should
//! decide. Unattributed usage that is attributed to a customer later is no loss.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::HoldPolicy;
use books::units::calendar::Day;
use books::units::quantity::{Quantity, divide_half_even};
use books::usage::ledger::{Cells, UNATTRIBUTED};

/// The part of a bill that changes too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Month,
    /// The month's usage of customers: the sum of what each of them keeps.
    Customers,
    Day(Day),
}

/// Booked usage that a version takes back, or a past day that it changes by much.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Restatement {
    pub meter: String,
    pub scope: Scope,
    pub booked: Quantity,
    pub observed: Quantity,
}

impl fmt::Display for Restatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = match self.scope {
            Scope::Month => "the month".into(),
            Scope::Customers => "the customers who have it now".into(),
            Scope::Day(day) => day.to_string(),
        };
        write!(f, "{} of {span} goes {}", self.meter, from_to(self.booked, self.observed))
    }
}

/// A change in words, with whole percent of what is booked, unless nothing is.
pub(super) fn from_to(booked: Quantity, observed: Quantity) -> String {
    let change = (observed - booked).scaled().checked_mul(100).filter(|_| !booked.is_zero());
    let percent = change.map(|change| divide_half_even(change, booked.scaled().abs()).0);
    let percent = percent.map_or(String::new(), |percent| format!(" ({percent:+} %)"));
    format!("from {booked} to {observed}{percent}")
}

/// True when `change` is more than `percent` of `of`.
pub(super) fn exceeds(change: Quantity, of: Quantity, percent: u32) -> bool {
    change.scaled() * 100 > of.scaled().abs() * i128::from(percent)
}

/// The changes that the policy puts a version on hold for.
pub(super) fn restatements(observed: &Cells, booked: &Cells, policy: &HoldPolicy) -> Vec<Restatement> {
    let mut found = vec![];
    let now = observed.by_meter();
    let falls = |booked: Quantity, observed: Quantity| {
        booked - observed > policy.floor && exceeds(booked - observed, booked, policy.month_fall_percent)
    };
    let of_customers = kept_by_customers(observed, booked);
    for (meter, booked) in booked.by_meter() {
        let observed = now.get(&meter).copied().unwrap_or_default();
        let Kept { had, has } = of_customers.get(&meter).copied().unwrap_or_default();
        if falls(booked, observed) {
            found.push(Restatement { meter, scope: Scope::Month, booked, observed });
        } else if falls(had, has) {
            found.push(Restatement { meter, scope: Scope::Customers, booked: had, observed: has });
        }
    }
    let Some(percent) = policy.day_change_percent else { return found };
    let (now, before) = (observed.by_meter_and_day(), booked.by_meter_and_day());
    for ((meter, day), booked) in &before {
        // the newest booked day of a meter is incomplete, so it may grow
        let past = before.range((meter.clone(), *day)..).nth(1).is_some_and(|((m, _), _)| m == meter);
        let observed = now.get(&(meter.clone(), *day)).copied().unwrap_or_default();
        let change = (observed - *booked).abs();
        if past && change > policy.floor && exceeds(change, *booked, percent) {
            found.push(Restatement { meter: meter.clone(), scope: Scope::Day(*day), booked: *booked, observed });
        }
    }
    found
}

/// Usage of customers that are in the books.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    /// Booked to them.
    had: Quantity,
    /// How much of that the new version still gives to the same customers.
    has: Quantity,
}

/// What customers keep of each meter.
fn kept_by_customers(observed: &Cells, booked: &Cells) -> BTreeMap<String, Kept> {
    let now = observed.by_customer_and_meter();
    let mut found: BTreeMap<String, Kept> = BTreeMap::new();
    for ((customer, meter), had) in booked.by_customer_and_meter() {
        if customer != UNATTRIBUTED {
            let has = now.get(&(customer, meter)).copied().unwrap_or_default();
            let sums = found.entry(meter.to_owned()).or_default();
            sums.had += had;
            sums.has += had.min(has);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::usage::ledger::Cell;

    /// Cells of one customer and meter `m`: (day of October 2026, units).
    fn cells(days: &[(i32, i64)]) -> Cells {
        let first = "2026-10-01".parse::<Day>().unwrap().epoch();
        let cell = |(day, units): &(i32, i64)| Cell {
            customer: 0,
            meter: 0,
            day: Day::from_epoch(first + day - 1).unwrap(),
            quantity: units * 10_000_000_000,
        };
        Cells::sorted(&["c".into()], &["m".into()], days.iter().map(cell).collect())
    }

    fn found(observed: &[(i32, i64)], booked: &[(i32, i64)], days: Option<u32>) -> Vec<String> {
        let policy = HoldPolicy { day_change_percent: days, ..HoldPolicy::default() };
        restatements(&cells(observed), &cells(booked), &policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_month_that_falls_by_more_than_a_fifth_is_on_hold() {
        assert!(found(&[(1, 80)], &[(1, 100)], None).is_empty(), "exactly the share passes");
        assert_eq!(found(&[(1, 79)], &[(1, 100)], None), ["m of the month goes from 100 to 79 (-21 %)"]);
        assert_eq!(found(&[], &[(1, 100)], None), ["m of the month goes from 100 to 0 (-100 %)"], "everything gone");
        assert!(found(&[(1, 500)], &[(1, 100)], None).is_empty(), "growth passes");
        assert!(found(&[], &[(1, 1)], None).is_empty(), "the floor passes");
    }

    #[test]
    fn a_past_day_that_changes_is_on_hold_when_that_is_asked_for() {
        let booked = [(1, 100), (2, 100), (3, 10)];
        assert!(found(&[(1, 100), (2, 100), (3, 90), (4, 5)], &booked, Some(10)).is_empty(), "the newest day grows");
        assert_eq!(
            found(&[(1, 100), (2, 130), (3, 10)], &booked, Some(10)),
            ["m of 2026-10-02 goes from 100 to 130 (+30 %)"]
        );
        assert_eq!(
            found(&[(1, 80), (2, 100), (3, 10)], &booked, Some(10)),
            ["m of 2026-10-01 goes from 100 to 80 (-20 %)"]
        );
        assert!(found(&[(1, 80), (2, 100), (3, 10)], &booked, None).is_empty(), "not asked for");
    }
}
