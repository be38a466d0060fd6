//! The cleaner: removes jobs and workers that are finished for long.

use std::time::Duration;

use super::outage::OutageLog;
use super::process::Shared;
use crate::queue::{JobFilter, JobState};

/// How often finished rows are looked through.
const UPKEEP: Duration = Duration::from_secs(60);
/// Rows of workers that have not been seen for so long are removed.
const WORKERS_KEPT_MS: i64 = 86_400_000;

/// Removes what is finished for long, now and then.
pub(super) async fn clean(shared: Shared) {
    let mut outage = OutageLog::default();
    loop {
        tokio::time::sleep(UPKEEP * fastrand::u32(500..1500) / 1000).await;
        let Shared { queue, settings, .. } = &shared;
        let before = |kept: Duration| queue.now().checked_sub(kept).ok();
        let filter = |states: &[JobState], kept| JobFilter {
            states: states.to_vec(),
            finished_before: before(kept),
            ..JobFilter::default()
        };
        let tidied = async {
            queue.purge(&filter(&[JobState::Done, JobState::Cancelled], settings.keep_done)).await?;
            queue.purge(&filter(&[JobState::Dead], settings.keep_dead)).await?;
            queue.forget_workers(WORKERS_KEPT_MS).await
        };
        match tidied.await {
            Ok(()) => outage.over("remove finished jobs"),
            Err(error) => drop(outage.note("remove finished jobs", &error)),
        }
    }
}
