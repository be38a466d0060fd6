//! What the handlers share: the worker and its figures.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use tokio::sync::watch;

use super::readiness::ReadinessProbe;
use crate::config::HttpConfig;
use crate::health::StatsCollector;
use crate::metrics::{Metrics, Sources};
use crate::queue::Queue;
use crate::statement::StatementSettings;
use crate::worker::Phase;

/// What exists once the database has answered.
#[derive(Debug)]
pub struct Running {
    /// The queue, on the worker's own connection.
    pub queue: Queue,
    /// Counters that are kept outside of the metrics.
    pub sources: Sources,
    /// Whether the worker is stopping.
    pub phase: watch::Receiver<Phase>,
}

/// What a worker serves.
#[derive(Debug)]
pub struct Server {
    pub collector: StatsCollector,
    pub metrics: Metrics,
    /// Empty while the worker waits for the database.
    pub running: Arc<OnceLock<Running>>,
    /// The connection of `/readyz`.
    pub readiness: ReadinessProbe,
    /// Whether this process keeps the schedule.
    pub keeps_schedule: bool,
    pub units: BTreeMap<String, String>,
    pub statements: StatementSettings,
    /// Meters that have gauges even without usage.
    pub meters: Vec<String>,
    pub config: HttpConfig,
}

pub(super) type Shared = State<Arc<Server>>;

impl Server {
    /// Whether jobs can be retried and cancelled over HTTP.
    pub(super) fn can_act(&self) -> bool {
        !self.config.token.expose().is_empty()
    }
}
