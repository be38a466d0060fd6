//! Counts of what a database costs: requests, connections, bytes, rows, waits for the write lock.

use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What a handle and its clones have cost so far. A local file counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    pub requests: u64,
    /// TCP connections that these requests opened.
    pub connections: u64,
    /// Bodies of requests.
    pub bytes_sent: u64,
    /// Bodies of answers.
    pub bytes_received: u64,
    /// As the server counts and Turso bills them.
    pub rows_read: u64,
    pub rows_written: u64,
    /// The server's own time for the statements.
    pub query_ms: u64,
    /// From the answer to BEGIN to the answer to COMMIT or ROLLBACK; a difference keeps it.
    pub longest_transaction_ms: u64,
    /// Transactions of more than 2 s; each one is also a warning in the log.
    pub long_transactions: u64,
}

impl Traffic {
    pub fn rows(self) -> RowCounts {
        RowCounts { read: self.rows_read, written: self.rows_written }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            connections: self.connections.saturating_sub(earlier.connections),
            bytes_sent: self.bytes_sent.saturating_sub(earlier.bytes_sent),
            bytes_received: self.bytes_received.saturating_sub(earlier.bytes_received),
            rows_read: self.rows_read.saturating_sub(earlier.rows_read),
            rows_written: self.rows_written.saturating_sub(earlier.rows_written),
            query_ms: self.query_ms.saturating_sub(earlier.query_ms),
            longest_transaction_ms: self.longest_transaction_ms,
            long_transactions: self.long_transactions.saturating_sub(earlier.long_transactions),
        }
    }
}

/// Rows that a remote database read and wrote, as its plan counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct RowCounts {
    pub read: u64,
    pub written: u64,
}

impl RowCounts {
    pub(super) fn each(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Self { read: f(self.read, other.read), written: f(self.written, other.written) }
    }
}

impl Add for RowCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }
}

impl Sub for RowCounts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }
}

/// Long waits for the write lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyWaits {
    pub count: u64,
    /// In all of them together.
    pub waited: Duration,
}

/// The counters behind [`Traffic`] and [`BusyWaits`], shared by the clones of a handle. What is
/// added to them is added to those above them too: of a run, its database, and the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    above: Option<Arc<Counters>>,
    /// Of the process: the rows that are in the sum of the day already.
    pub(super) kept: tokio::sync::Mutex<RowCounts>,
    requests: AtomicU64,
    connections: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    rows_read: AtomicU64,
    rows_written: AtomicU64,
    query_micros: AtomicU64,
    longest_transaction_ms: AtomicU64,
    long_transactions: AtomicU64,
    busy: AtomicU64,
    busy_micros: AtomicU64,
    answered: Mutex<Option<Instant>>,
}

/// A duration or a length as a counter holds it.
fn number(n: impl TryInto<u64>) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}

impl Counters {
    /// New ones below these.
    pub(crate) fn below(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { above: Some(Arc::clone(self)), ..Self::default() })
    }

    /// These, and all above them.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |counters| counters.above.as_deref())
    }

    /// Those of the process.
    pub(super) fn process(&self) -> &Self {
        self.all().last().unwrap_or(self)
    }

    fn add(&self, counter: fn(&Self) -> &AtomicU64, n: impl TryInto<u64>) {
        let n = number(n);
        for counters in self.all() {
            counter(counters).fetch_add(n, Relaxed);
        }
    }

    pub(crate) fn request(&self, sent: usize) {
        self.add(|c| &c.requests, 1_u64);
        self.add(|c| &c.bytes_sent, sent);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.add(|c| &c.bytes_received, bytes);
    }

    pub(crate) fn answered(&self) {
        for counters in self.all() {
            *counters.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    pub(crate) fn answered_within(&self, time: Duration) -> bool {
        let last = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < time)
    }

    pub(crate) fn connection(&self) {
        self.add(|c| &c.connections, 1_u64);
    }

    pub(crate) fn statement(&self, rows_read: u64, rows_written: u64, took: Duration) {
        self.add(|c| &c.rows_read, rows_read);
        self.add(|c| &c.rows_written, rows_written);
        self.add(|c| &c.query_micros, took.as_micros());
    }

    /// `long`: it was warned of.
    pub(crate) fn transaction(&self, took: Duration, long: bool) {
        self.add(|c| &c.long_transactions, u64::from(long));
        let ms = number(took.as_millis());
        for counters in self.all() {
            counters.longest_transaction_ms.fetch_max(ms, Relaxed);
        }
    }

    pub(crate) fn busy(&self, waited: Duration) {
        self.add(|c| &c.busy, 1_u64);
        self.add(|c| &c.busy_micros, waited.as_micros());
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Relaxed),
            connections: self.connections.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
            rows_read: self.rows_read.load(Relaxed),
            rows_written: self.rows_written.load(Relaxed),
            query_ms: self.query_micros.load(Relaxed) / 1000,
            longest_transaction_ms: self.longest_transaction_ms.load(Relaxed),
            long_transactions: self.long_transactions.load(Relaxed),
        }
    }

    pub(crate) fn busy_waits(&self) -> BusyWaits {
        BusyWaits { count: self.busy.load(Relaxed), waited: Duration::from_micros(self.busy_micros.load(Relaxed)) }
    }
}
