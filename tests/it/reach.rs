//! From a measurement to the block that the backend sees: through the binary, with nothing on the
//! schedule that would decide by chance.

use std::time::{Duration, Instant};

use books::Database;
use jiff::Timestamp;
use libsql::Value;
use nix::sys::signal::Signal;
use testkit::hrana::HranaServer;

use crate::contract::{Backend, Row, text, written};
use crate::notifications::{Receiver, SECRET};
use crate::support::served::Served;
use crate::support::test_store::TestStore;
use crate::support::{Workspace, yearly};

/// Longer than any run takes on a busy machine; what passes in seconds is in benches/reach.rs.
const PATIENCE: Duration = Duration::from_secs(40);

/// Ticks of the schedule are a year apart, but for the first ones.
fn place(more: &str) -> Workspace {
    Workspace::with(&format!("{more}{}", yearly()))
}

const CHIME: &str = "INSERT INTO plan_meters (plan, effective_from, meter, included, price, report) \
                     VALUES ('core', 0, 'chime_minutes', 200000000000, '0.01', 'overage')";

async fn ask(backend: &Backend, customer: &str) -> Row {
    backend.run("may_use", &[text(customer), text("chime_minutes"), Value::Null]).await.unwrap()
}

/// Asks until the answer has `allowed` and `reason`.
async fn until(backend: &Backend, customer: &str, allowed: i64, reason: &str) -> Row {
    let began = Instant::now();
    loop {
        let row = ask(backend, customer).await;
        if row["allowed"] == Value::Integer(allowed) && written(&row["reason"]) == reason {
            return row;
        }
        assert!(began.elapsed() < PATIENCE, "{customer} is not {reason}: {row:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn decided_at(row: &Row) -> i64 {
    match row["decided_at"] {
        Value::Integer(at) => at,
        ref other => panic!("{other:?}"),
    }
}

async fn sign_up(backend: &Backend, customer: &str) {
    backend.run("sign_up", &[text(customer), Value::Null, Value::Null]).await.unwrap();
    until(backend, customer, 1, "within_included").await;
}

/// Attendees join now; returns when.
async fn join(backend: &Backend, customer: &str, id: &str, attendees: i64) -> i64 {
    let values = [text(customer), text("chime_minutes"), text(id), attendees.into(), Value::Null];
    match backend.run("start_use", &values).await.unwrap()["started_at"] {
        Value::Integer(at) => at,
        ref other => panic!("{other:?}"),
    }
}

/// Minutes that a meeting leaves, at two a second, are ten seconds: the answer says until when, and
/// then blocks. A budget and the end of the meeting open it again, and a report closes it.
async fn a_block_is_there_at_once(backend: &Backend) {
    backend.execute(CHIME).await.unwrap();
    sign_up(backend, "ann").await;
    let joined = join(backend, "ann", "meeting", 120).await;
    let blocked_from = joined + 10;
    let began = Instant::now();
    loop {
        let row = ask(backend, "ann").await;
        if row["until"] == Value::Integer(blocked_from) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "until: {row:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let row = until(backend, "ann", 0, "no_budget").await;
    assert!(decided_at(&row) >= blocked_from, "blocked before the limit: {row:?}");
    let values = [text("ann"), text("chime_minutes"), text("meeting"), Value::Null];
    backend.run("stop_use", &values).await.unwrap();
    let budget = [text("ann"), text(""), 5000.into(), text("USD"), text("ann")];
    backend.run("set_budget", &budget).await.unwrap();
    until(backend, "ann", 1, "within_budget").await;
    let values = [text("ann"), text("chime_minutes"), text("report"), (6000 * 60).into(), Value::Null];
    backend.run("report_use", &values).await.unwrap();
    until(backend, "ann", 0, "budget_spent").await;
    let raised = [text("ann"), text(""), 900_000.into(), text("USD"), text("ann")];
    backend.run("set_budget", &raised).await.unwrap();
    until(backend, "ann", 1, "within_budget").await;
    // TURN blocks in its statement, and the decision follows
    backend.execute("UPDATE turn_periods SET used = allowed_until WHERE customer = 'ann' AND starts_at <= unixepoch() AND ends_at > unixepoch()").await.unwrap();
    let began = Instant::now();
    loop {
        let row = backend.run("may_use", &[text("ann"), text("turn_allocations"), Value::Null]).await.unwrap();
        if row["allowed"] == Value::Integer(0) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{row:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_reaches_the_backend_and_its_receiver_at_once() {
    let receiver = Receiver::start();
    let place = place(&format!("[notifications]\nurl = \"http://127.0.0.1:{}/hook\"\n", receiver.port));
    let worker = Served::start(place.folder.path(), "", &[("METER_NOTIFICATIONS__SECRET", SECRET)]);
    worker.until("/readyz", |a| a.status == 200);
    let backend = Backend::of(Database::open_local(&place.path("meter.db")).await.unwrap());
    a_block_is_there_at_once(&backend).await;
    let began = Instant::now();
    let mut kinds = vec![];
    while kinds.len() < 14 && began.elapsed() < PATIENCE {
        let body = |body: String| serde_json::from_str::<serde_json::Value>(&body).unwrap();
        kinds.extend(receiver.took().into_iter().map(|(_, sent)| body(sent)["type"].as_str().unwrap().to_owned()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    kinds.sort();
    let count = |kind: &str| kinds.iter().filter(|k| k.ends_with(kind)).count();
    assert_eq!((count("blocked") - count("unblocked"), count("unblocked")), (3, 2), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_comes_over_a_server_with_faults() {
    let place = place("");
    let server = HranaServer::start(&place.path("served.db"));
    server.faults().slow(Duration::from_millis(20));
    // one request in fifty is lost, with or without having been executed
    server.faults().at_random(20, 7);
    let url = server.url();
    let worker = Served::start(place.folder.path(), "", &[("METER_DATABASE__URL", &url)]);
    worker.until("/readyz", |a| a.status == 200);
    // the backend's own way to the database has no faults
    let backend = Backend::of(Database::open_local(&place.path("served.db")).await.unwrap());
    a_block_is_there_at_once(&backend).await;
}

/// The first statement after a decision makes the customer due, others find that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_makes_a_customer_due_costs_what_the_page_says() {
    let store = TestStore::remote("due by a statement").await;
    let (backend, now) = (Backend::new(&store).await, Timestamp::now().as_second());
    let Some(server) = store.server() else { return };
    backend.run("sign_up", &[text("kim"), Value::Null, Value::Null]).await.unwrap();
    let decided = format!("UPDATE enforcement_due SET due_at = {} WHERE customer = 'kim'", now + 86_400);
    backend.execute(&decided).await.unwrap();
    for (id, costs) in [("a", [4, 3]), ("b", [4, 1])] {
        server.reset_counts();
        let values = [text("kim"), text("chime_minutes"), text(id), 1.into(), Value::Null];
        backend.run("start_use", &values).await.unwrap();
        let counts = server.counts();
        assert_eq!([counts.rows_read, counts.rows_written], costs, "kim {id}");
    }
}

/// A worker with one slot decides beside a job that has it, also when the schedule is another
/// worker's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_job_delays_no_block() {
    let place = tokio::task::spawn_blocking(|| {
        let place = place("");
        place.run("migrate").ends(0);
        place.run("enqueue probe name=long millis=600000").ends(0);
        place
    });
    let place = place.await.unwrap();
    let worker = Served::start(place.folder.path(), "--no-schedule --concurrency 1", &[]);
    worker.until("/readyz", |a| a.status == 200);
    let backend = Backend::of(Database::open_local(&place.path("meter.db")).await.unwrap());
    backend.execute(CHIME).await.unwrap();
    let began = Instant::now();
    while backend.number("SELECT count(*) FROM jobs WHERE kind = 'probe' AND state = 'running'").await == 0 {
        assert!(began.elapsed() < PATIENCE, "the probe does not run");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sign_up(&backend, "ann").await;
    let values = [text("ann"), text("chime_minutes"), text("report"), 6000.into(), Value::Null];
    backend.run("report_use", &values).await.unwrap();
    until(&backend, "ann", 0, "no_budget").await;
    assert_eq!(backend.number("SELECT count(*) FROM jobs WHERE kind = 'probe' AND state = 'running'").await, 1);
}

/// Meetings of ten customers reach their limits one after another, and one of two workers is killed
/// meanwhile. Each customer is blocked once, and not before the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_and_its_neighbour_block_each_customer_once() {
    let place = place("");
    let workers = [Served::start(place.folder.path(), "", &[]), Served::start(place.folder.path(), "", &[])];
    workers.iter().for_each(|worker| drop(worker.until("/readyz", |a| a.status == 200)));
    let backend = Backend::of(Database::open_local(&place.path("meter.db")).await.unwrap());
    backend.execute(CHIME).await.unwrap();
    let mut limits = vec![];
    for n in 0..10 {
        let customer = format!("customer-{n}");
        sign_up(&backend, &customer).await;
        // 20 minutes at 2 to 6 a second
        let attendees = 120 + 24 * n;
        let joined = join(&backend, &customer, "meeting", attendees).await;
        limits.push((customer, joined + (1200 + attendees - 1) / attendees));
    }
    workers[0].signal(Signal::SIGKILL);
    for (customer, limit) in &limits {
        let row = until(&backend, customer, 0, "no_budget").await;
        assert!(decided_at(&row) >= *limit, "{customer} at {limit}: {row:?}");
    }
    for once in [
        "SELECT count(*) FROM notifications WHERE kind = 'blocked' AND meter = 'chime_minutes'",
        "SELECT count(DISTINCT customer) FROM notifications WHERE kind = 'blocked' AND meter = 'chime_minutes'",
        "SELECT count(*) FROM entitlement_changes WHERE meter = 'chime_minutes' AND allowed = 0",
    ] {
        assert_eq!(backend.number(once).await, 10, "{once}");
    }
}
