//! HTML: the status page, the jobs, the runbook, and the documents of `meter report` and
//! `meter statement`.
//!
//! Each function is pure: it turns values into a whole HTML document. A document fetches nothing
//! and has no script; one style sheet and the charts are inline, so that
//! [`CONTENT_SECURITY_POLICY`] suffices and a saved page stays whole. Sums, shares and forecasts
//! use [`Quantity`] and integers, like the books; only the plotting crate uses floats, to turn a
//! quantity into a pixel.

mod chart;
mod customer;
mod format;
mod jobs;
mod layout;
mod report;
mod runbook;
mod statement;
mod status;
#[cfg(test)]
mod tests;
mod tiles;
mod usage;

use std::collections::BTreeMap;

use books::units::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};

use crate::health::Overview;
use crate::queue::{FailedRun, JobState};

pub use customer::{CustomerView, customer, customers};
pub(crate) use format::about;
pub use jobs::{job, jobs};
pub use report::report;
pub use runbook::runbook;
pub use statement::statement;
pub use status::{RUNS, status};

/// A browser may only show these pages and send their own forms.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// The content of the status page.
#[derive(Clone, Copy, Debug)]
pub struct StatusView<'a> {
    pub overview: &'a Overview,
    /// The unit of each meter in the plural: minutes.
    pub units: &'a BTreeMap<String, String>,
    /// The name of each meter that people read.
    pub names: &'a BTreeMap<String, String>,
    /// The newest runs of jobs, newest first.
    pub runs: &'a [RunRow],
    /// Why the runs could not be read.
    pub no_runs: Option<&'a str>,
    pub version: &'a str,
    /// Where billed usage goes: `dry run`, `test account`, `live account`.
    pub billing: &'a str,
    /// The page reloads itself after this time and links to `/?refresh=0`; 0 = never.
    pub refresh_seconds: u32,
}

/// A job, as the pages show it.
#[derive(Clone, Debug)]
pub struct RunRow {
    pub seq: i64,
    pub kind: String,
    pub state: JobState,
    /// Its payload in short.
    pub what: String,
    pub attempts: i64,
    /// The time of its last change, or of its next run.
    pub at: Timestamp,
    /// The duration of its last run.
    pub took: Option<SignedDuration>,
    /// Its report, or the reason why there is none.
    pub result: String,
    /// Whether the report needs attention.
    pub attention: bool,
    pub can_retry: bool,
    pub can_cancel: bool,
}

/// Selects the listed jobs.
#[derive(Clone, Debug, Default)]
pub struct JobsFilter {
    pub kind: Option<String>,
    pub state: Option<String>,
    /// What they contain.
    pub text: Option<String>,
}

/// The content of the page of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobList<'a> {
    pub runs: &'a [RunRow],
    pub filter: &'a JobsFilter,
    pub kinds: &'a [String],
    /// Numbers of jobs of the chosen kind, as they were last counted.
    pub counts: &'a BTreeMap<JobState, i64>,
    /// The last job of this page, if older ones follow.
    pub older: Option<i64>,
    /// Whether this page has the newest jobs.
    pub is_first: bool,
    /// Whether a token is configured; without one the page has no buttons.
    pub can_act: bool,
    /// The result of the last action.
    pub done: Option<&'a str>,
}

/// The content of the page of a job.
#[derive(Clone, Copy, Debug)]
pub struct JobPage<'a> {
    pub run: &'a RunRow,
    /// Labels and texts. JSON keeps its lines.
    pub details: &'a [(String, String)],
    /// The newest runs that failed, newest first.
    pub failed: &'a [FailedRun],
    /// Whether a token is configured; without one the page has no buttons.
    pub can_act: bool,
}

/// The document of `meter report`.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// `None` = all customers.
    pub customer: Option<String>,
    /// The month, as `2026-03`.
    pub month: String,
    pub made_at: Timestamp,
    pub version: String,
    /// When AWS made the newest bill in it.
    pub as_of: Option<Timestamp>,
    pub meters: Vec<MeterReport>,
}

/// One meter in a usage report.
#[derive(Clone, Debug)]
pub struct MeterReport {
    pub meter: String,
    /// Its unit in the plural: minutes.
    pub unit: String,
    /// Usage of the month, with and without a customer.
    pub total: Quantity,
    /// The part without a customer.
    pub unattributed: Option<Quantity>,
    /// By day (`2026-03-01`), oldest first.
    pub days: Vec<(String, Quantity)>,
    /// The customers with most of it, the largest first; empty in the report of one.
    pub customers: Vec<(String, Quantity)>,
    pub notes: Vec<String>,
}

/// The page for an unknown address.
pub fn not_found() -> String {
    layout::message_page(
        "There is no such page",
        "The address may be mistyped, or the job was removed a while after it was finished.",
    )
}

/// The page for a refused request.
pub fn refused(why: &str) -> String {
    layout::message_page("That was refused", why)
}
