//! Reads an overview, and keeps the last reading, so that a scrape or a page never waits for a
//! query.
//!
//! What it may cost is bounded: a half is read again after `http.snapshot_seconds` at the soonest,
//! and never before fifty times as long has passed as reading it took (2 % of the time). On a
//! remote database, where each row that is read is paid for, what looks at every customer is read
//! twenty times less often. It has a connection of its own, so that it holds up no booking.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use books::Database;
use books::audit::stats::{BillStanding, BooksStanding, CustomersStanding};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, OnceCell};

use super::checks;
use super::overview::{BillingMode, LastAudit, Overview};
use crate::config::Config;
use crate::queue::{Clock, Counts, Queue, QueueStats};
use crate::wiring::{self, Open};

/// A half is read again after so many times as long as reading it took.
const IDLE_FACTOR: u32 = 50;
/// How much less often every customer is looked at on a remote database.
const REMOTE_FACTOR: u32 = 20;

/// Nobody asks for longer than this, and it is read all the same: the first who comes back finds no
/// old figures.
const IDLE: Duration = Duration::from_secs(300);
/// After a failure it is tried again so soon, whatever the failure took.
const AGAIN: Duration = Duration::from_secs(30);
/// A remote database has so long to answer; figures are no booking.
const WAIT: Duration = Duration::from_secs(20);

/// What looks at every customer and every job that is over.
#[derive(Clone, Debug)]
struct SlowStats {
    customers: CustomersStanding,
    over: Counts,
    at: Timestamp,
    took: Duration,
    read: Instant,
}

/// Reads, and keeps what was read; cheap to clone.
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
    /// One that connects, with a connection of its own, when it first reads.
    /// `kinds` are shown even when they have no job; `scheduled` are those that some schedule enqueues.
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
        let customers = self.books().await?.customers_standing(now).await?;
        let over = self.queue().await?.over().await?;
        Ok(SlowStats { customers, over, at: now, took: began.elapsed(), read: Instant::now() })
    }

    /// The books, of the payers that bills are still read of: an account that was closed for good
    /// is nobody's worry, and one of which nothing ever came is.
    async fn books_stats(&self, now: Timestamp) -> anyhow::Result<BooksStanding> {
        let mut found = self.books().await?.books_standing(now).await?;
        let payers: Vec<&String> = self.0.config.exports.iter().map(|e| &e.payer).collect();
        found.bills.retain(|bill| payers.is_empty() || payers.contains(&&bill.payer));
        let silent = payers.iter().filter(|payer| !found.bills.iter().any(|bill| bill.payer == ***payer));
        let silent: Vec<BillStanding> = silent.map(|payer| BillStanding::none(payer)).collect();
        found.bills.extend(silent);
        Ok(found)
    }

    async fn with(&self, now: Timestamp, slow: &SlowStats) -> anyhow::Result<Overview> {
        let Inner { config, kinds, scheduled, .. } = &*self.0;
        let began = Instant::now();
        let lease = Duration::from_secs(u64::from(config.queue.lease_seconds));
        let queue = self.queue().await?.stats(kinds, &slow.over, lease).await?;
        let audit = self.books().await?.last_audit().await?;
        let mut overview = Overview {
            at: now,
            took: SignedDuration::ZERO,
            database: config.database.url.clone(),
            free_bytes: wiring::local_path(config).and_then(free_bytes_beside),
            billing: BillingMode::Off,
            notifications_go_out: config.notifications.url.is_some(),
            books: self.books_stats(now).await?,
            customers: slow.customers.clone(),
            customers_at: slow.at,
            queue: QueueStats { scheduled: scheduled.clone(), ..queue },
            audit: LastAudit { at: audit.at, violations: audit.violations },
            findings: vec![],
        };
        overview.took = SignedDuration::try_from(began.elapsed() + slow.took).unwrap_or_default();
        overview.billing = billing_mode(config, overview.books.stripe.of_a_demo);
        overview.findings = checks::run(&overview);
        Ok(overview)
    }

    /// The last reading, if there is one; asks for a newer one, and does not wait for it.
    pub fn last(&self) -> Option<Arc<Overview>> {
        self.0.asked.notify_one();
        self.0.last.read().ok().and_then(|last| last.clone())
    }

    /// Reads whenever somebody asks, as often as is allowed, for as long as the process lives.
    /// `on_failure` is called for each reading that fails.
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
                    self.least().max(AGAIN)
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

fn billing_mode(config: &Config, of_a_demo: bool) -> BillingMode {
    let (no_meter, no_key) = (config.stripe.meters.is_empty(), config.stripe.key.expose().is_empty());
    match (no_meter, no_key, config.stripe.live) {
        _ if of_a_demo && no_key => BillingMode::Demo,
        (true, ..) => BillingMode::Off,
        (false, true, _) => BillingMode::DryRun,
        (false, false, true) => BillingMode::Live,
        (false, false, false) => BillingMode::Test,
    }
}

/// Bytes that are free for us where a file lies or will lie.
pub(crate) fn free_bytes_beside(file: &Path) -> Option<u64> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}
