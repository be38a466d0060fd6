//! `ingest_cur`: one month of an AWS billing export → the ledger.
//!
//! Every delivery of AWS is the whole month so far, so a run does the same whatever happened
//! before: find the newest version, read it whole, compare it with the books, book the difference.
//! There is no other path: a first delivery, the daily growth, a restatement, a repeat, a recovery
//! after a crash and a backfill differ only in what the comparison finds.
//!
//! Three things keep a half-truth out of the books. The manifest names the files, and all of them
//! must be there, unchanged from the first look to the last. A version is applied in one
//! transaction that starts with its claim. And a version that looks wrong (line types that nobody
//! knows, usage that shrank) is put on hold for a person instead of being booked.

pub mod aggregate;
pub mod batch;
pub mod csv;
mod discover;
pub mod export;
mod guard;
mod object_reader;
pub mod parquet_file;
mod parts;
mod read;
pub mod source;
mod sums;

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::aggregate::{Totals, UnknownLineType};
pub use self::discover::discover;
use self::export::{ExportError, Manifest};
pub use self::guard::{Restatement, Scope};
use self::parquet_file::ReadError;
pub use self::parts::{IngestPart, PartOutcome, PartReport};
use self::read::{FileStats, read_files};
use self::source::{Object, Source, SourceError};
use crate::context::{Context, Export, HoldPolicy, ReadSettings};
use crate::job::{Failure, Job};
use books::units::calendar::{Day, Month};
use books::units::quantity::Quantity;
use books::usage::bill::{BillId, BillLine, BookedVersions, MeterTotals, Version, VersionKey};
use books::usage::ledger::{Adjustments, Booking, Cells, LedgerChange, adjustments};

/// Customers that a report names for each meter.
const LARGEST_CHANGES: usize = 5;

/// Read the newest version of this month and book what it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestCur {
    pub export: String,
    pub month: Month,
    /// Only say what would be booked.
    #[serde(default)]
    pub dry_run: bool,
    /// Book a version even if it takes back usage that is booked.
    #[serde(default)]
    pub accept_restatement: bool,
    /// Book a version even if it has line types that nobody knows (their lines are left out).
    #[serde(default)]
    pub allow_unknown_line_types: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IngestOutcome {
    /// The version is booked.
    Applied,
    /// The version would be booked; nothing was written.
    WouldApply,
    /// This very version is what the books rest on.
    Unchanged,
    /// The version is older than what the books rest on.
    Older,
    /// AWS has delivered nothing for the month yet.
    NoBill,
    /// The version waits for a person.
    OnHold,
    /// The version would be put on hold; nothing was written.
    WouldHold,
}

impl IngestOutcome {
    /// True when a person has to look at it.
    pub fn needs_attention(self) -> bool {
        matches!(self, Self::OnHold | Self::WouldHold)
    }
}

/// What a run found and did.
#[derive(Clone, Debug, Serialize)]
pub struct IngestReport {
    pub export: String,
    #[serde(flatten)]
    pub bill: BillId,
    pub outcome: IngestOutcome,
    /// `assemblyId` or `executionId`; empty when there is no bill.
    pub version: String,
    pub delivered_at: Option<Timestamp>,
    /// Why it is on hold.
    pub hold_reasons: Vec<String>,
    /// Usage that it takes back.
    pub restatements: Vec<Restatement>,
    /// Line types that nobody knows.
    pub unknown_line_types: Vec<UnknownLineType>,
    /// Usage lines of watched products that no meter claims.
    pub unrecognised: Vec<BillLine>,
    /// Things that a person may want to know.
    pub warnings: Vec<String>,
    pub meters: Vec<MeterChange>,
    /// Customers with the largest changes.
    pub largest_changes: Vec<LedgerChange>,
    /// Ledger entries that were, or would be, appended.
    pub entries: usize,
    pub files: usize,
    pub rows: u64,
    /// Rows that a meter counted.
    pub matched_rows: u64,
    /// Amounts with more than ten decimals, rounded half-even.
    pub rounded_amounts: u64,
    /// Newest day with counted usage.
    pub newest_day: Option<Day>,
    /// Bytes that were fetched, manifest included.
    pub fetched_bytes: u64,
    pub fetch_requests: u64,
}

/// A meter in a report.
#[derive(Clone, Debug, Serialize)]
pub struct MeterChange {
    #[serde(flatten)]
    pub totals: MeterTotals,
    pub booked_before: Quantity,
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
        let report = ingest(&self, export, context, now).await?;
        if !self.dry_run {
            // one that is booked and gone cannot be read again: a person says so (`meter restored
            // --without`)
            let gone = report.outcome == IngestOutcome::NoBill && !report.warnings.is_empty();
            let waits = gone || report.outcome == IngestOutcome::OnHold;
            context.books.note_bill_read(report.export.clone(), report.bill.month, waits, now).await?;
        }
        let (outcome, entries) = (report.outcome, report.entries);
        tracing::debug!(
            export = %report.export, month = %report.bill.month, version = %report.version, ?outcome, entries,
            rows = report.rows, matched = report.matched_rows, bytes = report.fetched_bytes,
            "ingest of {} {}: {outcome:?}, {entries} entries", report.export, report.bill.month
        );
        Ok(report)
    }
}

fn find_export<'a>(context: &'a Context, name: &str) -> Result<&'a Export, Failure> {
    context.exports.get(name).ok_or_else(|| {
        let names: Vec<_> = context.exports.keys().map(String::as_str).collect();
        Failure::GiveUp(anyhow!("there is no export named `{name}`; configured: {}", names.join(", ")))
    })
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match &error {
            ExportError::Source(e) if e.is_retryable() => Self::Retry(error.into()),
            ExportError::Unreadable(..) => Self::Retry(error.into()),
            _ => Self::GiveUp(error.into()),
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::from(ExportError::Source(error))
    }
}

/// A version that lies ready to be read.
struct Delivery<'a> {
    export: &'a Export,
    manifest: &'a Manifest,
    key: &'a VersionKey,
    bill: &'a BillId,
}

/// A version that was read whole and did not move meanwhile.
struct Reading {
    totals: Totals,
    facts: FileStats,
}

async fn ingest(job: &IngestCur, export: &Export, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
    let source = &export.source;
    let before = (source.fetched().requests(), source.fetched().bytes());
    let bill = BillId { payer: export.payer.clone(), month: job.month };
    context.books.require_migrated().await?;
    if !job.dry_run {
        // first of all, whatever comes of the bill: a counter that stays in a month that is over
        // would block somebody
        context.books.roll_counters(Month::of(now)).await?;
    }
    let root = export::find(source.as_ref(), &export.prefix, export.format).await?;
    let mut report = empty_report(job, bill.clone());
    let Some(manifest) = export::newest(source.as_ref(), &root, job.month).await? else {
        if let Some(current) = context.books.booked_versions(&bill, "").await?.current {
            report.warnings.push(format!(
                "this month is booked from version {}, but its manifest is gone; was the export renamed or its bucket cleared?",
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
    report.version.clone_from(&manifest.version);
    report.delivered_at = Some(manifest.delivered_at);
    report.files = manifest.files.len();
    let booked_versions = context.books.booked_versions(&bill, &manifest.account).await?;
    check_account(&bill, &manifest, &booked_versions)?;
    if let Some(outcome) = already_booked(&manifest, &key, &booked_versions) {
        if outcome == IngestOutcome::Unchanged && booked_versions.holds && !job.dry_run {
            context.books.release(&bill).await?;
        }
        report.outcome = outcome;
        count_fetched(&mut report, source.as_ref(), before);
        return Ok(report);
    }
    let version = Delivery { export, manifest: &manifest, key: &key, bill: &bill };
    let Reading { totals, facts } = if job.dry_run {
        read_version(source, &manifest, &context.read_settings, job.month).await?
    } else {
        parts::read_version(job, &version, context, now).await?
    };
    let booked = context.books.booked(&bill).await?;
    let policy = &context.read_settings.hold;
    report.restatements = guard::restatements(&totals.observed, &booked, policy);
    report.hold_reasons = reasons(job, policy, &totals, &report.restatements);
    let difference = adjustments(&totals.observed, &booked)?;
    describe(&mut report, &manifest.account, &totals, &facts, &booked, &difference);
    count_fetched(&mut report, source.as_ref(), before);
    report.outcome = match (report.hold_reasons.is_empty(), job.dry_run) {
        (true, true) => IngestOutcome::WouldApply,
        (false, true) => IngestOutcome::WouldHold,
        (true, false) => IngestOutcome::Applied,
        (false, false) => IngestOutcome::OnHold,
    };
    if job.dry_run {
        return Ok(report);
    }
    let version = version_of(job, key, &manifest, &report, &totals);
    let against = booked_versions.current.map(|c| c.id);
    if report.outcome == IngestOutcome::OnHold {
        let version = Version { accepted: String::new(), ..version };
        context.books.hold(version, against, report.hold_reasons.join("; "), now).await?;
        return Ok(report);
    }
    let Totals { lines, meters, .. } = totals;
    let booking = Booking { version, against, files: facts.files, lines, totals: meters, adjustments: difference };
    context.books.book(booking, now).await?;
    Ok(report)
}

/// The version as it goes into the books.
fn version_of(
    job: &IngestCur,
    key: VersionKey,
    manifest: &Manifest,
    report: &IngestReport,
    totals: &Totals,
) -> Version {
    Version {
        bill: report.bill.clone(),
        key,
        export: job.export.clone(),
        format: manifest.format.as_str(),
        manifest_key: manifest.object.key.clone(),
        account: manifest.account.clone(),
        delivered_at: manifest.delivered_at,
        rows: report.rows,
        matched_rows: totals.matched_rows,
        rounded_amounts: totals.rounded_amounts,
        newest_day: totals.newest_day,
        accepted: accepted(totals, &report.restatements),
    }
}

/// What is settled without reading a data file. Pure.
fn already_booked(manifest: &Manifest, key: &VersionKey, booked_versions: &BookedVersions) -> Option<IngestOutcome> {
    let current = booked_versions.current.as_ref()?;
    if current.key == *key {
        return Some(IngestOutcome::Unchanged);
    }
    // the same version under other rules, or delivered again with other files, is read anew
    if current.key.version == manifest.version {
        return None;
    }
    let superseded = booked_versions.applied.contains(&manifest.version);
    (superseded || manifest.delivered_at < current.delivered_at).then_some(IngestOutcome::Older)
}

/// Refuses to book one account's usage twice, and two accounts' usage as one.
fn check_account(bill: &BillId, manifest: &Manifest, booked_versions: &BookedVersions) -> Result<(), Failure> {
    let (payer, month, account) = (&bill.payer, bill.month, &manifest.account);
    if let Some(other) = &booked_versions.account_booked_as {
        return Err(Failure::GiveUp(anyhow!(
            "the bill of account {account} for {month} is already booked under payer `{other}`; booking it under `{payer}` too would \
             count everything twice. Give both exports the same payer label, or remove one of them"
        )));
    }
    if let Some(current) = &booked_versions.current
        && !current.account.is_empty()
        && !account.is_empty()
        && current.account != *account
    {
        let known = &current.account;
        return Err(Failure::GiveUp(anyhow!(
            "payer `{payer}` is account {known} in the books, but this bill is of account {account}; give each payer account a label of its own"
        )));
    }
    Ok(())
}

fn reasons(job: &IngestCur, policy: &HoldPolicy, totals: &Totals, restatements: &[Restatement]) -> Vec<String> {
    let mut reasons = vec![];
    if !(job.allow_unknown_line_types || policy.allow_unknown_line_types) {
        reasons.extend(totals.unknown_line_types.iter().map(|t| {
            format!(
                "{} lines have the line type `{}`, which nobody knows (--allow-unknown-line-types leaves them out)",
                t.lines, t.line_type
            )
        }));
    }
    if !(job.accept_restatement || policy.accept_restatements) {
        reasons.extend(restatements.iter().map(|r| format!("{r} (--accept-restatement books it)")));
    }
    reasons
}

fn accepted(totals: &Totals, restatements: &[Restatement]) -> String {
    let types = totals.unknown_line_types.iter().map(|t| format!("{} lines of type `{}`", t.lines, t.line_type));
    types.chain(restatements.iter().map(ToString::to_string)).collect::<Vec<_>>().join("; ")
}

/// Reads a version whole, or says why that cannot be done now.
async fn read_version(
    source: &Arc<dyn Source>,
    manifest: &Manifest,
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Reading, Failure> {
    let objects = snapshot(source.as_ref(), manifest).await?;
    read_objects(source, manifest, &objects, read_settings, month).await
}

async fn read_objects(
    source: &Arc<dyn Source>,
    manifest: &Manifest,
    objects: &[Object],
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Reading, Failure> {
    let read = read_files(source, objects, read_settings, month).await;
    // whatever the reading brought: if anything moved meanwhile, that is the news, and the next run
    // will see it whole
    let unmoved = verify_unchanged(source.as_ref(), manifest, objects).await;
    let (aggregator, facts) = match (read, unmoved) {
        (_, Err(moved)) => return Err(Failure::Retry(moved)),
        (Err(error), Ok(())) => return Err(error.into()),
        (Ok(read), Ok(())) => read,
    };
    let totals = aggregator.finish().map_err(|e| Failure::GiveUp(e.into()))?;
    Ok(Reading { totals, facts })
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Source(e) => e.into(),
            broken => Self::GiveUp(broken.into()),
        }
    }
}

/// The files of a version as they are now.
async fn snapshot(source: &dyn Source, manifest: &Manifest) -> Result<Vec<Object>, Failure> {
    let objects = head_all(source, &manifest.files).await?;
    // AWS writes the manifest last. Where files are overwritten, one that is newer than its
    // manifest belongs to the next delivery. (Copies in a folder were made in any order, so their
    // times say nothing.)
    let written = |o: &&Object| o.modified > manifest.object.modified;
    if let Some(file) = objects.iter().find(written).filter(|_| manifest.overwritten && source.bucket().is_some()) {
        let name = source.name(&file.key);
        return Err(Failure::Retry(anyhow!(
            "{name} is newer than its manifest: AWS is writing the next delivery over this one (or a copy was made out of order)"
        )));
    }
    Ok(objects)
}

async fn head_all(source: &dyn Source, keys: &[String]) -> Result<Vec<Object>, SourceError> {
    // collected first: a stream over borrowed keys is not general enough for a spawned future
    let looks: Vec<_> = keys.iter().map(|key| source.head(key)).collect();
    futures::stream::iter(looks).buffered(8).try_collect().await
}

async fn verify_unchanged(source: &dyn Source, manifest: &Manifest, objects: &[Object]) -> anyhow::Result<()> {
    let name = source.name(&manifest.object.key);
    let now = source.head(&manifest.object.key).await?;
    if now.etag != manifest.object.etag || now.size != manifest.object.size {
        return Err(anyhow!("{name} was replaced while its files were read; nothing was booked"));
    }
    let again = head_all(source, &manifest.files).await?;
    match objects.iter().zip(&again).find(|(was, is)| was.etag != is.etag || was.size != is.size) {
        Some((was, _)) => Err(anyhow!("{} changed while it was read; nothing was booked", source.name(&was.key))),
        None => Ok(()),
    }
}

fn empty_report(job: &IngestCur, bill: BillId) -> IngestReport {
    IngestReport {
        export: job.export.clone(),
        bill,
        outcome: IngestOutcome::NoBill,
        version: String::new(),
        delivered_at: None,
        hold_reasons: vec![],
        restatements: vec![],
        unknown_line_types: vec![],
        unrecognised: vec![],
        warnings: vec![],
        meters: vec![],
        largest_changes: vec![],
        entries: 0,
        files: 0,
        rows: 0,
        matched_rows: 0,
        rounded_amounts: 0,
        newest_day: None,
        fetched_bytes: 0,
        fetch_requests: 0,
    }
}

fn count_fetched(report: &mut IngestReport, source: &dyn Source, before: (u64, u64)) {
    report.fetch_requests = source.fetched().requests() - before.0;
    report.fetched_bytes = source.fetched().bytes() - before.1;
}

fn describe(
    report: &mut IngestReport,
    account: &str,
    totals: &Totals,
    facts: &FileStats,
    booked: &Cells,
    difference: &Adjustments,
) {
    let before = booked.by_meter();
    report.rows = facts.files.iter().map(|f| f.rows).sum();
    report.matched_rows = totals.matched_rows;
    report.rounded_amounts = totals.rounded_amounts;
    report.newest_day = totals.newest_day;
    report.entries = difference.entries.len();
    report.largest_changes = difference.largest(LARGEST_CHANGES);
    report.unknown_line_types.clone_from(&totals.unknown_line_types);
    report.unrecognised = totals.lines.iter().filter(|l| l.claim == "unrecognised").cloned().collect();
    report.meters = totals
        .meters
        .iter()
        .map(|t| MeterChange { totals: t.clone(), booked_before: before.get(&t.meter).copied().unwrap_or_default() })
        .collect();
    let mut warn = |text: String| report.warnings.push(text);
    if account.is_empty() {
        warn(
            "the manifest names no account, so nothing can tell whether it is booked under another payer label".into(),
        );
    }
    if facts.files_without_tag > 0 {
        warn(format!(
            "{} of {} files have no column for the customer tag, so their usage is unattributed; is the tag activated as a cost allocation tag?",
            facts.files_without_tag,
            facts.files.len()
        ));
    }
    if totals.out_of_month_lines > 0 {
        warn(format!(
            "{} usage lines are of days outside the month; they are booked on their own days",
            totals.out_of_month_lines
        ));
    }
    if totals.rounded_amounts > 0 {
        warn(format!("{} amounts have more than 10 decimals; each was rounded half-even", totals.rounded_amounts));
    }
    if totals.rounded_cells > 0 {
        warn(format!(
            "{} sums have more than 10 decimals after their meter's factor; each was rounded half-even",
            totals.rounded_cells
        ));
    }
}
