//! Reads overviews and keeps the last one, so that no scrape and no page waits for a query.
//!
//! The cost is bounded: each half is read again after `http.snapshot_seconds` at the earliest, and
//! after fifty times the duration of its last reading (2 % of the time). The collector has a
//! connection of its own, so that it delays no booking.
//!
//! A remote database charges for requests and for each row that is read. There an overview is read
//! at most each minute. Figures of all customers are read again when the books have marks of a
//! change, and once an hour. They are kept in the books, so that other workers and `meter status`
//! need not count anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use books::audit::checks::{LastAudit, last_audit};
use books::audit::stats::{
    BillStats, BooksStats, CustomerStats, MANY, amounts, books_stats, counted_customers, customer_marks,
};
use books::store::connection::Connection;
use books::store::row_counts::{MonthRows, month_rows};
use books::store::settings;
use books::units::calendar::CLOCK_SKEW;
use books::usage::months::{MonthLook, Months, looks, months};
use books::{BooksError, Database};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OnceCell};

use super::checks;
use super::exports::export_health;
use super::overview::{BillingMode, Overview};
use crate::config::Config;
use crate::queue::{Clock, IngestRuns, JobState, Queue, QueueStats, finished, ingest_runs, stats};
use crate::wiring::{self, Open};

/// The setting of books that `meter demo` made.
pub(crate) const MADE_BY_DEMO: &str = "demo";
/// The pause after a reading, as a multiple of its duration.
const IDLE_FACTOR: u32 = 50;
/// The shortest pause between two readings of a remote database.
const REMOTE_PAUSE: Duration = Duration::from_secs(60);
/// The shortest pause between two readings of its slow figures. A server charges for rows: with
/// 5,000 customers one is 65,000, so each five minutes would be 19 million a day.
const SLOW_PAUSE: Duration = Duration::from_secs(1800);
/// Slow figures of a remote database are used for this long at most.
const SLOW_AGE: Duration = Duration::from_secs(3600);
/// The setting that keeps them.
const KEPT: &str = "customer_stats";

/// Without requests an overview is read after this time, so that the next request finds no old
/// figures.
const IDLE: Duration = Duration::from_secs(300);
/// The shortest pause after a failure.
const AGAIN: Duration = Duration::from_secs(30);
/// The shortest pause after the database has refused everything.
const BLOCKED: Duration = Duration::from_secs(60);
/// A remote database has this long to answer.
const WAIT: Duration = Duration::from_secs(20);

/// Figures of every customer and every finished job, as they are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct SlowStats {
    customers: CustomerStats,
    finished: Vec<(String, JobState, i64)>,
    at: Timestamp,
    took: Duration,
    /// The marks of the books before they were read.
    marks: String,
}

impl SlowStats {
    fn age(&self, now: Timestamp) -> Duration {
        // a clock that was set back makes them old
        Duration::try_from(now.duration_since(self.at)).unwrap_or(Duration::MAX)
    }

    /// Whether the books have no mark of a change since, and they are not old.
    fn holds(&self, now: Timestamp, marks: &str) -> bool {
        self.marks == marks && self.age(now) < SLOW_AGE
    }
}

/// Figures that are read each time.
struct FastStats {
    queue: QueueStats,
    audit: LastAudit,
    books: BooksStats,
    amounts: CustomerStats,
    demo: bool,
    marks: String,
    kept: Option<SlowStats>,
    rows: Option<MonthRows>,
    months: Months,
    looks: Vec<MonthLook>,
    runs: BTreeMap<String, IngestRuns>,
}

/// Reads overviews and keeps the last one; cheap to clone.
#[derive(Clone)]
pub struct StatsCollector(Arc<Inner>);

struct Inner {
    config: Config,
    books: OnceCell<Database>,
    kinds: Vec<&'static str>,
    scheduled: BTreeSet<String>,
    last: RwLock<Option<Arc<Overview>>>,
    asked: Notify,
}

impl std::fmt::Debug for StatsCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatsCollector")
    }
}

impl StatsCollector {
    /// A collector that connects when it first reads. `kinds` are shown even without a job; some
    /// schedule enqueues the `scheduled` ones.
    pub fn new(config: &Config, kinds: Vec<&'static str>, scheduled: BTreeSet<String>) -> Self {
        Self(Arc::new(Inner {
            config: config.clone(),
            books: OnceCell::new(),
            kinds,
            scheduled,
            last: RwLock::default(),
            asked: Notify::new(),
        }))
    }

    /// The shortest pause between two readings.
    pub fn least(&self) -> Duration {
        let least = Duration::from_secs(u64::from(self.0.config.http.snapshot_seconds));
        if wiring::local_path(&self.0.config).is_some() { least } else { least.max(REMOTE_PAUSE) }
    }

    /// The queue, on this connection.
    pub async fn queue(&self) -> anyhow::Result<Queue> {
        Ok(Queue::new(self.books().await?.clone(), Clock::system()))
    }

    async fn books(&self) -> anyhow::Result<&Database> {
        self.0
            .books
            .get_or_try_init(async || wiring::open_books(&self.0.config, Open::EXISTING.within(WAIT)).await)
            .await
    }

    pub async fn read(&self, now: Timestamp) -> anyhow::Result<Overview> {
        let began = Instant::now();
        let fast = self.fast(now).await?;
        let slow = match fast.kept.clone().filter(|slow| slow.holds(now, &fast.marks)) {
            Some(slow) => slow,
            None => self.slow(now, &fast.marks).await?,
        };
        Ok(self.overview(now, fast, &slow, began.elapsed()))
    }

    async fn slow(&self, now: Timestamp, marks: &str) -> anyhow::Result<SlowStats> {
        let began = Instant::now();
        let read = async move |c: &Connection| tokio::try_join!(counted_customers(c, now), finished(c));
        let (customers, finished) = self.books().await?.with_connection(read).await?;
        let finished = finished.into_iter().map(|((kind, state), count)| (kind, state, count)).collect();
        Ok(SlowStats { customers, finished, at: now, took: began.elapsed(), marks: marks.to_owned() })
    }

    /// Makes figures of the books those of exactly the configured payers: a closed account is left
    /// out, and a payer without any bill is there.
    fn of_payers(&self, mut found: BooksStats) -> BooksStats {
        let payers: Vec<&String> = self.0.config.exports.iter().map(|e| &e.payer).collect();
        found.bills.retain(|bill| payers.is_empty() || payers.contains(&&bill.payer));
        let silent = payers.iter().filter(|payer| !found.bills.iter().any(|bill| bill.payer == ***payer));
        let silent: Vec<BillStats> = silent.map(|payer| BillStats::none(payer)).collect();
        found.bills.extend(silent);
        found
    }

    async fn fast(&self, now: Timestamp) -> anyhow::Result<FastStats> {
        let Inner { config, kinds, .. } = &*self.0;
        let silent_after = config.queue.silent_after() + CLOCK_SKEW.unsigned_abs();
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let exports: Vec<String> = config.exports.iter().map(|e| e.name.clone()).collect();
        let read = async move |c: &Connection| {
            tokio::try_join!(
                stats(c, now, &kinds, silent_after),
                last_audit(c),
                books_stats(c, now),
                amounts(c),
                settings::get(c, MADE_BY_DEMO),
                customer_marks(c, now),
                settings::get(c, KEPT),
                async { if c.is_local() { Ok(None) } else { month_rows(c, now).await.map(Some) } },
                months(c, now),
                looks(c),
                ingest_runs(c, &exports),
            )
        };
        let books = self.books().await?;
        let (found, local) = (books.with_connection(read).await?, books.is_local());
        let (queue, audit, books, amounts, demo, marks, kept, rows, months, looks, runs) = found;
        // a file is counted anew, and another build may have kept other figures
        let kept = kept.filter(|_| !local).and_then(|kept| serde_json::from_str(&kept).ok());
        let demo = demo.is_some();
        Ok(FastStats { queue, audit, books, amounts, demo, marks, kept, rows, months, looks, runs })
    }

    fn overview(&self, now: Timestamp, fast: FastStats, slow: &SlowStats, took: Duration) -> Overview {
        let Inner { config, scheduled, .. } = &*self.0;
        let FastStats { mut queue, audit, mut books, amounts, demo, rows, months, looks, mut runs, .. } = fast;
        let exports = config
            .exports
            .iter()
            .map(|export| export_health(export, &months, &looks, runs.remove(&export.name).unwrap_or_default(), now));
        let exports = exports.collect();
        if books.notifications.pending >= MANY {
            books.notifications.pending = slow.customers.pending_notifications.max(MANY);
        }
        queue.add(&slow.finished.iter().map(|(kind, state, count)| ((kind.clone(), *state), *count)).collect());
        let mut overview = Overview {
            at: now,
            took: SignedDuration::try_from(took).unwrap_or_default(),
            database: config.database.url.clone(),
            free_bytes: wiring::local_path(config).and_then(free_bytes_beside),
            rows,
            rows_quota: config.database.rows_quota,
            billing: billing_mode(config, demo),
            notifications_go_out: config.notifications.url.is_some(),
            operator_messages_go_out: config.operator.is_on(),
            books: self.of_payers(books),
            customers: slow.customers.clone().with_amounts(amounts),
            customers_at: slow.at,
            queue: QueueStats { scheduled: scheduled.clone(), ..queue },
            share_bands: config.shared_buckets.iter().map(|b| (b.name.clone(), b.band_percent)).collect(),
            exports,
            audit,
            findings: vec![],
        };
        overview.findings = checks::run(&overview);
        overview
    }

    /// The last reading, if there is one. Requests a newer one without waiting for it.
    pub fn last(&self) -> Option<Arc<Overview>> {
        self.0.asked.notify_one();
        self.0.last.read().ok().and_then(|last| last.clone())
    }

    /// Serves the requests of [`Self::last`], as often as the cost allows, and never ends. Calls
    /// `on_failure` for each failed reading.
    pub async fn run(self, on_failure: impl Fn()) {
        let (mut slow, mut failing) = (None::<SlowStats>, false);
        loop {
            let began = Instant::now();
            let pause = match self.refresh(&mut slow).await {
                Ok(()) => {
                    failing = false;
                    self.least().max(began.elapsed() * IDLE_FACTOR)
                }
                Err(error) => {
                    on_failure();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("the books' figures cannot be read, trying until it works: {error:#}");
                    }
                    let blocked = matches!(error.downcast_ref(), Some(BooksError::Quota(_)));
                    self.least().max(if blocked { BLOCKED } else { AGAIN })
                }
            };
            tokio::time::sleep(pause).await;
            drop(tokio::time::timeout(IDLE, self.0.asked.notified()).await);
        }
    }

    async fn refresh(&self, last: &mut Option<SlowStats>) -> anyhow::Result<()> {
        let (now, began) = (Timestamp::now(), Instant::now());
        let fast = self.fast(now).await?;
        let local = self.books().await?.is_local();
        let known = if local { last.take() } else { fast.kept.clone() };
        let holds = |slow: &SlowStats| {
            let pause = if local { self.least() } else { self.least().max(SLOW_PAUSE) };
            slow.age(now) < pause.max(slow.took * IDLE_FACTOR) || !local && slow.holds(now, &fast.marks)
        };
        let slow = match known.filter(holds) {
            Some(slow) => slow,
            None => self.slow(now, &fast.marks).await?,
        };
        if !local && slow.at == now {
            let kept = serde_json::to_string(&slow)?;
            self.books().await?.with_connection(async move |c| settings::put(c, KEPT, &kept).await).await?;
        }
        let overview = self.overview(now, fast, &slow, began.elapsed());
        *last = Some(slow);
        if let Ok(mut last) = self.0.last.write() {
            *last = Some(Arc::new(overview));
        }
        Ok(())
    }
}

fn billing_mode(config: &Config, made_by_demo: bool) -> BillingMode {
    let (no_meter, no_key) = (config.stripe.meters.is_empty(), config.stripe.key.expose().is_empty());
    match (no_meter, no_key, config.stripe.live) {
        _ if made_by_demo && no_key => BillingMode::Demo,
        (true, ..) => BillingMode::Off,
        (false, true, _) => BillingMode::DryRun,
        (false, false, true) => BillingMode::Live,
        (false, false, false) => BillingMode::Test,
    }
}

/// Free bytes on the disk of a file, which need not exist yet.
pub(crate) fn free_bytes_beside(file: &Path) -> Option<u64> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}
