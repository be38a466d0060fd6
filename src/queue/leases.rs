//! The table `jobs`, as workers use it: claim, heartbeat, finish, rescue. Each function is one
//! statement and safe to repeat.

use std::collections::HashMap;
use std::time::Duration;

use books::BooksError;
use books::store::connection::{Connection, Row, Value, params, params_from_iter};
use books::store::database::Fence;
use books::store::rows::{first_row, json};
use serde::Serialize;

use super::claim::Claim;
use super::jobs_table::{OPEN, Queue};
use super::types::JobState;
use super::update::{Backoff, JobUpdate};

/// The most waiting jobs that one statement makes due.
const DUE_AT_ONCE: i64 = 1000;
/// A clock that was set back by more than this is noticed; clocks of several hosts differ by less.
const SET_BACK_MS: i64 = 300_000;

/// How soon a job that waits for another job's children runs again.
const RUN_AGAIN_MS: i64 = 15_000;

/// A request for jobs of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimRequest {
    pub(crate) kind: String,
    pub(crate) slots: usize,
}

/// The worker that claims, and the length of its leases.
#[derive(Clone, Debug)]
pub(crate) struct Claimer {
    pub(crate) worker: String,
    pub(crate) lease: Duration,
}

/// What one poll of the queue returned.
#[derive(Debug, Default)]
pub(crate) struct PollResult {
    pub(crate) claimed: Vec<Claim>,
    /// When the next waiting job is due.
    pub(crate) next_due: Option<i64>,
    /// True when more jobs may be due than there were slots.
    pub(crate) more: bool,
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn slots(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Queue {
    /// Records the outcomes of finished runs, and claims jobs for free slots. On a local file that
    /// is one transaction. On a remote database each statement commits by itself, which is correct
    /// too.
    pub(crate) async fn poll(
        &self,
        by: &Claimer,
        finished: Vec<JobUpdate>,
        requests: Vec<ClaimRequest>,
        total: usize,
    ) -> Result<PollResult, BooksError> {
        let (by, now) = (by.clone(), self.clock.millis());
        let work = async move |c: &Connection| {
            if !finished.is_empty() {
                finish(c, &by.worker, &finished, now).await?;
            }
            let mut round = PollResult::default();
            if total > 0 && !requests.is_empty() {
                let due = next_due(c).await?;
                if due.is_some_and(|due| due <= now) {
                    promote_due(c, now).await?;
                }
                round.claimed = claim(c, &by, &requests, total, now).await?;
                round.more = round.claimed.len() >= total;
                round.next_due = if due.is_some_and(|due| due <= now) { next_due(c).await? } else { due };
            }
            Ok(round)
        };
        if self.db.is_local() { self.db.transaction(work).await } else { self.db.with_connection(work).await }
    }

    /// Raises the heartbeat of the jobs that this worker holds. Returns those that it still holds,
    /// each with whether its cancellation was requested.
    pub(crate) async fn heartbeat(&self, by: &Claimer, held: &[Claim]) -> Result<HashMap<i64, bool>, BooksError> {
        let held: Vec<HeldLease> = held.iter().map(|c| HeldLease { seq: c.seq, lease: c.lease }).collect();
        let held = json(&held)?;
        let (worker, until) = (by.worker.clone(), self.clock.millis() + millis(by.lease));
        self.db
            .with_connection(async move |c| {
                let sql = "UPDATE jobs SET heartbeat = jobs.heartbeat + 1, lease_until = ?2 \
                           FROM (SELECT value ->> 'seq' AS seq, value ->> 'lease' AS lease FROM json_each(?3)) h \
                           WHERE jobs.seq = h.seq AND jobs.lease = h.lease AND +jobs.worker = ?1 AND +jobs.state = 'running' \
                           RETURNING jobs.seq, jobs.cancel";
                let mut rows = c.query(sql, params![worker, until, held]).await?;
                let mut own = HashMap::new();
                while let Some(row) = rows.next().await? {
                    own.insert(row.get(0)?, row.get::<i64>(1)? == 1);
                }
                Ok(own)
            })
            .await
    }

    /// The jobs that this worker holds according to the table, for after an unclear answer.
    pub(crate) async fn held_by(&self, worker: &str) -> Result<Vec<Claim>, BooksError> {
        let (worker, now) = (worker.to_owned(), self.clock.millis());
        self.db
            .with_connection(async move |c| {
                let sql = format!("SELECT {CLAIMED} FROM jobs WHERE state = 'running' AND worker = ?1");
                claims(c, &sql, vec![Value::Text(worker)], now).await
            })
            .await
    }

    /// The leases of all running jobs.
    pub(crate) async fn leases(&self) -> Result<Vec<Lease>, BooksError> {
        self.db
            .with_connection(async |c| {
                let sql = "SELECT seq, lease, heartbeat, lease_until, worker FROM jobs WHERE state = 'running'";
                let mut rows = c.query(sql, ()).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    let (seq, lease, heartbeat) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    found.push(Lease { seq, lease, heartbeat, until: row.get(3)?, worker: row.get(4)? });
                }
                Ok(found)
            })
            .await
    }

    /// Ends expired leases: the jobs are due again, or dead after their last attempt. Returns how
    /// many.
    pub(crate) async fn rescue(&self, expired: &[Lease]) -> Result<u64, BooksError> {
        let rows = json(expired)?;
        let now = self.clock.millis();
        self.db
            .with_connection(async move |c| {
                let sql = "UPDATE jobs SET state = iif(cancel = 1, 'cancelled', iif(attempts >= max_attempts, 'dead', 'pending')), \
                           finished_at = iif(cancel = 1 OR attempts >= max_attempts, ?2, NULL), \
                           reason = 'its worker ' || worker || ' was lost in attempt ' || attempts || ' of ' || max_attempts, \
                           worker = NULL, lease_until = NULL \
                           FROM (SELECT value ->> 'seq' AS seq, value ->> 'lease' AS lease, value ->> 'heartbeat' AS heartbeat FROM json_each(?1)) l \
                           WHERE jobs.seq = l.seq AND jobs.lease = l.lease AND jobs.heartbeat = l.heartbeat AND +jobs.state = 'running'";
                c.execute(sql, params![rows, now]).await
            })
            .await
    }

    /// Makes two sorts of stuck jobs due: a clock that has been set back since chose their waiting
    /// time, or their last child ended without a run (cancelled, or lost with its worker).
    pub(crate) async fn requeue_stuck(&self) -> Result<u64, BooksError> {
        let (now, late) = (self.clock.millis(), self.clock.millis() + SET_BACK_MS);
        self.db
            .with_connection(async move |c| {
                let sql = "UPDATE jobs SET state = 'pending', run_at = NULL, awaits = 0 WHERE state IN ('scheduled', 'retrying') \
                           AND (state = 'retrying' OR awaits = 1) AND started_at > ?1";
                let due = c.execute(sql, params![late]).await?;
                Ok(due + promote_parents(c, "state IN ('scheduled', 'retrying')", None, now).await?)
            })
            .await
    }

    /// A fence that lets writes pass while a run still holds its lease.
    pub fn fence(&self, claim: &Claim, worker: &str) -> Fence {
        let (seq, lease, worker) = (claim.seq, claim.lease, worker.to_owned());
        std::sync::Arc::new(move |c: Connection| {
            let worker = worker.clone();
            Box::pin(async move {
                // the transaction has the write lock already
                let sql = "SELECT 1 FROM jobs WHERE seq = ?1 AND lease = ?2 AND worker = ?3 AND state = 'running'";
                match first_row(&c, sql, params![seq, lease, worker]).await? {
                    None => Err(BooksError::Fenced),
                    Some(_) => Ok(()),
                }
            })
        })
    }
}

const CHILDREN_FINISHED: &str = "NOT EXISTS (SELECT 1 FROM jobs o WHERE o.parent = jobs.seq AND o.parent IS NOT NULL \
    AND o.state IN ('pending', 'scheduled', 'running', 'retrying'))";
const CLAIMED: &str =
    "seq, id, kind, payload, attempts, max_attempts, lease, priority, parent, coalesce(due_at, enqueued_at)";

async fn next_due(c: &Connection) -> Result<Option<i64>, BooksError> {
    let sql = "SELECT min(run_at) FROM jobs WHERE state IN ('scheduled', 'retrying')";
    first_row(c, sql, ()).await?.map_or(Ok(None), |row| row.get(0))
}

async fn promote_due(c: &Connection, now: i64) -> Result<(), BooksError> {
    let sql = "UPDATE jobs SET state = 'pending', run_at = NULL, awaits = 0 WHERE seq IN (SELECT seq FROM jobs \
               WHERE state IN ('scheduled', 'retrying') AND run_at <= ?1 ORDER BY run_at LIMIT ?2)";
    c.execute(sql, params![now, DUE_AT_ONCE]).await?;
    Ok(())
}

/// Claims, in one statement, the first due jobs of each kind by priority and age. Jobs that an
/// earlier job of their lane blocks are left out.
async fn claim(
    c: &Connection,
    by: &Claimer,
    requests: &[ClaimRequest],
    total: usize,
    now: i64,
) -> Result<Vec<Claim>, BooksError> {
    let mut values = vec![
        Value::Text(by.worker.clone()),
        Value::Integer(now + millis(by.lease)),
        Value::Integer(now),
        Value::Integer(slots(total)),
    ];
    let mut branches = vec![];
    for request in requests {
        values.push(Value::Text(request.kind.clone()));
        values.push(Value::Integer(slots(request.slots.min(total))));
        let n = values.len();
        branches.push(format!(
            "SELECT * FROM (SELECT j.seq, j.priority FROM jobs j WHERE j.state = 'pending' AND j.kind = ?{} \
             AND (j.lane IS NULL OR NOT EXISTS (SELECT 1 FROM jobs o WHERE o.lane = j.lane AND o.lane IS NOT NULL AND o.{OPEN} \
             AND (o.state = 'running' OR o.awaits = 1 OR (o.state = 'pending' AND (o.priority, -o.seq) > (j.priority, -j.seq))))) \
             ORDER BY j.priority DESC, j.seq LIMIT ?{n})",
            n - 1
        ));
    }
    let sql = format!(
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, lease = lease + 1, worker = ?1, lease_until = ?2, \
         started_at = ?3, heartbeat = 0 WHERE seq IN (SELECT seq FROM ({}) ORDER BY priority DESC, seq LIMIT ?4) RETURNING {CLAIMED}",
        branches.join(" UNION ALL ")
    );
    claims(c, &sql, values, now).await
}

async fn claims(c: &Connection, sql: &str, values: Vec<Value>, now: i64) -> Result<Vec<Claim>, BooksError> {
    let mut rows = c.query(sql, params_from_iter(values)).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(claimed(&row, now)?);
    }
    found.sort_by_key(|c| (-c.priority, c.seq));
    Ok(found)
}

fn claimed(row: &Row, now: i64) -> Result<Claim, BooksError> {
    Ok(Claim {
        seq: row.get(0)?,
        id: row.get(1)?,
        kind: row.get(2)?,
        payload: row.get(3)?,
        attempt: row.get(4)?,
        max_attempts: row.get(5)?,
        lease: row.get(6)?,
        priority: row.get(7)?,
        parent: row.get(8)?,
        waited_ms: now - row.get::<i64>(9)?,
        stop: std::sync::Arc::default(),
    })
}

/// A parameter of the statement that records outcomes.
#[derive(Serialize)]
struct FinishedRow<'a> {
    seq: i64,
    lease: i64,
    state: &'a str,
    run_at: Option<i64>,
    reason: Option<&'a str>,
    report: Option<&'a str>,
    finished_at: Option<i64>,
    attention: bool,
    handed_back: bool,
    awaits: bool,
}

/// Records outcomes of jobs that this worker still holds, and promotes parents that waited for the
/// last of them.
async fn finish(c: &Connection, worker: &str, finished: &[JobUpdate], now: i64) -> Result<(), BooksError> {
    let rows: Vec<FinishedRow<'_>> = finished
        .iter()
        .map(|f| {
            let waits = matches!(f.state, JobState::Scheduled | JobState::Retrying);
            FinishedRow {
                seq: f.seq,
                lease: f.lease,
                state: f.state.as_str(),
                run_at: waits.then(|| now.saturating_add(millis(f.wait))),
                reason: f.reason.as_deref(),
                report: f.report.as_deref(),
                finished_at: f.state.is_final().then_some(now),
                attention: f.attention,
                handed_back: f.handed_back,
                awaits: f.awaits,
            }
        })
        .collect();
    // a job with a requested cancellation does not come back
    let sql = "UPDATE jobs SET state = iif(f.finished_at IS NULL AND cancel = 1, 'cancelled', f.state), \
               run_at = iif(cancel = 1, NULL, f.run_at), reason = coalesce(f.reason, jobs.reason), report = f.report, \
               finished_at = iif(cancel = 1, ?3, f.finished_at), attention = f.attention, attempts = attempts - f.handed_back, \
               awaits = iif(cancel = 1, 0, f.awaits), worker = NULL, lease_until = NULL \
               FROM (SELECT value ->> 'seq' AS seq, value ->> 'lease' AS lease, value ->> 'state' AS state, value ->> 'run_at' AS run_at, \
               value ->> 'reason' AS reason, value ->> 'report' AS report, value ->> 'finished_at' AS finished_at, \
               value ->> 'attention' AS attention, value ->> 'handed_back' AS handed_back, value ->> 'awaits' AS awaits \
               FROM json_each(?1)) f \
               WHERE jobs.seq = f.seq AND jobs.lease = f.lease AND +jobs.worker = ?2 AND +jobs.state = 'running'";
    c.execute(sql, params![json(&rows)?, worker, now]).await?;
    let waiting: Vec<i64> = finished.iter().filter_map(|f| if f.awaits { Some(f.seq) } else { f.parent }).collect();
    if !waiting.is_empty() {
        promote_parents(c, "seq IN (SELECT value FROM json_each(?5))", Some(json(&waiting)?), now).await?;
    }
    Ok(())
}

/// Makes parents due when all their children are finished. A dead child costs its parent an attempt
/// and a wait. A parent without children of its own (all that it asked for run for another parent)
/// runs again a little later.
async fn promote_parents(c: &Connection, which: &str, seqs: Option<String>, now: i64) -> Result<u64, BooksError> {
    let child = "EXISTS (SELECT 1 FROM jobs o WHERE o.parent = jobs.seq AND o.parent IS NOT NULL \
                 AND o.parent_lease = jobs.lease";
    let given_up = format!("{child} AND o.state IN ('dead', 'cancelled'))");
    let spent = format!("({given_up} AND attempts + 1 >= max_attempts)");
    let sql = format!(
        "UPDATE jobs SET awaits = 0, attempts = attempts + {given_up}, \
         state = CASE WHEN {spent} THEN 'dead' WHEN {given_up} OR NOT {child}) THEN 'retrying' ELSE 'pending' END, \
         run_at = CASE WHEN {spent} THEN NULL WHEN {given_up} THEN ?1 + min(?3, ?2 << min(attempts, 20)) \
         WHEN NOT {child}) THEN ?1 + ?4 END, finished_at = iif({spent}, ?1, NULL), \
         reason = iif({given_up}, 'a job that it waited for was given up', reason) \
         WHERE awaits = 1 AND {which} AND {CHILDREN_FINISHED}"
    );
    let Backoff { base, cap } = Backoff::default();
    let mut values = [now, millis(base), millis(cap), RUN_AGAIN_MS].map(Value::Integer).to_vec();
    values.extend(seqs.map(Value::Text));
    c.execute(&sql, params_from_iter(values)).await
}

/// A lease that this worker holds.
#[derive(Serialize)]
struct HeldLease {
    seq: i64,
    lease: i64,
}

/// A lease, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Lease {
    pub(crate) seq: i64,
    pub(crate) lease: i64,
    pub(crate) heartbeat: i64,
    pub(crate) until: i64,
    pub(crate) worker: String,
}
