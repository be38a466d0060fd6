//! What became of a customer's billing period on its invoice: events, and the plan that a target
//! was computed by. For people.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::stripe::meter_event::{EventInvoice, MeterEvent, events_of_period};
use crate::units::calendar::{Day, instant};

/// A billing period that has begun.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BegunPeriod {
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    /// Null for a calendar month.
    pub subscription: Option<String>,
    /// First day of usage that belongs to it. It has no days when the first is after the last.
    pub first_day: Day,
    pub last_day: Day,
}

/// An event for usage of a period, and the invoice that it is on.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ChargedEvent {
    #[serde(flatten)]
    pub event: MeterEvent,
    /// Null for an event on no invoice.
    pub invoice: Option<EventInvoice>,
}

/// What was sent, or will be, for the usage of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChargedPeriod {
    /// The oldest first.
    pub events: Vec<ChargedEvent>,
    /// The plan of each meter's billing target.
    pub plans: BTreeMap<String, String>,
}

const PERIODS: &str = "SELECT starts_at, ends_at, subscription, first_day, last_day FROM billing_periods \
    WHERE customer = ?1 AND starts_at <= ?2 ORDER BY starts_at DESC";

/// ?1 a customer, ?2 and ?3 the bounds of the period.
const INVOICES: &str = "SELECT v.seq, p.subscription, v.starts_at, v.ends_at FROM meter_events e \
    JOIN event_invoices v ON v.seq = e.seq JOIN billing_periods p ON p.customer = e.customer AND p.starts_at = v.starts_at \
    WHERE e.customer = ?1 AND e.period_start >= ?2 AND e.period_start < ?3 AND e.state <> 'not_received'";

const PLANS: &str = "SELECT meter, plan FROM billing_targets WHERE customer = ?1 AND period_start = ?2";

impl Database {
    /// The billing periods of a customer that have begun, the newest first.
    pub async fn begun_periods(&self, customer: &str, now: Timestamp) -> Result<Vec<BegunPeriod>, BooksError> {
        let values = params![customer, now.as_second()];
        self.with_connection(async move |c| {
            let (mut rows, mut found) = (c.query(PERIODS, values).await?, vec![]);
            let day = |text: String| -> Result<Day, BooksError> {
                text.parse().map_err(|_| BooksError::Integrity(format!("billing_periods: `{text}` is no day")))
            };
            while let Some(row) = rows.next().await? {
                found.push(BegunPeriod {
                    starts_at: instant(row.get(0)?),
                    ends_at: instant(row.get(1)?),
                    subscription: row.get(2)?,
                    first_day: day(row.get(3)?)?,
                    last_day: day(row.get(4)?)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Events and plans of a billing period.
    pub async fn charged_period(&self, customer: &str, period: &BegunPeriod) -> Result<ChargedPeriod, BooksError> {
        let (customer, start, end) = (customer.to_owned(), period.starts_at.as_second(), period.ends_at.as_second());
        self.with_connection(async move |c| {
            let mut invoices = BTreeMap::new();
            let mut rows = c.query(INVOICES, params![customer.clone(), start, end]).await?;
            while let Some(row) = rows.next().await? {
                let (starts_at, ends_at) = (instant(row.get(2)?), instant(row.get(3)?));
                invoices.insert(row.get::<i64>(0)?, EventInvoice { subscription: row.get(1)?, starts_at, ends_at });
            }
            let mut plans = BTreeMap::new();
            let mut rows = c.query(PLANS, params![customer.clone(), start]).await?;
            while let Some(row) = rows.next().await? {
                plans.insert(row.get(0)?, row.get(1)?);
            }
            let events = events_of_period(c, &customer, start..end).await?.into_iter();
            let charged = events.map(|event| ChargedEvent { invoice: invoices.remove(&event.seq), event });
            Ok(ChargedPeriod { events: charged.collect(), plans })
        })
        .await
    }
}
