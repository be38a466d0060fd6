//! Billing targets: the quantities that Stripe should bill, from which events are planned.

use libsql::{Connection, Value, params};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows};

/// A row of `billing_targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTarget {
    pub plan: String,
    pub period_end: i64,
    pub target: i64,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
}

/// A row of `billing_targets` to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTarget {
    pub customer: String,
    pub meter: String,
    pub period_start: i64,
    pub period_end: i64,
    pub plan: String,
    pub target: i64,
    pub deferred: i64,
    pub deferred_reason: Option<&'static str>,
}

const STORED: &str = "ON CONFLICT (customer, meter, period_start) DO UPDATE SET period_end = excluded.period_end, plan = excluded.plan, \
    target = excluded.target, deferred = excluded.deferred, deferred_reason = excluded.deferred_reason, \
    deferred_since = iif(billing_targets.deferred_reason IS excluded.deferred_reason, billing_targets.deferred_since, excluded.deferred_since), \
    final_at = iif(billing_targets.period_end = excluded.period_end, billing_targets.final_at, NULL)";

impl Database {
    /// Counts the amounts above 0 that have been deferred since an instant from `from` to before
    /// `to`. Acknowledged amounts do not count.
    pub async fn deferred_since(&self, from: i64, to: i64) -> Result<u64, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT count(*) FROM deferred_amounts WHERE amount > 0 AND NOT acknowledged AND since >= ?1 AND since < ?2";
            Ok(first_row(c, sql, params![from, to]).await?.map_or(Ok(0), |row| row.get(0))?)
        })
        .await
    }
}

pub async fn store_targets(c: &Connection, totals: &[NewTarget], now: i64) -> Result<(), BooksError> {
    let head = "INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, deferred, deferred_reason, deferred_since)";
    let values = |t: &NewTarget| {
        let since = (t.deferred != 0).then_some(now);
        [
            Value::Text(t.customer.clone()),
            Value::Text(t.meter.clone()),
            Value::Integer(t.period_start),
            Value::Integer(t.period_end),
            Value::Text(t.plan.clone()),
            Value::Integer(t.target),
            Value::Integer(t.deferred),
            t.deferred_reason.map_or(Value::Null, |why| Value::Text(why.to_owned())),
            since.map_or(Value::Null, Value::Integer),
        ]
    };
    insert_rows(c, head, STORED, totals, values).await
}
