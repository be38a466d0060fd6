//! What work on a remote database costs in requests, and what happens when its server ends a
//! transaction.

use std::time::{Duration, Instant};

use books::store::connection::Value;
use books::{BooksError, Database};
use jiff::Timestamp;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::job::Job;
use testkit::hrana::HranaServer;
use testkit::usage::bookings;

use crate::billing_books::StripeOnStore;
use crate::support::served::Served;
use crate::support::test_store::TestStore;
use crate::support::{Workspace, yearly};

const INSERT: &str = "INSERT INTO settings (name, value) VALUES (?1, 'x')";
const COUNT: &str = "SELECT count(*) FROM settings WHERE value = 'x'";

fn text(text: &str) -> Vec<Value> {
    vec![Value::Text(text.into())]
}

async fn count(books: &Database) -> i64 {
    let read = async |c: &_| books::store::rows::first_row(c, COUNT, ()).await?.unwrap().get(0);
    books.with_connection(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_as_few_as_the_protocol_allows() {
    let store = TestStore::remote("few requests").await;
    let books = store.books().await;
    let mut before = books.traffic();
    let mut asked = |what: &str, expected: u64| {
        let since = books.traffic() - before;
        assert_eq!(since.requests, expected, "{what}");
        assert!(since.connections <= 1, "{what}: {} connections", since.connections);
        assert!(expected == 0 || since.bytes_sent > 0 && since.bytes_received > 0, "{what}");
        before = books.traffic();
    };
    assert_eq!(count(&books).await, 0);
    asked("a query", 1);
    books.transaction(async |_| Ok(())).await.unwrap();
    asked("a transaction without a statement", 0);
    let three = books.transaction(async |c| {
        for name in ["a", "b", "c"] {
            assert_eq!(c.execute(INSERT, text(name)).await?, 1);
        }
        Ok(())
    });
    three.await.unwrap();
    asked("a transaction of three statements", 4);
    let batch =
        books.transaction(async |c| c.batch(["d", "e"].map(|name| (INSERT, text(name))).into()).await.map(drop));
    batch.await.unwrap();
    asked("a transaction of a batch", 2);
    let undone = books.transaction(async |c| {
        c.execute(INSERT, text("f")).await?;
        c.execute(INSERT, text("a")).await
    });
    assert!(undone.await.unwrap_err().to_string().contains("UNIQUE constraint failed"));
    asked("a transaction that is undone", 3);
    let many =
        async |c: &_| books::store::rows::insert_rows(c, "INSERT INTO settings (name, value)", "", &rows(), row).await;
    books.transaction(many).await.unwrap();
    asked("a thousand rows", 2);
    let together = books.with_connection(async |c| {
        tokio::try_join!(c.query(COUNT, ()), c.query("SELECT 1", ()), c.query("SELECT missing", ())).map(drop)
    });
    let error = together.await.unwrap_err().to_string();
    assert!(error.contains("no such column: missing"), "{error}");
    asked("queries at the same time", 1);
    assert_eq!(count(&books).await, 5);
    asked("the count", 1);
    for _ in 0..2 {
        books.require_migrated().await.unwrap();
    }
    asked("the schema, twice", 1);
}

fn rows() -> Vec<i64> {
    (0..1000).collect()
}

fn row(n: &i64) -> [Value; 2] {
    [Value::Text(format!("row {n}")), Value::Text("y".into())]
}

/// Guards against: statements after the end of a transaction commit by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_server_ends_writes_nothing() {
    let store = TestStore::remote("ended").await;
    let Some(server) = store.server() else { return };
    let books = store.books().await;
    server.faults().expire_streams(1);
    let ended = books.transaction(async |c| {
        c.execute(INSERT, text("a")).await?;
        let lost = c.execute(INSERT, text("b")).await.unwrap_err();
        assert!(matches!(lost, BooksError::StreamLost(_)) && lost.is_retryable(), "{lost}");
        // the error is ignored, as no caller should
        c.execute(INSERT, text("c")).await.unwrap_err();
        Ok(())
    });
    assert!(matches!(ended.await, Err(BooksError::StreamLost(_))));
    assert_eq!(count(&books).await, 0);
    server.faults().lose_commit_replies(1);
    let unclear = books.transaction(async |c| c.execute(INSERT, text("d")).await).await;
    assert!(matches!(unclear, Err(BooksError::Network(_))), "{unclear:?}");
    assert_eq!(count(&books).await, 1);
}

/// Who waits for the write lock hears how long it was, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_server_says_how_long_it_made_wait() {
    let store = TestStore::remote("locked server").await;
    store.server().into_iter().for_each(HranaServer::allow_long_transactions);
    let (first, second) = (store.books().await, store.books().await);
    let (locked, is_locked) = tokio::sync::oneshot::channel();
    let (done, is_done) = tokio::sync::oneshot::channel::<()>();
    let holder = tokio::spawn(async move {
        let held = first.transaction(async move |c| {
            c.execute(INSERT, text("a")).await?;
            locked.send(()).unwrap();
            drop(is_done.await);
            Ok(())
        });
        held.await
    });
    is_locked.await.unwrap();
    let began = Instant::now();
    let refused = second.transaction(async |c| c.execute(INSERT, text("b")).await).await;
    drop(done);
    let held = holder.await.unwrap();
    // a real server ends the holder's transaction instead
    match refused {
        Err(BooksError::Locked(waited)) => {
            assert!(waited <= began.elapsed() && waited >= Duration::from_secs(4), "{waited:?}");
            assert_eq!(second.busy_waits().count, 1);
            held.unwrap();
        }
        Ok(_) => assert!(matches!(held, Err(BooksError::TransactionTimeout)), "{held:?}"),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn commands_make_few_requests() {
    let place = Workspace::new();
    let server = HranaServer::start(&place.path("served.db"));
    server.faults().slow(Duration::from_millis(20));
    let url = server.url();
    for (line, most) in [("migrate", 4), ("migrate", 1), ("status", 4), ("accuracy", 6)] {
        let (before, began) = (server.requests(), Instant::now());
        place.run_with(line, &[("METER_DATABASE__URL", &url)]);
        let (requests, took) = (server.requests() - before, began.elapsed());
        eprintln!("{line}: {requests} requests, {} ms", took.as_millis());
        assert!(requests <= most, "{line}: {requests} requests");
        assert!(took < Duration::from_secs(10), "{line}: {took:?}");
    }
}

/// Guards against: round trips for each hundred customers.
#[test]
fn work_on_many_customers_makes_few_requests() {
    let place = Workspace::new();
    place.run("demo generate bucket --month 2026-01 --rows 3000 --customers 300").ends(0);
    let customers: String = (0..1500).map(|n| format!("customer {n:04},cus_{n}\n")).collect();
    std::fs::write(place.path("customers.csv"), format!("id,stripe_customer_id\n{customers}")).unwrap();
    let server = HranaServer::start(&place.path("meter.db"));
    let url = server.url();
    let run = |line: &str, most: u64, says: &str| {
        let before = server.requests();
        place.run_with(line, &[("METER_DATABASE__URL", &url)]).ends(0).says(&[says]);
        let requests = server.requests() - before;
        eprintln!("{line}: {requests} requests");
        assert!(requests <= most, "{line}: {requests} requests");
    };
    run("migrate", 4, "");
    run("customer import customers.csv", 4, "1,500 customer(s) added");
    place.execute(
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) \
         SELECT 'sub_' || replace(id, ' ', ''), id, 'active', unixepoch() - 2160000, unixepoch() - 2160000 FROM customers",
    );
    // three transactions of at least 500 customers, of three requests each
    run("run roll_periods", 13, "of 1,500 customer(s) looked at");
    run("run roll_periods", 2, "of 0 customer(s) looked at");
    // one of them asks who was erased
    run("ingest --month 2026-01", 42, "");
    run("ingest --month 2026-01", 4, "");
}

/// 600 customers. Chunks are cut by time and have at least 400 customers, so a slow machine makes
/// the most requests.
#[test]
fn limits_of_many_customers_are_few_requests() {
    let place = Workspace::new();
    let server = HranaServer::start(&place.path("meter.db"));
    let url = server.url();
    let run = |line: &str| place.run_with(line, &[("METER_DATABASE__URL", &url)]);
    run("migrate").ends(0);
    server.long_transactions();
    place.execute(
        "INSERT INTO plan_meters VALUES ('core', 0, 'chime_minutes', 10000000000, '0.01', 'overage');
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
         INSERT INTO customers (id) SELECT printf('customer-%03d', i) FROM n",
    );
    // a unit each, then another one: what is included is used up, then overspent
    let used = || {
        let entries = "SELECT id, 'chime_minutes', date('now'), 10000000000, 'usage' FROM customers";
        testkit::usage::bookings("strftime('%Y-%m', 'now')", entries).iter().for_each(|sql| place.execute(sql));
    };
    server.faults().slow(Duration::from_millis(20));
    let enforce = |what: &str, most: u64| {
        let before = server.requests();
        let ran = run("run enforce_budgets").ends(0);
        let requests = server.requests() - before;
        eprintln!("{what}: {requests} requests");
        assert!(requests <= most, "{what}: {requests} requests\n{}", ran.out);
        let long = server.long_transactions();
        assert!(long.is_empty(), "{what}: {long:?}");
    };
    let decided =
        "SELECT allowed, used / 10000000000, count(*) FROM entitlements WHERE meter = 'chime_minutes' GROUP BY 1, 2";
    used();
    // one takes them, and two keep that every customer was looked at
    enforce("all new", 8 + 2 * 3);
    assert_eq!(place.query(decided), ["0|1|600"]);
    let kept = "SELECT count(*), count(DISTINCT customer || meter) FROM entitlement_changes";
    assert_eq!(place.query(kept), place.query("SELECT count(*), count(*) FROM entitlements"));
    assert_eq!(
        place.query("SELECT kind, count(*) FROM notifications GROUP BY 1"),
        ["blocked|600", "included_used|1800"]
    );
    enforce("nothing changed", 8);
    used();
    enforce("all changed", 8 + 2 * 3);
    assert_eq!(place.query(decided), ["0|2|600"]);
    assert_eq!(place.query("SELECT count(*) FROM notifications"), ["2400"], "nothing is reported twice");
    // ten minutes each, of which the bill knows two
    place.execute(
        "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
         SELECT id, 'chime_minutes', 'r', 600, unixepoch() - 1 FROM customers",
    );
    enforce("all measured", 8 + 2 * 3);
    assert_eq!(place.query(decided), ["0|10|600"]);
    assert_eq!(place.query("SELECT DISTINCT used_measured / 10000000000 FROM entitlements WHERE used > 0"), ["8"]);
}

/// Figures of all customers are counted by the worker and kept, as long as nothing changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_reads_few_rows_beside_a_worker() {
    let store = TestStore::remote("status").await;
    let Some(server) = store.server() else { return };
    let (books, place, url) = (store.books().await, Workspace::new(), store.url());
    let add = async |customers: std::ops::Range<i64>| {
        let sql = "WITH RECURSIVE n (i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2) \
                   INSERT INTO customers (id) SELECT 'c' || i FROM n";
        let range = vec![Value::Integer(customers.start), Value::Integer(customers.end)];
        books.transaction(async move |c| c.execute(sql, range).await).await.unwrap();
    };
    let status = |active: i64| {
        server.reset_counts();
        let json = place.run_with("status --json", &[("METER_DATABASE__URL", &url)]).json();
        assert_eq!(json["customers"]["by_status"]["active"], active);
        assert_eq!(json["books"]["notifications"]["pending"], 2000);
        assert_eq!(json["queue"]["kinds"]["deliver_notifications"]["states"]["done"], 2000);
        let counts = server.counts();
        // one of them keeps the count of rows, if there were many
        assert!(counts.requests <= 6, "{counts:?}");
        counts.rows_read
    };
    add(0..2000).await;
    // a queue that has worked, and notifications that nothing receives
    let others = books.transaction(async |c| {
        let sql = "INSERT INTO jobs (id, kind, payload, state, origin, max_attempts, report, enqueued_at, finished_at) \
                   SELECT printf('%026d', rowid), 'deliver_notifications', '{}', 'done', 't', 1, '{}', 1, 1 FROM customers";
        c.execute(sql, ()).await?;
        let sql = "INSERT INTO notifications (id, customer, meter, kind, period_start, base, body, created_at, give_up_at, next_at) \
                   SELECT id, id, '', 'budget_used', 0, 0, '{}', 1, 1, 1 FROM customers";
        c.execute(sql, ()).await
    });
    assert_eq!(others.await.unwrap(), 2000);
    let counted = status(2000);
    let worker = Served::start(place.folder.path(), "--no-schedule --kinds probe", &[("METER_DATABASE__URL", &url)]);
    let start = Instant::now();
    while books.setting("customer_stats").await.unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", worker.said());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let kept = status(2000);
    assert!(counted > 4000 && kept <= 500, "{counted} rows, then {kept}");
    add(2000..2001).await;
    assert!(status(2001) > 4000, "a change is seen at once");
}

/// With 600 customers, a run in which nobody is due costs no more than with one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_in_which_nobody_is_due_costs_next_to_nothing() {
    let store = TestStore::remote("nobody is due").await;
    let Some(server) = store.server() else { return };
    let names: Vec<String> = (0..600).map(|n| format!("c{n}")).collect();
    let fixture = StripeOnStore::open(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let run = async || EnforceBudgets::default().run(&fixture.context, Timestamp::now()).await.unwrap();
    assert_eq!(run().await.customers, 600);
    server.reset_counts();
    assert_eq!(run().await.customers, 0);
    let counts = server.counts();
    eprintln!("nobody is due: {counts:?}");
    assert!(counts.requests <= 3 && counts.rows_read <= 50 && counts.rows_written <= 1, "{counts:?}");
}

/// A look each 4.5 s and a heartbeat each 30 s are 22,080 requests a day.
#[test]
fn an_idle_worker_makes_few_requests() {
    let place = Workspace::with(&yearly());
    let server = HranaServer::start(&place.path("served.db"));
    let url = server.url();
    let worker = Served::start(place.folder.path(), "", &[("METER_DATABASE__URL", &url)]);
    worker.until("/readyz", |a| a.status == 200);
    // many customers who are due some day cost a look nothing
    let many = "INSERT INTO enforcement_due (customer, due_at) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
                SELECT 'c' || i, 99999999999 FROM n";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let served = libsql::Builder::new_local(place.path("served.db")).build().await.unwrap().connect().unwrap();
        served.busy_timeout(Duration::from_secs(10)).unwrap();
        served.execute(many, ()).await.unwrap();
    });
    // its first ticks are run, and it looks less and less often
    std::thread::sleep(Duration::from_secs(30));
    server.reset_counts();
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(20) {
        assert_eq!(worker.get("/readyz").status, 200);
        std::thread::sleep(Duration::from_secs(4));
    }
    let counts = server.counts();
    eprintln!("idle for 20 s: {counts:?}");
    assert!(counts.requests <= 5 + 1, "{} requests", counts.requests);
    assert_eq!(counts.connections, 0);
    assert!(counts.rows_read <= 200 && counts.rows_written <= 10, "{counts:?}");
}

/// Customers are planned, claimed and settled together: a hundred cost no more than one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_makes_few_requests() {
    const CUSTOMERS: usize = 100;
    let store = TestStore::remote("few requests of a push").await;
    let names: Vec<String> = (0..CUSTOMERS).map(|n| format!("c{n}")).collect();
    let fixture = StripeOnStore::open(&store, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let books = &fixture.context.books;
    let used = |units: u32| {
        format!("SELECT id, 'storage_gb', date('now', '-1 day'), {units}0000000000, 'usage' FROM customers")
    };
    let mut before = books.traffic();
    let mut asked = |what: &str| {
        let requests = (books.traffic() - before).requests;
        before = books.traffic();
        eprintln!("{what}: {requests} requests");
        requests
    };
    for (units, what, most) in [(3, "first", 34), (2, "one more booking", 28)] {
        for sql in bookings("strftime('%Y-%m', 'now', '-1 day')", &used(units)) {
            fixture.run(&sql).await;
        }
        asked("bookings");
        let report = fixture.push().await;
        assert_eq!((report.planned, report.accepted), (100, 100), "{report:?}");
        let requests = asked(what);
        assert!(requests <= most, "{what}: {requests} requests");
    }
    let idle = fixture.push().await;
    assert_eq!((idle.customers, idle.attempts), (0, 0), "{idle:?}");
    assert_eq!(asked("nothing to do"), 1, "the schema is known");
    let report = jobs::reconcile_stripe::reconcile(&fixture.context, jiff::Timestamp::now(), None).await.unwrap();
    assert_eq!((report.read, report.agree), (100, 100), "{report:?}");
    let requests = asked("a hundred totals");
    assert!(requests <= 36, "{requests} requests to reconcile");
}
