//! A big bill, ingested to totals, beside DuckDB on the same files: wall time, processor time, peak
//! memory, and the same answer.
//!
//! `cargo bench --bench ingest` makes the bills once (10 files of 1,000,000 rows and 120 columns,
//! legacy and CUR 2.0) and runs both programs in turns. `METER_TEST_BILLS` names a folder with
//! other bills (`legacy/` and `cur2/` in it); `METER_TEST_PYTHON` names the Python that has DuckDB,
//! without it only meter is measured.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use fake_aws::{Layout, Spec};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const ROUNDS: usize = 5;
const METERS: [&str; 3] = ["chime_minutes", "storage_gb", "transfer_gb"];

const DUCKDB: &str = "
import duckdb, glob, sys
layout, folder = sys.argv[1:]
files = sorted(glob.glob(folder + '/**/*.parquet', recursive=True))
duckdb.sql('SET threads = 2')
tag = 'resource_tags_user_chitchatter_customer_id' if layout == 'legacy' else \"resource_tags['user_chitchatter_customer_id']\"
print('|'.join(duckdb.execute(f'''
  SELECT sum(q) FILTER (meter = 'chime_minutes')::VARCHAR, sum(q) FILTER (meter = 'storage_gb')::VARCHAR, sum(q) FILTER (meter = 'transfer_gb')::VARCHAR FROM (
    SELECT tag, meter, day, sum(amount) AS q FROM (
      SELECT {tag} AS tag, date_trunc('day', line_item_usage_start_date) AS day, CAST(line_item_usage_amount AS DECIMAL(38,10)) AS amount,
        CASE WHEN line_item_product_code = 'AmazonChime' AND line_item_usage_type LIKE '%AttendeeMinutes' THEN 'chime_minutes'
             WHEN line_item_product_code = 'AmazonS3' AND line_item_usage_type LIKE '%TimedStorage%ByteHrs' THEN 'storage_gb'
             WHEN line_item_product_code = 'AmazonS3' AND line_item_usage_type LIKE '%DataTransfer-Out-Bytes' THEN 'transfer_gb' END AS meter
      FROM read_parquet(?, union_by_name = true)
      WHERE line_item_line_item_type IN ('Usage', 'DiscountedUsage', 'SavingsPlanCoveredUsage') AND line_item_product_code IN ('AmazonChime', 'AmazonS3'))
    WHERE meter IS NOT NULL AND tag IS NOT NULL AND tag <> '' GROUP BY tag, meter, day)''', [files]).fetchone()))
";

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
    rss_mib: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // a process measures the children of its own, so each run gets a process around it
    if arguments.get(1).is_some_and(|a| a == "--around") {
        return around(&arguments[2..]);
    }
    let folder = std::env::var_os("METER_TEST_BILLS").map_or_else(make, PathBuf::from);
    let python = std::env::var_os("METER_TEST_PYTHON").map(PathBuf::from);
    println!(
        "| bill | program | wall s | CPU s | peak MiB | wall ratio | CPU ratio |\n|---|---|---:|---:|---:|---:|---:|"
    );
    for layout in ["legacy", "cur2"] {
        compare(layout, &folder.join(layout), python.as_deref());
    }
}

fn make() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bills");
    for (name, layout) in [("legacy", Layout::Legacy), ("cur2", Layout::Cur2)] {
        if !folder.join(name).exists() {
            eprintln!("making 10 files of 1,000,000 rows: {name}");
            let start = Instant::now();
            let spec = Spec { layout, rows: 10_000_000, files: 10, customers: 5000, ..Spec::default() };
            fake_aws::write(&folder.join(name), &spec).unwrap();
            eprintln!("made in {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    folder
}

fn compare(layout: &str, bill: &Path, python: Option<&Path>) {
    let work = tempfile::tempdir().unwrap();
    let config = work.path().join("meter.toml");
    let text =
        format!("[[exports]]\nname = \"bench\"\nlocation = {:?}\n[read]\nparallel = 2\n", bill.display().to_string());
    std::fs::write(&config, text).unwrap();
    let meter = env!("CARGO_BIN_EXE_meter");
    let config = config.display().to_string();
    let in_work = |name: &str| work.path().join(name).display().to_string();
    let database = in_work("meter.db");
    let ours = |rest: &str| {
        let mut line = vec![meter.to_owned(), "--config".into(), config.clone()];
        line.extend(rest.split(' ').map(str::to_owned));
        line
    };
    run(&ours("migrate"), &database);
    let (mut mine, mut theirs, mut answers) = (vec![], vec![], (vec![], vec![]));
    for _ in 0..ROUNDS {
        let (cost, out) = run(&ours("ingest --month 2026-10 --dry-run --json"), &database);
        mine.push(cost);
        answers.0 = totals(&out);
        if let Some(python) = python {
            let line =
                [&python.display().to_string(), "-c", DUCKDB, layout, &bill.display().to_string()].map(str::to_owned);
            let (cost, out) = run(&line, &database);
            theirs.push(cost);
            answers.1 = out.trim().split('|').map(plain).collect();
        }
    }
    let (mine, theirs) = (best(&mine), best(&theirs));
    let row = |name: &str, c: Cost, base: Option<Cost>| {
        let ratio = |mine: f64, of: fn(&Cost) -> f64| base.map_or("".into(), |b| format!("{:.2}", mine / of(&b)));
        println!(
            "| {layout} | {name} | {:.2} | {:.2} | {:.0} | {} | {} |",
            c.wall,
            c.cpu,
            c.rss_mib,
            ratio(c.wall, |c| c.wall),
            ratio(c.cpu, |c| c.cpu)
        );
    };
    match theirs {
        Some(theirs) => {
            row("DuckDB", theirs, None);
            row("meter", mine.unwrap(), Some(theirs));
            assert_eq!(answers.0, answers.1, "the answers differ");
            println!("| | the same answer | {} | | | | |", answers.0.join(" / "));
        }
        None => row("meter", mine.unwrap(), None),
    }
    // and what a user waits for: booked, then booked again
    let (cost, _) = run(&ours("ingest --month 2026-10"), &database);
    row("meter, booked on disk", cost, theirs);
    let (cost, _) = run(&ours("ingest --month 2026-10"), &database);
    row("meter, nothing new", cost, theirs);
}

/// The run with the least of each cost: what is above it is the machine's noise.
fn best(costs: &[Cost]) -> Option<Cost> {
    let least = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = costs.iter().map(|c| c.rss_mib).fold(0.0, f64::max);
    (!costs.is_empty()).then(|| Cost { wall: least(|c| c.wall), cpu: least(|c| c.cpu), rss_mib: most })
}

fn totals(json: &str) -> Vec<String> {
    let reports: serde_json::Value = serde_json::from_str(json).unwrap();
    let meters = reports[0]["meters"].as_array().unwrap_or_else(|| panic!("{json}"));
    let of =
        |name: &str| meters.iter().find(|m| m["meter"] == name).unwrap()["attributed"].as_str().unwrap().to_owned();
    METERS.map(of).to_vec()
}

/// A decimal without zeros at its end.
fn plain(text: &str) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// Runs a program in a process of its own that measures it.
fn run(line: &[String], database: &str) -> (Cost, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.arg("--around").args(line).env("METER_DATABASE__URL", database).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{line:?}: {err}\n{out}");
    let cost = err.lines().last().unwrap();
    let cost: Vec<f64> = cost.split(' ').map(|n| n.parse().unwrap()).collect();
    (Cost { wall: cost[0], cpu: cost[1], rss_mib: cost[2] }, out)
}

fn around(line: &[String]) {
    let start = Instant::now();
    let status = Command::new(&line[0]).args(&line[1..]).status().unwrap();
    let wall = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let cpu = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
    eprintln!("{wall} {cpu} {}", usage.max_rss() as f64 / 1024.0);
    std::process::exit(status.code().unwrap_or(1));
}
