//! The types of one reading of everything.

use std::collections::BTreeMap;

use books::audit::checks::LastAudit;
use books::audit::stats::{BillStats, BooksStats, CustomerStats};
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::BookedShare;
use books::store::row_counts::MonthRows;
use books::units::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use super::exports::ExportHealth;
use crate::config::RowsQuota;
use crate::queue::{JobState, QueueStats, WorkerState};

/// One reading of everything.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Overview {
    pub at: Timestamp,
    #[serde(skip)]
    pub took: SignedDuration,
    /// The address of the books; never with a token.
    pub database: String,
    /// Free bytes on the disk of a local database.
    pub free_bytes: Option<u64>,
    /// What this month's statements cost on a remote database, without the web backend's.
    pub rows: Option<MonthRows>,
    pub rows_quota: RowsQuota,
    pub billing: BillingMode,
    /// Whether notifications are sent to the web backend.
    pub notifications_go_out: bool,
    /// Whether messages are sent to the operator.
    pub operator_messages_go_out: bool,
    pub books: BooksStats,
    /// Figures of all customers, which are read less often.
    pub customers: CustomerStats,
    pub customers_at: Timestamp,
    pub queue: QueueStats,
    /// By shared bucket: how far its reports may be from the bill, in percent.
    #[serde(skip)]
    pub share_bands: BTreeMap<String, u8>,
    /// The configured exports.
    pub exports: Vec<ExportHealth>,
    /// The audit of the books.
    pub audit: LastAudit,
    /// What needs attention, the worst first.
    pub findings: Vec<Finding>,
}

/// A day of a shared bucket is read two days after its end, at the latest.
const REPORT_LATE: SignedDuration = SignedDuration::from_hours(72);

/// What is wrong with a day of a shared bucket, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShareFault {
    /// The reports are far from the bill, and nobody accepted that.
    Held,
    NoReport,
    /// They account for more or less than the bill by more than the band.
    Outside,
}

impl ShareFault {
    pub(crate) const ALL: [Self; 3] = [Self::Held, Self::NoReport, Self::Outside];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NoReport => "no_report",
            Self::Outside => "outside",
        }
    }
}

/// What `meter status` and the pages print before the first bill.
pub(crate) const NO_BILL: &str = "No bill is booked yet: `meter ingest` reads the newest one.";
/// What they print while nothing receives notifications.
pub(crate) const NO_WEBHOOK: &str = "notifications.url is not set";

impl Overview {
    /// The bills of payers that have a booked one.
    pub(crate) fn bills(&self) -> impl Iterator<Item = &BillStats> {
        // without a booked bill there is no month
        self.books.bills.iter().filter(|bill| !bill.month.is_empty())
    }

    /// The rows read and those written, on a remote database.
    pub(crate) fn month_rows(&self) -> impl Iterator<Item = RowUse> {
        let of = |rows: MonthRows| {
            let MonthRows { today, so_far, by_end } = rows;
            let RowsQuota { read, written } = self.rows_quota;
            [
                RowUse { what: "read", today: today.read, so_far: so_far.read, by_end: by_end.read, quota: read },
                RowUse {
                    what: "written",
                    today: today.written,
                    so_far: so_far.written,
                    by_end: by_end.written,
                    quota: written,
                },
            ]
        };
        self.rows.into_iter().flat_map(of)
    }

    /// What is wrong with a day of a shared bucket; none for a day that is right, or that the bill
    /// does not settle yet.
    pub(crate) fn share_fault(&self, share: &BookedShare) -> Option<ShareFault> {
        // usage of the month before, which a bill has late, finds no report
        if share.day.month() != share.month {
            return None;
        }
        let band = i64::from(*self.share_bands.get(&share.bucket)?) * 100;
        match share.state {
            ShareState::Open => None,
            ShareState::Held => Some(ShareFault::Held),
            // reports come up to two days after the bill
            ShareState::NoReport => {
                (self.at.duration_since(share.day.end()) > REPORT_LATE).then_some(ShareFault::NoReport)
            }
            ShareState::Apportioned => {
                share.coverage().filter(|of| (of - 10_000).abs() > band).map(|_| ShareFault::Outside)
            }
        }
    }

    /// Versions of bills that are on hold.
    pub(crate) fn versions_on_hold(&self) -> i64 {
        self.books.bills.iter().map(|bill| bill.on_hold).sum()
    }

    /// Jobs of all kinds in a state.
    pub(crate) fn jobs(&self, state: JobState) -> i64 {
        self.queue.kinds.values().filter_map(|kind| kind.states.get(&state)).sum()
    }

    /// Worker processes in a state.
    pub(crate) fn workers(&self, state: WorkerState) -> i64 {
        self.queue.workers.get(&state).copied().unwrap_or(0)
    }

    /// When the backup was made from which the books were restored, while billing is on hold.
    pub(crate) fn on_hold(&self) -> Option<Timestamp> {
        let bills = matches!(self.billing, BillingMode::Test | BillingMode::Live);
        self.books.stripe.restored_from.filter(|_| bills)
    }

    /// The number of deferred amounts.
    pub(crate) fn deferred(&self) -> i64 {
        self.customers.deferred.values().sum()
    }

    /// Meters of which Stripe's totals differ, and by how much.
    pub(crate) fn drifts(&self) -> impl Iterator<Item = (&String, Quantity)> {
        self.customers.drift.iter().filter(|(_, drift)| !drift.is_zero()).map(|(meter, drift)| (meter, *drift))
    }
}

/// Rows of the month, of one sort, beside the plan's quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowUse {
    /// `read` or `written`.
    pub(crate) what: &'static str,
    pub(crate) today: u64,
    pub(crate) so_far: u64,
    /// The estimate for the whole month.
    pub(crate) by_end: u64,
    pub(crate) quota: Option<u64>,
}

impl RowUse {
    pub(crate) fn is_over(&self) -> bool {
        self.quota.is_some_and(|quota| self.by_end > quota)
    }
}

/// Where billed usage goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BillingMode {
    /// No meter is billed.
    Off,
    /// There is no key, so nothing is sent.
    DryRun,
    /// Books of `meter demo`, and no key.
    Demo,
    Test,
    Live,
}

impl BillingMode {
    pub const ALL: [Self; 5] = [Self::Off, Self::DryRun, Self::Demo, Self::Test, Self::Live];

    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::DryRun => "dry_run",
            Self::Demo => "demo",
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Off => "nothing is billed",
            Self::DryRun => "dry run",
            Self::Demo => "the demo's account, which is gone",
            Self::Test => "test account",
            Self::Live => "live account",
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The books are wrong, or no work is done.
    Critical,
    /// A person should decide or repair something.
    Warning,
}

impl Severity {
    /// Its name in the books and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// Something that needs attention.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The name of the alert and of its section in the runbook: `MeterBillStale`.
    pub alert: &'static str,
    /// The one thing that it is about: a kind of job, a payer, a bucket; empty when there is only
    /// one. With the alert it is the name of the finding, while `what` changes with time.
    pub subject: String,
    pub what: String,
    pub act: String,
}
