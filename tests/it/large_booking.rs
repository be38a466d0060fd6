//! A bill larger than any transaction of a server may be, booked over a network beside a worker and
//! the web backend, and killed in the midst.
//!
//! `METER_TEST_ENTRIES` sets the number of ledger entries (50,000 if unset; 1,000,000 by hand).

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use books::Database;
use books::store::rows::first_row;
use meter::config::Config;
use testkit::hrana::HranaServer;

use crate::support::{Workspace, meter};

const MONTH: &str = "2026-10";
const INGEST: &str = "ingest --month 2026-10";
const ROUND_TRIP: Duration = Duration::from_millis(20);

fn entries() -> usize {
    std::env::var("METER_TEST_ENTRIES").map_or(50_000, |n| n.parse().unwrap())
}

/// What eight writers of the web backend saw.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    taken: AtomicU64,
    /// The longest that a statement took, in milliseconds.
    longest: AtomicU64,
}

async fn open(url: &str) -> Database {
    let config = Config::load(None, std::iter::once(("METER_DATABASE__URL".to_owned(), url.to_owned()))).unwrap();
    meter::wiring::open_books(&config, meter::wiring::Open::EXISTING).await.unwrap()
}

async fn take_credentials(books: Database, customer: String, seen: Arc<Seen>) {
    while !seen.stop.load(Relaxed) {
        let sql =
            format!("UPDATE turn_periods SET used = used + 1 WHERE customer = '{customer}' AND closed_at IS NULL");
        let start = Instant::now();
        let taken = books.with_connection(async move |c| c.execute(&sql, ()).await).await.unwrap();
        seen.longest.fetch_max(u64::try_from(start.elapsed().as_millis()).unwrap(), Relaxed);
        seen.taken.fetch_add(taken, Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_bill_of_any_size_is_booked_beside_a_worker_and_the_web_backend() {
    let place = Workspace::new();
    // a third of the lines count, and two of them are of one customer, meter and day
    let (rows, customers) = (entries() * 9, entries() / 8);
    place.run(&format!("demo generate bucket --month {MONTH} --rows {rows} --customers {customers}")).ends(0);
    let server = HranaServer::start(&place.path("served.db"));
    let url = server.url();
    let with = |line: &str| place.run_with(line, &[("METER_DATABASE__URL", &url)]);
    with("migrate").ends(0);
    for n in 0..8 {
        with(&format!("customer add backend-{n}")).ends(0);
    }
    server.faults().slow(ROUND_TRIP);
    // the server itself ends a transaction after five seconds when another writer waits
    server.fail_transactions_longer_than(Duration::from_secs(4));
    let child = |line: &str| {
        let mut command = meter(place.folder.path());
        command.args(line.split(' ')).env("METER_DATABASE__URL", &url);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut worker = child("work --no-schedule");
    let seen = Arc::new(Seen::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let books = runtime.block_on(open(&url));
    let ask = |sql: &'static str| -> String {
        let read = books.with_connection(async move |c| first_row(c, sql, ()).await?.unwrap().get(0));
        runtime.block_on(read).unwrap()
    };
    let mut writers = vec![];
    for n in 0..8 {
        let backend = runtime.block_on(open(&url));
        writers.push(runtime.spawn(take_credentials(backend, format!("backend-{n}"), Arc::clone(&seen))));
    }

    let mut killed = child(INGEST);
    let count = |sql| ask(sql).parse::<usize>().unwrap();
    let there = || count("SELECT count(*) || '' FROM ledger_entries");
    while there() < entries() / 3 {
        assert!(killed.try_wait().unwrap().is_none(), "it ended before it was killed");
        std::thread::sleep(Duration::from_millis(50));
    }
    killed.kill().unwrap();
    crate::support::ended(&mut killed);
    let staged = there();
    assert_eq!(count("SELECT count(*) || '' FROM booked_usage"), 0, "nobody sees a part");
    let start = Instant::now();
    with(INGEST).ends(0).says(&["booked"]);
    let took = start.elapsed();
    seen.stop.store(true, Relaxed);
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    let booked = count("SELECT count(*) || '' FROM booked_usage");
    assert!(booked > entries() * 8 / 10, "{booked} entries of {customers} customers");
    let bookings = ask("SELECT group_concat(concat_ws(' ', id, entries, counted)) FROM bookings");
    assert_eq!(bookings, format!("1 {booked} 1"), "it went on");
    assert_eq!(server.long_transactions(), Vec::<String>::new());
    let used = ask("SELECT sum(used) || '' FROM turn_periods WHERE customer LIKE 'backend-%'");
    assert_eq!(used, seen.taken.load(Relaxed).to_string(), "no credential is lost");
    assert!(worker.try_wait().unwrap().is_none(), "the worker works on");
    worker.kill().unwrap();
    crate::support::ended(&mut worker);
    server.faults().slow(Duration::ZERO);
    with("verify").ends(0);
    let counts = server.counts();
    println!(
        "{booked} entries, {staged} of them before the kill; the rest in {took:?}; a writer waited {} ms at most; \
         the longest write transaction took {:?}",
        seen.longest.load(Relaxed),
        counts.longest_write
    );
}
