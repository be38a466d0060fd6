//! Tables of what is said of an export.

use std::collections::BTreeMap;

use books::usage::months::{KnownMonth, ManifestOnHold};

use super::*;

fn m(text: &str) -> Month {
    text.parse().unwrap()
}

fn t(text: &str) -> Timestamp {
    format!("{text}T12:00:00Z").parse().unwrap()
}

fn of(months: &[(&str, &str)]) -> PayerMonths {
    let month = |(month, day): &(&str, &str)| {
        let day = t(day);
        let known = KnownMonth {
            booked: true,
            on_hold: None,
            export: "main".into(),
            version: "v1".into(),
            taken_back: None,
            manifest_digest: "booked".into(),
            delivered_at: day,
            decided_at: day,
        };
        (m(month), known)
    };
    PayerMonths { first: m(months[0].0), known: months.iter().map(month).collect() }
}

fn look(month: &str, found: Found) -> MonthLook {
    MonthLook { payer: "default".into(), export: "main".into(), month: m(month), at: t("2026-11-10"), found }
}

fn said(of: &PayerMonths, looks: &[MonthLook]) -> Vec<(String, String)> {
    let now = t("2026-11-10");
    gaps(of, &looks.iter().collect::<Vec<_>>(), now).iter().map(|gap| gap.words("main", now)).collect()
}

#[test]
fn each_gap_says_export_month_and_command() {
    let complete = [("2026-07", "2026-08-08"), ("2026-09", "2026-10-08"), ("2026-10", "2026-11-08")];
    let read = |month: &str| format!("meter ingest --export main --month {month}");
    let mut whole = of(&[complete[0], ("2026-08", "2026-09-02"), complete[1], complete[2]]);
    assert_eq!(said(&whole, &[]), []);
    assert_eq!(said(&whole, &[look("2026-07", Found::AsBooked), look("2026-08", Found::Nothing)]), []);

    let hole = of(&complete);
    let words = "2026-08 of export main was never read, though months before it are".to_owned();
    assert_eq!(said(&hole, &[]), [(words, read("2026-08"))]);
    let [(what, act)] = &said(&hole, &[look("2026-08", Found::Nothing)])[..] else { panic!() };
    assert!(
        what.ends_with("its bill was not in the bucket 0 s ago") && act.ends_with(&read("2026-08")),
        "{what} {act}"
    );

    let partial = of(&[complete[0], ("2026-08", "2026-08-20"), complete[1], complete[2]]);
    let words = "2026-08 of export main is over, and its final figures were never read: the booked version is of \
                 2026-08-20 12:00 UTC, 82 d old";
    assert_eq!(said(&partial, &[]), [(words.to_owned(), read("2026-08"))]);

    let other = |digest: &str| Found::Other {
        version: "v2".into(),
        manifest_digest: digest.into(),
        delivered_at: t("2026-10-30"),
    };
    let words = "AWS changed 2026-07 of export main after it was booked: a version of 2026-10-30 12:00 UTC is in the \
                 bucket, as seen 0 s ago";
    let act = format!("{} --dry-run; {}", read("2026-07"), read("2026-07"));
    assert_eq!(said(&whole, &[look("2026-07", other("new"))]), [(words.to_owned(), act)]);
    assert_eq!(said(&whole, &[look("2026-07", other("booked"))]), [], "it was booked after the look");
    let [(what, _)] = &said(&whole, &[look("2026-07", Found::Unreadable("no JSON".into()))])[..] else { panic!() };
    assert!(what.contains("cannot be used") && what.ends_with("no JSON"), "{what}");
    // if AWS delivers a month again after its first days, the next reading books it
    assert_eq!(said(&whole, &[look("2026-08", other("new"))]), []);
    let on_hold = ManifestOnHold { manifest_digest: "held".into(), decided_at: t("2026-09-10") };
    whole.known.get_mut(&m("2026-08")).unwrap().on_hold = Some(on_hold);
    assert_eq!(said(&whole, &[look("2026-08", other("held"))]), [], "it is named as on hold");
    let [(what, act)] = &said(&whole, &[look("2026-08", other("newer"))])[..] else { panic!() };
    let words = "AWS changed 2026-08 of export main after it was put on hold: a version of 2026-10-30 12:00 UTC is in";
    assert!(what.starts_with(words) && act.ends_with(&read("2026-08")), "{what} {act}");
    for gap in gaps(&hole, &[], t("2026-11-10")) {
        assert!(Gap::NAMES.contains(&gap.gap.name()));
        assert_eq!(serde_json::to_value(&gap).unwrap()["gap"], gap.gap.name());
    }
}

#[test]
fn an_export_that_never_worked_says_why() {
    let config: ExportConfig = serde_json::from_str(r#"{"name": "main", "location": "bucket"}"#).unwrap();
    let now = t("2026-11-10");
    let said = |end: Option<&str>, working: Option<&str>| {
        let last = end.map(|end| serde_json::from_str(end).unwrap());
        let runs = IngestRuns { found_a_bill: false, last };
        let health = export_health(&config, &BTreeMap::new(), &[], runs, now);
        health.never_read(working.map(t), now).unwrap().0
    };
    let at = t("2026-11-09").as_millisecond();
    let begin = "no bill of export main was ever read: ";
    for (end, working, why) in [
        (
            Some(format!("{{\"at\":{at},\"reason\":\"denied\"}}")),
            Some("2026-11-01"),
            "the newest reading failed 24 h ago: denied",
        ),
        (
            Some("{\"at\":null,\"reason\":\"away\"}".into()),
            None,
            "the newest reading failed and will be tried again: away",
        ),
        (Some(format!("{{\"at\":{at},\"reason\":null}}")), None, "the newest reading found no bill 24 h ago"),
        (None, Some("2026-11-08"), "no reading has ended since a worker began 2 d ago"),
        (None, None, "no worker has read it yet"),
    ] {
        assert_eq!(said(end.as_deref(), working), format!("{begin}{why}"));
    }
    let months = Months::from([("default".into(), of(&[("2026-10", "2026-11-02")]))]);
    let health = export_health(&config, &months, &[], IngestRuns::default(), now);
    assert_eq!(health.never_read(None, now), None);
    let line = "main: since 2026-10; no closed one was looked at yet";
    assert_eq!(health.months_line(now).unwrap(), line);
    let looked = export_health(&config, &months, &[look("2026-10", Found::AsBooked)], IngestRuns::default(), now);
    assert_eq!(
        looked.months_line(now).unwrap(),
        "main: since 2026-10; 1 closed one(s) unchanged, as looked at 0 s ago"
    );
}
