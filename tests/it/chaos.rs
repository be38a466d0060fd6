//! Four real worker processes on one store, killed at random and started again, while thousands of
//! jobs are fed in: every job takes effect exactly once, none is lost, none is left over.
//!
//! The effect of a `probe` goes through a claim in the books, in a transaction that checks the
//! run's lease; the table of probes counts what took effect and what was only repeated.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Workspace, meter};
use jiff::Timestamp;
use jobs::probe::Probe;
use meter::config::Config;
use meter::queue::count;
use meter::queue::{Clock, JobState, NewJob, Queue};
use testkit::hrana::HranaServer;

/// Jobs that are fed in each second.
const JOBS_PER_SECOND: usize = 80;
const WORKERS: usize = 4;
/// How long it may take after the last kill until nothing is left to do.
const SETTLE: Duration = Duration::from_secs(180);

/// How long workers are killed: 30 seconds, or `METER_TEST_CHAOS_SECONDS`.
fn duration() -> Duration {
    let seconds = std::env::var("METER_TEST_CHAOS_SECONDS").ok();
    Duration::from_secs(seconds.map_or(30, |text| text.parse().expect("METER_TEST_CHAOS_SECONDS is a number")))
}

fn all_jobs() -> usize {
    JOBS_PER_SECOND * usize::try_from(duration().as_secs()).unwrap()
}

/// A small generator of its own: the same seed gives the same kills, as far as the machine lets it.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A worker process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn worker(folder: &Path, url: &str, lease: &str) -> Process {
    let mut command: Command = meter(folder);
    command.args(["work", "--kinds", "probe", "--concurrency", "16", "--no-schedule", "--log", "error"]);
    command.env("METER_DATABASE__URL", url).env("METER_QUEUE__LEASE_SECONDS", lease);
    Process(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap())
}

fn jobs(from: usize, to: usize) -> Vec<NewJob> {
    let probe = |i: usize| Probe { name: format!("{i}"), millis: u64::try_from(i % 7).unwrap() * 50 };
    (from..to).map(|i| NewJob::of(&probe(i), "chaos").unwrap()).collect()
}

/// Feeds, kills and restarts for [`duration`] at least, then waits until all is settled. Returns
/// the kills.
async fn chaos(queue: &Queue, folder: &Path, url: &str, lease: &str, mut meanwhile: impl FnMut(u64)) -> usize {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (duration, all) = (duration(), all_jobs());
    let mut workers: Vec<Process> = (0..WORKERS).map(|_| worker(folder, url, lease)).collect();
    let (start, mut fed, mut kills) = (Instant::now(), 0, 0);
    let mut next_kill = Duration::from_secs(1);
    while start.elapsed() < duration || fed < all {
        let share = start.elapsed().as_millis() * 1000 / (duration.as_millis() * 9 / 10);
        let due = (all * usize::try_from(share).unwrap() / 1000).min(all);
        if due > fed {
            let enqueued = queue.enqueue(&jobs(fed, due)).await.unwrap();
            assert!(enqueued.iter().all(|e| e.new));
            fed = due;
        }
        if start.elapsed() > next_kill {
            let victim = usize::try_from(dice.below(4)).unwrap();
            drop(std::mem::replace(&mut workers[victim], worker(folder, url, lease)));
            kills += 1;
            meanwhile(dice.below(1000));
            next_kill = start.elapsed() + Duration::from_millis(300 + dice.below(900));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    loop {
        let counts: BTreeMap<(String, JobState), i64> = queue.counts().await.unwrap();
        if counts.iter().all(|((_, state), _)| state.is_final()) {
            break;
        }
        assert!(start.elapsed() < SETTLE, "not settled: {counts:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for Process(child) in &workers {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
    for Process(child) in &mut workers {
        assert!(crate::support::ended(child).success(), "a worker that is asked to stop ends well");
    }
    kills
}

/// Every job took effect exactly once.
async fn check(queue: &Queue, books: &books::Database, kills: usize, how: &str) {
    let counts = queue.counts().await.unwrap();
    let expected = BTreeMap::from([(("probe".to_owned(), JobState::Done), i64::try_from(all_jobs()).unwrap())]);
    assert_eq!(counts, expected);
    let of = async |sql| count(books, sql).await.unwrap();
    assert_eq!(of("SELECT count(*) FROM probes").await, i64::try_from(all_jobs()).unwrap());
    assert_eq!(of("SELECT sum(effects) FROM probes").await, i64::try_from(all_jobs()).unwrap());
    let repeated = of("SELECT count(*) FROM probes WHERE repeats > 0").await;
    let again = of("SELECT count(*) FROM jobs WHERE lease > 1").await;
    eprintln!(
        "{how}: {kills} kills; {again} jobs were claimed more than once, {repeated} found their effect there already"
    );
    // on a busy machine each step takes longer, and there are fewer kills
    assert!(kills >= 3 && again > 10, "the chaos was none: {kills} kills, {again} jobs taken over");
}

async fn open(url: &str) -> (Queue, books::Database) {
    let mut config = Config::default();
    config.database.url = url.to_owned();
    let books = meter::wiring::open_books(&config, meter::wiring::Open::CREATE).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    (Queue::new(meter::wiring::open_books(&config, meter::wiring::Open::CREATE).await.unwrap(), Clock::system()), books)
}

/// One after the other: each wants the whole machine, and a test that waits for another one holds a
/// thread of the harness.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_takes_effect_once_whatever_is_killed() {
    on_a_file().await;
    over_a_bad_network().await;
}

async fn on_a_file() {
    let place = Workspace::new();
    let url = place.path("meter.db").display().to_string();
    let (queue, books) = open(&url).await;
    let kills = chaos(&queue, place.folder.path(), &url, "2", |_| {}).await;
    check(&queue, &books, kills, "local file").await;
}

/// The same over the remote protocol: replies are lost, streams expire, connections drop, and the
/// server goes away for seconds.
async fn over_a_bad_network() {
    let place = Workspace::new();
    let server = HranaServer::start(&place.path("served.db"));
    let (queue, books) = open(&server.url()).await;
    server.faults().at_random(10, 7);
    let mut away = 0;
    let url = server.url();
    let kills = chaos(&queue, place.folder.path(), &url, "6", |chance| {
        // now and then the server is gone for a second
        if chance < 250 {
            server.pause();
            std::thread::sleep(Duration::from_secs(1));
            server.resume();
            away += 1;
        }
    });
    let kills = kills.await;
    server.faults().at_random(0, 0);
    let dealt = server.faults().dealt();
    check(&queue, &books, kills, "remote").await;
    eprintln!("remote: {dealt} faults in {} requests; the server was gone {away} times", server.requests());
    assert!(dealt > 20, "{dealt} faults");
}
