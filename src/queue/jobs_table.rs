//! The table `jobs`, as people, schedules and jobs use it: enqueue, list, retry, cancel, purge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use books::store::connection::{Connection, Row, Value, params, params_from_iter};
use books::store::rows::{first_row, json};
use books::{BooksError, Database};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Notify;
use ulid::Ulid;

use super::due_kinds::{self, DueAt, DueKind};
use super::types::{Clock, Enqueued, FailedRun, JobFilter, JobRow, JobState, NewJob, OPEN, SEARCHED_JOBS};

/// The most rows that one statement deletes, so that the write lock is short.
const ROWS_AT_ONCE: i64 = 500;
const COLUMNS: &str = "seq, id, kind, payload, state, priority, key, lane, parent, origin, run_at, attempts, max_attempts, \
    lease, worker, awaits, reason, report, attention, enqueued_at, started_at, finished_at";

/// The queue; cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue {
    pub(crate) db: Database,
    pub(crate) clock: Clock,
    /// Notified when this process has enqueued a job.
    pub(crate) new_work: Arc<Notify>,
}

/// Retries after failures that pass by themselves: a lock, a network.
pub(super) async fn with_retry<T, F: Future<Output = Result<T, BooksError>>>(
    call: impl FnMut() -> F,
) -> Result<T, BooksError> {
    let backoff = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_max_times(8)
        .with_jitter();
    call.retry(backoff).when(BooksError::is_retryable).await
}

/// Enqueues inside a transaction of the caller, so that the jobs commit with everything else.
/// Workers of other processes find them at their next poll; [`Queue::notify_new_work`] wakes those
/// of this process.
///
/// # Errors
/// Then the caller must not commit.
pub async fn enqueue_in(c: &Connection, jobs: &[NewJob], now: Timestamp) -> Result<Vec<Enqueued>, BooksError> {
    let rows = Rows::of(jobs, now)?;
    let mut found = insert(c, &rows).await?;
    while !rows.complete(&found) {
        found = insert(c, &rows).await?;
    }
    Ok(rows.answer(&found))
}

/// Jobs to be inserted.
#[derive(Clone, Debug)]
struct Rows {
    json: Arc<str>,
    /// Id and key of each.
    ids: Arc<[(String, Option<String>)]>,
}

/// A row of [`Rows`].
#[derive(Serialize)]
struct NewRow<'a> {
    id: String,
    kind: &'a str,
    payload: &'a str,
    state: &'a str,
    priority: i64,
    key: Option<&'a str>,
    lane: Option<&'a str>,
    parent: Option<i64>,
    parent_lease: Option<i64>,
    origin: &'a str,
    run_at: Option<i64>,
    max_attempts: u32,
    enqueued_at: i64,
}

/// The result of an insert: every job is new, or the jobs that the table has for ids and keys.
enum Found {
    AllNew,
    Some { ids: Vec<String>, holders: BTreeMap<String, String> },
}

impl Rows {
    fn of(jobs: &[NewJob], now: Timestamp) -> Result<Self, BooksError> {
        let at = now.as_millisecond();
        let rows: Vec<NewRow<'_>> = jobs
            .iter()
            .map(|j| {
                let run_at = j.run_at.map(Timestamp::as_millisecond).filter(|t| *t > at);
                let state = if run_at.is_some() { JobState::Scheduled } else { JobState::Pending };
                NewRow {
                    id: j.id.to_string(),
                    kind: &j.kind,
                    payload: &j.payload,
                    state: state.as_str(),
                    priority: j.priority,
                    key: j.key.as_deref(),
                    lane: j.lane.as_deref(),
                    parent: j.parent.map(|p| p.seq),
                    parent_lease: j.parent.map(|p| p.lease),
                    origin: &j.origin,
                    run_at,
                    max_attempts: j.max_attempts,
                    enqueued_at: at,
                }
            })
            .collect();
        let json = json(&rows)?;
        let ids = jobs.iter().map(|j| (j.id.to_string(), j.key.clone())).collect();
        Ok(Self { json: json.into(), ids })
    }

    /// True when each job, or another one with its key, is in the table.
    fn complete(&self, found: &Found) -> bool {
        let Found::Some { ids, holders } = found else { return true };
        self.ids.iter().all(|(id, key)| ids.contains(id) || key.as_ref().is_some_and(|k| holders.contains_key(k)))
    }

    fn answer(&self, found: &Found) -> Vec<Enqueued> {
        let answer = |(id, key): &(String, Option<String>)| match found {
            Found::Some { ids, holders } if !ids.contains(id) => {
                let holder = key.as_ref().and_then(|k| holders.get(k));
                Enqueued { id: holder.unwrap_or(id).clone(), new: false }
            }
            _ => Enqueued { id: id.clone(), new: true },
        };
        self.ids.iter().map(answer).collect()
    }
}

/// One statement inserts all rows; only when it inserted fewer, others read which jobs are there.
async fn insert(c: &Connection, rows: &Rows) -> Result<Found, BooksError> {
    let sql = "INSERT INTO jobs (id, kind, payload, state, priority, key, lane, parent, origin, parent_lease, run_at, max_attempts, enqueued_at) \
               SELECT value ->> 'id', value ->> 'kind', value ->> 'payload', value ->> 'state', value ->> 'priority', value ->> 'key', \
               value ->> 'lane', value ->> 'parent', value ->> 'origin', value ->> 'parent_lease', value ->> 'run_at', \
               value ->> 'max_attempts', value ->> 'enqueued_at' \
               FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING";
    let inserted = c.execute(sql, params![rows.json.to_string()]).await?;
    if usize::try_from(inserted).is_ok_and(|n| n == rows.ids.len()) {
        return Ok(Found::AllNew);
    }
    let (mut ids, mut holders) = (vec![], BTreeMap::new());
    let own: Vec<_> = rows.ids.iter().map(|(id, _)| id).collect();
    let keys: Vec<_> = rows.ids.iter().filter_map(|(_, key)| key.as_ref()).collect();
    let sql = "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?1))";
    let mut found = c.query(sql, params![json(&own)?]).await?;
    while let Some(row) = found.next().await? {
        ids.push(row.get(0)?);
    }
    expedite(c, rows).await?;
    let sql = format!(
        "SELECT key, id FROM jobs WHERE key IS NOT NULL AND {OPEN} AND key IN (SELECT value FROM json_each(?1))"
    );
    let mut found = c.query(&sql, params![json(&keys)?]).await?;
    while let Some(row) = found.next().await? {
        holders.insert(row.get(0)?, row.get(1)?);
    }
    Ok(Found::Some { ids, holders })
}

/// A waiting job with the key of a new one becomes due as early and as urgent as the new one: a
/// backfill or a job of next week does not delay live work.
async fn expedite(c: &Connection, rows: &Rows) -> Result<(), BooksError> {
    let sql = format!(
        "UPDATE jobs SET priority = max(jobs.priority, n.priority), lane = iif(n.lane IS NULL, NULL, jobs.lane), \
         run_at = iif(jobs.state <> 'scheduled' OR jobs.awaits = 1 OR n.run_at > jobs.run_at, jobs.run_at, n.run_at), \
         state = iif(jobs.state = 'scheduled' AND jobs.awaits = 0 AND n.run_at IS NULL, 'pending', jobs.state) \
         FROM (SELECT value ->> 'id' AS id, value ->> 'priority' AS priority, value ->> 'key' AS key, value ->> 'lane' AS lane, \
         value ->> 'run_at' AS run_at FROM json_each(?1)) n \
         WHERE jobs.key = n.key AND jobs.key IS NOT NULL AND jobs.{OPEN} AND jobs.id <> n.id AND jobs.state <> 'running'"
    );
    c.execute(&sql, params![rows.json.to_string()]).await?;
    Ok(())
}

/// The jobs that run now, each as `kind number`: what their runs have read is not to be changed.
pub(crate) async fn running_jobs(c: &Connection) -> Result<Vec<String>, BooksError> {
    let mut rows = c.query("SELECT kind || ' ' || seq FROM jobs WHERE state = 'running' ORDER BY seq", ()).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(row.get(0)?);
    }
    Ok(found)
}

impl Queue {
    /// What a worker of these kinds should know of.
    pub(crate) async fn look(&self, worker: &str, kinds: &[&str], due: &Arc<[DueKind]>) -> Result<Look, BooksError> {
        let (mut values, due) = (vec![json(kinds)?.into(), worker.to_owned().into()], Arc::clone(due));
        let columns = due_kinds::columns(&due, self.clock.millis(), &mut values);
        self.db
            .with_connection(async move |c| {
                // a row for each kind is read only when something waits
                let sql = "SELECT CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE state = 'pending') THEN \
                           EXISTS (SELECT 1 FROM json_each(?1) k JOIN jobs j ON j.kind = k.value AND j.state = 'pending') ELSE 0 END, \
                           (SELECT min(run_at) FROM jobs WHERE state IN ('scheduled', 'retrying')), \
                           EXISTS (SELECT 1 FROM jobs WHERE state = 'running' AND worker <> ?2), \
                           (SELECT max(version) FROM schema_versions)";
                let row = first_row(c, &format!("{sql}{columns}"), values).await?;
                let row = row.ok_or_else(|| BooksError::Integrity("a query of one row found none".into()))?;
                let due_at = due_kinds::read(&row, 4, &due)?;
                let (due, others_run) = (row.get::<i64>(0)? == 1, row.get::<i64>(2)? == 1);
                Ok(Look { due, next_due: row.get(1)?, others_run, schema: row.get(3)?, due_at })
            })
            .await
    }

    /// The queue in `db`, which must be migrated.
    pub fn new(db: Database, clock: Clock) -> Self {
        Self { db, clock, new_work: Arc::default() }
    }

    /// Now, by the queue's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn database(&self) -> &Database {
        &self.db
    }

    pub async fn schema_version(&self) -> Result<i64, BooksError> {
        self.db.schema_version().await
    }

    /// Tells the workers of this process that a job may be due.
    pub fn notify_new_work(&self) {
        self.new_work.notify_one();
    }

    /// Enqueues all or none. While an unfinished job has the same key, no second one is enqueued.
    /// Safe to repeat after an unclear answer, because the ids exist before the first try.
    pub async fn enqueue(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, BooksError> {
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let rows = Rows::of(jobs, self.now())?;
        loop {
            let found = with_retry(|| {
                let rows = rows.clone();
                self.db.with_connection(async move |c| insert(c, &rows).await)
            })
            .await?;
            // the holder of a key may have finished between the two statements
            if rows.complete(&found) {
                self.notify_new_work();
                return Ok(rows.answer(&found));
            }
        }
    }

    /// The job with an id or number.
    pub async fn get(&self, id: &str) -> Result<Option<JobRow>, BooksError> {
        let filter = JobFilter { ids: vec![id.to_owned()], ..JobFilter::default() };
        Ok(self.list(&filter, 1).await?.pop())
    }

    /// The newest `limit` jobs that match, newest first.
    pub async fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRow>, BooksError> {
        let (condition, values) = condition(filter, vec![]);
        with_retry(|| {
            let (condition, values) = (condition.clone(), values.clone());
            self.db.with_connection(async move |c| {
                let sql = format!("SELECT {COLUMNS} FROM jobs WHERE {condition} ORDER BY seq DESC LIMIT {limit}");
                let mut rows = c.query(&sql, params_from_iter(values)).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    found.push(job(&row)?);
                }
                Ok(found)
            })
        })
        .await
    }

    /// The newest `limit` runs of a job that failed, newest first.
    pub async fn failed_runs(&self, seq: i64, limit: u32) -> Result<Vec<FailedRun>, BooksError> {
        self.db
            .with_connection(async move |c| {
                let sql = "SELECT attempt, worker, started_at, failed_at, reason FROM job_failures \
                           WHERE job = ?1 ORDER BY lease DESC LIMIT ?2";
                let mut rows = c.query(sql, params![seq, limit]).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    found.push(FailedRun {
                        attempt: row.get(0)?,
                        worker: row.get(1)?,
                        started_at: row.get::<Option<i64>>(2)?.map(instant).transpose()?,
                        failed_at: instant(row.get(3)?)?,
                        reason: row.get(4)?,
                    });
                }
                Ok(found)
            })
            .await
    }

    /// Numbers of jobs by kind and state.
    pub async fn counts(&self) -> Result<BTreeMap<(String, JobState), i64>, BooksError> {
        with_retry(|| self.counted("SELECT kind, state, count(*) FROM jobs GROUP BY kind, state")).await
    }

    /// Makes dead, cancelled and waiting jobs due now, with all their attempts. A finished job
    /// stays as it is while an unfinished one has its key. Returns how many changed.
    pub async fn retry(&self, filter: &JobFilter) -> Result<u64, BooksError> {
        let set = "state = 'pending', attempts = 0, run_at = NULL, finished_at = NULL, awaits = 0, cancel = 0";
        // one statement for each index; of given up jobs with one key the newest, and none if an
        // unfinished one holds the key
        let given_up = format!(
            "state IN ('dead', 'cancelled') AND (key IS NULL OR (NOT EXISTS (SELECT 1 FROM jobs o WHERE o.key = jobs.key \
             AND o.key IS NOT NULL AND o.{OPEN}) AND NOT EXISTS (SELECT 1 FROM jobs o WHERE o.key = jobs.key \
             AND o.key IS NOT NULL AND o.state IN ('dead', 'cancelled') AND o.seq > jobs.seq)))"
        );
        let mut changed = 0;
        for only in ["state IN ('scheduled', 'retrying')", &given_up] {
            changed += self.change(set, only, filter, self.now()).await?;
        }
        self.notify_new_work();
        Ok(changed)
    }

    /// Cancels unfinished jobs: waiting ones at once, running ones at their worker's next
    /// heartbeat. Returns how many.
    pub async fn cancel(&self, filter: &JobFilter) -> Result<u64, BooksError> {
        let now = self.now();
        let waiting =
            "state = 'cancelled', finished_at = ?1, run_at = NULL, awaits = 0, reason = 'cancelled by a person'";
        let mut changed = self.change(waiting, "state = 'pending'", filter, now).await?;
        changed += self.change(waiting, "state IN ('scheduled', 'retrying')", filter, now).await?;
        let running = self.change("cancel = 1", "state = 'running' AND cancel = 0", filter, now).await?;
        Ok(changed + running)
    }

    /// Removes finished jobs, a few at a time, so that the write lock is short. Returns how many.
    pub async fn purge(&self, filter: &JobFilter) -> Result<u64, BooksError> {
        let (condition, values) = condition(filter, vec![]);
        let mut removed = 0;
        loop {
            let some = with_retry(|| {
                let (condition, values) = (condition.clone(), values.clone());
                self.db.with_connection(async move |c| {
                    let sql = format!(
                        "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs \
                         WHERE state IN ('done', 'dead', 'cancelled') AND {condition} LIMIT {ROWS_AT_ONCE})"
                    );
                    c.execute(&sql, params_from_iter(values)).await
                })
            })
            .await?;
            removed += some;
            if some == 0 {
                return Ok(removed);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Updates all rows that match `only` and the filter. `?1` is now.
    async fn change(&self, set: &str, only: &str, filter: &JobFilter, now: Timestamp) -> Result<u64, BooksError> {
        let (condition, values) = condition(filter, vec![Value::Integer(now.as_millisecond())]);
        // a remote server refuses parameters that no clause names
        let sql = format!("UPDATE jobs SET {set} WHERE {only} AND {condition} AND ?1 IS NOT NULL");
        with_retry(|| {
            let (sql, values) = (sql.clone(), values.clone());
            self.db.with_connection(async move |c| Ok(c.execute(&sql, params_from_iter(values)).await?))
        })
        .await
    }
}

/// A filter as SQL; its parameters follow the given ones.
fn condition(filter: &JobFilter, mut values: Vec<Value>) -> (String, Vec<Value>) {
    let mut bind = |value: Value| {
        values.push(value);
        format!("?{}", values.len())
    };
    let mut parts = vec!["1".to_owned()];
    if !filter.ids.is_empty() {
        let (mut numbers, mut ids) = (vec![], vec![]);
        for id in &filter.ids {
            match id.parse() {
                Ok(number) => numbers.push(bind(Value::Integer(number))),
                Err(_) => ids.push(bind(Value::Text(id.to_ascii_uppercase()))),
            }
        }
        // an empty list beside the other would keep SQLite from using either index
        let sides = [("seq", numbers), ("id", ids)].into_iter().filter(|(_, marks)| !marks.is_empty());
        let sides: Vec<_> = sides.map(|(column, marks)| format!("{column} IN ({})", marks.join(", "))).collect();
        parts.push(format!("({})", sides.join(" OR ")));
    }
    let mut texts = |column: &str, texts: Vec<&str>| {
        if !texts.is_empty() {
            let marks: Vec<_> = texts.into_iter().map(|text| bind(Value::Text(text.to_owned()))).collect();
            parts.push(format!("{column} IN ({})", marks.join(", ")));
        }
    };
    texts("kind", filter.kinds.iter().map(String::as_str).collect());
    texts("state", filter.states.iter().map(|s| s.as_str()).collect());
    if let Some(before) = filter.finished_before {
        parts.push(format!("finished_at < {}", bind(Value::Integer(before.as_millisecond()))));
    }
    if let Some(origin) = &filter.origin {
        parts.push(format!("origin = {}", bind(Value::Text(origin.clone()))));
    }
    if filter.attention {
        parts.push("attention = 1".into());
    }
    if let Some(below) = filter.below {
        parts.push(format!("seq < {}", bind(Value::Integer(below))));
    }
    if let Some(text) = &filter.text {
        let words = "kind || ' ' || id || ' ' || coalesce(key, '') || ' ' || payload || ' ' || coalesce(reason, '') \
                     || ' ' || coalesce(report, '')";
        parts.push(format!(
            "seq > (SELECT max(seq) FROM jobs) - {SEARCHED_JOBS} AND instr(lower({words}), {}) > 0",
            bind(Value::Text(text.to_lowercase()))
        ));
    }
    (parts.join(" AND "), values)
}

fn state(text: &str) -> Result<JobState, BooksError> {
    text.parse().map_err(BooksError::Integrity)
}

pub(super) fn instant(millis: i64) -> Result<Timestamp, BooksError> {
    Timestamp::from_millisecond(millis).map_err(|e| BooksError::Integrity(e.to_string()))
}

fn job(row: &Row) -> Result<JobRow, BooksError> {
    let json = |text: String| serde_json::from_str(&text).map_err(|e| BooksError::Integrity(e.to_string()));
    let when = |n: i32| row.get::<Option<i64>>(n)?.map(instant).transpose();
    Ok(JobRow {
        seq: row.get(0)?,
        id: row.get(1)?,
        kind: row.get(2)?,
        payload: json(row.get(3)?)?,
        state: state(&row.get::<String>(4)?)?,
        priority: row.get(5)?,
        key: row.get(6)?,
        lane: row.get(7)?,
        parent: row.get(8)?,
        origin: row.get(9)?,
        run_at: when(10)?,
        attempts: row.get(11)?,
        max_attempts: row.get(12)?,
        lease: row.get(13)?,
        worker: row.get(14)?,
        awaits: row.get::<i64>(15)? == 1,
        reason: row.get(16)?,
        report: row.get::<Option<String>>(17)?.map(json).transpose()?,
        attention: row.get::<i64>(18)? == 1,
        enqueued_at: instant(row.get(19)?)?,
        started_at: when(20)?,
        finished_at: when(21)?,
    })
}

/// What a worker sees when it looks for work.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// A job of its kinds is due.
    pub(crate) due: bool,
    /// When the next waiting job is due.
    pub(crate) next_due: Option<i64>,
    /// Another worker runs a job, so its lease must be watched.
    pub(crate) others_run: bool,
    /// The schema version of the database.
    pub(crate) schema: i64,
    pub(crate) due_at: DueAt,
}

/// One number, for tests and tools.
pub async fn count(db: &Database, sql: &'static str) -> Result<i64, BooksError> {
    db.with_connection(async move |c| Ok(first_row(c, sql, ()).await?.map_or(Ok(0), |r| r.get(0))?)).await
}

pub(crate) fn new_id() -> String {
    Ulid::generate().to_string()
}

/// A number that changes when another connection has written to a local file. Reading it costs a
/// read of shared memory and no statement.
pub(crate) async fn data_version(db: &Database) -> Result<i64, BooksError> {
    db.with_connection(async |c| Ok(first_row(c, "PRAGMA data_version", ()).await?.map_or(Ok(0), |row| row.get(0))?))
        .await
}
