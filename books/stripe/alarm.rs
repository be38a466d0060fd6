//! Alarms: differences that need a person, stored in the `alarm_*` columns of `billing_targets`.

use crate::store::connection::{Connection, Row, Write, params};
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::stripe::difference::{Difference, Unexplained};

/// The most alarms that [`Database::alarms`] returns.
const LISTED: u32 = 100;

/// The columns of the view `target_totals` that [`read`] expects, in this order.
const COLUMNS: &str =
    "alarm_kind, alarm_shortfall, alarm_total, alarm_until, alarm_stripe_customer, alarm_answer, acknowledged";

/// A billing target with an alarm.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct TargetAlarm {
    pub customer: String,
    pub meter: String,
    #[serde(rename = "alarm")]
    pub difference: Difference,
}

/// The key of a billing target.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetKey<'a> {
    pub(super) customer: &'a str,
    pub(super) meter: &'a str,
    pub(super) period_start: i64,
}

/// Stores a difference as the alarm of a billing target. A difference that is no alarm clears the
/// stored alarm, and so does a `NoTotal` that [`ACKNOWLEDGED`] has a row for.
pub(super) fn set(of: TargetKey<'_>, difference: &Difference, is_acknowledged: bool) -> Write {
    let (kind, unexplained, no_total) = match difference {
        Difference::StripeHasLess(found) => (Some("stripe_has_less"), Some(found), None),
        Difference::StripeHasMore(found) => (Some("stripe_has_more"), Some(found), None),
        Difference::NoTotal { stripe_customer, answer } if !is_acknowledged => {
            (Some("no_total"), None, Some((stripe_customer.as_str(), answer.as_str())))
        }
        _ => (None, None, None),
    };
    let sql = "UPDATE billing_targets SET \
               (alarm_kind, alarm_shortfall, alarm_total, alarm_until, alarm_stripe_customer, alarm_answer) = (?4, ?5, ?6, ?7, ?8, ?9) \
               WHERE customer = ?1 AND meter = ?2 AND period_start = ?3";
    let values = vec![
        of.customer.into(),
        of.meter.into(),
        of.period_start.into(),
        kind.into(),
        unexplained.map(|found| found.shortfall).into(),
        unexplained.map(|found| found.total).into(),
        unexplained.map(|found| found.until).into(),
        no_total.map(|(stripe_customer, _)| stripe_customer).into(),
        no_total.map(|(_, answer)| answer).into(),
    ];
    (sql, values)
}

/// A row when a person has acknowledged, since a total of target ?1 ?2 ?3 was last read, that
/// Stripe customer ?4 has none.
pub(super) const ACKNOWLEDGED: &str = "SELECT 1 FROM acknowledgements a JOIN billing_targets t USING (customer, meter, period_start) \
    WHERE customer = ?1 AND meter = ?2 AND period_start = ?3 AND a.kind = 'no_total' AND a.stripe_customer = ?4 \
      AND a.at > coalesce(t.total_at, 0)";

/// Reads the alarm from [`COLUMNS`], which begin at column `at`; none if the target has no alarm.
pub(super) fn read(row: &Row, at: i32) -> Result<Option<Difference>, BooksError> {
    let Some(kind) = row.get::<Option<String>>(at)? else { return Ok(None) };
    if kind == "no_total" {
        return Ok(Some(Difference::NoTotal { stripe_customer: row.get(at + 4)?, answer: row.get(at + 5)? }));
    }
    Ok(Some(Difference::unexplained(Unexplained {
        shortfall: row.get(at + 1)?,
        total: row.get(at + 2)?,
        until: row.get(at + 3)?,
        beside_acknowledged: row.get::<i64>(at + 6)? != 0,
    })))
}

/// Billing targets with an alarm, at most `limit`, ordered by customer and meter.
pub async fn alarms(c: &Connection, limit: u32) -> Result<Vec<TargetAlarm>, BooksError> {
    let sql = format!(
        "SELECT customer, meter, {COLUMNS} FROM target_totals WHERE alarm_kind IS NOT NULL \
         ORDER BY customer, meter LIMIT ?1"
    );
    let mut rows = c.query(&sql, params![limit]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let Some(difference) = read(&row, 2)? else { continue };
        found.push(TargetAlarm { customer: row.get(0)?, meter: row.get(1)?, difference });
    }
    Ok(found)
}

/// The number of billing targets with an alarm.
pub async fn count(c: &Connection) -> Result<i64, BooksError> {
    let sql = "SELECT count(*) FROM billing_targets WHERE alarm_kind IS NOT NULL";
    first_row(c, sql, ()).await?.map_or(Ok(0), |row| row.get(0))
}

impl Database {
    /// Billing targets with an alarm, at most 100.
    pub async fn alarms(&self) -> Result<Vec<TargetAlarm>, BooksError> {
        self.with_connection(async |c| alarms(c, LISTED).await).await
    }
}
