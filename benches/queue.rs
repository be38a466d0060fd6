//! The queue, beside apalis-sqlite where `METER_TEST_PEER` names its bench program (`benches/peer`,
//! built by itself because the two cannot be linked into one binary): enqueueing, running by 1, 2
//! and 4 processes, pick-up latency, the cost of a million finished jobs, idle processor time,
//! start-up.
//!
//! `cargo bench --bench queue` prints a table; every row of ours and the peer's is made in turns in
//! one run, on fresh files, with the same `synchronous`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench that cannot go on stops")]
#![allow(clippy::float_arithmetic, clippy::as_conversions, reason = "seconds and ratios, no money")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use books::Database;
use books::store::database::Durability;
use books::usage::meter::Rules;
use jiff::Timestamp;
use jobs::context::{Context, ReadSettings};
use jobs::job::{Failure, Job};
use meter::metrics::Metrics;
use meter::queue::{Clock, Identity, JobState, NewJob, Queue};
use meter::worker::{Kind, Kinds, NewWorker, Worker, WorkerSettings};
use serde::{Deserialize, Serialize};

const JOBS: usize = 100_000;
const SLOTS: usize = 1000;
const FINISHED: usize = 1_000_000;

/// Does nothing but report its delay, if it knows when it was sent.
#[derive(Serialize, Deserialize)]
struct Nothing {
    sent_ns: u64,
}

fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

static LATE: Mutex<Vec<f64>> = Mutex::new(vec![]);

impl Job for Nothing {
    const KIND: &'static str = "nothing";
    const DESCRIPTION: &'static str = "do nothing";
    const MAX_CONCURRENT: usize = SLOTS;
    type Report = ();

    async fn run(self, _: &Context, _: Timestamp) -> Result<(), Failure> {
        if self.sent_ns > 0 {
            let late = (now_ns() - self.sent_ns) as f64 / 1e6;
            LATE.lock().unwrap().push(late);
            println!("late {late}");
        }
        Ok(())
    }
}

fn job(sent_ns: u64) -> NewJob {
    NewJob::of(&Nothing { sent_ns }, "bench").unwrap()
}

async fn open(file: &Path, synchronous: &str) -> Database {
    let durability = if synchronous == "full" { Durability::Full } else { Durability::Normal };
    let books = Database::open_local_with(file, durability).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    books
}

async fn worker(file: &Path, synchronous: &str, slots: usize) -> (Queue, Worker) {
    let queue = Queue::new(open(file, synchronous).await, Clock::system());
    let rules = Rules {
        tag_keys: vec!["t".into()],
        meters: vec![],
        ignore: vec![],
        watched: vec![],
        shared_buckets: vec![],
        costs: vec![],
    };
    let read_settings = ReadSettings::new(rules);
    let enforcement = Arc::new(jobs::context::EnforcementSettings::default());
    let exports = Arc::new(BTreeMap::new());
    let context = Context {
        books: open(file, synchronous).await,
        exports,
        shared_buckets: Arc::default(),
        read_settings,
        enforcement,
        measuring: Arc::default(),
        webhook: None,
        operator: Arc::default(),
        billing: Arc::default(),
    };
    let settings = WorkerSettings { concurrency: slots, ..WorkerSettings::default() };
    let identity = Identity { host: "bench".into(), pid: std::process::id(), version: "0".into() };
    let worker = Worker::new(NewWorker {
        queue: queue.clone(),
        context,
        kinds: Kinds::of([Kind::of::<Nothing>()]),
        settings,
        identity,
        metrics: Metrics::new(&[]).unwrap(),
    });
    worker.register().await.unwrap();
    (queue, worker)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// A worker process: starts, says "ready", waits for a line, works until it is killed.
fn child(file: &Path, synchronous: &str, slots: usize) {
    block_on(async {
        let (_, worker) = worker(file, synchronous, slots).await;
        println!("ready");
        std::io::stdin().lock().read_line(&mut String::new()).unwrap();
        worker.run().await.unwrap();
    });
}

/// A started worker process that waits for its line.
fn spawn(file: &Path, synchronous: &str, slots: usize) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--child", file.to_str().unwrap(), synchronous, &slots.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");
    (child, said)
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

/// Jobs enqueued each second.
fn enqueue(file: &Path, synchronous: &str, jobs: usize, batch: usize) -> f64 {
    block_on(async {
        let queue = Queue::new(open(file, synchronous).await, Clock::system());
        let start = Instant::now();
        for _ in 0..jobs / batch {
            queue.enqueue(&(0..batch).map(|_| job(0)).collect::<Vec<_>>()).await.unwrap();
        }
        jobs as f64 / start.elapsed().as_secs_f64()
    })
}

/// Jobs run each second by so many processes; start-up is not measured.
fn work(file: &Path, synchronous: &str, processes: usize, slots: usize) -> f64 {
    let mut children: Vec<_> = (0..processes).map(|_| spawn(file, synchronous, slots)).collect();
    let rate = block_on(async {
        let books = open(file, synchronous).await;
        let sql = "SELECT count(*) FROM jobs WHERE state IN ('pending', 'scheduled', 'running', 'retrying')";
        let open = async || meter::queue::count(&books, sql).await.unwrap();
        let jobs = open().await as f64;
        let start = Instant::now();
        children.iter_mut().for_each(|(child, _)| go(child));
        while open().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        jobs / start.elapsed().as_secs_f64()
    });
    for (child, _) in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    rate
}

fn percentiles(mut late: Vec<f64>) -> (f64, f64) {
    late.sort_by(f64::total_cmp);
    (late[late.len() / 2], late[late.len() * 99 / 100])
}

/// Time from the call of enqueue to the start of the run, in one process.
fn latency_here(file: &Path, synchronous: &str, samples: usize) -> (f64, f64) {
    LATE.lock().unwrap().clear();
    block_on(async {
        let (queue, worker) = worker(file, synchronous, 10).await;
        let stopper = worker.stopper();
        let running = tokio::spawn(worker.run());
        for _ in 0..samples {
            tokio::time::sleep(Duration::from_millis(20)).await;
            queue.enqueue(&[job(now_ns())]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopper.stop();
        running.await.unwrap().unwrap();
    });
    percentiles(LATE.lock().unwrap().clone())
}

/// The same when another process enqueues.
fn latency_across(file: &Path, synchronous: &str, samples: usize) -> (f64, f64) {
    let (mut child, said) = spawn(file, synchronous, 10);
    go(&mut child);
    block_on(async {
        let queue = Queue::new(open(file, synchronous).await, Clock::system());
        for i in 0..samples {
            tokio::time::sleep(Duration::from_millis(20 + u64::try_from(i * 37 % 250).unwrap())).await;
            queue.enqueue(&[job(now_ns())]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let late = said.lines().map_while(Result::ok).filter_map(|l| l.strip_prefix("late ")?.parse().ok());
    percentiles(late.collect())
}

/// Processor seconds that an idle worker process uses in so many seconds.
fn idle(file: &Path, seconds: u64) -> f64 {
    let (mut child, _said) = spawn(file, "full", 10);
    go(&mut child);
    let ticks = |pid: u32| -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks(child.id());
    std::thread::sleep(Duration::from_secs(seconds));
    let used = ticks(child.id()) - before;
    child.kill().unwrap();
    child.wait().unwrap();
    used / 100.0
}

/// Puts a million finished jobs into the table.
fn fill(file: &Path) {
    block_on(async {
        let books = open(file, "normal").await;
        let insert = books.transaction(async |c| {
            let sql = format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {FINISHED}) \
                 INSERT INTO jobs (id, kind, payload, state, origin, max_attempts, attempts, lease, report, enqueued_at, \
                 started_at, finished_at) SELECT printf('%026d', i), 'nothing', '{{\"sent_ns\":0}}', '{}', 'bench', 20, 1, 1, \
                 'null', i, i, 4000000000000 + i FROM n",
                JobState::Done
            );
            c.execute(&sql, ()).await
        });
        assert_eq!(insert.await.unwrap(), FINISHED as u64);
    });
}

/// Milliseconds of `meter work --once` on an existing database.
fn start_up(file: &Path) -> f64 {
    let run = || {
        let start = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meter"));
        command.args(["work", "--once", "--no-schedule", "--log", "error"]).env("METER_DATABASE__URL", file);
        assert!(command.current_dir(file.parent().unwrap()).status().unwrap().success());
        start.elapsed().as_secs_f64() * 1000.0
    };
    (0..10).map(|_| run()).fold(f64::MAX, f64::min)
}

/// What the peer's bench program prints as one line of JSON.
fn peer(arguments: &[&str]) -> Option<serde_json::Value> {
    let program = std::env::var_os("METER_TEST_PEER")?;
    let ran = Command::new(program).args(arguments).stderr(Stdio::null()).output().unwrap();
    assert!(ran.status.success(), "the peer failed: {arguments:?}");
    Some(serde_json::from_slice(&ran.stdout).unwrap())
}

fn row(what: &str, ours: f64, theirs: Option<f64>, unit: &str) {
    let theirs_text = theirs.map_or("".into(), |t| format!("{t:.0}"));
    let ratio = theirs.map_or("".into(), |t| format!("{:.1}", ours / t));
    println!("| {what} | {ours:.0} | {theirs_text} | {ratio} | {unit} |");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--child") {
        return child(Path::new(&arguments[at + 1]), &arguments[at + 2], arguments[at + 3].parse().unwrap());
    }
    let folder = tempfile::TempDir::new().unwrap();
    let mut number = 0;
    let mut fresh = || {
        number += 1;
        folder.path().join(format!("{number}.db"))
    };
    println!("| what | meter | apalis-sqlite | ratio | |\n|---|---:|---:|---:|---|");
    for synchronous in ["full", "normal"] {
        for (jobs, batch) in [(5_000, 1), (JOBS, 100), (JOBS, 1000)] {
            let (ours, file) = (enqueue(&fresh(), synchronous, jobs, batch), fresh());
            let (n, b) = (jobs.to_string(), batch.to_string());
            let theirs =
                ["enqueue", "--db", file.to_str().unwrap(), "--jobs", &n, "--batch", &b, "--synchronous", synchronous];
            let theirs = peer(&theirs).and_then(|j| j["per_second"].as_f64());
            row(&format!("enqueue, {batch} at a time, {synchronous}"), ours, theirs, "jobs/s");
        }
    }
    for synchronous in ["full", "normal"] {
        for slots in [10, 100, SLOTS] {
            for processes in [1, 2, 4] {
                let (own, other) = (fresh(), fresh());
                let jobs = if slots == 10 { JOBS / 10 } else { JOBS };
                enqueue(&own, "normal", jobs, 1000);
                let ours = work(&own, synchronous, processes, slots);
                let (n, p, b) = (jobs.to_string(), processes.to_string(), slots.to_string());
                let other = other.to_str().unwrap();
                let filled = ["enqueue", "--db", other, "--jobs", &n, "--batch", "1000", "--synchronous", "normal"];
                let run = [
                    "work",
                    "--db",
                    other,
                    "--jobs",
                    &n,
                    "--processes",
                    &p,
                    "--synchronous",
                    synchronous,
                    "--buffer",
                    &b,
                ];
                let theirs = peer(&filled).and_then(|_| peer(&run)).and_then(|j| j["per_second"].as_f64());
                row(&format!("run by {processes}, {slots} slots each, {synchronous}"), ours, theirs, "jobs/s");
            }
        }
    }
    let full = fresh();
    fill(&full);
    for (what, file) in [("an empty table", fresh()), ("1,000,000 finished jobs in it", full)] {
        let enqueued = enqueue(&file, "full", JOBS, 1000);
        row(&format!("enqueue, 1000 at a time, full, {what}"), enqueued, None, "jobs/s");
        row(&format!("run by 1, 100 slots, full, {what}"), work(&file, "full", 1, 100), None, "jobs/s");
        println!("| start-up of `meter work --once`, {what} | {:.0} | | | ms |", start_up(&file));
    }
    let file = fresh();
    let theirs = peer(&["latency", "--db", file.to_str().unwrap(), "--samples", "500"]);
    let theirs = theirs
        .map_or("".into(), |t| format!("{:.1} / {:.1}", t["p50_ms"].as_f64().unwrap(), t["p99_ms"].as_f64().unwrap()));
    let (p50, p99) = latency_here(&fresh(), "full", 500);
    println!("| pick-up in process, p50 / p99, full | {p50:.1} / {p99:.1} | {theirs} | | ms |");
    let (p50, p99) = latency_across(&fresh(), "full", 200);
    println!("| pick-up across processes, p50 / p99, full | {p50:.1} / {p99:.1} | | | ms |");
    println!("| processor time of an idle worker in 30 s | {:.2} | | | s |", idle(&fresh(), 30));
}
