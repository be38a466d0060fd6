//! Does a new version take back too much of what is booked? Pure.
//!
//! AWS restates bills, mostly by little. A version in which a meter's month shrinks by a large share is more likely an
//! accident (an export that lost its tag column, a wrong bucket) than the truth, and a person should say which.

use std::fmt;

use serde::Serialize;

use super::Policy;
use crate::books::ledger::Cells;
use crate::books::period::Day;
use crate::books::quantity::Quantity;

/// Booked usage that a version takes back, or a past day that it changes by much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restatement {
    /// The meter.
    pub meter: String,
    /// The day; none for the whole month.
    pub day: Option<Day>,
    /// What is booked.
    pub booked: Quantity,
    /// What the version says.
    pub observed: Quantity,
}

impl fmt::Display for Restatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.day.map_or("the month".into(), |d| d.to_string());
        write!(f, "{} of {span} goes from {} to {}", self.meter, self.booked, self.observed)
    }
}

/// True when `change` is more than `percent` of `of`.
fn exceeds(change: Quantity, of: Quantity, percent: u32) -> bool {
    change.scaled() * 100 > of.scaled().abs() * i128::from(percent)
}

/// What the policy would not let pass unseen.
pub(super) fn restatements(observed: &Cells, booked: &Cells, policy: &Policy) -> Vec<Restatement> {
    let mut found = vec![];
    let now = observed.by_meter();
    for (meter, booked) in booked.by_meter() {
        let observed = now.get(&meter).copied().unwrap_or_default();
        let fall = booked - observed;
        if fall > policy.floor && exceeds(fall, booked, policy.month_fall_percent) {
            found.push(Restatement { meter, day: None, booked, observed });
        }
    }
    let Some(percent) = policy.day_change_percent else { return found };
    let (now, before) = (observed.by_meter_and_day(), booked.by_meter_and_day());
    for ((meter, day), booked) in &before {
        // the newest booked day of a meter is not yet whole, so that it grows is no news
        let past = before.range((meter.clone(), *day)..).nth(1).is_some_and(|((m, _), _)| m == meter);
        let observed = now.get(&(meter.clone(), *day)).copied().unwrap_or_default();
        let change = (observed - *booked).abs();
        if past && change > policy.floor && exceeds(change, *booked, percent) {
            found.push(Restatement { meter: meter.clone(), day: Some(*day), booked: *booked, observed });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::ledger::Cell;

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
        let policy = Policy { day_change_percent: days, ..Policy::default() };
        restatements(&cells(observed), &cells(booked), &policy).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_month_that_falls_by_more_than_a_fifth_is_held() {
        assert!(found(&[(1, 80)], &[(1, 100)], None).is_empty(), "exactly the share passes");
        assert_eq!(found(&[(1, 79)], &[(1, 100)], None), ["m of the month goes from 100 to 79"]);
        assert_eq!(found(&[], &[(1, 100)], None).len(), 1, "everything gone");
        assert!(found(&[(1, 500)], &[(1, 100)], None).is_empty(), "growth passes");
        assert!(found(&[], &[(1, 1)], None).is_empty(), "the floor passes");
    }

    #[test]
    fn a_past_day_that_changes_is_held_when_that_is_asked_for() {
        let booked = [(1, 100), (2, 100), (3, 10)];
        assert!(found(&[(1, 100), (2, 100), (3, 90), (4, 5)], &booked, Some(10)).is_empty(), "the newest day grows");
        assert_eq!(found(&[(1, 100), (2, 130), (3, 10)], &booked, Some(10)), ["m of 2026-10-02 goes from 100 to 130"]);
        assert_eq!(found(&[(1, 80), (2, 100), (3, 10)], &booked, Some(10)), ["m of 2026-10-01 goes from 100 to 80"]);
        assert!(found(&[(1, 80), (2, 100), (3, 10)], &booked, None).is_empty(), "not asked for");
    }
}
