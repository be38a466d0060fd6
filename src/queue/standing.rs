//! How the queue stands, for metrics, the status page and `meter status`.

use std::collections::BTreeMap;
use std::time::Duration;

use jobs::books::BooksError;
use jobs::books::database::first_row;
use jobs::job::Job;
use jobs::verify_books::VerifyBooks;
use libsql::params;

use super::row::State;
use super::store::{Queue, instant};
use crate::standing::{Audit, KindStanding, QueueStanding};

impl Queue {
    /// How the queue stands. `kinds` are told of even when they have no job. A worker that was silent for longer than `lease` is lost.
    ///
    /// # Errors
    /// What the database says.
    pub async fn standing(&self, kinds: &[&str], lease: Duration) -> Result<QueueStanding, BooksError> {
        let mut found = QueueStanding { ticks: self.last_ticks().await?, ..QueueStanding::default() };
        let none: BTreeMap<&'static str, i64> = State::ALL.iter().map(|s| (s.as_str(), 0)).collect();
        for kind in kinds {
            found.kinds.insert((*kind).to_owned(), KindStanding { states: none.clone(), ..KindStanding::default() });
        }
        for ((kind, state), count) in self.counts().await? {
            let of = found.kinds.entry(kind);
            let of = of.or_insert_with(|| KindStanding { states: none.clone(), ..KindStanding::default() });
            of.states.insert(state.as_str(), count);
        }
        let now = self.now();
        found.workers = BTreeMap::from([("working", 0), ("stopping", 0), ("silent", 0)]);
        for worker in self.workers().await? {
            let silent = Duration::try_from(now.duration_since(worker.seen_at)).unwrap_or_default() > lease;
            let state = match worker.state.as_str() {
                "stopped" => continue,
                _ if silent => "silent",
                "stopping" => "stopping",
                _ => "working",
            };
            *found.workers.entry(state).or_default() += 1;
        }
        self.waiting_and_done(found).await
    }

    /// What waits longest, and what was done last, of each kind.
    async fn waiting_and_done(&self, mut found: QueueStanding) -> Result<QueueStanding, BooksError> {
        let now = self.clock.millis();
        self.db
            .read(async move |c| {
                // jobs of a lane wait for each other, and those that wait for others or for their time are not due
                let sql = "SELECT kind, min(since) FROM ( \
                             SELECT kind, enqueued_at AS since FROM jobs WHERE state = 'pending' AND lane IS NULL \
                             UNION ALL SELECT kind, run_at FROM jobs WHERE state IN ('scheduled', 'retrying') AND run_at < ?1 AND lane IS NULL) \
                           GROUP BY kind";
                let mut rows = c.query(sql, params![now]).await?;
                while let Some(row) = rows.next().await? {
                    if let Some(kind) = found.kinds.get_mut(&row.get::<String>(0)?) {
                        kind.waiting_since = Some(instant(row.get(1)?)?);
                    }
                }
                for (name, kind) in &mut found.kinds {
                    let sql = "SELECT finished_at, attention FROM jobs WHERE state = 'done' AND kind = ?1 ORDER BY finished_at DESC LIMIT 1";
                    if kind.states.get("done").is_some_and(|n| *n > 0)
                        && let Some(row) = first_row(c, sql, params![name.clone()]).await?
                    {
                        kind.last_done = Some(instant(row.get(0)?)?);
                        kind.attention = row.get::<i64>(1)? == 1;
                    }
                }
                Ok(found)
            })
            .await
    }

    /// What the last audit of the books found, as far as its job is kept.
    ///
    /// # Errors
    /// What the database says.
    pub async fn last_audit(&self) -> Result<Audit, BooksError> {
        let report = self.db.read(async |c| {
            let sql = "SELECT finished_at, report FROM jobs WHERE state = 'done' AND kind = ?1 ORDER BY finished_at DESC LIMIT 1";
            let row = first_row(c, sql, params![VerifyBooks::KIND]).await?;
            row.map(|row| Ok::<_, BooksError>((row.get::<i64>(0)?, row.get::<String>(1)?))).transpose()
        });
        let Some((at, report)) = report.await? else { return Ok(Audit::default()) };
        let report: serde_json::Value = serde_json::from_str(&report).unwrap_or_default();
        let checks = report["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let broken = checks.iter().filter_map(|check| {
            let name = check["name"].as_str()?;
            Some((name.to_owned(), i64::try_from(check["violations"].as_array()?.len()).unwrap_or(i64::MAX)))
        });
        Ok(Audit { at: Some(instant(at)?), violations: broken.collect() })
    }
}
