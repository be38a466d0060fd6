//! Meters, as they were found in Stripe.

use crate::store::connection::{Connection, Value, Write};
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
macro_rules! has_events {
    () => {
        "EXISTS (SELECT 1 FROM meter_events WHERE meter_events.meter = stripe_meters.meter)"
    };
}

const FORGET: &str = concat!("DELETE FROM stripe_meters WHERE (meter = ?1 OR event_name = ?2) AND NOT ", has_events!());

const KEEP: &str = "INSERT INTO stripe_meters (meter, event_name, per_unit, stripe_id, seen_at) VALUES (?1, ?2, ?3, ?4, ?5) \
    ON CONFLICT (meter) DO UPDATE SET stripe_id = excluded.stripe_id, seen_at = excluded.seen_at";

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
        self.with_connection(async |c| read(c, has_events!()).await).await
    }

    /// Stores meters as they were found in Stripe. Event name and unit of a meter with an event
    /// keep their values; only the id may change.
    pub async fn keep_stripe_meters(&self, meters: Vec<StripeMeter>, now: Timestamp) -> Result<(), BooksError> {
        if meters.is_empty() {
            return Ok(());
        }
        let mut writes: Vec<Write> = vec![];
        for m in meters {
            // another meter may have had the event name, as long as nothing was planned for it
            writes.push((FORGET, vec![m.meter.clone().into(), m.event_name.clone().into()]));
            let per_unit = m.per_unit.normalize().to_string();
            let values = [m.meter, m.event_name, per_unit, m.stripe_id].map(Value::Text);
            writes.push((KEEP, values.into_iter().chain([now.as_second().into()]).collect()));
        }
        // amounts that were deferred because the meter was missing are planned again
        self.mark_all_due("9999", writes).await
    }
}
