//! Adds the rows that this process has cost on a remote database to those of the day.

use std::time::Duration;

use super::outage::OutageLog;
use super::process::Shared;

/// How often, on average; a process that is killed loses what it has counted since.
const INTERVAL: Duration = Duration::from_secs(600);

pub(super) async fn keep(shared: Shared) {
    let mut outage = OutageLog::default();
    loop {
        tokio::time::sleep(INTERVAL * fastrand::u32(500..1500) / 1000).await;
        match shared.queue.database().keep_row_counts(shared.queue.now()).await {
            Ok(()) => outage.ended("keep the counts of rows"),
            Err(error) => drop(outage.note("keep the counts of rows", &error)),
        }
    }
}
