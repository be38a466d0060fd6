//! `ingest_cur`: one month of an AWS billing export → the ledger.
//!
//! Every delivery of AWS is the whole month so far, so every run does the same: find the newest
//! version, read it whole, compare it with the books, book the difference. A first delivery, the
//! daily growth, a restatement, a repeat, a recovery after a crash and a backfill differ only in
//! what the comparison finds.
//!
//! Three rules keep half of a bill out of the books. The manifest names the files, and all of them
//! must be there, unchanged while they are read (`delivery`). A version is applied in one
//! transaction that starts with its claim. A version that looks wrong (unknown line types, usage
//! that shrank) is put on hold for a person instead of being booked (`guard`).

pub mod aggregate;
pub mod batch;
pub mod csv;
mod decoder_guard;
mod delivery;
mod discover;
pub mod export;
mod failure;
mod guard;
mod months;
mod object_reader;
pub mod parquet_file;
mod parts;
mod read;
mod report;
mod sums;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::aggregate::Totals;
use self::delivery::{Delivery, Reading, already_booked, check_account, find_export, read_version};
pub use self::discover::{DiscoveredBill, discover};
use self::export::Manifest;
pub use self::guard::{Restatement, Scope};
pub use self::months::{CheckMonths, CheckMonthsReport, look};
pub use self::parts::{IngestPart, PartOutcome, PartReport};
pub use self::report::{IngestOutcome, IngestReport, MeterChange};
use crate::context::{Context, Export, HoldPolicy};
use crate::job::{Failure, Job};
use books::units::calendar::Month;
use books::usage::bill::{BillId, BookedVersions, Version, VersionKey};
use books::usage::booking::Booking;
use books::usage::ledger::{Cells, adjustments};

/// Read the newest version of this month and book what it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestCur {
    pub export: String,
    pub month: Month,
    /// Only report what would be booked.
    #[serde(default)]
    pub dry_run: bool,
    /// Book a version even if it takes back booked usage.
    #[serde(default)]
    pub accept_restatement: bool,
    /// Book a version even if it has unknown line types, without their lines.
    #[serde(default)]
    pub allow_unknown_line_types: bool,
}

impl Job for IngestCur {
    const KIND: &'static str = "ingest_cur";
    const DESCRIPTION: &'static str = "read the newest bill of a month and book what it changes";
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
    type Report = IngestReport;

    fn key(&self) -> Option<String> {
        let Self { export, month, dry_run, accept_restatement, allow_unknown_line_types } = self;
        let flags = [(dry_run, "/dry"), (accept_restatement, "/accept"), (allow_unknown_line_types, "/unknown")];
        let flags: String = flags.into_iter().filter(|(set, _)| **set).map(|(_, name)| name).collect();
        Some(format!("{}/{export}/{month}{flags}", Self::KIND))
    }

    fn needs_attention(report: &IngestReport) -> bool {
        report.outcome.needs_attention()
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
        let export = find_export(context, &self.export)?;
        let fetched = export.source.fetched();
        let (requests, bytes) = (fetched.requests(), fetched.bytes());
        let mut report = ingest(&self, export, context, now).await?;
        report.fetch_requests = fetched.requests() - requests;
        report.fetched_bytes = fetched.bytes() - bytes;
        let (outcome, entries) = (report.outcome, report.entries);
        tracing::debug!(
            export = %report.export, month = %report.bill.month, version = %report.version, ?outcome, entries,
            rows = report.rows, counted_rows = report.counted_rows, bytes = report.fetched_bytes,
            "ingest of {} {}: {outcome:?}, {entries} entries", report.export, report.bill.month
        );
        Ok(report)
    }
}

/// Finds the newest version and books it, unless the books rest on it already.
async fn ingest(job: &IngestCur, export: &Export, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
    let source = &export.source;
    let bill = BillId { payer: export.payer.clone(), month: job.month };
    context.books.require_migrated().await?;
    if !job.dry_run {
        // before anything can fail: a counter that stays in a past month would block its customer
        context.books.finish_bookings(now).await?;
        context.books.roll_counters(Month::of(now)).await?;
    }
    let root = export::find(source.as_ref(), &export.prefix, export.format).await?;
    let mut report = IngestReport::empty(&job.export, bill.clone());
    let Some(manifest) = export::newest(source.as_ref(), &root, job.month).await? else {
        if let Some(current) = context.books.booked_versions(&bill, "").await?.current {
            report.warnings.push(format!(
                "this month is booked from version {}, but its manifest is gone; \
                 was the export renamed or its bucket cleared?",
                current.key.version
            ));
        }
        return Ok(report);
    };
    let key = VersionKey {
        version: manifest.version.clone(),
        manifest_digest: manifest.digest.clone(),
        rules_digest: context.read_settings.rules.digest(),
    };
    report.describe_manifest(&manifest);
    let booked = context.books.booked_versions(&bill, &manifest.account).await?;
    check_account(&bill, &manifest, &booked)?;
    if let Some(outcome) = already_booked(&manifest, &key, &booked) {
        if outcome == IngestOutcome::Unchanged && booked.holds && !job.dry_run {
            context.books.release(&bill).await?;
        }
        report.outcome = outcome;
        return Ok(report);
    }
    let delivery = Delivery { name: &job.export, export, manifest: &manifest, key: &key, bill: &bill };
    let reading = if job.dry_run {
        read_version(source, &manifest, &context.read_settings, job.month).await?
    } else {
        parts::read_version(&delivery, context, now).await?
    };
    let run = Run { job, context, delivery, booked, now };
    run.book(reading, report).await
}

/// A run that has a version to book.
struct Run<'a> {
    job: &'a IngestCur,
    context: &'a Context,
    delivery: Delivery<'a>,
    /// What the books held before the version was read.
    booked: BookedVersions,
    now: Timestamp,
}

impl Run<'_> {
    /// Books what the version changes, or puts it on hold.
    async fn book(self, reading: Reading, mut report: IngestReport) -> Result<IngestReport, Failure> {
        let Self { job, context, delivery, now, .. } = &self;
        let Reading { totals, files } = reading;
        let policy = &context.read_settings.hold;
        let booked = self.booked_usage(&totals.observed).await?;
        let difference = adjustments(&totals.observed, &booked)?;
        report.restatements = guard::restatements(&totals.observed, &booked, policy);
        report.hold_reasons = hold_reasons(job, policy, &totals, &report.restatements);
        report.describe_bill(&totals, &files);
        report.describe_change(&totals, &booked, &difference);
        report.warn(&delivery.manifest.account, &totals, &files);
        report.outcome = match (report.hold_reasons.is_empty(), job.dry_run) {
            (true, true) => IngestOutcome::WouldApply,
            (false, true) => IngestOutcome::WouldHold,
            (true, false) => IngestOutcome::Applied,
            (false, false) => IngestOutcome::OnHold,
        };
        if job.dry_run {
            return Ok(report);
        }
        let version = self.version(&report, &totals);
        let against = self.booked.current.as_ref().map(|current| current.id);
        if report.outcome == IngestOutcome::OnHold {
            let version = Version { accepted: String::new(), ..version };
            context.books.hold(version, against, report.hold_reasons.join("; "), *now).await?;
            return Ok(report);
        }
        let Totals { lines, meters, .. } = totals;
        let booking = Booking { version, against, files: files.files, lines, totals: meters, adjustments: difference };
        context.books.book(booking, *now).await?;
        Ok(report)
    }

    /// What is booked of the bill.
    async fn booked_usage(&self, observed: &Cells) -> Result<Cells, Failure> {
        if self.booked.current.is_none() {
            return Ok(Cells::default());
        }
        Ok(self.context.books.booked(self.delivery.bill, observed).await?)
    }

    /// The version as the books store it.
    fn version(&self, report: &IngestReport, totals: &Totals) -> Version {
        let Manifest { format, object, account, delivered_at, .. } = self.delivery.manifest;
        Version {
            bill: report.bill.clone(),
            key: self.delivery.key.clone(),
            export: self.job.export.clone(),
            format: format.as_str(),
            manifest_key: object.key.clone(),
            account: account.clone(),
            delivered_at: *delivered_at,
            rows: report.rows,
            counted_rows: totals.counted_rows,
            rounded_amounts: totals.rounded_amounts,
            newest_day: totals.newest_day,
            accepted: accepted(totals, &report.restatements),
        }
    }
}

/// Why a version is put on hold; empty when it is booked. The reasons are stored and shown as they
/// are, so each names the option that overrules it.
fn hold_reasons(job: &IngestCur, policy: &HoldPolicy, totals: &Totals, restatements: &[Restatement]) -> Vec<String> {
    let mut reasons = vec![];
    if !(job.allow_unknown_line_types || policy.allow_unknown_line_types) {
        reasons.extend(totals.unknown_line_types.iter().map(|t| {
            format!(
                "{} lines have the unknown line type `{}` (--allow-unknown-line-types leaves them out)",
                t.lines, t.line_type
            )
        }));
    }
    if !(job.accept_restatement || policy.accept_restatements) {
        reasons.extend(restatements.iter().map(|r| format!("{r} (--accept-restatement books it)")));
    }
    reasons
}

/// What would have put a version on hold and was accepted.
fn accepted(totals: &Totals, restatements: &[Restatement]) -> String {
    let types = totals.unknown_line_types.iter().map(|t| format!("{} lines of type `{}`", t.lines, t.line_type));
    types.chain(restatements.iter().map(ToString::to_string)).collect::<Vec<_>>().join("; ")
}
