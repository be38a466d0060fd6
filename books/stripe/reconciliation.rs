//! Stripe's totals beside ours: which are to be read, what was read, and what follows from it for
//! events.

use jiff::Timestamp;
use libsql::{Connection, Row, params};
use serde::{Serialize, Serializer};

use super::invoice::RESEND;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::stripe::alarm::{self, TargetKey};
use crate::stripe::difference::{Difference, Shortfall};
use crate::stripe::meter_event::EventState;
use crate::stripe::restoration;
use crate::units::calendar::{Month, instant, minute};
use crate::units::quantity::Quantity;

/// A total that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalToCheck {
    pub customer: String,
    pub meter: String,
    /// First instant of the period.
    pub start: i64,
    pub end: i64,
    pub stripe_customer: String,
    pub stripe_meter: String,
    /// What the events of the period were when the total was asked for.
    pub events: InvoiceEvents,
    pub shortfall: Option<Shortfall>,
    /// By how much Stripe is short (below 0: over) as a person has acknowledged; 0: nothing is.
    pub acknowledged: i64,
}

/// Events that go on the invoice of a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvoiceEvents {
    /// Accepted ones, the newest first.
    pub accepted: Vec<AcceptedEvent>,
    /// The one that is unconfirmed.
    pub unconfirmed: Option<UnconfirmedEvent>,
    pub in_flight: bool,
    /// Discarded while unconfirmed, and what it comes to: Stripe may have it.
    pub discarded: i64,
    /// Some are still to be sent.
    pub pending: bool,
}

/// An event that Stripe took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    pub seq: i64,
    pub value: i64,
    pub timestamp: i64,
    pub at: i64,
    /// Taken over from Stripe's total: the books of before a restoration sent it, at this time or
    /// before.
    pub imported: bool,
}

/// An event of which nobody knows whether Stripe has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnconfirmedEvent {
    pub seq: i64,
    pub value: i64,
    pub timestamp: i64,
    /// When it was last sent.
    pub last_attempt: i64,
    /// When it may last be sent again.
    pub resend_until: i64,
}

/// What is noted of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub seen: i64,
    pub expected: i64,
    pub shortfall: Option<Shortfall>,
    pub difference: Difference,
    /// Nothing can change any more.
    pub is_final: bool,
}

/// A line of the comparison of a bill, the ledger, and Stripe.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedPeriod {
    /// Whose; none for all customers together.
    pub customer: String,
    pub meter: String,
    /// First instant of the period.
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// Whether an invoice covers it.
    pub billed: bool,
    /// What the newest bills say was used on the period's days, from `usage_days`, in 10⁻¹⁰ units:
    /// units, rest.
    #[serde(skip)]
    pub bill: (i64, i64),
    /// The same from the entries of the ledger.
    #[serde(skip)]
    pub ledger: (i64, i64),
    /// What the invoice of this period, or a later one, should say for it, in Stripe's unit.
    pub target: i64,
    /// Of it, accepted by Stripe on whatever invoice.
    pub accepted: i64,
    /// Of it, on its way or unconfirmed.
    pub open: i64,
    pub refused: i64,
    /// Of it, discarded by a person.
    pub discarded: i64,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
    /// Stripe's total of this period's invoice when it was last read.
    pub seen: Option<i64>,
    /// What it should have been.
    pub expected: Option<i64>,
    pub read_at: Option<Timestamp>,
    /// What a person must look at.
    #[serde(serialize_with = "as_text")]
    pub alarm: Option<Difference>,
    /// By how much Stripe may be short (below 0: over), because a person has made it good.
    pub acknowledged: i64,
    /// A person has acknowledged the amount that is deferred.
    pub deferred_acknowledged: bool,
}

fn as_text<S: Serializer>(alarm: &Option<Difference>, serializer: S) -> Result<S::Ok, S::Error> {
    alarm.as_ref().map(ToString::to_string).serialize(serializer)
}

/// Columns of a total that is to be read. An unconfirmed event is looked for where it was sent,
/// whatever the customer's Stripe id is now.
const COLUMNS: &str = "t.customer, t.meter, t.period_start, t.period_end, \
    coalesce((SELECT i.stripe_customer FROM meter_events i INDEXED BY meter_events_by_time WHERE i.customer = t.customer AND i.meter = t.meter \
              AND i.timestamp >= t.period_start AND i.timestamp < t.period_end AND i.state = 'unconfirmed' LIMIT 1), c.stripe_customer_id), \
    m.stripe_id, t.shortfall, t.shortfall_since, t.acknowledged \
    FROM billing_targets t JOIN stripe_meters m ON m.meter = t.meter LEFT JOIN customers c ON c.id = t.customer";

/// Something was ever sent to the invoice.
const WAS_SENT: &str = "EXISTS (SELECT 1 FROM meter_events i INDEXED BY meter_events_by_time WHERE i.customer = t.customer AND i.meter = t.meter \
    AND i.timestamp >= t.period_start AND i.timestamp < t.period_end AND i.attempts > 0)";

/// Which totals are read, the most urgent first, each with the share of the reads that it may take:
/// those with an unconfirmed event, those that were short, then those that were read longest ago.
/// ?1 now, ?2 how many, ?3 one customer or null, ?4 and ?5 as [`restoration::bounds`] gives them.
const ASKED: [(&str, u32); 3] = [
    (
        "WHERE ?3 IS NULL AND (t.customer, t.meter, t.period_start) IN (SELECT d.customer, d.meter, (SELECT max(starts_at) FROM billing_periods \
         WHERE customer = d.customer AND starts_at <= d.timestamp) FROM meter_events d WHERE d.state = 'unconfirmed') AND t.period_start <= ?1 AND ALONE LIMIT ?2",
        1,
    ),
    ("WHERE ?3 IS NULL AND t.shortfall IS NOT NULL AND t.period_start <= ?1 AND ALONE ORDER BY t.read_at LIMIT ?2", 2),
    (
        "WHERE ?3 IS NULL AND t.final_at IS NULL AND t.period_start <= ?1 AND SENT AND ALONE ORDER BY t.read_at LIMIT ?2",
        1,
    ),
];

/// All of one customer.
const ONE: &str =
    "WHERE t.customer = ?3 AND t.period_start <= ?1 AND SENT AND ALONE ORDER BY t.period_start DESC LIMIT ?2";

const EVENTS: &str = "SELECT seq, value, state, settled_at, last_attempt_at, first_attempt_at, send_before, maybe_applied, timestamp, imported FROM meter_events \
    WHERE customer = ?1 AND meter = ?2 AND timestamp >= ?3 AND timestamp < ?4 AND stripe_customer = ?5 ORDER BY seq DESC";

/// ?1 customer or null, ?2 and ?3 between which instants a period begins, ?4 how many, ?5 meters.
/// What was taken after its invoice was final, or lies in no subscription's period, is on no
/// invoice.
const COMPARE: &str = "SELECT p.customer, m.value, p.starts_at, p.ends_at, p.subscription IS NOT NULL, \
      coalesce((SELECT sum(quantity / 10000000000) FROM usage_days u WHERE u.customer = p.customer AND u.meter = m.value AND u.day BETWEEN p.first_day AND p.last_day), 0), \
      coalesce((SELECT sum(quantity % 10000000000) FROM usage_days u WHERE u.customer = p.customer AND u.meter = m.value AND u.day BETWEEN p.first_day AND p.last_day), 0), \
      coalesce((SELECT sum(quantity / 10000000000) FROM ledger_entries u WHERE u.customer = p.customer AND u.meter = m.value AND u.day BETWEEN p.first_day AND p.last_day), 0), \
      coalesce((SELECT sum(quantity % 10000000000) FROM ledger_entries u WHERE u.customer = p.customer AND u.meter = m.value AND u.day BETWEEN p.first_day AND p.last_day), 0), \
      coalesce(t.target, 0), \
      (SELECT coalesce(sum(i.value) FILTER (WHERE i.state = 'accepted'), 0) || ' ' || coalesce(sum(i.value) FILTER (WHERE i.state IN ('pending', 'sending', 'unconfirmed')), 0) \
           || ' ' || coalesce(sum(i.value) FILTER (WHERE i.state = 'refused'), 0) || ' ' || coalesce(sum(i.value) FILTER (WHERE i.state = 'discarded'), 0) \
       FROM meter_events i WHERE i.customer = p.customer AND i.meter = m.value AND i.timestamp >= p.starts_at \
         AND i.period_start >= p.starts_at AND i.period_start < p.ends_at \
         AND EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq)), \
      coalesce(t.deferred, 0), t.deferred_reason, t.seen, t.expected, t.read_at, \
      t.deferred <> 0 AND coalesce(t.deferred_acknowledged = t.deferred, 0), \
      t.alarm_kind, t.alarm_shortfall, t.alarm_total, t.alarm_until, t.alarm_stripe_customer, t.alarm_answer, coalesce(t.acknowledged, 0) \
    FROM billing_periods p CROSS JOIN json_each(?5) m \
    LEFT JOIN billing_targets t ON t.customer = p.customer AND t.meter = m.value AND t.period_start = p.starts_at \
    WHERE (?1 IS NULL OR p.customer = ?1) AND p.starts_at >= ?2 AND p.starts_at < ?3 ORDER BY p.customer, p.starts_at, m.value LIMIT ?4";

/// ?1 and ?2 months.
const BILLS: &str = "SELECT v.month, t.meter, t.booked, \
      coalesce((SELECT sum(quantity / 10000000000) FROM ledger_entries WHERE payer = v.payer AND month = v.month AND meter = t.meter), 0), \
      coalesce((SELECT sum(quantity % 10000000000) FROM ledger_entries WHERE payer = v.payer AND month = v.month AND meter = t.meter), 0) \
    FROM bill_versions v JOIN bill_totals t ON t.version_id = v.id \
    WHERE v.state = 'applied' AND v.month >= ?1 AND v.month < ?2 AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id) \
    ORDER BY v.month, t.meter";

async fn events(c: &Connection, of: &TotalToCheck) -> Result<InvoiceEvents, BooksError> {
    // totals are asked for by whole minutes
    events_between(c, [&of.customer, &of.meter, &of.stripe_customer], of.start, minute(of.end)).await
}

/// Events for one Stripe customer from `start` to before `end`.
pub async fn events_between(
    c: &Connection,
    [customer, meter, stripe_customer]: [&String; 3],
    start: i64,
    end: i64,
) -> Result<InvoiceEvents, BooksError> {
    let values = params![customer.clone(), meter.clone(), start, end, stripe_customer.clone()];
    let mut rows = c.query(EVENTS, values).await?;
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

/// Two columns as a shortfall.
pub(super) fn shortfall(row: &Row, at: i32) -> Result<Option<Shortfall>, BooksError> {
    let columns = row.get::<Option<i64>>(at)?.zip(row.get::<Option<i64>>(at + 1)?);
    Ok(columns.map(|(amount, since)| Shortfall { amount, since }))
}

impl Database {
    /// At most `limit` totals that are to be read, the most urgent first; of one customer, final
    /// ones too.
    pub async fn totals_to_read(
        &self,
        customer: Option<String>,
        limit: u32,
        now: Timestamp,
        grace: i64,
    ) -> Result<Vec<TotalToCheck>, BooksError> {
        self.with_connection(async move |c| {
            // what is still to be taken over after a restoration cannot be compared
            let (at, open) = restoration::bounds(c, now.as_second(), grace).await?;
            let asked = if customer.is_some() { vec![(ONE, 1)] } else { ASKED.to_vec() };
            let mut found: Vec<TotalToCheck> = vec![];
            for (which, share) in asked {
                let sql = format!(
                    "SELECT {COLUMNS} {}",
                    which.replace("SENT", WAS_SENT).replace("ALONE", restoration::IS_IMPORTED)
                );
                let room = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX)).div_ceil(share);
                let mut rows = c.query(&sql, params![now.as_second(), room, customer.clone(), at, open]).await?;
                while let Some(row) = rows.next().await? {
                    let Some(stripe_customer) = row.get::<Option<String>>(4)? else { continue };
                    let one = TotalToCheck {
                        customer: row.get(0)?,
                        meter: row.get(1)?,
                        start: row.get(2)?,
                        end: row.get(3)?,
                        stripe_customer,
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
            for one in &mut found {
                one.events = events(c, one).await?;
            }
            Ok(found)
        })
        .await
    }

    /// Notes what was read and what follows; nothing when the events have changed since the total
    /// was asked for. Returns whether it was noted.
    pub async fn note_read(&self, of: TotalToCheck, read: Comparison, now: Timestamp) -> Result<bool, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let sql = "SELECT acknowledged FROM billing_targets WHERE customer = ?1 AND meter = ?2 AND period_start = ?3";
            let row = first_row(c, sql, params![of.customer.clone(), of.meter.clone(), of.start]).await?;
            let known = row.map_or(Ok(0), |row| row.get::<i64>(0))?;
            if known != of.acknowledged || events(c, &of).await? != of.events {
                return Ok(false);
            }
            let change = async |state: EventState, seqs: &[i64], error: Option<&str>| {
                let sql = "UPDATE meter_events SET state = ?2, next_at = NULL, settled_at = ?3, error = ?4, \
                           taken_at = iif(?2 = 'accepted', first_attempt_at, taken_at) \
                           WHERE seq IN (SELECT value FROM json_each(?1))";
                c.execute(sql, params![json(seqs)?, state.name(), now, error]).await?;
                Ok::<(), BooksError>(())
            };
            match &read.difference {
                Difference::UnconfirmedArrived { seq } => change(EventState::Accepted, &[*seq], None).await?,
                Difference::EventsMissing { missing, arrived } => {
                    change(EventState::Accepted, arrived.as_slice(), None).await?;
                    let why = "Stripe's total has been without it for a day";
                    change(EventState::NotReceived, missing, Some(why)).await?;
                }
                _ => {}
            }
            let key = TargetKey { customer: &of.customer, meter: &of.meter, period_start: of.start };
            // until there is more to say, an alarm stays as it is
            if read.difference != Difference::TooEarly {
                alarm::set(c, key, &read.difference).await?;
            }
            let agrees = read.difference == Difference::Agrees;
            let (shortfall, since) = read.shortfall.map(|s| (s.amount, s.since)).unzip();
            let sql = "UPDATE billing_targets SET seen = ?4, expected = ?5, read_at = ?6, shortfall = ?7, shortfall_since = ?8, \
                       no_total_acknowledged = iif(?9, no_total_acknowledged, NULL), \
                       agreed_at = iif(?10, ?6, agreed_at), final_at = iif(?11, ?6, NULL) WHERE customer = ?1 AND meter = ?2 AND period_start = ?3";
            let values = params![
                of.customer.clone(),
                of.meter.clone(),
                of.start,
                read.seen,
                read.expected,
                now,
                shortfall,
                since,
                i64::from(matches!(read.difference, Difference::NoTotal { .. })),
                i64::from(agrees),
                i64::from(agrees && read.is_final)
            ];
            c.execute(sql, values).await?;
            Ok(true)
        })
        .await
    }

    /// Takes `wanted` reads out of a day's allowance; returns how many there are.
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

    /// What the newest versions of the bills from month `from` to before month `to` say was used,
    /// and what the ledger holds of them: month, meter, bill, ledger.
    pub async fn bills_and_ledger(
        &self,
        from: Month,
        to: Month,
    ) -> Result<Vec<(String, String, Quantity, Quantity)>, BooksError> {
        self.with_connection(async move |c| {
            let mut rows = c.query(BILLS, params![from.to_string(), to.to_string()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let booked: String = row.get(2)?;
                let bill = booked.parse().map_err(|e| BooksError::Integrity(format!("bill_totals: {e}")))?;
                found.push((row.get(0)?, row.get(1)?, bill, Quantity::from_parts(row.get(3)?, row.get(4)?)));
            }
            Ok(found)
        })
        .await
    }

    /// Bill, ledger and Stripe beside each other, for periods that begin from `from` to before
    /// `to`.
    pub async fn compare(
        &self,
        customer: Option<String>,
        meters: Vec<String>,
        from: i64,
        to: i64,
        limit: u32,
    ) -> Result<Vec<ComparedPeriod>, BooksError> {
        self.with_connection(async move |c| {
            let mut rows = c.query(COMPARE, params![customer, from, to, limit, json(&meters)?]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let sums: String = row.get(10)?;
                let mut sums = sums.split(' ').map(|n| n.parse::<i64>().unwrap_or_default());
                let mut next = || sums.next().unwrap_or_default();
                found.push(ComparedPeriod {
                    customer: row.get(0)?,
                    meter: row.get(1)?,
                    period_start: instant(row.get(2)?),
                    period_end: instant(row.get(3)?),
                    billed: row.get::<i64>(4)? == 1,
                    bill: (row.get(5)?, row.get(6)?),
                    ledger: (row.get(7)?, row.get(8)?),
                    target: row.get(9)?,
                    accepted: next(),
                    open: next(),
                    refused: next(),
                    discarded: next(),
                    deferred: row.get(11)?,
                    deferred_reason: row.get(12)?,
                    seen: row.get(13)?,
                    expected: row.get(14)?,
                    read_at: row.get::<Option<i64>>(15)?.map(instant),
                    deferred_acknowledged: row.get::<Option<i64>>(16)? == Some(1),
                    alarm: alarm::read(&row, 17)?,
                    acknowledged: row.get(23)?,
                });
            }
            Ok(found)
        })
        .await
    }
}
