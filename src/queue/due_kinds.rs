//! Kinds of jobs that are started when something is due, beside their schedule.
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

/// A kind of which the newest job is dead waits for so long.
const DEAD_MS: i64 = 60_000;

/// The columns of a SELECT that read [`DueAt`], each behind a comma. Their parameters go after
/// `values`. Runs go by the database's clock where that one is behind, so `now` (in milliseconds)
/// waits for it.
pub(super) fn columns(kinds: &[DueKind], now: i64, values: &mut Vec<Value>) -> String {
    if kinds.is_empty() {
        // a server refuses a parameter that the statement does not have
        return String::new();
    }
    values.push(Value::Integer(now));
    let clock = values.len();
    let column = |DueKind { key, sql, .. }: &DueKind| {
        values.push(Value::Text(key.clone()));
        let n = values.len();
        let of_key = format!("FROM jobs WHERE key = ?{n} AND key IS NOT NULL AND");
        format!(
            ", (SELECT max(at * 1000 + max(0, ?{clock} - CAST(unixepoch('subsec') * 1000 AS INTEGER)), \
             coalesce({DEAD_MS} + (SELECT finished_at {of_key} state IN ('dead', 'cancelled') ORDER BY seq DESC LIMIT 1), 0)) \
             FROM ({sql}) WHERE NOT EXISTS (SELECT 1 {of_key} {OPEN}))"
        )
    };
    kinds.iter().map(column).collect()
}

/// Reads [`columns`], which begin at column `at`.
pub(super) fn read(row: &Row, at: i32, kinds: &[DueKind]) -> Result<DueAt, BooksError> {
    (at..).zip(kinds).map(|(column, _)| row.get(column)).collect()
}
