//! A job that this process holds.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

/// StopReason a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// Another worker has the job now.
    Lost,
    /// A person asked for it.
    Cancelled,
    /// The worker goes away.
    HandBack,
}

/// By which a run is told to stop.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    why: AtomicU8,
    told: Notify,
}

impl StopSignal {
    /// Tells the run to stop; the first reason counts.
    pub(super) fn tell(&self, why: StopReason) {
        let number = match why {
            StopReason::Lost => 1,
            StopReason::Cancelled => 2,
            StopReason::HandBack => 3,
        };
        let _first = self.why.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        self.told.notify_one();
    }

    /// Resolves when the run is to stop.
    pub(super) async fn wait(&self) -> StopReason {
        loop {
            match self.why.load(Ordering::Acquire) {
                0 => self.told.notified().await,
                1 => return StopReason::Lost,
                2 => return StopReason::Cancelled,
                _ => return StopReason::HandBack,
            }
        }
    }
}

/// A claimed job: what apalis carries from the backend to the handler.
#[derive(Clone, Debug)]
pub struct Claim {
    pub(super) seq: i64,
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) payload: String,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) lease: i64,
    pub(super) priority: i64,
    pub(super) parent: Option<i64>,
    pub(super) waited_ms: i64,
    pub(super) stop: Arc<StopSignal>,
}

#[cfg(test)]
impl Claim {
    pub(super) fn of(kind: &str, payload: &str) -> Self {
        Self {
            seq: 1,
            id: String::new(),
            kind: kind.into(),
            payload: payload.into(),
            attempt: 1,
            max_attempts: 3,
            lease: 1,
            priority: 0,
            parent: None,
            waited_ms: 0,
            stop: Arc::default(),
        }
    }
}

/// What one process holds; shared by those who claim, run and keep leases.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<Mutex<Vec<Claim>>>);

impl InFlight {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Claim>) -> T) -> T {
        // a panic while the list is held cannot leave it half changed: every change is one call
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn add(&self, claim: Claim) {
        self.with(|held| held.push(claim));
    }

    /// Lets go of a job; true when it was held under that lease.
    pub(super) fn remove(&self, seq: i64, lease: i64) -> bool {
        self.with(|held| {
            let place = held.iter().position(|c| c.seq == seq && c.lease == lease);
            place.map(|i| held.swap_remove(i)).is_some()
        })
    }

    pub(super) fn all(&self) -> Vec<Claim> {
        self.with(|held| held.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.with(|held| held.len())
    }

    pub(super) fn of_kind(&self, kind: &str) -> usize {
        self.with(|held| held.iter().filter(|c| c.kind == kind).count())
    }

    pub(super) fn tell_all(&self, why: StopReason) {
        self.with(|held| held.iter().for_each(|c| c.stop.tell(why)));
    }
}
