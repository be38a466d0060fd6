//! The heartbeat: renews the leases of the jobs that this process holds, and records that the
//! process is alive.
//!
//! It is a task of its own, so that leases are renewed while claims are slow. No error of the
//! database ends it. While no job runs anywhere, there is no lease to renew or to watch, and it
//! only records now and then that the process is alive.

use std::time::Duration;

use books::BooksError;
use tokio::time::Instant;

use super::outage::OutageLog;
use super::process::Shared;
use super::rescuer::{LeaseWatch, rescue_expired};
use crate::queue::{StopReason, WorkerState};

/// How often an idle process records that it is alive. `silent` processes are those without a sign
/// of life for much longer.
const IDLE: Duration = Duration::from_secs(30);

/// Renews the leases of this process, and rescues jobs with an expired lease.
pub(super) async fn run(shared: Shared) {
    let (mut watch, mut outage) = (LeaseWatch::default(), OutageLog::default());
    let length = shared.by.lease;
    loop {
        let began = Instant::now();
        match send(&shared, &mut watch).await {
            Ok(busy) => {
                shared.metrics.database_blocked(false);
                outage.ended("renew leases");
                rest(&shared, busy, began).await;
            }
            Err(error @ BooksError::Quota(_)) => {
                if !shared.metrics.is_database_blocked() {
                    tracing::error!(%error, "nothing can be done until somebody acts, trying once a minute: {error}");
                }
                shared.metrics.database_blocked(true);
                let wait = outage.note("renew leases", &error);
                // a lease that is not renewed in time after the block would be taken over
                let most = if shared.in_flight.len() == 0 { wait } else { length / 4 };
                tokio::select! {
                    () = tokio::time::sleep(wait.min(most)) => {}
                    () = shared.in_flight.added() => {}
                }
            }
            Err(error) => {
                shared.metrics.database_blocked(false);
                tokio::time::sleep(outage.note("renew leases", &error).min(length / 8)).await;
            }
        }
    }
}

/// Waits until the next heartbeat is due: a quarter of a lease after the last one, or after the
/// first claim of an idle process.
async fn rest(shared: &Shared, busy: bool, last: Instant) {
    let step = shared.by.lease / 4;
    let idle_until = last + IDLE;
    tokio::time::sleep(step).await;
    while !busy && shared.in_flight.len() == 0 {
        tokio::select! {
            () = tokio::time::sleep_until(idle_until) => return,
            () = shared.others_run.notified() => return,
            () = shared.in_flight.added() => {}
        }
        // a short job is done by then
        tokio::time::sleep(step).await;
    }
}

/// Returns whether a job runs anywhere.
async fn send(shared: &Shared, watch: &mut LeaseWatch) -> Result<bool, BooksError> {
    let Shared { queue, by, in_flight, .. } = shared;
    let held = in_flight.all();
    let state = if shared.stopping() { WorkerState::Stopping } else { WorkerState::Working };
    let found = queue.heartbeat(by, &held, state).await?;
    for claim in &held {
        match found.held.get(&claim.seq) {
            Some(false) => {}
            Some(true) => claim.stop.raise(StopReason::Cancelled),
            None => claim.stop.raise(StopReason::Lost),
        }
    }
    match found.schema {
        Some(version) => shared.saw_schema(version),
        // another host with a clock that runs ahead removed the row as an old one
        None => shared.register().await?,
    }
    let busy = !held.is_empty() || !found.leases.is_empty();
    rescue_expired(shared, watch, found).await?;
    Ok(busy)
}
