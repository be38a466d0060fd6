//! The jobs that this process holds.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::queue::{Claim, StopReason};

/// The claims of one process; its tasks share it.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight {
    held: Arc<Mutex<Vec<Claim>>>,
    added: Arc<Notify>,
}

impl InFlight {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Claim>) -> T) -> T {
        // a panic while the list is held cannot leave it half changed: every change is one call
        f(&mut self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn add(&self, claim: Claim) {
        self.with(|held| held.push(claim));
        self.added.notify_one();
    }

    /// Resolves when a job was added since the last time.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Removes a job; true when it was held under that lease.
    pub(super) fn remove(&self, seq: i64, lease: i64) -> bool {
        self.with(|held| {
            let place = held.iter().position(|c| c.seq == seq && c.lease == lease);
            place.map(|i| held.swap_remove(i)).is_some()
        })
    }

    pub(super) fn all(&self) -> Vec<Claim> {
        self.with(|held| held.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.with(|held| held.len())
    }

    pub(super) fn of_kind(&self, kind: &str) -> usize {
        self.with(|held| held.iter().filter(|c| c.kind == kind).count())
    }

    pub(super) fn stop_all(&self, why: StopReason) {
        self.with(|held| held.iter().for_each(|c| c.stop.raise(why)));
    }
}
