//! Measured usage decides before AWS's bill is there: the web backend's statements and `may_use`,
//! what an enforcement reads for it, and what is shown.

use std::sync::Arc;

use books::measured::accrual::Accrues;
use books::measured::policy::MeasuredMeter;
use jiff::Timestamp;
use jobs::context::{Context, MeasuringSettings};
use libsql::Value;
use testkit::usage::booking;

use crate::contract::{Backend, CHIME, enforce, text, written};
use crate::support::Workspace;
use crate::support::test_store::TestStore;

suite![
    a_running_meeting_is_blocked_while_the_bill_knows_nothing,
    the_books_sum_what_the_commands_show,
    what_an_enforcement_reads_follows_the_measurements,
];

const DAY: i64 = 86_400;

/// As the job has it with the built-in meters.
async fn context(store: &TestStore) -> Context {
    let meter = |name, accrues| MeasuredMeter::new(name, accrues, DAY, 1);
    let meters = vec![
        meter("chime_minutes", Accrues::AttendeeMinutes),
        meter("storage_gb", Accrues::GbMonths),
        meter("transfer_gb", Accrues::Gb),
    ];
    let measuring = Arc::new(MeasuringSettings { meters, ..MeasuringSettings::default() });
    Context { measuring, ..store.context().await }
}

/// A minute ago, or when the month began.
fn a_minute_ago() -> i64 {
    let now = Timestamp::now();
    let month = books::units::calendar::Month::of(now).first_day();
    (now.as_second() - 60).max(i64::from(month.epoch()) * DAY)
}

async fn a_running_meeting_is_blocked_while_the_bill_knows_nothing(store: TestStore) {
    let (backend, context) = (Backend::new(&store).await, context(&store).await);
    backend.execute(CHIME).await.unwrap();
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    let chime = [text("ann"), text("chime_minutes"), Value::Null];
    let ask = async || backend.run("may_use", &chime).await.unwrap();
    // before the first decision nothing is known
    let row = ask().await;
    assert_eq!((&row["used_billed"], &row["used_measured"]), (&Value::Null, &Value::Null));
    enforce(&context).await;
    let row = ask().await;
    assert_eq!((&row["allowed"], &row["used"]), (&Value::Integer(1), &Value::Real(0.0)));
    // ten million attendees use 1,000 minutes within the first second
    let from = a_minute_ago();
    let meeting = [text("ann"), text("chime_minutes"), text("m"), 10_000_000.into(), from.into()];
    backend.run("start_use", &meeting).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    enforce(&context).await;
    let row = ask().await;
    let number = |row: &crate::contract::Row, name: &str| match row[name] {
        Value::Real(number) => number,
        ref other => panic!("{name}: {other:?}"),
    };
    assert_eq!((&row["allowed"], written(&row["reason"]).as_str()), (&Value::Integer(0), "no_budget"));
    assert!(number(&row, "used") >= 1000.0 && number(&row, "used_billed") == 0.0, "{row:?}");
    assert_eq!(number(&row, "used"), number(&row, "used_measured"));
    // it ends, and the bill has less of the day, then more
    let stop = [text("ann"), text("chime_minutes"), text("m"), from.into()];
    backend.run("stop_use", &stop).await.unwrap();
    backend
        .run("report_use", &[text("ann"), text("chime_minutes"), text("r"), 66_000.into(), from.into()])
        .await
        .unwrap();
    let day = format!("date({from}, 'unixepoch')");
    for (more, parts) in [(0, [1100.0, 0.0, 1100.0]), (400, [1100.0, 400.0, 700.0]), (900, [1300.0, 1300.0, 0.0])] {
        let more = (more > 0).then(|| booking("ann", "chime_minutes", &day, &format!("{more} * 10000000000")));
        for sql in more.iter().flatten() {
            backend.execute(sql).await.unwrap();
        }
        enforce(&context).await;
        let again = enforce(&context).await;
        assert_eq!((again.changed, again.notifications), (0, 0), "a second run writes nothing");
        let row = ask().await;
        assert_eq!(["used", "used_billed", "used_measured"].map(|name| number(&row, name)), parts);
        assert_eq!(row["allowed"], Value::Integer(0));
    }
    // the figures of a period that is over are unknown
    let later = [text("ann"), text("chime_minutes"), (from + 40 * DAY).into()];
    let row = backend.run("may_use", &later).await.unwrap();
    assert_eq!((&row["used_billed"], &row["used_measured"]), (&Value::Null, &Value::Null));
    assert_eq!(backend.number("SELECT count(*) FROM meter_events").await, 0);
}

/// The statement of a page of customers sums in SQL, and `meter measured` in Rust.
async fn the_books_sum_what_the_commands_show(store: TestStore) {
    let (backend, context) = (Backend::new(&store).await, context(&store).await);
    let now = Timestamp::now();
    let month = books::units::calendar::Month::of(now);
    let begin = i64::from(month.first_day().epoch()) * DAY;
    let length = now.as_second() - begin;
    for meter in ["storage_gb", "transfer_gb", "chime_minutes"] {
        let sql = format!("INSERT INTO plan_meters VALUES ('core', 0, '{meter}', 1000, '0.01', 'overage')");
        backend.execute(&sql).await.unwrap();
    }
    let mut rng = fastrand::Rng::with_seed(17);
    for n in 0..8 {
        let customer = format!("c{n}");
        backend.run("sign_up", &[text(&customer), Value::Null, Value::Null]).await.unwrap();
        for row in 0..30 {
            let at = begin - DAY + rng.i64(0..length + DAY);
            let level = [0_i64, 1, 7, 9_999_999, 10_000_000, 123_456_789_012, 1_000_000_000_000_000][rng.usize(0..7)];
            let (of, ended) = (["chime_minutes", "storage_gb"][rng.usize(0..2)], at - 9 + rng.i64(0..300_000));
            let sql = match rng.usize(0..5) {
                0 => format!(
                    "(customer, meter, id, quantity, started_at) VALUES ('{customer}', 'transfer_gb', 'q{row}', {level}, {at})"
                ),
                1 => format!("(customer, meter, id, ended_at) VALUES ('{customer}', '{of}', '{row}', {at})"),
                2 => format!(
                    "(customer, meter, id, level, started_at, expires_at) VALUES ('{customer}', '{of}', '{row}', {level}, {at}, {at} + 90000)"
                ),
                _ => format!(
                    "(customer, meter, id, level, started_at, ended_at, expires_at) \
                     VALUES ('{customer}', '{of}', '{row}', {level}, {at}, {ended}, {at} + 172800)"
                ),
            };
            backend.execute(&format!("INSERT INTO measurements {sql}")).await.unwrap();
        }
    }
    let books = store.books().await;
    let days = |upto: Timestamp| books.measured(None, month.first_day(), month.last_day(), upto);
    let sums = async || {
        jobs::enforce_budgets::enforce(&context, now, jobs::job::Mode::Write).await.unwrap();
        let mut sums = std::collections::BTreeMap::new();
        for of in days(now).await.unwrap() {
            *sums.entry((of.customer, of.meter)).or_default() += of.quantity;
        }
        let decided = books.entitlements(None).await.unwrap();
        for e in decided.into_iter().filter(|e| e.meter != "turn_allocations") {
            let sum = sums.remove(&(e.customer.clone(), e.meter.clone())).unwrap_or_default();
            assert_eq!(e.used_measured, books::limits::entitlement::storable(sum), "{} {}", e.customer, e.meter);
        }
        assert!(sums.is_empty(), "{sums:?}");
    };
    sums().await;
    // and when some are folded
    let today = i32::try_from(now.as_second().div_euclid(DAY)).unwrap();
    books.fold_measurements(books::units::calendar::Day::from_epoch(today - 1).unwrap()).await.unwrap();
    sums().await;
}

async fn what_an_enforcement_reads_follows_the_measurements(store: TestStore) {
    let Some(server) = store.server() else { return };
    let (backend, context) = (Backend::new(&store).await, context(&store).await);
    backend.execute(CHIME).await.unwrap();
    for n in 0..50 {
        backend.run("sign_up", &[text(&format!("c{n}")), Value::Null, Value::Null]).await.unwrap();
    }
    enforce(&context).await;
    let read = async |context: &Context| {
        server.reset_counts();
        jobs::enforce_budgets::enforce(context, Timestamp::now(), jobs::job::Mode::Write).await.unwrap();
        let counts = server.counts();
        (counts.rows_read, counts.requests)
    };
    let unmeasured = Context { measuring: Arc::default(), ..context.clone() };
    let (before, requests) = read(&unmeasured).await;
    let nothing = read(&context).await;
    // 20 uses of each customer, which began and ended long before the period
    let rows = "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at, expires_at) \
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20) \
                SELECT id, 'chime_minutes', 'old' || i, 1, 1000, 2000, 3000 FROM customers, n";
    backend.execute(rows).await.unwrap();
    let old = read(&context).await;
    eprintln!("rows and requests without {before} {requests}, with nothing {nothing:?}, with old rows {old:?}");
    // one keeps when those are due who were due and are decided as before
    assert_eq!((nothing.1, old.1), (requests, requests + 1), "no request more");
    assert!(nothing.0 - before <= 50 * 9, "{nothing:?}");
    // no bill has settled a day: up to 40 of them can be in the period
    assert!(old.0 - nothing.0 <= 50 * 20 * 42, "a row is read once for each open day of the period: {old:?}");
}

#[test]
fn what_is_measured_is_shown_apart() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(CHIME);
    place.run("customer add ann").ends(0);
    place.execute(&booking("ann", "chime_minutes", "date('now')", "9000000000000").join(";"));
    place.run("run enforce-budgets").ends(0);
    let lacks = |line: &str, what: &str| assert!(!place.run(line).ends(0).out.contains(what), "{line}");
    lacks("entitlements ann", "not billed yet");
    place.execute(
        "INSERT INTO measurements (customer, meter, id, quantity, started_at) VALUES ('ann', 'chime_minutes', 'r', 72000, unixepoch() - 1)",
    );
    // the next run is said before it comes
    place.run("explain-entitlement ann chime_minutes").ends(0).says(&["It may not be used"]);
    place.run("run enforce-budgets").ends(0).says(&["allowed -> BLOCKED", "no_budget"]);
    place.run("explain-entitlement ann chime_minutes").ends(0).says(&[
        "1,200 of 1,000 minutes",
        "of it 300 measured, not billed yet",
        "measured beyond the bill",
    ]);
    place.run("entitlements ann").ends(0).says(&["`measured` is a part of `used`, and not billed yet"]);
    let json = place.run("entitlements ann --json").ends(0).json();
    let parts = ["used", "used_billed", "used_measured"].map(|name| json[0][name].clone());
    assert_eq!(parts, ["1200", "900", "300"]);
    place.run("customer show ann --json").ends(0).says(&["\"used_measured\": \"300\""]);
    place.run("verify").ends(0);
    // money is the bill's
    place.run("usage").ends(0).says(&["900"]);
    lacks("usage", "1,200");
    place.run("status --json").ends(3).says(&["\"used_measured\": \"300\""]);
}

#[test]
fn what_runs_is_shown_with_the_instant_at_which_the_limit_is_reached() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(CHIME);
    place.run("customer add ann").ends(0);
    place.run("run enforce-budgets").ends(0);
    let lacks = |line: &str, what: &str| assert!(!place.run(line).ends(0).out.contains(what), "{line}");
    lacks("explain-entitlement ann chime_minutes", "at the present level");
    lacks("entitlements ann", "limit at");
    // 900 of 1,000 minutes are used, and 100 attendees use the others in a minute
    let began = a_minute_ago().max(Timestamp::now().as_second() - 1);
    for columns in [format!("'r', NULL, 54000, {began}, NULL"), format!("'m', 100, NULL, {began}, {began} + 86400")] {
        place.execute(&format!(
            "INSERT INTO measurements (customer, meter, id, level, quantity, started_at, expires_at) VALUES ('ann', 'chime_minutes', {columns})"
        ));
    }
    place.run("run enforce-budgets").ends(0);
    let reached = Timestamp::from_second(began + 60).unwrap();
    let time = reached.strftime("%T").to_string();
    let said = place.run("explain-entitlement ann chime_minutes").ends(0);
    said.says(&["at the present level the limit is reached at ", &format!("{time} UTC")]);
    let said = place.run("entitlements ann").ends(0);
    said.says(&["limit at", &time, "is when the limit is reached at the present level"]);
    let json = place.run("status --json").ends(3).json();
    assert_eq!(json["customers"]["near_limit"][0]["blocked_at"], reached.to_string());
}
