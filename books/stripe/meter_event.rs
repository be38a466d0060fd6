//! Meter events, which are stored before they are sent, and their states (migration 0014 has the
//! diagram).

use crate::store::connection::{Connection, Row, Write, params};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::invoice::{InvoicePeriod, RESEND};
use crate::store::audit_log::{AuditEntry, record};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::units::calendar::instant;

/// The state of a meter event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    /// Not sent yet, or Stripe certainly did not take it.
    Pending,
    /// An attempt is in progress, or its process died.
    Sending,
    Accepted,
    /// Stripe may or may not have it.
    Unconfirmed,
    Refused,
    /// Counts as not in Stripe; its amount is planned again.
    NotReceived,
    /// A person decided that it is never sent.
    Discarded,
}

impl EventState {
    const ALL: [Self; 7] = [
        Self::Pending,
        Self::Sending,
        Self::Accepted,
        Self::Unconfirmed,
        Self::Refused,
        Self::NotReceived,
        Self::Discarded,
    ];

    /// The name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Accepted => "accepted",
            Self::Unconfirmed => "unconfirmed",
            Self::Refused => "refused",
            Self::NotReceived => "not_received",
            Self::Discarded => "discarded",
        }
    }

    /// The inverse of [`EventState::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A row of `meter_events`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MeterEvent {
    pub seq: i64,
    pub identifier: String,
    pub customer: String,
    pub meter: String,
    /// Start of the period in which the usage was.
    pub period_start: Timestamp,
    /// Start of the invoiced period. It is later than `period_start` when the amount is carried
    /// forward.
    pub billed_start: Timestamp,
    pub billed_end: Timestamp,
    pub stripe_customer: String,
    /// `event_name` of the meter in Stripe.
    pub event_name: String,
    pub value: i64,
    pub timestamp: Timestamp,
    /// No attempt begins at or after this instant.
    pub send_before: Timestamp,
    pub state: EventState,
    /// Stripe may have applied an attempt.
    pub maybe_applied: bool,
    pub attempts: i64,
    pub key_no: i64,
    pub first_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    pub next_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// When it became accepted, refused, not received or discarded.
    pub settled_at: Option<Timestamp>,
    /// `Request-Id` of Stripe's last answer.
    pub request_id: Option<String>,
    pub error: Option<String>,
    /// Sent by the books before a restore; the value comes from Stripe's total.
    pub imported: bool,
}

/// An invoice, by the time that it covers. Stripe's id of the invoice is not stored.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct EventInvoice {
    pub subscription: String,
    pub starts_at: Timestamp,
    /// First instant that the invoice does not cover.
    pub ends_at: Timestamp,
}

const COLUMNS: &str = "seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, \
    value, timestamp, send_before, state, maybe_applied, attempts, key_no, first_attempt_at, last_attempt_at, next_at, \
    created_at, settled_at, request_id, error, imported";

fn event(row: &Row) -> Result<MeterEvent, BooksError> {
    let at = |i: i32| -> Result<Option<Timestamp>, BooksError> { Ok(row.get::<Option<i64>>(i)?.map(instant)) };
    let state: String = row.get(12)?;
    Ok(MeterEvent {
        seq: row.get(0)?,
        identifier: row.get(1)?,
        customer: row.get(2)?,
        meter: row.get(3)?,
        period_start: instant(row.get(4)?),
        billed_start: instant(row.get(5)?),
        billed_end: instant(row.get(6)?),
        stripe_customer: row.get(7)?,
        event_name: row.get(8)?,
        value: row.get(9)?,
        timestamp: instant(row.get(10)?),
        send_before: instant(row.get(11)?),
        state: EventState::named(&state).ok_or_else(|| BooksError::Integrity(format!("an event is `{state}`")))?,
        maybe_applied: row.get::<i64>(13)? == 1,
        attempts: row.get(14)?,
        key_no: row.get(15)?,
        first_attempt_at: at(16)?,
        last_attempt_at: at(17)?,
        next_at: at(18)?,
        created_at: instant(row.get(19)?),
        settled_at: at(20)?,
        request_id: row.get(21)?,
        error: row.get(22)?,
        imported: row.get::<i64>(23)? == 1,
    })
}

async fn all(
    c: &Connection,
    sql: &str,
    params: impl crate::store::connection::params::IntoParams,
) -> Result<Vec<MeterEvent>, BooksError> {
    let mut rows = c.query(sql, params).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(event(&row)?);
    }
    Ok(found)
}

/// An event to be stored. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewMeterEvent {
    pub customer: String,
    pub meter: String,
    pub period_start: i64,
    pub billed: InvoicePeriod,
    pub stripe_customer: String,
    pub event_name: String,
    pub value: i64,
    pub timestamp: i64,
    pub send_before: i64,
}

/// Events in one statement of [`insert`]: its parameter stays far below the largest that a server
/// takes.
const MAX_ROWS: usize = 1000;

/// ?1 [`NewMeterEvent`]s, ?2 now. `key` counts them from 0.
const INSERT: &str = "INSERT INTO meter_events (seq, identifier, customer, meter, period_start, billed_start, billed_end, \
      stripe_customer, event_name, value, timestamp, send_before, next_at, created_at) \
    SELECT n, prefix || '-' || n, j ->> 'customer', j ->> 'meter', j ->> 'period_start', j ->> '$.billed.start', j ->> '$.billed.end', \
      j ->> 'stripe_customer', j ->> 'event_name', j ->> 'value', j ->> 'timestamp', j ->> 'send_before', ?2, ?2 \
    FROM (SELECT value AS j, key + 1 + (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'meter_events') AS n, \
            coalesce((SELECT value FROM settings WHERE name = 'prefix'), 'meter') AS prefix FROM json_each(?1))";

/// Stores events as pending, numbered on from the newest. An identifier is the prefix of these
/// books, a hyphen and the number.
pub fn insert(new: &[NewMeterEvent], now: i64) -> Result<Vec<Write>, BooksError> {
    new.chunks(MAX_ROWS).map(|some| Ok((INSERT, vec![json(some)?.into(), now.into()]))).collect()
}

/// The number of the newest event; 0 if there is none.
pub async fn last_seq(c: &Connection) -> Result<i64, BooksError> {
    let last = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'meter_events'";
    first_row(c, last, ()).await?.map_or(Ok(0), |row| row.get(0))
}

/// The events for usage of a customer's period, the oldest first.
pub async fn events_of_period(
    c: &Connection,
    customer: &str,
    period: std::ops::Range<i64>,
) -> Result<Vec<MeterEvent>, BooksError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM meter_events WHERE customer = ?1 AND period_start >= ?2 AND period_start < ?3 ORDER BY seq"
    );
    all(c, &sql, params![customer, period.start, period.end]).await
}

/// The result of an attempt, as it is written to the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttemptOutcome {
    pub seq: i64,
    pub attempts: i64,
    pub state: EventState,
    /// Stripe may have applied an attempt.
    pub maybe_applied: bool,
    /// When Stripe took the event, as far as is known.
    pub taken_at: Option<i64>,
    /// The number that ends the Idempotency-Key of the next attempt.
    pub key_no: i64,
    /// When the next attempt is due; none if no attempt follows.
    pub next_at: Option<i64>,
    /// `Request-Id` of Stripe's answer.
    pub request_id: Option<String>,
    pub error: Option<String>,
}

/// Events of earlier runs, counted by what [`Database::recover_events`] did with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredEvents {
    /// The process of the attempt died: now unconfirmed.
    pub interrupted: u64,
    /// Not sent before the invoice closed: now not received.
    pub expired: u64,
    /// Unconfirmed and not sent again: Stripe's totals decide.
    pub undecided: u64,
}

/// Claims the oldest open event of each customer and meter, if it is due. While one event is
/// unconfirmed, no further event is sent for that customer and meter: with a single unknown,
/// Stripe's total tells whether it arrived. ?1 now; ?2 the most events; ?3 now less the time for
/// which an event is sent again.
const CLAIM: &str = "UPDATE meter_events SET state = 'sending', attempts = attempts + 1, next_at = NULL, last_attempt_at = ?1, \
      first_attempt_at = coalesce(first_attempt_at, ?1) \
    WHERE seq IN (SELECT e.seq FROM meter_events e INDEXED BY meter_events_due \
      WHERE e.next_at <= ?1 AND e.send_before > ?1 AND (e.state = 'pending' OR e.state = 'unconfirmed' AND e.first_attempt_at > ?3) \
        AND NOT EXISTS (SELECT 1 FROM meter_events o INDEXED BY meter_events_open \
                        WHERE o.customer = e.customer AND o.meter = e.meter AND o.seq < e.seq AND o.state IN ('pending', 'sending', 'unconfirmed')) \
      ORDER BY e.next_at, e.seq LIMIT ?2) RETURNING ";

/// ?1 [`AttemptOutcome`]s, ?2 now.
const SETTLE: &str = "UPDATE meter_events SET state = j.value ->> 'state', \
      maybe_applied = max(maybe_applied, j.value ->> 'maybe_applied'), key_no = j.value ->> 'key_no', \
      next_at = j.value ->> 'next_at', request_id = coalesce(j.value ->> 'request_id', request_id), error = j.value ->> 'error', \
      settled_at = iif(j.value ->> 'state' IN ('accepted', 'refused'), ?2, NULL), taken_at = j.value ->> 'taken_at', \
      first_attempt_at = iif(j.value ->> 'state' = 'pending', NULL, first_attempt_at) \
    FROM json_each(?1) j WHERE meter_events.seq = j.value ->> 'seq' AND meter_events.state = 'sending' \
      AND meter_events.attempts = j.value ->> 'attempts'";

/// Whether [`Database::recover_events`] has anything to do.
pub async fn to_recover(c: &Connection, stale: i64, now: i64) -> Result<bool, BooksError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM meter_events WHERE state = 'sending' AND last_attempt_at < ?1) \
               OR EXISTS (SELECT 1 FROM meter_events WHERE next_at IS NOT NULL AND send_before <= ?2) \
               OR EXISTS (SELECT 1 FROM meter_events WHERE state = 'unconfirmed' AND next_at IS NOT NULL AND first_attempt_at <= ?3)";
    first_row(c, sql, params![stale, now, now - RESEND]).await?.map_or(Ok(false), |row| row.get(0))
}

impl Database {
    /// Claims at most `limit` due events, at most one of each customer and meter, and makes them
    /// `sending`.
    pub async fn claim_events(&self, limit: u32, now: Timestamp) -> Result<Vec<MeterEvent>, BooksError> {
        let now = now.as_second();
        let sql = format!("{CLAIM}{COLUMNS}");
        let claimed = self.transaction(async move |c| all(c, &sql, params![now, limit, now - RESEND]).await);
        let mut claimed = claimed.await?;
        claimed.sort_by_key(|event| event.seq);
        Ok(claimed)
    }

    /// Writes the results of attempts. An event does not change if its attempt is not in progress
    /// any more: another run took the attempt for dead, and may have begun the next one.
    pub async fn settle_events(&self, settled: Vec<AttemptOutcome>, now: Timestamp) -> Result<(), BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            c.execute(SETTLE, params![json(&settled)?, now]).await?;
            Ok(())
        })
        .await
    }

    /// Recovers events of earlier runs. An attempt from before `stale` is of a dead process: its
    /// event becomes unconfirmed. A pending event that Stripe cannot have, and that was not sent
    /// before its invoice closed, becomes not received. An unconfirmed event that may not be sent
    /// again waits for Stripe's totals.
    pub async fn recover_events(&self, stale: i64, now: Timestamp) -> Result<RecoveredEvents, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let sql = "UPDATE meter_events SET state = 'unconfirmed', maybe_applied = 1, next_at = ?2, error = 'the process ended while it was sent' \
                       WHERE state = 'sending' AND last_attempt_at < ?1";
            let interrupted = c.execute(sql, params![stale, now]).await?;
            let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?1, error = 'not sent in time for its invoice' \
                       WHERE next_at IS NOT NULL AND send_before <= ?1 AND state = 'pending' AND maybe_applied = 0";
            let expired = c.execute(sql, params![now]).await?;
            let sql = "UPDATE meter_events SET next_at = NULL WHERE state = 'unconfirmed' AND next_at IS NOT NULL \
                       AND (send_before <= ?1 OR first_attempt_at <= ?2)";
            let undecided = c.execute(sql, params![now, now - RESEND]).await?;
            Ok(RecoveredEvents { interrupted, expired, undecided })
        })
        .await
    }

    /// Meter events, the newest first, at most `limit`; of one state or one customer if given.
    pub async fn meter_events(
        &self,
        state: Option<EventState>,
        customer: Option<String>,
        limit: u32,
    ) -> Result<Vec<MeterEvent>, BooksError> {
        self.with_connection(async move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM meter_events e WHERE (?1 IS NULL OR e.state = ?1) AND (?2 IS NULL OR e.customer = ?2) \
                 ORDER BY e.seq DESC LIMIT ?3"
            );
            all(c, &sql, params![state.map(EventState::name), customer, limit]).await
        })
        .await
    }

    /// The event with this number or identifier.
    pub async fn meter_event(&self, id: &str) -> Result<Option<MeterEvent>, BooksError> {
        let id = id.to_owned();
        self.with_connection(async move |c| find(c, &id).await).await
    }

    /// The invoice that an event is on by what is known now (the view `event_invoices`); none of an
    /// event that is not received.
    pub async fn event_invoice(&self, seq: i64) -> Result<Option<EventInvoice>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT p.subscription, v.starts_at, v.ends_at FROM event_invoices v JOIN meter_events e ON e.seq = v.seq \
                       JOIN billing_periods p ON p.customer = e.customer AND p.starts_at = v.starts_at \
                       WHERE v.seq = ?1 AND e.state <> 'not_received'";
            let Some(row) = first_row(c, sql, params![seq]).await? else { return Ok(None) };
            let (starts_at, ends_at) = (instant(row.get(1)?), instant(row.get(2)?));
            Ok(Some(EventInvoice { subscription: row.get(0)?, starts_at, ends_at }))
        })
        .await
    }

    /// Applies a person's decision to an event, and writes the audit log. Returns the event as it
    /// was before; none if there is no such event, or its state does not allow the action.
    pub async fn decide_event(
        &self,
        id: &str,
        what: ManualAction,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<Option<MeterEvent>, BooksError> {
        let (id, now) = (id.to_owned(), now.as_second());
        self.transaction(async move |c| {
            let Some(found) = find(c, &id).await? else { return Ok(None) };
            let to = match (what, found.state) {
                (ManualAction::Retry, EventState::Refused) => EventState::NotReceived,
                (ManualAction::Discard, EventState::Pending | EventState::Unconfirmed | EventState::Refused) => {
                    EventState::Discarded
                }
                _ => return Ok(None),
            };
            let sql = "UPDATE meter_events SET state = ?2, next_at = NULL, settled_at = ?3 WHERE seq = ?1";
            c.execute(sql, params![found.seq, to.name(), now]).await?;
            record(c, &entry, now).await?;
            Ok(Some(found))
        })
        .await
    }
}

/// What a person can decide about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManualAction {
    /// The event was refused, and the cause is fixed: its amount is planned again.
    Retry,
    /// The event is never sent.
    Discard,
}

/// Finds an event as a person names it: by its number, or by its identifier, which ends with the
/// number.
async fn find(c: &Connection, id: &str) -> Result<Option<MeterEvent>, BooksError> {
    let Some(seq) = id.rsplit('-').next().and_then(|n| n.parse::<i64>().ok()) else { return Ok(None) };
    let sql = format!("SELECT {COLUMNS} FROM meter_events e WHERE e.seq = ?1");
    let found = all(c, &sql, params![seq]).await?.pop();
    Ok(found.filter(|e| !id.contains('-') || e.identifier == id))
}

/// Finds an event as a machine names it: by its whole identifier and nothing else, because a number
/// may be another program's identifier.
pub async fn find_by_identifier(c: &Connection, identifier: &str) -> Result<Option<MeterEvent>, BooksError> {
    Ok(find(c, identifier).await?.filter(|event| event.identifier == identifier))
}

/// Stops sending unconfirmed events again: their invoice was final earlier than expected. Stripe's
/// totals decide about these events.
pub fn stop_resending(seqs: &[i64]) -> Result<Write, BooksError> {
    let sql = "UPDATE meter_events SET next_at = NULL WHERE seq IN (SELECT value FROM json_each(?1)) AND state = 'unconfirmed'";
    Ok((sql, vec![json(seqs)?.into()]))
}

/// Makes pending events not received that were never sent: their invoice is closed, or their
/// invoice, subscription or Stripe customer has changed since they were planned.
pub fn withdraw(seqs: &[i64], now: i64) -> Result<Write, BooksError> {
    let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?2, error = 'never sent: its invoice, subscription or Stripe customer is not what it was' \
               WHERE seq IN (SELECT value FROM json_each(?1)) AND state = 'pending' AND maybe_applied = 0";
    Ok((sql, vec![json(seqs)?.into(), now.into()]))
}
