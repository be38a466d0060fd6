//! The cleaner: removes old finished jobs and workers.

use std::time::Duration;

use super::outage::OutageLog;
use super::process::Shared;
use crate::queue::{JobFilter, JobState};

/// How often old rows are removed, on average.
const INTERVAL: Duration = Duration::from_secs(600);
/// Rows of workers without a heartbeat for this time are removed.
const WORKERS_KEPT_MS: i64 = 86_400_000;

pub(super) async fn clean(shared: Shared) {
    let mut outage = OutageLog::default();
    loop {
        tokio::time::sleep(INTERVAL * fastrand::u32(500..1500) / 1000).await;
        let Shared { queue, settings, .. } = &shared;
        let before = |kept: Duration| queue.now().checked_sub(kept).ok();
        let filter = |states: &[JobState], kept| JobFilter {
            states: states.to_vec(),
            finished_before: before(kept),
            ..JobFilter::default()
        };
        let cleaned = async {
            queue.purge(&filter(&[JobState::Done, JobState::Cancelled], settings.keep_done)).await?;
            queue.purge(&filter(&[JobState::Dead], settings.keep_dead)).await?;
            queue.forget_workers(WORKERS_KEPT_MS).await
        };
        match cleaned.await {
            Ok(()) => outage.ended("remove finished jobs"),
            Err(error) => drop(outage.note("remove finished jobs", &error)),
        }
    }
}
