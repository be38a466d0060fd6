//! `ingest_cur`: one month of an AWS billing export → the ledger.
//!
//! Every delivery of AWS is the whole month so far, so every run does the same: find the newest
//! version, read it whole, compare it with the books, book the difference. A first delivery, the
//! daily growth, a restatement, a repeat, a recovery after a crash and a backfill differ only in
//! what the comparison finds.
//!
//! Three rules keep half of a bill out of the books. The manifest names the files, and all of them
//! must be there, unchanged while they are read (`delivery`). A booking is staged in short
//! transactions, and one small commit makes all of it count (`books::usage::booking`). A version
//! that looks wrong (unknown line types, faulty lines, usage that shrank) is put on hold for a
//! person instead of being booked (`hold`).

pub mod aggregate;
mod apportion;
pub mod batch;
pub mod csv;
mod delivery;
mod delivery_time;
mod discover;
pub mod export;
mod failure;
mod growing;
mod growth;
mod guard;
pub mod hold;
pub mod lines;
mod months;
mod notes;
pub mod parquet_file;
mod parts;
mod read;
mod report;
mod row_groups;
mod sums;

use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::aggregate::Totals;
use self::apportion::{held_cells, shared_cells};
use self::delivery::{
    Delivery, Now, Reading, already_booked, check_account, find_export, read_version, replaces_the_future,
};
pub use self::discover::{DiscoveredBill, discover};
use self::export::Manifest;
pub use self::growth::{Grown, Growth};
pub use self::guard::{Restatement, Scope};
pub use self::hold::Acceptance;
use self::hold::{Accepted, Changes};
pub use self::months::{CheckMonths, CheckMonthsReport, look};
pub use self::parts::{IngestPart, PartOutcome, PartReport};
pub use self::report::{IngestOutcome, IngestReport, MeterChange, SharedDayReport};
use crate::context::{Context, Export};
use crate::job::{Failure, Job};
use books::shared_bucket::shares::SharedDay;
use books::store::audit_log::AuditEntry;
use books::units::calendar::Month;
use books::usage::bill::{BillId, BookedVersions, Version, VersionKey, words_digest};
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
    /// Book this version, which is on hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Acceptance>,
}

impl IngestCur {
    /// Books the newest version, if nothing speaks against it.
    pub fn new(export: &str, month: Month) -> Self {
        Self { export: export.to_owned(), month, dry_run: false, accept: None }
    }
}

impl Job for IngestCur {
    const KIND: &'static str = "ingest_cur";
    const DESCRIPTION: &'static str = "read the newest bill of a month and book what it changes";
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
    type Report = IngestReport;

    fn key(&self) -> Option<String> {
        let Self { export, month, dry_run, accept } = self;
        let dry = if *dry_run { "/dry" } else { "" };
        let accept = accept.as_ref().map_or(String::new(), |Acceptance { version, seen, .. }| {
            let seen = seen.as_ref().map_or(String::new(), |seen| format!("/{seen}"));
            format!("/accept/{version}{seen}")
        });
        Some(format!("{}/{export}/{month}{dry}{accept}", Self::KIND))
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
    let Some(manifest) = export::newest(source.as_ref(), &root, job.month, Some(now)).await? else {
        if let Some(current) = context.books.booked_versions(&bill, "").await?.current {
            report.warnings.push(format!(
                "this month is booked from version {}, but its manifest is gone; \
                 was the export renamed or its bucket cleared?",
                current.key.version
            ));
        }
        if let Some(accept) = &job.accept {
            let why = "AWS has no manifest of the month there, so there is nothing to accept; nothing was booked";
            return Err(Failure::GiveUp(anyhow!("version {}: {why}", accept.version)));
        }
        return Ok(report);
    };
    let key = VersionKey {
        version: manifest.version.clone(),
        manifest_digest: manifest.digest.clone(),
        rules_digest: context.read_settings.rules.digest(),
    };
    report.describe_manifest(&manifest);
    report.warnings.extend(manifest.passed_over.clone());
    let booked = context.books.booked_versions(&bill, &manifest.account).await?;
    check_account(&bill, &manifest, &booked)?;
    let reports = current_reports(context, &booked, job.month).await?;
    let booked_already = already_booked(&manifest, &key, &booked, &Now { instant: now, reports });
    let accepted = match &job.accept {
        Some(accept) if booked_already.is_none() || !key.version.starts_with(&accept.version) => {
            let on_hold = context.books.versions_on_hold(&bill).await?;
            let accepted = hold::accepted(accept, &key, &on_hold, job.month);
            Some(accepted.map_err(|why| Failure::GiveUp(anyhow!(why)))?)
        }
        _ => None,
    };
    if let Some(outcome) = booked_already {
        if outcome == IngestOutcome::Unchanged && booked.holds && !job.dry_run {
            context.books.release(&bill).await?;
        }
        report.outcome = outcome;
        return Ok(report);
    }
    report.warnings.extend(replaces_the_future(&booked, now));
    let delivery = Delivery { name: &job.export, export, manifest: &manifest, key: &key, bill: &bill };
    let reading = if job.dry_run {
        read_version(source, &manifest, &context.read_settings, job.month).await?
    } else {
        parts::read_version(&delivery, context, now).await?
    };
    let run = Run { job, context, delivery, booked, accepted, now };
    run.book(reading, report).await
}

/// The digest of the reports by which the booked version would be apportioned now; empty for one
/// without usage of shared buckets.
async fn current_reports(context: &Context, booked: &BookedVersions, month: Month) -> Result<String, Failure> {
    let is_shared = booked.current.as_ref().is_some_and(|current| !current.reports_digest.is_empty());
    if !is_shared {
        return Ok(String::new());
    }
    Ok(context.books.reports_digest(&apportion::buckets(&context.read_settings.rules), month).await?)
}

/// A run that has a version to book.
struct Run<'a> {
    job: &'a IngestCur,
    context: &'a Context,
    delivery: Delivery<'a>,
    /// What the books held before the version was read.
    booked: BookedVersions,
    /// What a person said about a version on hold.
    accepted: Option<Accepted>,
    now: Timestamp,
}

/// How a version's usage of shared buckets is apportioned; empty for a version without any.
#[derive(Default)]
struct Shared {
    days: Vec<SharedDay>,
    digest: String,
}

impl Run<'_> {
    /// Books what the version changes, or puts it on hold.
    async fn book(self, reading: Reading, mut report: IngestReport) -> Result<IngestReport, Failure> {
        let Self { job, context, delivery, now, .. } = &self;
        let Reading { mut totals, files } = reading;
        let erased = context.books.erased_ids().await?;
        totals.observed.pseudonymise(&erased)?;
        let shared = self.apportion(&mut totals).await?;
        let policy = &context.read_settings.hold;
        let booked = self.booked_usage(&totals.observed).await?;
        let difference = adjustments(&totals.observed, &booked, &shared_cells(&shared.days))?;
        // a held day is said by itself, and what customers had of it is no loss by accident
        let held = held_cells(&shared.days);
        let (kept, known) = (totals.observed.without(&held), booked.without(&held));
        report.restatements = guard::restatements(&kept, &known, policy);
        let (month, delivered_at) = (job.month, delivery.manifest.delivered_at);
        if let Some(current) = &self.booked.current {
            let delivered = growth::Delivered { booked: current.delivered_by(), now: delivered_at };
            report.growths = growth::growths(&totals.observed, &booked, month, delivered, policy);
        }
        report.impossible_days = growth::impossible_days(&totals.observed, month, delivered_at);
        report.long_lines = totals.long_lines;
        report.notes = notes::notes(&totals, &files, &context.read_settings.rules);
        let IngestReport { restatements, growths, impossible_days, .. } = &report;
        let changes = Changes { restatements, growths, impossible_days: impossible_days.as_deref() };
        let reasons = hold::reasons(&totals, &changes);
        let undecided = hold::undecided(&reasons, policy);
        let words =
            if undecided.is_empty() { String::new() } else { hold::stored(&undecided, &totals.observed.checksum()) };
        let accepted_by = self.decide(&words, &mut report)?;
        if accepted_by.is_none() {
            report.hold_digest = words_digest(&words);
            report.hold_reasons = undecided;
        }
        report.describe_bill(&totals, &files);
        report.describe_shared(&shared.days);
        report.describe_change(&totals, &booked, &difference);
        report.warn(&delivery.manifest.account, &totals);
        report.outcome = match (report.hold_reasons.is_empty(), job.dry_run) {
            (true, true) => IngestOutcome::WouldApply,
            (false, true) => IngestOutcome::WouldHold,
            (true, false) => IngestOutcome::Applied,
            (false, false) => IngestOutcome::OnHold,
        };
        if report.hold_reasons.is_empty() {
            report.accepted = hold::found(&reasons);
        }
        if job.dry_run {
            return Ok(report);
        }
        let version = Version { reports_digest: shared.digest, ..self.version(&report, &totals) };
        let against = self.booked.current.as_ref().map(|current| current.id);
        if report.outcome == IngestOutcome::OnHold {
            context.books.hold(version, against, words, *now).await?;
            return Ok(report);
        }
        let Totals { lines, cost_lines, meters, .. } = totals;
        let booking = Booking {
            version,
            against,
            files: files.files,
            lines,
            cost_lines,
            totals: meters,
            shared_days: shared.days,
            shared_buckets: apportion::buckets(&context.read_settings.rules),
            adjustments: difference,
            erased: erased.count(),
            accepted_by,
        };
        context.books.book(booking, *now).await?;
        Ok(report)
    }

    /// The entry of the audit log when a person accepted exactly these reasons. Otherwise the
    /// report says why the acceptance does not count.
    ///
    /// # Errors
    /// When the acceptance is not about this delivery, and nothing holds it: it would be booked,
    /// and that was not asked for.
    fn decide(&self, undecided: &str, report: &mut IngestReport) -> Result<Option<AuditEntry>, Failure> {
        let (Some(accept), Some(accepted)) = (&self.job.accept, &self.accepted) else { return Ok(None) };
        let why = match accepted {
            Accepted::Other(why) if undecided.is_empty() => {
                let month = self.job.month;
                return Err(Failure::GiveUp(anyhow!(
                    "{why}; no reason to hold it was found, and `meter ingest --month {month}` books it; nothing was booked"
                )));
            }
            Accepted::Other(why) => why.clone(),
            Accepted::Words(_) if undecided.is_empty() => return Ok(None),
            Accepted::Words(words) if words == undecided => {
                return Ok(Some(AuditEntry {
                    actor: accept.actor.trim().to_owned(),
                    action: "ingest --accept".into(),
                    target: format!("version {} of {} {}", report.version, report.bill.payer, report.bill.month),
                    reason: accept.reason.trim().to_owned(),
                }));
            }
            Accepted::Words(_) => format!(
                "version {} was accepted, but something else was found now than when it was put on hold",
                report.version
            ),
        };
        report.warnings.push(format!("{why}; this delivery was judged by itself"));
        Ok(None)
    }

    /// Gives the usage of shared buckets to customers.
    async fn apportion(&self, totals: &mut Totals) -> Result<Shared, Failure> {
        if totals.billed_days.is_empty() {
            return Ok(Shared::default());
        }
        let rules = &self.context.read_settings.rules;
        let reports = self.context.books.reports(&apportion::buckets(rules), self.job.month).await?;
        let days = totals.apportion(&reports, rules, self.delivery.manifest.delivered_at);
        Ok(Shared { days: days.map_err(Failure::GiveUp)?, digest: reports.digest })
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
            accepted: report.accepted.clone(),
            notes: report.notes.clone(),
            reports_digest: String::new(),
        }
    }
}
