//! How everything stands, and what needs a person: read once, told by the metrics, the status page
//! and `meter status`.

mod findings;
mod observer;

use std::collections::{BTreeMap, BTreeSet};

use books::audit::stats::{BooksStanding, CustomersStanding};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

pub(crate) use self::findings::{BILL_STALE, LITTLE_SPACE};
pub(crate) use self::observer::free_beside;
pub use self::observer::{Observer, Snapshot};

/// One reading.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    pub at: Timestamp,
    #[serde(skip)]
    pub took: SignedDuration,
    /// Where the books are; never with a token.
    pub database: String,
    /// Free bytes where a local database lies.
    pub free_bytes: Option<u64>,
    /// Where money goes: `off` when no meter is billed, else `dry_run`, `test`, `live`; `demo` for
    /// books of `meter demo` and no key.
    pub billing: &'static str,
    /// Whether notifications to the web backend have somewhere to go.
    pub notifications_go_out: bool,
    pub books: BooksStanding,
    /// What must look at every customer.
    pub customers: CustomersStanding,
    pub customers_at: Timestamp,
    pub queue: QueueStanding,
    /// The audit of the books.
    pub audit: Audit,
    /// What needs a person, the worst first.
    pub findings: Vec<Finding>,
}

impl Standing {
    /// Where money goes, in words.
    pub fn billing_words(&self) -> &'static str {
        match self.billing {
            "off" => "nothing is billed",
            "dry_run" => "dry run",
            "demo" => "the demo's account, which is gone",
            "live" => "live account",
            _ => "test account",
        }
    }
}

/// The queue.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStanding {
    /// Kinds of jobs, by name.
    pub kinds: BTreeMap<String, KindStanding>,
    /// Worker processes: `working`, `stopping`, `silent`.
    pub workers: BTreeMap<&'static str, i64>,
    /// Since when the working one works that began first.
    pub working_since: Option<Timestamp>,
    /// Kinds that the schedule enqueues; without a success of theirs for long something is wrong.
    pub scheduled: BTreeSet<String>,
    /// The newest tick of each schedule.
    pub ticks: BTreeMap<String, Timestamp>,
}

/// The jobs of a kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KindStanding {
    pub states: BTreeMap<&'static str, i64>,
    /// Since when the job is due that waits longest and that nothing but a free worker holds back.
    pub waiting_since: Option<Timestamp>,
    /// When one was last done.
    pub last_done: Option<Timestamp>,
    pub last_done_job: Option<i64>,
    /// Whether that one called for a person, or, of kinds that look at a thing only once, one of
    /// the last day.
    pub attention: bool,
}

/// The last audit of the books, by `verify_books`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Audit {
    pub at: Option<Timestamp>,
    /// How often each rule was broken.
    pub violations: BTreeMap<String, i64>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something is wrong with the books or nothing moves.
    Wrong,
    /// A person should decide or mend something.
    Look,
}

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// The section of the runbook, which has the alert's name: `MeterBillStale`.
    pub alert: &'static str,
    pub what: String,
    pub act: String,
}
