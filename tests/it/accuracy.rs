//! Measured usage as a second witness of the bill: what a person sees, and what it reads.

use std::collections::BTreeMap;
use std::fmt::Write;

use books::measured::accrual::Accrues;
use books::units::calendar::Day;
use jiff::Timestamp;
use testkit::usage::booking;

use crate::contract::Backend;
use crate::support::test_store::TestStore;
use crate::support::{LEDGER, Workspace};

/// Books of one payer. Ann uses 1,000 minutes a day and bob 20, and AWS has billed both up to two
/// days ago.
fn billed() -> Workspace {
    let place = Workspace::with("[[exports]]\nname = \"main\"\npayer = \"p\"\nlocation = \"bucket\"\n");
    place.run("migrate").ends(0);
    let mut sql = String::new();
    for (days, (customer, minutes)) in (2..=9).flat_map(|days| [(days, ("ann", 1000)), (days, ("bob", 20))]) {
        let day = format!("date('now', '-{days} days')");
        for statement in booking(customer, "chime_minutes", &day, &format!("{minutes} * 10000000000")) {
            writeln!(sql, "{statement};").unwrap();
        }
    }
    place.execute(&sql);
    place
}

/// Some minutes of a customer, on each of the days.
fn measure(place: &Workspace, customer: &str, minutes: u32) {
    let rows = (2..=9).map(|days| {
        format!(
            "INSERT INTO measurements (customer, meter, id, quantity, started_at) SELECT '{customer}', 'chime_minutes', \
             'r{days}-' || count(*), {minutes} * 60, unixepoch('now', '-{days} days') FROM measurements;"
        )
    });
    place.execute(&rows.collect::<String>());
}

#[test]
fn a_backend_that_forgets_half_of_its_reports_is_named_until_it_reports_them() {
    let place = billed();
    let ledger = place.query(LEDGER);
    let nothing = "nothing to compare: the web backend reports no measured usage";
    place.run("accuracy").ends(0).says(&[nothing]);
    place.run("accuracy --json").ends(0).says(&["\"meters\": []"]);
    place.run("run fold_measurements --json").ends(0);
    let without = |line: &str, word: &str| {
        let ran = place.run(line);
        assert!(!ran.out.contains(word), "{line}: {}", ran.out);
    };
    without("status", "MeterMeasuredDiffers");

    measure(&place, "ann", 1000);
    measure(&place, "bob", 10);
    let said = place.run("accuracy").ends(3).says(&[
        "chime_minutes     7,070   7,140   99 %",
        "Settled days from 20",
        "bob             70     140   50 %  7 of 7 days",
        "AWS billed more of `bob` than was measured",
        "forgets to report of them, or somebody else uses their tag.",
        "MeterMeasuredDiffers",
    ]);
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{}", said.out);
    let json = place.run("accuracy --json").ends(3).json();
    let of = &json["meters"][0];
    assert_eq!(
        (&of["measured"], &of["billed"], &of["differing_customers"]),
        (&"7070".into(), &"7140".into(), &1.into())
    );
    assert_eq!((&of["finding"], &of["customers"][0]["finding"]), (&serde_json::Value::Null, &"billed_more".into()));
    // one customer by day, and no other's finding
    place.run("accuracy --customer bob").ends(3).says(&["bob, by day", "50 %"]);
    place.run("accuracy --customer ann").ends(0).says(&["ann, by day", "No finding"]);
    let json = place.run("accuracy --customer bob --days 3 --json").ends(3).json();
    assert_eq!(json["customer_days"]["chime_minutes"].as_array().unwrap().len(), 3);
    place.run("accuracy --days 2").ends(0).says(&["2,020   2,040   99 %  minutes     2"]);
    place.run("accuracy --meter transfer_gb").ends(0).says(&[nothing]);
    // a month before anybody measured
    place.run("accuracy --month 2020-01").ends(0).says(&["no bill settles one of these days"]);

    // the daily job keeps the finding for status, pages and metrics
    without("status", "MeterMeasuredDiffers");
    place.run("run fold_measurements --json").ends(0).says(&["chime_minutes"]);
    place.run("status").ends(3).says(&[
        "MeterMeasuredDiffers",
        "measured and billed chime_minutes of 1 customer differ on several settled days",
        "meter accuracy --meter chime_minutes",
    ]);

    measure(&place, "bob", 10);
    place.run("accuracy").ends(0).says(&["No finding: no meter differs by more than 5 %"]);
    place.run("run fold_measurements --json").ends(0);
    without("status", "MeterMeasuredDiffers");
    assert_eq!(place.query(LEDGER), ledger, "measured usage is never booked");
    place.run("verify").ends(0);
}

#[test]
fn each_pattern_is_explained() {
    // nobody reports any more, and then twice as much is reported
    for (ann, bob, words) in [
        (0, 0, ["AWS billed more of all customers together", "AWS billed more of `ann`, `bob`"]),
        (2000, 40, ["more was measured of all customers together", "AWS billed less of `ann`, `bob`"]),
    ] {
        let place = billed();
        place.execute("INSERT INTO measured_days VALUES ('ann', 'chime_minutes', date('now', '-9 days'), 0, 60)");
        measure(&place, "ann", ann);
        measure(&place, "bob", bob);
        place.run("accuracy").ends(3).says(&words);
        place.run("run fold_measurements --json").ends(0);
        place
            .run("status")
            .ends(3)
            .says(&["of chime_minutes were measured on the last settled days, and AWS billed 7,140"]);
    }
}

#[test]
fn what_does_not_exist_is_bad_usage() {
    let place = billed();
    measure(&place, "ann", 1000);
    for (line, words) in [
        ("accuracy --customer nobody", "there is no customer `nobody`"),
        (
            "accuracy --meter turn_allocations",
            "no meter `turn_allocations` is measured (meters[].accrues); there are: `chime_minutes`",
        ),
        ("accuracy --days 0", "0 is not in 1..=40"),
        ("accuracy --days 3 --month 2026-01", "cannot be used with"),
    ] {
        place.run(line).ends(2).says(&[words]);
    }
    let since = place.run("accuracy --customer ann --meter chime_minutes --month 2020-01").ends(0);
    assert!(since.out.contains("nothing to compare"), "{}", since.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_reads_each_row_about_once_in_few_requests() {
    let store = TestStore::remote("rows of accuracy").await;
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let Some(server) = store.server() else { return };
    let today = i32::try_from(Timestamp::now().as_second().div_euclid(86_400)).unwrap();
    let days: Vec<Day> = (2..=8).rev().map(|ago| Day::from_epoch(today - ago).unwrap()).collect();
    let meters: BTreeMap<String, Accrues> =
        [("chime_minutes", Accrues::AttendeeMinutes), ("storage_gb", Accrues::GbMonths), ("transfer_gb", Accrues::Gb)]
            .map(|(name, accrues)| (name.to_owned(), accrues))
            .into();
    let read = async || {
        server.reset_counts();
        let found =
            books.accuracy(meters.clone(), days.clone(), std::collections::BTreeSet::new(), None).await.unwrap().meters;
        let counts = server.counts();
        books.keep_accuracy(&found, Timestamp::now()).await.unwrap();
        (found.len(), counts.rows_read, counts.requests)
    };
    let nothing = read().await;
    let many = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 199)";
    // 20 uses of each customer on as many days, and a year of folded days
    for sql in [
        format!(
            "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) {many} \
             SELECT format('c%03d', i), 'chime_minutes', 'u' || d.value, 1, unixepoch('now') - d.value * 86400, \
                    unixepoch('now') - d.value * 86400 + 60 \
             FROM n, json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]') d"
        ),
        format!(
            "INSERT INTO measured_days (customer, meter, day, units, rest) {many} \
             SELECT format('c%03d', u.value), 'chime_minutes', date('now', '-' || (40 + i) || ' days'), 0, 60 \
             FROM n, json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]') u"
        ),
    ] {
        backend.execute(&sql).await.unwrap();
    }
    let (first, second) = (read().await, read().await);
    eprintln!("meters, rows and requests with nothing {nothing:?}, at first {first:?}, daily {second:?}");
    assert!(nothing.0 == 0 && nothing.1 < 30 && nothing.2 <= 4, "{nothing:?}");
    assert!(first.0 == 1 && second.0 == 1);
    // 4,000 uses, of which 7 days are cut by day, and some steps for each customer and meter
    assert!(second.1 < 4000 * 2 + 200 * 7 * 9 + 200 * 20 && second.2 <= 4, "{second:?}");
}
