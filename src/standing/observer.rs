//! Reads the standing, and keeps the last reading, so that a scrape or a page never waits for a query.
//!
//! What it may cost is bounded: a half is read again after `http.snapshot_seconds` at the soonest, and never before fifty times as long has
//! passed as reading it took (2 % of the time). On a remote database, where each row that is read is paid for, what looks at every customer is
//! read twenty times less often. It has a connection of its own, so that it holds up no booking.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use jobs::books::Database;
use jobs::books::standing::{BillStanding, BooksStanding, CustomersStanding};
use prometheus::proto::MetricFamily;
use tokio::sync::Notify;

use super::{Standing, findings};
use crate::config::Config;
use crate::metrics::{Metrics, gauges_of};
use crate::queue::{Clock, Kinds, Queue};
use crate::wiring;

/// A half is read again after so many times as long as reading it took.
const IDLE_FACTOR: u32 = 50;
/// How much less often every customer is looked at on a remote database.
const REMOTE_FACTOR: u32 = 20;

/// A reading, and the gauges that it makes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The reading.
    pub standing: Standing,
    /// Its gauges.
    pub gauges: Vec<MetricFamily>,
}

/// What looks at every customer, when it was read, and how long that took.
type Customers = (CustomersStanding, Timestamp, Duration, Instant);

/// Reads, and keeps what was read; cheap to clone.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    books: Database,
    queue: Queue,
    name: String,
    file: Option<PathBuf>,
    kinds: Vec<&'static str>,
    meters: Vec<String>,
    payers: Vec<String>,
    billing: &'static str,
    notices_go_out: bool,
    lease: Duration,
    least: Duration,
    last: RwLock<Option<Arc<Snapshot>>>,
    asked: Notify,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

impl Observer {
    /// One with a connection of its own to books that are there.
    ///
    /// # Errors
    /// As [`wiring::existing_books`].
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        let books = wiring::existing_books(config).await?;
        let file = wiring::local_path(config).map(Path::to_owned);
        Ok(Self(Arc::new(Inner {
            queue: Queue::new(books.clone(), Clock::system()),
            books,
            name: config.database.url.clone(),
            file,
            kinds: Kinds::all().names(),
            meters: config.meters.iter().map(|m| m.name.clone()).collect(),
            payers: config.exports.iter().map(|e| e.payer.clone()).collect(),
            billing: match (config.stripe.meters.is_empty(), config.stripe.key.expose().is_empty(), config.stripe.live)
            {
                (true, ..) => "off",
                (false, true, _) => "dry_run",
                (false, false, true) => "live",
                (false, false, false) => "test",
            },
            notices_go_out: config.notices.url.is_some(),
            lease: Duration::from_secs(u64::from(config.queue.lease_seconds)),
            least: Duration::from_secs(u64::from(config.http.snapshot_seconds)),
            last: RwLock::default(),
            asked: Notify::new(),
        })))
    }

    /// Reads everything now.
    ///
    /// # Errors
    /// What the database says.
    pub async fn read(&self, now: Timestamp) -> anyhow::Result<Standing> {
        let customers = self.customers(now).await?;
        self.with(now, &customers).await
    }

    async fn customers(&self, now: Timestamp) -> anyhow::Result<Customers> {
        let began = Instant::now();
        let found = self.0.books.customers_standing(now).await?;
        Ok((found, now, began.elapsed(), Instant::now()))
    }

    /// The books, of the payers that bills are still read of: an account that was closed for good is nobody's worry.
    async fn books(&self, now: Timestamp) -> anyhow::Result<BooksStanding> {
        let mut found = self.0.books.books_standing(now).await?;
        let payers = &self.0.payers;
        found.bills.retain(|bill| payers.is_empty() || payers.contains(&bill.payer));
        // one of whom nothing ever came is somebody's worry
        let silent = payers.iter().filter(|payer| !found.bills.iter().any(|bill| bill.payer == **payer));
        let silent: Vec<BillStanding> = silent.map(|payer| BillStanding::none(payer)).collect();
        found.bills.extend(silent);
        Ok(found)
    }

    async fn with(&self, now: Timestamp, (customers, customers_at, took, _): &Customers) -> anyhow::Result<Standing> {
        let Inner { queue, kinds, lease, .. } = &*self.0;
        let began = Instant::now();
        let mut standing = Standing {
            at: now,
            took: SignedDuration::ZERO,
            database: self.0.name.clone(),
            free_bytes: self.0.file.as_deref().and_then(free_beside),
            billing: self.0.billing,
            notices_go_out: self.0.notices_go_out,
            books: self.books(now).await?,
            customers: customers.clone(),
            customers_at: *customers_at,
            queue: queue.standing(kinds, *lease).await?,
            audit: queue.last_audit().await?,
            findings: vec![],
        };
        standing.took = SignedDuration::try_from(began.elapsed() + *took).unwrap_or_default();
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
        let (mut customers, mut failing) = (None::<Customers>, false);
        loop {
            let began = Instant::now();
            match self.refresh(&mut customers).await {
                Ok(()) => failing = false,
                Err(error) => {
                    metrics.snapshot_failed();
                    if !failing {
                        tracing::warn!("the books' figures cannot be read, trying until it works: {error:#}");
                    }
                    failing = true;
                }
            }
            tokio::time::sleep(self.0.least.max(began.elapsed() * IDLE_FACTOR)).await;
            self.0.asked.notified().await;
        }
    }

    async fn refresh(&self, customers: &mut Option<Customers>) -> anyhow::Result<()> {
        let now = Timestamp::now();
        let least = if self.0.books.is_local() { self.0.least } else { self.0.least * REMOTE_FACTOR };
        let current = customers.take().filter(|(.., took, at)| at.elapsed() < least.max(*took * IDLE_FACTOR));
        let current = match current {
            Some(current) => current,
            None => self.customers(now).await?,
        };
        let standing = self.with(now, &current).await?;
        *customers = Some(current);
        let meters: Vec<&str> = self.0.meters.iter().map(String::as_str).collect();
        let gauges = gauges_of(&standing, &meters)?;
        if let Ok(mut last) = self.0.last.write() {
            *last = Some(Arc::new(Snapshot { standing, gauges }));
        }
        Ok(())
    }
}

/// Bytes that are free for us where a file lies or will lie.
pub(crate) fn free_beside(file: &Path) -> Option<u64> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}
