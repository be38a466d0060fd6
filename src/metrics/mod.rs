//! The Prometheus registry: counters of this process, and gauges of the books. docs/metrics.md
//! explains each; a test compares them.
//!
//! Labels are bounded: kinds, states, meters, payers, days. Never a customer, a tag's value or
//! anything secret.

mod gauges;
mod reports;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use books::Database;
use jobs::source::Source;
use jobs::stripe::SendCounters;
use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

pub use self::reports::RecordMetrics;
use crate::health::Overview;

/// Buckets for durations of runs, in seconds: from a tick without work to a bill of an hour.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];
/// Outcomes of a run in `meter_job_runs_total`.
const OUTCOMES: [&str; 8] = ["done", "attention", "retry", "waiting", "dead", "cancelled", "handed_back", "lost"];

/// A metric, for comparison with the documents.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: Vec<String>,
}

/// The counters of this process; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Counters>);

struct Counters {
    registry: Registry,
    described: Vec<Described>,
    runs: IntCounterVec,
    run_duration: HistogramVec,
    wait_duration: HistogramVec,
    lease_expiries: IntCounter,
    ingest_runs: IntCounterVec,
    ingest_rows: IntCounter,
    fetched_bytes: IntCounter,
    bucket_days: IntCounter,
    bucket_files: IntCounter,
    bucket_items: IntCounterVec,
    entries: IntCounter,
    rollovers: IntCounter,
    entitlement_changes: IntCounterVec,
    sends: IntCounterVec,
    throttle: prometheus::Counter,
    totals_read: IntCounter,
    deliveries: IntCounterVec,
    operator_deliveries: IntCounterVec,
    ended_by_bound: IntCounter,
    busy_waits: IntCounter,
    busy_seconds: prometheus::Counter,
    database_requests: IntCounter,
    database_rows_read: IntCounter,
    database_rows_written: IntCounter,
    database_bytes: IntCounterVec,
    database_blocked: IntGauge,
    last_check: IntGauge,
    snapshot_failures: IntCounter,
    catching_up: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Registers metrics, and remembers their descriptions.
#[derive(Default)]
struct Register {
    registry: Registry,
    described: Vec<Described>,
}

impl Register {
    fn keep<C: Collector + Clone + 'static>(&mut self, kind: &'static str, metric: C) -> prometheus::Result<C> {
        for desc in metric.desc() {
            let mut labels = desc.variable_labels.clone();
            labels.extend(desc.const_label_pairs.iter().map(|pair| pair.name().to_owned()));
            labels.sort();
            self.described.push(Described { name: desc.fq_name.clone(), kind, labels });
        }
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&mut self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.keep("counter", IntCounter::new(name, help)?)
    }

    fn counters(&mut self, name: &str, help: &str, label: &str, values: &[&str]) -> prometheus::Result<IntCounterVec> {
        let vec = self.keep("counter", IntCounterVec::new(Opts::new(name, help), &[label])?)?;
        // a series that appears with its first event hides that event from rate() and increase()
        for value in values {
            vec.with_label_values(&[value]);
        }
        Ok(vec)
    }

    fn seconds(&mut self, name: &str, help: &str) -> prometheus::Result<prometheus::Counter> {
        self.keep("counter", prometheus::Counter::new(name, help)?)
    }

    fn durations(&mut self, name: &str, help: &str) -> prometheus::Result<HistogramVec> {
        let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.keep("histogram", HistogramVec::new(opts, &["kind"])?)
    }
}

impl Metrics {
    /// Everything at 0, for jobs of these kinds.
    pub fn new(kinds: &[&str]) -> prometheus::Result<Self> {
        let mut r = Register::default();
        let build = Opts::new("meter_build_info", "Always 1; which build runs.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        r.keep("gauge", IntGauge::with_opts(build)?)?.set(1);
        let runs = Opts::new("meter_job_runs_total", "Runs of jobs that ended.");
        let runs = r.keep("counter", IntCounterVec::new(runs, &["kind", "outcome"])?)?;
        let run_duration = r.durations("meter_job_run_duration_seconds", "How long runs took.")?;
        let wait_duration =
            r.durations("meter_job_wait_duration_seconds", "How long jobs were due before a worker took them.")?;
        for kind in kinds {
            OUTCOMES.iter().for_each(|outcome| drop(runs.with_label_values(&[kind, outcome])));
            drop((run_duration.with_label_values(&[kind]), wait_duration.with_label_values(&[kind])));
        }
        let outcomes = ["applied", "on_hold", "unchanged", "older", "reverted", "no_bill", "would_apply", "would_hold"];
        let last_check = IntGauge::new(
            "meter_scheduler_last_check_timestamp_seconds",
            "When this process last checked the schedule; 0: it leaves the schedule to other workers.",
        )?;
        let database_blocked = IntGauge::new(
            "meter_database_blocked",
            "1: the remote database refuses all statements, because the quota of its plan is used up or by hand.",
        )?;
        let counters = Counters {
            runs,
            run_duration,
            wait_duration,
            lease_expiries: r
                .counter("meter_job_lease_expiries_total", "Jobs that this process took away from a silent worker.")?,
            ingest_runs: r.counters("meter_ingest_runs_total", "Readings of a month's bill.", "outcome", &outcomes)?,
            ingest_rows: r.counter("meter_ingest_rows_total", "Rows of bills that were read.")?,
            fetched_bytes: r
                .counter("meter_ingest_fetched_bytes_total", "Bytes of bills and reports of S3 that were fetched.")?,
            bucket_days: r
                .counter("meter_shared_bucket_readings_total", "Days of shared buckets that are new or changed.")?,
            bucket_files: r
                .counter("meter_shared_bucket_files_total", "Reports of S3 about shared buckets that were read.")?,
            bucket_items: r.counters(
                "meter_shared_bucket_items_total",
                "Objects and lines of logs in these reports.",
                "found",
                &["counted", "repeated", "of_nobody", "contradictions", "bad_lines"],
            )?,
            entries: r.counter("meter_ledger_entries_booked_total", "Entries appended to the ledger.")?,
            rollovers: r.counter("meter_turn_rollovers_total", "TURN counts that were closed.")?,
            entitlement_changes: r.counters(
                "meter_entitlement_changes_total",
                "Meters that were blocked or unblocked for a customer.",
                "change",
                &["blocked", "unblocked"],
            )?,
            sends: r.counters(
                "meter_stripe_sends_total",
                "Attempts to send an event to Stripe.",
                "answer",
                &["accepted", "refused", "unconfirmed", "retried"],
            )?,
            throttle: r
                .seconds("meter_stripe_throttle_wait_seconds_total", "Time that sends waited for stripe.per_second.")?,
            totals_read: r.counter("meter_stripe_totals_read_total", "Totals that were read from Stripe.")?,
            deliveries: r.counters(
                "meter_notification_deliveries_total",
                "Notifications to the web backend.",
                "outcome",
                &["delivered", "retried", "dead"],
            )?,
            operator_deliveries: r.counters(
                "meter_operator_deliveries_total",
                "Messages to the operator.",
                "outcome",
                &["delivered", "retried", "dead"],
            )?,
            ended_by_bound: r.counter(
                "meter_measured_uses_ended_by_bound_total",
                "Uses that nobody ended and that reached their bound.",
            )?,
            busy_waits: r.counter(
                "meter_database_busy_waits_total",
                "Writes that waited longer than 10 ms for the write lock, and those that gave up.",
            )?,
            busy_seconds: r.seconds("meter_database_busy_wait_seconds_total", "How long they waited.")?,
            database_requests: r.counter("meter_database_requests_total", "Requests to a remote database.")?,
            database_rows_read: r.counter(
                "meter_database_rows_read_total",
                "Rows that a remote database read for this process, as Turso bills them.",
            )?,
            database_rows_written: r.counter(
                "meter_database_rows_written_total",
                "Rows that a remote database wrote for this process, as Turso bills them.",
            )?,
            database_bytes: r.counters(
                "meter_database_bytes_total",
                "Bytes of requests to a remote database, and of its answers.",
                "direction",
                &["sent", "received"],
            )?,
            database_blocked: r.keep("gauge", database_blocked)?,
            last_check: r.keep("gauge", last_check)?,
            snapshot_failures: r.counter("meter_snapshot_failures_total", "Snapshots of the books that failed.")?,
            catching_up: Mutex::default(),
            registry: r.registry,
            described: r.described,
        };
        #[cfg(target_os = "linux")]
        counters.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self(Arc::new(counters)))
    }

    /// Every metric except `process_…`.
    pub fn described(&self) -> Vec<Described> {
        let mut all = self.0.described.clone();
        all.extend(gauges::described());
        all.sort();
        all
    }

    /// Counts a run, with its duration and the wait before it.
    pub(crate) fn ran(&self, kind: &str, outcome: &str, took: Duration, waited: Duration) {
        self.0.runs.with_label_values(&[kind, outcome]).inc();
        self.0.run_duration.with_label_values(&[kind]).observe(took.as_secs_f64());
        self.0.wait_duration.with_label_values(&[kind]).observe(waited.as_secs_f64());
    }

    pub(crate) fn leases_expired(&self, jobs: u64) {
        self.0.lease_expiries.inc_by(jobs);
    }

    /// Records a check of the schedule.
    pub(crate) fn schedule_checked(&self, now: jiff::Timestamp) {
        self.0.last_check.set(now.as_second());
    }

    /// When this process last checked the schedule, in seconds since 1970; 0 = never.
    pub(crate) fn last_check(&self) -> i64 {
        self.0.last_check.get()
    }

    /// Records whether the database refuses everything, as the heartbeat of this process sees it.
    pub(crate) fn database_blocked(&self, blocked: bool) {
        self.0.database_blocked.set(i64::from(blocked));
    }

    pub(crate) fn is_database_blocked(&self) -> bool {
        self.0.database_blocked.get() != 0
    }

    pub(crate) fn snapshot_failed(&self) {
        self.0.snapshot_failures.inc();
    }

    /// All metrics, in Prometheus' text format 0.0.4: those of the process, and the gauges of a
    /// snapshot, if there is one yet.
    pub fn text(
        &self,
        sources: &Sources,
        overview: Option<&Overview>,
        meters: &[String],
    ) -> prometheus::Result<String> {
        self.catch_up(sources);
        let mut families = self.0.registry.gather();
        if let Some(overview) = overview {
            families.extend(gauges::of(overview, meters)?);
        }
        let mut text = vec![];
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }

    /// Adds what was counted elsewhere since the last scrape.
    fn catch_up(&self, sources: &Sources) {
        // two scrapes at once must not add the same
        let Ok(_one) = self.0.catching_up.lock() else { return };
        let more = |counter: &IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        let longer = |counter: &prometheus::Counter, total: Duration| {
            let known = Duration::try_from_secs_f64(counter.get()).unwrap_or_default();
            counter.inc_by(total.saturating_sub(known).as_secs_f64());
        };
        let waits: Vec<_> = sources.books.iter().map(Database::busy_waits).collect();
        more(&self.0.busy_waits, waits.iter().map(|w| w.count).sum());
        longer(&self.0.busy_seconds, waits.iter().map(|w| w.waited).sum());
        let traffic: Vec<_> = sources.books.iter().map(Database::traffic).collect();
        more(&self.0.database_requests, traffic.iter().map(|t| t.requests).sum());
        more(&self.0.database_rows_read, traffic.iter().map(|t| t.rows_read).sum());
        more(&self.0.database_rows_written, traffic.iter().map(|t| t.rows_written).sum());
        let bytes = |direction: &str| self.0.database_bytes.with_label_values(&[direction]);
        more(&bytes("sent"), traffic.iter().map(|t| t.bytes_sent).sum());
        more(&bytes("received"), traffic.iter().map(|t| t.bytes_received).sum());
        more(&self.0.fetched_bytes, sources.fetched.iter().map(|source| source.fetched().bytes()).sum());
        if let Some(sends) = &sources.sends {
            let load = |n: &std::sync::atomic::AtomicU64| n.load(std::sync::atomic::Ordering::Relaxed);
            for (answer, total) in [
                ("accepted", &sends.accepted),
                ("refused", &sends.refused),
                ("unconfirmed", &sends.unconfirmed),
                ("retried", &sends.retried),
            ] {
                more(&self.0.sends.with_label_values(&[answer]), load(total));
            }
            longer(&self.0.throttle, Duration::from_millis(load(&sends.throttled_ms)));
        }
    }
}

/// Counters outside of the registry.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Their waits for locks and their traffic are counted.
    pub books: Vec<Database>,
    /// Where bills, and reports about shared buckets, are fetched from.
    pub fetched: Vec<Arc<dyn Source>>,
    /// Requests to Stripe, if there is an account.
    pub sends: Option<Arc<SendCounters>>,
}
