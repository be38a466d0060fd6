//! Measurements: the web backend's statements in batches, reading a customer's days, and folding.
//!
//! `cargo bench --bench measurements` prints a table, on a local file with `synchronous = FULL`.
//! Statements are those of docs/backend-contract.md, each parsed anew, as a backend sends them, or
//! prepared once. A batch is a transaction.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and rates, no money")]

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use books::Database;
use books::units::calendar::Day;
use jiff::Timestamp;
use libsql::Value;

const CUSTOMERS: i64 = 1000;
const DAY: i64 = 86_400;

fn statement(name: &str) -> String {
    let page = include_str!("../docs/backend-contract.md");
    let (_, rest) = page.split_once(&format!("<!-- statement: {name} -->\n```sql\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

fn customer(n: i64) -> Value {
    Value::Text(format!("customer-{:08}", n * 7919 % CUSTOMERS))
}

/// Reports starts or stops of `uses` in batches; returns how many a second.
async fn report(books: &Database, name: &'static str, uses: Range<i64>, batch: i64) -> f64 {
    let sql = statement(name);
    let day = Timestamp::now().as_second() / DAY * DAY - 2 * DAY;
    let (count, end) = (uses.end - uses.start, uses.end);
    let began = Instant::now();
    for first in uses.clone().step_by(usize::try_from(batch).unwrap()) {
        let sql = sql.clone();
        let batch = async move |c: &books::store::connection::Connection| {
            for n in first..(first + batch).min(end) {
                let id = Value::Text(format!("attendee-{n:012}"));
                let mut values = vec![customer(n), Value::Text("chime_minutes".into()), id];
                if name == "start_use" {
                    values.push(1.into());
                }
                values.push((day + n % DAY + if name == "start_use" { 0 } else { 1800 }).into());
                let mut rows = c.query(&sql, values).await?;
                while rows.next().await?.is_some() {}
            }
            Ok(())
        };
        books.transaction(batch).await.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// As [`report`] in batches of 1,000, by a backend that keeps the statement prepared.
async fn report_prepared(file: &Path, uses: Range<i64>) -> f64 {
    let connection = libsql::Builder::new_local(file).build().await.unwrap().connect().unwrap();
    let prepared = connection.prepare(&statement("start_use")).await.unwrap();
    let started_at = Timestamp::now().as_second() / DAY * DAY - 2 * DAY;
    let (count, end) = (uses.end - uses.start, uses.end);
    let began = Instant::now();
    for first in uses.step_by(1_000) {
        connection.execute("BEGIN IMMEDIATE", ()).await.unwrap();
        for n in first..(first + 1_000).min(end) {
            let id = format!("attendee-{n:012}");
            let values = vec![customer(n), "chime_minutes".into(), id.into(), 1.into(), (started_at + n % DAY).into()];
            let mut rows = prepared.query(values).await.unwrap();
            assert!(rows.next().await.unwrap().is_some() && rows.next().await.unwrap().is_none());
            prepared.reset();
        }
        connection.execute("COMMIT", ()).await.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meter.db");
    let books = Database::open_local(&file).await.unwrap();
    let now = Timestamp::now();
    books.migrate(now).await.unwrap();
    println!("| what | a second |\n|---|---:|");
    let reports = [
        ("start_use", 0..2_000, 1),
        ("start_use", 0..100_000, 100),
        ("start_use", 100_000..200_000, 1_000),
        ("stop_use", 0..100_000, 100),
        ("stop_use", 100_000..200_000, 1_000),
    ];
    for (name, uses, batch) in reports {
        println!("| `{name}`, batches of {batch} | {:.0} |", report(&books, name, uses, batch).await);
    }
    let prepared = report_prepared(&file, 200_000..300_000).await;
    println!("| `start_use`, batches of 1000, prepared once | {prepared:.0} |");
    let today = Day::from_epoch(i32::try_from(now.as_second() / DAY).unwrap()).unwrap();
    let from = Day::from_epoch(today.epoch() - 31).unwrap();
    println!("\n| what | ms |\n|---|---:|");
    let began = Instant::now();
    for n in 0..100 {
        let Value::Text(customer) = customer(n) else { continue };
        assert!(!books.measured(Some(customer), from, today, now).await.unwrap().is_empty());
    }
    println!("| a month of one customer, 300 measurements | {:.2} |", began.elapsed().as_secs_f64() * 10.0);
    let began = Instant::now();
    let days = books.measured(None, from, today, now).await.unwrap();
    println!("| a month of {CUSTOMERS} customers, {} days | {:.0} |", days.len(), began.elapsed().as_secs_f64() * 1e3);
    let began = Instant::now();
    let folded = books.fold_measurements(today).await.unwrap();
    println!("| folding {folded} measurements | {:.0} |", began.elapsed().as_secs_f64() * 1e3);
    let same = books.measured(None, from, today, now).await.unwrap();
    assert!(days.iter().map(|d| d.weight).eq(same.iter().map(|d| d.weight)), "folding changes no sum");
}
