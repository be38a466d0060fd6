//! What work on a remote database costs in requests, and what happens when its server ends a
//! transaction.

use std::time::{Duration, Instant};

use books::store::connection::Value;
use books::{BooksError, Database};
use testkit::hrana::HranaServer;

use crate::billing_books::StripeOnStore;
use crate::support::Workspace;
use crate::support::test_store::TestStore;
use testkit::usage::bookings;

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
    for (line, most) in [("migrate", 3), ("migrate", 1), ("status", 4)] {
        let (before, began) = (server.requests(), Instant::now());
        place.run_with(line, &[("METER_DATABASE__URL", &url)]);
        let (requests, took) = (server.requests() - before, began.elapsed());
        eprintln!("{line}: {requests} requests, {} ms", took.as_millis());
        assert!(requests <= most, "{line}: {requests} requests");
        assert!(took < Duration::from_secs(10), "{line}: {took:?}");
    }
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
    assert!(requests <= 20, "{requests} requests to reconcile");
}
