//! AWS's bill, the ledger and Stripe side by side, for people (the view `stripe_comparison`).

use jiff::Timestamp;
use libsql::{Row, params};
use serde::{Deserialize, Serialize};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, json, sum_of};
use crate::stripe::alarm;
use crate::stripe::difference::Difference;
use crate::units::calendar::{Month, instant};
use crate::units::quantity::Quantity;

/// One meter in one billing period of a customer.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedPeriod {
    pub customer: String,
    pub meter: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// Whether the period belongs to a subscription.
    pub billed: bool,
    /// Usage on the period's days in the newest bills, from `usage_days`.
    #[serde(skip)]
    pub bill: Quantity,
    /// The same usage, summed from the entries of the ledger.
    #[serde(skip)]
    pub ledger: Quantity,
    /// The billing target, in Stripe's units: on this period's invoice, or carried forward to a
    /// later one.
    pub target: i64,
    /// Sums of the events for the period's usage, on any invoice.
    #[serde(flatten)]
    pub events: EventSums,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
    /// Stripe's total of this period's invoice when it was last read.
    pub seen: Option<i64>,
    /// What that total should have been.
    pub expected: Option<i64>,
    pub read_at: Option<Timestamp>,
    pub alarm: Option<Difference>,
    /// The shortfall that a person has acknowledged (below 0: a surplus), in Stripe's units.
    pub acknowledged: i64,
    /// Whether a person has acknowledged the deferred amount.
    pub deferred_acknowledged: bool,
}

/// Sums of the values of events, in Stripe's units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSums {
    pub accepted: i64,
    /// Pending, being sent or unconfirmed.
    pub open: i64,
    pub refused: i64,
    /// Discarded by a person.
    pub discarded: i64,
}

/// A meter in a month: the sum of all payers' newest bills, and the sum of the ledger. Both
/// include usage without a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedBill {
    pub month: String,
    pub meter: String,
    pub bill: Quantity,
    pub ledger: Quantity,
}

/// Which periods are compared.
#[derive(Clone, Debug)]
pub struct ComparisonFilter {
    pub customer: Option<String>,
    pub meters: Vec<String>,
    /// The periods begin in this range, in seconds since 1970.
    pub starts: std::ops::Range<i64>,
    pub limit: u32,
}

/// ?1 the first month, ?2 the month after the last.
const BILLS: &str = concat!(
    "SELECT v.month, t.meter, t.booked, (SELECT ",
    exact_sum!("quantity"),
    " FROM ledger_entries WHERE payer = v.payer AND month = v.month AND meter = t.meter) \
    FROM bill_versions v JOIN bill_totals t ON t.version_id = v.id \
    WHERE v.state = 'applied' AND v.month >= ?1 AND v.month < ?2 AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id) \
    ORDER BY v.month, t.meter"
);

/// ?1 a customer or null; periods begin from ?2 to before ?3; ?4 the most rows; ?5 meters.
const PERIODS: &str = "SELECT customer, meter, period_start, period_end, billed, bill, ledger, target, events, \
      deferred, deferred_reason, deferred_acknowledged, seen, expected, read_at, \
      alarm_kind, alarm_shortfall, alarm_total, alarm_until, alarm_stripe_customer, alarm_answer, acknowledged \
    FROM stripe_comparison \
    WHERE (?1 IS NULL OR customer = ?1) AND period_start >= ?2 AND period_start < ?3 AND meter IN (SELECT value FROM json_each(?5)) \
    ORDER BY customer, period_start, meter LIMIT ?4";

impl Database {
    /// The newest bills from month `from` to before month `to`, and the sums of the ledger for
    /// them.
    pub async fn bills_and_ledger(&self, from: Month, to: Month) -> Result<Vec<ComparedBill>, BooksError> {
        self.with_connection(async move |c| {
            let mut rows = c.query(BILLS, params![from.to_string(), to.to_string()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let booked: String = row.get(2)?;
                found.push(ComparedBill {
                    month: row.get(0)?,
                    meter: row.get(1)?,
                    bill: booked.parse().map_err(|e| BooksError::Integrity(format!("bill_totals: {e}")))?,
                    ledger: usage(&row, 3)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Bill, ledger and Stripe side by side, for the periods that the filter selects.
    pub async fn compare(&self, filter: ComparisonFilter) -> Result<Vec<ComparedPeriod>, BooksError> {
        self.with_connection(async move |c| {
            let ComparisonFilter { customer, meters, starts, limit } = filter;
            let values = params![customer, starts.start, starts.end, limit, json(&meters)?];
            let mut rows = c.query(PERIODS, values).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(ComparedPeriod {
                    customer: row.get(0)?,
                    meter: row.get(1)?,
                    period_start: instant(row.get(2)?),
                    period_end: instant(row.get(3)?),
                    billed: row.get::<i64>(4)? == 1,
                    bill: usage(&row, 5)?,
                    ledger: usage(&row, 6)?,
                    target: row.get(7)?,
                    events: events(&row.get::<String>(8)?)?,
                    deferred: row.get(9)?,
                    deferred_reason: row.get(10)?,
                    deferred_acknowledged: row.get::<i64>(11)? == 1,
                    seen: row.get(12)?,
                    expected: row.get(13)?,
                    read_at: row.get::<Option<i64>>(14)?.map(instant),
                    alarm: alarm::read(&row, 15)?,
                    acknowledged: row.get(21)?,
                });
            }
            Ok(found)
        })
        .await
    }
}

/// Reads the sum in column `at`; none for no rows.
fn usage(row: &Row, at: i32) -> Result<Quantity, BooksError> {
    row.get::<Option<String>>(at)?.map_or(Ok(Quantity::ZERO), |sum| sum_of(&sum))
}

fn events(text: &str) -> Result<EventSums, BooksError> {
    serde_json::from_str(text).map_err(|e| BooksError::Integrity(format!("stripe_comparison: `{text}`: {e}")))
}
