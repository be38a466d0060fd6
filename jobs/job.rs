//! What a job is, what it is given, and the four ways in which it may end.
//!
//! A payload says where to look, never what changed: a tick of the schedule, a retry, a recovery after a crash and a
//! backfill are one code path. `now` is an argument, so that a run can be repeated exactly.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::books::Database;
use crate::ingest_cur::{Export, Lens};

/// Everything that jobs are given by the machine around them.
#[derive(Clone, Debug)]
pub struct Context {
    /// The books.
    pub books: Database,
    /// Where bills come from, by name.
    pub exports: Arc<BTreeMap<String, Export>>,
    /// How bills are read.
    pub lens: Lens,
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
}

impl Failure {
    /// Why.
    pub fn error(&self) -> &anyhow::Error {
        match self {
            Self::Retry(e) | Self::RetryAfter(_, e) | Self::GiveUp(e) => e,
        }
    }

    /// True unless a person has to act first.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::GiveUp(_))
    }
}

impl From<crate::books::BooksError> for Failure {
    fn from(error: crate::books::BooksError) -> Self {
        if error.is_retryable() { Self::Retry(error.into()) } else { Self::GiveUp(error.into()) }
    }
}

/// A kind of work; the type itself is the payload that is stored in a queue.
pub trait Job: Serialize + DeserializeOwned + Send {
    /// Name of the kind, stable for ever: it is part of a wire format.
    const KIND: &'static str;
    /// What a run that went through has to say.
    type Report: Serialize + Send;

    /// Does the work.
    fn run(self, context: &Context, now: Timestamp) -> impl Future<Output = Result<Self::Report, Failure>> + Send;
}
