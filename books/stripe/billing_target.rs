//! Billing targets: the quantities that Stripe should bill, from which events are planned. Also
//! the customers that are due for planning, the meters in Stripe, and Stripe's error reports.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use libsql::{Connection, Value, params};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value as Json;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows, json, sum_of};
use crate::store::settings;
use crate::stripe::meter_event::EventState;
use crate::units::quantity::Quantity;

/// A customer that is due for planning, with everything that planning reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueCustomer {
    /// Whether `customers` has the customer. Usage may carry a tag without a customer.
    pub known: bool,
    /// False until `roll_periods` has made the billing periods of changed subscriptions.
    pub settled: bool,
    pub stripe_customer: Option<String>,
    pub plan: String,
    /// Periods that have begun and may have changed, ordered by start.
    pub periods: Vec<DuePeriod>,
    /// Status of each subscription, and when it ended.
    pub subscriptions: BTreeMap<String, (String, Option<i64>)>,
    /// Currency of each subscription item, by subscription and Stripe's id of the meter.
    pub items: BTreeMap<(String, String), String>,
    /// Usage by meter and start of the period.
    pub usage: BTreeMap<(String, i64), Quantity>,
    /// Stored billing targets, by meter and start of the period.
    pub totals: BTreeMap<(String, i64), StoredTarget>,
    /// Events in any state but `not_received`, by meter.
    pub sent: BTreeMap<String, Vec<SentEvent>>,
    /// Meters with a refused event, in any period.
    pub refused: BTreeSet<String>,
    /// Meters with an invoice that waits, after a restore, for the import of Stripe's total.
    pub restored: BTreeSet<String>,
}

/// A billing period of a due customer. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuePeriod {
    pub start: i64,
    pub end: i64,
    /// First instant that its invoice does not cover (the view `covered_periods`).
    pub covered_until: i64,
    pub subscription: Option<String>,
    pub days: (String, String),
}

/// A row of `billing_targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTarget {
    pub plan: String,
    pub period_end: i64,
    pub target: i64,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
}

/// A meter event, with the columns that planning reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentEvent {
    pub seq: i64,
    pub period_start: i64,
    pub timestamp: i64,
    pub value: i64,
    pub state: EventState,
    pub stripe_customer: String,
    /// Start and end of the time that the event's invoice covers, if the event is on an invoice.
    pub invoice: Option<(i64, i64)>,
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

/// A meter, and the meter in Stripe that it is mapped to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StripeMeter {
    pub meter: String,
    pub event_name: String,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    pub stripe_id: String,
}

/// What waits for `push_stripe`: due customers, due events, unread error reports, new ledger
/// entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnseenEntries {
    pub customers: bool,
    pub events: bool,
    /// Whether an error report of Stripe is unread.
    pub reports: bool,
    /// Number of the newest ledger entry.
    pub entry: i64,
    /// Number of the newest ledger entry that an earlier run has processed.
    pub looked_at: i64,
}

/// Customers that are due at ?1, at most ?2.
const DUE: &str = "SELECT customer, from_day FROM stripe_due INDEXED BY stripe_due_by_time WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2";

/// ?1 pairs of customer and day; ?2 now; ?3 now less the grace: the invoice of a period that ends
/// later may still be open.
const PERIODS: &str = "SELECT p.customer, p.starts_at, p.ends_at, p.subscription, p.first_day, p.last_day, \
      (SELECT covered_until FROM covered_periods v WHERE v.customer = p.customer AND v.starts_at = p.starts_at) FROM json_each(?1) j \
    CROSS JOIN billing_periods p ON p.customer = j.value ->> 0 AND p.starts_at <= ?2 \
    WHERE p.last_day >= j.value ->> 1 OR p.ends_at > ?3 \
       OR EXISTS (SELECT 1 FROM billing_targets t WHERE t.customer = p.customer AND t.period_start = p.starts_at AND t.deferred <> 0) \
    ORDER BY p.customer, p.starts_at";

/// ?1 rows of customer, start, first day and last day; ?2 meters.
const USAGE: &str = "SELECT j.value ->> 0, j.value ->> 1, m.value, \
           (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000) FROM usage_days u \
            WHERE u.customer = j.value ->> 0 AND u.meter = m.value AND u.day BETWEEN j.value ->> 2 AND j.value ->> 3) \
    FROM json_each(?1) j CROSS JOIN json_each(?2) m";

/// ?1 pairs of customer and instant; ?2 meters.
const SENT: &str = "SELECT i.customer, i.meter, i.seq, i.period_start, i.timestamp, i.value, i.state, i.stripe_customer, \
      (SELECT starts_at FROM event_invoices WHERE seq = i.seq), (SELECT ends_at FROM event_invoices WHERE seq = i.seq) \
    FROM json_each(?1) j CROSS JOIN json_each(?2) m CROSS JOIN meter_events i INDEXED BY meter_events_by_time \
      ON i.customer = j.value ->> 0 AND i.meter = m.value AND i.timestamp >= j.value ->> 1 \
    WHERE i.state <> 'not_received' ORDER BY i.customer, i.meter, i.timestamp, i.seq";

/// ?1 pairs of customer and instant; ?2 meters.
const TOTALS: &str = "SELECT t.customer, t.meter, t.period_start, t.plan, t.period_end, t.target, t.deferred, t.deferred_reason FROM json_each(?1) j \
    CROSS JOIN json_each(?2) m CROSS JOIN billing_targets t ON t.customer = j.value ->> 0 AND t.meter = m.value AND t.period_start >= j.value ->> 1";

const STORED: &str = "ON CONFLICT (customer, meter, period_start) DO UPDATE SET period_end = excluded.period_end, plan = excluded.plan, \
    target = excluded.target, deferred = excluded.deferred, deferred_reason = excluded.deferred_reason, \
    deferred_since = iif(billing_targets.deferred_reason IS excluded.deferred_reason, billing_targets.deferred_since, excluded.deferred_since), \
    final_at = iif(billing_targets.period_end = excluded.period_end, billing_targets.final_at, NULL)";

/// Makes the customers of ledger entries due: entries of the meters ?2, numbered after ?1 up to
/// ?3.
const MARK_DUE: &str = "INSERT INTO stripe_due (customer, due_at, from_day) \
    SELECT customer, 0, min(day) FROM ledger_entries WHERE seq > ?1 AND seq <= ?3 AND customer <> '' \
      AND meter IN (SELECT value FROM json_each(?2)) GROUP BY customer \
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day)";

impl Database {
    /// What waits for `push_stripe`. Reads a few rows, however large the tables are.
    pub async fn unseen_entries(&self, now: Timestamp) -> Result<UnseenEntries, BooksError> {
        let now = now.as_second();
        self.with_connection(async move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM stripe_due WHERE due_at <= ?1), \
                       EXISTS (SELECT 1 FROM meter_events WHERE next_at <= ?1), \
                       EXISTS (SELECT 1 FROM stripe_error_reports WHERE read_at IS NULL), \
                       (SELECT coalesce(max(seq), 0) FROM ledger_entries), \
                       (SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'entry')";
            let Some(row) = first_row(c, sql, params![now]).await? else { return Ok(UnseenEntries::default()) };
            let yes = |i: i32| -> Result<bool, BooksError> { Ok(row.get::<i64>(i)? == 1) };
            Ok(UnseenEntries {
                customers: yes(0)?,
                events: yes(1)?,
                reports: yes(2)?,
                entry: row.get(3)?,
                looked_at: row.get::<Option<i64>>(4)?.unwrap_or(0),
            })
        })
        .await
    }

    /// Makes the customers of new ledger entries due. Returns how many there are.
    pub async fn mark_due_for_entries(&self, waiting: UnseenEntries, meters: Vec<String>) -> Result<u64, BooksError> {
        self.transaction(async move |c| {
            let marked = c.execute(MARK_DUE, params![waiting.looked_at, json(&meters)?, waiting.entry]).await?;
            settings::put(c, "entry", &waiting.entry.to_string()).await?;
            Ok(marked)
        })
        .await
    }

    /// Counts the amounts above 0 that have been deferred since an instant from `from` to before
    /// `to`. Acknowledged amounts do not count.
    pub async fn deferred_since(&self, from: i64, to: i64) -> Result<u64, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT count(*) FROM deferred_amounts WHERE amount > 0 AND NOT acknowledged AND since >= ?1 AND since < ?2";
            Ok(first_row(c, sql, params![from, to]).await?.map_or(Ok(0), |row| row.get(0))?)
        })
        .await
    }

    /// Makes every customer due if the setting `name` is not `value`, and stores `value`. Usage on
    /// days before `from_day` counts as unchanged. Returns whether the customers became due.
    pub async fn mark_all_due_when(
        &self,
        name: &'static str,
        value: String,
        from_day: String,
    ) -> Result<bool, BooksError> {
        if self.setting(name).await?.as_ref() == Some(&value) {
            return Ok(false);
        }
        self.transaction(async move |c| {
            let sql = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT id, 0, ?1 FROM customers WHERE true \
                       ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day)";
            c.execute(sql, params![from_day]).await?;
            settings::put(c, name, &value).await?;
            Ok(true)
        })
        .await
    }

    /// A short text that changes when a plan does.
    pub async fn plans_fingerprint(&self) -> Result<String, BooksError> {
        self.with_connection(async |c| {
            let row = first_row(c, "SELECT count(*) || ' ' || coalesce(max(applied_at), 0) FROM plans", ()).await?;
            Ok(row.map_or(Ok(String::new()), |row| row.get(0))?)
        })
        .await
    }

    /// Meters, with the event name and unit with which they were first found in Stripe.
    pub async fn stripe_meters(&self) -> Result<Vec<StripeMeter>, BooksError> {
        self.with_connection(async |c| {
            let mut rows =
                c.query("SELECT meter, event_name, per_unit, stripe_id FROM stripe_meters ORDER BY meter", ()).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let per_unit: String = row.get(2)?;
                let wrong = |e| BooksError::Integrity(format!("stripe_meters: `{per_unit}`: {e}"));
                let per_unit = per_unit.parse().map_err(wrong)?;
                found.push(StripeMeter {
                    meter: row.get(0)?,
                    event_name: row.get(1)?,
                    per_unit,
                    stripe_id: row.get(3)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Stores meters as they were found in Stripe. Event name and unit keep their first values;
    /// only the id may change.
    pub async fn keep_stripe_meters(&self, meters: Vec<StripeMeter>, now: Timestamp) -> Result<(), BooksError> {
        self.transaction(async move |c| {
            // amounts that were deferred because the meter was missing are planned again
            let sql = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT id, 0, '9999' FROM customers WHERE ?1 \
                       ON CONFLICT (customer) DO UPDATE SET due_at = 0";
            c.execute(sql, params![i64::from(!meters.is_empty())]).await?;
            for m in meters {
                let sql = "INSERT INTO stripe_meters (meter, event_name, per_unit, stripe_id, seen_at) VALUES (?1, ?2, ?3, ?4, ?5) \
                           ON CONFLICT (meter) DO UPDATE SET stripe_id = excluded.stripe_id, seen_at = excluded.seen_at";
                let per_unit = m.per_unit.normalize().to_string();
                c.execute(sql, params![m.meter, m.event_name, per_unit, m.stripe_id, now.as_second()]).await?;
            }
            Ok(())
        })
        .await
    }

    /// Reads Stripe's error reports, and makes the accepted events that they name refused. Returns
    /// how many reports were read, and how many events became refused.
    pub async fn read_error_reports(&self, now: Timestamp) -> Result<(u64, u64), BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let mut rows = c.query("SELECT id, body FROM stripe_error_reports WHERE read_at IS NULL ORDER BY received_at LIMIT 100", ()).await?;
            let mut reports: Vec<(String, String)> = vec![];
            while let Some(row) = rows.next().await? {
                reports.push((row.get(0)?, row.get(1)?));
            }
            let (mut read, mut refused) = (0, 0);
            for (id, body) in reports {
                let named = samples(&body);
                let (mut hit, mut found) = (0, vec![]);
                for (identifier, why) in &named {
                    found.extend(crate::stripe::meter_event::find(c, identifier).await?.map(|event| (event, why)));
                }
                // an event of the report is not settled yet: a later run reads the report
                if found.iter().any(|(i, _)| matches!(i.state, EventState::Sending | EventState::Unconfirmed)) {
                    continue;
                }
                for (event, why) in found {
                    let sql = "UPDATE meter_events SET state = 'refused', error = ?2, settled_at = ?3 WHERE seq = ?1 AND state = 'accepted'";
                    hit += c.execute(sql, params![event.seq, format!("said later: {why}"), now]).await?;
                }
                let outcome = format!("{} sample(s) named, {hit} event(s) refused", named.len());
                let sql = "UPDATE stripe_error_reports SET read_at = ?2, outcome = ?3 WHERE id = ?1";
                c.execute(sql, params![id.clone(), now, outcome]).await?;
                tracing::warn!(report = id, refused = hit, "Stripe rejected events after it had taken them: report {id}");
                read += 1;
                refused += hit;
            }
            Ok((read, refused))
        })
        .await
    }
}

/// The identifiers that a report names, each with its error:
/// `data.reason.error_types[].sample_errors[]`. A sample names an identifier or an
/// Idempotency-Key; our keys begin with the identifier.
fn samples(body: &str) -> Vec<(String, String)> {
    let list = |v: &Json, key: &str| v.get(key).and_then(Json::as_array).cloned().unwrap_or_default();
    let report: Json = serde_json::from_str(body).unwrap_or_default();
    let mut found = vec![];
    for kind in list(&report["data"]["reason"], "error_types") {
        let code = kind["code"].as_str().unwrap_or("rejected").to_owned();
        for sample in list(&kind, "sample_errors") {
            let Some(named) = sample["request"]["identifier"].as_str() else { continue };
            let identifier = named.split(":k").next().unwrap_or(named).to_owned();
            found.push((identifier, format!("{code}: {}", sample["error_message"].as_str().unwrap_or_default())));
        }
    }
    found
}

/// At most `limit` due customers, each with the first day on which usage may have changed.
pub async fn due(c: &Connection, limit: u32, now: i64) -> Result<Vec<(String, String)>, BooksError> {
    pairs(c, DUE, params![now, limit]).await
}

/// As [`due`], without a limit, and with the customers that the next run would make due.
pub async fn would_be_due(
    c: &Connection,
    waiting: UnseenEntries,
    meters: &[String],
    now: i64,
) -> Result<Vec<(String, String)>, BooksError> {
    // before the first run every customer is due
    let everybody = waiting.looked_at == 0;
    let sql = "SELECT customer, min(from_day) FROM ( \
               SELECT customer, from_day FROM stripe_due WHERE due_at <= ?1 \
               UNION ALL SELECT customer, min(day) FROM ledger_entries WHERE seq > ?2 AND seq <= ?3 AND customer <> '' \
                 AND meter IN (SELECT value FROM json_each(?4)) GROUP BY customer \
               UNION ALL SELECT id, '' FROM customers WHERE ?5) GROUP BY customer";
    pairs(c, sql, params![now, waiting.looked_at, waiting.entry, json(meters)?, i64::from(everybody)]).await
}

async fn pairs(
    c: &Connection,
    sql: &str,
    params: impl libsql::params::IntoParams,
) -> Result<Vec<(String, String)>, BooksError> {
    let mut rows = c.query(sql, params).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push((row.get(0)?, row.get(1)?));
    }
    Ok(found)
}

/// Loads due customers. `asked` has each customer with the first day on which usage may have
/// changed.
pub async fn load(
    c: &Connection,
    asked: &[(String, String)],
    meters: &[String],
    now: i64,
    grace: i64,
) -> Result<BTreeMap<String, DueCustomer>, BooksError> {
    let mut found: BTreeMap<String, DueCustomer> = BTreeMap::new();
    if asked.is_empty() {
        return Ok(found);
    }
    found.extend(asked.iter().map(|(customer, _)| (customer.clone(), DueCustomer::default())));
    let asked = json(asked)?;
    let sql = "SELECT c.id, c.stripe_customer_id, c.plan, c.periods_until IS NOT NULL FROM json_each(?1) j JOIN customers c ON c.id = j.value ->> 0";
    let mut rows = c.query(sql, params![asked.clone()]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            (due.known, due.settled) = (true, row.get::<i64>(3)? == 1);
            (due.stripe_customer, due.plan) = (row.get(1)?, row.get(2)?);
        }
    }
    let mut rows = c.query(PERIODS, params![asked.clone(), now, now - grace]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            let (start, end, subscription) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let days = (row.get(4)?, row.get(5)?);
            due.periods.push(DuePeriod { start, end, covered_until: row.get(6)?, subscription, days });
        }
    }
    load_subscriptions(c, &asked, &mut found).await?;
    for (customer, meter) in crate::stripe::restoration::waiting(c, asked, meters, now, grace).await? {
        if let Some(due) = found.get_mut(&customer) {
            due.restored.insert(meter);
        }
    }
    load_sums(c, meters, &mut found).await?;
    Ok(found)
}

async fn load_subscriptions(
    c: &Connection,
    asked: &str,
    found: &mut BTreeMap<String, DueCustomer>,
) -> Result<(), BooksError> {
    let sql = "SELECT s.customer, s.id, s.status, s.ended_at FROM json_each(?1) j JOIN subscriptions s ON s.customer = j.value ->> 0";
    let mut rows = c.query(sql, params![asked]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.subscriptions.insert(row.get(1)?, (row.get(2)?, row.get(3)?));
        }
    }
    let sql = "SELECT i.customer, i.subscription, i.stripe_meter, i.currency FROM json_each(?1) j \
               JOIN subscription_items i ON i.customer = j.value ->> 0";
    let mut rows = c.query(sql, params![asked]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.items.insert((row.get(1)?, row.get(2)?), row.get(3)?);
        }
    }
    Ok(())
}

async fn load_sums(
    c: &Connection,
    meters: &[String],
    found: &mut BTreeMap<String, DueCustomer>,
) -> Result<(), BooksError> {
    let meters = json(meters)?;
    let periods: Vec<_> = found
        .iter()
        .flat_map(|(customer, due)| due.periods.iter().map(move |p| (customer, p.start, &p.days.0, &p.days.1)))
        .collect();
    let mut rows = c.query(USAGE, params![json(&periods)?, meters.clone()]).await?;
    while let Some(row) = rows.next().await? {
        let Some(sum) = row.get::<Option<String>>(3)? else { continue };
        let used = sum_of(&sum)?;
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.usage.insert((row.get(2)?, row.get(1)?), used);
        }
    }
    let since: Vec<_> =
        found.iter().filter_map(|(customer, due)| Some((customer, due.periods.first()?.start))).collect();
    let since = json(&since)?;
    let mut rows = c.query(TOTALS, params![since.clone(), meters.clone()]).await?;
    while let Some(row) = rows.next().await? {
        let Some(due) = found.get_mut(&row.get::<String>(0)?) else { continue };
        let total = StoredTarget {
            plan: row.get(3)?,
            period_end: row.get(4)?,
            target: row.get(5)?,
            deferred: row.get(6)?,
            deferred_reason: row.get(7)?,
        };
        due.totals.insert((row.get(1)?, row.get(2)?), total);
    }
    let mut rows = c.query(SENT, params![since, meters]).await?;
    while let Some(row) = rows.next().await? {
        let Some(due) = found.get_mut(&row.get::<String>(0)?) else { continue };
        let state: String = row.get(6)?;
        let event = SentEvent {
            seq: row.get(2)?,
            period_start: row.get(3)?,
            timestamp: row.get(4)?,
            value: row.get(5)?,
            state: EventState::named(&state).ok_or_else(|| BooksError::Integrity(format!("an event is `{state}`")))?,
            stripe_customer: row.get(7)?,
            invoice: row.get::<Option<i64>>(8)?.zip(row.get::<Option<i64>>(9)?),
        };
        due.sent.entry(row.get(1)?).or_default().push(event);
    }
    let sql =
        "SELECT DISTINCT customer, meter FROM meter_events INDEXED BY meter_events_refused WHERE state = 'refused'";
    let mut rows = c.query(sql, ()).await?;
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.refused.insert(row.get(1)?);
        }
    }
    Ok(())
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

/// Removes planned customers from `stripe_due`. A customer with an instant is due again then.
pub async fn looked_at(c: &Connection, customers: &[(String, Option<i64>)]) -> Result<(), BooksError> {
    let rows = json(customers)?;
    let sql = "DELETE FROM stripe_due WHERE customer IN (SELECT value ->> 0 FROM json_each(?1))";
    c.execute(sql, params![rows.clone()]).await?;
    let sql = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT value ->> 0, value ->> 1, '9999' FROM json_each(?1) \
               WHERE value ->> 1 IS NOT NULL ON CONFLICT (customer) DO NOTHING";
    c.execute(sql, params![rows]).await?;
    Ok(())
}

/// Postpones customers. The first day on which usage may have changed stays stored.
pub async fn put_off(c: &Connection, customers: &[(String, i64)]) -> Result<(), BooksError> {
    if !customers.is_empty() {
        let sql = "UPDATE stripe_due SET due_at = j.value ->> 1 FROM json_each(?1) j WHERE customer = j.value ->> 0";
        c.execute(sql, params![json(customers)?]).await?;
    }
    Ok(())
}

/// Stops sending unconfirmed events again: their invoice was final earlier than expected. Stripe's
/// totals decide about these events.
pub async fn stop_resending(c: &Connection, seqs: &[i64]) -> Result<(), BooksError> {
    let sql = "UPDATE meter_events SET next_at = NULL WHERE seq IN (SELECT value FROM json_each(?1)) AND state = 'unconfirmed'";
    c.execute(sql, params![json(seqs)?]).await?;
    Ok(())
}

/// Makes pending events not received that were never sent: their invoice is closed, or their
/// invoice, subscription or Stripe customer has changed since they were planned.
pub async fn withdraw(c: &Connection, seqs: &[i64], now: i64) -> Result<(), BooksError> {
    let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?2, error = 'never sent: its invoice, subscription or Stripe customer is not what it was' \
               WHERE seq IN (SELECT value FROM json_each(?1)) AND state = 'pending' AND maybe_applied = 0";
    c.execute(sql, params![json(seqs)?, now]).await?;
    Ok(())
}
