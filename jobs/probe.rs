//! `probe`: a job that does almost nothing. It shows whether a worker runs it, how soon, and
//! exactly once.
//!
//! Its effect goes through a claim, as every effect of every job: the first run inserts the row of
//! its name, and every other run finds the row and only counts a repeat. So the table shows, after
//! any number of crashes, whether each probe took effect exactly once.

use std::time::Duration;

use books::store::connection::params;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use books::store::error::BooksError;
use books::store::rows::first_row;

/// Insert the row of this name, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    pub name: String,
    /// How long the run takes, in milliseconds.
    #[serde(default)]
    pub millis: u64,
}

/// What a probe did.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ProbeReport {
    pub name: String,
    /// Runs of this name before this one.
    pub repeats: i64,
}

impl Job for Probe {
    const KIND: &'static str = "probe";
    const DESCRIPTION: &'static str = "do nothing, once: try whether the queue works";
    const MAX_CONCURRENT: usize = 256;
    type Report = ProbeReport;

    async fn run(self, context: &Context, now: Timestamp) -> Result<ProbeReport, Failure> {
        if self.millis > 0 {
            tokio::time::sleep(Duration::from_millis(self.millis)).await;
        }
        let name = self.name.clone();
        let done_at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let claim = async move |c: &books::store::connection::Connection| -> Result<i64, BooksError> {
            let sql = "INSERT INTO probes (name, effects, done_at) VALUES (?1, 1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET repeats = repeats + 1 RETURNING repeats";
            first_row(c, sql, params![name, done_at]).await?.map_or(Ok(0), |row| row.get(0))
        };
        let repeats = context.books.transaction(claim).await?;
        Ok(ProbeReport { name: self.name, repeats })
    }
}
