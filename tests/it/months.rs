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

/// Off from August to November: September was never read before.
async fn a_worker_that_was_off_reads_every_month(store: TestStore) {
    let books = store.books().await;
    let run = async |sql: String| {
        books.transaction(async move |c| c.execute(&sql, ()).await.map(drop)).await.unwrap();
    };
    let config: Config = toml::from_str("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n").unwrap();
    let ticked = async |now: &str| {
        let now: Timestamp = now.parse().unwrap();
        let queue = store.queue_at(Clock::of(move || now)).await;
        tick(&queue, &table(&config), &config, &mut SeenTicks::default()).await.unwrap();
        let filter = JobFilter { kinds: vec!["ingest_cur".into()], ..JobFilter::default() };
        let mut months: Vec<String> =
            queue.list(&filter, 50).await.unwrap().iter().filter_map(|j| j.key.clone()).collect();
        months.sort();
        run("DELETE FROM jobs".into()).await;
        months.iter().map(|key| key.replace("ingest_cur/main/", "")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ticked("2026-07-10T12:06:00Z").await, "2026-06 2026-07", "a first run");
    run(version("2026-07", "2026-08-03", "applied")).await;
    run(version("2026-08", "2026-08-20", "applied")).await;
    assert_eq!(ticked("2026-08-20T12:06:00Z").await, "2026-07 2026-08");
    assert_eq!(ticked("2026-11-10T12:06:00Z").await, "2026-08 2026-09 2026-10 2026-11");
    // they are tried again until they are complete; what is on hold waits for a person
    assert_eq!(ticked("2026-11-10T13:06:00Z").await, "2026-08 2026-09 2026-10 2026-11");
    run(version("2026-09", "2026-10-05", "applied")).await;
    run(version("2026-08", "2026-09-05", "on_hold")).await;
    assert_eq!(ticked("2026-11-10T14:06:00Z").await, "2026-10 2026-11");
}

/// Nothing was ever booked, but somebody read: the last tick says since when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_ledger_catches_up_from_the_last_tick() {
    let store = TestStore::local("empty ledger").await;
    store.books().await;
    let config: Config = toml::from_str("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n").unwrap();
    let mut counts = vec![];
    for now in ["2026-08-20T12:06:00Z", "2026-11-10T12:06:00Z"] {
        let now: Timestamp = now.parse().unwrap();
        let queue = store.queue_at(Clock::of(move || now)).await;
        tick(&queue, &table(&config), &config, &mut SeenTicks::default()).await.unwrap();
        let filter = JobFilter { kinds: vec!["ingest_cur".into()], ..JobFilter::default() };
        counts.push(queue.list(&filter, 50).await.unwrap().len());
    }
    // 2026-07 and 2026-08, which still wait, and then 2026-09 to 2026-11
    assert_eq!(counts, [2, 5]);
}

/// The current month and the four before it, the oldest first.
fn months() -> [Month; 5] {
    Month::back_to(Month::of(Timestamp::now()), 4).try_into().unwrap()
}

/// Delivers the first days of a month. The lines of a day do not depend on how many days there are.
fn deliver(bucket: &Path, month: Month, days: u8, restated: u32) {
    let days = if month == Month::of(Timestamp::now()) { 1 } else { days };
    let spec = Spec {
        year: month.year(),
        month: u8::try_from(month.number()).unwrap(),
        days,
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
    place.run("run check_months").ends(0).says(&[&format!("main {first}")]);
    place.run("status").ends(3).says(&["MeterMonthsUnread", &changed, &format!("--month {first} --dry-run")]);
    let ran = place.run("ingest").ends(0);
    without(&ran, &first.to_string());
    place.run_with(&format!("ingest --month {first}"), &[("METER_GUARD__ACCEPT_RESTATEMENTS", "true")]).ends(0);
    without(&place.run("status"), "MeterMonthsUnread");
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
