//! The state of a job after a run, and the wait before the next run.

use std::time::Duration;

use super::types::JobState;

/// The wait after the n-th failure: `base` doubled each time, at most `cap`, minus a random share
/// of up to half, so that jobs that failed together do not come back together
/// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(4), cap: Duration::from_secs(900) }
    }
}

impl Backoff {
    /// The wait after failure number `attempt` (from 1). `chance`, from 0 to 1000, is the random
    /// share.
    pub fn after(self, attempt: u32, chance: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let whole = self.base.saturating_mul(1 << doublings).min(self.cap);
        let off = whole.saturating_mul(chance.min(1000)) / 2000;
        whole.saturating_sub(off)
    }
}

/// The change of a job's row after a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUpdate {
    pub(crate) seq: i64,
    pub(crate) lease: i64,
    pub(crate) state: JobState,
    /// The wait of a scheduled or retrying job.
    pub(crate) wait: Duration,
    pub(crate) reason: Option<String>,
    pub(crate) report: Option<String>,
    pub(crate) attention: bool,
    pub(crate) handed_back: bool,
    pub(crate) awaits: bool,
    pub(crate) parent: Option<i64>,
}

impl JobUpdate {
    /// The update for a job when the database refuses this one.
    pub(crate) fn refused(&self, why: &str) -> Self {
        let reason = Some(format!("its outcome ({}) could not be written: {why}", self.state));
        let (report, attention, awaits) = (None, false, false);
        Self { state: JobState::Dead, reason, report, attention, awaits, wait: Duration::ZERO, ..self.clone() }
    }
}
