//! What became of the newest readings of each export: for exports of which nothing is booked.

use std::collections::BTreeMap;

use books::BooksError;
use books::store::connection::{Connection, params};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The newest readings of an export, as far as their jobs are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IngestRuns {
    /// Whether one found a bill.
    pub found_a_bill: bool,
    /// The newest that ended, or failed and will be tried again.
    pub last: Option<LastEnd>,
}

/// How a reading ended.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct LastEnd {
    /// When it ended; none while it will be tried again.
    #[serde(default, deserialize_with = "of_milliseconds")]
    pub at: Option<Timestamp>,
    /// Why it failed; none when it is done.
    pub reason: Option<String>,
}

/// Milliseconds since 1970, as the queue has them.
fn of_milliseconds<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    let milliseconds = Option::<i64>::deserialize(d)?;
    milliseconds.map(|at| Timestamp::from_millisecond(at).map_err(D::Error::custom)).transpose()
}

/// For each name of the JSON array ?1. The keys of an export's jobs begin with its name
/// (`ingest_cur/main/2026-03`), and `0` comes after `/`. Each part reads few rows of a partial
/// index.
const RUNS: &str = "WITH exports AS (SELECT value AS name, 'ingest_cur/' || value || '/' AS low, 'ingest_cur/' || value || '0' AS high \
                  FROM json_each(?1)) \
    SELECT name, \
      EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_done WHERE state = 'done' AND kind = 'ingest_cur' AND key >= low AND key < high \
              AND report ->> 'outcome' <> 'no_bill'), \
      (SELECT json_object('at', NULL, 'reason', reason) FROM jobs INDEXED BY jobs_key \
       WHERE state IN ('pending', 'scheduled', 'running', 'retrying') AND key >= low AND key < high AND reason IS NOT NULL LIMIT 1), \
      (SELECT json_object('at', finished_at, 'reason', reason) FROM jobs INDEXED BY jobs_given_up_key \
       WHERE state IN ('dead', 'cancelled') AND state = 'dead' AND key >= low AND key < high ORDER BY finished_at DESC LIMIT 1), \
      (SELECT json_object('at', finished_at, 'reason', NULL) FROM jobs INDEXED BY jobs_done \
       WHERE state = 'done' AND kind = 'ingest_cur' AND key >= low AND key < high ORDER BY finished_at DESC LIMIT 1) \
    FROM exports";

/// What became of the newest readings of each of `exports`.
pub(crate) async fn ingest_runs(
    c: &Connection,
    exports: &[String],
) -> Result<BTreeMap<String, IngestRuns>, BooksError> {
    if exports.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut rows = c.query(RUNS, params![books::store::rows::json(exports)?]).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let mut ends = vec![];
        for column in 2..5 {
            if let Some(text) = row.get::<Option<String>>(column)? {
                let end: LastEnd = serde_json::from_str(&text).map_err(|e| BooksError::Integrity(e.to_string()))?;
                ends.push(end);
            }
        }
        // one that will be tried again is the newest
        let last = ends.into_iter().max_by_key(|end| end.at.unwrap_or(Timestamp::MAX));
        found.insert(row.get(0)?, IngestRuns { found_a_bill: row.get::<i64>(1)? == 1, last });
    }
    Ok(found)
}
