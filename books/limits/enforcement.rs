//! The newest run of `enforce_budgets`: when it was, by which bill and configuration, and what
//! its decisions are worth when somebody asks for them later.
//!
//! The web backend's statement (`docs/backend-contract.md`) computes the same from the same row.

use std::collections::BTreeSet;

use crate::measured::metered_day::MeteredDay;
use crate::store::connection::{Connection, params};
use jiff::{SignedDuration, Timestamp};

use crate::limits::entitlement::{Entitlement, Freshness};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::units::calendar::{CLOCK_SKEW, Day, instant};

/// Nobody decides when the newest run is older than this; runs are due every five minutes.
pub const LATE: SignedDuration = SignedDuration::from_mins(30);

/// The newest run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// By the database's clock.
    pub enforced_at: Timestamp,
    /// Usage that ends longer ago than this is stale.
    pub stale_after: SignedDuration,
    /// What happens then: the name of the policy.
    pub on_stale: String,
    /// Whether a webhook was configured.
    pub notifies: bool,
    /// Shares in percent, in order.
    pub thresholds: Vec<u32>,
    /// Which restored backup it knew ([`restored`]).
    pub restored: Option<String>,
    /// Until when usage was booked.
    pub as_of: Option<Timestamp>,
    /// Days that no bill had settled.
    pub open_days: Vec<Day>,
    /// Settled days on which what is measured counts.
    pub undivided_days: BTreeSet<MeteredDay>,
    /// A digest of the plans and of the configuration.
    pub inputs: String,
    /// The newest run that looked at every customer.
    pub swept_at: Timestamp,
    /// Customers that it found changed, although nothing had made them due.
    pub missed: u64,
}

impl LastRun {
    /// True when nobody decides any more.
    pub fn is_late(&self, now: Timestamp) -> bool {
        now.duration_since(self.enforced_at) > LATE
    }
}

/// How old the data behind a stored decision is at `now`.
pub fn freshness_at(e: &Entitlement, last: Option<&LastRun>, now: Timestamp) -> Freshness {
    let Some(last) = last else { return e.freshness };
    let is_old = e.as_of.is_some_and(|at| now.duration_since(at) > last.stale_after);
    if is_old || last.is_late(now) {
        Freshness::Stale
    } else if e.reason.ends_with_period() && e.period_end <= now {
        Freshness::None
    } else {
        e.freshness
    }
}

/// A decision with the bill that the newest run knew: the same decision may rest on a newer one.
pub(super) fn with_newest_bill(e: Entitlement, last: Option<&LastRun>) -> Entitlement {
    let Some(last) = last.filter(|_| e.freshness != Freshness::Live) else { return e };
    let freshness = match last.as_of {
        None => Freshness::None,
        Some(at) if last.enforced_at.duration_since(at) > last.stale_after => Freshness::Stale,
        Some(_) => Freshness::Fresh,
    };
    Entitlement { as_of: last.as_of, freshness, ..e }
}

const COLUMNS: &str = "enforced_at, stale_after, on_stale, notifies, thresholds, restored, as_of, open_days, inputs, swept_at, missed, \
     undivided_days";

/// As [`Database::last_enforcement`].
pub async fn read(c: &Connection) -> Result<Option<LastRun>, BooksError> {
    let Some(row) = first_row(c, &format!("SELECT {COLUMNS} FROM enforcement"), ()).await? else { return Ok(None) };
    let (thresholds, open_days, undivided): (String, String, String) = (row.get(4)?, row.get(7)?, row.get(11)?);
    let wrong = |what: &str, of: &str, e| BooksError::Integrity(format!("enforcement.{what} {of}: {e}"));
    Ok(Some(LastRun {
        enforced_at: instant(row.get(0)?),
        stale_after: SignedDuration::from_secs(row.get(1)?),
        on_stale: row.get(2)?,
        notifies: row.get::<i64>(3)? == 1,
        thresholds: serde_json::from_str(&thresholds).map_err(|e| wrong("thresholds", &thresholds, e))?,
        restored: row.get(5)?,
        as_of: row.get::<Option<i64>>(6)?.map(instant),
        open_days: serde_json::from_str(&open_days).map_err(|e| wrong("open_days", &open_days, e))?,
        undivided_days: serde_json::from_str(&undivided).map_err(|e| wrong("undivided_days", &undivided, e))?,
        inputs: row.get(8)?,
        swept_at: instant(row.get(9)?),
        missed: row.get(10)?,
    }))
}

/// The part of [`restored`] that says when bills were read again.
pub const BILLS_READ: &str = "restored_bills";

/// Which backup these books were restored from, and when its bills were read again; none when they
/// are not restored. It changes when more of what the lost books knew may come to light.
pub async fn restored(c: &Connection) -> Result<Option<String>, BooksError> {
    let sql = "SELECT group_concat(name || ' ' || value, ', ') FROM (SELECT name, value FROM settings \
               WHERE name IN ('backup_at', 'restored_from', 'restored_at', 'restored_bills') ORDER BY name)";
    first_row(c, sql, ()).await?.map_or(Ok(None), |row| row.get(0))
}

impl Database {
    /// The newest run of `enforce_budgets`; none before the first.
    pub async fn last_enforcement(&self) -> Result<Option<LastRun>, BooksError> {
        self.with_connection(async |c| read(c).await).await
    }

    /// Stores what a run decided by, unless a newer run has done so. One statement; a run that has
    /// lost its lease needs no fence for it.
    pub async fn keep_enforcement(&self, run: LastRun) -> Result<(), BooksError> {
        let set: Vec<String> = COLUMNS.split(", ").map(|name| format!("{name} = excluded.{name}")).collect();
        // a time that is further ahead than clocks differ was made by a clock that was wrong
        let sql = format!(
            "INSERT INTO enforcement (id, {COLUMNS}) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
             ON CONFLICT (id) DO UPDATE SET {} WHERE enforced_at <= excluded.enforced_at OR enforced_at > excluded.enforced_at + {}",
            set.join(", "),
            CLOCK_SKEW.as_secs()
        );
        let values = params![
            run.enforced_at.as_second(),
            run.stale_after.as_secs(),
            run.on_stale,
            i64::from(run.notifies),
            json(&run.thresholds)?,
            run.restored,
            run.as_of.map(Timestamp::as_second),
            json(&run.open_days)?,
            run.inputs,
            run.swept_at.as_second(),
            run.missed,
            json(&run.undivided_days)?
        ];
        self.with_connection(async move |c| c.execute(&sql, values).await.map(drop)).await
    }
}
