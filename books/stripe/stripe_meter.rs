//! Meters, as they were found in Stripe.

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;

/// A meter, and the meter in Stripe that it is mapped to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StripeMeter {
    pub meter: String,
    pub event_name: String,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    pub stripe_id: String,
}

/// Whether a row of `stripe_meters` has an event.
const HAS_EVENTS: &str = "EXISTS (SELECT 1 FROM meter_events WHERE meter_events.meter = stripe_meters.meter)";

/// Meters as they were last found in Stripe.
pub(crate) async fn stripe_meters(c: &Connection) -> Result<Vec<StripeMeter>, BooksError> {
    read(c, "true").await
}

async fn read(c: &Connection, which: &str) -> Result<Vec<StripeMeter>, BooksError> {
    let sql = format!("SELECT meter, event_name, per_unit, stripe_id FROM stripe_meters WHERE {which} ORDER BY meter");
    let mut rows = c.query(&sql, ()).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let per_unit: String = row.get(2)?;
        let wrong = |e| BooksError::Integrity(format!("stripe_meters: `{per_unit}`: {e}"));
        let per_unit = per_unit.parse().map_err(wrong)?;
        found.push(StripeMeter { meter: row.get(0)?, event_name: row.get(1)?, per_unit, stripe_id: row.get(3)? });
    }
    Ok(found)
}

impl Database {
    /// Meters as they were last found in Stripe.
    pub async fn stripe_meters(&self) -> Result<Vec<StripeMeter>, BooksError> {
        self.with_connection(async |c| stripe_meters(c).await).await
    }

    /// Those with an event, whatever became of it: their event name, unit and account are fixed,
    /// because a sum of two units means nothing. It may read all events.
    pub async fn fixed_stripe_meters(&self) -> Result<Vec<StripeMeter>, BooksError> {
        self.with_connection(async |c| read(c, HAS_EVENTS).await).await
    }

    /// Stores meters as they were found in Stripe. Event name and unit of a meter with an event
    /// keep their values; only the id may change.
    pub async fn keep_stripe_meters(&self, meters: Vec<StripeMeter>, now: Timestamp) -> Result<(), BooksError> {
        self.transaction(async move |c| {
            // amounts that were deferred because the meter was missing are planned again
            let sql = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT id, 0, '9999' FROM customers WHERE ?1 \
                       ON CONFLICT (customer) DO UPDATE SET due_at = 0";
            c.execute(sql, params![i64::from(!meters.is_empty())]).await?;
            for m in meters {
                // another meter may have had the event name, as long as nothing was planned for it
                let sql = format!("DELETE FROM stripe_meters WHERE (meter = ?1 OR event_name = ?2) AND NOT {HAS_EVENTS}");
                c.execute(&sql, params![m.meter.clone(), m.event_name.clone()]).await?;
                let sql = "INSERT INTO stripe_meters (meter, event_name, per_unit, stripe_id, seen_at) VALUES (?1, ?2, ?3, ?4, ?5) \
                           ON CONFLICT (meter) DO UPDATE SET stripe_id = excluded.stripe_id, seen_at = excluded.seen_at";
                let per_unit = m.per_unit.normalize().to_string();
                c.execute(sql, params![m.meter, m.event_name, per_unit, m.stripe_id, now.as_second()]).await?;
            }
            Ok(())
        })
        .await
    }
}
