//! How a run ended → what becomes of the job. The one place where outcomes turn into states.

use std::time::Duration;

use jobs::job::{Failure, Request};

use super::claim::Claim;
use super::row::State;

/// How long a job waits after its n-th failure: `base` doubled each time, at most `cap`, and a
/// random share of up to half taken off, so that what failed together does not come back together
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
    /// The wait after failure number `attempt` (from 1); `chance` is 0 to 1000 and decides how much
    /// is taken off.
    pub fn after(self, attempt: u32, chance: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(30);
        let whole = self.base.saturating_mul(1 << doublings).min(self.cap);
        let off = whole.saturating_mul(chance.min(1000)) / 2000;
        whole.saturating_sub(off)
    }
}

/// How a run ended, seen from the queue.
#[derive(Debug)]
pub enum RunOutcome {
    Report {
        report: String,
        /// Whether a person should look at it.
        attention: bool,
    },
    Failed(Failure),
    /// It was stopped so that another worker runs it; that counts as no attempt.
    HandedBack,
    /// It was stopped because a person asked for it.
    Cancelled,
    /// Its lease is lost: the job is another worker's, and nothing is to be said about it.
    Lost,
}

/// What a job becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobUpdate {
    pub(super) seq: i64,
    pub(super) lease: i64,
    pub(super) state: State,
    /// For a job that waits: how long.
    pub(super) wait: Duration,
    pub(super) reason: Option<String>,
    pub(super) report: Option<String>,
    pub(super) attention: bool,
    pub(super) handed_back: bool,
    pub(super) awaits: bool,
    pub(super) parent: Option<i64>,
}

impl JobUpdate {
    /// What becomes of a job whose outcome the database refuses.
    pub(super) fn refused(&self, why: &str) -> Self {
        let reason = Some(format!("its outcome ({}) could not be written: {why}", self.state));
        let (report, attention, awaits) = (None, false, false);
        Self { state: State::Dead, reason, report, attention, awaits, wait: Duration::ZERO, ..self.clone() }
    }
}

/// Decides what becomes of a job, and which jobs it asks for first. `None` when it is no longer
/// ours to say. Pure.
pub(super) fn transition(claim: &Claim, ended: RunOutcome, backoff: Backoff, chance: u32) -> (Option<JobUpdate>, Vec<Request>) {
    let finish = |state| JobUpdate {
        seq: claim.seq,
        lease: claim.lease,
        state,
        wait: Duration::ZERO,
        reason: None,
        report: None,
        attention: false,
        handed_back: false,
        awaits: false,
        parent: claim.parent,
    };
    let spent = claim.attempt >= claim.max_attempts;
    let again = |wait: Duration, reason: String| {
        if spent {
            let reason = format!("failed {} of {} times, at last: {reason}", claim.attempt, claim.max_attempts);
            JobUpdate { reason: Some(reason), ..finish(State::Dead) }
        } else {
            JobUpdate { wait, reason: Some(reason), ..finish(State::Retrying) }
        }
    };
    let mut first = vec![];
    let finish = match ended {
        RunOutcome::Report { report, attention } => JobUpdate { report: Some(report), attention, ..finish(State::Done) },
        RunOutcome::Failed(Failure::Retry(why)) => again(backoff.after(claim.attempt, chance), format!("{why:#}")),
        RunOutcome::Failed(Failure::RetryAfter(wait, why)) => again(wait, format!("{why:#}")),
        RunOutcome::Failed(Failure::GiveUp(why)) => JobUpdate { reason: Some(format!("{why:#}")), ..finish(State::Dead) },
        RunOutcome::Failed(Failure::WaitFor(requests, wait, why)) => {
            first = requests;
            // waiting is no failure: it costs no attempt
            let reason = Some(format!("{why:#}"));
            JobUpdate { wait, reason, awaits: true, handed_back: true, ..finish(State::Scheduled) }
        }
        RunOutcome::HandedBack => JobUpdate { handed_back: true, ..finish(State::Pending) },
        RunOutcome::Cancelled => JobUpdate { reason: Some("cancelled while it ran".into()), ..finish(State::Cancelled) },
        RunOutcome::Lost => return (None, first),
    };
    (Some(finish), first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use proptest::prelude::*;

    fn claim(attempt: u32) -> Claim {
        Claim { attempt, max_attempts: 3, ..Claim::of("k", "{}") }
    }

    fn state(attempt: u32, ended: RunOutcome) -> (State, u64, bool) {
        let (finish, _) = transition(&claim(attempt), ended, Backoff::default(), 0);
        let finish = finish.unwrap();
        (finish.state, finish.wait.as_secs(), finish.handed_back)
    }

    #[test]
    fn each_way_to_end_has_one_state() {
        let failed = |f| RunOutcome::Failed(f);
        let why = || anyhow!("why");
        let five = Duration::from_secs(5);
        let report = RunOutcome::Report { report: "{}".into(), attention: false };
        assert_eq!(state(3, report), (State::Done, 0, false));
        assert_eq!(state(1, failed(Failure::Retry(why()))), (State::Retrying, 4, false));
        assert_eq!(state(2, failed(Failure::Retry(why()))), (State::Retrying, 8, false));
        assert_eq!(state(3, failed(Failure::Retry(why()))), (State::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::RetryAfter(five, why()))), (State::Retrying, 5, false));
        assert_eq!(state(3, failed(Failure::RetryAfter(five, why()))), (State::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::GiveUp(why()))), (State::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::WaitFor(vec![], five, why()))), (State::Scheduled, 5, true));
        assert_eq!(state(3, failed(Failure::WaitFor(vec![], five, why()))), (State::Scheduled, 5, true));
        assert_eq!(state(3, RunOutcome::HandedBack), (State::Pending, 0, true));
        assert_eq!(state(1, RunOutcome::Cancelled), (State::Cancelled, 0, false));
        assert!(transition(&claim(1), RunOutcome::Lost, Backoff::default(), 0).0.is_none());
    }

    proptest! {
        /// Waits grow, end at the cap, and never fall below half of it.
        #[test]
        fn backoff_is_bounded(attempt in 1_u32..200, chance in 0_u32..=1000) {
            let backoff = Backoff::default();
            let whole = backoff.after(attempt, 0);
            let wait = backoff.after(attempt, chance);
            prop_assert!(wait <= whole && wait >= whole / 2);
            prop_assert!(whole <= backoff.cap && whole >= backoff.base);
            prop_assert!(backoff.after(attempt + 1, 0) >= whole);
        }
    }
}
