//! The table `jobs`, as workers use it: claim, heartbeat, finish, rescue. Each function is one
//! request to a remote database and safe to repeat.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use books::BooksError;
use books::store::connection::{Connection, Row, Rows, Value, params};
use books::store::database::Fence;
use books::store::rows::{first_row, json};
use serde::Serialize;

use super::claim::Claim;
use super::due_kinds::{self, DueAt, DueKind};
use super::jobs_table::Queue;
use super::types::{JobState, OPEN, Step, WorkerState};
use super::update::{Backoff, JobUpdate};
use super::workers_table::report_alive;

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

/// The worker that claims, the length of its leases, and the kinds that it starts when they are
/// due.
#[derive(Clone, Debug)]
pub(crate) struct Claimer {
    pub(crate) worker: String,
    pub(crate) lease: Duration,
    pub(crate) due_kinds: Arc<[DueKind]>,
}

/// What one poll of the queue returned.
#[derive(Debug, Default)]
pub(crate) struct PollResult {
    pub(crate) claimed: Vec<Claim>,
    /// When the next waiting job is due.
    pub(crate) next_due: Option<i64>,
    /// True when more jobs may be due than there were slots.
    pub(crate) more: bool,
    pub(crate) due_at: DueAt,
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn slots(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Queue {
    /// Records the outcomes of finished runs, and claims jobs for free slots. On a local file that
    /// is one transaction. On a remote database it is one request, and each statement commits by
    /// itself, which is correct too.
    pub(crate) async fn poll(
        &self,
        by: &Claimer,
        finished: Vec<JobUpdate>,
        requests: Vec<ClaimRequest>,
        total: usize,
    ) -> Result<PollResult, BooksError> {
        let now = self.clock.millis();
        let claims_some = total > 0 && !requests.is_empty();
        let mut steps = if finished.is_empty() { vec![] } else { finish(&by.worker, &finished, now)? };
        if claims_some {
            steps.extend([promote_due(now), claim(by, &requests, total, now), next_due(&by.due_kinds, now)]);
        }
        let due_kinds = Arc::clone(&by.due_kinds);
        let work = async move |c: &Connection| {
            let mut found = batch(c, &steps).await?;
            let mut round = PollResult::default();
            if let (true, Some(mut next), Some(rows)) = (claims_some, found.pop(), found.pop()) {
                round.claimed = claims(rows, now).await?;
                round.more = round.claimed.len() >= total;
                if let Some(row) = next.next().await? {
                    round.next_due = row.get(0)?;
                    round.due_at = due_kinds::read(&row, 1, &due_kinds)?;
                }
            }
            Ok(round)
        };
        if self.db.is_local() { self.db.transaction(work).await } else { self.db.with_connection(work).await }
    }

    /// Starts a job of a kind that is due: enqueues and claims it in one statement, and writes half
    /// of what two would write. None when an unfinished job has its key; after a lost reply that is
    /// perhaps this one, see [`Self::held_by`].
    pub(crate) async fn start_due(&self, by: &Claimer, kind: &DueKind) -> Result<Option<Claim>, BooksError> {
        let (job, now) = (kind.job(), self.clock.millis());
        let sql = format!(
            "INSERT INTO jobs (id, kind, payload, state, key, origin, max_attempts, enqueued_at, started_at, \
             attempts, lease, worker, lease_until) \
             VALUES (?1, ?2, ?3, 'running', ?4, ?5, ?6, ?7, ?7, 1, 1, ?8, ?9) ON CONFLICT DO NOTHING RETURNING {CLAIMED}"
        );
        let until = now + millis(by.lease);
        let values = params![
            job.id.to_string(),
            job.kind,
            job.payload,
            job.key,
            job.origin,
            job.max_attempts,
            now,
            by.worker.as_str(),
            until
        ];
        let claimed = async move |c: &Connection| claims(c.query(&sql, values).await?, now).await;
        Ok(self.db.with_connection(claimed).await?.pop())
    }

    /// Raises the heartbeat of the jobs that this worker holds, records that it is alive, reads all
    /// leases, and makes stuck jobs due. On a remote database that is one request.
    pub(crate) async fn heartbeat(
        &self,
        by: &Claimer,
        held: &[Claim],
        state: WorkerState,
    ) -> Result<Heartbeat, BooksError> {
        let (now, running) = (self.clock.millis(), slots(held.len()));
        let held: Vec<HeldLease> = held.iter().map(|c| HeldLease { seq: c.seq, lease: c.lease }).collect();
        let renews = "UPDATE jobs SET heartbeat = jobs.heartbeat + 1, lease_until = ?2 \
                      FROM (SELECT value ->> 'seq' AS seq, value ->> 'lease' AS lease FROM json_each(?3)) h \
                      WHERE jobs.seq = h.seq AND jobs.lease = h.lease AND +jobs.worker = ?1 AND +jobs.state = 'running' \
                      RETURNING jobs.seq, jobs.cancel";
        let worker = || Value::Text(by.worker.clone());
        let until = Value::Integer(now + millis(by.lease));
        let mut steps = vec![report_alive(worker(), now, running, state), (LEASES.into(), vec![]), clock_set_back(now)];
        steps.push(promote_parents("state IN ('scheduled', 'retrying')", None, now));
        let holds = !held.is_empty();
        if holds {
            steps.insert(0, (renews.into(), vec![worker(), until, Value::Text(json(&held)?)]));
        }
        let work = async move |c: &Connection| {
            let mut found = batch(c, &steps).await?.into_iter();
            let (mut next, mut answer) = (|| found.next().unwrap_or_default(), Heartbeat::default());
            if holds {
                let mut own = next();
                while let Some(row) = own.next().await? {
                    answer.held.insert(row.get(0)?, row.get::<i64>(1)? == 1);
                }
            }
            answer.schema = next().next().await?.map(|row| row.get(0)).transpose()?;
            let mut leases = next();
            while let Some(row) = leases.next().await? {
                let (seq, lease, heartbeat) = (row.get(0)?, row.get(1)?, row.get(2)?);
                answer.leases.push(Lease { seq, lease, heartbeat, until: row.get(3)?, worker: row.get(4)? });
            }
            for mut requeued in [next(), next()] {
                answer.requeued |= requeued.next().await?.is_some();
            }
            Ok(answer)
        };
        self.db.with_connection(work).await
    }

    /// The jobs that this worker holds according to the table, for after an unclear answer.
    pub(crate) async fn held_by(&self, worker: &str) -> Result<Vec<Claim>, BooksError> {
        let (worker, now) = (worker.to_owned(), self.clock.millis());
        self.db
            .with_connection(async move |c| {
                let sql = format!("SELECT {CLAIMED} FROM jobs WHERE state = 'running' AND worker = ?1");
                claims(c.query(&sql, params![worker]).await?, now).await
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

const LEASES: &str = "SELECT seq, lease, heartbeat, lease_until, worker FROM jobs WHERE state = 'running'";

/// Runs steps until one fails; on a remote database in one request.
async fn batch(c: &Connection, steps: &[Step]) -> Result<Vec<Rows>, BooksError> {
    c.batch(steps.iter().map(|(sql, values)| (sql.as_str(), values.clone())).collect()).await
}

fn next_due(kinds: &[DueKind], now: i64) -> Step {
    let mut values = vec![];
    let columns = due_kinds::columns(kinds, now, &mut values);
    (format!("SELECT (SELECT min(run_at) FROM jobs WHERE state IN ('scheduled', 'retrying')){columns}"), values)
}

fn promote_due(now: i64) -> Step {
    let sql = "UPDATE jobs SET state = 'pending', run_at = NULL, awaits = 0 WHERE seq IN (SELECT seq FROM jobs \
               WHERE state IN ('scheduled', 'retrying') AND run_at <= ?1 ORDER BY run_at LIMIT ?2)";
    (sql.into(), vec![Value::Integer(now), Value::Integer(DUE_AT_ONCE)])
}

/// Makes jobs due whose waiting time was chosen by a clock that has been set back since.
fn clock_set_back(now: i64) -> Step {
    let sql = "UPDATE jobs SET state = 'pending', run_at = NULL, awaits = 0 WHERE state IN ('scheduled', 'retrying') \
               AND (state = 'retrying' OR awaits = 1) AND started_at > ?1 RETURNING seq";
    (sql.into(), vec![Value::Integer(now + SET_BACK_MS)])
}

/// Claims, in one statement, the first due jobs of each kind by priority and age. Jobs that an
/// earlier job of their lane blocks are left out.
fn claim(by: &Claimer, requests: &[ClaimRequest], total: usize, now: i64) -> Step {
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
    (sql, values)
}

async fn claims(mut rows: Rows, now: i64) -> Result<Vec<Claim>, BooksError> {
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
fn finish(worker: &str, finished: &[JobUpdate], now: i64) -> Result<Vec<Step>, BooksError> {
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
    let values = vec![Value::Text(json(&rows)?), Value::Text(worker.to_owned()), Value::Integer(now)];
    let mut steps = vec![(sql.into(), values)];
    let waiting: Vec<i64> = finished.iter().filter_map(|f| if f.awaits { Some(f.seq) } else { f.parent }).collect();
    if !waiting.is_empty() {
        steps.push(promote_parents("seq IN (SELECT value FROM json_each(?5))", Some(json(&waiting)?), now));
    }
    Ok(steps)
}

/// Makes parents due when all their children are finished. A dead child costs its parent an attempt
/// and a wait. A parent without children of its own (all that it asked for run for another parent)
/// runs again a little later.
fn promote_parents(which: &str, seqs: Option<String>, now: i64) -> Step {
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
         WHERE awaits = 1 AND {which} AND {CHILDREN_FINISHED} RETURNING seq"
    );
    let Backoff { base, cap } = Backoff::default();
    let mut values = [now, millis(base), millis(cap), RUN_AGAIN_MS].map(Value::Integer).to_vec();
    values.extend(seqs.map(Value::Text));
    (sql, values)
}

/// The answer to a heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// The jobs that this worker still holds, each with whether its cancellation was requested.
    pub(crate) held: HashMap<i64, bool>,
    /// The schema version of the database; none when the row of this process is gone.
    pub(crate) schema: Option<i64>,
    /// Of all running jobs.
    pub(crate) leases: Vec<Lease>,
    /// True when jobs were made due: the last child of their parent ended without a run (cancelled,
    /// or lost with its worker), or the clock was set back.
    pub(crate) requeued: bool,
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
