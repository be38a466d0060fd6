//! Three S3 Inventories of a shared bucket, read to the byte-seconds of a day, beside DuckDB on the
//! same files: wall time, processor time, peak memory, and the same answer.
//!
//! `cargo bench --bench inventory` makes them once: one a night, each of 10,000,000 objects of
//! 5,000 customers, in Parquet; half of one night's objects are in the next. `METER_BENCH_OBJECTS`
//! is another number. `METER_TEST_PYTHON` names the Python that has DuckDB; without it only meter
//! is measured.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use books::Database;
use books::store::connection::Connection;
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::{Context, ReadLimits, ReadSettings, ReportPlace, SharedBucket};
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use jobs::shared_bucket::BucketReport;
use jobs::shared_bucket::customer::{CustomerRule, key_beginning};
use jobs::source::Folder;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};
use testkit::ingest_fixture::{TAG, rules};
use testkit::inventories::{BUCKET, Form, inventory};

const ROUNDS: usize = 3;
const CUSTOMERS: u64 = 5_000;
const FILES: u64 = 10;
/// Rows of a row group, and rows that are made at once.
const GROUP_ROWS: usize = 500_000;
const BATCH_ROWS: u64 = 50_000;
/// The day that is read, and the nights whose Inventories say something of it.
const DAY: &str = "2026-11-20";
const NIGHTS: [u64; 3] = [20, 21, 22];
const DAY_MS: i64 = 86_400_000;

const DUCKDB: &str = "
import duckdb, glob, sys
duckdb.sql('SET threads = 2')
duckdb.sql('SET enable_progress_bar = false')
files = sorted(glob.glob(sys.argv[1] + '/data/*.parquet'))
print(duckdb.execute('''
  WITH objects AS (
    SELECT DISTINCT key, e_tag, last_modified_date AS created, size, storage_class AS class, lifecycle_expiration_date AS ends
    FROM read_parquet(?) WHERE last_modified_date < TIMESTAMP '2026-11-21' AND lifecycle_expiration_date > TIMESTAMP '2026-11-20'),
  weighed AS (
    SELECT class, regexp_extract(key, '^c/([^/]+)/', 1) AS customer, size::HUGEINT *
      date_diff('second', greatest(created, TIMESTAMP '2026-11-20'), least(ends, TIMESTAMP '2026-11-21')) AS weight FROM objects),
  sums AS (SELECT class, customer, sum(weight) AS amount FROM weighed GROUP BY class, customer)
  SELECT sha256(string_agg(class || ' ' || customer || ' ' || amount || chr(10), '' ORDER BY class, customer)) FROM sums
''', [files]).fetchone()[0])
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
    match arguments.get(1).map(String::as_str) {
        // a process measures the children of its own, so each run gets a process around it
        Some("--around") => return around(&arguments[2..]),
        Some("--read") => return read(Path::new(&arguments[2])),
        _ => (),
    }
    let objects = std::env::var("METER_BENCH_OBJECTS").map_or(10_000_000, |n| n.parse().unwrap());
    let python = std::env::var_os("METER_TEST_PYTHON").map(PathBuf::from);
    println!("| Inventories | program | wall s | CPU s | peak MiB | wall ratio |\n|---|---|---:|---:|---:|---:|");
    for nights in [&NIGHTS[1..2], &NIGHTS[..]] {
        compare(nights, &made(objects, nights), python.as_deref());
    }
}

fn compare(nights: &[u64], place: &Path, python: Option<&Path>) {
    let (mut mine, mut theirs) = (vec![], vec![]);
    let own = std::env::current_exe().unwrap().display().to_string();
    let place = place.display().to_string();
    let mut answers = vec![];
    for _ in 0..ROUNDS {
        let (cost, answer) = run(&[own.clone(), "--read".into(), place.clone()]);
        mine.push(cost);
        answers.push(answer);
        if let Some(python) = python {
            let line = [python.display().to_string(), "-c".into(), DUCKDB.into(), place.clone()];
            let (cost, answer) = run(&line);
            theirs.push(cost);
            answers.push(answer);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "the answers differ: {answers:?}");
    let theirs = best(&theirs);
    let row = |name: &str, c: Cost| {
        let ratio = theirs.map_or(String::new(), |t| format!("{:.2}", c.wall / t.wall));
        println!("| {} | {name} | {:.2} | {:.2} | {:.0} | {ratio} |", nights.len(), c.wall, c.cpu, c.rss_mib);
    };
    theirs.into_iter().for_each(|cost| row("DuckDB", cost));
    row("meter", best(&mine).unwrap());
}

/// The run with the least of each cost: what is above it is the machine's noise.
fn best(costs: &[Cost]) -> Option<Cost> {
    let least = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = costs.iter().map(|c| c.rss_mib).fold(0.0, f64::max);
    (!costs.is_empty()).then(|| Cost { wall: least(|c| c.wall), cpu: least(|c| c.cpu), rss_mib: most })
}

/// Runs a program in a process of its own that measures it; its last line is the answer.
fn run(line: &[String]) -> (Cost, String) {
    let output = Command::new(std::env::current_exe().unwrap()).arg("--around").args(line).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}\n{out}");
    let cost: Vec<f64> = err.lines().last().unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    (Cost { wall: cost[0], cpu: cost[1], rss_mib: cost[2] }, out.lines().last().unwrap_or_default().to_owned())
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

/// Books, with the Inventories of a place.
async fn context(place: &Path, file: &Path) -> Context {
    let books = Database::open_local(file).await.unwrap();
    books.migrate(Timestamp::UNIX_EPOCH).await.unwrap();
    let inventory = ReportPlace { source: Arc::new(Folder::new(place)), prefix: String::new() };
    let bucket = SharedBucket {
        name: BUCKET.into(),
        customers: CustomerRule::new(Some(key_beginning("c/{customer}/").unwrap()), None),
        uses_uploads: false,
        expire_days: None,
        inventory: Some(inventory),
        access_logs: None,
        quiet_hours: 6,
    };
    let mut read_settings = ReadSettings::new(rules(TAG));
    read_settings.limits = ReadLimits { parallel: 2, ..ReadLimits::default() };
    Context {
        books,
        exports: Arc::default(),
        shared_buckets: Arc::new(BTreeMap::from([(BUCKET.to_owned(), bucket)])),
        read_settings,
        enforcement: Arc::default(),
        measuring: Arc::default(),
        webhook: None,
        operator: Arc::default(),
        billing: Arc::default(),
    }
}

async fn ingest(context: &Context) -> BucketReport {
    let job = IngestInventory { bucket: BUCKET.into() };
    let report = job.run(context, "2026-11-24T23:00:00Z".parse().unwrap()).await.unwrap();
    assert!(report.not_read.is_empty(), "{report:?}");
    report
}

/// Books that have all days but one.
#[tokio::main]
async fn prepare(place: &Path, file: &Path) {
    let context = context(place, file).await;
    ingest(&context).await;
    let delete = async |c: &Connection| {
        for table in ["bucket_weights", "bucket_days"] {
            c.execute(&format!("DELETE FROM {table} WHERE day = '{DAY}'"), ()).await?;
        }
        Ok(())
    };
    context.books.transaction(delete).await.unwrap();
    context.books.checkpoint().await.unwrap();
}

/// Reads the one day with the job, and prints the digest of its weights.
#[tokio::main]
async fn read(place: &Path) {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("meter.db");
    std::fs::copy(place.join("meter.db"), &file).unwrap();
    let context = context(place, &file).await;
    let day: Day = DAY.parse().unwrap();
    assert_eq!(ingest(&context).await.days_read, [day]);
    let stored = context.books.bucket_weights(BUCKET, day, day).await.unwrap();
    let lines = stored[0].day.weights.iter().map(|w| format!("{} {} {}\n", w.class, w.customer, w.amount));
    let digest = Sha256::digest(lines.collect::<String>());
    println!("{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
}

/// The folder with the Inventories of these nights.
fn made(objects: u64, nights: &[u64]) -> PathBuf {
    let name = nights.iter().map(u64::to_string).collect::<Vec<_>>().join("-");
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("inventories-{objects}-{name}"));
    if place.exists() {
        return place;
    }
    eprintln!("making {} Inventories of {objects} objects", nights.len());
    let start = Instant::now();
    let making = place.with_extension("making");
    drop(std::fs::remove_dir_all(&making));
    for night in nights {
        make(&making, *night, objects);
    }
    prepare(&making, &making.join("meter.db"));
    std::fs::rename(&making, &place).unwrap();
    eprintln!("made in {:.0} s", start.elapsed().as_secs_f64());
    place
}

/// An object; times in milliseconds since 1970.
struct Row {
    key: String,
    size: i64,
    created: i64,
    etag: String,
    expires: i64,
}

/// Object `n` of a day, the same in every Inventory that lists it.
fn row(day: u64, n: u64, of_day: u64) -> Row {
    let mut random = fastrand::Rng::with_seed(day << 40 | n);
    let key = format!("c/customer-{:05}/{:016x}{:016x}.bin", random.u64(..CUSTOMERS), random.u64(..), random.u64(..));
    let midnight = "2026-11-01T00:00:00Z".parse::<Timestamp>().unwrap().as_millisecond()
        + i64::try_from(day - 1).unwrap() * DAY_MS;
    let second = i64::try_from(n * 86_400 / of_day).unwrap();
    let etag = format!("{:016x}{:016x}", random.u64(..), random.u64(..));
    let size = random.i64(1..50_000_000);
    Row { key, size, created: midnight + second * 1000, etag, expires: midnight + 2 * DAY_MS }
}

/// The Inventory of a night: what was made on the two days before it.
fn make(place: &Path, night: u64, objects: u64) {
    let inventory = inventory(Form::Parquet, &format!("2026-11-{night:02}T01:00:00Z"), &[]);
    let of_day = objects / 2;
    let data = place.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let mut names = vec![];
    for file in 0..FILES {
        let name = format!("{night}-{file}.parquet");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let mut writer: Option<ArrowWriter<File>> = None;
        let (mut at, end) = (file * of_day / FILES, (file + 1) * of_day / FILES);
        while at < end {
            let until = end.min(at + BATCH_ROWS);
            for day in [night - 2, night - 1] {
                let batch = batch((at..until).map(|n| row(day, n, of_day)).collect());
                let new = || {
                    let file = File::create(data.join(&name)).unwrap();
                    ArrowWriter::try_new(file, batch.schema(), Some(properties.clone())).unwrap()
                };
                writer.get_or_insert_with(new).write(&batch).unwrap();
            }
            at = until;
        }
        writer.unwrap().close().unwrap();
        names.push(name);
    }
    inventory.write_listing(place, &names).unwrap();
}

fn batch(rows: Vec<Row>) -> RecordBatch {
    let texts = |of: &dyn Fn(&Row) -> String| -> ArrayRef {
        Arc::new(StringArray::from(rows.iter().map(of).collect::<Vec<_>>()))
    };
    let times = |of: &dyn Fn(&Row) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from(rows.iter().map(of).collect::<Vec<_>>()))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("bucket", texts(&|_| BUCKET.to_owned())),
        ("key", texts(&|row| row.key.clone())),
        ("size", Arc::new(Int64Array::from(rows.iter().map(|row| row.size).collect::<Vec<_>>()))),
        ("last_modified_date", times(&|row| row.created)),
        ("e_tag", texts(&|row| row.etag.clone())),
        ("storage_class", texts(&|_| "STANDARD".to_owned())),
        ("is_multipart_uploaded", Arc::new(BooleanArray::from(vec![false; rows.len()]))),
        ("lifecycle_expiration_date", times(&|row| row.expires)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}
