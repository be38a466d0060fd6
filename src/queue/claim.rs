//! A claimed job, and the signal that stops its run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Why a run must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// Another worker has the job now.
    Lost,
    /// A person cancelled the job.
    Cancelled,
    /// The worker is stopping.
    HandBack,
}

/// The signal that stops a run.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    why: AtomicU8,
    raised: Notify,
}

impl StopSignal {
    /// Stops the run; the first reason counts.
    pub(crate) fn raise(&self, why: StopReason) {
        let number = match why {
            StopReason::Lost => 1,
            StopReason::Cancelled => 2,
            StopReason::HandBack => 3,
        };
        let _first = self.why.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        self.raised.notify_one();
    }

    /// Resolves when the run must stop.
    pub(crate) async fn wait(&self) -> StopReason {
        loop {
            match self.why.load(Ordering::Acquire) {
                0 => self.raised.notified().await,
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
