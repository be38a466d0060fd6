//! Tables of the months that are read, and of what is known of them.

use super::*;

fn m(text: &str) -> Month {
    text.parse().unwrap()
}

fn t(text: &str) -> Timestamp {
    format!("{text}T12:00:00Z").parse().unwrap()
}

fn known(delivered: &str) -> KnownMonth {
    KnownMonth {
        booked: true,
        on_hold: None,
        export: "main".into(),
        version: format!("version of {delivered}"),
        taken_back: None,
        manifest_digest: format!("digest of {delivered}"),
        delivered_at: t(delivered),
        decided_at: t(delivered),
    }
}

/// A payer's months with the day of the newest booked version; a `!` puts another one of that day
/// on hold.
fn of(first: &str, months: &[(&str, &str)]) -> PayerMonths {
    let month = |(month, day): &(&str, &str)| {
        let (day, on_hold) = (day.trim_end_matches('!'), day.ends_with('!'));
        let on_hold = on_hold.then(|| ManifestOnHold { manifest_digest: format!("held of {day}"), decided_at: t(day) });
        (m(month), KnownMonth { on_hold, ..known(day) })
    };
    PayerMonths { first: m(first), known: months.iter().map(month).collect() }
}

#[test]
fn every_month_that_is_not_complete_is_read() {
    let summer = [("2026-07", "2026-08-09"), ("2026-08", "2026-08-20")];
    let cases: [(&str, Option<PayerMonths>, &str, &str); 15] = [
        ("a first run reads what it always read", None, "2026-11-10", "2026-10 2026-11"),
        ("off from August to November", Some(of("2026-07", &summer)), "2026-11-10", "2026-08 2026-09 2026-10 2026-11"),
        (
            "nothing is missing",
            Some(of("2026-07", &[summer[0], ("2026-08", "2026-09-08"), ("2026-09", "2026-10-10")])),
            "2026-10-10",
            "2026-09 2026-10",
        ),
        (
            "off from the first of December on: November was finished meanwhile",
            Some(of("2026-10", &[("2026-10", "2026-11-08"), ("2026-11", "2026-12-01")])),
            "2027-01-04",
            "2026-11 2026-12 2027-01",
        ),
        (
            "AWS delivered nothing after the fifth",
            Some(of("2026-08", &[("2026-08", "2026-09-05"), ("2026-09", "2026-10-08"), ("2026-10", "2026-11-08")])),
            "2026-11-20",
            "2026-08 2026-10 2026-11",
        ),
        (
            "and its invoices are long out",
            Some(of("2026-08", &[("2026-08", "2026-09-05"), ("2026-09", "2026-10-08"), ("2026-10", "2026-11-08")])),
            "2026-12-10",
            "2026-11 2026-12",
        ),
        (
            "on the first of a month the last one is still read",
            Some(of("2026-07", &[summer[0], ("2026-08", "2026-08-31")])),
            "2026-09-01",
            "2026-08 2026-09",
        ),
        (
            "a hole between complete months",
            Some(of("2026-06", &[("2026-06", "2026-07-08"), ("2026-08", "2026-09-08"), ("2026-09", "2026-10-08")])),
            "2026-10-10",
            "2026-07 2026-09 2026-10",
        ),
        (
            "what waits for a person is not read anew by itself",
            Some(of("2026-07", &[summer[0], ("2026-08", "2026-08-20!")])),
            "2026-11-10",
            "2026-09 2026-10 2026-11",
        ),
        (
            "unless it is recent",
            Some(of("2026-09", &[("2026-10", "2026-11-02!"), ("2026-09", "2026-10-08")])),
            "2026-11-10",
            "2026-10 2026-11",
        ),
        (
            "the window has an end",
            Some(of("2020-01", &[])),
            "2026-03-10",
            "2025-03 2025-04 2025-05 2025-06 2025-07 2025-08 2025-09 2025-10 2025-11 2025-12 2026-01 2026-02 2026-03",
        ),
        ("over the year", Some(of("2025-12", &[("2025-12", "2025-12-31")])), "2026-02-01", "2025-12 2026-01 2026-02"),
        ("begun this month", Some(of("2026-11", &[("2026-11", "2026-11-02")])), "2026-11-10", "2026-10 2026-11"),
        (
            "a version from the last instant of the month",
            Some(of("2026-08", &[summer[1]])),
            "2026-09-15",
            "2026-08 2026-09",
        ),
        (
            "a clock that was set back",
            Some(of("2026-08", &[("2026-08", "2026-09-05")])),
            "2026-06-15",
            "2026-05 2026-06",
        ),
    ];
    for (what, of, now, expected) in cases {
        let found: Vec<String> = to_read(of.as_ref(), None, 1, t(now)).iter().map(Month::to_string).collect();
        assert_eq!(found.join(" "), expected, "{what}");
    }
    let all = |of: Option<&PayerMonths>, since: Option<&str>, lookback| {
        let found = to_read(of, since.map(m), lookback, t("2026-11-10"));
        found.iter().map(Month::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(all(None, None, 0), "2026-11");
    assert_eq!(all(None, None, 2), "2026-09 2026-10 2026-11");
    // without any version, somebody read for the first time in that month, and the ones before it
    assert_eq!(all(None, Some("2026-11"), 1), "2026-10 2026-11");
    assert_eq!(all(None, Some("2026-09"), 1), "2026-08 2026-09 2026-10 2026-11");
    assert_eq!(all(None, Some("2020-01"), 1).split(' ').count(), 13);
    assert_eq!(all(Some(&of("2026-07", &summer)), Some("2026-11"), 1), "2026-08 2026-09 2026-10 2026-11");
    // the first version is newer than what was wanted
    let late = of("2026-10", &[("2026-10", "2026-11-08")]);
    assert_eq!(all(Some(&late), Some("2026-08"), 1), "2026-08 2026-09 2026-10 2026-11");
    assert_eq!(all(Some(&late), Some("2027-03"), 1), "2026-10 2026-11", "a clock that was ahead");
}

#[test]
fn a_month_lacks_its_figures_when_it_is_over() {
    for (day, now, expected) in [
        (Some("2026-08-20"), "2026-08-20", MonthState::Open),
        (Some("2026-08-31"), "2026-09-07", MonthState::Open),
        (Some("2026-08-31"), "2026-09-08", MonthState::NotFinal),
        (Some("2026-09-01"), "2026-09-01", MonthState::Provisional),
        (Some("2026-09-01"), "2026-09-08", MonthState::Provisional),
        (Some("2026-09-07"), "2027-01-01", MonthState::Provisional),
        (Some("2026-09-08"), "2026-09-08", MonthState::Complete),
        (Some("2026-08-20!"), "2027-01-01", MonthState::OnHold),
        (None, "2026-08-31", MonthState::Open),
        (None, "2026-09-01", MonthState::Unread),
    ] {
        let of = of("2026-08", &day.map(|day| ("2026-08", day)).into_iter().collect::<Vec<_>>());
        assert_eq!(of.state(m("2026-08"), t(now)), expected, "{day:?} {now}");
        let gaps = of.gaps(t(now)).filter(|(month, _)| *month == m("2026-08")).count();
        assert_eq!(gaps == 1, matches!(expected, MonthState::NotFinal | MonthState::Unread), "{day:?} {now}");
    }
}

#[test]
fn a_changed_month_that_nobody_reads_is_open_until_it_is_booked_or_on_hold() {
    let look = |digest: &str| MonthLook {
        payer: "default".into(),
        export: "main".into(),
        month: m("2026-08"),
        at: t("2026-10-10"),
        found: Found::Other { version: "v".into(), manifest_digest: digest.into(), delivered_at: t("2026-10-09") },
    };
    let is_open = |look: MonthLook, of: &PayerMonths| look.is_open(of, t("2026-10-10"));
    let booked = |day: &str| of("2026-08", &[("2026-08", day)]);
    assert!(is_open(look("new"), &booked("2026-09-08")));
    assert!(!is_open(look("digest of 2026-09-08"), &booked("2026-09-08")));
    assert!(!is_open(look("new"), &booked("2026-10-11")), "another version was booked since");
    // the next reading books it by itself
    for read_again in [booked("2026-09-05"), booked("2026-08-20"), of("2026-07", &[])] {
        assert!(!is_open(look("new"), &read_again));
    }
    assert!(is_open(look("new"), &booked("2026-09-08!")), "nobody has looked at the newer version");
    assert!(!is_open(look("held of 2026-09-08"), &booked("2026-09-08!")));
    assert!(!is_open(look("new"), &booked("2026-10-11!")), "another version was put on hold since");
    let unreadable = || MonthLook { found: Found::Unreadable("why".into()), ..look("") };
    assert!(is_open(unreadable(), &booked("2026-09-05")));
    assert!(is_open(unreadable(), &of("2026-07", &[])));
    assert!(!is_open(unreadable(), &booked("2026-10-11")));
    for found in [Found::AsBooked, Found::Nothing] {
        assert!(!is_open(MonthLook { found, ..look("new") }, &booked("2026-09-08")));
    }
}
