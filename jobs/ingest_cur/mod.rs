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
mod summary;
mod sums;

use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::aggregate::Totals;
use self::apportion::{held_cells, shared_cells};
use self::delivery::{
    Delivery, Now, Reading, already_booked, check_account, find_export, read_version, replaces_the_future,
    stays_taken_back, taken_back,
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
pub use self::summary::{BillSummary, summarise};
use crate::context::Context;
use crate::job::{Failure, Job};
use books::shared_bucket::shares::SharedDay;
use books::store::audit_log::AuditEntry;
use books::units::calendar::Month;
use books::usage::bill::{BillId, BookedVersions, CurrentVersion, Version, VersionKey, words_digest};
use books::usage::booking::{Booking, BookingOrigin};
use books::usage::difference::{UsageDifference, differences};
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
        let mut report = ingest(&self, context, now).await?;
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
async fn ingest(job: &IngestCur, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
    context.books.require_migrated().await?;
    if job.dry_run {
        return Ok(prepare(job, Purpose::DryRun, context, now).await?.report);
    }
    tidy_up(context, now).await?;
    let Prepared { report, decision, .. } = prepare(job, Purpose::Book, context, now).await?;
    match decision {
        Decision::Nothing => {}
        Decision::Release => context.books.release(&report.bill).await?,
        Decision::Hold { version, against, words } => context.books.hold(*version, against, words, now).await?,
        Decision::Book(booking) => drop(context.books.book(*booking, now).await?),
    }
    Ok(report)
}

/// What must be done before anything can fail: a counter that stays in a past month would block its
/// customer.
pub(crate) async fn tidy_up(context: &Context, now: Timestamp) -> Result<(), Failure> {
    context.books.finish_bookings(now).await?;
    context.books.roll_counters(Month::of(now)).await?;
    Ok(())
}

/// What a bill is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Book,
    DryRun,
    /// A person looks at the change before it is booked. So a version that was taken back is read
    /// again, and one with reasons to hold it is booked when the plan is applied.
    Plan,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Decision {
    Nothing,
    /// AWS delivers the current version again.
    Release,
    Hold {
        version: Box<Version>,
        /// The version that it was compared with.
        against: Option<i64>,
        words: String,
    },
    Book(Box<Booking>),
}

/// What a bill was found to change, before anything is written.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) report: IngestReport,
    pub(crate) decision: Decision,
    /// None without a bill.
    pub(crate) key: Option<VersionKey>,
    /// What the books rest on.
    pub(crate) current: Option<CurrentVersion>,
    /// For a plan: what the booking changes.
    pub(crate) differences: Vec<UsageDifference>,
}

/// Finds the newest version and decides what is to be written. Writes nothing but the parts of a
/// large bill.
pub(crate) async fn prepare(
    job: &IngestCur,
    purpose: Purpose,
    context: &Context,
    now: Timestamp,
) -> Result<Prepared, Failure> {
    let export = find_export(context, &job.export)?;
    let source = &export.source;
    let bill = BillId { payer: export.payer.clone(), month: job.month };
    let root = export::find(source.as_ref(), &export.prefix, export.format).await?;
    let mut report = IngestReport::empty(&job.export, bill.clone());
    let nothing =
        |report, key, current| Ok(Prepared { report, decision: Decision::Nothing, key, current, differences: vec![] });
    let Some(manifest) = export::newest(source.as_ref(), &root, job.month, Some(now)).await? else {
        let current = context.books.booked_versions(&bill, "").await?.current;
        if let Some(current) = &current {
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
        return nothing(report, None, current);
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
    let taken_back = taken_back(&key, &booked, &reports);
    let booked_already = match (taken_back, purpose) {
        (Some(_), Purpose::Plan) => None,
        (Some(_), _) => Some(IngestOutcome::Reverted),
        (None, _) => already_booked(&manifest, &key, &booked, &Now { instant: now, reports }),
    };
    let accepted = match &job.accept {
        Some(accept) if booked_already.is_none() || !key.version.starts_with(&accept.version) => {
            let on_hold = context.books.versions_on_hold(&bill).await?;
            let accepted = hold::accepted(accept, &key, &on_hold, job.month);
            Some(accepted.map_err(|why| Failure::GiveUp(anyhow!(why)))?)
        }
        _ => None,
    };
    if let Some(outcome) = booked_already {
        report.outcome = outcome;
        report.warnings.extend(taken_back.map(stays_taken_back));
        let mut found = nothing(report, Some(key), booked.current)?;
        if outcome == IngestOutcome::Unchanged && booked.holds && purpose == Purpose::Book {
            found.decision = Decision::Release;
        }
        return Ok(found);
    }
    report.warnings.extend(replaces_the_future(&booked, now));
    let delivery = Delivery { name: &job.export, export, manifest: &manifest, key: &key, bill: &bill };
    let reading = match purpose {
        Purpose::Book => parts::read_version(&delivery, context, now).await?,
        Purpose::DryRun | Purpose::Plan => read_version(source, &manifest, &context.read_settings, job.month).await?,
    };
    Run { job, context, delivery, booked, accepted, purpose }.decide(reading, report).await
}

/// The digest of the reports by which the booked version would be apportioned now, or the one that
/// it took back; empty without usage of shared buckets.
async fn current_reports(context: &Context, booked: &BookedVersions, month: Month) -> Result<String, Failure> {
    let current = booked.current.as_ref().map(|current| &current.reports_digest);
    let of_shared = current.into_iter().chain(booked.taken_back.as_ref().map(|taken| &taken.reports_digest));
    if of_shared.into_iter().all(String::is_empty) {
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
    purpose: Purpose,
}

/// How a version's usage of shared buckets is apportioned; empty for a version without any.
#[derive(Default)]
struct Shared {
    days: Vec<SharedDay>,
    digest: String,
}

impl Run<'_> {
    /// Whether what the version changes is to be booked, or put on hold.
    async fn decide(self, reading: Reading, mut report: IngestReport) -> Result<Prepared, Failure> {
        let Self { job, context, delivery, purpose, .. } = &self;
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
        let accepted_by = self.accepted_by(&words, &mut report)?;
        if accepted_by.is_none() {
            report.hold_digest = words_digest(&words);
            report.hold_reasons = undecided;
        }
        report.describe_bill(&totals, &files);
        report.describe_shared(&shared.days);
        report.describe_change(&totals, &booked, &difference);
        report.warn(&delivery.manifest.account, &totals);
        report.outcome = match (report.hold_reasons.is_empty(), purpose) {
            (true, Purpose::Book) => IngestOutcome::Applied,
            (false, Purpose::Book) => IngestOutcome::OnHold,
            (true, _) => IngestOutcome::WouldApply,
            (false, _) => IngestOutcome::WouldHold,
        };
        // who applies a plan accepts what it says
        let is_decided = report.hold_reasons.is_empty() || *purpose == Purpose::Plan;
        if is_decided {
            report.accepted = hold::found(&reasons);
        }
        let version = Version { reports_digest: shared.digest, ..self.version(&report, &totals) };
        let current = self.booked.current.clone();
        let against = current.as_ref().map(|current| current.id);
        let differences = match purpose {
            Purpose::Plan => differences(&difference, &booked),
            Purpose::Book | Purpose::DryRun => vec![],
        };
        let key = Some(version.key.clone());
        let decision = if is_decided {
            let Totals { lines, cost_lines, meters, .. } = totals;
            Decision::Book(Box::new(Booking {
                version,
                against,
                files: files.files,
                lines,
                cost_lines,
                totals: meters,
                shared_days: shared.days,
                origin: BookingOrigin::Read { shared_buckets: apportion::buckets(&context.read_settings.rules) },
                adjustments: difference,
                erased: erased.count(),
                accepted_by,
            }))
        } else {
            Decision::Hold { version: Box::new(version), against, words }
        };
        Ok(Prepared { report, decision, key, current, differences })
    }

    /// The entry of the audit log when a person accepted exactly these reasons. Otherwise the
    /// report says why the acceptance does not count.
    ///
    /// # Errors
    /// When the acceptance is not about this delivery, and nothing holds it: it would be booked,
    /// and that was not asked for.
    fn accepted_by(&self, undecided: &str, report: &mut IngestReport) -> Result<Option<AuditEntry>, Failure> {
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
                let (by, bill) = ((accept.actor.as_str(), accept.reason.as_str()), &report.bill);
                return Ok(Some(hold::accepted_entry(by, (&report.version, &bill.payer), bill.month)));
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
