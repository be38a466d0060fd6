//! A day of S3's access logs, read into weights of customers, beside DuckDB and mawk on the same
//! file: wall time, processor time, peak memory, and the same answer.
//!
//! `cargo bench --bench access_logs` makes the file once (2,000,000 lines, one in a hundred of them
//! twice; `METER_BENCH_LINES` says another number) and runs the programs in turns.
//! `METER_TEST_PYTHON` names the Python that has DuckDB. What is not there is left out.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use jobs::context::{ReportPlace, SharedBucket};
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::job::Job;
use jobs::shared_bucket::customer::{CustomerRule, key_beginning};
use jobs::source::Folder;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use testkit::ingest_fixture::IngestFixture;

const ROUNDS: usize = 3;
const LINES: u64 = 2_000_000;
const CUSTOMERS: u64 = 5_000;
const FILE: &str = "111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-0123456789ABCDEF";

/// The fastest way that was found: a regular expression on whole lines takes ten times as long. It
/// reads these lines only because no quote stands inside of quotes.
const DUCKDB: &str = r#"
import duckdb, sys
duckdb.sql('SET threads = 2')
duckdb.sql('SET enable_progress_bar = false')
names = ('owner bucket day zone ip requester id operation key uri status error bytes size total turn referer agent '
         'version host signature cipher auth header tls arn acl region').split()
columns = '{' + ', '.join(f"'{name}': 'VARCHAR'" for name in names) + '}'
rows = duckdb.execute(f'''
  WITH once AS (
    SELECT id, operation, any_value(regexp_extract(key, '^c/([^/]+)', 1)) AS customer,
      any_value(CASE WHEN operation = 'REST.GET.OBJECT' AND status IN ('200', '206')
        THEN coalesce(TRY_CAST(bytes AS UBIGINT), 0) ELSE 0 END) AS bytes
    FROM read_csv(?, columns = {columns}, delim = ' ', quote = '"', escape = '"', header = false, auto_detect = false, null_padding = true)
    WHERE bucket = 'files' AND starts_with(day, '[18/Nov/2026:') GROUP BY id, operation)
  SELECT customer, sum(bytes)::VARCHAR, count(*) FILTER (operation LIKE 'REST.PUT.%'), count(*) FILTER (operation NOT LIKE 'REST.PUT.%')
  FROM once GROUP BY customer ORDER BY customer''', [sys.argv[1]]).fetchall()
for row in rows: print('|'.join(map(str, row)))
"#;

const MAWK: &str = r#"
$2 == "files" && $3 ~ /^\[18\/Nov\/2026:/ && !seen[$7, $8]++ {
  split($9, key, "/"); customer = key[1] == "c" ? key[2] : ""
  all[customer] = 1
  if ($8 == "REST.GET.OBJECT" && ($13 == "200" || $13 == "206")) bytes[customer] += $15
  if ($8 ~ /^REST\.PUT\./) first[customer]++; else second[customer]++
}
END { for (c in all) printf "%s|%.0f|%d|%d\n", c, bytes[c], first[c], second[c] }
"#;

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
        Some("--around") => around(&arguments[2..]),
        Some("--read") => read(Path::new(&arguments[2])),
        _ => compare(),
    }
}

fn compare() {
    let lines = std::env::var("METER_BENCH_LINES").map_or(LINES, |lines| lines.replace('_', "").parse().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("access-logs-{lines}"));
    let file = folder.join(FILE);
    if !file.exists() {
        make(&file, lines);
    }
    let this = std::env::current_exe().unwrap().display().to_string();
    let (folder, file) = (folder.display().to_string(), file.display().to_string());
    let python = std::env::var("METER_TEST_PYTHON").ok();
    let line = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let mut programs = vec![("meter", line(&[&this, "--read", &folder]))];
    if let Some(python) = &python {
        programs.push(("DuckDB", line(&[python, "-c", DUCKDB, &file])));
    }
    if Command::new("mawk").args(["BEGIN { exit }"]).status().is_ok_and(|status| status.success()) {
        programs.push(("mawk", line(&["mawk", MAWK, &file])));
    }
    let mut costs: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
    let mut answer: Option<Vec<String>> = None;
    for _ in 0..ROUNDS {
        for (name, line) in &programs {
            let (cost, out) = run(line);
            costs.entry(name).or_default().push(cost);
            let mut found: Vec<String> = out.lines().map(str::to_owned).collect();
            found.sort();
            let known = answer.get_or_insert_with(|| found.clone());
            assert!(*known == found, "{name} has another answer, such as {:?} and {:?}", known.first(), found.first());
        }
    }
    let base = costs.get("DuckDB").map(|costs| best(costs));
    println!("| program | wall s | CPU s | peak MiB | lines/s | wall ratio |\n|---|---:|---:|---:|---:|---:|");
    for (name, _) in &programs {
        let cost = best(&costs[name]);
        let ratio = base.map_or(String::new(), |base| format!("{:.2}", cost.wall / base.wall));
        let speed = lines as f64 / cost.wall;
        println!("| {name} | {:.2} | {:.2} | {:.0} | {speed:.0} | {ratio} |", cost.wall, cost.cpu, cost.rss_mib);
    }
    println!("The same answer for {} customers of {lines} lines.", answer.map_or(0, |rows| rows.len()));
}

/// Writes a file of lines as S3 has them, 600 bytes each.
fn make(file: &Path, lines: u64) {
    eprintln!("making {lines} lines");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let unfinished = file.with_extension("unfinished");
    let mut writer = BufWriter::with_capacity(1 << 20, std::fs::File::create(&unfinished).unwrap());
    let mut random = fastrand::Rng::with_seed(1);
    let (owner, mut text) = ("79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be", String::new());
    let mut left = lines;
    while left > 0 {
        let (customer, bytes) = (random.u64(..CUSTOMERS), random.u64(..50_000_000));
        let (operation, method, sent) = match random.u8(..10) {
            0 => ("REST.PUT.OBJECT", "PUT", "-".to_owned()),
            1 => ("REST.HEAD.OBJECT", "HEAD", "-".to_owned()),
            _ => ("REST.GET.OBJECT", "GET", bytes.to_string()),
        };
        let status = if random.u8(..20) == 0 { 206 } else { 200 };
        let key = format!("c/customer-{customer}/2026/11/{:016x}.bin", random.u64(..));
        let time = format!("18/Nov/2026:{:02}:{:02}:{:02}", random.u8(..24), random.u8(..60), random.u8(..60));
        text.clear();
        writeln!(
            text,
            "{owner} files [{time} +0000] 192.0.2.{} arn:aws:iam::111122223333:user/web {:016X} {operation} {key} \
             \"{method} /{key}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261118T000000Z&X-Amz-Expires=300&x-cc=\
             customer-{customer}&X-Amz-Signature={:064x} HTTP/1.1\" {status} - {sent} {bytes} {} 10 \"-\" \
             \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\" - {:056x}= SigV4 ECDHE-RSA-AES128-GCM-SHA256 \
             QueryString files.s3.eu-west-1.amazonaws.com TLSv1.3 - - eu-west-1",
            random.u8(..),
            random.u64(..),
            random.u128(..),
            random.u16(..),
            random.u128(..)
        )
        .unwrap();
        let times = if random.u8(..100) == 0 { left.min(2) } else { 1 };
        for _ in 0..times {
            writer.write_all(text.as_bytes()).unwrap();
        }
        left -= times;
    }
    writer.flush().unwrap();
    std::fs::rename(unfinished, file).unwrap();
}

/// Reads the day into fresh books, and prints what each customer has.
fn read(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut books = IngestFixture::new().await;
        let rule = CustomerRule::new(Some(key_beginning("c/{customer}/").unwrap()), Some("x-cc".into()));
        let bucket = SharedBucket {
            name: "files".into(),
            customers: rule,
            uses_uploads: false,
            expire_days: None,
            inventory: None,
            access_logs: Some(ReportPlace {
                source: Arc::new(Folder::new(PathBuf::from(folder))),
                prefix: String::new(),
            }),
            quiet_hours: 0,
        };
        books.context.shared_buckets = Arc::new(BTreeMap::from([("files".into(), bucket)]));
        let now = "2026-11-25T00:00:00Z".parse().unwrap();
        let report = IngestAccessLogs { bucket: "files".into() }.run(&books.context, now).await.unwrap();
        assert!(report.days_read.len() == 1 && report.not_read.is_empty(), "{report:?}");
        let day = report.days_read[0];
        let mut sums: BTreeMap<String, [u128; 3]> = BTreeMap::new();
        for weight in &books.context.books.bucket_weights("files", day, day).await.unwrap()[0].day.weights {
            let place = match weight.measure.name() {
                "bytes_sent" => 0,
                "requests_1" => 1,
                _ => 2,
            };
            sums.entry(weight.customer.clone()).or_default()[place] = weight.amount;
        }
        for (customer, [bytes, first, second]) in sums {
            println!("{customer}|{bytes}|{first}|{second}");
        }
    });
}

/// The run with the least of each cost: what is above it is the machine's noise.
fn best(costs: &[Cost]) -> Cost {
    let least = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(f64::INFINITY, f64::min);
    let most = costs.iter().map(|c| c.rss_mib).fold(0.0, f64::max);
    Cost { wall: least(|c| c.wall), cpu: least(|c| c.cpu), rss_mib: most }
}

/// Runs a program in a process of its own that measures it.
fn run(line: &[String]) -> (Cost, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.arg("--around").args(line).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{}: {err}", line[0]);
    let cost: Vec<f64> = err.lines().last().unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
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
