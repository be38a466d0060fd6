//! Tables and properties of billing periods.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn t(text: &str) -> i64 {
    let text = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    text.parse::<Timestamp>().unwrap().as_second()
}

fn sub(id: &str, anchor: &str, started: &str, ended: Option<&str>) -> Subscription {
    let anchors = vec![AnchorFrom { from: t(started), anchor: t(anchor) }];
    Subscription { id: id.into(), anchors, started: t(started), ended: ended.map(t) }
}

/// Starts of periods, and the end of the last, as days or instants.
fn bounds(subscriptions: &[Subscription], from: &str, now: &str) -> Vec<String> {
    let spans = spans(subscriptions, t(from), t(now));
    assert!(spans.windows(2).all(|w| w[0].end == w[1].start), "no gap");
    let written = |s: i64| Timestamp::from_second(s).unwrap().to_string().replace("T00:00:00Z", "");
    spans.iter().map(|s| s.start).chain(spans.last().map(|s| s.end)).map(written).collect()
}

#[test]
fn anchors_at_the_end_of_the_month_come_back() {
    let of = |anchor: &str, from: &str, now: &str| bounds(&[sub("s", anchor, anchor, None)], from, now);
    for (anchor, expected) in [
        ("2027-12-31", ["2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30"]),
        ("2027-12-30", ["2027-12-30", "2028-01-30", "2028-02-29", "2028-03-30", "2028-04-30"]),
        ("2027-12-29", ["2027-12-29", "2028-01-29", "2028-02-29", "2028-03-29", "2028-04-29"]),
        ("2026-12-29", ["2026-12-29", "2027-01-29", "2027-02-28", "2027-03-29", "2027-04-29"]),
        ("2026-12-31", ["2026-12-31", "2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]),
    ] {
        let until = t(expected[1]);
        let now = Timestamp::from_second(until).unwrap().to_string();
        assert_eq!(of(anchor, anchor, &now), expected, "{anchor}");
    }
    assert_eq!(
        of("2027-01-31T22:30:00Z", "2027-01-31T22:30:00Z", "2027-02-28T22:29:59Z"),
        ["2027-01-31T22:30:00Z", "2027-02-28T22:30:00Z", "2027-03-31T22:30:00Z", "2027-04-30T22:30:00Z"]
    );
}

#[test]
fn without_a_subscription_periods_are_calendar_months() {
    assert_eq!(
        bounds(&[], "2028-01-01", "2028-02-10"),
        ["2028-01-01", "2028-02-01", "2028-03-01", "2028-04-01", "2028-05-01"]
    );
}

#[test]
fn a_subscription_cuts_what_was_running_and_its_end_gives_way() {
    let one = [sub("s", "2026-03-10", "2026-03-10", Some("2026-04-20"))];
    assert_eq!(
        bounds(&one, "2026-03-01", "2026-04-25"),
        ["2026-03-01", "2026-03-10", "2026-04-10", "2026-04-20", "2026-05-01", "2026-06-01", "2026-07-01"]
    );
    // who comes back begins anew
    let two = [one[0].clone(), sub("t", "2026-05-15T12:00:00Z", "2026-05-15T12:00:00Z", None)];
    assert_eq!(
        bounds(&two, "2026-04-20", "2026-05-20"),
        [
            "2026-04-20",
            "2026-05-01",
            "2026-05-15T12:00:00Z",
            "2026-06-15T12:00:00Z",
            "2026-07-15T12:00:00Z",
            "2026-08-15T12:00:00Z"
        ]
    );
}

#[test]
fn a_changed_anchor_ends_the_period_that_runs() {
    // Stripe's `billing_cycle_anchor=now` on 10 March; what was invoiced before stays as it was
    let mut changed = [sub("s", "2026-01-01", "2026-01-01", None)];
    changed[0].anchors.push(AnchorFrom { from: t("2026-03-10"), anchor: t("2026-03-10") });
    assert_eq!(
        bounds(&changed, "2026-01-01", "2026-03-10")[..4],
        ["2026-01-01", "2026-02-01", "2026-03-01", "2026-03-10"]
    );
    assert_eq!(
        bounds(&changed, "2026-03-01", "2026-03-10"),
        ["2026-03-01", "2026-03-10", "2026-04-10", "2026-05-10", "2026-06-10"]
    );
    // an anchor that is still to come: the first period is short
    let trial = [sub("s", "2026-03-20", "2026-03-06", None)];
    assert_eq!(bounds(&trial, "2026-03-06", "2026-03-07")[..3], ["2026-03-06", "2026-03-20", "2026-04-20"]);
}

#[test]
fn of_two_subscriptions_the_one_that_began_last_governs() {
    let two = [sub("a", "2026-01-05", "2026-01-05", None), sub("b", "2026-03-12", "2026-03-12", Some("2026-04-01"))];
    assert_eq!(
        bounds(&two, "2026-03-05", "2026-04-02"),
        ["2026-03-05", "2026-03-12", "2026-04-01", "2026-04-05", "2026-05-05", "2026-06-05"]
    );
    assert!(overlap_at(&two, t("2026-03-20")) && !overlap_at(&two, t("2026-04-01")));
}

#[test]
fn the_first_period_of_one_who_brings_a_subscription_is_its_own() {
    let s = [sub("s", "2025-06-15", "2025-06-15", None)];
    assert_eq!(first_start(&s, t("2026-11-01")), t("2026-10-15"));
    assert_eq!(first_start(&s, t("2025-06-15")), t("2025-06-15"));
    assert_eq!(first_start(&[], t("2026-11-22")), t("2026-11-01"));
}

#[test]
fn a_day_belongs_to_the_period_that_holds_its_last_second() {
    let days = |subscriptions: &[Subscription], from: &str, now: &str| -> Vec<(String, String)> {
        let periods = with_days(spans(subscriptions, t(from), t(now)));
        periods.iter().take(4).map(|p| (p.first_day.to_string(), p.last_day.to_string())).collect()
    };
    let noon = [sub("s", "2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z", Some("2026-04-20T12:00:00Z"))];
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        days(&noon, "2026-03-01", "2026-04-01"),
        [
            pair("2026-03-01", "2026-03-09"),
            pair("2026-03-10", "2026-04-09"),
            // the day of the end has its last second in no subscription's period, and its first in
            // this one
            pair("2026-04-10", "2026-04-20"),
            pair("2026-04-21", "2026-04-30"),
        ]
    );
    // over and back on one day: the new subscription holds its last second, the days between have
    // none
    let back = [
        sub("a", "2026-03-10", "2026-03-10", Some("2026-03-20T08:00:00Z")),
        sub("b", "2026-03-20T16:00:00Z", "2026-03-20T16:00:00Z", None),
    ];
    assert_eq!(
        days(&back, "2026-03-10", "2026-03-21"),
        [
            pair("2026-03-10", "2026-03-19"),
            pair("2026-03-20", "2026-03-19"),
            pair("2026-03-20", "2026-04-19"),
            pair("2026-04-20", "2026-05-19"),
        ]
    );
}

#[test]
fn a_period_knows_the_month_that_it_is_part_of() {
    let months = |subscriptions: &[Subscription], from: &str, now: &str| -> Vec<(String, i64)> {
        let periods = with_days(spans(subscriptions, t(from), t(now)));
        periods.iter().take(3).map(|p| (p.planned_last_day.to_string(), p.month_days)).collect()
    };
    let noon = [sub("s", "2026-03-10T12:00:00Z", "2026-03-10T12:00:00Z", Some("2026-03-20T12:00:00Z"))];
    assert_eq!(
        months(&noon, "2026-03-01", "2026-04-01"),
        [("2026-03-31".to_owned(), 31), ("2026-04-09".to_owned(), 31), ("2026-03-31".to_owned(), 31)],
        "March until the 9th, the subscription's month until the 20th, the rest of March"
    );
    assert_eq!(months(&[], "2026-02-01", "2026-02-03")[0], ("2026-02-28".to_owned(), 28));
}

fn any_subscription() -> impl Strategy<Value = Subscription> {
    let start = t("2026-01-01");
    (0..400_i64, 0..86_400_i64, 0..60_i64, prop::option::of(1..300_i64)).prop_map(
        move |(day, second, anchor, lives)| {
            let started = start + day * DAY + second;
            Subscription {
                id: format!("s{day}"),
                anchors: vec![AnchorFrom { from: started, anchor: started + anchor * DAY }],
                started,
                ended: lives.map(|days| started + days * DAY / 3),
            }
        },
    )
}

proptest! {
    /// Periods have no gap, reach beyond now, and share out every day, each to one.
    #[test]
    fn every_day_belongs_to_exactly_one_period(subscriptions in prop::collection::vec(any_subscription(), 0..4), now in 0..500_i64) {
        let from = t("2026-01-01");
        let now = from + now * DAY + 4321;
        let spans = spans(&subscriptions, from, now);
        prop_assert!(spans.iter().filter(|s| s.end > now).count() > AHEAD);
        prop_assert!(spans.windows(2).all(|w| w[0].end == w[1].start) && spans[0].start == from);
        prop_assert!(spans.iter().all(|s| s.end > s.start && s.end - s.start <= 31 * DAY));
        let periods = with_days(spans.clone());
        let mut owners: BTreeMap<i32, usize> = BTreeMap::new();
        for (i, p) in periods.iter().enumerate() {
            for day in p.first_day.epoch()..=p.last_day.epoch() {
                prop_assert!(owners.insert(day, i).is_none(), "day {} is shared", day);
            }
        }
        let (first, last) = (*owners.keys().next().unwrap(), *owners.keys().last().unwrap());
        prop_assert_eq!(owners.len(), usize::try_from(last - first + 1).unwrap());
        // the rule of the design, in its own words
        for (day, own) in &owners {
            let (start, end) = (i64::from(*day) * DAY, i64::from(*day) * DAY + DAY - 1);
            let holder = |second: i64, billed: bool| {
                spans.iter().position(|s| s.start <= second && second < s.end && (s.subscription.is_some() || !billed))
            };
            let expected = holder(end, true).or(holder(start, true)).or(holder(end, false)).or(holder(start, false));
            if *day != last {
                prop_assert_eq!(Some(*own), expected, "day {}", day);
            }
        }
    }
}
