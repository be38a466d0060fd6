//! Reads overviews and keeps the last one, so that no scrape and no page waits for a query.
//!
//! The cost is bounded: each half is read again after `http.snapshot_seconds` at the earliest, and
//! after fifty times the duration of its last reading (2 % of the time). A remote database charges
//! for each row that is read, so figures of all customers are read twenty times less often there.
//! The collector has a connection of its own, so that it delays no booking.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use books::audit::checks::last_audit;
use books::audit::stats::{BillStats, BooksStats, CustomerStats, books_stats, customer_stats};
use books::store::connection::Connection;
use books::store::row_counts::month_rows;
use books::store::settings;
use books::{BooksError, Database};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, OnceCell};

use super::checks;
use super::overview::{BillingMode, Overview};
use crate::config::Config;
use crate::queue::{Clock, Counts, Queue, QueueStats, finished, stats};
use crate::wiring::{self, Open};

/// The setting of books that `meter demo` made.
pub(crate) const MADE_BY_DEMO: &str = "demo";
/// The pause after a reading, as a multiple of its duration.
const IDLE_FACTOR: u32 = 50;
/// How much less often the slow figures of a remote database are read.
const REMOTE_FACTOR: u32 = 20;

/// Without requests an overview is read after this time, so that the next request finds no old
/// figures.
const IDLE: Duration = Duration::from_secs(300);
/// The shortest pause after a failure.
const AGAIN: Duration = Duration::from_secs(30);
/// The shortest pause after the database has refused everything.
const BLOCKED: Duration = Duration::from_secs(60);
/// A remote database has this long to answer.
const WAIT: Duration = Duration::from_secs(20);

/// Figures of every customer and every finished job.
#[derive(Clone, Debug)]
struct SlowStats {
    customers: CustomerStats,
    finished: Counts,
    at: Timestamp,
    took: Duration,
    read: Instant,
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

    fn least(&self) -> Duration {
        Duration::from_secs(u64::from(self.0.config.http.snapshot_seconds))
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
        let slow = self.slow(now).await?;
        self.with(now, &slow).await
    }

    async fn slow(&self, now: Timestamp) -> anyhow::Result<SlowStats> {
        let began = Instant::now();
        let read = async move |c: &Connection| tokio::try_join!(customer_stats(c, now), finished(c));
        let (customers, finished) = self.books().await?.with_connection(read).await?;
        Ok(SlowStats { customers, finished, at: now, took: began.elapsed(), read: Instant::now() })
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

    async fn with(&self, now: Timestamp, slow: &SlowStats) -> anyhow::Result<Overview> {
        let Inner { config, kinds, scheduled, .. } = &*self.0;
        let began = Instant::now();
        let lease = Duration::from_secs(u64::from(config.queue.lease_seconds));
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let finished = slow.finished.clone();
        let read = async move |c: &Connection| {
            tokio::try_join!(
                stats(c, now, &kinds, &finished, lease),
                last_audit(c),
                books_stats(c, now),
                settings::get(c, MADE_BY_DEMO),
                async { if c.is_local() { Ok(None) } else { month_rows(c, now).await.map(Some) } }
            )
        };
        let (queue, audit, books, demo, rows) = self.books().await?.with_connection(read).await?;
        let mut overview = Overview {
            at: now,
            took: SignedDuration::ZERO,
            database: config.database.url.clone(),
            free_bytes: wiring::local_path(config).and_then(free_bytes_beside),
            rows,
            rows_quota: config.database.rows_quota,
            billing: BillingMode::Off,
            notifications_go_out: config.notifications.url.is_some(),
            books: self.of_payers(books),
            customers: slow.customers.clone(),
            customers_at: slow.at,
            queue: QueueStats { scheduled: scheduled.clone(), ..queue },
            audit,
            findings: vec![],
        };
        overview.took = SignedDuration::try_from(began.elapsed() + slow.took).unwrap_or_default();
        overview.billing = billing_mode(config, demo.is_some());
        overview.findings = checks::run(&overview);
        Ok(overview)
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

    async fn refresh(&self, slow: &mut Option<SlowStats>) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let least = if self.books().await?.is_local() { self.least() } else { self.least() * REMOTE_FACTOR };
        if slow.as_ref().is_none_or(|h| h.read.elapsed() >= least.max(h.took * IDLE_FACTOR)) {
            *slow = Some(self.slow(now).await?);
        }
        let Some(slow) = slow else { return Ok(()) };
        let overview = self.with(now, slow).await?;
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
