//! Where the queue is tried: a store that is empty at first, and any number of processes on it. The
//! suite in `tests/it/conformance.rs` knows nothing else of it, so it can run on another store one
//! day.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use books::Database;
use books::usage::meter::Rules;
use jiff::Timestamp;
use jobs::context::{Context, ReadSettings};
use jobs::job::{Failure, Job, Request};
use meter::config::Config;
use meter::metrics::Metrics;
use meter::queue::{Backoff, Clock, Identity, JobFilter, JobRow, JobState, NewJob, Queue};
use meter::worker::{Kind, Kinds, NewWorker, Stopper, Tally, Worker, WorkerSettings};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::JoinHandle;

use testkit::hrana::HranaServer;

/// Each promise twice: on a local file, and over the remote protocol.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::support::test_store::TestStore::local(stringify!($name)).await).await;
            })*
        }
        mod remote {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::support::test_store::TestStore::remote(stringify!($name)).await).await;
            })*
        }
    };
}

/// What a run does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Do {
    Report,
    Fail,
    After(u64),
    GiveUp,
    Panic,
    Sleep(u64),
    /// Blocks the thread, as bad jobs do.
    Block(u64),
    /// Waits for so many children, which do nothing.
    Await(u32),
    /// Waits for a child that gives up.
    AwaitHopeless,
}

/// A job whose n-th run does the n-th thing, and every later run the last one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    pub name: String,
    pub does: Vec<Do>,
}

/// As [`Act`], two at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paired(pub Act);

/// As [`Act`], but a run may take 300 ms only.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hasty(pub Act);

/// Runs by name, and how many ran at once at most.
#[derive(Debug, Default)]
struct Seen {
    runs: HashMap<String, Vec<Instant>>,
    /// Paired jobs that run now, by test.
    now: HashMap<String, usize>,
}

fn seen() -> &'static Mutex<Seen> {
    static SEEN: OnceLock<Mutex<Seen>> = OnceLock::new();
    SEEN.get_or_init(Mutex::default)
}

/// When the runs of a job began.
pub fn runs(name: &str) -> Vec<Instant> {
    seen().lock().unwrap().runs.get(name).cloned().unwrap_or_default()
}

async fn act(act: Act) -> Result<String, Failure> {
    let Act { name, does } = act;
    let run = {
        let mut seen = seen().lock().unwrap();
        let runs = seen.runs.entry(name.clone()).or_default();
        runs.push(Instant::now());
        runs.len()
    };
    let why = || anyhow!("asked to");
    match does.get(run - 1).or(does.last()).copied().unwrap_or(Do::Report) {
        Do::Report => Ok(name),
        Do::Fail => Err(Failure::Retry(why())),
        Do::After(ms) => Err(Failure::RetryAfter(Duration::from_millis(ms), why())),
        Do::GiveUp => Err(Failure::GiveUp(why())),
        Do::Panic => panic!("as asked"),
        Do::Sleep(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(name)
        }
        Do::Block(ms) => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(name)
        }
        Do::Await(n) => {
            let child = |i| Request::of(&Act { name: format!("{name}/child {i}"), does: vec![Do::Sleep(50)] }).unwrap();
            Err(Failure::WaitFor((0..n).map(child).collect(), Duration::from_secs(3600), why()))
        }
        Do::AwaitHopeless => {
            let child = Act { name: format!("{name}/child"), does: vec![Do::GiveUp] };
            Err(Failure::WaitFor(vec![Request::of(&child).unwrap()], Duration::from_secs(3600), why()))
        }
    }
}

impl Job for Act {
    const KIND: &'static str = "act";
    const DESCRIPTION: &'static str = "do as asked";
    const MAX_CONCURRENT: usize = 1000;
    type Report = String;

    async fn run(self, _: &Context, _: Timestamp) -> Result<String, Failure> {
        act(self).await
    }
}

impl Job for Paired {
    const KIND: &'static str = "paired";
    const DESCRIPTION: &'static str = "do as summaries, two at once";
    const MAX_CONCURRENT: usize = 2;
    type Report = String;

    async fn run(self, _: &Context, _: Timestamp) -> Result<String, Failure> {
        let test = self.0.name.split(':').next().unwrap_or_default().to_owned();
        {
            let mut seen = seen().lock().unwrap();
            let now = seen.now.entry(test.clone()).or_default();
            *now += 1;
            assert!(*now <= 2, "{now} at once");
        }
        let done = act(self.0).await;
        *seen().lock().unwrap().now.entry(test).or_default() -= 1;
        done
    }
}

impl Job for Hasty {
    const KIND: &'static str = "hasty";
    const DESCRIPTION: &'static str = "do as summaries, quickly";
    const TIMEOUT: Duration = Duration::from_millis(300);
    type Report = String;

    async fn run(self, _: &Context, _: Timestamp) -> Result<String, Failure> {
        act(self.0).await
    }
}

/// As [`Act`], by a worker that is lost with it. It blocks its thread for a while, so that other
/// jobs are claimed and do not begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stuck(pub Act);

impl Job for Stuck {
    const KIND: &'static str = Act::KIND;
    const DESCRIPTION: &'static str = "do nothing";
    const MAX_CONCURRENT: usize = 1000;
    type Report = String;

    async fn run(self, _: &Context, _: Timestamp) -> Result<String, Failure> {
        std::thread::sleep(Duration::from_secs(1));
        std::future::pending().await
    }
}

pub fn kinds() -> Kinds {
    Kinds::of([Kind::of::<Act>(), Kind::of::<Paired>(), Kind::of::<Hasty>(), Kind::of::<jobs::probe::Probe>()])
}

pub fn job(name: &str, does: &[Do]) -> NewJob {
    NewJob::of(&Act { name: name.to_owned(), does: does.to_vec() }, "test").unwrap()
}

/// Short leases, so that tests are.
pub fn policy() -> WorkerSettings {
    WorkerSettings {
        concurrency: 8,
        lease: Duration::from_secs(2),
        poll: Duration::from_millis(50),
        grace: Duration::from_secs(5),
        backoff: Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) },
        ..WorkerSettings::default()
    }
}

enum Store {
    File(TempDir),
    Served { _folder: TempDir, server: HranaServer },
    Real { url: String, _turn: OwnedMutexGuard<()> },
}

/// A store that is empty at first.
pub struct TestStore {
    store: Store,
    /// In front of the names of its jobs, because runs are counted for the whole process.
    prefix: String,
}

impl TestStore {
    pub async fn local(test: &str) -> Self {
        Self::with(Store::File(TempDir::new().unwrap()), format!("local {test}")).await
    }

    /// Over the remote protocol: a server of our own, or the one that `LIBSQL_TEST_URL` names,
    /// which is emptied.
    pub async fn remote(test: &str) -> Self {
        static ONE_AT_A_TIME: OnceLock<Arc<AsyncMutex<()>>> = OnceLock::new();
        let store = match std::env::var("LIBSQL_TEST_URL") {
            Ok(url) => {
                let _turn = Arc::clone(ONE_AT_A_TIME.get_or_init(Arc::default)).lock_owned().await;
                Store::Real { url, _turn }
            }
            Err(_) => {
                let folder = TempDir::new().unwrap();
                let server = HranaServer::start(&folder.path().join("served.db"));
                Store::Served { _folder: folder, server }
            }
        };
        Self::with(store, format!("remote {test}")).await
    }

    async fn with(store: Store, prefix: String) -> Self {
        let store = Self { store, prefix };
        let books = store.books().await;
        books.migrate(Timestamp::now()).await.unwrap();
        // all migrations at once are not what the test is about
        if let Some(server) = store.server() {
            server.long_transactions();
        }
        for table in ["jobs", "workers", "schedules", "probes"] {
            books.transaction(async move |c| Ok(c.execute(&format!("DELETE FROM {table}"), ()).await?)).await.unwrap();
        }
        store
    }

    /// The server in front of the store, when it is one of ours.
    pub fn server(&self) -> Option<&HranaServer> {
        match &self.store {
            Store::Served { server, .. } => Some(server),
            Store::File(_) | Store::Real { .. } => None,
        }
    }

    pub fn url(&self) -> String {
        match &self.store {
            Store::File(folder) => folder.path().join("meter.db").display().to_string(),
            Store::Served { server, .. } => server.url(),
            Store::Real { url, .. } => url.clone(),
        }
    }

    fn config(&self) -> Config {
        let token = std::env::var("LIBSQL_TEST_TOKEN").unwrap_or_default();
        let variables = [
            ("METER_DATABASE__URL", self.url()),
            ("METER_DATABASE__TOKEN", token),
            ("METER_QUEUE__LEASE_SECONDS", "2".into()),
        ];
        Config::load(None, variables.into_iter().map(|(name, value)| (name.to_owned(), value))).unwrap()
    }

    pub async fn books(&self) -> Database {
        meter::wiring::open_books(&self.config(), meter::wiring::Open::CREATE).await.unwrap()
    }

    /// The queue as another process sees it.
    pub async fn queue(&self) -> Queue {
        self.queue_at(Clock::system()).await
    }

    pub async fn queue_at(&self, clock: Clock) -> Queue {
        let books = meter::wiring::open_books(&self.config(), meter::wiring::Open::CREATE).await.unwrap();
        Queue::new(books, clock)
    }

    pub async fn context(&self) -> Context {
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
        Context {
            books: self.books().await,
            exports: Arc::new(BTreeMap::new()),
            shared_buckets: Arc::default(),
            read_settings,
            enforcement,
            measuring: Arc::default(),
            webhook: None,
            operator: Arc::default(),
            billing: Arc::default(),
        }
    }

    pub fn name(&self, name: &str) -> String {
        format!("{}: {name}", self.prefix)
    }

    pub fn job(&self, name: &str, does: &[Do]) -> NewJob {
        job(&self.name(name), does)
    }

    pub fn runs(&self, name: &str) -> Vec<Instant> {
        runs(&self.name(name))
    }

    /// A worker process, as far as the store can tell.
    pub async fn worker(&self, queue: &Queue, policy: WorkerSettings) -> Running {
        self.worker_of(queue, policy, kinds()).await
    }

    pub async fn worker_of(&self, queue: &Queue, policy: WorkerSettings, kinds: Kinds) -> Running {
        let identity = Identity { host: "here".into(), pid: 1, version: "0".into() };
        let context = self.context().await;
        let (queue, settings, metrics) = (queue.clone(), policy, Metrics::new(&[]).unwrap());
        let worker = Worker::new(NewWorker { queue, context, kinds, settings, identity, metrics });
        worker.register().await.unwrap();
        let stopper = worker.stopper();
        Running { stopper, task: tokio::spawn(worker.run()) }
    }
}

/// A worker process that can be killed: it lives in a runtime of its own, which goes with
/// everything in it.
pub struct KillableWorker(Option<tokio::runtime::Runtime>);

impl KillableWorker {
    /// A worker that gets stuck in each [`Act`].
    pub async fn start(store: &TestStore, policy: WorkerSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (queue, context) = (store.queue().await, store.context().await);
        let identity = Identity { host: "gone".into(), pid: 2, version: "0".into() };
        let (kinds, settings, metrics) = (Kinds::of([Kind::of::<Stuck>()]), policy, Metrics::new(&[]).unwrap());
        let worker = Worker::new(NewWorker { queue, context, kinds, settings, identity, metrics });
        worker.register().await.unwrap();
        runtime.spawn(worker.run());
        Self(Some(runtime))
    }

    pub fn kill(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

pub struct Running {
    pub stopper: Stopper,
    pub task: JoinHandle<anyhow::Result<Tally>>,
}

impl Running {
    pub async fn stop(self) -> Tally {
        self.stopper.stop();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("it stops").unwrap().unwrap()
    }
}

/// The only job with this number or id.
pub async fn row(queue: &Queue, id: &str) -> JobRow {
    queue.get(id).await.unwrap().expect("the job is there")
}

/// Waits until `holds`; fails with what it saw last.
pub async fn until(queue: &Queue, what: &str, holds: impl Fn(&[JobRow]) -> bool) -> Vec<JobRow> {
    let start = Instant::now();
    loop {
        let mut rows = queue.list(&JobFilter::default(), 10_000).await.unwrap();
        rows.reverse();
        if holds(&rows) {
            return rows;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: {:?}", summaries(&rows));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn summaries(rows: &[JobRow]) -> Vec<String> {
    rows.iter().map(|r| format!("{} {} {} {:?} {}", r.seq, r.kind, r.state, r.reason, r.payload)).collect()
}

pub fn all(state: JobState) -> impl Fn(&[JobRow]) -> bool {
    move |rows| !rows.is_empty() && rows.iter().all(|r| r.state == state)
}
