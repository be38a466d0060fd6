//! The table `workers`: the processes that run jobs, as of their last heartbeat.

use books::BooksError;
use books::store::connection::{Connection, Value, params};
use books::store::rows::json;

use super::jobs_table::{Queue, instant, with_retry};
use super::types::{Step, WorkerRow, WorkerState};

/// Host, process id and version of a worker.
#[derive(Clone, Debug)]
pub struct Identity {
    pub host: String,
    pub pid: u32,
    pub version: String,
}

impl Queue {
    /// The worker processes, newest first.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, BooksError> {
        with_retry(|| self.db.with_connection(async |c| workers(c).await)).await
    }

    /// Inserts the row of this process; safe to repeat.
    pub(crate) async fn register(
        &self,
        worker: &str,
        who: &Identity,
        kinds: &[&str],
        concurrency: usize,
    ) -> Result<(), BooksError> {
        let names = json(kinds)?;
        let slots = i64::try_from(concurrency).unwrap_or(i64::MAX);
        let (id, now, who) = (worker.to_owned(), self.clock.millis(), who.clone());
        self.db
            .with_connection(async move |c| {
                let sql = "INSERT INTO workers (id, host, pid, version, kinds, concurrency, state, started_at, seen_at) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'working', ?7, ?7) ON CONFLICT DO NOTHING";
                c.execute(sql, params![id, who.host, who.pid, who.version, names, slots, now]).await?;
                Ok(())
            })
            .await
    }

    /// Removes the rows of workers that have not been seen for `kept_ms` milliseconds.
    pub(crate) async fn forget_workers(&self, kept_ms: i64) -> Result<(), BooksError> {
        let before = self.clock.millis() - kept_ms;
        self.db
            .with_connection(async move |c| {
                c.execute("DELETE FROM workers WHERE seen_at < ?1", params![before]).await?;
                Ok(())
            })
            .await
    }

    pub(crate) async fn mark_stopped(&self, worker: &str) -> Result<(), BooksError> {
        let (worker, now) = (worker.to_owned(), self.clock.millis());
        self.db
            .with_connection(async move |c| {
                let sql = "UPDATE workers SET state = 'stopped', running = 0, seen_at = ?2 WHERE id = ?1";
                c.execute(sql, params![worker, now]).await?;
                Ok(())
            })
            .await
    }
}

/// Records that a worker is alive and what it does. Answers with the schema version of the
/// database; with no row when the row of the worker is gone.
pub(super) fn report_alive(worker: Value, now: i64, running: i64, state: WorkerState) -> Step {
    let sql = "UPDATE workers SET seen_at = ?2, running = ?3, state = ?4 WHERE id = ?1 \
               RETURNING (SELECT max(version) FROM schema_versions)";
    (sql.into(), vec![worker, Value::Integer(now), Value::Integer(running), Value::Text(state.name().into())])
}

/// As [`Queue::workers`], beside other queries of the connection.
pub(super) async fn workers(c: &Connection) -> Result<Vec<WorkerRow>, BooksError> {
    let sql = "SELECT id, host, pid, version, kinds, concurrency, state, running, started_at, seen_at \
               FROM workers ORDER BY started_at DESC, id DESC";
    let mut rows = c.query(sql, ()).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(WorkerRow {
            id: row.get(0)?,
            host: row.get(1)?,
            pid: row.get(2)?,
            version: row.get(3)?,
            kinds: serde_json::from_str(&row.get::<String>(4)?).unwrap_or_default(),
            concurrency: row.get(5)?,
            state: row.get(6)?,
            running: row.get(7)?,
            started_at: instant(row.get(8)?)?,
            seen_at: instant(row.get(9)?)?,
        });
    }
    Ok(found)
}
