//! A scrape of `/metrics` with 100,000 customers: how long Prometheus waits for it, and how long
//! the snapshot behind it takes, which is what each scrape would cost if it asked the database
//! itself.
//!
//! `cargo bench --bench scrape` starts the worker on books of 100,000 customers, four entitlements,
//! three TURN periods and two of Stripe's totals and events each, 30,000 finished jobs and 35 days
//! of usage, and scrapes it 500 times.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use books::Database;
use books::store::database::Durability;
use jiff::Timestamp;

const CUSTOMERS: i64 = 100_000;
const SCRAPES: usize = 500;

async fn fill(file: &Path) {
    let books = Database::open_local_with(file, Durability::Normal).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    let run = async |sql: String| books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    let numbers =
        |n: i64| format!("WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {n} - 1)");
    run(format!("INSERT INTO customers (id) {} SELECT printf('customer-%08d', i) FROM n", numbers(CUSTOMERS))).await;
    let meters = "json_each('[\"chime_minutes\",\"storage_gb\",\"transfer_gb\",\"turn_allocations\"]')";
    run(format!(
        "INSERT INTO entitlements (customer, meter, period_start, period_end, allowed, reason, used, included, effective_limit, \
           overage_cost_minor, meter_cost_minor, budget_minor, currency, freshness, decided_at) \
         SELECT c.id, m.value, 0, 1, abs(c.rowid) % 50 > 0, iif(abs(c.rowid) % 50 > 0, 'within_included', 'no_budget'), \
           abs(random()) % 900, 500, 1000, 0, 0, 0, 'USD', 'fresh', 1 FROM customers c CROSS JOIN {meters} m"
    ))
    .await;
    for meter in ["chime_minutes", "storage_gb"] {
        run(format!("INSERT INTO stripe_meters VALUES ('{meter}', 'e_{meter}', '1000', 'mtr_{meter}', 0)")).await;
        run(format!(
            "INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, deferred, deferred_reason, deferred_since, seen, expected) \
             SELECT id, '{meter}', 0, 1, 'core', 5, iif(rowid % 100 = 0, 3, 0), iif(rowid % 100 = 0, 'no_item', NULL), \
               iif(rowid % 100 = 0, unixepoch() - 60, NULL), 5, 5 FROM customers"
        ))
        .await;
        run(format!(
            "INSERT INTO meter_events (identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, \
               timestamp, send_before, state, next_at, created_at) \
             SELECT 'x-' || (rowid + (SELECT coalesce(max(seq), 0) FROM meter_events)), id, '{meter}', 0, 0, 9, 'cus', 'e', 5, 1, 9, \
               iif(rowid % 20 = 0, 'pending', 'accepted'), iif(rowid % 20 = 0, 5, NULL), 1 FROM customers ORDER BY rowid"
        ))
        .await;
    }
    run(format!(
        "INSERT INTO jobs (id, kind, payload, state, origin, max_attempts, attempts, lease, report, enqueued_at, started_at, finished_at) \
         {} SELECT printf('%026d', i), 'deliver_notifications', '{{}}', 'done', 'bench', 20, 1, 1, '{{\"retried\":0}}', 1, 1, \
         unixepoch() * 1000 - i FROM n",
        numbers(30_000)
    ))
    .await;
    run("INSERT INTO usage_totals (meter, day, attributed, units, rest) \
         SELECT m.value, date('now', '-' || d.value || ' days'), a.value, 123456, 789 \
         FROM json_each('[\"chime_minutes\",\"storage_gb\",\"transfer_gb\"]') m, \
           json_each((SELECT json_group_array(value) FROM (SELECT key AS value FROM json_each('[' || substr(replace(hex(zeroblob(36)), '00', ',0'), 2) || ']')))) d, \
           json_each('[0,1]') a"
        .into())
    .await;
    books.checkpoint().await.unwrap();
}

/// The worker, which does not outlive the bench.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn scrape(port: u16) -> Option<(f64, String)> {
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some((start.elapsed().as_secs_f64() * 1000.0, text))
}

fn gauge(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meter.db");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&file));
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let worker = Command::new(env!("CARGO_BIN_EXE_meter"))
        .current_dir(folder.path())
        .args(["work", "--no-schedule", "--kinds", "probe", "--listen", &format!("127.0.0.1:{port}")])
        .env("METER_HTTP__SNAPSHOT_SECONDS", "1")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let worker = Worker(worker);
    let start = Instant::now();
    let text = loop {
        assert!(start.elapsed() < Duration::from_secs(120), "no snapshot");
        match scrape(port) {
            Some((_, text)) if gauge(&text, "meter_snapshot_duration_seconds").is_some() => break text,
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let snapshot = gauge(&text, "meter_snapshot_duration_seconds").unwrap() * 1000.0;
    assert!(text.contains(&format!("meter_customers{{status=\"active\"}} {CUSTOMERS}")));
    let mut times: Vec<f64> = (0..SCRAPES)
        .map(|_| {
            // as often as it takes for several snapshots to be read meanwhile
            std::thread::sleep(Duration::from_millis(20));
            scrape(port).unwrap().0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{CUSTOMERS} customers, {} MiB of books, {} series",
        std::fs::metadata(&file).unwrap().len() >> 20,
        text.lines().filter(|l| !l.starts_with('#')).count()
    );
    println!(
        "scrape    p50 {:.1} ms   p99 {:.1} ms   max {:.1} ms   ({SCRAPES} scrapes; target: under 50 ms)",
        at(50),
        at(99),
        at(100)
    );
    println!(
        "snapshot  {snapshot:.0} ms, {:.0} times a scrape: what a scrape would take that asks the database",
        snapshot / at(50)
    );
    drop(worker);
}
