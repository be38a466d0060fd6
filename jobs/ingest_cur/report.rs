//! The report of a run: what was found, what was booked, and what a person should know.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aggregate::{FaultyLines, Mark, Totals, UnknownLineType};
use super::export::Manifest;
use super::growth::Growth;
use super::guard::Restatement;
use super::hold::HoldReason;
use super::read::FileStats;
use crate::listed::{most, shown};
use books::shared_bucket::shares::{ShareState, SharedDay};
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use books::units::words::{several, verb};
use books::usage::bill::{BillId, BillNote, ClaimKind, LineKind, MeterTotals};
use books::usage::ledger::{Adjustments, Cells, LedgerChange};

/// Customers that a report names for each meter.
const LARGEST_CHANGES: usize = 5;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IngestOutcome {
    /// The version is booked.
    Applied,
    /// The version would be booked; nothing was written.
    WouldApply,
    /// This version is the current one of the books.
    Unchanged,
    /// The version is older than the current one of the books.
    Older,
    /// The version was booked by a plan that was reverted; it is not booked again by itself.
    Reverted,
    /// AWS has delivered nothing for the month yet.
    NoBill,
    /// The version waits for a person.
    OnHold,
    /// The version would be put on hold; nothing was written.
    WouldHold,
}

impl IngestOutcome {
    /// True when a plan of the bill has something to book.
    pub fn would_change(self) -> bool {
        matches!(self, Self::WouldApply | Self::WouldHold)
    }

    /// True when the version waits for a person.
    pub fn needs_attention(self) -> bool {
        matches!(self, Self::OnHold | Self::WouldHold)
    }
}

/// The report of a run.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct IngestReport {
    pub export: String,
    #[serde(flatten)]
    pub bill: BillId,
    pub outcome: IngestOutcome,
    /// `assemblyId` or `executionId`; empty when there is no bill.
    pub version: String,
    pub delivered_at: Option<Timestamp>,
    pub hold_reasons: Vec<HoldReason>,
    /// Names the words of these reasons, for a person who accepts them; empty without a reason.
    pub hold_digest: String,
    /// What would have put it on hold and is, or would be, accepted; empty as a rule.
    pub accepted: String,
    /// Booked usage that the version takes back.
    pub restatements: Vec<Restatement>,
    /// Usage that was settled and has grown.
    pub growths: Vec<Growth>,
    /// What is wrong with the days of its usage.
    pub impossible_days: Option<String>,
    /// Counted lines of usage during more than a day.
    pub long_lines: u64,
    /// What is stored with the version for a person.
    pub notes: Vec<BillNote>,
    /// Of many those with the most lines.
    pub unknown_line_types: Vec<UnknownLineType>,
    /// Lines that a meter counts and that cannot be booked as they are.
    pub faults: Vec<FaultyLines>,
    /// Usage lines of watched products that no meter claims: of many kinds those with the most
    /// lines.
    pub unrecognised: Vec<LineKind>,
    /// How many such kinds there are.
    pub unrecognised_kinds: usize,
    pub warnings: Vec<String>,
    pub meters: Vec<MeterChange>,
    /// The customers with the largest changes.
    pub largest_changes: Vec<LedgerChange>,
    /// Billed days of shared buckets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_days: Vec<SharedDayReport>,
    /// Ledger entries that were, or would be, appended.
    pub entries: usize,
    pub files: usize,
    pub rows: u64,
    /// Rows that a meter counted.
    pub counted_rows: u64,
    /// Amounts with more than ten decimals, rounded half-even.
    pub rounded_amounts: u64,
    /// Newest day with counted usage.
    pub newest_day: Option<Day>,
    /// Fetched bytes, manifest included.
    pub fetched_bytes: u64,
    pub fetch_requests: u64,
}

/// A meter in a report.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct MeterChange {
    #[serde(flatten)]
    pub totals: MeterTotals,
    pub booked_before: Quantity,
}

/// A billed day of a shared bucket in a report.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct SharedDayReport {
    pub bucket: String,
    pub meter: String,
    /// S3's storage class; empty for requests and what they sent.
    pub class: String,
    pub day: Day,
    pub state: ShareState,
    /// In the unit of the bill, as the other two.
    pub billed: Quantity,
    /// What the reports of the day account for; null without a report.
    pub predicted: Option<Quantity>,
    /// What customers have.
    pub apportioned: Quantity,
}

impl IngestReport {
    /// The report of a run that has found nothing yet.
    pub(super) fn empty(export: &str, bill: BillId) -> Self {
        Self {
            export: export.to_owned(),
            bill,
            outcome: IngestOutcome::NoBill,
            version: String::new(),
            delivered_at: None,
            hold_reasons: vec![],
            hold_digest: String::new(),
            accepted: String::new(),
            restatements: vec![],
            growths: vec![],
            impossible_days: None,
            long_lines: 0,
            notes: vec![],
            unknown_line_types: vec![],
            faults: vec![],
            unrecognised: vec![],
            unrecognised_kinds: 0,
            warnings: vec![],
            meters: vec![],
            largest_changes: vec![],
            shared_days: vec![],
            entries: 0,
            files: 0,
            rows: 0,
            counted_rows: 0,
            rounded_amounts: 0,
            newest_day: None,
            fetched_bytes: 0,
            fetch_requests: 0,
        }
    }

    /// Adds the version that was found.
    pub(super) fn describe_manifest(&mut self, manifest: &Manifest) {
        self.version.clone_from(&manifest.version);
        self.delivered_at = Some(manifest.delivered_at);
        self.files = manifest.files.len();
    }

    /// Adds what the version holds.
    pub(super) fn describe_bill(&mut self, totals: &Totals, files: &FileStats) {
        self.rows = files.rows();
        self.counted_rows = totals.counted_rows;
        self.rounded_amounts = totals.rounded_amounts;
        self.newest_day = totals.newest_day;
        let named = |l: UnknownLineType| UnknownLineType { line_type: shown(&l.line_type), ..l };
        let unknown = most(totals.unknown_line_types.clone(), |l| l.lines);
        self.unknown_line_types = unknown.into_iter().map(named).collect();
        self.faults.clone_from(&totals.faults);
        let unrecognised = totals.lines.iter().filter(|l| l.claim == ClaimKind::Unrecognised);
        let named = |l: LineKind| LineKind { usage_type: shown(&l.usage_type), product: shown(&l.product), ..l };
        self.unrecognised = most(unrecognised.clone().cloned().collect(), |l| l.lines).into_iter().map(named).collect();
        self.unrecognised_kinds = unrecognised.count();
    }

    /// Adds how usage of shared buckets is apportioned.
    pub(super) fn describe_shared(&mut self, days: &[SharedDay]) {
        let described = days.iter().map(|shared| SharedDayReport {
            bucket: shared.day.bucket.clone(),
            meter: shared.day.meter.clone(),
            class: shared.day.class.clone(),
            day: shared.day.day,
            state: shared.state,
            billed: shared.day.billed,
            predicted: shared.predicted,
            apportioned: shared.apportioned(),
        });
        self.shared_days = described.collect();
    }

    /// Adds what the version changes in the books.
    pub(super) fn describe_change(&mut self, totals: &Totals, booked: &Cells, difference: &Adjustments) {
        let before = booked.by_meter();
        let change = |t: &MeterTotals| MeterChange {
            totals: t.clone(),
            booked_before: before.get(&t.meter).copied().unwrap_or_default(),
        };
        self.meters = totals.meters.iter().map(change).collect();
        self.entries = difference.entries.len();
        self.largest_changes = difference.largest(LARGEST_CHANGES);
    }

    /// Adds what a person should know of the way the version was read.
    pub(super) fn warn(&mut self, account: &str, totals: &Totals) {
        let mut warn = |text: String| self.warnings.push(text);
        if account.is_empty() {
            warn(
                "the manifest names no account, so nothing can tell whether it is booked under another payer label"
                    .into(),
            );
        }
        let no_amount =
            totals.lines.iter().filter(|l| Mark::NoAmount.is_on(&l.line_type)).map(|l| l.lines).sum::<u64>();
        if no_amount > 0 {
            let (lines, have) = (several(no_amount, "line"), verb(no_amount, "has", "have"));
            warn(format!("{lines} {have} an amount that cannot be read; `meter discover` shows the kinds"));
        }
        if totals.out_of_month_lines > 0 {
            let lines = several(totals.out_of_month_lines, "usage line");
            let are = verb(totals.out_of_month_lines, "is", "are");
            warn(format!("{lines} {are} of days outside the month; usage is booked on its own day"));
        }
        if totals.rounded_amounts > 0 {
            let (amounts, have) =
                (several(totals.rounded_amounts, "amount"), verb(totals.rounded_amounts, "has", "have"));
            warn(format!("{amounts} {have} more than 10 decimals; each was rounded half-even"));
        }
        if totals.rounded_cells > 0 {
            let (sums, have) = (several(totals.rounded_cells, "sum"), verb(totals.rounded_cells, "has", "have"));
            warn(format!("{sums} {have} more than 10 decimals after the meter's factor; each was rounded half-even"));
        }
    }
}
