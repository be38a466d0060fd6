//! What all tasks of a worker process share: its settings, its phase, and the jobs that it holds.

use std::sync::Arc;
use std::time::Duration;

use books::{BooksError, newest_schema_version};
use tokio::sync::{Notify, watch};

use super::in_flight::InFlight;
use super::kinds::{Kind, Kinds};
use crate::config::QueueConfig;
use crate::metrics::Metrics;
use crate::queue::{Backoff, ClaimRequest, Claimer, Identity, Queue};

/// A remote database charges for each look. A block is there within five seconds, and looks and
/// heartbeats of an idle worker are 22,000 a day.
const IDLE_POLL: Duration = Duration::from_millis(4500);

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Jobs that run at once.
    pub concurrency: usize,
    /// How long a worker keeps its jobs without a heartbeat.
    pub lease: Duration,
    /// How often the table is polled for jobs that other processes enqueued.
    pub poll: Duration,
    /// The same on a remote database while nothing happens.
    pub idle_poll: Duration,
    /// How long runs may go on after the worker is stopped.
    pub grace: Duration,
    pub backoff: Backoff,
    /// How long done and cancelled jobs are kept.
    pub keep_done: Duration,
    /// How long dead jobs are kept.
    pub keep_dead: Duration,
    pub until: RunUntil,
}

/// When a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunUntil {
    Stopped,
    /// As soon as nothing is due.
    Idle,
}

impl WorkerSettings {
    /// The settings of the configuration; `concurrency` overrides its value.
    pub fn new(config: &QueueConfig, concurrency: Option<u16>) -> Self {
        let days = |days: u16| Duration::from_secs(u64::from(days) * 86_400);
        let seconds = |seconds: u16| Duration::from_secs(u64::from(seconds));
        Self {
            concurrency: usize::from(concurrency.unwrap_or(config.concurrency)),
            lease: seconds(config.lease_seconds),
            poll: Duration::from_millis(u64::from(config.poll_millis)),
            idle_poll: IDLE_POLL,
            grace: seconds(config.grace_seconds),
            backoff: Backoff::default(),
            keep_done: days(config.keep_done_days),
            keep_dead: days(config.keep_dead_days),
            until: RunUntil::Stopped,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            concurrency: 4,
            lease: Duration::from_secs(30),
            poll: Duration::from_millis(250),
            idle_poll: IDLE_POLL,
            grace: Duration::from_secs(30),
            backoff: Backoff::default(),
            keep_done: Duration::from_secs(7 * 86_400),
            keep_dead: Duration::from_secs(90 * 86_400),
            until: RunUntil::Stopped,
        }
    }
}

/// Stops a worker.
#[derive(Clone, Debug)]
pub struct Stopper(pub(super) watch::Sender<Phase>);

impl Stopper {
    /// Ends claims; running jobs have the grace time to finish.
    pub fn stop(&self) {
        self.0.send_if_modified(|phase| {
            let working = *phase == Phase::Working;
            if working {
                *phase = Phase::Stopping;
            }
            working
        });
    }
}

/// What a worker process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Working,
    /// Running what it has, claiming nothing.
    Stopping,
    /// Stopping because a newer build has migrated the database to this version.
    Outdated(i64),
}

/// What all tasks of a worker process share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) by: Claimer,
    pub(super) kinds: Kinds,
    pub(super) settings: WorkerSettings,
    pub(super) in_flight: InFlight,
    /// Notified when another worker was seen to run a job, and when the table cannot be read.
    pub(super) others_run: Arc<Notify>,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) identity: Identity,
    pub(super) metrics: Metrics,
}

impl Shared {
    /// Registers this process; safe to repeat.
    pub(super) async fn register(&self) -> Result<(), BooksError> {
        let Self { queue, by, identity, kinds, settings, .. } = self;
        queue.register(&by.worker, identity, &kinds.names(), settings.concurrency).await
    }

    /// Stops this worker when a newer build has migrated the database.
    pub(super) fn saw_schema(&self, found: i64) {
        if found > newest_schema_version() && !self.stopping() {
            tracing::error!(found, "the database was migrated by a newer meter: this worker stops");
            self.phase.send_replace(Phase::Outdated(found));
        }
    }

    pub(super) fn stopping(&self) -> bool {
        *self.phase.borrow() != Phase::Working
    }

    /// What may be claimed now, by kind and in all. Kinds that are due have a slot of their own, so
    /// that a long job never delays a block.
    pub(super) fn requests(&self) -> (Vec<ClaimRequest>, usize) {
        if self.stopping() {
            return (vec![], 0);
        }
        let free = self.settings.concurrency.saturating_sub(self.in_flight.len());
        let is_due_kind = |k: &Kind| self.by.due_kinds.iter().any(|due| due.kind == k.name);
        let slots = |k: &Kind| k.max_concurrent.saturating_sub(self.in_flight.of_kind(k.name));
        let kinds = self.kinds.iter().filter(|k| free > 0 || is_due_kind(k));
        let requests = kinds.map(|k| ClaimRequest { kind: k.name.to_owned(), slots: slots(k) });
        let requests: Vec<ClaimRequest> = requests.filter(|w| w.slots > 0).collect();
        let total = if requests.is_empty() { 0 } else { free.max(1) };
        (requests, total)
    }
}
