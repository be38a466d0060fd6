//! BillingSettings: planning and sending 200,000 events (100,000 customers, two meters each) at
//! 1,000 a second, and a run with nothing to do.
//!
//! `cargo bench --bench billing` prints a table. The fake Stripe is a process of its own that takes
//! 1,000 events a second and refuses more; ours is another, on a local file with `synchronous =
//! FULL`, whose peak memory is taken from the kernel. The peer is the limit itself.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use books::Database;
use books::store::database::Durability;
use books::usage::meter::Rules;
use fake_stripe::{FakeStripe, Options};
use jiff::Timestamp;
use jobs::context::{Context, EnforcementSettings, ReadSettings};
use jobs::job::Mode;
use jobs::push_stripe::push;
use jobs::roll_periods::roll;
use meter::config::Config;

const METERS: [&str; 2] = ["chime_minutes", "storage_gb"];
const RATE: u32 = 1000;

/// The fake's process: prints its address, and what it counted when its input ends.
async fn serve(customers: usize) {
    let options = Options {
        key: "sk_test_bench".into(),
        events_per_second: Some(RATE + RATE / 50),
        remember_requests: false,
        ..Options::default()
    };
    let stripe = FakeStripe::start(options).await.unwrap();
    for meter in METERS {
        stripe.world().add_meter(meter);
    }
    for n in 0..customers {
        stripe.world().add_customer(&format!("cus_{n:08}"));
    }
    println!("{}", stripe.url());
    std::io::stdout().flush().unwrap();
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut vec![])).await.unwrap().unwrap();
    println!("{:?}", stripe.world().counts());
}

async fn open(file: &Path) -> Database {
    let books = Database::open_local_with(file, Durability::Full).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    books
}

/// Customers with subscriptions since ten days ago, and usage of yesterday on both meters.
async fn fill(file: &Path, customers: usize) {
    let books = Database::open_local_with(file, Durability::Normal).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    let numbers = format!("WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {customers} - 1)");
    let statements = [
        "INSERT INTO plan_meters VALUES ('core', 0, 'chime_minutes', 0, '0.0045', 'total')".to_owned(),
        "INSERT INTO plan_meters VALUES ('core', 0, 'storage_gb', 0, '0.05', 'total')".to_owned(),
        format!("INSERT INTO customers (id, stripe_customer_id) {numbers} SELECT printf('customer-%08d', i), printf('cus_%08d', i) FROM n"),
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) \
         SELECT 'sub_' || id, id, 'active', unixepoch() - 864000, unixepoch() - 864000 FROM customers"
            .to_owned(),
        "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) \
         SELECT 'si_' || m.value || customers.id, 'sub_' || customers.id, customers.id, m.value, 'price', 'USD', 0, 0 \
         FROM customers, json_each('[\"mtr_test_fake0000000001\",\"mtr_test_fake0000000002\"]') m"
            .to_owned(),
    ];
    let entries = "SELECT customers.id, m.value, date('now', '-1 day'), 12345678901, 'usage' \
                   FROM customers, json_each('[\"chime_minutes\",\"storage_gb\"]') m";
    for sql in statements.into_iter().chain(testkit::usage::bookings("'2026-01'", entries)) {
        books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    }
    roll(&books, Timestamp::now(), Mode::Write).await.unwrap();
    books.checkpoint().await.unwrap();
}

fn context(books: Database, url: &str) -> Context {
    let mut variables = vec![
        ("METER_STRIPE__URL".to_owned(), url.to_owned()),
        ("METER_STRIPE__KEY".to_owned(), "sk_test_bench".to_owned()),
        ("METER_STRIPE__PER_SECOND".to_owned(), RATE.to_string()),
        ("METER_STRIPE__MAX_CONCURRENT".to_owned(), "32".to_owned()),
    ];
    for meter in METERS {
        let name = format!("METER_STRIPE__METERS__{}", meter.to_uppercase());
        variables.push((format!("{name}__EVENT_NAME"), meter.to_owned()));
        variables.push((format!("{name}__PER_UNIT"), "\"1000\"".to_owned()));
    }
    let config = Config::load(None, variables.into_iter()).unwrap();
    let rules = Rules {
        tag_keys: vec!["t".into()],
        meters: vec![],
        ignore: vec![],
        watched: vec![],
        shared_buckets: vec![],
        costs: vec![],
    };
    Context {
        books,
        exports: Arc::new(BTreeMap::new()),
        shared_buckets: Arc::default(),
        read_settings: ReadSettings::new(rules),
        enforcement: Arc::new(EnforcementSettings::default()),
        measuring: Arc::default(),
        webhook: None,
        operator: Arc::default(),
        billing: Arc::new(meter::wiring::billing(&config.stripe).unwrap()),
    }
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

async fn work(file: &Path, url: &str) {
    let (books, watch) = (open(file).await, open(file).await);
    let context = context(books, url);
    let started = Instant::now();
    let planned = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let due = "SELECT (SELECT count(*) FROM stripe_due) + (SELECT count(*) = 0 FROM meter_events)";
            let left: i64 = watch
                .with_connection(async move |c| Ok(c.query(due, ()).await?.next().await?.unwrap().get(0)?))
                .await
                .unwrap();
            if left == 0 {
                return started.elapsed();
            }
        }
    };
    let (report, planned) = futures::join!(push(&context.books, &context.billing, Timestamp::now()), planned);
    let (report, all) = (report.unwrap(), started.elapsed());
    let sending = all - planned;
    println!(
        "| plan {} events | {:.2} s | {:.0} events a second |",
        report.planned,
        planned.as_secs_f64(),
        report.planned as f64 / planned.as_secs_f64()
    );
    let rate = report.accepted as f64 / sending.as_secs_f64();
    println!(
        "| send {} events, {} accepted, {} again | {:.1} s | {rate:.0} a second, {:.1} % of the limit |",
        report.attempts,
        report.accepted,
        report.retried,
        sending.as_secs_f64(),
        rate / f64::from(RATE) * 100.0
    );
    let started = Instant::now();
    let idle = push(&context.books, &context.billing, Timestamp::now()).await.unwrap();
    println!("| nothing due: {} events | {:.4} s | |", idle.planned, started.elapsed().as_secs_f64());
    println!("| peak memory | {:.0} MiB | |", peak_mib());
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(at) = args.iter().position(|a| a == "serve") {
        return runtime.block_on(serve(args[at + 1].parse().unwrap()));
    }
    if let Some(at) = args.iter().position(|a| a == "work") {
        return runtime.block_on(work(Path::new(&args[at + 1]), &args[at + 2]));
    }
    let own = std::env::current_exe().unwrap();
    let customers: usize = std::env::var("METER_BENCH_CUSTOMERS").map_or(100_000, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meter.db");
    runtime.block_on(fill(&file, customers));
    let mut server = Command::new(&own)
        .args(["serve", &customers.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap());
    let mut url = String::new();
    said.read_line(&mut url).unwrap();
    println!(
        "{customers} customers, {} meters each, {RATE} events a second allowed\n\n| what | | |\n|---|---:|---|",
        METERS.len()
    );
    assert!(Command::new(&own).arg("work").arg(&file).arg(url.trim()).status().unwrap().success());
    drop(server.stdin.take());
    let mut counts = String::new();
    said.read_to_string(&mut counts).unwrap();
    server.wait().unwrap();
    println!("\nthe fake counted: {}", counts.trim());
}
