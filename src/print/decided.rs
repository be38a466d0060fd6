//! When `enforce_budgets` last decided, when it decides next, and what it will decide otherwise
//! because something changed in between.

use books::Database;
use books::limits::enforcement::{LastRun, freshness_at};
use books::limits::entitlement::{Entitlement, Freshness};
use jiff::Timestamp;
use jobs::enforce_budgets::{self, EntitlementChange};
use jobs::job::Job;

use super::out;
use crate::config::Config;
use crate::format::{ago, count, span};
use crate::queue::{Clock, Queue, WorkerRow};
use crate::wiring;
use crate::worker::schedule;

/// Decisions to come that are listed.
const LISTED: usize = 20;

pub(crate) struct Runs {
    pub(crate) last: Option<LastRun>,
    /// The next one of the schedule.
    next: Option<Timestamp>,
    /// Whether a worker runs, which keeps the schedule.
    has_worker: bool,
    pub(crate) now: Timestamp,
}

impl Runs {
    pub(crate) async fn read(books: &Database, config: &Config, now: Timestamp) -> anyhow::Result<Self> {
        let table = schedule::table(config);
        let own = table.iter().find(|s| s.name == enforce_budgets::EnforceBudgets::KIND);
        let silent_after = wiring::silent_after(config);
        let is_alive = |of: &WorkerRow| of.runs_at(now, silent_after);
        let has_worker = Queue::new(books.clone(), Clock::system()).workers().await?.iter().any(is_alive);
        Ok(Self { last: books.last_enforcement().await?, next: own.and_then(|s| s.next(now)), has_worker, now })
    }

    fn is_late(&self) -> bool {
        self.last.as_ref().is_none_or(|last| last.is_late(self.now))
    }

    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.next
    }

    /// When decisions are made next: `the next run of enforce_budgets, due …`.
    pub(crate) fn next(&self) -> String {
        let by_hand = "`meter run enforce-budgets`";
        match (self.next, &self.last) {
            (Some(next), Some(_)) if !self.is_late() => {
                let due = span(next.duration_since(self.now));
                let none = if self.has_worker {
                    String::new()
                } else {
                    format!("; no worker runs now: `meter work`, or {by_hand}")
                };
                format!("the next run of enforce_budgets, due {next} (in {due}){none}")
            }
            (None, _) => format!("the next {by_hand}; the schedule has none"),
            (_, None) => format!("the first run of enforce_budgets: {by_hand}, or a worker (`meter work`)"),
            (_, Some(last)) => format!(
                "the next run of enforce_budgets. The last was {}: start a worker (`meter work`), or {by_hand}",
                ago(last.enforced_at, self.now)
            ),
        }
    }

    /// When every customer was last looked at.
    pub(crate) fn last(&self) -> String {
        match &self.last {
            None => "enforce_budgets has not run yet".to_owned(),
            Some(last) => format!("enforce_budgets last ran {}", ago(last.enforced_at, self.now)),
        }
    }

    pub(crate) fn freshness(&self, e: &Entitlement) -> Freshness {
        freshness_at(e, self.last.as_ref(), self.now)
    }
}

/// The decisions, of one customer or of all, that the next run will change.
pub(crate) async fn to_come(
    books: &Database,
    config: &Config,
    customer: Option<String>,
    now: Timestamp,
) -> anyhow::Result<Vec<EntitlementChange>> {
    let context = wiring::context_without_sources(config, books.clone())?;
    Ok(enforce_budgets::preview(&context, customer, now).await?.changes)
}

/// Prints which answers the next run will change; without a change, when decisions were made.
pub(crate) fn show_to_come(changes: &[EntitlementChange], runs: &Runs) {
    let is_other = |c: &&EntitlementChange| {
        c.was.as_ref().is_none_or(|was| (was.allowed, was.reason) != (c.is.allowed, c.is.reason))
    };
    let others: Vec<&EntitlementChange> = changes.iter().filter(is_other).collect();
    let last = runs.last();
    if changes.is_empty() {
        return out(&format!("{last}; nothing has changed since that it will decide otherwise"));
    }
    if others.is_empty() {
        out(&format!("{last}. Amounts have changed since, and the answers stay."));
        return out(&format!("That counts from {}.", runs.next()));
    }
    out(&format!("{last}. Something has changed since: {} answer(s) will be others.", count(others.len())));
    out(&format!("That counts from {}.", runs.next()));
    let answer = |e: &Entitlement| if e.allowed { "allowed" } else { "BLOCKED" };
    let row = |c: &&EntitlementChange| {
        let was = c.was.as_ref().map_or("not decided", answer);
        let decision = format!("{was} -> {}", answer(&c.is));
        vec![format!("  {}", c.is.customer), c.is.meter.clone(), decision, c.is.reason.name().to_owned()]
    };
    super::table(&["  customer", "meter", "will be", "~reason"], others.iter().take(LISTED).map(row).collect());
    if others.len() > LISTED {
        out(&format!("  and {} more: `meter run enforce-budgets --dry-run`", count(others.len() - LISTED)));
    }
}
