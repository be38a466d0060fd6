//! The counters of each kind's report; a kind without an implementation does not compile.

use jobs::deliver_notifications::DeliverReport;
use jobs::enforce_budgets::EnforceReport;
use jobs::fold_measurements::FoldMeasurementsReport;
use jobs::forecast_usage::ForecastUsageReport;
use jobs::ingest_cur::{CheckMonthsReport, IngestOutcome, IngestReport, PartReport};
use jobs::operator_digest::OperatorDigestReport;
use jobs::probe::ProbeReport;
use jobs::push_stripe::PushReport;
use jobs::reconcile_stripe::ReconcileReport;
use jobs::roll_counters::RollCountersReport;
use jobs::roll_periods::RollPeriodsReport;
use jobs::shared_bucket::BucketReport;
use jobs::sync_stripe::SyncReport;
use jobs::verify_books::VerifyReport;

use super::Metrics;

/// Adds a report to the counters.
pub trait RecordMetrics {
    fn record(&self, metrics: &Metrics);
}

fn rows(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl RecordMetrics for IngestReport {
    fn record(&self, metrics: &Metrics) {
        let outcome = match self.outcome {
            IngestOutcome::Applied => "applied",
            IngestOutcome::WouldApply => "would_apply",
            IngestOutcome::Unchanged => "unchanged",
            IngestOutcome::Older => "older",
            IngestOutcome::Reverted => "reverted",
            IngestOutcome::NoBill => "no_bill",
            IngestOutcome::OnHold => "on_hold",
            IngestOutcome::WouldHold => "would_hold",
        };
        metrics.0.ingest_runs.with_label_values(&[outcome]).inc();
        metrics.0.ingest_rows.inc_by(self.rows);
        if self.outcome == IngestOutcome::Applied {
            metrics.0.entries.inc_by(rows(self.entries));
        }
    }
}

/// The report of `ingest_inventory` and of `ingest_access_logs`.
impl RecordMetrics for BucketReport {
    fn record(&self, metrics: &Metrics) {
        metrics.0.bucket_days.inc_by(rows(self.days_read.len()));
        metrics.0.bucket_files.inc_by(self.files);
        let found = [
            ("counted", self.counted),
            ("repeated", self.repeated),
            ("of_nobody", self.of_nobody),
            ("contradictions", self.contradictions),
            ("bad_lines", self.bad_lines),
        ];
        for (found, count) in found {
            metrics.0.bucket_items.with_label_values(&[found]).inc_by(count);
        }
    }
}

impl RecordMetrics for RollPeriodsReport {
    fn record(&self, metrics: &Metrics) {
        if !self.dry_run {
            metrics.0.rollovers.inc_by(self.closed);
        }
    }
}

impl RecordMetrics for EnforceReport {
    fn record(&self, metrics: &Metrics) {
        if !self.dry_run {
            metrics.0.entitlement_changes.with_label_values(&["blocked"]).inc_by(self.blocked);
            metrics.0.entitlement_changes.with_label_values(&["unblocked"]).inc_by(self.unblocked);
        }
    }
}

impl RecordMetrics for DeliverReport {
    fn record(&self, metrics: &Metrics) {
        let Self { delivered, retried, dead, set_aside: _, operator_delivered, operator_retried, operator_dead } = self;
        for (outcome, count) in [("delivered", delivered), ("retried", retried), ("dead", dead)] {
            metrics.0.deliveries.with_label_values(&[outcome]).inc_by(*count);
        }
        let to_operator = [("delivered", operator_delivered), ("retried", operator_retried), ("dead", operator_dead)];
        for (outcome, count) in to_operator {
            metrics.0.operator_deliveries.with_label_values(&[outcome]).inc_by(*count);
        }
    }
}

impl RecordMetrics for OperatorDigestReport {
    fn record(&self, _: &Metrics) {}
}

impl RecordMetrics for ReconcileReport {
    fn record(&self, metrics: &Metrics) {
        metrics.0.totals_read.inc_by(self.read);
    }
}

impl RecordMetrics for FoldMeasurementsReport {
    fn record(&self, metrics: &Metrics) {
        metrics.0.ended_by_bound.inc_by(self.ended_by_bound);
    }
}

/// Reports without a counter of their own: gauges show what they did.
macro_rules! counts_nothing {
    ($($report:ty),*) => {
        $(impl RecordMetrics for $report {
            fn record(&self, _metrics: &Metrics) {}
        })*
    };
}

// the parent of a part counts its rows; requests to Stripe and fetched bytes are counted as they
// happen ([`super::Sources`])
counts_nothing!(
    PartReport,
    CheckMonthsReport,
    PushReport,
    SyncReport,
    RollCountersReport,
    ForecastUsageReport,
    VerifyReport,
    ProbeReport,
    String,
    ()
);
