//! What was made for Stripe of some usage since an instant.

use jiff::Timestamp;
use serde::Serialize;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json_parts;
use crate::units::calendar::{Day, instant};

/// Days of a customer's usage of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsedDays {
    pub customer: String,
    pub meter: String,
    pub first: Day,
    pub last: Day,
}

/// What was made for Stripe of the usage of a billing period since an instant. Amounts are in
/// Stripe's units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PushedSince {
    pub customer: String,
    pub meter: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// Stripe has it.
    pub accepted: i64,
    /// It waits to be sent, or Stripe may or may not have it.
    pub open: i64,
}

/// ?1 [`UsedDays`]; ?2 since when, in seconds.
const PUSHED: &str = "SELECT e.customer, e.meter, p.starts_at, p.ends_at, \
      coalesce(sum(e.value) FILTER (WHERE e.state = 'accepted'), 0), \
      coalesce(sum(e.value) FILTER (WHERE e.state IN ('pending', 'sending', 'unconfirmed')), 0) \
    FROM json_each(?1) j \
    CROSS JOIN billing_periods p ON p.customer = j.value ->> 'customer' AND p.last_day >= j.value ->> 'first' \
      AND p.first_day <= j.value ->> 'last' \
    CROSS JOIN meter_events e INDEXED BY meter_events_by_time ON e.customer = p.customer AND e.meter = j.value ->> 'meter' \
      AND e.timestamp >= p.starts_at AND e.period_start >= p.starts_at AND e.period_start < p.ends_at AND e.created_at >= ?2 \
    WHERE e.state IN ('accepted', 'pending', 'sending', 'unconfirmed') GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3";

impl Database {
    /// What was made for Stripe, since an instant, of the billing periods with these days.
    pub async fn pushed_since(&self, days: Vec<UsedDays>, since: Timestamp) -> Result<Vec<PushedSince>, BooksError> {
        let mut found = vec![];
        for part in json_parts(days)? {
            let some = self.with_connection(async move |c| {
                let mut rows = c.query(PUSHED, params![part, since.as_second()]).await?;
                let mut some = vec![];
                while let Some(row) = rows.next().await? {
                    some.push(PushedSince {
                        customer: row.get(0)?,
                        meter: row.get(1)?,
                        period_start: instant(row.get(2)?),
                        period_end: instant(row.get(3)?),
                        accepted: row.get(4)?,
                        open: row.get(5)?,
                    });
                }
                Ok(some)
            });
            found.extend(some.await?);
        }
        Ok(found)
    }
}
