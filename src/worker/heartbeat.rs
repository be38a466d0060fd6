//! The heartbeat: keeps the leases of the jobs that this process holds, and says that the process is alive.
//!
//! A task of its own, so that leases are kept while claims are slow. It never ends because of the database.

use books::{BooksError, newest_schema_version};

use super::outage::OutageLog;
use super::process::{Phase, Shared};
use super::rescuer::{LeaseWatch, rescue_expired};
use crate::queue::{StopReason, WorkerState};

/// Keeps the leases of this process, and takes over the jobs of processes that no longer keep
/// theirs.
pub(super) async fn keep_heartbeat(shared: Shared) {
    let (mut watch, mut outage) = (LeaseWatch::default(), OutageLog::default());
    let length = shared.by.lease;
    loop {
        let kept = async {
            keep_own(&shared).await?;
            rescue_expired(&shared, &mut watch).await
        };
        let wait = match kept.await {
            Ok(()) => {
                outage.over("keep leases");
                length / 4
            }
            Err(error) => outage.note("keep leases", &error).min(length / 8),
        };
        tokio::time::sleep(wait).await;
    }
}

async fn keep_own(shared: &Shared) -> Result<(), BooksError> {
    let Shared { queue, by, in_flight, phase, .. } = shared;
    let held = in_flight.all();
    if !held.is_empty() {
        let own = queue.heartbeat(by, &held).await?;
        for claim in &held {
            match own.get(&claim.seq) {
                Some(false) => {}
                Some(true) => claim.stop.tell(StopReason::Cancelled),
                None => claim.stop.tell(StopReason::Lost),
            }
        }
    }
    let state = if shared.stopping() { WorkerState::Stopping } else { WorkerState::Working };
    let Some(found) = queue.report_alive(&by.worker, in_flight.len(), state).await? else {
        // another host, whose clock runs ahead, took the row for an old one
        return shared.register().await;
    };
    if found > newest_schema_version() && !shared.stopping() {
        tracing::error!(found, "the database was migrated by a newer meter: this worker stops");
        phase.send_replace(Phase::Outdated(found));
    }
    Ok(())
}
