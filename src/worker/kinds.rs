//! The kinds of jobs that a worker knows, by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::deliver_notifications::DeliverNotifications;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::fold_measurements::FoldMeasurements;
use jobs::forecast_usage::ForecastUsage;
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_cur::{CheckMonths, IngestCur, IngestPart};
use jobs::ingest_inventory::IngestInventory;
use jobs::job::{Failure, Job};
use jobs::operator_digest::OperatorDigest;
use jobs::probe::Probe;
use jobs::push_stripe::PushStripe;
use jobs::reconcile_stripe::ReconcileStripe;
use jobs::roll_counters::RollCounters;
use jobs::roll_periods::RollPeriods;
use jobs::sync_stripe::SyncStripe;
use jobs::verify_books::VerifyBooks;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use super::outcome::RunOutcome;
use crate::format::Counted;
use crate::metrics::{Metrics, RecordMetrics};
use crate::queue::DueKind;
use crate::report_sentence::{self, ReportSentence, WithSentence};
use crate::wording;
use books::units::similar::offer;

type Run = Arc<dyn Fn(String, Context, Timestamp, Metrics) -> BoxFuture<'static, RunOutcome> + Send + Sync>;

/// A payload that fits its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedPayload {
    /// The payload as the kind itself would write it.
    pub payload: String,
    pub key: Option<String>,
}

/// A kind of job.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub about: &'static str,
    /// A run that takes longer counts as failed.
    pub timeout: Duration,
    /// Runs before a job is given up.
    pub max_attempts: u32,
    /// Runs at once in one process.
    pub max_concurrent: usize,
    /// [`Job::DUE`], if this process looks at it.
    due: Option<&'static str>,
    run: Run,
    check: fn(&str) -> Result<ValidatedPayload, String>,
    /// The schema of its report, as it is stored.
    pub(crate) report_schema: fn(SchemaSettings) -> Schema,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kind").field(&self.name).finish()
    }
}

/// Reads a payload; the fault names the field.
fn read<J: Job>(payload: &str) -> Result<J, String> {
    if !payload.trim_start().starts_with('{') {
        return Err("a payload is a JSON object: {\"field\": value}".to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(payload);
    serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let (path, why) = (e.path().to_string(), e.inner().to_string());
        let plain = wording::of_serde(&why);
        let why = if e.inner().is_data() { plain } else { format!("it is no JSON: {plain}") };
        if matches!(path.as_str(), "." | "?") { why } else { format!("`{path}`: {why}") }
    })
}

impl Kind {
    /// The kind of a job type.
    pub fn of<J: Job<Report: JsonSchema + RecordMetrics + ReportSentence>>() -> Self {
        Self {
            name: J::KIND,
            about: J::DESCRIPTION,
            timeout: J::TIMEOUT,
            max_attempts: J::MAX_ATTEMPTS,
            max_concurrent: J::MAX_CONCURRENT,
            due: J::DUE,
            run: Arc::new(|payload, context, now, metrics| run::<J>(payload, context, now, metrics).boxed()),
            check: |payload| {
                let job = read::<J>(payload)?;
                let payload = serde_json::to_string(&job).map_err(|e| e.to_string())?;
                Ok(ValidatedPayload { payload, key: job.key() })
            },
            report_schema: |settings| {
                settings.into_generator().into_root_schema_for::<Counted<WithSentence<'static, J::Report>>>()
            },
        }
    }

    /// Runs a payload to its end, and counts its report in `metrics`. A payload that does not fit
    /// is given up with a reason that names the field.
    pub fn run(
        &self,
        payload: String,
        context: Context,
        now: Timestamp,
        metrics: Metrics,
    ) -> BoxFuture<'static, RunOutcome> {
        (self.run)(payload, context, now, metrics)
    }

    /// Checks a payload before it is enqueued.
    pub fn check(&self, payload: &str) -> Result<ValidatedPayload, String> {
        (self.check)(payload)
    }
}

async fn run<J: Job<Report: RecordMetrics + ReportSentence>>(
    payload: String,
    context: Context,
    now: Timestamp,
    metrics: Metrics,
) -> RunOutcome {
    let job = match read::<J>(&payload) {
        Ok(job) => job,
        Err(why) => {
            let why = anyhow!("the payload does not fit the kind {}: {why}", J::KIND);
            return RunOutcome::Failed(Failure::GiveUp(why));
        }
    };
    let report = match job.run(&context, now).await {
        Ok(report) => report,
        Err(failure) => return RunOutcome::Failed(failure),
    };
    report.record(&metrics);
    let attention = J::needs_attention(&report);
    match report_sentence::to_json(&report) {
        Ok(report) => RunOutcome::Report { report, attention },
        Err(e) => RunOutcome::Failed(Failure::GiveUp(anyhow!("the report cannot be written: {e}"))),
    }
}

/// All kinds that a worker knows.
#[derive(Clone, Debug)]
pub struct Kinds(BTreeMap<&'static str, Kind>);

impl Kinds {
    /// The kinds of this product.
    pub fn all() -> Self {
        Self::of([
            Kind::of::<IngestCur>(),
            Kind::of::<IngestPart>(),
            Kind::of::<CheckMonths>(),
            Kind::of::<IngestInventory>(),
            Kind::of::<IngestAccessLogs>(),
            Kind::of::<RollPeriods>(),
            Kind::of::<EnforceBudgets>(),
            Kind::of::<DeliverNotifications>(),
            Kind::of::<SyncStripe>(),
            Kind::of::<PushStripe>(),
            Kind::of::<ReconcileStripe>(),
            Kind::of::<RollCounters>(),
            Kind::of::<FoldMeasurements>(),
            Kind::of::<ForecastUsage>(),
            Kind::of::<VerifyBooks>(),
            Kind::of::<OperatorDigest>(),
            Kind::of::<Probe>(),
        ])
    }

    pub fn of(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self(kinds.into_iter().map(|k| (k.name, k)).collect())
    }

    /// A kind by its name.
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.0.get(name)
    }

    /// Every kind, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }

    /// Only the kinds of these names.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn only(&self, names: &[String]) -> Result<Self, String> {
        let known = |name: &String| match self.get(name) {
            Some(kind) => Ok(kind.clone()),
            None => Err(format!("there is no kind of job named `{name}`; {}", offer(name, self.names()))),
        };
        Ok(Self::of(names.iter().map(known).collect::<Result<Vec<_>, _>>()?))
    }

    /// Leaves kinds to their schedules, or to other processes.
    pub fn ignore_due(&mut self, ignores: impl Fn(&str) -> bool) {
        self.0.values_mut().filter(|kind| ignores(kind.name)).for_each(|kind| kind.due = None);
    }

    /// The kinds that are enqueued when something is due.
    pub(super) fn due_kinds(&self) -> Vec<DueKind> {
        let due = |kind: &Kind| {
            let (sql, ValidatedPayload { payload, key }) = (kind.due?, kind.check("{}").ok()?);
            let Kind { name, max_attempts, .. } = *kind;
            Some(DueKind { kind: name, payload, key: key?, max_attempts, sql })
        };
        self.0.values().filter_map(due).collect()
    }

    pub fn set_max_concurrent(&mut self, name: &str, max_concurrent: usize) {
        if let Some(kind) = self.0.get_mut(name) {
            kind.max_concurrent = max_concurrent;
        }
    }
}
