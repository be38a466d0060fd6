//! What a job is, what it is given, and the ways in which it may end: a report, or one of four
//! [`Failure`]s.
//!
//! A payload says where to look, never what changed: a tick of the schedule, a retry, a recovery
//! after a crash and a backfill are one code path. `now` is an argument, so that a run can be
//! repeated exactly.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::deliver_notifications::WebhookTarget;
use crate::enforce_budgets::EnforcementSettings;
use crate::ingest_cur::{Export, ReadSettings};
use crate::stripe::BillingSettings;
use books::Database;

/// Everything that jobs are given by the machine around them.
#[derive(Clone, Debug)]
pub struct Context {
    pub books: Database,
    /// Where bills come from, by name.
    pub exports: Arc<BTreeMap<String, Export>>,
    pub read_settings: ReadSettings,
    pub enforcement: Arc<EnforcementSettings>,
    /// Where notifications go, if anywhere.
    pub webhook: Option<WebhookTarget>,
    pub billing: Arc<BillingSettings>,
}

/// How a job ends when it does not end with a report.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was changed; the same job may well succeed soon.
    Retry(anyhow::Error),
    /// As [`Failure::Retry`], but not before this much time has passed.
    RetryAfter(Duration, anyhow::Error),
    /// Nothing was changed, and trying again will not help until a person has acted.
    GiveUp(anyhow::Error),
    /// Other jobs have to be done first: run this one again when they are finished, or after this
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

/// A job that another job asks for. Jobs know no queue: whoever runs them turns this into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub kind: &'static str,
    pub payload: String,
    /// DeferReason by one unfinished job at a time.
    pub key: Option<String>,
}

impl Request {
    /// Asks for `job`.
    pub fn of<J: Job>(job: &J) -> Result<Self, serde_json::Error> {
        Ok(Self { kind: J::KIND, payload: serde_json::to_string(job)?, key: job.key() })
    }
}

impl From<books::BooksError> for Failure {
    fn from(error: books::BooksError) -> Self {
        if error.is_retryable() { Self::Retry(error.into()) } else { Self::GiveUp(error.into()) }
    }
}

/// A kind of work; the type itself is the payload that is stored in a queue.
///
/// What belongs to the job stands here: how long it may take, how often it is tried, what makes two
/// of it the same. When it runs and how many at once belongs to the deployment.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// Name of the kind, stable for ever: it is part of a wire format.
    const KIND: &'static str;
    /// One line for people.
    const ABOUT: &'static str;
    /// A run that takes longer counts as failed.
    const TIMEOUT: Duration = Duration::from_secs(600);
    /// Runs before it is given up.
    const MAX_ATTEMPTS: u32 = 20;
    /// Runs at once in one process, unless the configuration says otherwise.
    const AT_ONCE: usize = 1;
    /// What a run that went through has to say.
    type Report: Serialize + Send;

    /// What makes two jobs the same: while one with this key waits or runs, a second is not
    /// enqueued.
    fn key(&self) -> Option<String> {
        None
    }

    /// True when a person should look at what a run found.
    fn needs_a_person(_report: &Self::Report) -> bool {
        false
    }

    fn run(self, context: &Context, now: Timestamp) -> impl Future<Output = Result<Self::Report, Failure>> + Send;
}
