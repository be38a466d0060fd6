//! Pages to look at: the status page, the jobs, the runbook, and the document of `meter report`.
//!
//! Each function takes what is known and gives a whole HTML document. Nothing is read here, nothing
//! is fetched by what comes out, and no script is in it: one style sheet and the charts are inline,
//! so that [`CONTENT_SECURITY_POLICY`] suffices and a saved page stays whole. Sums, shares and
//! forecasts are made of [`Quantity`] and integers, like the books; a float is met only inside the
//! plotting crate, where a quantity becomes a pixel.

mod chart;
mod format;
mod jobs;
mod layout;
mod report;
mod runbook;
mod status;
#[cfg(test)]
mod tests;
mod tiles;
mod usage;

use std::collections::BTreeMap;

use books::units::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};

use crate::health::Overview;

pub(crate) use format::about;
pub use jobs::{job, jobs};
pub use report::report;
pub use runbook::runbook;
pub use status::{RUNS, status};
pub(crate) use usage::forecast;

/// What a browser may do with these pages: show them, and send their own forms.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; \
    base-uri 'none'; frame-ancestors 'none'";

/// What the status page tells.
#[derive(Clone, Copy, Debug)]
pub struct StatusView<'a> {
    pub overview: &'a Overview,
    /// By meter, the unit in the plural: minutes.
    pub units: &'a BTreeMap<String, String>,
    /// The newest runs of jobs, newest first.
    pub runs: &'a [RunRow],
    /// Why these could not be read.
    pub no_runs: Option<&'a str>,
    pub version: &'a str,
    /// Where money goes: `dry run`, `test account`, `live account`.
    pub billing: &'a str,
    /// After how many seconds the page loads itself again; 0: never. With it comes a link to
    /// `/?refresh=0`.
    pub refresh_seconds: u32,
}

/// A job, as the pages tell it.
#[derive(Clone, Debug)]
pub struct RunRow {
    pub seq: i64,
    pub kind: String,
    /// Where it stands: `pending`, `scheduled`, `running`, `retrying`, `done`, `dead`, `cancelled`.
    pub state: String,
    /// What it is about, in short.
    pub what: String,
    pub attempts: i64,
    /// When something last happened to it, or next will.
    pub at: Timestamp,
    /// How long its last run took.
    pub took: Option<SignedDuration>,
    /// What it reported, or why it did not.
    pub said: String,
    /// Whether a person should look at the report.
    pub attention: bool,
    /// Whether it can be made due now.
    pub can_retry: bool,
    /// Whether it can be taken back.
    pub can_cancel: bool,
}

/// Which jobs are listed.
#[derive(Clone, Debug, Default)]
pub struct JobsFilter {
    pub kind: Option<String>,
    pub state: Option<String>,
}

/// What the page of jobs tells.
#[derive(Clone, Copy, Debug)]
pub struct JobList<'a> {
    pub runs: &'a [RunRow],
    pub filter: &'a JobsFilter,
    pub kinds: &'a [String],
    /// Whether a token is configured, without which nobody can act.
    pub can_act: bool,
    /// What became of the last act.
    pub said: Option<&'a str>,
}

/// What `meter report` tells of a month.
#[derive(Clone, Debug)]
pub struct UsageReport {
    /// Of this customer; none: of all.
    pub customer: Option<String>,
    /// The month, as `2026-03`.
    pub month: String,
    /// When the report was made.
    pub made_at: Timestamp,
    pub version: String,
    /// When AWS made the newest bill that is in it.
    pub as_of: Option<Timestamp>,
    pub meters: Vec<MeterReport>,
}

/// What a report tells of a meter.
#[derive(Clone, Debug)]
pub struct MeterReport {
    pub meter: String,
    /// Its unit in the plural: minutes.
    pub unit: String,
    /// Usage of the month; of all customers, that with and without a customer.
    pub total: Quantity,
    /// What has no customer, of it.
    pub unattributed: Option<Quantity>,
    /// By day (`2026-03-01`), oldest first.
    pub days: Vec<(String, Quantity)>,
    /// The customers with most of it, the largest first; empty in the report of one.
    pub customers: Vec<(String, Quantity)>,
    /// What else there is to say, as sentences.
    pub notes: Vec<String>,
}

/// The page for an address that there is not.
pub fn not_found() -> String {
    layout::message_page(
        "There is no such page",
        "The address may be mistyped, or the job was removed a while after it was finished.",
    )
}

/// The page for something that is not done.
pub fn refused(why: &str) -> String {
    layout::message_page("That was refused", why)
}
