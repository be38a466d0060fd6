//! Reads the standing, and keeps the last reading, so that a scrape or a page never waits for a
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
use prometheus::proto::MetricFamily;
use tokio::sync::{Notify, OnceCell};

use super::{Audit, QueueStanding, Standing, findings};
use crate::config::Config;
use crate::metrics::{Metrics, gauges_of};
use crate::queue::{Clock, Counts, Kinds, Queue};
use crate::{schedule, wiring};

/// A half is read again after so many times as long as reading it took.
const IDLE_FACTOR: u32 = 50;
/// How much less often every customer is looked at on a remote database.
const REMOTE_FACTOR: u32 = 20;

/// A reading, and the gauges that it makes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub standing: Standing,
    pub gauges: Vec<MetricFamily>,
}

/// Nobody asks for longer than this, and it is read all the same: the first who comes back finds no
/// old figures.
const IDLE: Duration = Duration::from_secs(300);
/// After a failure it is tried again so soon, whatever the failure took.
const AGAIN: Duration = Duration::from_secs(30);
/// A remote database has so long to answer; figures are no booking.
const WAIT: Duration = Duration::from_secs(20);

/// What looks at every customer and every job that is over.
#[derive(Clone, Debug)]
struct Heavy {
    customers: CustomersStanding,
    over: Counts,
    at: Timestamp,
    took: Duration,
    read: Instant,
}

/// Reads, and keeps what was read; cheap to clone.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    config: Config,
    books: OnceCell<Database>,
    kinds: Vec<&'static str>,
    scheduled: BTreeSet<String>,
    last: RwLock<Option<Arc<Snapshot>>>,
    asked: Notify,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

impl Observer {
    /// One that connects, with a connection of its own, when it first reads.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            config: config.clone(),
            books: OnceCell::new(),
            kinds: Kinds::all().names(),
            scheduled: schedule::kinds(config),
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
        self.0.books.get_or_try_init(async || wiring::existing_books_within(&self.0.config, WAIT).await).await
    }

    pub async fn read(&self, now: Timestamp) -> anyhow::Result<Standing> {
        let heavy = self.heavy(now).await?;
        self.with(now, &heavy).await
    }

    async fn heavy(&self, now: Timestamp) -> anyhow::Result<Heavy> {
        let began = Instant::now();
        let customers = self.books().await?.customers_standing(now).await?;
        let over = self.queue().await?.over().await?;
        Ok(Heavy { customers, over, at: now, took: began.elapsed(), read: Instant::now() })
    }

    /// The books, of the payers that bills are still read of: an account that was closed for good
    /// is nobody's worry, and one of which nothing ever came is.
    async fn standing(&self, now: Timestamp) -> anyhow::Result<BooksStanding> {
        let mut found = self.books().await?.books_standing(now).await?;
        let payers: Vec<&String> = self.0.config.exports.iter().map(|e| &e.payer).collect();
        found.bills.retain(|bill| payers.is_empty() || payers.contains(&&bill.payer));
        let silent = payers.iter().filter(|payer| !found.bills.iter().any(|bill| bill.payer == ***payer));
        let silent: Vec<BillStanding> = silent.map(|payer| BillStanding::none(payer)).collect();
        found.bills.extend(silent);
        Ok(found)
    }

    async fn with(&self, now: Timestamp, heavy: &Heavy) -> anyhow::Result<Standing> {
        let Inner { config, kinds, scheduled, .. } = &*self.0;
        let began = Instant::now();
        let lease = Duration::from_secs(u64::from(config.queue.lease_seconds));
        let queue = self.queue().await?.standing(kinds, &heavy.over, lease).await?;
        let audit = self.books().await?.last_audit().await?;
        let mut standing = Standing {
            at: now,
            took: SignedDuration::ZERO,
            database: config.database.url.clone(),
            free_bytes: wiring::local_path(config).and_then(free_beside),
            billing: "",
            notifications_go_out: config.notifications.url.is_some(),
            books: self.standing(now).await?,
            customers: heavy.customers.clone(),
            customers_at: heavy.at,
            queue: QueueStanding { scheduled: scheduled.clone(), ..queue },
            audit: Audit { at: audit.at, violations: audit.violations },
            findings: vec![],
        };
        standing.took = SignedDuration::try_from(began.elapsed() + heavy.took).unwrap_or_default();
        standing.billing = billing(config, standing.books.stripe.of_a_demo);
        standing.findings = findings::of(&standing);
        Ok(standing)
    }

    /// The last reading, if there is one; asks for a newer one, and does not wait for it.
    pub fn last(&self) -> Option<Arc<Snapshot>> {
        self.0.asked.notify_one();
        self.0.last.read().ok().and_then(|last| last.clone())
    }

    /// Reads whenever somebody asks, as often as is allowed, for as long as the process lives.
    pub async fn run(self, metrics: Metrics) {
        let (mut heavy, mut failing) = (None::<Heavy>, false);
        loop {
            let began = Instant::now();
            let pause = match self.refresh(&mut heavy).await {
                Ok(()) => {
                    failing = false;
                    self.least().max(began.elapsed() * IDLE_FACTOR)
                }
                Err(error) => {
                    metrics.snapshot_failed();
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

    async fn refresh(&self, heavy: &mut Option<Heavy>) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let least = if self.books().await?.is_local() { self.least() } else { self.least() * REMOTE_FACTOR };
        if heavy.as_ref().is_none_or(|h| h.read.elapsed() >= least.max(h.took * IDLE_FACTOR)) {
            *heavy = Some(self.heavy(now).await?);
        }
        let Some(heavy) = heavy else { return Ok(()) };
        let standing = self.with(now, heavy).await?;
        let meters: Vec<&str> = self.0.config.meters.iter().map(|m| m.name.as_str()).collect();
        let gauges = gauges_of(&standing, &meters)?;
        if let Ok(mut last) = self.0.last.write() {
            *last = Some(Arc::new(Snapshot { standing, gauges }));
        }
        Ok(())
    }
}

fn billing(config: &Config, of_a_demo: bool) -> &'static str {
    if of_a_demo && config.stripe.key.expose().is_empty() {
        return "demo";
    }
    match (config.stripe.meters.is_empty(), config.stripe.key.expose().is_empty(), config.stripe.live) {
        (true, ..) => "off",
        (false, true, _) => "dry_run",
        (false, false, true) => "live",
        (false, false, false) => "test",
    }
}

/// Bytes that are free for us where a file lies or will lie.
pub(crate) fn free_beside(file: &Path) -> Option<u64> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}
