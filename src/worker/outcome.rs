//! Outcomes of runs become states of jobs here and nowhere else.

use std::time::Duration;

use books::store::traffic::Traffic;
use jobs::job::{Failure, Request};

use crate::format::counted;
use crate::queue::{Backoff, Claim, JobState, JobUpdate};

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    Report {
        report: String,
        /// Whether the report needs attention.
        attention: bool,
    },
    Failed(Failure),
    /// It was stopped so that another worker runs the job; that is no attempt.
    HandedBack,
    /// A person cancelled the job.
    Cancelled,
    /// Another worker has the job, so nothing is recorded.
    Lost,
}

impl RunOutcome {
    /// The outcome with what the run cost on a remote database, beside the fields of its report.
    pub(crate) fn counted(self, traffic: Traffic) -> Self {
        match self {
            Self::Report { report, attention } => Self::Report { report: counted(report, traffic), attention },
            other => other,
        }
    }

    /// The label of `meter_job_runs_total`.
    pub(super) fn label(&self, claim: &Claim) -> &'static str {
        let spent = claim.attempt >= claim.max_attempts;
        match self {
            Self::Report { attention: false, .. } => "done",
            Self::Report { attention: true, .. } => "attention",
            Self::Failed(Failure::WaitFor(..)) => "waiting",
            Self::Failed(failure) if failure.is_retryable() && !spent => "retry",
            Self::Failed(_) => "dead",
            Self::Cancelled => "cancelled",
            Self::HandedBack => "handed_back",
            Self::Lost => "lost",
        }
    }
}

/// The change of the job, and the jobs that it waits for. `None` when this process no longer holds
/// it. Pure.
pub(super) fn transition(
    claim: &Claim,
    ended: RunOutcome,
    backoff: Backoff,
    chance: u32,
) -> (Option<JobUpdate>, Vec<Request>) {
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
            JobUpdate { reason: Some(reason), ..finish(JobState::Dead) }
        } else {
            JobUpdate { wait, reason: Some(reason), ..finish(JobState::Retrying) }
        }
    };
    let mut first = vec![];
    let finish = match ended {
        RunOutcome::Report { report, attention } => {
            JobUpdate { report: Some(report), attention, ..finish(JobState::Done) }
        }
        RunOutcome::Failed(Failure::Retry(why)) => again(backoff.after(claim.attempt, chance), format!("{why:#}")),
        RunOutcome::Failed(Failure::RetryAfter(wait, why)) => again(wait, format!("{why:#}")),
        RunOutcome::Failed(Failure::GiveUp(why)) => {
            JobUpdate { reason: Some(format!("{why:#}")), ..finish(JobState::Dead) }
        }
        RunOutcome::Failed(Failure::WaitFor(requests, wait, why)) => {
            first = requests;
            // waiting is no failure: it costs no attempt
            let reason = Some(format!("{why:#}"));
            JobUpdate { wait, reason, awaits: true, handed_back: true, ..finish(JobState::Scheduled) }
        }
        RunOutcome::HandedBack => JobUpdate { handed_back: true, ..finish(JobState::Pending) },
        RunOutcome::Cancelled => {
            JobUpdate { reason: Some("cancelled while it ran".into()), ..finish(JobState::Cancelled) }
        }
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

    fn state(attempt: u32, ended: RunOutcome) -> (JobState, u64, bool) {
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
        assert_eq!(state(3, report), (JobState::Done, 0, false));
        assert_eq!(state(1, failed(Failure::Retry(why()))), (JobState::Retrying, 4, false));
        assert_eq!(state(2, failed(Failure::Retry(why()))), (JobState::Retrying, 8, false));
        assert_eq!(state(3, failed(Failure::Retry(why()))), (JobState::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::RetryAfter(five, why()))), (JobState::Retrying, 5, false));
        assert_eq!(state(3, failed(Failure::RetryAfter(five, why()))), (JobState::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::GiveUp(why()))), (JobState::Dead, 0, false));
        assert_eq!(state(1, failed(Failure::WaitFor(vec![], five, why()))), (JobState::Scheduled, 5, true));
        assert_eq!(state(3, failed(Failure::WaitFor(vec![], five, why()))), (JobState::Scheduled, 5, true));
        assert_eq!(state(3, RunOutcome::HandedBack), (JobState::Pending, 0, true));
        assert_eq!(state(1, RunOutcome::Cancelled), (JobState::Cancelled, 0, false));
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
