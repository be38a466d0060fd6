//! Kinds of jobs that are enqueued when something is due, beside their schedule.
//!
//! A query says when there is something to do next ([`jobs::job::Job::DUE`]), and a worker asks it
//! where it looks for jobs anyway. Nothing is stored about it, so nothing can be lost: what is due
//! is due until a run has done it. While a job with the key of the kind is unfinished, its query is
//! not asked.

use books::BooksError;
use books::store::connection::{Row, Value};

use super::types::{NewJob, OPEN};

/// A kind, and its job.
#[derive(Clone, Debug)]
pub(crate) struct DueKind {
    pub(crate) kind: &'static str,
    pub(crate) payload: String,
    pub(crate) key: String,
    pub(crate) max_attempts: u32,
    pub(crate) sql: &'static str,
}

impl DueKind {
    pub(crate) fn job(&self) -> NewJob {
        let job = NewJob::new(self.kind, self.payload.clone(), self.max_attempts, "due");
        NewJob { key: Some(self.key.clone()), ..job }
    }
}

/// When each kind is due, in milliseconds, in the order in which they were asked for.
pub(crate) type DueAt = Vec<Option<i64>>;

/// The columns of a SELECT that read [`DueAt`], each behind a comma. Their parameters go after
/// `values`.
pub(super) fn columns(kinds: &[DueKind], values: &mut Vec<Value>) -> String {
    let column = |DueKind { key, sql, .. }: &DueKind| {
        values.push(Value::Text(key.clone()));
        let n = values.len();
        format!(
            ", (SELECT at * 1000 FROM ({sql}) WHERE NOT EXISTS \
             (SELECT 1 FROM jobs WHERE key = ?{n} AND key IS NOT NULL AND {OPEN}))"
        )
    };
    kinds.iter().map(column).collect()
}

/// Reads [`columns`], which begin at column `at`.
pub(super) fn read(row: &Row, at: i32, kinds: &[DueKind]) -> Result<DueAt, BooksError> {
    (at..).zip(kinds).map(|(column, _)| row.get(column)).collect()
}
