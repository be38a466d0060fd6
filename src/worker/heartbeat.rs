//! The heartbeat: renews the leases of the jobs that this process holds, and records that the
//! process is alive.
//!
//! It is a task of its own, so that leases are renewed while claims are slow. No error of the
//! database ends it.

use books::{BooksError, newest_schema_version};

use super::outage::OutageLog;
use super::process::{Phase, Shared};
use super::rescuer::{LeaseWatch, rescue_expired};
use crate::queue::{StopReason, WorkerState};

/// Renews the leases of this process, and rescues jobs with an expired lease.
pub(super) async fn run(shared: Shared) {
    let (mut watch, mut outage) = (LeaseWatch::default(), OutageLog::default());
    let length = shared.by.lease;
    loop {
        let renewed = async {
            renew_own(&shared).await?;
            rescue_expired(&shared, &mut watch).await
        };
        let wait = match renewed.await {
            Ok(()) => {
                shared.metrics.database_blocked(false);
                outage.ended("renew leases");
                length / 4
            }
            Err(error @ BooksError::Quota(_)) => {
                if !shared.metrics.is_database_blocked() {
                    tracing::error!(%error, "nothing can be done until somebody acts, trying once a minute: {error}");
                }
                shared.metrics.database_blocked(true);
                outage.note("renew leases", &error)
            }
            Err(error) => outage.note("renew leases", &error).min(length / 8),
        };
        tokio::time::sleep(wait).await;
    }
}

async fn renew_own(shared: &Shared) -> Result<(), BooksError> {
    let Shared { queue, by, in_flight, phase, .. } = shared;
    let held = in_flight.all();
    if !held.is_empty() {
        let own = queue.heartbeat(by, &held).await?;
        for claim in &held {
            match own.get(&claim.seq) {
                Some(false) => {}
                Some(true) => claim.stop.raise(StopReason::Cancelled),
                None => claim.stop.raise(StopReason::Lost),
            }
        }
    }
    let state = if shared.stopping() { WorkerState::Stopping } else { WorkerState::Working };
    let Some(found) = queue.report_alive(&by.worker, in_flight.len(), state).await? else {
        // another host with a clock that runs ahead removed the row as an old one
        return shared.register().await;
    };
    if found > newest_schema_version() && !shared.stopping() {
        tracing::error!(found, "the database was migrated by a newer meter: this worker stops");
        phase.send_replace(Phase::Outdated(found));
    }
    Ok(())
}
