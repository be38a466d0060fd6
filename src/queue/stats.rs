//! How the queue stands, for metrics, the status page and `meter status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use books::BooksError;
use books::store::rows::first_row;
use jiff::Timestamp;
use libsql::params;
use serde::Serialize;

use super::jobs_table::{Queue, instant};
use super::types::JobState;

/// The queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStats {
    /// Kinds of jobs, by name.
    pub kinds: BTreeMap<String, KindStats>,
    /// Worker processes: `working`, `stopping`, `silent`.
    pub workers: BTreeMap<WorkerState, i64>,
    /// Since when the working one works that began first.
    pub working_since: Option<Timestamp>,
    /// Kinds that the schedule enqueues; without a success of theirs for long something is wrong.
    pub scheduled: BTreeSet<String>,
    /// The newest tick of each schedule.
    pub ticks: BTreeMap<String, Timestamp>,
}

/// The jobs of a kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KindStats {
    pub states: BTreeMap<JobState, i64>,
    /// Since when the job is due that waits longest and that nothing but a free worker holds back.
    pub waiting_since: Option<Timestamp>,
    /// When one was last done.
    pub last_done: Option<Timestamp>,
    pub last_done_job: Option<i64>,
    /// Whether that one called for a person, or, of kinds that look at a thing only once, one of
    /// the last day.
    pub attention: bool,
}

/// What a worker process is doing, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    Working,
    Stopping,
    /// Not seen for longer than a lease, and than clocks may differ.
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

/// Clocks of several hosts differ by less than this.
const SKEW: Duration = Duration::from_secs(300);

/// Jobs by kind and state, of those that are not over and those that were given up: each state by
/// its own partial index.
const OPEN: &str = "SELECT kind, state, count(*) FROM ( \
      SELECT kind, state FROM jobs WHERE state = 'pending' \
      UNION ALL SELECT kind, state FROM jobs WHERE state IN ('scheduled', 'retrying') \
      UNION ALL SELECT kind, state FROM jobs WHERE state = 'running' \
      UNION ALL SELECT kind, state FROM jobs INDEXED BY jobs_finished WHERE state IN ('done', 'dead', 'cancelled') AND state = 'dead') GROUP BY kind, state";
/// The others: as many rows as are kept.
const OVER: &str = "SELECT kind, state, count(*) FROM jobs WHERE state IN ('done', 'dead', 'cancelled') AND state <> 'dead' GROUP BY kind, state";

/// Kinds that look at a customer when something has changed, or once a day: that the next run says
/// nothing does not mean that it was mended.
const SEES_ONCE: [&str; 2] = ["roll_periods", "sync_stripe"];
/// So long what they found stands: until each has looked at everything again.
const SEEN_MS: i64 = 25 * 3_600_000;

/// Counts of jobs by kind and state.
pub(crate) type Counts = BTreeMap<(String, JobState), i64>;

impl Queue {
    /// How many jobs are done or cancelled, by kind: each of them is looked at.
    pub(crate) async fn over(&self) -> Result<Counts, BooksError> {
        self.counted(OVER).await
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

    /// How the queue stands. `kinds` are told of even when they have no job, `over` says what is
    /// done. A worker that was silent for longer than `lease`, and than clocks may differ, is lost.
    pub async fn stats(&self, kinds: &[&str], over: &Counts, lease: Duration) -> Result<QueueStats, BooksError> {
        let mut found = QueueStats { ticks: self.last_ticks().await?, ..QueueStats::default() };
        let none: BTreeMap<JobState, i64> = JobState::ALL.iter().map(|s| (*s, 0)).collect();
        for kind in kinds {
            found.kinds.insert((*kind).to_owned(), KindStats { states: none.clone(), ..KindStats::default() });
        }
        let open = self.counted(OPEN).await?;
        for ((kind, state), count) in open.into_iter().chain(over.clone()) {
            let of = found.kinds.entry(kind);
            let of = of.or_insert_with(|| KindStats { states: none.clone(), ..KindStats::default() });
            of.states.insert(state, count);
        }
        let now = self.now();
        found.workers = WorkerState::ALL.iter().map(|s| (*s, 0)).collect();
        for worker in self.workers().await? {
            let silent = Duration::try_from(now.duration_since(worker.seen_at)).unwrap_or_default() > lease + SKEW;
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

    /// What waits longest, and what was done last, of each kind.
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
                    if !kind.attention && SEES_ONCE.contains(&name.as_str()) {
                        let sql = "SELECT 1 FROM jobs WHERE state IN ('done', 'dead', 'cancelled') AND state = 'done' \
                                   AND finished_at > ?2 AND kind = ?1 AND attention = 1 LIMIT 1";
                        kind.attention = first_row(c, sql, params![name.clone(), now - SEEN_MS]).await?.is_some();
                    }
                }
                Ok(found)
            })
            .await
    }
}
