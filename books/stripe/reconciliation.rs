//! Which of Stripe's totals are read next, and what a comparison changes in the books.

use crate::store::connection::{Row, Rows, Value, Write, params};
use jiff::Timestamp;

use super::invoice::RESEND;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::stripe::alarm::{self, TargetKey};
use crate::stripe::difference::{Difference, Shortfall};
use crate::stripe::meter_event::EventState;
use crate::units::calendar::minute;

/// A total to be read and compared. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalToCheck {
    pub customer: String,
    pub meter: String,
    /// First instant of the period.
    pub start: i64,
    pub end: i64,
    pub stripe_customer: String,
    pub stripe_meter: String,
    /// The events of the invoice, loaded before the total was requested.
    pub events: InvoiceEvents,
    pub shortfall: Option<Shortfall>,
    /// The shortfall (below 0: surplus) that people have acknowledged; 0 if there is none.
    pub acknowledged: i64,
}

impl TotalToCheck {
    /// Customer, meter, start and Stripe customer, as parameters.
    fn key(&self) -> [Value; 4] {
        let text = |text: &String| Value::Text(text.clone());
        [text(&self.customer), text(&self.meter), self.start.into(), text(&self.stripe_customer)]
    }

    /// What a comparison changes.
    fn writes(&self, read: &Comparison, is_acknowledged: bool, now: i64) -> Result<Vec<Write>, BooksError> {
        let change = |state: EventState, seqs: &[i64], error: Option<&str>| -> Result<Write, BooksError> {
            let sql = "UPDATE meter_events SET state = ?2, next_at = NULL, settled_at = ?3, error = ?4, \
                       taken_at = iif(?2 = 'accepted', first_attempt_at, taken_at) \
                       WHERE seq IN (SELECT value FROM json_each(?1))";
            Ok((sql, vec![json(seqs)?.into(), state.name().into(), now.into(), error.into()]))
        };
        let mut writes = vec![];
        match &read.difference {
            Difference::UnconfirmedArrived { seq } => writes.push(change(EventState::Accepted, &[*seq], None)?),
            Difference::EventsMissing { missing, arrived } => {
                writes.push(change(EventState::Accepted, arrived.as_slice(), None)?);
                let why = "Stripe's total has been without it for a day";
                writes.push(change(EventState::NotReceived, missing, Some(why))?);
            }
            _ => {}
        }
        let key = TargetKey { customer: &self.customer, meter: &self.meter, period_start: self.start };
        // a comparison that is too early leaves the stored alarm as it is
        if read.difference != Difference::TooEarly {
            writes.push(alarm::set(key, &read.difference, is_acknowledged));
        }
        let (shortfall, since) = read.shortfall.map(|s| (s.amount, s.since)).unzip();
        let sql = "UPDATE billing_targets SET seen = ?4, expected = ?5, read_at = ?6, shortfall = ?7, shortfall_since = ?8, \
                   total_at = iif(?9, total_at, ?6), final_at = iif(?10, ?6, NULL) WHERE customer = ?1 AND meter = ?2 AND period_start = ?3";
        let values = vec![
            self.customer.clone().into(),
            self.meter.clone().into(),
            self.start.into(),
            read.seen.into(),
            read.expected.into(),
            now.into(),
            shortfall.into(),
            since.into(),
            i64::from(matches!(read.difference, Difference::NoTotal { .. })).into(),
            i64::from(read.difference == Difference::Agrees && read.is_final).into(),
        ];
        writes.push((sql, values));
        Ok(writes)
    }
}

/// The events on the invoice of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvoiceEvents {
    /// Accepted events, the newest first.
    pub accepted: Vec<AcceptedEvent>,
    /// The unconfirmed event: there is at most one for each customer and meter.
    pub unconfirmed: Option<UnconfirmedEvent>,
    /// Whether an attempt is in progress.
    pub in_flight: bool,
    /// Sum of the events that were discarded while unconfirmed: Stripe may have them.
    pub discarded: i64,
    /// Whether an event is pending.
    pub pending: bool,
}

/// An accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    pub seq: i64,
    pub value: i64,
    pub timestamp: i64,
    pub at: i64,
    /// Imported from Stripe's total after a restore: the books before it sent the event at
    /// `timestamp` or earlier.
    pub imported: bool,
}

/// An event that Stripe may or may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnconfirmedEvent {
    pub seq: i64,
    pub value: i64,
    pub timestamp: i64,
    /// When it was last sent.
    pub last_attempt: i64,
    /// Until when it may be sent again.
    pub resend_until: i64,
}

/// The result of reading a total, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub seen: i64,
    pub expected: i64,
    pub shortfall: Option<Shortfall>,
    pub difference: Difference,
    /// The invoice is final, and all its events are settled.
    pub is_final: bool,
}

/// A query for the totals that are read for one reason.
struct ReadQueue {
    sql: &'static str,
    /// The query gets at most one in `share` of the reads that are left.
    share: u32,
}

/// The totals that can be read, by a condition. ?1 now, ?2 the most rows, ?3 a customer or
/// null.
macro_rules! totals_where {
    ($condition:literal) => {
        concat!(
            "SELECT customer, meter, period_start, period_end, stripe_customer, stripe_meter, shortfall, shortfall_since, acknowledged \
             FROM target_totals WHERE period_start <= ?1 AND stripe_customer IS NOT NULL AND stripe_meter IS NOT NULL \
               AND (?3 IS NULL OR customer = ?3) AND ",
            $condition,
            " LIMIT ?2"
        )
    };
}

/// The queries for totals to read, the most urgent first: with an unconfirmed event, with a
/// shortfall, and read longest ago.
const READ_QUEUES: [ReadQueue; 3] = [
    ReadQueue {
        sql: totals_where!(
            "(customer, meter, period_start) IN (SELECT d.customer, d.meter, (SELECT max(starts_at) FROM billing_periods \
             WHERE customer = d.customer AND starts_at <= d.timestamp) FROM meter_events d WHERE d.state = 'unconfirmed')"
        ),
        share: 1,
    },
    ReadQueue { sql: totals_where!("shortfall IS NOT NULL ORDER BY read_at"), share: 2 },
    ReadQueue { sql: totals_where!("final_at IS NULL AND was_sent ORDER BY read_at"), share: 1 },
];

/// All totals of customer ?3, final ones included.
const OF_CUSTOMER: ReadQueue =
    ReadQueue { sql: totals_where!("customer = ?3 AND was_sent ORDER BY period_start DESC"), share: 1 };

const EVENTS: &str = "SELECT seq, value, state, settled_at, last_attempt_at, first_attempt_at, send_before, maybe_applied, timestamp, imported FROM meter_events \
    WHERE customer = ?1 AND meter = ?2 AND timestamp >= ?3 AND timestamp < ?4 AND stripe_customer = ?5 ORDER BY seq DESC";

/// A row when the total is still asked for and judged in the same way.
const SAME: &str = "SELECT 1 FROM target_totals \
    WHERE customer = ?1 AND meter = ?2 AND period_start = ?3 AND stripe_customer = ?4 AND acknowledged = ?5";

/// The statement for the events with a timestamp in the period.
fn events_of(of: &TotalToCheck) -> Write {
    // Stripe gives totals between whole minutes
    let [customer, meter, start, stripe_customer] = of.key();
    (EVENTS, vec![customer, meter, start, minute(of.end).into(), stripe_customer])
}

async fn read_events(mut rows: Rows) -> Result<InvoiceEvents, BooksError> {
    let mut found = InvoiceEvents::default();
    while let Some(row) = rows.next().await? {
        let (seq, value): (i64, i64) = (row.get(0)?, row.get(1)?);
        let at = |i: i32| -> Result<i64, BooksError> { Ok(row.get::<Option<i64>>(i)?.unwrap_or_default()) };
        match EventState::named(&row.get::<String>(2)?) {
            Some(EventState::Accepted) => {
                let imported = at(9)? == 1;
                found.accepted.push(AcceptedEvent { seq, value, timestamp: at(8)?, at: at(3)?, imported });
            }
            Some(EventState::Unconfirmed) => {
                let resend_until = (at(5)? + RESEND).min(at(6)?);
                let (timestamp, last_attempt) = (at(8)?, at(4)?);
                found.unconfirmed = Some(UnconfirmedEvent { seq, value, timestamp, last_attempt, resend_until });
            }
            Some(EventState::Sending) => found.in_flight = true,
            Some(EventState::Pending) => found.pending = true,
            Some(EventState::Discarded) if at(7)? == 1 => found.discarded += value,
            _ => {}
        }
    }
    Ok(found)
}

/// Reads a shortfall from column `at` and the column after it.
fn shortfall(row: &Row, at: i32) -> Result<Option<Shortfall>, BooksError> {
    let columns = row.get::<Option<i64>>(at)?.zip(row.get::<Option<i64>>(at + 1)?);
    Ok(columns.map(|(amount, since)| Shortfall { amount, since }))
}

/// Totals with all their events in one answer of a server, which may have 10 MB.
pub const TOTALS_AT_ONCE: usize = 20;

impl Database {
    /// At most `limit` totals to read, the most urgent first. With a customer, the totals of that
    /// customer, final ones included.
    pub async fn totals_to_read(
        &self,
        customer: Option<String>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<TotalToCheck>, BooksError> {
        self.with_connection(async move |c| {
            let queues = if customer.is_some() { &[OF_CUSTOMER] } else { &READ_QUEUES[..] };
            let values = vec![now.as_second().into(), limit.into(), customer.into()];
            let rows = c.batch(queues.iter().map(|queue| (queue.sql, values.clone())).collect()).await?;
            let mut found: Vec<TotalToCheck> = vec![];
            for (queue, mut rows) in queues.iter().zip(rows) {
                let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
                for _ in 0..left.div_ceil(queue.share) {
                    let Some(row) = rows.next().await? else { break };
                    let one = TotalToCheck {
                        customer: row.get(0)?,
                        meter: row.get(1)?,
                        start: row.get(2)?,
                        end: row.get(3)?,
                        stripe_customer: row.get(4)?,
                        stripe_meter: row.get(5)?,
                        events: InvoiceEvents::default(),
                        shortfall: shortfall(&row, 6)?,
                        acknowledged: row.get(8)?,
                    };
                    let same =
                        |o: &TotalToCheck| (&o.customer, &o.meter, o.start) == (&one.customer, &one.meter, one.start);
                    if !found.iter().any(same) {
                        found.push(one);
                    }
                }
            }
            for some in found.chunks_mut(TOTALS_AT_ONCE) {
                let events = c.batch(some.iter().map(events_of).collect()).await?;
                for (one, events) in some.iter_mut().zip(events) {
                    one.events = read_events(events).await?;
                }
            }
            Ok(found)
        })
        .await
    }

    /// Stores comparisons, and changes the events as they say, in one transaction of three
    /// requests. Leaves out a total whose events, acknowledged amount or Stripe customer have
    /// changed since it was requested. Returns which ones were stored.
    pub async fn note_reads(
        &self,
        reads: Vec<(TotalToCheck, Comparison)>,
        now: Timestamp,
    ) -> Result<Vec<bool>, BooksError> {
        if reads.is_empty() {
            return Ok(vec![]);
        }
        let now = now.as_second();
        self.transaction(async move |c| {
            let checks = reads.iter().flat_map(|(of, _)| {
                let same = of.key().into_iter().chain([of.acknowledged.into()]).collect();
                [(SAME, same), (alarm::ACKNOWLEDGED, of.key().into()), events_of(of)]
            });
            let mut results = c.batch(checks.collect()).await?.into_iter();
            let mut next = || results.next().unwrap_or_default();
            let (mut stored, mut writes) = (vec![], vec![]);
            for (of, read) in &reads {
                let is_same = next().next().await?.is_some();
                let is_acknowledged = next().next().await?.is_some();
                let is_same = read_events(next()).await? == of.events && is_same;
                stored.push(is_same);
                if is_same {
                    writes.extend(of.writes(read, is_acknowledged, now)?);
                }
            }
            c.batch(writes).await?;
            Ok(stored)
        })
        .await
    }

    /// Takes `wanted` reads out of a day's allowance, or as many as are left. Returns how many.
    pub async fn take_reads(&self, day: String, wanted: u32, allowance: u32) -> Result<u32, BooksError> {
        self.transaction(async move |c| {
            let used = first_row(c, "SELECT reads FROM stripe_reads WHERE day = ?1", params![day.clone()]).await?;
            let used: u32 = used.map_or(Ok(0), |row| row.get(0))?;
            let granted = wanted.min(allowance.saturating_sub(used));
            let sql = "INSERT INTO stripe_reads (day, reads) VALUES (?1, ?2) ON CONFLICT (day) DO UPDATE SET reads = reads + excluded.reads";
            c.execute(sql, params![day.clone(), granted]).await?;
            c.execute("DELETE FROM stripe_reads WHERE day < ?1", params![day]).await?;
            Ok(granted)
        })
        .await
    }
}
