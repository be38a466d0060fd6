//! Figures of the queue, for metrics, the status page and `meter status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use books::BooksError;
use books::store::connection::{Connection, params};
use books::store::rows::first_row;
use futures::future::try_join_all;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::jobs_table::{Queue, instant};
use super::schedules_table::last_ticks;
use super::types::{JobState, WorkerState};
use super::workers_table::workers;

/// Figures of the whole queue.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct QueueStats {
    /// Kinds of jobs, by name.
    pub kinds: BTreeMap<String, KindStats>,
    /// Worker processes: `working`, `stopping`, `silent`.
    pub workers: BTreeMap<WorkerState, i64>,
    /// When the oldest working one began.
    pub working_since: Option<Timestamp>,
    /// Kinds that some schedule enqueues.
    pub scheduled: BTreeSet<String>,
    /// The newest tick of each schedule.
    pub ticks: BTreeMap<String, Timestamp>,
    /// When that was turned into jobs.
    pub ticked_at: BTreeMap<String, Timestamp>,
}

/// The jobs of a kind.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct KindStats {
    pub states: BTreeMap<JobState, i64>,
    /// When the job became due that has waited longest for a free worker.
    pub waiting_since: Option<Timestamp>,
    /// When one was last done.
    pub last_done: Option<Timestamp>,
    pub last_done_job: Option<i64>,
    /// Whether that job's report needs attention; for kinds that check a customer only on a change,
    /// whether one of the last day does.
    pub attention: bool,
}

/// Numbers of unfinished and dead jobs; each state is read by its own partial index.
const OPEN: &str = "SELECT kind, state, count(*) FROM ( \
      SELECT kind, state FROM jobs WHERE state = 'pending' \
      UNION ALL SELECT kind, state FROM jobs WHERE state IN ('scheduled', 'retrying') \
      UNION ALL SELECT kind, state FROM jobs WHERE state = 'running' \
      UNION ALL SELECT kind, state FROM jobs INDEXED BY jobs_finished WHERE state IN ('done', 'dead', 'cancelled') AND state = 'dead') GROUP BY kind, state";
/// Numbers of done and cancelled jobs: this reads as many rows as are kept.
const FINISHED: &str = "SELECT kind, state, count(*) FROM jobs WHERE state IN ('done', 'dead', 'cancelled') AND state <> 'dead' GROUP BY kind, state";

/// These kinds check a customer only on a change or once a day, so one clean run does not clear a
/// finding.
const CHECKS_ON_CHANGE: [&str; 3] = ["roll_periods", "sync_stripe", "enforce_budgets"];
/// Their findings are kept this long, until every customer was checked again.
const FINDING_KEPT_MS: i64 = 25 * 3_600_000;

impl QueueStats {
    /// Adds the numbers of finished jobs.
    pub(crate) fn add(&mut self, finished: &Counts) {
        for ((kind, state), count) in finished {
            self.kinds.entry(kind.clone()).or_insert_with(none).states.insert(*state, *count);
        }
    }
}

/// A kind without a job.
fn none() -> KindStats {
    KindStats { states: JobState::ALL.iter().map(|s| (*s, 0)).collect(), ..KindStats::default() }
}

/// Counts of jobs by kind and state.
pub(crate) type Counts = BTreeMap<(String, JobState), i64>;

impl Queue {
    pub(super) async fn counted(&self, sql: &'static str) -> Result<Counts, BooksError> {
        self.db.with_connection(async move |c| counted(c, sql).await).await
    }

    /// The figures now, as `stats` reads them.
    pub async fn stats(
        &self,
        kinds: &[&str],
        finished: &Counts,
        silent_after: Duration,
    ) -> Result<QueueStats, BooksError> {
        let now = self.now();
        let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
        let mut found = self.db.with_connection(async move |c| stats(c, now, &kinds, silent_after).await).await?;
        found.add(finished);
        Ok(found)
    }
}

/// Numbers of done and cancelled jobs by kind; slow, because it reads each of them.
pub(crate) async fn finished(c: &Connection) -> Result<Counts, BooksError> {
    counted(c, FINISHED).await
}

async fn counted(c: &Connection, sql: &str) -> Result<Counts, BooksError> {
    let mut rows = c.query(sql, ()).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let state: String = row.get(1)?;
        found.insert((row.get(0)?, state.parse().map_err(BooksError::Integrity)?), row.get(2)?);
    }
    Ok(found)
}

/// The figures at `now`, without the numbers of done and cancelled jobs. `kinds` are listed even
/// without a job. A worker counts as silent without a heartbeat for `silent_after`.
pub(crate) async fn stats(
    c: &Connection,
    now: Timestamp,
    kinds: &[String],
    silent_after: Duration,
) -> Result<QueueStats, BooksError> {
    let (ticks, open, workers, mut waiting) =
        tokio::try_join!(last_ticks(c), counted(c, OPEN), workers(c), c.query(WAITING, params![now.as_millisecond()]))?;
    let ticked_at = ticks.iter().map(|(name, last)| (name.clone(), last.enqueued_at)).collect();
    let ticks = ticks.into_iter().map(|(name, last)| (name, last.tick)).collect();
    let mut found = QueueStats { ticks, ticked_at, ..QueueStats::default() };
    found.kinds = kinds.iter().map(|kind| (kind.clone(), none())).collect();
    found.add(&open);
    found.workers = WorkerState::ALL.iter().map(|s| (*s, 0)).collect();
    for worker in workers {
        let Some(state) = worker.state_at(now, silent_after) else { continue };
        *found.workers.entry(state).or_default() += 1;
        if state == WorkerState::Working {
            found.working_since = Some(found.working_since.map_or(worker.started_at, |at| at.min(worker.started_at)));
        }
    }
    while let Some(row) = waiting.next().await? {
        if let Some(kind) = found.kinds.get_mut(&row.get::<String>(0)?) {
            kind.waiting_since = Some(instant(row.get(1)?)?);
        }
    }
    try_join_all(found.kinds.iter_mut().map(|(name, kind)| last_done(c, now, name, kind))).await?;
    Ok(found)
}

/// Since when the jobs of each kind wait. Jobs of a lane wait for each other, and those that wait
/// for others or for their time are not due.
const WAITING: &str = "SELECT kind, min(since) FROM ( \
      SELECT kind, coalesce(due_at, enqueued_at) AS since FROM jobs WHERE state = 'pending' AND lane IS NULL \
      UNION ALL SELECT kind, run_at FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at < ?1 AND lane IS NULL) \
    GROUP BY kind";

/// Adds the last success of a kind.
async fn last_done(c: &Connection, now: Timestamp, name: &str, kind: &mut KindStats) -> Result<(), BooksError> {
    let newest = async {
        let sql = "SELECT finished_at, attention, seq FROM jobs INDEXED BY jobs_done \
                   WHERE state = 'done' AND kind = ?1 ORDER BY finished_at DESC LIMIT 1";
        first_row(c, sql, params![name]).await
    };
    let finding = async {
        if !CHECKS_ON_CHANGE.contains(&name) {
            return Ok(None);
        }
        let sql = "SELECT 1 FROM jobs INDEXED BY jobs_attention \
                   WHERE state = 'done' AND attention = 1 AND kind = ?1 AND finished_at > ?2 LIMIT 1";
        first_row(c, sql, params![name, now.as_millisecond() - FINDING_KEPT_MS]).await
    };
    let (newest, finding) = tokio::try_join!(newest, finding)?;
    kind.attention = finding.is_some();
    if let Some(row) = newest {
        kind.last_done = Some(instant(row.get(0)?)?);
        kind.attention |= row.get::<i64>(1)? == 1;
        kind.last_done_job = Some(row.get(2)?);
    }
    Ok(())
}
