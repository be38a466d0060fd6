//! What the web backend measures: the five statements as they are printed, the outcome of each
//! report, and what is folded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use books::Database;
use books::measured::accrual::Accrues;
use books::measured::measurements::of_customers;
use books::measured::policy::MeasuredMeter;
use books::store::connection::Connection;
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::{Context, MeasuringSettings};
use jobs::fold_measurements::{FoldMeasurements, FoldMeasurementsReport};
use jobs::job::Job;
use libsql::Value;

use crate::contract::{Backend, page_text, text};
use crate::support::Workspace;
use crate::support::test_store::TestStore;

suite![
    a_use_counts_once_in_any_order,
    every_report_has_the_outcome_that_the_page_says,
    a_stored_object_ends_by_the_rule_of_its_bucket,
    random_reports_in_any_order_are_what_their_seconds_are,
    eight_writers_lose_nothing_while_old_days_are_folded,
    folding_changes_no_sum_and_takes_nothing_as_old,
    the_configuration_decides_what_is_measured,
];

const DAY: i64 = 86_400;
const GB: i64 = 1 << 30;

/// Midnight, `days` ago.
fn midnight(days: i64) -> i64 {
    Timestamp::now().as_second().div_euclid(DAY) * DAY - days * DAY
}

fn day(second: i64) -> Day {
    Day::from_epoch(i32::try_from(second.div_euclid(DAY)).unwrap()).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A statement of the page, with its values.
type Report = (&'static str, Vec<Value>);

fn start(customer: &str, id: &str, level: i64, at: i64) -> Report {
    ("start_use", vec![text(customer), text("chime_minutes"), text(id), level.into(), at.into()])
}

fn stop(customer: &str, id: &str, at: i64) -> Report {
    ("stop_use", vec![text(customer), text("chime_minutes"), text(id), at.into()])
}

fn report(customer: &str, id: &str, quantity: i64, at: i64) -> Report {
    ("report_use", vec![text(customer), text("transfer_gb"), text(id), quantity.into(), at.into()])
}

fn upload(customer: &str, id: &str, bytes: i64, at: i64) -> Report {
    ("record_upload", vec![text(customer), text("storage_gb"), text(id), bytes.into(), at.into()])
}

fn delete(customer: &str, id: &str, at: i64) -> Report {
    ("record_delete", vec![text(customer), text("storage_gb"), text(id), at.into()])
}

/// Runs reports, each of which is stored.
async fn run(backend: &Backend, reports: &[Report]) {
    for (name, values) in reports {
        assert!(backend.run(name, values).await.is_some(), "{name} {values:?}");
    }
}

/// What was measured: customer, meter, day, quantity.
async fn measured(books: &Database, from: i64, to: i64, now: i64) -> Vec<(String, String, String, String)> {
    let found = books.measured(None, day(from), day(to), at(now)).await.unwrap();
    let customers: BTreeSet<String> = found.iter().map(|of| of.customer.clone()).collect();
    let mut one_by_one = vec![];
    for customer in customers.clone() {
        one_by_one.extend(books.measured(Some(customer), day(from), day(to), at(now)).await.unwrap());
    }
    assert_eq!(found, one_by_one, "all customers are each of them");
    let together = async move |c: &Connection| {
        of_customers(c, &customers.into_iter().collect::<Vec<_>>(), day(from), day(to), at(now)).await
    };
    assert_eq!(found, books.transaction(together).await.unwrap());
    let shown = found.into_iter().filter(|of| of.weight != 0);
    shown.map(|of| (of.customer, of.meter, of.day.to_string(), of.quantity.to_string())).collect()
}

/// The quantities of one customer by day.
async fn quantities(store: &TestStore, customer: &str, days_ago: i64) -> Vec<String> {
    let (books, now) = (store.books().await, Timestamp::now().as_second());
    let all = measured(&books, midnight(days_ago), now, now).await;
    all.into_iter().filter(|of| of.0 == customer).map(|of| of.3).collect()
}

/// All orders of a list.
fn orders<T: Clone>(of: &[T]) -> Vec<Vec<T>> {
    if of.is_empty() {
        return vec![vec![]];
    }
    let mut found = vec![];
    for (i, first) in of.iter().enumerate() {
        let rest = [&of[..i], &of[i + 1..]].concat();
        found.extend(orders(&rest).into_iter().map(|rest| [vec![first.clone()], rest].concat()));
    }
    found
}

async fn a_use_counts_once_in_any_order(store: TestStore) {
    let backend = Backend::new(&store).await;
    let begin = midnight(2) - 600;
    for (n, order) in orders(&["start", "stop", "start", "stop", "later stop"]).into_iter().enumerate() {
        let (customer, id) = (format!("c{}", n % 7), format!("use {n}"));
        for what in order {
            let report = match what {
                "start" => start(&customer, &id, 2, begin),
                "stop" => stop(&customer, &id, begin + 900),
                _ => stop(&customer, &id, begin + 5000),
            };
            run(&backend, &[report]).await;
        }
    }
    // ten minutes of two attendees before midnight, and five after it
    let all = quantities(&store, "c0", 5).await;
    assert_eq!(all, ["360", "180"], "18 of 120 uses");
    assert_eq!(quantities(&store, "c1", 5).await, ["340", "170"]);
    let running = [start("dan", "a", 1, Timestamp::now().as_second() - 90), start("dan", "b", 3, midnight(0))];
    run(&backend, &running[..1]).await;
    let books = store.books().await;
    let now = Timestamp::now().as_second();
    let weight = async |now: i64| {
        let found = books.measured(Some("dan".into()), day(now - DAY), day(now + DAY), at(now)).await.unwrap();
        found.iter().map(|of| of.weight).sum::<i128>()
    };
    let (first, later) = (weight(now).await, weight(now + 60).await);
    assert_eq!(later - first, 60, "a use goes on");
    assert_eq!(weight(now - 600).await, 0, "nothing before it began");
}

async fn every_report_has_the_outcome_that_the_page_says(store: TestStore) {
    let backend = Backend::new(&store).await;
    let (noon, now) = (midnight(3) + DAY / 2, Timestamp::now().as_second());
    // the first report of an id counts, and its row is shown
    run(&backend, &[start("ann", "a", 2, noon), stop("ann", "a", noon + 60)]).await;
    let (name, values) = start("ann", "a", 5, noon + 30);
    let row = backend.run(name, &values).await.unwrap();
    let shown = ["level", "started_at", "ended_at", "expires_at"].map(|name| row[name].clone());
    assert_eq!(shown, [2.into(), noon.into(), (noon + 60).into(), (noon + DAY).into()]);
    let (name, values) = report("ann", "r", GB, noon);
    backend.run(name, &values).await.unwrap();
    let row = backend.run(name, &report("ann", "r", GB * 9, noon + 9).1).await.unwrap();
    assert_eq!((&row["quantity"], &row["at"]), (&GB.into(), &noon.into()));
    assert_eq!(quantities(&store, "ann", 5).await, ["2", "1"]);
    // ends: before the start, without a start, never, later than the bound, none of level 0
    run(&backend, &[start("bob", "a", 1, noon), stop("bob", "a", noon - 60), stop("bob", "b", noon)]).await;
    run(&backend, &[start("bob", "zero", 0, noon), stop("bob", "zero", noon + 60), report("bob", "r", 0, noon)]).await;
    assert_eq!(quantities(&store, "bob", 5).await, Vec::<String>::new());
    run(&backend, &[start("cyd", "open", 1, noon), start("cyd", "late", 1, noon)]).await;
    run(&backend, &[stop("cyd", "late", noon + DAY + 1)]).await;
    assert_eq!(quantities(&store, "cyd", 5).await, ["1440", "1440"], "24 hours each, over two days");
    let found = store.books().await.measured(Some("cyd".into()), day(noon), day(now), at(now)).await.unwrap();
    assert_eq!(found.iter().map(|of| of.ended_by_bound).collect::<Vec<_>>(), [0, 2]);
    run(&backend, &[start("dan", "exact", 1, noon), stop("dan", "exact", noon + DAY)]).await;
    let found = store.books().await.measured(Some("dan".into()), day(noon), day(now), at(now)).await.unwrap();
    assert_eq!(found.iter().map(|of| of.ended_by_bound).sum::<u32>(), 0, "ended, not by its bound");
    // customers that do not exist; and the clock of the database
    assert_eq!(backend.number("SELECT count(*) FROM customers").await, 0);
    for (name, value) in [("start_use", 1), ("report_use", 1), ("record_upload", 1)] {
        let meter = match name {
            "start_use" => "chime_minutes",
            "report_use" => "transfer_gb",
            _ => "storage_gb",
        };
        let values = [text("eve"), text(meter), text("null"), value.into(), Value::Null];
        let row = backend.run(name, &values).await.unwrap();
        let column = if name == "report_use" { "at" } else { "started_at" };
        let Value::Integer(at) = row[column] else { panic!("{row:?}") };
        assert!((now..now + 60).contains(&at), "{name}: {at}");
    }
    for (name, meter) in [("stop_use", "chime_minutes"), ("record_delete", "storage_gb")] {
        let row = backend.run(name, &[text("eve"), text(meter), text("null"), Value::Null]).await.unwrap();
        let Value::Integer(at) = row["ended_at"] else { panic!("{row:?}") };
        assert!((now..now + 60).contains(&at), "{name}: {at}");
    }
    // no row: another meter, the wrong kind of meter, the future, milliseconds
    let rows = backend.number("SELECT count(*) FROM measurements").await;
    for (name, values) in [start("fay", "a", 1, noon), stop("fay", "a", noon), report("fay", "a", 1, noon)] {
        let with = |place: usize, value: Value| {
            let mut values = values.clone();
            values[place] = value;
            values
        };
        let last = values.len() - 1;
        let mut refused = vec![with(1, text("chime_minuts")), with(1, text("turn_allocations"))];
        refused.extend([now + 400, noon * 1000].map(|at| with(last, at.into())));
        if name != "report_use" {
            refused.push(with(1, text("transfer_gb")));
        }
        for values in refused {
            assert_eq!(backend.run(name, &values).await, None, "{name} {values:?}");
        }
    }
    for (name, values) in [upload("fay", "a", 1, now + 400), delete("fay", "a", now + 400)] {
        assert_eq!(backend.run(name, &values).await, None);
        let mut of_another = values.clone();
        of_another[1] = text("chime_minutes");
        *of_another.last_mut().unwrap() = noon.into();
        assert_eq!(backend.run(name, &of_another).await, None);
    }
    // errors, with the rule
    let long = "x".repeat(1025);
    let wrong: [(Report, &str); 12] = [
        (start("", "a", 1, noon), "measurements.customer: 1 to 256 characters"),
        (start(" fay", "a", 1, noon), "no blank at the ends"),
        (start("fay", "", 1, noon), "measurements.id: 1 to 1024 bytes"),
        (start("fay", &long, 1, noon), "measurements.id: 1 to 1024 bytes"),
        (report("fay", "a\nb", 1, noon), "none of them of a control character"),
        (start("fay", "a", -1, noon), "measurements.level: 0 to 10^15"),
        (upload("fay", "a", 1_000_000_000_000_001, noon), "measurements.level: 0 to 10^15"),
        (report("fay", "a", -1, noon), "measurements.quantity: 0 to 10^18"),
        (report("fay", "a", i64::MAX, noon), "measurements.quantity: 0 to 10^18"),
        (start("fay", "a", 1, -1), "no row"),
        (
            ("report_use", vec![text("ann"), text("chime_minutes"), text("a"), 1.into(), noon.into()]),
            "an id is one of them",
        ),
        (("start_use", vec![text("fay"), text("chime_minutes"), text("a"), Value::Real(0.5), noon.into()]), "REAL"),
    ];
    for ((name, values), rule) in wrong {
        match backend.try_run(name, &values).await {
            Ok(None) if rule == "no row" => {}
            Err(refused) => assert!(refused.to_string().contains(rule), "{name} {values:?}: {refused}"),
            Ok(row) => panic!("{name} {values:?}: {row:?}"),
        }
    }
    let null = [text("fay"), text("chime_minutes"), text("a"), Value::Null, noon.into()];
    backend.try_run("start_use", &null).await.unwrap_err();
    assert_eq!(backend.number("SELECT count(*) FROM measurements").await, rows, "nothing was stored");
    // an id may be as long as the key of an object, and have any letters
    run(&backend, &[upload("fay", &"ä".repeat(512), 1, noon), start("fay", "b", 1, now + 250)]).await;
    // the ledger knows nothing of all this
    assert_eq!(backend.number("SELECT count(*) FROM ledger_entries").await, 0);
    // who signs up later has it
    backend.run("sign_up", &[text("cyd"), Value::Null, Value::Null]).await.unwrap();
    assert_eq!(quantities(&store, "cyd", 5).await, ["1440", "1440"]);
}

async fn a_stored_object_ends_by_the_rule_of_its_bucket(store: TestStore) {
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let base = midnight(6);
    // created at, deleted at, end
    let cases = [
        (0, None, DAY),
        (1, None, 2 * DAY),
        (DAY - 1, None, 2 * DAY),
        (DAY / 2, Some(DAY), DAY),
        (DAY / 2, Some(3 * DAY), 2 * DAY),
        (DAY / 2, Some(0), 0),
    ];
    for (n, (created, deleted, end)) in cases.into_iter().enumerate() {
        for (way, order) in orders(&[true, false, true]).into_iter().enumerate() {
            let (customer, key) = (format!("c{n} {way}"), "a/b c.png");
            for is_upload in order {
                match deleted {
                    Some(deleted) if !is_upload => run(&backend, &[delete(&customer, key, base + deleted)]).await,
                    _ => run(&backend, &[upload(&customer, key, GB, base + created)]).await,
                }
            }
            let found = books.measured(Some(customer), day(base), day(base + 5 * DAY), Timestamp::now()).await.unwrap();
            let sum: i128 = found.iter().map(|of| of.weight).sum();
            assert_eq!(sum, i128::from(GB) * i128::from((end - created).max(0)), "case {n}, way {way}");
            assert!(found.iter().all(|of| of.ended_by_bound == 0));
        }
    }
}

/// A repeatable sequence of numbers.
fn numbers(seed: u64) -> impl FnMut(i64) -> i64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    move |below| rng.i64(0..below)
}

/// Consistent reports of some uses, objects and quantities within three minutes around midnight,
/// and what each second of them adds up to.
fn history(seed: u64, customer: &str, midnight: i64) -> (Vec<Report>, BTreeMap<(String, String), i128>) {
    let mut next = numbers(seed);
    let (mut reports, mut model) = (vec![], BTreeMap::new());
    let mut add = |meter: &str, second: i64, weight: i64| {
        if weight > 0 {
            *model.entry((meter.to_owned(), day(second).to_string())).or_default() += i128::from(weight);
        }
    };
    for n in 0..next(6) {
        let (id, level, from) = (format!("u{n}"), next(4), midnight - 90 + next(180));
        let to = midnight - 90 + next(180);
        reports.extend([start(customer, &id, level, from), stop(customer, &id, to)]);
        if next(2) == 0 {
            reports.push(stop(customer, &id, to + next(50)));
        }
        (from..to).for_each(|second| add("chime_minutes", second, level));
    }
    for n in 0..next(4) {
        let (id, bytes, from) = (format!("o{n}"), next(3), midnight - 90 + next(180));
        reports.push(upload(customer, &id, bytes, from));
        let deleted = from + next(90);
        reports.push(delete(customer, &id, deleted));
        (from..deleted).for_each(|second| add("storage_gb", second, bytes));
    }
    for n in 0..next(4) {
        let (id, bytes, second) = (format!("r{n}"), next(1000), midnight - 90 + next(180));
        reports.push(report(customer, &id, bytes, second));
        add("transfer_gb", second, bytes);
    }
    // each one once or more often, in any order
    let mut all = reports.clone();
    for report in reports {
        (0..next(3)).for_each(|_| all.push(report.clone()));
    }
    for i in (1..all.len()).rev() {
        all.swap(i, usize::try_from(next(i64::try_from(i + 1).unwrap())).unwrap());
    }
    (all, model)
}

async fn weights(books: &Database, customer: &str, from: i64) -> BTreeMap<(String, String), i128> {
    let found = books.measured(Some(customer.to_owned()), day(from), day(from + 9 * DAY), Timestamp::now());
    let found = found.await.unwrap().into_iter().filter(|of| of.weight != 0);
    found.map(|of| ((of.meter, of.day.to_string()), of.weight)).collect()
}

async fn random_reports_in_any_order_are_what_their_seconds_are(store: TestStore) {
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let cases = if books.is_local() { 150 } else { 25 };
    for seed in 0..cases {
        let customer = format!("c{seed}");
        let (reports, model) = history(seed, &customer, midnight(3));
        run(&backend, &reports).await;
        assert_eq!(weights(&books, &customer, midnight(4)).await, model, "seed {seed}");
    }
}

/// The job, by a configuration that keeps `keep_days`.
async fn fold(store: &TestStore, keep_days: u16, now: Timestamp) -> FoldMeasurementsReport {
    let measuring = Arc::new(MeasuringSettings { keep_days, ..MeasuringSettings::default() });
    let context = Context { measuring, ..store.context().await };
    FoldMeasurements {}.run(&context, now).await.unwrap()
}

/// Each backend reports a part of a history, with others reporting the same, while a job folds.
async fn eight_writers_lose_nothing_while_old_days_are_folded(store: TestStore) {
    let mut expected = BTreeMap::new();
    let mut parts: Vec<Vec<Report>> = vec![vec![]; 8];
    for (customer, midnight) in [("ann", midnight(3)), ("bob", midnight(3)), ("cyd", midnight(1))] {
        for round in 0..4 {
            let of = format!("{customer} {round}");
            let (reports, model) = history(round * 31 + 7, &of, midnight);
            for (i, report) in reports.into_iter().enumerate() {
                parts[i % 8].push(report.clone());
                parts[(i * 3 + 1) % 8].push(report);
            }
            expected.insert(of, model);
        }
    }
    let mut writers = vec![];
    for part in parts {
        let backend = Backend::new(&store).await;
        writers.push(tokio::spawn(async move {
            for (name, values) in part {
                loop {
                    match backend.try_run(name, &values).await {
                        Ok(row) => break assert!(row.is_some(), "{name} {values:?}"),
                        Err(books::BooksError::Locked(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }));
    }
    // old uses, which are folded meanwhile
    let backend = Backend::new(&store).await;
    for n in 0..20 {
        run(
            &backend,
            &[start("old", &format!("u{n}"), 1, midnight(30)), stop("old", &format!("u{n}"), midnight(30) + 60)],
        )
        .await;
    }
    assert_eq!(fold(&store, 10, Timestamp::now()).await.folded, 20);
    for writer in writers {
        writer.await.unwrap();
    }
    let books = store.books().await;
    for (customer, model) in expected {
        assert_eq!(weights(&books, &customer, midnight(5)).await, model, "{customer}");
    }
    assert_eq!(weights(&books, "old", midnight(31)).await.into_values().collect::<Vec<_>>(), [1200]);
}

async fn folding_changes_no_sum_and_takes_nothing_as_old(store: TestStore) {
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let now = Timestamp::now();
    for (customer, days_ago) in [("ann", 9), ("bob", 8), ("cyd", 7), ("dan", 2)] {
        let (reports, _) = history(days_ago, customer, midnight(i64::try_from(days_ago).unwrap()));
        run(&backend, &reports).await;
    }
    // a use over the day from which on nothing is folded, ends without a start, and open ones
    let edge = midnight(7);
    let long = [start("eve", "long", 1, edge - 60), stop("eve", "long", edge + 60)];
    run(&backend, &long).await;
    run(&backend, &[stop("eve", "lost", edge - 60), start("eve", "open", 1, edge - 3 * DAY)]).await;
    run(&backend, &[start("eve", "now", 1, now.as_second() - 60), stop("eve", "now", now.as_second() - 9)]).await;
    run(
        &backend,
        &[upload("eve", "o", 5, edge - 3 * DAY), report("eve", "r", 5, edge - 1), report("eve", "s", 5, edge)],
    )
    .await;
    let before = measured(&books, midnight(12), now.as_second(), now.as_second()).await;
    assert!(before.len() > 8, "{before:?}");
    let first = fold(&store, 7, now).await;
    assert!(first.folded > 5, "{first:?}");
    assert_eq!(first.ended_by_bound, 1, "`open`, which nobody ended");
    assert_eq!(first.before, day(edge));
    assert_eq!(measured(&books, midnight(12), now.as_second(), now.as_second()).await, before);
    let again = fold(&store, 7, now).await;
    assert_eq!((again.folded, again.ended_by_bound), (0, 0));
    assert_eq!(measured(&books, midnight(12), now.as_second(), now.as_second()).await, before);
    let left = backend.number("SELECT count(*) FROM measurements WHERE id IN ('long', 'now', 's')").await;
    assert_eq!(left, 3, "what reaches into a day that is not folded stays whole");
    // a late report is refused, whether it is a repeat or news
    for (name, values) in [
        start("eve", "open", 1, edge - 3 * DAY),
        start("eve", "news", 1, edge - 1),
        stop("eve", "open", edge - 1),
        report("eve", "r", 5, edge - 1),
        upload("eve", "o", 5, edge - 3 * DAY),
        delete("eve", "o", edge - 2 * DAY),
    ] {
        assert_eq!(backend.run(name, &values).await, None, "{name} {values:?}");
    }
    // a stop that comes late changes nothing that counted
    run(&backend, &[stop("eve", "open", edge + 5)]).await;
    assert_eq!(measured(&books, midnight(12), now.as_second(), now.as_second()).await, before);
    // a day goes back for nobody, and the next day folds the rest
    assert_eq!(fold(&store, 30, now).await.folded, 0);
    assert_eq!(backend.run("start_use", &start("eve", "news", 1, edge - 1).1).await, None);
    // a clock that is ahead folds nothing
    assert_eq!(fold(&store, 7, at(now.as_second() + 300 * DAY)).await.folded, 0);
    assert!(books.fold_measurements(day(now.as_second() + 2 * DAY)).await.unwrap() > 3);
    assert_eq!(measured(&books, midnight(12), now.as_second(), now.as_second()).await, before);
    assert_eq!(backend.number("SELECT count(*) FROM measurements").await, 0);
}

async fn the_configuration_decides_what_is_measured(store: TestStore) {
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let noon = midnight(2) + DAY / 2;
    run(&backend, &[start("ann", "a", 1, noon), stop("ann", "a", noon + 60)]).await;
    let meters = [
        MeasuredMeter::new("calls", Accrues::AttendeeMinutes, 3600, 9),
        MeasuredMeter::new("files", Accrues::GbMonths, 60, 3),
    ];
    books.keep_measured_meters(&meters).await.unwrap();
    books.keep_measured_meters(&meters).await.unwrap();
    let (name, mut values) = start("ann", "b", 1, noon);
    assert_eq!(backend.run(name, &values).await, None, "no longer measured");
    assert_eq!(quantities(&store, "ann", 3).await, Vec::<String>::new());
    values[1] = text("calls");
    let row = backend.run(name, &values).await.unwrap();
    assert_eq!(row["expires_at"], (noon + 3600).into());
    let (name, mut values) = upload("ann", "o", 1, noon);
    values[1] = text("files");
    let row = backend.run(name, &values).await.unwrap();
    assert_eq!(row["ended_at"], (midnight(2) + 4 * DAY).into());
    assert_eq!(quantities(&store, "ann", 3).await.len(), 1 + 3, "an hour, and three days so far");
    let built_in = MeasuredMeter::new("chime_minutes", Accrues::AttendeeMinutes, DAY, 1);
    books.keep_measured_meters(&[built_in]).await.unwrap();
    assert_eq!(quantities(&store, "ann", 3).await, ["1"], "what was measured before is there again");
}

/// More measurements than one reading of all customers takes, and more than one page is folded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_customers_are_read_in_pages() {
    let store = TestStore::local("pages of measurements").await;
    let (backend, books) = (Backend::new(&store).await, store.books().await);
    let from = midnight(3);
    for (table, columns, of) in [
        ("measurements", "id, level, started_at, ended_at", format!("'u' || u.value, 1, {from}, {from} + 60")),
        ("measured_days", "day, units, rest", format!("date({from} - 86400 * u.value, 'unixepoch'), 0, 60")),
    ] {
        let sql = format!(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2999) \
             INSERT INTO {table} (customer, meter, {columns}) \
             SELECT format('c%05d', i), 'chime_minutes', {of} FROM n, json_each('[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]') u"
        );
        backend.execute(&sql).await.unwrap();
    }
    for folded in [0, 45_000] {
        assert_eq!(books.fold_measurements(day(if folded == 0 { from } else { from + DAY })).await.unwrap(), folded);
        let found = books.measured(None, day(from - DAY), day(from), Timestamp::now()).await.unwrap();
        let weights: Vec<i128> = found.iter().map(|of| of.weight).collect();
        assert_eq!(weights, [60, 900].repeat(3000), "each customer's two days, in order");
        assert!(found.is_sorted_by_key(|of| (of.customer.clone(), of.day)));
    }
}

/// The table of the page: statement, rows read, rows written.
fn costs() -> BTreeMap<String, [u64; 2]> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, read, written] = cells[..] else { return None };
        Some((name.trim_end_matches('`').to_owned(), [read.parse().ok()?, written.parse().ok()?]))
    };
    page_text().lines().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_statement_costs_the_rows_that_the_page_says() {
    let store = TestStore::remote("rows of measurements").await;
    let backend = Backend::new(&store).await;
    let noon = midnight(2) + DAY / 2;
    // among others, so that an index that is not used would be seen
    for n in 0..30 {
        run(&backend, &[start("ann", &format!("u{n}"), 1, noon), upload("zoe", &format!("o{n}"), 1, noon)]).await;
    }
    let Some(server) = store.server() else { return };
    let reports = [
        start("mia", "a", 1, noon),
        stop("mia", "a", noon + 60),
        report("mia", "a", 1, noon),
        upload("mia", "a", 1, noon),
        delete("mia", "a", noon + 60),
    ];
    for repeat in [false, true] {
        let mut counted = BTreeMap::new();
        for (name, values) in &reports {
            server.reset_counts();
            backend.run(name, values).await.unwrap();
            let counts = server.counts();
            assert_eq!(counts.statements, 1, "one statement");
            assert!(counts.requests <= 2, "one round trip, and the end of the stream: {counts:?}");
            counted.insert((*name).to_owned(), [counts.rows_read, counts.rows_written]);
        }
        assert_eq!(counted, costs(), "docs/backend-contract.md, repeated: {repeat}");
    }
    // folding: each measurement is removed, each day is written, and so are the three meters
    let (books, later) = (store.books().await, at(noon + 10 * DAY));
    let days = books.measured(None, day(noon), day(noon + 9 * DAY), later).await.unwrap().len();
    server.reset_counts();
    let folded = books.fold_measurements(day(noon + 9 * DAY)).await.unwrap();
    let (counts, days) = (server.counts(), u64::try_from(days).unwrap());
    assert_eq!((folded, days), (63, 7));
    assert_eq!(counts.rows_written, folded + days + 3, "{counts:?}");
    assert!(counts.requests <= 12 && counts.rows_read < 7 * folded, "{counts:?}");
}

#[test]
fn measured_usage_is_shown_beside_what_was_billed() {
    let place = Workspace::new();
    place.run("demo generate bucket --month 2026-01 --rows 200 --customers 3").ends(0);
    place.run("ingest --month 2026-01").ends(0);
    place.execute(
        "INSERT INTO measurements (customer, meter, id, level, started_at, expires_at) \
         VALUES ('zoe', 'chime_minutes', 'a', 2, unixepoch('2026-01-10T23:00:00Z'), unixepoch('2026-01-11T01:00:00Z'))",
    );
    let shown = place.run("measured zoe --month 2026-01").ends(0).says(&["2026-01-10", "2026-01-11", "120", "minutes"]);
    assert!(shown.out.contains("1 use(s) that nobody ended"), "{}", shown.out);
    let all = place.run("measured --month 2026-01").ends(0).says(&["zoe", "240"]);
    let json = place.run("measured --month 2026-01 --json").ends(0).json();
    let lines = json.as_array().unwrap();
    assert!(lines.iter().any(|line| line["measured"] == "0" && line["billed"] != "0"), "{}", all.out);
    assert!(lines.iter().any(|line| line["customer"] == "zoe" && line["measured"] == "240" && line["billed"] == "0"));
    place.run("measured zoe --month 2026-02").ends(0).says(&["nothing was measured in 2026-02 for customer `zoe`"]);
    place.run("measured nobody").ends(2).says(&["there is no customer `nobody`"]);
}

/// A worker writes the configuration into the books before its first job.
#[test]
fn a_worker_says_how_meters_are_measured() {
    let place = Workspace::with("[measure]\nlongest_use_hours = 2\nupload_days = 3\nkeep_days = 9\n");
    place.run("work --once --no-schedule").ends(0);
    let row = "SELECT longest_use || ' ' || upload_days FROM measured_meters WHERE meter = 'storage_gb'";
    assert_eq!(place.query(row), ["7200 3"]);
    place.run("run fold_measurements").ends(0);
    let faults = "[measure]\nlongest_use_hours = 0\nupload_days = 0\nkeep_days = 6\n";
    Workspace::with(faults).run("config check").ends(2).says(&[
        "measure.longest_use_hours: it is 1 to 744 hours",
        "measure.upload_days: it is 1 to 3650 days",
        "measure.keep_days: it is 7 to 400 days",
    ]);
    let meter =
        "[[meters]]\nname = \"x\"\nunit = \"x\"\nproducts = [\"x\"]\nusage_types = [\"x\"]\naccrues = \"hours\"\n";
    Workspace::with(meter).run("config check").ends(2).says(&["accrues", "attendee-minutes", "gb-months"]);
}
