//! Entitlements: deciding for all customers, rolling all TURN counters over, and the statements of
//! the web backend, with 1,000, 10,000 and 100,000 customers, three meters of bills and a month of
//! daily usage each.
//!
//! `cargo bench --bench entitlements` prints a table. Each row is a process of its own on a local
//! file with `synchronous = FULL`, whose peak memory is taken from the kernel. The peer is the
//! least that anything on this database must do: one SQL statement that sums the same usage by
//! customer and meter.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use books::Database;
use books::measured::accrual::Accrues;
use books::measured::policy::MeasuredMeter;
use books::store::connection::params;
use books::store::database::Durability;
use books::units::calendar::Month;
use books::usage::meter::{Meter, Rules};
use jiff::Timestamp;
use jobs::context::{Context, EnforcementSettings, MeasuringSettings, ReadSettings};
use jobs::enforce_budgets::{EnforceBudgets, enforce};
use jobs::job::{Job, Mode};
use jobs::roll_periods::roll;

const METERS: [&str; 3] = ["chime_minutes", "storage_gb", "transfer_gb"];
const ASKED: usize = 20_000;

fn context(books: Database) -> Context {
    let meter = |name: &&str| Meter {
        name: (*name).into(),
        unit: "units".into(),
        products: vec![],
        usage_types: vec![],
        line_types: [].into(),
        factor: "1".parse().unwrap(),
    };
    let rules = Rules {
        tag_keys: vec!["t".into()],
        meters: METERS.iter().map(meter).collect(),
        ignore: vec![],
        watched: vec![],
        shared_buckets: vec![],
        costs: vec![],
    };
    let read_settings = ReadSettings::new(rules);
    let enforcement = Arc::new(EnforcementSettings::default());
    Context {
        books,
        exports: Arc::new(BTreeMap::new()),
        shared_buckets: Arc::default(),
        read_settings,
        enforcement,
        measuring: Arc::new(MeasuringSettings {
            meters: vec![MeasuredMeter::new("chime_minutes", Accrues::AttendeeMinutes, 86_400, 1)],
            ..MeasuringSettings::default()
        }),
        webhook: None,
        operator: Arc::default(),
        billing: Arc::default(),
    }
}

/// Noon of the month's last day, so that a whole month of usage counts.
fn noon() -> Timestamp {
    let end = Month::of(Timestamp::now()).next().first_day();
    Timestamp::from_second(i64::from(end.epoch()) * 86_400 - 43_200).unwrap()
}

async fn open(file: &Path, durability: Durability) -> Database {
    let books = Database::open_local_with(file, durability).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    books
}

/// Customers with 500 TURN allocations, three priced meters and usage on each day of the month;
/// every tenth has a budget.
async fn fill(file: &Path, customers: i64) {
    let books = open(file, Durability::Normal).await;
    let run = async |sql: String| books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    for meter in METERS {
        run(format!("INSERT INTO plan_meters VALUES ('core', 0, '{meter}', 1000000000000, '0.0045', 'overage')")).await;
    }
    // one customer in ten uses about 150 a month of each, and has a budget for the 50 beyond; most
    // use far less than the 100
    let numbers =
        |n: i64| format!("WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {n} - 1)");
    run(format!("INSERT INTO customers (id) {} SELECT printf('customer-%08d', i) FROM n", numbers(customers))).await;
    run("INSERT INTO overage_budgets (customer, meter, amount_minor, currency, set_by) \
         SELECT id, '', 500, 'USD', 'bench' FROM customers WHERE id LIKE '%9'"
        .into())
    .await;
    // in the order of the keys, which is how SQLite takes nine million rows in seconds
    let month = Month::of(Timestamp::now());
    let days: Vec<String> = (month.first_day().epoch()..=month.last_day().epoch())
        .map(|day| books::units::calendar::Day::from_epoch(day).unwrap().to_string())
        .collect();
    let (meters, days) = (serde_json::to_string(&METERS).unwrap(), serde_json::to_string(&days).unwrap());
    let entries = format!(
        "SELECT c.id, m.value, d.value, 1000000000 + abs(random() % (10000000000 * (1 + substr(c.id, -1, 1)))), 'usage' \
         FROM customers c CROSS JOIN json_each('{meters}') m CROSS JOIN json_each('{days}') d"
    );
    for sql in testkit::usage::bookings(&format!("'{month}'"), &entries) {
        run(sql).await;
    }
    books.checkpoint().await.unwrap();
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

async fn count(books: &Database, sql: &'static str) -> i64 {
    books.with_connection(async move |c| Ok(c.query(sql, ()).await?.next().await?.unwrap().get(0)?)).await.unwrap()
}

/// The statements of the contract page.
fn statement(name: &str) -> String {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backend-contract.md")).unwrap();
    let block = page.split(&format!("<!-- statement: {name} -->\n```sql\n")).nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// Milliseconds of each of many statements, sorted.
async fn ask(books: &Database, name: &str, customers: i64) -> Vec<f64> {
    let sql = statement(name);
    let name = name.to_owned();
    let times = books.with_connection(async move |c| {
        let mut times = vec![];
        for i in 0..ASKED {
            let who = format!("customer-{:08}", (i as i64).wrapping_mul(7_919) % customers);
            let start = Instant::now();
            let mut rows = match name.as_str() {
                "take_turn" => c.query(&sql, params![who, None::<i64>]).await?,
                "may_use" => c.query(&sql, params![who, "chime_minutes", None::<i64>]).await?,
                _ => c.query(&sql, params![who, "", 700, "USD", "bench"]).await?,
            };
            assert!(rows.next().await?.is_some());
            while rows.next().await?.is_some() {}
            drop(rows);
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(times)
    });
    let mut times: Vec<f64> = times.await.unwrap();
    times.sort_by(f64::total_cmp);
    times
}

/// One measurement, in a process of its own: prints `seconds peak_mib note`.
async fn child(what: &str, file: &Path, customers: i64) {
    let books = open(file, Durability::Full).await;
    let context = context(books.clone());
    let start = Instant::now();
    let note = match what {
        "sum" => {
            let sql = "SELECT count(*) FROM (SELECT customer, meter, sum(quantity) FROM booked_usage \
                       GROUP BY customer, meter)";
            format!("{} sums", count(&books, sql).await)
        }
        "first" | "none" | "all" | "one" | "day" | "running" | "run on" => {
            let before = count(&books, "SELECT total_changes()").await;
            let report = match what {
                "all" => enforce(&context, noon(), Mode::Write).await.unwrap(),
                _ => EnforceBudgets::default().run(&context, noon()).await.unwrap(),
            };
            let rows = count(&books, "SELECT total_changes()").await - before;
            let looked_at = match what {
                "none" | "run on" => 0,
                "one" => 1,
                _ => customers,
            };
            // where uses run, the instant of a few is this second, or that of a page's lease
            let few = if matches!(what, "running" | "run on") { 20 + customers / 50 } else { 0 };
            let found = report.customers as i64;
            assert!((looked_at..=looked_at + few).contains(&found), "{found} customers instead of {looked_at}");
            assert_eq!(report.missed, 0);
            assert!(what != "none" || rows == 1, "it writes that it ran");
            format!("{} customers changed, {rows} rows written, {} notifications", report.changed, report.notifications)
        }
        "open" | "roll" => {
            let report = roll(&books, Timestamp::now(), Mode::Write).await.unwrap();
            format!("{} closed, {} opened", report.closed, report.opened)
        }
        statement => {
            let times = ask(&books, statement, customers).await;
            let at = |share: usize| times[(times.len() - 1) * share / 1000];
            println!(
                "{:.4} {:.0} p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms",
                at(990) / 1000.0,
                peak_mib(),
                at(500),
                at(990),
                at(999)
            );
            return;
        }
    };
    println!("{:.3} {:.0} {note}", start.elapsed().as_secs_f64(), peak_mib());
}

/// Moves all periods back by a month, so that a month is over for every customer, and two more
/// stand open.
async fn age(file: &Path) {
    let books = open(file, Durability::Normal).await;
    let bounds = "starts_at = unixepoch(starts_at, 'unixepoch', '-1 month'), ends_at = unixepoch(ends_at, 'unixepoch', '-1 month')";
    let days = "first_day = date(first_day, '-1 month'), last_day = date(ends_at, 'unixepoch', '-1 month', '-1 day')";
    for sql in [
        format!("UPDATE turn_periods SET {bounds}, used = 100"),
        format!("UPDATE billing_periods SET {bounds}, {days}"),
    ] {
        books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    }
    books.checkpoint().await.unwrap();
}

async fn a_day_more(file: &Path) {
    let books = open(file, Durability::Normal).await;
    let entries = "SELECT customer, meter, day, 10000000000, 'adjustment' FROM ledger_entries \
                   WHERE meter = 'chime_minutes' AND day = (SELECT max(day) FROM ledger_entries) AND booking_id = 1";
    for sql in testkit::usage::bookings("strftime('%Y-%m', 'now')", entries) {
        books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    }
    books.checkpoint().await.unwrap();
}

async fn execute(file: &Path, sql: String) {
    let books = open(file, Durability::Normal).await;
    books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    books.checkpoint().await.unwrap();
}

/// The first customer gets another budget.
async fn a_budget(file: &Path) {
    let sql = "UPDATE overage_budgets SET amount_minor = 400 WHERE customer = 'customer-00000009'";
    execute(file, sql.into()).await;
}

/// An attendee of each customer joins.
async fn meetings(file: &Path) {
    let sql = "INSERT INTO measurements (customer, meter, id, level, started_at, expires_at) \
               SELECT id, 'chime_minutes', 'a', 1, unixepoch() - 60, unixepoch() + 86400 FROM customers";
    execute(file, sql.into()).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|a| a == "--child") {
        let (what, file, customers) = (&args[at + 1], Path::new(&args[at + 2]), args[at + 3].parse().unwrap());
        return runtime.block_on(child(what, file, customers));
    }
    println!("| customers | what | s | peak MiB | |\n|---:|---|---:|---:|---|");
    let sizes: Vec<i64> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 10_000, 100_000] } else { sizes };
    for customers in sizes {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meter.db");
        runtime.block_on(fill(&file, customers));
        let run = |what: &str, title: &str| {
            let exe = std::env::current_exe().unwrap();
            let out = Command::new(exe)
                .args(["--child", what, file.to_str().unwrap(), &customers.to_string()])
                .output()
                .unwrap();
            assert!(out.status.success(), "{what}: {}", String::from_utf8_lossy(&out.stderr));
            let out = String::from_utf8(out.stdout).unwrap();
            let (seconds, rest) = out.trim().split_once(' ').unwrap();
            let (peak, note) = rest.split_once(' ').unwrap();
            println!("| {customers} | {title} | {seconds} | {peak} | {note} |");
        };
        run("open", "`roll_periods`: periods of new customers opened");
        run("sum", "peer: one SQL sum over the same usage");
        run("first", "`enforce_budgets`, first run: everything is new");
        run("none", "`enforce_budgets`, nobody is due");
        run("all", "`enforce_budgets` of everybody, nothing changed");
        runtime.block_on(a_budget(&file));
        run("one", "`enforce_budgets`, one customer is due");
        runtime.block_on(a_day_more(&file));
        run("day", "`enforce_budgets`, usage of all changed");
        runtime.block_on(meetings(&file));
        run("running", "`enforce_budgets`, a use of each customer begins to run");
        run("run on", "`enforce_budgets`, all these run, and at most a few are due");
        for name in ["take_turn", "may_use", "set_budget"] {
            run(name, &format!("backend: {name} (s is p99)"));
        }
        runtime.block_on(age(&file));
        run("roll", "`roll_periods`: a month is over for all");
    }
}
