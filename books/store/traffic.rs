//! Counts of what a database costs: requests, connections, bytes, rows, waits for the write lock.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What a handle and its clones have cost so far. A local file counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        }
    }
}

/// Long waits for the write lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusyWaits {
    pub count: u64,
    /// In all of them together.
    pub waited: Duration,
}

/// The counters behind [`Traffic`] and [`BusyWaits`], shared by the clones of a handle.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    connections: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    rows_read: AtomicU64,
    rows_written: AtomicU64,
    query_micros: AtomicU64,
    longest_transaction_ms: AtomicU64,
    busy: AtomicU64,
    busy_micros: AtomicU64,
    answered: Mutex<Option<Instant>>,
}

/// A duration or a length as a counter holds it.
fn number(n: impl TryInto<u64>) -> u64 {
    n.try_into().unwrap_or(u64::MAX)
}

impl Counters {
    pub(crate) fn request(&self, sent: usize) {
        self.requests.fetch_add(1, Relaxed);
        self.bytes_sent.fetch_add(number(sent), Relaxed);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(number(bytes), Relaxed);
    }

    pub(crate) fn answered(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(crate) fn answered_within(&self, time: Duration) -> bool {
        let last = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < time)
    }

    pub(crate) fn connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn statement(&self, rows_read: u64, rows_written: u64, took: Duration) {
        self.rows_read.fetch_add(rows_read, Relaxed);
        self.rows_written.fetch_add(rows_written, Relaxed);
        self.query_micros.fetch_add(number(took.as_micros()), Relaxed);
    }

    pub(crate) fn transaction(&self, took: Duration) {
        self.longest_transaction_ms.fetch_max(number(took.as_millis()), Relaxed);
    }

    pub(crate) fn busy(&self, waited: Duration) {
        self.busy.fetch_add(1, Relaxed);
        self.busy_micros.fetch_add(number(waited.as_micros()), Relaxed);
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
        }
    }

    pub(crate) fn busy_waits(&self) -> BusyWaits {
        BusyWaits { count: self.busy.load(Relaxed), waited: Duration::from_micros(self.busy_micros.load(Relaxed)) }
    }
}
