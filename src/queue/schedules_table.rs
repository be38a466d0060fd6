//! The table `schedules`: the last tick of each schedule that was turned into jobs.

use std::collections::BTreeMap;

use books::BooksError;
use books::store::connection::{Connection, params};
use jiff::Timestamp;

use super::jobs_table::{Queue, enqueue_in, instant, with_retry};
use super::types::NewJob;

/// The last tick of a schedule that was turned into jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastTick {
    /// Its time by the cron line.
    pub tick: Timestamp,
    /// When it was turned into jobs. The first tick of a schedule, and one that was missed, lie
    /// before.
    pub enqueued_at: Timestamp,
}

impl Queue {
    /// Enqueues the jobs of a schedule's tick, unless this tick or a later one was enqueued before.
    /// `stuck` is a stored tick that lies in the future and does not move: the clock that made it
    /// has been set back, so it does not count.
    pub async fn enqueue_tick(
        &self,
        name: &str,
        tick: Timestamp,
        stuck: Option<Timestamp>,
        jobs: &[NewJob],
    ) -> Result<bool, BooksError> {
        let (now, at, stuck) = (self.now(), tick.as_millisecond(), stuck.map(Timestamp::as_millisecond));
        let won = with_retry(|| {
            let (name, jobs) = (name.to_owned(), jobs.to_vec());
            self.db.transaction(async move |c| {
                let sql = "INSERT INTO schedules (name, last_tick, claimed_at) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO \
                           UPDATE SET last_tick = excluded.last_tick, claimed_at = excluded.claimed_at \
                           WHERE last_tick < excluded.last_tick OR last_tick = ?4";
                let claimed = c.execute(sql, params![name, at, now.as_millisecond(), stuck]).await?;
                if claimed == 1 && !jobs.is_empty() {
                    enqueue_in(c, &jobs, now).await?;
                }
                Ok(claimed == 1)
            })
        })
        .await?;
        if won {
            self.notify_new_work();
        }
        Ok(won)
    }

    /// The last tick of each schedule that was enqueued.
    pub async fn last_ticks(&self) -> Result<BTreeMap<String, LastTick>, BooksError> {
        with_retry(|| self.db.with_connection(async |c| last_ticks(c).await)).await
    }
}

/// As [`Queue::last_ticks`], beside other queries of the connection.
pub(super) async fn last_ticks(c: &Connection) -> Result<BTreeMap<String, LastTick>, BooksError> {
    let mut rows = c.query("SELECT name, last_tick, claimed_at FROM schedules", ()).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let last = LastTick { tick: instant(row.get(1)?)?, enqueued_at: instant(row.get(2)?)? };
        found.insert(row.get(0)?, last);
    }
    Ok(found)
}
