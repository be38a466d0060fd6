//! A job that this process holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Why a run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Another worker has the job now.
    Lost,
    /// A person asked for it.
    Cancelled,
    /// The worker goes away.
    HandBack,
}

/// By which a run is told to stop.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    why: AtomicU8,
    told: Notify,
}

impl StopSignal {
    /// Tells the run to stop; the first reason counts.
    pub(crate) fn tell(&self, why: StopReason) {
        let number = match why {
            StopReason::Lost => 1,
            StopReason::Cancelled => 2,
            StopReason::HandBack => 3,
        };
        let _first = self.why.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        self.told.notify_one();
    }

    /// Resolves when the run is to stop.
    pub(crate) async fn wait(&self) -> StopReason {
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
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) payload: String,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) lease: i64,
    pub(crate) priority: i64,
    pub(crate) parent: Option<i64>,
    pub(crate) waited_ms: i64,
    pub(crate) stop: Arc<StopSignal>,
}

#[cfg(test)]
impl Claim {
    pub(crate) fn of(kind: &str, payload: &str) -> Self {
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
