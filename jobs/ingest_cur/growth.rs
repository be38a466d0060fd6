//! Finds versions that change what was long settled: past days that grow by much, usage of a closed
//! month that finds its customers, and days that cannot be. Pure.
//!
//! AWS completes a day within two days or so, and restates past days by little. So a day is settled
//! when it ended three days before the booked version was delivered. More than twice the usage on
//! settled days is more likely a fault (a factor, a second export in one folder) than the truth. So
//! is usage of a meter that had none, in a month that was settled whole. The invoices of such a
//! month may be out: usage that finds its customers then, because AWS applied a tag to past months,
//! is a decision of a person, too.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::guard::{exceeds, from_to};
use crate::context::HoldPolicy;
use books::units::calendar::{Day, Month};
use books::units::quantity::Quantity;
use books::units::words::several;
use books::usage::ledger::{Cells, UNATTRIBUTED};
use books::usage::months::FINAL_AFTER;

/// How long before a delivery a day ended that is settled.
const SETTLED: SignedDuration = SignedDuration::from_hours(3 * 24);
/// Days that are named, at most.
const NAMED: usize = 3;

/// Growth of usage that was settled.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Growth {
    pub meter: String,
    pub of: Grown,
    pub booked: Quantity,
    pub observed: Quantity,
}

/// What has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grown {
    /// Usage on the settled days, of which this is the last one.
    DaysThrough(Day),
    /// Usage of customers in a month that was settled as a whole. It had no customer before.
    Attributed,
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (meter, grows) = (&self.meter, from_to(self.booked, self.observed));
        match self.of {
            Grown::DaysThrough(day) => write!(f, "{meter} of the settled days through {day} grows {grows}"),
            Grown::Attributed => {
                write!(f, "{meter} of customers in the closed month grows {grows}; it was usage without a customer")
            }
        }
    }
}

/// The last day of the month that was settled when the booked version was delivered; none when the
/// month's first day was not.
fn last_settled(month: Month, delivered_at: Timestamp) -> Option<Day> {
    let before = delivered_at.checked_sub(SETTLED).ok()?;
    let days = month.first_day().epoch()..=month.last_day().epoch();
    days.rev().filter_map(Day::from_epoch).find(|day| day.end() <= before)
}

/// When the booked version and the one that is to be booked were delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    pub(super) booked: Timestamp,
    pub(super) now: Timestamp,
}

/// The last day of the month that is settled for a new version: the whole month also when the new
/// one comes after AWS has finished it, and the booked one came after the month's end.
fn settled_for(month: Month, delivered: Delivered) -> Option<Day> {
    let end = month.last_day().end();
    if delivered.booked >= end && delivered.now >= end + FINAL_AFTER {
        return Some(month.last_day());
    }
    last_settled(month, delivered.booked)
}

/// The growth that the policy puts a version on hold for.
pub(super) fn growths(
    observed: &Cells,
    booked: &Cells,
    month: Month,
    delivered: Delivered,
    policy: &HoldPolicy,
) -> Vec<Growth> {
    let Some(until) = settled_for(month, delivered) else { return vec![] };
    let mut found = vec![];
    let settled = month.first_day()..=until;
    let (now, before) = (on_days(observed, &settled), on_days(booked, &settled));
    for (meter, observed) in now {
        let booked = before.get(&meter).copied().unwrap_or_default();
        // in an open month usage of a meter may begin late
        if booked <= Quantity::ZERO && until != month.last_day() {
            continue;
        }
        let change = observed - booked;
        if change > policy.floor && exceeds(change, booked, policy.past_growth_percent) {
            found.push(Growth { meter, of: Grown::DaysThrough(until), booked, observed });
        }
    }
    if until != month.last_day() {
        return found;
    }
    let (now, before) = (of_customers(observed), of_customers(booked));
    for (meter, had) in before {
        let has = now.get(&meter).copied().unwrap_or_default();
        let change = (has.attributed - had.attributed).min(had.unattributed - has.unattributed);
        let total = had.attributed + had.unattributed;
        if change > policy.floor && exceeds(change, total, policy.month_fall_percent) {
            let (booked, observed) = (had.attributed, has.attributed);
            found.push(Growth { meter, of: Grown::Attributed, booked, observed });
        }
    }
    found
}

/// Sums of each meter on some days.
fn on_days(cells: &Cells, days: &RangeInclusive<Day>) -> BTreeMap<String, Quantity> {
    let mut sums: BTreeMap<String, Quantity> = BTreeMap::new();
    for ((meter, day), quantity) in cells.by_meter_and_day() {
        if days.contains(&day) {
            *sums.entry(meter).or_default() += quantity;
        }
    }
    sums
}

/// Usage of a meter, with and without a customer.
#[derive(Clone, Copy, Debug, Default)]
struct Halves {
    attributed: Quantity,
    unattributed: Quantity,
}

fn of_customers(cells: &Cells) -> BTreeMap<String, Halves> {
    let mut sums: BTreeMap<String, Halves> = BTreeMap::new();
    for ((customer, meter), quantity) in cells.by_customer_and_meter() {
        let of = sums.entry(meter.to_owned()).or_default();
        *(if customer == UNATTRIBUTED { &mut of.unattributed } else { &mut of.attributed }) += quantity;
    }
    sums
}

/// What is wrong with the days of a bill's usage: AWS bills usage of the month before late, and
/// none of other months, nor of the time after the delivery.
pub(super) fn impossible_days(observed: &Cells, month: Month, delivered_at: Timestamp) -> Option<String> {
    let today = delivered_at.as_second().div_euclid(86_400);
    let month_or_before = month.previous().first_day()..=month.last_day();
    let may_be = |day: &Day| month_or_before.contains(day) && i64::from(day.epoch()) <= today;
    let mut days: Vec<Day> = observed.by_meter_and_day().into_keys().map(|(_, day)| day).collect();
    days.retain(|day| !may_be(day));
    days.sort_unstable();
    days.dedup();
    let named: Vec<String> = days.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if days.len() > NAMED { ", …" } else { "" };
    let day = delivered_at.strftime("%Y-%m-%d %H:%M UTC");
    (!days.is_empty()).then(|| {
        format!(
            "usage on {} that the bill of {month}, delivered {day}, cannot have: {}{more}",
            several(days.len(), "day"),
            named.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::usage::ledger::Cell;

    fn month() -> Month {
        "2026-10".parse().unwrap()
    }

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    /// Cells of meter `m`: (customer: 0 for none, day of October 2026, units).
    fn cells(list: &[(u32, &str, i64)]) -> Cells {
        let cell = |(customer, on, units): &(u32, &str, i64)| Cell {
            customer: *customer,
            meter: 0,
            day: day(on),
            quantity: units * 10_000_000_000,
        };
        let customers = [UNATTRIBUTED.to_owned(), "a".into(), "b".into()];
        Cells::sorted(&customers, &["m".into()], list.iter().map(cell).collect())
    }

    fn found(booked: &[(u32, &str, i64)], observed: &[(u32, &str, i64)], delivered: &str) -> Vec<String> {
        found_later(booked, observed, delivered, delivered)
    }

    fn found_later(
        booked: &[(u32, &str, i64)],
        observed: &[(u32, &str, i64)],
        delivered: &str,
        now: &str,
    ) -> Vec<String> {
        let delivered = Delivered { booked: delivered.parse().unwrap(), now: now.parse().unwrap() };
        let found = growths(&cells(observed), &cells(booked), month(), delivered, &HoldPolicy::default());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_day_is_settled_three_days_after_its_end() {
        for (delivered, last) in [
            ("2026-10-04T23:59:59Z", None),
            ("2026-10-05T00:00:00Z", Some("2026-10-01")),
            ("2026-10-10T12:00:00Z", Some("2026-10-06")),
            ("2026-11-03T23:59:59Z", Some("2026-10-30")),
            ("2026-11-04T00:00:00Z", Some("2026-10-31")),
            ("2027-05-01T00:00:00Z", Some("2026-10-31")),
        ] {
            assert_eq!(last_settled(month(), delivered.parse().unwrap()), last.map(day), "{delivered}");
        }
    }

    #[test]
    fn settled_days_that_more_than_double_are_on_hold_and_new_days_are_not() {
        let booked = [(1, "2026-10-01", 60), (1, "2026-10-06", 40), (1, "2026-10-09", 1)];
        let at = "2026-10-10T12:00:00Z";
        let twice = [(1, "2026-10-01", 100), (1, "2026-10-06", 100), (1, "2026-10-09", 500)];
        assert!(found(&booked, &twice, at).is_empty(), "exactly the share passes, and newest days grow");
        let more = [(1, "2026-10-01", 100), (1, "2026-10-06", 101)];
        assert_eq!(
            found(&booked, &more, at),
            ["m of the settled days through 2026-10-06 grows from 100 to 201 (+101 %)"]
        );
        let late = [(1, "2026-10-01", 6000), (1, "2026-10-06", 40)];
        assert!(found(&booked, &late, "2026-10-04T00:00:00Z").is_empty(), "nothing was settled");
        assert!(found(&[(1, "2026-10-09", 5)], &late, at).is_empty(), "nothing was booked on settled days");
        assert!(found(&[(1, "2026-10-01", 1)], &[(1, "2026-10-01", 2)], at).is_empty(), "the floor passes");
        assert!(found(&[], &late, at).is_empty(), "usage that begins late");
        assert_eq!(
            found(&[], &late, "2026-11-04T00:00:00Z"),
            ["m of the settled days through 2026-10-31 grows from 0 to 6040"]
        );
        let stragglers = [(1, "2026-09-30", 5000), (1, "2026-10-01", 60), (1, "2026-10-06", 40)];
        assert!(found(&booked, &stragglers, at).is_empty(), "late usage of the month before");
    }

    #[test]
    fn usage_of_a_closed_month_that_finds_its_customers_is_on_hold() {
        let booked = [(0, "2026-10-01", 100), (1, "2026-10-20", 100)];
        let tagged = [(2, "2026-10-01", 100), (1, "2026-10-20", 100)];
        let open = "2026-10-29T00:00:00Z";
        let closed = "2026-11-05T00:00:00Z";
        assert!(found(&booked, &tagged, open).is_empty(), "an open month");
        assert_eq!(
            found(&booked, &tagged, closed),
            ["m of customers in the closed month grows from 100 to 200 (+100 %); it was usage without a customer"]
        );
        // booked on the second day after it: AWS has finished it when the next version comes
        let second = "2026-11-02T12:00:00Z";
        assert!(found_later(&booked, &tagged, second, "2026-11-07T23:59:59Z").is_empty(), "AWS finishes it");
        assert_eq!(found_later(&booked, &tagged, second, "2026-11-08T00:00:00Z").len(), 1);
        assert!(found_later(&booked, &tagged, open, "2026-11-20T00:00:00Z").is_empty(), "booked before its end");
        let few = [(0, "2026-10-01", 60), (2, "2026-10-01", 40), (1, "2026-10-20", 100)];
        assert!(found(&booked, &few, closed).is_empty(), "exactly a fifth passes");
        let grown = [(0, "2026-10-01", 100), (1, "2026-10-20", 180)];
        assert!(found(&booked, &grown, closed).is_empty(), "what is without a customer stays so");
        let all = [(1, "2026-10-01", 100)];
        assert!(found(&all, &[(1, "2026-10-01", 180)], closed).is_empty(), "all had customers, and less than twice");
        assert_eq!(found(&all, &[(1, "2026-10-01", 6000)], closed).len(), 1, "said once");
    }

    #[test]
    fn days_that_cannot_be_are_named() {
        let says = |days: &[&str], delivered: &str| {
            let list: Vec<(u32, &str, i64)> = days.iter().map(|day| (1, *day, 5)).collect();
            impossible_days(&cells(&list), month(), delivered.parse().unwrap())
        };
        let at = "2026-10-10T03:00:00Z";
        assert_eq!(says(&["2026-09-01", "2026-09-30", "2026-10-01", "2026-10-10"], at), None);
        assert_eq!(says(&["2026-10-31"], "2026-11-09T00:00:00Z"), None);
        for (days, word) in [
            (
                &["2026-10-11"][..],
                "1 day that the bill of 2026-10, delivered 2026-10-10 03:00 UTC, cannot have: 2026-10-11",
            ),
            (&["1970-01-01", "2026-10-02"], "1 day that the bill of 2026-10"),
            (&["2026-08-31"], "2026-08-31"),
            (&["9999-12-31", "1970-01-01", "1970-01-02", "1970-01-03"], "4 days that"),
            (&["9999-12-31", "1970-01-01", "1970-01-02", "1970-01-03"], ": 1970-01-01, 1970-01-02, 1970-01-03, …"),
        ] {
            let found = says(days, at).unwrap();
            assert!(found.contains(word), "{found}");
        }
        assert!(says(&["2026-11-01"], "2026-11-09T00:00:00Z").unwrap().contains("2026-11-01"), "the month after");
    }
}
