//! The types of one reading of everything.

use std::collections::BTreeMap;

use books::audit::stats::{BooksStanding, CustomersStanding};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::queue::QueueStats;

/// One reading.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    pub at: Timestamp,
    #[serde(skip)]
    pub took: SignedDuration,
    /// Where the books are; never with a token.
    pub database: String,
    /// Free bytes where a local database lies.
    pub free_bytes: Option<u64>,
    pub billing: BillingMode,
    /// Whether notifications to the web backend have somewhere to go.
    pub notifications_go_out: bool,
    pub books: BooksStanding,
    /// What must look at every customer.
    pub customers: CustomersStanding,
    pub customers_at: Timestamp,
    pub queue: QueueStats,
    /// The audit of the books.
    pub audit: LastAudit,
    /// What needs a person, the worst first.
    pub findings: Vec<Finding>,
}

/// Where what is billed goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BillingMode {
    /// No meter is billed.
    Off,
    /// There is no key: what would be sent is shown.
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

    /// For people.
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

/// The last audit of the books, by `verify_books`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LastAudit {
    pub at: Option<Timestamp>,
    /// How often each rule was broken.
    pub violations: BTreeMap<String, i64>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is wrong with the books or nothing moves.
    Critical,
    /// A person should decide or mend something.
    Warning,
}

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The section of the runbook, which has the alert's name: `MeterBillStale`.
    pub alert: &'static str,
    pub what: String,
    pub act: String,
}
