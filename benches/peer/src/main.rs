//! Measures apalis-sqlite 1.0.0, the peer our job queue is compared with: how fast it enqueues, how
//! fast one or more worker processes finish what is queued, and how long a pushed job waits for its
//! handler.
//!
//! It is a program (and a workspace) of its own because the peer cannot be linked beside our queue:
//! each brings a SQLite library of its own under the same C symbols.
//!
//! The peer's `setup` puts `synchronous = OFF` on the one connection it happens to get. So the
//! schema is made through a pool that is closed at once; all that is measured goes through a second
//! pool, on which the asked `synchronous` is set for each connection, read back, and printed. The
//! other pragmas are those of `setup`.

use std::process::Stdio;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use clap::{Args, Parser, Subcommand, ValueEnum};
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use futures::stream::{Stream, StreamExt, poll_fn};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Push jobs, in one process over one connection.
    Enqueue {
        #[command(flatten)]
        db: Db,
        #[arg(long)]
        jobs: u64,
        /// Jobs a transaction: 1 is `push`, more is `push_bulk`.
        #[arg(long)]
        batch: u64,
    },
    /// Finish queued jobs with worker processes.
    Work {
        #[command(flatten)]
        tune: Tune,
        #[arg(long)]
        jobs: i64,
        #[arg(long)]
        processes: u32,
    },
    /// One worker process; started by `work`.
    Child {
        #[command(flatten)]
        tune: Tune,
    },
    /// Time from the call of `push` to the start of the handler, in one process.
    Latency {
        #[command(flatten)]
        tune: Tune,
        #[arg(long)]
        samples: usize,
        /// Let nothing but the interval wake the worker: all that a push of another process can
        /// count on.
        #[arg(long)]
        interval_only: bool,
    },
}

#[derive(Args)]
struct Db {
    #[arg(long = "db")]
    file: String,
    #[arg(long, default_value = "full")]
    synchronous: Synchronous,
}

#[derive(Args)]
struct Tune {
    #[command(flatten)]
    db: Db,
    /// Jobs fetched at once, and handlers at once.
    #[arg(long, default_value_t = 100)]
    buffer: usize,
    /// How long an idle worker sleeps at most.
    #[arg(long, default_value_t = 5)]
    poll_ms: u64,
    /// Write `Running` for each job too, the peer's default: only a status, for the fetch claims
    /// the job. Slower.
    #[arg(long)]
    lock_tasks: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Synchronous {
    Normal = 1,
    Full = 2,
}

#[derive(Serialize, Deserialize)]
struct Job {
    n: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let line = match Cli::parse().what {
        What::Enqueue { db, jobs, batch } => enqueue(&db, jobs, batch).await?,
        What::Work { tune, jobs, processes } => work(&tune, jobs, processes).await?,
        What::Child { tune } => return child(&tune).await,
        What::Latency { tune, samples, interval_only } => latency(&tune, samples, interval_only).await?,
    };
    println!("{line}");
    Ok(())
}

impl Db {
    fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(10))
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "64000")
            .pragma("journal_size_limit", "67108864")
            .synchronous(match self.synchronous {
                Synchronous::Full => SqliteSynchronous::Full,
                Synchronous::Normal => SqliteSynchronous::Normal,
            })
    }

    /// Makes the schema, through a pool of its own that is gone afterwards.
    async fn setup(&self) -> Result<()> {
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(self.options()).await?;
        SqliteStorage::setup(&pool).await?;
        pool.close().await;
        Ok(())
    }

    /// The pool that is measured, with all its connections open.
    async fn open(&self, connections: u32) -> Result<SqlitePool> {
        let pool = SqlitePoolOptions::new().max_connections(connections).connect_with(self.options()).await?;
        let mut held = Vec::new();
        for _ in 0..connections {
            let mut conn = pool.acquire().await?;
            let level: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await?;
            let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await?;
            ensure!(level == self.synchronous as i64 && mode == "wal", "synchronous = {level}, journal_mode = {mode}");
            eprintln!("pid {}: synchronous = {level}, journal_mode = {mode}", std::process::id());
            held.push(conn);
        }
        Ok(pool)
    }
}

impl Tune {
    fn config(&self) -> Config {
        Config::default().queue("peer").batch_size(self.buffer).lock_tasks(self.lock_tasks)
    }

    /// What wakes an idle worker: a timer, and `pushed`. In place of the peer's own
    /// `poll_with_interval`, which does not arm its next timer at once: when a fetch outlasts the
    /// interval, the worker sleeps on to the heartbeat.
    fn wakes(&self, mut pushed: UnboundedReceiver<()>) -> impl Stream<Item = ()> + Unpin + Send + 'static {
        let mut timer = interval(Duration::from_millis(self.poll_ms));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        poll_fn(move |cx| {
            while timer.poll_tick(cx).is_ready() {}
            while let Poll::Ready(Some(())) = pushed.poll_next_unpin(cx) {}
            Poll::Pending
        })
    }
}

async fn enqueue(db: &Db, jobs: u64, batch: u64) -> Result<serde_json::Value> {
    ensure!(batch > 0, "a batch has at least one job");
    db.setup().await?;
    let pool = db.open(1).await?;
    let mut storage = SqliteStorage::<Job>::new(&pool).with_config(Config::default().queue("peer"));
    let start = Instant::now();
    for n in (0..jobs).step_by(usize::try_from(batch)?) {
        if batch == 1 {
            storage.push(Job { n }).await?;
        } else {
            storage.push_bulk((n..jobs.min(n + batch)).map(|n| Job { n }).collect()).await?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let rows: u64 = sqlx::query_scalar("SELECT COUNT(*) FROM Jobs").fetch_one(&pool).await?;
    ensure!(rows >= jobs, "{rows} jobs are in the database");
    let per_second = jobs as f64 / seconds;
    Ok(json!({"what": "enqueue", "jobs": jobs, "batch": batch, "seconds": seconds, "per_second": per_second}))
}

async fn work(tune: &Tune, jobs: i64, processes: u32) -> Result<serde_json::Value> {
    tune.db.setup().await?;
    let pool = tune.db.open(1).await?;
    let done = "SELECT COUNT(*) FROM Jobs WHERE status = 'Done'";
    let goal = sqlx::query_scalar::<_, i64>(done).fetch_one(&pool).await? + jobs;
    let mut children = Vec::new();
    for _ in 0..processes {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["child", "--db", &tune.db.file, "--synchronous"])
            .arg(tune.db.synchronous.to_possible_value().context("a value")?.get_name())
            .args(["--buffer", &tune.buffer.to_string(), "--poll-ms", &tune.poll_ms.to_string()])
            .args(tune.lock_tasks.then_some("--lock-tasks"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line).await?;
        ensure!(line == "ready\n", "a worker did not start");
        children.push(child);
    }
    let start = Instant::now();
    for child in &mut children {
        child.stdin.as_mut().context("stdin")?.write_all(b"go\n").await?;
    }
    // The partial index answers the first question at once; the jobs are counted only when nothing
    // is left to claim.
    let claimable = "SELECT EXISTS (SELECT 1 FROM Jobs WHERE status IN ('Queued', 'Pending', 'Failed'))";
    loop {
        if !sqlx::query_scalar::<_, bool>(claimable).fetch_one(&pool).await?
            && sqlx::query_scalar::<_, i64>(done).fetch_one(&pool).await? >= goal
        {
            break;
        }
        for child in &mut children {
            ensure!(child.try_wait()?.is_none(), "a worker stopped before all was done");
        }
        ensure!(start.elapsed() < Duration::from_secs(600), "not done after ten minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    for mut child in children {
        drop(child.stdin.take());
        ensure!(child.wait().await?.success(), "a worker failed");
    }
    let per_second = jobs as f64 / seconds;
    Ok(json!({"what": "work", "jobs": jobs, "processes": processes, "seconds": seconds, "per_second": per_second}))
}

async fn child(tune: &Tune) -> Result<()> {
    let pool = tune.db.open(2).await?;
    let storage = SqliteStorage::<Job>::new(&pool).with_config(tune.config());
    let worker = WorkerBuilder::new(format!("peer-{}", std::process::id()))
        .backend(storage.poll_with_stream(tune.wakes(unbounded().1)))
        .concurrency(tune.buffer)
        .build(async |_: Job| Ok::<_, BoxDynError>(()));
    println!("ready");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    ensure!(input.next_line().await?.as_deref() == Some("go"), "no go");
    tokio::select! {
        ran = worker.run() => Ok(ran?),
        _ = input.next_line() => Ok(()),
    }
}

async fn latency(tune: &Tune, samples: usize, interval_only: bool) -> Result<serde_json::Value> {
    tune.db.setup().await?;
    let (wake_tx, wake_rx) = unbounded();
    let pool = tune.db.open(2).await?;
    let storage = SqliteStorage::<Job>::new(&pool).with_config(tune.config());
    let mut pusher = storage.clone();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let _ = started.send((job.n, Instant::now()));
        async { Ok::<_, BoxDynError>(()) }
    };
    let worker = WorkerBuilder::new(format!("peer-{}", std::process::id()))
        .backend(storage.poll_with_stream(tune.wakes(wake_rx)))
        .concurrency(tune.buffer)
        .build(handler);
    let running = tokio::spawn(worker.run());
    let mut waits = Vec::new();
    // The first ten are a warm-up.
    for n in 0..u64::try_from(samples)? + 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let pushed = Instant::now();
        pusher.push(Job { n }).await?;
        // Faster than the update hook of the peer's README, which fires before the commit.
        if !interval_only {
            wake_tx.unbounded_send(())?;
        }
        let (got, at) = tokio::time::timeout(Duration::from_secs(30), starts.recv()).await?.context("no worker")?;
        ensure!(got == n, "job {got} came for job {n}: use a new database");
        if n >= 10 {
            waits.push(at.duration_since(pushed).as_secs_f64() * 1000.0);
        }
    }
    running.abort();
    ensure!(!waits.is_empty(), "no samples");
    waits.sort_by(f64::total_cmp);
    let at = |percent: usize| waits[(samples * percent).div_ceil(100).saturating_sub(1)];
    Ok(json!({"what": "latency", "samples": samples, "p50_ms": at(50), "p99_ms": at(99)}))
}
