//! What a job is, and how it may end: with a report, or with one of four [`Failure`]s.
//!
//! A payload says where to look, never what changed: a tick of the schedule, a retry, a recovery
//! after a crash and a backfill are one code path. `now` is an argument, so a run can be repeated
//! exactly.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;

/// A database whose quota is used up is not asked again before.
const QUOTA_WAIT: Duration = Duration::from_secs(60);

/// How a job ends when it does not end with a report.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was changed; the same job may succeed soon.
    Retry(anyhow::Error),
    /// As [`Failure::Retry`], but not before this much time has passed.
    RetryAfter(Duration, anyhow::Error),
    /// Nothing was changed, and a person has to act before another try can succeed.
    GiveUp(anyhow::Error),
    /// Other jobs have to be done first. The job runs again when they are finished, or after this
    /// much time.
    WaitFor(Vec<Request>, Duration, anyhow::Error),
}

impl Failure {
    pub fn error(&self) -> &anyhow::Error {
        match self {
            Self::Retry(e) | Self::RetryAfter(_, e) | Self::GiveUp(e) | Self::WaitFor(_, _, e) => e,
        }
    }

    /// True unless a person has to act first.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::GiveUp(_))
    }
}

impl From<books::BooksError> for Failure {
    fn from(error: books::BooksError) -> Self {
        match error {
            // a person has to act, but not on the job
            books::BooksError::Quota(_) => Self::RetryAfter(QUOTA_WAIT, error.into()),
            error if error.is_retryable() => Self::Retry(error.into()),
            error => Self::GiveUp(error.into()),
        }
    }
}

/// Whether a run writes what it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Write,
    /// The run only reports what it would write.
    DryRun,
}

impl Mode {
    /// The mode of a payload's or a command's flag.
    pub fn of(dry_run: bool) -> Self {
        if dry_run { Self::DryRun } else { Self::Write }
    }
}

/// A job that another job asks for. Jobs know no queue: the machine enqueues it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: &'static str,
    pub payload: String,
    /// [`Job::key`] of the job.
    pub key: Option<String>,
}

impl Request {
    pub fn of<J: Job>(job: &J) -> Result<Self, serde_json::Error> {
        Ok(Self { kind: J::KIND, payload: serde_json::to_string(job)?, key: job.key() })
    }
}

/// A kind of work; the type itself is the payload that a queue stores.
///
/// What belongs to the job stands here: how long it may take, how often it is tried, what makes two
/// of it the same. When it runs, and how many of it at once, belongs to the deployment.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// Name of the kind. It is part of a wire format and never changes.
    const KIND: &'static str;
    /// One line for people.
    const DESCRIPTION: &'static str;
    /// A run that takes longer counts as failed.
    const TIMEOUT: Duration = Duration::from_secs(600);
    /// Runs before the queue gives the job up.
    const MAX_ATTEMPTS: u32 = 20;
    /// Runs at once in one process, unless the configuration says otherwise.
    const MAX_CONCURRENT: usize = 1;
    /// A query of the earliest instant, in seconds, at which there is something to do: one row, one
    /// column `at`, null for nothing. Workers enqueue the job then, beside its schedule. It must be
    /// one look into an index, and a run must leave nothing due.
    const DUE: Option<&'static str> = None;
    /// What a successful run found and did.
    type Report: Serialize + Send;

    /// What makes two jobs the same: while a job with this key waits or runs, no second one is
    /// enqueued.
    fn key(&self) -> Option<String> {
        None
    }

    /// True when a person should look at what a run found.
    fn needs_attention(_report: &Self::Report) -> bool {
        false
    }

    fn run(self, context: &Context, now: Timestamp) -> impl Future<Output = Result<Self::Report, Failure>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::BooksError;

    #[test]
    fn a_job_is_not_given_up_because_the_database_is_blocked() {
        let failed = |error: BooksError| Failure::from(error);
        let blocked = failed(BooksError::Quota("reads".into()));
        assert!(matches!(blocked, Failure::RetryAfter(wait, _) if wait == QUOTA_WAIT), "{blocked:?}");
        assert!(matches!(failed(BooksError::Full), Failure::Retry(_)));
        assert!(matches!(failed(BooksError::ReadOnly), Failure::GiveUp(_)));
    }
}
