//! Figures of the queue, for metrics, the status page and `meter status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use books::BooksError;
use books::store::connection::params;
use books::store::rows::first_row;
use books::units::calendar::CLOCK_SKEW;
use jiff::Timestamp;
use serde::Serialize;

use super::jobs_table::{Queue, instant};
use super::types::JobState;

/// Figures of the whole queue.
#[derive(Clone, Debug, Default, Serialize)]
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
}

/// The jobs of a kind.
#[derive(Clone, Debug, Default, Serialize)]
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

/// What a worker process is doing, as its row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    Working,
    Stopping,
    /// Without a heartbeat for longer than a lease and the largest difference of clocks.
    Silent,
}

impl WorkerState {
    pub const ALL: [Self; 3] = [Self::Working, Self::Stopping, Self::Silent];

    pub fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Stopping => "stopping",
            Self::Silent => "silent",
        }
    }
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
const CHECKS_ON_CHANGE: [&str; 2] = ["roll_periods", "sync_stripe"];
/// Their findings are kept this long, until every customer was checked again.
const FINDING_KEPT_MS: i64 = 25 * 3_600_000;

/// Counts of jobs by kind and state.
pub(crate) type Counts = BTreeMap<(String, JobState), i64>;

impl Queue {
    /// Numbers of done and cancelled jobs by kind; slow, because it reads each of them.
    pub(crate) async fn finished(&self) -> Result<Counts, BooksError> {
        self.counted(FINISHED).await
    }

    pub(super) async fn counted(&self, sql: &'static str) -> Result<Counts, BooksError> {
        self.db
            .with_connection(async move |c| {
                let mut rows = c.query(sql, ()).await?;
                let mut found = BTreeMap::new();
                while let Some(row) = rows.next().await? {
                    let state: String = row.get(1)?;
                    found.insert((row.get(0)?, state.parse().map_err(BooksError::Integrity)?), row.get(2)?);
                }
                Ok(found)
            })
            .await
    }

    /// The figures now. `kinds` are listed even without a job; `finished` has the numbers of
    /// finished jobs. A worker counts as silent without a heartbeat for `lease` and the largest
    /// difference of clocks.
    pub async fn stats(&self, kinds: &[&str], finished: &Counts, lease: Duration) -> Result<QueueStats, BooksError> {
        let mut found = QueueStats { ticks: self.last_ticks().await?, ..QueueStats::default() };
        let none: BTreeMap<JobState, i64> = JobState::ALL.iter().map(|s| (*s, 0)).collect();
        for kind in kinds {
            found.kinds.insert((*kind).to_owned(), KindStats { states: none.clone(), ..KindStats::default() });
        }
        let open = self.counted(OPEN).await?;
        for ((kind, state), count) in open.into_iter().chain(finished.clone()) {
            let of = found.kinds.entry(kind);
            let of = of.or_insert_with(|| KindStats { states: none.clone(), ..KindStats::default() });
            of.states.insert(state, count);
        }
        let now = self.now();
        found.workers = WorkerState::ALL.iter().map(|s| (*s, 0)).collect();
        for worker in self.workers().await? {
            let silent = Duration::try_from(now.duration_since(worker.seen_at)).unwrap_or_default()
                > lease + CLOCK_SKEW.unsigned_abs();
            let state = match worker.state.as_str() {
                "stopped" => continue,
                _ if silent => WorkerState::Silent,
                "stopping" => WorkerState::Stopping,
                _ => WorkerState::Working,
            };
            *found.workers.entry(state).or_default() += 1;
            if state == WorkerState::Working {
                found.working_since =
                    Some(found.working_since.map_or(worker.started_at, |at| at.min(worker.started_at)));
            }
        }
        self.waiting_and_done(found).await
    }

    /// Adds, for each kind, the longest wait and the last success.
    async fn waiting_and_done(&self, mut found: QueueStats) -> Result<QueueStats, BooksError> {
        let now = self.clock.millis();
        self.db
            .with_connection(async move |c| {
                // jobs of a lane wait for each other, and those that wait for others or for their
                // time are not due
                let sql = "SELECT kind, min(since) FROM ( \
                             SELECT kind, coalesce(due_at, enqueued_at) AS since FROM jobs WHERE state = 'pending' AND lane IS NULL \
                             UNION ALL SELECT kind, run_at FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at < ?1 AND lane IS NULL) \
                           GROUP BY kind";
                let mut rows = c.query(sql, params![now]).await?;
                while let Some(row) = rows.next().await? {
                    if let Some(kind) = found.kinds.get_mut(&row.get::<String>(0)?) {
                        kind.waiting_since = Some(instant(row.get(1)?)?);
                    }
                }
                for (name, kind) in &mut found.kinds {
                    let sql = "SELECT finished_at, attention, seq FROM jobs WHERE state IN ('done', 'dead', 'cancelled') \
                               AND state = 'done' AND kind = ?1 ORDER BY finished_at DESC LIMIT 1";
                    if kind.states.get(&JobState::Done).is_some_and(|n| *n > 0)
                        && let Some(row) = first_row(c, sql, params![name.clone()]).await?
                    {
                        kind.last_done = Some(instant(row.get(0)?)?);
                        kind.attention = row.get::<i64>(1)? == 1;
                        kind.last_done_job = Some(row.get(2)?);
                    }
                    if !kind.attention && CHECKS_ON_CHANGE.contains(&name.as_str()) {
                        let sql = "SELECT 1 FROM jobs WHERE state IN ('done', 'dead', 'cancelled') AND state = 'done' \
                                   AND finished_at > ?2 AND kind = ?1 AND attention = 1 LIMIT 1";
                        kind.attention = first_row(c, sql, params![name.clone(), now - FINDING_KEPT_MS]).await?.is_some();
                    }
                }
                Ok(found)
            })
            .await
    }
}
