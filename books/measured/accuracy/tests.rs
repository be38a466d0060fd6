//! Both witnesses by table, and against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const METER: &str = "chime_minutes";

fn day(number: usize) -> Day {
    let first: Day = "2026-10-30".parse().unwrap();
    Day::from_epoch(first.epoch() + i32::try_from(number).unwrap()).unwrap()
}

fn units(n: i64) -> Quantity {
    Quantity::from_scaled(i128::from(n) * UNIT)
}

fn two(measured: i64, billed: i64) -> TwoWitnesses {
    TwoWitnesses { measured: units(measured), billed: units(billed) }
}

/// A customer's days from day 1 on; measuring begins on day 0.
type Case<'a> = (&'a str, Vec<(i64, i64)>);

fn compare(customers: &[Case<'_>]) -> MeterAccuracy {
    let most = customers.iter().map(|(_, days)| days.len()).max().unwrap_or(0);
    let days: Vec<Day> = (0..=most).map(day).collect();
    let mut check =
        AccuracyCheck::new(&[(METER.to_owned(), (Accrues::AttendeeMinutes, day(0)))].into(), &days, &BTreeSet::new());
    for (customer, days) in customers {
        let usage = days.iter().enumerate().map(|(n, (m, b))| ((METER.to_owned(), day(n + 1)), two(*m, *b)));
        check.add(customer, &usage.collect());
    }
    check.finish().remove(0)
}

#[test]
fn a_day_differs_by_more_than_a_tenth_and_more_than_a_trifle() {
    use Excess::{BilledMore, MeasuredMore};
    for (measured, billed, excess) in [
        (0, 0, None),
        // more than 5 minutes
        (5, 0, None),
        (6, 0, Some(MeasuredMore)),
        (0, 5, None),
        (0, 6, Some(BilledMore)),
        // more than 10 % of the larger one
        (100, 90, None),
        (100, 89, Some(MeasuredMore)),
        (90, 100, None),
        (89, 100, Some(BilledMore)),
        (10_000, 9_000, None),
        // AWS took usage back
        (0, -6, Some(MeasuredMore)),
        (100, -100, Some(MeasuredMore)),
    ] {
        let least = least(Accrues::AttendeeMinutes);
        assert_eq!(two(measured, billed).excess(DAY_PERCENT, least), excess, "{measured} and {billed}");
    }
    let gb = |scaled| TwoWitnesses { measured: Quantity::from_scaled(scaled), billed: Quantity::ZERO };
    for accrues in [Accrues::Gb, Accrues::GbMonths] {
        assert_eq!(gb(UNIT / 100).excess(DAY_PERCENT, least(accrues)), None);
        assert_eq!(gb(UNIT / 100 + 1).excess(DAY_PERCENT, least(accrues)), Some(MeasuredMore));
    }
    // what no meter ever comes to
    let absurd = TwoWitnesses { measured: Quantity::from_scaled(i128::MAX / 2), billed: Quantity::ZERO };
    assert_eq!(absurd.excess(DAY_PERCENT, Quantity::ZERO), Some(MeasuredMore));
}

#[test]
fn a_ratio_is_measured_by_billed() {
    for (measured, billed, ratio) in [
        (0, 100, Some("0.0000")),
        (50, 100, Some("0.5000")),
        (1, 3, Some("0.3333")),
        (200, 100, Some("2.0000")),
        (0, 0, None),
        (1, 0, None),
        (1, -1, None),
    ] {
        assert_eq!(two(measured, billed).ratio().map(|r| r.to_string()).as_deref(), ratio, "{measured} by {billed}");
    }
}

#[test]
fn a_customer_differs_after_three_days_of_seven_in_one_direction() {
    use Excess::{BilledMore, MeasuredMore};
    let (same, forgot, extra) = ((100, 100), (40, 100), (100, 40));
    for (days, differing, finding) in [
        (vec![], 0, None),
        (vec![same; 9], 0, None),
        (vec![forgot, forgot], 2, None),
        (vec![forgot, forgot, forgot], 3, Some(BilledMore)),
        (vec![forgot, same, forgot, same, same, same, forgot], 3, Some(BilledMore)),
        // the eighth day back no longer counts
        (vec![forgot, same, forgot, same, same, same, same, forgot], 2, None),
        (vec![extra, extra, extra], 3, Some(MeasuredMore)),
        // in both directions: late lines of the bill
        (vec![forgot, extra, forgot, extra], 2, None),
        (vec![forgot, extra, forgot, extra, forgot], 3, Some(BilledMore)),
        (vec![extra, extra, extra, extra, forgot, forgot, forgot], 4, Some(MeasuredMore)),
        // everybody stopped reporting
        (vec![same, (0, 100), (0, 100), (0, 100)], 3, Some(BilledMore)),
    ] {
        let found = compare(&[("ann", days.clone())]);
        let own = found.customers.first().map_or((0, None), |own| (own.differing_days, own.finding));
        assert_eq!(own, (differing, finding), "{days:?}");
        assert_eq!(found.differing_customers, u64::from(finding.is_some()));
    }
}

#[test]
fn a_meter_differs_by_its_sum() {
    use Excess::{BilledMore, MeasuredMore};
    for (days, finding) in [
        (vec![(100, 100); 7], None),
        (vec![(95, 100); 7], None),
        (vec![(94, 100); 7], Some(BilledMore)),
        (vec![(100, 95); 7], None),
        (vec![(100, 94); 7], Some(MeasuredMore)),
        // two days say nothing yet
        (vec![(50, 100); 2], None),
        (vec![(50, 100); 3], Some(BilledMore)),
        // days cancel out, and only the newest seven count
        (vec![(0, 100), (200, 100), (100, 100)], None),
        ([vec![(0, 100); 5], vec![(100, 100); 7]].concat(), None),
        (vec![(1, 0); 5], None),
    ] {
        assert_eq!(compare(&[("ann", days.clone())]).finding, finding, "{days:?}");
    }
}

/// Patterns of the runbook.
#[test]
fn tags_that_are_wrong_or_missing_differ_by_customer_and_not_by_meter() {
    let swapped = compare(&[("ann", vec![(100, 0); 7]), ("bob", vec![(50, 150); 7])]);
    let findings: Vec<_> = swapped.customers.iter().map(|own| (own.customer.as_str(), own.finding)).collect();
    assert_eq!(findings, [("ann", Some(Excess::MeasuredMore)), ("bob", Some(Excess::BilledMore))]);
    assert_eq!((swapped.finding, swapped.untagged), (None, Quantity::ZERO));
    let untagged = compare(&[("", vec![(0, 60); 7]), ("ann", vec![(100, 40); 7])]);
    assert_eq!((untagged.finding, untagged.differing_customers), (None, 1));
    assert_eq!((untagged.untagged, untagged.usage), (units(420), two(700, 700)));
    assert_eq!(untagged.customers.len(), 1, "usage without a tag is no customer");
    let other_unit = compare(&[("ann", vec![(60, 1); 7]), ("bob", vec![(600, 10); 7]), ("eve", vec![(0, 0); 7])]);
    assert_eq!((other_unit.finding, other_unit.differing_customers), (Some(Excess::MeasuredMore), 2));
}

#[test]
fn the_first_measured_day_and_those_before_are_not_compared() {
    let days: Vec<Day> = (0..9).map(day).collect();
    let usage = |from: usize| days.iter().skip(from).map(|day| ((METER.to_owned(), *day), two(0, 100))).collect();
    let of = |since: usize| {
        let meters = [(METER.to_owned(), (Accrues::AttendeeMinutes, day(since)))].into();
        let mut check = AccuracyCheck::new(&meters, &days, &BTreeSet::new());
        check.add("ann", &usage(0));
        let found = check.finish().remove(0);
        (found.days.len(), found.has_finding())
    };
    assert_eq!(of(0), (8, true));
    assert_eq!(of(5), (3, true));
    assert_eq!(of(6), (2, false));
    assert_eq!(of(20), (0, false));
    // no meter is measured
    let mut check = AccuracyCheck::new(&BTreeMap::new(), &days, &BTreeSet::new());
    check.add("ann", &usage(0));
    assert_eq!(check.finish(), []);
}

#[test]
fn the_customers_that_differ_most_are_named() {
    let names: Vec<String> = (0..95).map(|n| format!("c{n:02}")).collect();
    let days = |n: i64| match n % 10 {
        // a finding, though the difference is small
        0 => vec![(100 + n, 400); 3],
        _ => vec![(1000 + n, 0), (0, 1)],
    };
    let cases: Vec<Case<'_>> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), days(n))).collect();
    let found = compare(&cases);
    let named: Vec<&str> = found.customers.iter().map(|own| own.customer.as_str()).collect();
    let expected = ["c00", "c10", "c20", "c30", "c40", "c50", "c60", "c70", "c80", "c90"];
    assert_eq!(named[..10], expected);
    assert_eq!(named[10..], ["c94", "c93", "c92", "c91", "c89", "c88", "c87", "c86", "c85", "c84"]);
    assert_eq!(found.differing_customers, 10);
}

/// Whether it differs by more than a share, in the words of the documents.
fn naive(measured: i64, billed: i64, percent: i64) -> Option<Excess> {
    let (by, larger) = ((measured - billed).abs(), measured.abs().max(billed.abs()));
    if by <= 5 || by * 100 <= larger * percent {
        None
    } else if measured > billed {
        Some(Excess::MeasuredMore)
    } else {
        Some(Excess::BilledMore)
    }
}

fn histories() -> impl Strategy<Value = Vec<Vec<(i64, i64)>>> {
    let amount = prop_oneof![Just(0_i64), -20..200_i64, 90..110_i64];
    let measured = prop_oneof![Just(0_i64), 0..200_i64, 90..110_i64];
    prop::collection::vec(prop::collection::vec((measured, amount), 0..12), 0..6)
}

proptest! {
    #[test]
    fn findings_are_those_of_a_naive_model(histories in histories(), untagged in prop::collection::vec(0..90_i64, 0..12)) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut cases: Vec<Case<'_>> = names.iter().copied().zip(histories.clone()).collect();
        cases.push(("", untagged.iter().map(|billed| (0, *billed)).collect()));
        let found = compare(&cases);
        let most = cases.iter().map(|(_, days)| days.len()).max().unwrap();
        let from = most.saturating_sub(7);
        let mut expected: BTreeSet<(&str, Excess)> = BTreeSet::new();
        for (name, days) in names.iter().zip(&histories) {
            let all: Vec<_> = days.iter().skip(from).map(|(m, b)| naive(*m, *b, 10)).collect();
            let count = |of| all.iter().filter(|excess| **excess == Some(of)).count();
            let (more, less) = (count(Excess::MeasuredMore), count(Excess::BilledMore));
            if more.max(less) >= 3 {
                expected.insert((name, if more > less { Excess::MeasuredMore } else { Excess::BilledMore }));
            }
        }
        let findings = found.customers.iter().filter_map(|own| Some((own.customer.as_str(), own.finding?)));
        prop_assert_eq!(findings.collect::<BTreeSet<_>>(), expected.clone());
        prop_assert_eq!(found.differing_customers, u64::try_from(expected.len()).unwrap());
        let judged = cases.iter().flat_map(|(_, days)| days.iter().skip(from));
        let (m, b) = judged.fold((0, 0), |(m, b), day| (m + day.0, b + day.1));
        let whole = if most >= 3 { naive(m, b, 5) } else { None };
        prop_assert_eq!(found.finding, whole);
        let all = |of: fn(&(i64, i64)) -> i64| cases.iter().flat_map(|(_, days)| days).map(of).sum::<i64>();
        prop_assert_eq!(found.usage, two(all(|day| day.0), all(|day| day.1)));
        prop_assert_eq!(found.untagged, units(untagged.iter().sum()));
    }

    /// The order of customers changes nothing, and what agrees on every day is no finding.
    #[test]
    fn the_order_changes_nothing_and_equal_witnesses_agree(histories in histories()) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut cases: Vec<Case<'_>> = names.iter().copied().zip(histories.clone()).collect();
        let found = compare(&cases);
        cases.reverse();
        prop_assert_eq!(&compare(&cases), &found);
        let kept: MeterAccuracy = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
        prop_assert_eq!(kept, found);
        let equal = names.iter().copied().zip(histories).map(|(name, days)| (name, days.iter().map(|d| (d.1, d.1)).collect()));
        let equal = compare(&equal.collect::<Vec<Case<'_>>>());
        prop_assert!(!equal.has_finding() && equal.customers.is_empty());
    }

    /// Ten times as much in both differs as well.
    #[test]
    fn more_of_both_differs_as_well(histories in histories(), factor in 2..50_i64) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let of = |factor: i64| {
            let scaled = |days: &Vec<(i64, i64)>| days.iter().map(|d| (d.0 * factor, d.1 * factor)).collect();
            compare(&names.iter().copied().zip(histories.iter().map(scaled)).collect::<Vec<Case<'_>>>())
        };
        let (one, more) = (of(1), of(factor));
        prop_assert!(one.finding.is_none() || one.finding == more.finding);
        prop_assert_eq!(one.usage.ratio(), more.usage.ratio());
        let days = |found: &MeterAccuracy| -> BTreeMap<String, usize> {
            found.customers.iter().map(|own| (own.customer.clone(), own.differing_days)).collect()
        };
        let (one, more) = (days(&one), days(&more));
        prop_assert!(one.iter().all(|(name, n)| more.get(name).is_some_and(|more| more >= n)));
    }
}
