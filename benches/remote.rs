//! Commands over the remote protocol with round trips of 20 ms: seconds, requests, connections,
//! bytes, rows and the longest write transaction of each.
//!
//! `cargo bench --bench remote` makes bills of the current month with about 100,000 ledger entries
//! for 5,000 customers, and drives `meter`, or the program that `METER` names, over the test server
//! of `testkit::hrana`. The server counts; its answers take as long as SQLite takes, and 20 ms. A
//! command that fails is repeated without the delay, so that the next one has its books.
//! A number after `--` is the number of lines a day in the bill.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fake_aws::Spec;
use fake_stripe::{FakeStripe, Options};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use testkit::hrana::{Counts, HranaServer, StatementCounts};

const CUSTOMERS: u32 = 5_000;
const ROUND_TRIP: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(60);
/// The meter with a price; each customer with usage of it gets an event.
const METER: &str = "chime_minutes";

struct Bench {
    folder: tempfile::TempDir,
    meter: PathBuf,
    server: HranaServer,
    stripe: FakeStripe,
}

impl Bench {
    fn file(&self) -> PathBuf {
        self.folder.path().join("served.db")
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.meter);
        command.current_dir(self.folder.path()).args(line.split_whitespace());
        command.env("METER_DATABASE__URL", self.server.url()).env("METER_STRIPE__URL", self.stripe.url());
        command.env("METER_STRIPE__KEY", "sk_test_bench").env("METER_STRIPE__PER_SECOND", "1000");
        let name = format!("METER_STRIPE__METERS__{}", METER.to_uppercase());
        command.env(format!("{name}__EVENT_NAME"), METER).env(format!("{name}__PER_UNIT"), "\"1000\"");
        command
    }

    /// Runs a command and prints its row.
    fn measure(&self, title: &str, line: &str) {
        self.server.faults().slow(ROUND_TRIP);
        self.server.reset_counts();
        let start = Instant::now();
        let out = self.command(line).output().unwrap();
        let (seconds, counts) = (start.elapsed().as_secs_f64(), self.server.counts());
        self.server.faults().slow(Duration::ZERO);
        // 3: done, and something needs attention
        let failed = !matches!(out.status.code(), Some(0 | 3));
        row(&format!("{title}{}", if failed { " (failed)" } else { "" }), seconds, counts);
        if failed {
            eprintln!("{line}: {}", String::from_utf8_lossy(&out.stderr).trim());
            self.command(line).output().unwrap();
        }
    }

    /// Delivers a bill of the month of `last`, up to that day.
    fn deliver(&self, last: Date, restated: u32) -> Vec<String> {
        let rows_a_day = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(32_000_u64);
        let days = u8::try_from(last.day()).unwrap();
        let spec = Spec {
            year: last.year(),
            month: u8::try_from(last.month()).unwrap(),
            days,
            rows: rows_a_day * u64::from(days),
            customers: CUSTOMERS,
            restated,
            ..Spec::default()
        };
        fake_aws::write(&self.folder.path().join("bucket"), &spec).unwrap().customers
    }

    /// What the web backend and Stripe have written: a price, and a subscription of each customer.
    async fn subscribe(&self) {
        let database = libsql::Builder::new_local(self.file()).build().await.unwrap();
        let books = database.connect().unwrap();
        let sql = format!(
            "INSERT INTO plan_meters VALUES ('core', 0, '{METER}', 0, '0.0045', 'total');
             INSERT INTO subscriptions (id, customer, status, anchor_at, started_at)
               SELECT 'sub_' || id, id, 'active', unixepoch() - 2160000, unixepoch() - 2160000 FROM customers;
             INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at)
               SELECT 'si_' || id, 'sub_' || id, id, 'mtr_test_fake0000000001', 'price', 'USD', 0, 0 FROM customers"
        );
        books.execute_batch(&sql).await.unwrap();
    }

    /// A worker with nothing to do, and what it would ask in a day.
    fn idle(&self) {
        self.server.faults().slow(ROUND_TRIP);
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let line = format!("work --no-schedule --listen 127.0.0.1:{port} --log error");
        let mut worker = self.command(&line).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(10));
        self.server.reset_counts();
        std::thread::sleep(IDLE);
        let counts = self.server.counts();
        self.measure("`status` beside a worker", "status");
        worker.kill().unwrap();
        worker.wait().unwrap();
        let counts = a_day(counts, IDLE);
        row("idle worker, a day", 86_400.0, counts);
    }
}

impl Bench {
    /// A worker with its schedule, while 300 of the customers measure: each joins and leaves 30
    /// times a day, evenly spread. What the worker would read and write in a day.
    async fn active(&self) {
        const SECONDS: u64 = 240;
        const A_DAY: u64 = 300 * 30 * 2; // joins and leaves
        let database = libsql::Builder::new_local(self.file()).build().await.unwrap();
        let books = database.connect().unwrap();
        books.busy_timeout(Duration::from_secs(10)).unwrap();
        let kept = "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at, expires_at) \
                    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30) \
                    SELECT id, 'chime_minutes', 'kept' || i, 1, unixepoch() - i * 2000, unixepoch() - i * 2000 + 600, unixepoch() \
                    FROM (SELECT id FROM customers ORDER BY id LIMIT 300), n";
        books.execute(kept, ()).await.unwrap();
        self.server.faults().slow(ROUND_TRIP);
        let mut worker = self.command("work --listen off --log error").stdout(Stdio::null()).spawn().unwrap();
        // its first ticks, and those who became due above, until nothing is under way: what jobs
        // of a day or an hour cost is in rows of their own
        tokio::time::sleep(Duration::from_secs(60)).await;
        let open = "SELECT (SELECT count(*) FROM jobs WHERE state NOT IN ('done', 'dead', 'cancelled')) \
                    + (SELECT count(*) FROM stripe_due WHERE due_at <= unixepoch())";
        for _ in 0..900 {
            let mut rows = books.query(open, ()).await.unwrap();
            if rows.next().await.unwrap().unwrap().get::<i64>(0).unwrap() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.server.reset_counts();
        let events = A_DAY * SECONDS / 86_400;
        for n in 0..events {
            let sql = if n % 2 == 0 {
                "INSERT INTO measurements (customer, meter, id, level, started_at, expires_at) \
                 SELECT id, 'chime_minutes', 'now', 1, unixepoch(), unixepoch() + 86400 FROM customers ORDER BY id LIMIT 1 OFFSET ?1"
            } else {
                "UPDATE measurements SET ended_at = unixepoch() WHERE id = 'now' AND meter = 'chime_minutes' \
                 AND customer = (SELECT id FROM customers ORDER BY id LIMIT 1 OFFSET ?1)"
            };
            books.execute(sql, [n as i64 / 2]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(SECONDS * 1000 / events)).await;
        }
        let counts = self.server.counts();
        for of in self.server.dearest(20) {
            let StatementCounts { sql, executed, rows_read, rows_written } = of;
            eprintln!("{executed} times, {rows_read} read, {rows_written} written: {sql}");
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        let counts = a_day(counts, Duration::from_secs(SECONDS));
        row("worker with 300 active customers, a day", 86_400.0, counts);
    }
}

/// What was counted for a while, in a day.
fn a_day(counts: Counts, of: Duration) -> Counts {
    let a_day = |n: u64| n * 86_400 / of.as_secs();
    Counts {
        requests: a_day(counts.requests),
        connections: a_day(counts.connections),
        bytes_up: a_day(counts.bytes_up),
        bytes_down: a_day(counts.bytes_down),
        statements: a_day(counts.statements),
        rows_read: a_day(counts.rows_read),
        rows_written: a_day(counts.rows_written),
        ..counts
    }
}

fn row(title: &str, seconds: f64, c: Counts) {
    let mb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
    println!(
        "| {title} | {seconds:.2} | {} / {} | {} / {} | {} / {} | {} |",
        c.requests,
        c.connections,
        mb(c.bytes_up),
        mb(c.bytes_down),
        c.rows_read,
        c.rows_written,
        c.longest_write.as_millis()
    );
}

fn start() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("meter.toml"), "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n").unwrap();
    let meter = std::env::var_os("METER").map_or_else(|| env!("CARGO_BIN_EXE_meter").into(), PathBuf::from);
    let server = HranaServer::start(&folder.path().join("served.db"));
    server.allow_long_transactions();
    let options = Options { key: "sk_test_bench".into(), remember_requests: false, ..Options::default() };
    let (send, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            send.send(FakeStripe::start(options).await.unwrap()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let stripe = started.recv().unwrap();
    stripe.world().add_meter(METER);
    Bench { folder, meter, server, stripe }
}

fn customers(bench: &Bench, ids: &[String], file: &Path) {
    let mut csv = "id,plan,stripe_customer_id,status\n".to_owned();
    for id in ids {
        bench.stripe.world().add_customer(&format!("cus_{id}"));
        csv += &format!("{id},core,cus_{id},active\n");
    }
    std::fs::write(file, csv).unwrap();
}

fn main() {
    let bench = start();
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let month = format!("{:04}-{:02}", today.year(), today.month());
    let ingest = format!("ingest --month {month}");
    let yesterday = today.yesterday().unwrap().max(today.first_of_month());
    println!("| command | s | requests / connections | MB up / down | rows read / written | longest write ms |");
    println!("|---|---:|---:|---:|---:|---:|");
    bench.measure("`migrate`", "migrate");
    let ids = bench.deliver(yesterday, 0);
    bench.measure("`ingest`, first", &ingest);
    bench.deliver(yesterday, 1);
    bench.measure("`ingest`, restated", &ingest);
    bench.measure("`ingest`, unchanged", &ingest);
    customers(&bench, &ids, &bench.folder.path().join("customers.csv"));
    bench.measure("`customer import`, 5,000", "customer import customers.csv");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bench.subscribe());
    bench.measure("`roll-periods`, first", "run roll_periods");
    bench.measure("`roll-periods`, nothing", "run roll_periods");
    bench.measure("`enforce-budgets`, all new", "run enforce_budgets");
    bench.measure("`enforce-budgets`, nothing changed", "run enforce_budgets");
    bench.deliver(today, 1);
    bench.measure("`ingest`, a day more", &ingest);
    bench.measure("`enforce-budgets`, all changed", "run enforce_budgets");
    bench.measure("`status` without a worker", "status");
    bench.measure("`verify`", "verify");
    bench.idle();
    bench.measure("`push`, planned and sent", "push");
    // the month before is settled
    bench.deliver(today.first_of_month().yesterday().unwrap(), 0);
    bench.command("ingest").output().unwrap();
    bench.measure("`push` of the month before", "push");
    runtime.block_on(bench.active());
    eprintln!("{:?}", bench.stripe.world().counts());
}
