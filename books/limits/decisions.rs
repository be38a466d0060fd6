//! What a transaction of decisions writes: entitlements, history, TURN limits, notifications.

use serde::Serialize;

use crate::limits::due::{NEXT, NextDecision};
use crate::limits::entitlement::{self, COLUMNS, Entitlement};
use crate::limits::notification::{NewNotification, RECORD, UNLESS_KNOWN};
use crate::store::connection::{Connection, Value};
use crate::store::error::BooksError;
use crate::store::rows::{inserts, json_parts};

/// What one transaction writes.
#[derive(Debug, Default)]
pub struct NewDecisions<'a> {
    /// Entitlements that differ from the stored ones.
    pub entitlements: Vec<&'a Entitlement>,
    /// Those of them that go into the history too.
    pub changed: Vec<&'a Entitlement>,
    pub obsolete: Vec<ObsoleteEntitlement<'a>>,
    pub turn_limits: Vec<TurnLimit<'a>>,
    /// Those that were stored before are not stored again.
    pub notifications: Vec<NewNotification>,
    pub next: Vec<NextDecision>,
}

/// How many notifications were stored that had not been stored before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredNotifications {
    /// To be sent.
    pub to_send: u64,
    /// Known, and not sent.
    pub not_sent: u64,
}

/// A decision about a meter that neither the configuration nor the customer's plan has any more.
/// Its history stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ObsoleteEntitlement<'a> {
    pub customer: &'a str,
    pub meter: &'a str,
}

/// Where the backend must stop to hand out TURN credentials in an open TURN period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TurnLimit<'a> {
    pub customer: &'a str,
    /// First instant of the TURN period.
    pub starts_at: i64,
    /// None = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: &'static str,
    /// The count at which the customer is decided anew.
    pub decided_until: Option<i64>,
}

const REPLACED: &str = "ON CONFLICT (customer, meter) DO UPDATE SET \
    period_start = excluded.period_start, period_end = excluded.period_end, allowed = excluded.allowed, \
    reason = excluded.reason, used = excluded.used, included = excluded.included, \
    effective_limit = excluded.effective_limit, overage_cost_minor = excluded.overage_cost_minor, \
    meter_cost_minor = excluded.meter_cost_minor, budget_minor = excluded.budget_minor, \
    meter_budget_minor = excluded.meter_budget_minor, currency = excluded.currency, as_of = excluded.as_of, \
    freshness = excluded.freshness, decided_at = excluded.decided_at, used_measured = excluded.used_measured, \
    blocked_at = excluded.blocked_at";
const REMOVE: &str = "DELETE FROM entitlements WHERE (customer, meter) IN \
    (SELECT value ->> 'customer', value ->> 'meter' FROM json_each(?1))";
const LIMIT: &str = "UPDATE turn_periods SET allowed_until = j.value ->> 'allowed_until', reason = j.value ->> 'reason', \
    decided_until = j.value ->> 'decided_until' FROM json_each(?1) j WHERE customer = j.value ->> 'customer' \
    AND starts_at = j.value ->> 'starts_at' AND closed_at IS NULL";

impl NewDecisions<'_> {
    /// Stores everything with one request.
    pub async fn store(&self, c: &Connection, now: i64) -> Result<StoredNotifications, BooksError> {
        let head = format!("INSERT INTO entitlements ({COLUMNS})");
        let rows = self.entitlements.iter().map(|e| entitlement::row(e)).collect();
        let mut statements = inserts(&head, REPLACED, rows);
        // the rows are there already
        let keep = format!(
            "INSERT INTO entitlement_changes ({COLUMNS}) SELECT {COLUMNS} FROM json_each(?1) j CROSS JOIN entitlements \
             ON customer = j.value ->> 0 AND meter = j.value ->> 1"
        );
        let keys = json_parts(self.changed.iter().map(|e| (&e.customer, &e.meter)))?;
        let obsolete = json_parts(&self.obsolete)?;
        let limits = json_parts(&self.turn_limits)?;
        let next = json_parts(&self.next)?;
        for (sql, parts) in [(keep.as_str(), keys), (REMOVE, obsolete), (LIMIT, limits), (NEXT, next)] {
            statements.extend(parts.into_iter().map(|part| (sql.to_owned(), vec![Value::Text(part)])));
        }
        let before = statements.len();
        let (to_send, not_sent): (Vec<_>, Vec<_>) = self.notifications.iter().partition(|n| n.not_sent.is_none());
        for (some, count) in [(to_send, "SELECT changes(), 0"), (not_sent, "SELECT 0, changes()")] {
            let rows = some.into_iter().map(|n| n.row(now)).collect::<Result<_, _>>()?;
            for record in inserts(RECORD, UNLESS_KNOWN, rows) {
                statements.extend([record, (count.to_owned(), vec![])]);
            }
        }
        let (sql, values): (Vec<String>, Vec<_>) = statements.into_iter().unzip();
        let statements = sql.iter().map(String::as_str).zip(values).collect();
        let mut stored = StoredNotifications::default();
        for mut counts in c.batch(statements).await?.into_iter().skip(before) {
            while let Some(row) = counts.next().await? {
                stored.to_send += row.get::<u64>(0)?;
                stored.not_sent += row.get::<u64>(1)?;
            }
        }
        Ok(stored)
    }
}
