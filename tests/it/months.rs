//! Months that nobody read: the schedule and `meter ingest` go back to them, and what is left is
//! said.

use std::path::Path;

use books::units::calendar::Month;
use fake_aws::Spec;
use jiff::Timestamp;
use meter::config::Config;
use meter::queue::{Clock, JobFilter};
use meter::worker::schedule::{SeenTicks, table, tick};

use crate::support::served::Served;
use crate::support::test_store::TestStore;
use crate::support::{Ran, Workspace};

suite!(a_worker_that_was_off_reads_every_month);

fn version(month: &str, delivered: &str, state: &str) -> String {
    format!(
        "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, \
         delivered_at, state, hold_reason, rows, counted_rows, rounded_amounts, decided_at) \
         VALUES ('default', '{month}', 'main', 'cur2', 'v {delivered}', 'k', 'd', 'r', '', '{delivered}T12:00:00.000000000Z', \
         '{state}', iif('{state}' = 'applied', '', 'it shrank'), 1, 1, 0, '{delivered}T13:00:00.000000000Z')"
    )
}

/// The months that the schedule enqueues at an instant. Their jobs are taken away.
async fn ticked(store: &TestStore, now: &str) -> String {
    let config: Config = toml::from_str("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n").unwrap();
    let now: Timestamp = now.parse().unwrap();
    let queue = store.queue_at(Clock::of(move || now)).await;
    tick(&queue, &table(&config), &config, &mut SeenTicks::default()).await.unwrap();
    let filter = JobFilter { kinds: vec!["ingest_cur".into()], ..JobFilter::default() };
    let mut months: Vec<String> = queue.list(&filter, 50).await.unwrap().iter().filter_map(|j| j.key.clone()).collect();
    months.sort();
    run(store, "DELETE FROM jobs").await;
    months.iter().map(|key| key.replace("ingest_cur/main/", "")).collect::<Vec<_>>().join(" ")
}

async fn run(store: &TestStore, sql: &str) {
    let sql = sql.to_owned();
    store.books().await.transaction(async move |c| c.execute(&sql, ()).await.map(drop)).await.unwrap();
}

/// Off from August to November: September was never read before.
async fn a_worker_that_was_off_reads_every_month(store: TestStore) {
    let deliver = async |month, delivered, state| run(&store, &version(month, delivered, state)).await;
    assert_eq!(ticked(&store, "2026-07-10T12:06:00Z").await, "2026-06 2026-07", "a first run");
    deliver("2026-07", "2026-08-09", "applied").await;
    deliver("2026-08", "2026-08-20", "applied").await;
    assert_eq!(ticked(&store, "2026-08-20T12:06:00Z").await, "2026-07 2026-08");
    assert_eq!(ticked(&store, "2026-11-10T12:06:00Z").await, "2026-08 2026-09 2026-10 2026-11");
    // they are tried again each day until they are complete; what is on hold waits for a person
    assert_eq!(ticked(&store, "2026-11-10T13:06:00Z").await, "2026-10 2026-11");
    assert_eq!(ticked(&store, "2026-11-10T23:59:00Z").await, "2026-10 2026-11");
    assert_eq!(ticked(&store, "2026-11-11T00:06:00Z").await, "2026-08 2026-09 2026-10 2026-11");
    deliver("2026-09", "2026-10-05", "applied").await;
    deliver("2026-08", "2026-09-05", "on_hold").await;
    // AWS may have finished September after the fifth
    assert_eq!(ticked(&store, "2026-11-12T12:06:00Z").await, "2026-09 2026-10 2026-11");
    let later = "2026-10-08T12:00:00.000000000Z";
    let sql =
        format!("UPDATE bill_versions SET delivered_at = '{later}', decided_at = '{later}' WHERE month = '2026-09'");
    run(&store, &sql).await;
    assert_eq!(ticked(&store, "2026-11-13T12:06:00Z").await, "2026-10 2026-11");
}

/// An export that fails from August to November, with a worker that reads it at each tick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_was_broken_is_read_from_the_first_tick_on() {
    let store = TestStore::local("broken export").await;
    assert_eq!(ticked(&store, "2026-08-20T12:06:00Z").await, "2026-07 2026-08");
    assert_eq!(ticked(&store, "2026-08-20T13:06:00Z").await, "2026-07 2026-08");
    assert_eq!(ticked(&store, "2026-10-20T12:06:00Z").await, "2026-07 2026-08 2026-09 2026-10");
    for at in ["2026-11-10T12:06:00Z", "2026-11-10T13:06:00Z"] {
        assert_eq!(ticked(&store, at).await, "2026-07 2026-08 2026-09 2026-10 2026-11");
    }
    // somebody reads one month by hand, to see whether it works
    run(&store, &version("2026-11", "2026-11-10", "applied")).await;
    assert_eq!(ticked(&store, "2026-11-10T14:06:00Z").await, "2026-10 2026-11");
    assert_eq!(ticked(&store, "2026-11-11T12:06:00Z").await, "2026-08 2026-09 2026-10 2026-11");
}

/// An older build kept only its last tick, and somebody reads by hand before the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_ledger_catches_up_from_the_last_tick() {
    let store = TestStore::local("empty ledger").await;
    store.books().await;
    ticked(&store, "2026-08-20T12:06:00Z").await;
    run(&store, "UPDATE settings SET value = '2026-11' WHERE name = 'wanted_since/default'").await;
    for at in ["2026-11-10T12:06:00Z", "2026-11-11T12:06:00Z"] {
        assert_eq!(ticked(&store, at).await, "2026-07 2026-08 2026-09 2026-10 2026-11");
    }
}

/// The current month and the four before it, the oldest first.
fn months() -> [Month; 5] {
    Month::back_to(Month::of(Timestamp::now()), 4).try_into().unwrap()
}

/// Delivers the first days of a month. The lines of a day do not depend on how many days there are.
/// A whole month is delivered with its final figures, if that long has passed since.
fn deliver(bucket: &Path, month: Month, days: u8, restated: u32) {
    let late_days = if days == 31 && month.next().next() <= Month::of(Timestamp::now()) { 8 } else { 0 };
    deliver_late(bucket, month, (days, late_days), restated);
}

fn deliver_late(bucket: &Path, month: Month, (days, late_days): (u8, u8), restated: u32) {
    let days = if month == Month::of(Timestamp::now()) { 1 } else { days };
    let spec = Spec {
        year: month.year(),
        month: u8::try_from(month.number()).unwrap(),
        days,
        late_days,
        rows: 40 * u64::from(days),
        customers: 5,
        wide: false,
        restated,
        ..Spec::default()
    };
    fake_aws::write(bucket, &spec).unwrap();
}

fn booked(place: &Workspace) -> Vec<String> {
    place.query(
        "SELECT month || ' ' || count(*) FROM bill_versions WHERE state = 'applied' GROUP BY month ORDER BY month",
    )
}

fn without(ran: &Ran, word: &str) {
    assert!(!ran.out.contains(word), "{word} is in:\n{}", ran.out);
}

#[test]
fn ingest_and_a_worker_catch_up_alike() {
    let [first, partial, hole, last, current] = months();
    let ran: Vec<Vec<String>> = ["ingest", "work --once"]
        .map(|line| {
            let place = Workspace::new();
            let bucket = place.path("bucket");
            deliver(&bucket, first, 31, 0);
            deliver(&bucket, partial, 20, 0);
            place.run(&format!("ingest --from {first} --to {partial}")).ends(0);
            assert_eq!(booked(&place), [format!("{first} 1"), format!("{partial} 1")]);
            for month in [partial, hole, last, current] {
                deliver(&bucket, month, 31, 0);
            }
            let ran = place.run(line);
            assert!(ran.code == 0 || line != "ingest", "{}{}", ran.out, ran.err);
            booked(&place)
        })
        .into();
    let expected = [(first, 1), (partial, 2), (hole, 1), (last, 1), (current, 1)];
    for found in ran {
        assert_eq!(found, expected.map(|(month, versions)| format!("{month} {versions}")));
    }
}

#[test]
fn status_and_doctor_name_months_that_nobody_read() {
    let place = Workspace::new();
    let (bucket, [first, partial, hole, last, current]) = (place.path("bucket"), months());
    place.run("migrate").ends(0);
    let never = place.run("status").ends(3).says(&["MeterExportNeverRead", "export main was ever read: no worker has"]);
    without(&never, "nothing needs attention");
    deliver(&bucket, first, 31, 0);
    deliver(&bucket, partial, 20, 0);
    deliver(&bucket, last, 31, 0);
    deliver(&bucket, current, 31, 0);
    place.run(&format!("ingest --from {first} --to {partial}")).ends(0);
    place.run(&format!("ingest --from {last}")).ends(0);

    let unread = format!("{hole} of export main was never read");
    let old = format!(
        "{partial} of export main is over, and its final figures were never read: the booked version is of {partial}-21"
    );
    let acts = [hole, partial].map(|month| format!("meter ingest --export main --month {month}"));
    let status = place.run("status").ends(3).says(&["MeterMonthsUnread", &unread, &old, &acts[0], &acts[1]]);
    without(&status, "MeterExportNeverRead");
    place.run("doctor").says(&[&unread, &old, &acts[0], &acts[1]]);
    let json = place.run("status --json").ends(3).json();
    let gaps = &json["exports"][0]["gaps"];
    assert_eq!(gaps[0]["month"], partial.to_string(), "{gaps}");
    assert_eq!((&gaps[0]["gap"], &gaps[1]["gap"]), (&"not_final".into(), &"unread".into()), "{gaps}");

    // a look says when the bill is not even in the bucket, and needs nobody by itself
    place.run("run check_months").ends(0);
    place.run("status").ends(3).says(&["was never read, and its bill was not in the bucket", "MeterMonthsUnread"]);
    deliver(&bucket, hole, 31, 0);
    deliver(&bucket, partial, 31, 0);
    place.run("ingest").ends(0);
    without(&place.run("status"), "MeterMonthsUnread");
    place.run("doctor").says(&["ok     months of main: none is missing", "3 closed one(s) unchanged since booked"]);
    place.run("run check-months").ends(0);
    place.run("status").says(&[&format!("main: since {first}; 3 closed one(s) unchanged, as looked at")]);

    // AWS delivers a closed month again: nobody books it, and everybody hears of it
    deliver(&bucket, first, 31, 1);
    let changed = format!("AWS changed {first} of export main after it was booked");
    place.run("doctor").says(&[&changed]);
    let attention = format!("attention: AWS has another version of main {first} than the books");
    place.run("run check_months").ends(3).says(&["3 months that no reading goes back to: 2 as booked", &attention]);
    place.run("status").ends(3).says(&["MeterMonthsUnread", &changed, &format!("--month {first} --dry-run")]);
    let ran = place.run("ingest").ends(0);
    without(&ran, &first.to_string());
    place.run_with(&format!("ingest --month {first}"), &[("METER_GUARD__ACCEPT_RESTATEMENTS", "true")]).ends(0);
    without(&place.run("status"), "MeterMonthsUnread");
}

/// AWS finishes a month in the days after its end.
#[test]
fn a_month_is_read_again_until_it_has_its_final_figures() {
    let place = Workspace::new();
    let (bucket, [_, first, second, last, current]) = (place.path("bucket"), months());
    // the worker was off when AWS finished the second month
    deliver_late(&bucket, first, (31, 8), 0);
    deliver_late(&bucket, second, (31, 0), 0);
    place.run(&format!("ingest --from {first} --to {second}")).ends(0);
    deliver(&bucket, last, 31, 0);
    deliver(&bucket, current, 31, 0);
    for line in ["ingest", "run check_months"] {
        place.run(line).ends(0);
    }
    without(&place.run("status"), "MeterMonthsUnread");
    deliver_late(&bucket, second, (31, 8), 0);
    place.run("run check_months").ends(0);
    without(&place.run("status"), "MeterMonthsUnread");
    place.run("doctor").says(&["ok     months of main: none is missing"]);
    let ran = place.run("ingest").ends(0);
    without(&ran, &first.to_string());
    let expected = [(first, 1), (second, 2), (last, 1), (current, 1)];
    assert_eq!(booked(&place), expected.map(|(month, versions)| format!("{month} {versions}")));
    without(&place.run("ingest").ends(0), &second.to_string());
}

#[test]
fn a_newer_version_of_a_month_on_hold_is_named() {
    let place = Workspace::new();
    let (bucket, [first, second, ..]) = (place.path("bucket"), months());
    deliver(&bucket, first, 31, 0);
    place.run(&format!("ingest --month {first}")).ends(0);
    let no_fall = [("METER_GUARD__MONTH_FALL_PERCENT", "0"), ("METER_GUARD__PAST_GROWTH_PERCENT", "0")];
    deliver(&bucket, first, 31, 1);
    place.run_with(&format!("ingest --month {first}"), &no_fall).ends(3).says(&["ON HOLD"]);
    deliver(&bucket, second, 31, 0);
    place.run(&format!("ingest --month {second}")).ends(0);
    place.run("run check_months").ends(0);
    let words = format!("AWS changed {first} of export main after it was put on hold");
    without(&place.run("status").says(&["MeterVersionOnHold"]), &words);
    let held = format!("a newer version of {first} of export main is on hold than the one that is booked");
    let doctor = place.run("doctor").says(&[&held, &format!("meter versions --month {first} says why")]);
    without(&doctor, "none is missing");
    deliver(&bucket, first, 31, 2);
    place.run("doctor").says(&[&words]);
    place.run("run check_months").ends(3).says(&["attention: AWS has another version"]);
    place.run("status").says(&["MeterMonthsUnread", &words, &format!("--month {first} --dry-run")]);
    place.run_with(&format!("ingest --month {first}"), &no_fall).ends(3).says(&["ON HOLD"]);
    without(&place.run("status").says(&["MeterVersionOnHold"]), &words);
}

/// By hand, too, an export that was broken is read from the month on in which somebody tried first.
#[test]
fn ingest_goes_back_to_the_first_month_that_was_wanted() {
    let place = Workspace::new();
    let (bucket, [before, first, second, last, current]) = (place.path("bucket"), months());
    place.run("migrate").ends(0);
    let since = || place.query("SELECT value FROM settings WHERE name = 'wanted_since/default'");
    place.run("ingest --dry-run").ends(1);
    assert!(since().is_empty());
    place.run("ingest").ends(1);
    assert_eq!(since(), [current.to_string()]);
    place.execute(&format!("UPDATE settings SET value = '{first}' WHERE name = 'wanted_since/default'"));
    place.run("ingest").ends(1);
    assert_eq!(since(), [first.to_string()]);
    for month in [before, first, second, last, current] {
        deliver(&bucket, month, 31, 0);
    }
    place.run("ingest").ends(0);
    assert_eq!(booked(&place), months().map(|month| format!("{month} 1")));
}

#[test]
fn status_says_how_the_only_readings_ended() {
    let place = Workspace::with("[[exports]]\nname = \"main\"\nlocation = \"nowhere\"\n");
    place.run("work --once");
    let status = place
        .run("status")
        .says(&["MeterExportNeverRead", "no bill of export main was ever read: the newest reading failed"]);
    without(&status, "nothing needs attention");
    // an export that is there, and has no bill yet
    let place = Workspace::new();
    std::fs::create_dir_all(place.path("bucket/e/data")).unwrap();
    std::fs::create_dir_all(place.path("bucket/e/metadata")).unwrap();
    place.run("work --once");
    place.run("status").says(&["MeterExportNeverRead", "the newest reading found no bill 0 s ago"]);
}

#[test]
fn the_schedule_says_never_and_at_once() {
    let place = Workspace::with("[schedule]\nverify_books = [\"0 0 1 1 *\"]\nsync_stripe = []\n");
    place.run("migrate").ends(0);
    let row = |name: &str| {
        let json = place.run("schedule --json").ends(0).json();
        json.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone()
    };
    place.run("schedule").ends(0).says(&["never", "at once, by a worker", "off"]);
    assert_eq!((&row("verify_books")["due"], &row("verify_books")["last"]), (&true.into(), &serde_json::Value::Null));
    let before = Timestamp::now();
    place.run("work --once");
    // the tick is of the first of January; it was enqueued just now
    let audit = row("verify_books");
    let last: Timestamp = audit["last"].as_str().unwrap().parse().unwrap();
    assert!(last.duration_since(before).as_secs().abs() < 60, "{audit}");
    assert_eq!(audit["due"], false);
    assert!(audit["next"].as_str().unwrap().ends_with("-01-01T00:00:00Z"), "{audit}");
}

#[test]
fn waiting_without_a_worker_ends() {
    let place = Workspace::with("");
    place.run("migrate").ends(0);
    let alone = "no worker is running; start one with `meter work`; waiting 1 s for one";
    place
        .run("enqueue probe name=a --wait --timeout 1")
        .ends(1)
        .says(&[alone, "waited 1 s, and no worker is running; the jobs stay"]);
    assert_eq!(place.query("SELECT state FROM jobs"), ["pending"]);
    place.run("enqueue probe name=a --timeout 1").ends(2);
    let worker = Served::start(place.folder.path(), "--kinds verify_books --no-schedule", &[]);
    worker.until("/readyz", |a| a.status == 200);
    let says = "no running worker takes jobs of probe";
    place.run("enqueue probe name=b --wait --timeout 1").ends(1).says(&[says, "the jobs stay in the queue"]);
    let audit = place.run("enqueue verify_books --wait --timeout 1").ends(0);
    assert!(audit.err.is_empty(), "{}", audit.err);
    assert_eq!(worker.stop(), 0);
}
