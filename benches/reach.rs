//! From the commit of a measurement to the block that `may_use` answers with.
//!
//! `cargo bench --bench reach` runs `meter work`, or the program that `METER` names, on a local
//! file and over the test server with round trips of 20 ms. Ticks of the schedule are a year apart,
//! so that none of them decides by chance. For each of 20 customers it commits a report that spends
//! what is included, and asks until the answer is no, each time after a pause in which the worker
//! has nothing to do. It prints the median and the longest time.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds, no money")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libsql::{Connection, Value};
use testkit::hrana::HranaServer;

const CUSTOMERS: usize = 20;

fn statement(name: &str) -> String {
    let page = include_str!("../docs/backend-contract.md");
    let (_, rest) = page.split_once(&format!("<!-- statement: {name} -->\n```sql\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

async fn is_allowed(books: &Connection, sql: &str, customer: &str) -> Option<i64> {
    let values = [Value::from(customer), "chime_minutes".into(), Value::Null];
    let row = books.query(sql, values).await.unwrap().next().await.unwrap().unwrap();
    // a decision, not the plan
    (row.get::<String>(1).unwrap() != "not_decided").then(|| row.get(0).unwrap())
}

/// Seconds of each block.
async fn blocks(file: &Path, pause: Duration) -> Vec<f64> {
    let database = libsql::Builder::new_local(file).build().await.unwrap();
    let books = database.connect().unwrap();
    books.busy_timeout(Duration::from_secs(10)).unwrap();
    let (ask, report) = (statement("may_use"), statement("report_use"));
    let mut found = vec![];
    for n in 0..CUSTOMERS {
        let who = format!("customer-{n}");
        books.execute("INSERT INTO customers (id) VALUES (?1)", [who.clone()]).await.unwrap();
        while is_allowed(&books, &ask, &who).await != Some(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(pause + Duration::from_millis(137 * n as u64)).await;
        let values = [Value::from(who.clone()), "chime_minutes".into(), "r".into(), 6_000_000.into(), Value::Null];
        let mut rows = books.query(&report, values).await.unwrap();
        while rows.next().await.unwrap().is_some() {}
        let committed = Instant::now();
        while is_allowed(&books, &ask, &who).await == Some(1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        found.push(committed.elapsed().as_secs_f64());
    }
    found.sort_by(f64::total_cmp);
    found
}

#[tokio::main]
async fn main() {
    let meter = std::env::var_os("METER").unwrap_or_else(|| env!("CARGO_BIN_EXE_meter").into());
    println!("| database | p50 s | longest s |\n|---|---:|---:|");
    for (title, remote, pause) in
        [("a file, another process", false, 0), ("a server 20 ms away, idle worker", true, 10)]
    {
        let folder = tempfile::tempdir().unwrap();
        let schedules = ["roll_periods", "enforce_budgets", "roll_counters", "fold_measurements", "verify_books"];
        let schedules = schedules.map(|kind| format!("{kind} = [\"0 0 1 1 *\"]\n")).concat();
        std::fs::write(folder.path().join("meter.toml"), format!("[schedule]\n{schedules}")).unwrap();
        let file = folder.path().join("meter.db");
        let server = HranaServer::start(&folder.path().join("served.db"));
        let mut command = Command::new(&meter);
        command.current_dir(folder.path()).args(["work", "--listen", "off", "--log", "error"]).stdout(Stdio::null());
        if remote {
            server.faults().slow(Duration::from_millis(20));
            command.env("METER_DATABASE__URL", server.url());
        }
        let file = if remote { folder.path().join("served.db") } else { file };
        let mut worker = command.spawn().unwrap();
        tokio::time::sleep(Duration::from_secs(8)).await;
        let database = libsql::Builder::new_local(&file).build().await.unwrap();
        let plan = "INSERT INTO plan_meters VALUES ('core', 0, 'chime_minutes', 10000000000, '0.0045', 'overage')";
        database.connect().unwrap().execute(plan, ()).await.unwrap();
        let times = blocks(&file, Duration::from_secs(pause)).await;
        println!("| {title} | {:.2} | {:.2} |", times[times.len() / 2], times[times.len() - 1]);
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
}
