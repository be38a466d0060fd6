//! The queries behind the figures.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use rust_decimal::Decimal;

use super::{
    BillStats, BooksStats, CustomerStats, DAYS, DayUsage, Decisions, MANY, MeterDay, MonthNote, MonthUsage, NearLimit,
    NotificationStats, SHARED_DAYS, StripeStats, TaggedLines,
};
use crate::forecast::stored::{meter_forecasts, unusual_days};
use crate::limits::settled::{newest_bills, usage_through};
use crate::measured::accuracy::kept_accuracy;
use crate::shared_bucket::stored::booked_shares;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, sum_of_rests, sum_of_units};
use crate::stripe::alarm;
use crate::stripe::restore::billing_hold;
use crate::units::calendar::{Day, Month, instant};
use crate::units::quantity::Quantity;
use crate::usage::bill::{BillNote, NoteKind};
use crate::usage::cost::billed_costs;

/// Customers that are named, at most.
const NAMED: u32 = 20;
/// AWS bills one meter's usage up to two days later than another's: storage after calls.
const METERS_APART: i64 = 2;
/// Reasons for a block that mean a limit is reached: a budget or another plan ends the block.
const REACHED: &str = "('included_used', 'no_budget', 'budget_spent', 'meter_budget_spent', 'past_due', 'data_too_old', \
                       'budget_in_other_currency')";

/// By meter: lines that it counted in the newest booked version of each payer's newest month, and
/// how many of them had the tag.
const TAGGED_LINES: &str = "SELECT meter, sum(lines), sum(tagged_lines) FROM bill_lines \
    WHERE claim = 'counted' AND version_id IN (SELECT max(id) FROM bill_versions b WHERE state = 'applied' \
      AND month = (SELECT max(month) FROM bill_versions m WHERE m.payer = b.payer AND m.state = 'applied') GROUP BY payer) \
    GROUP BY meter ORDER BY meter";

/// The booked version of each payer's newest month.
const NEWEST_BILLS: &str = "SELECT v.payer, v.month, v.rows, v.counted_rows, \
      (SELECT max(min(delivered_at, decided_at)) FROM bill_versions d WHERE d.payer = v.payer AND d.state = 'applied'), \
      (SELECT count(*) FROM bill_versions h WHERE h.payer = v.payer AND h.state = 'on_hold'), \
      (SELECT hold_reason FROM bill_versions h WHERE h.payer = v.payer AND h.state = 'on_hold' ORDER BY id DESC LIMIT 1) \
    FROM (SELECT max(id) AS id FROM bill_versions b WHERE state = 'applied' \
            AND month = (SELECT max(month) FROM bill_versions m WHERE m.payer = b.payer AND m.state = 'applied') GROUP BY payer) newest \
    JOIN bill_versions v ON v.id = newest.id ORDER BY v.payer";

/// The notes of each payer's newest month and of the month before it. Older months are closed; and
/// the books' first month was often used before its tag was set up. Each is a seek in an index.
const NOTES: &str = "WITH RECURSIVE payers (payer) AS (SELECT min(payer) FROM bill_versions \
      UNION ALL SELECT (SELECT min(payer) FROM bill_versions WHERE payer > payers.payer) FROM payers WHERE payers.payer IS NOT NULL), \
    newest AS (SELECT payer, (SELECT max(month) FROM bill_versions WHERE payer = p.payer AND state = 'applied') AS month \
      FROM payers p WHERE payer IS NOT NULL), \
    noted AS (SELECT payer, month, true AS is_newest FROM newest \
      UNION ALL SELECT payer, strftime('%Y-%m', month || '-01', '-1 month'), false FROM newest) \
    SELECT v.payer, v.month, v.notes FROM noted n JOIN bill_versions v ON v.id = \
      (SELECT max(id) FROM bill_versions WHERE payer = n.payer AND month = n.month AND state = 'applied') \
    WHERE n.is_newest OR EXISTS (SELECT 1 FROM bill_versions b WHERE b.payer = n.payer AND b.month < n.month AND b.state = 'applied') \
    ORDER BY v.payer, v.month DESC";

/// Sums of a meter: of customers, and without one.
type Sums = (Quantity, Quantity);

impl Database {
    pub async fn books_stats(&self, now: Timestamp) -> Result<BooksStats, BooksError> {
        self.with_connection(async move |c| books_stats(c, now).await).await
    }

    /// What all customers together used in the days of `month`: day, meter, quantity; usage without
    /// a customer included.
    pub async fn usage_by_day(&self, month: Month) -> Result<Vec<MeterDay>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT day, meter, sum(units), sum(rest) FROM usage_totals WHERE day BETWEEN ?1 AND ?2 \
                       GROUP BY day, meter ORDER BY day, meter";
            let days = params![month.first_day().to_string(), month.last_day().to_string()];
            let mut rows = c.query(sql, days).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let quantity = Quantity::from_parts(row.get(2)?, row.get(3)?);
                found.push(MeterDay { day: row.get(0)?, meter: row.get(1)?, quantity });
            }
            Ok(found)
        })
        .await
    }

    /// By meter: lines that it counted in the newest booked version of each payer's newest month,
    /// and how many of them had the tag.
    pub async fn tagged_lines(&self) -> Result<Vec<TaggedLines>, BooksError> {
        self.with_connection(async |c| {
            let mut rows = c.query(TAGGED_LINES, ()).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(TaggedLines { meter: row.get(0)?, lines: row.get(1)?, tagged: row.get(2)? });
            }
            Ok(found)
        })
        .await
    }

    /// The newest booked bill of each payer, with the notes of the last year.
    pub async fn bills_of_payers(&self) -> Result<Vec<BillStats>, BooksError> {
        self.with_connection(async |c| bills(c).await).await
    }

    /// Reads every customer.
    pub async fn customer_stats(&self, now: Timestamp) -> Result<CustomerStats, BooksError> {
        self.with_connection(async move |c| customer_stats(c, now).await).await
    }
}

/// As [`Database::books_stats`], beside other queries of the connection.
pub async fn books_stats(c: &Connection, now: Timestamp) -> Result<BooksStats, BooksError> {
    let entries = "SELECT coalesce(sum(entries), 0) FROM bookings WHERE version_id IS NOT NULL";
    let overdue = "SELECT min(ends_at) FROM turn_periods WHERE closed_at IS NULL AND ends_at <= ?1";
    let enforced = "SELECT enforced_at FROM enforcement";
    let today = Day::from_epoch(i32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(0)).unwrap_or(Day::EPOCH);
    let first = Day::from_epoch(today.epoch() - SHARED_DAYS).unwrap_or(Day::EPOCH);
    let (
        (month, days),
        bills,
        stripe,
        (notifications, operator_messages),
        accuracy,
        forecasts,
        unusual,
        shares,
        costs,
        entries,
        overdue,
        enforced,
        size_bytes,
    ) = tokio::try_join!(
        usage(c, now),
        bills(c),
        stripe(c),
        notifications(c),
        kept_accuracy(c),
        meter_forecasts(c, Month::of(now)),
        unusual_days(c),
        booked_shares(c, first, today),
        billed_costs(c, None),
        first_row(c, entries, ()),
        first_row(c, overdue, params![now.as_second()]),
        first_row(c, enforced, ()),
        size(c),
    )?;
    let turn_overdue_since = overdue.map_or(Ok(None), |row| at(&row, 0))?;
    let enforced_at = enforced.map_or(Ok(None), |row| at(&row, 0))?;
    let entries = entries.map_or(Ok(0), |row| row.get(0))?;
    Ok(BooksStats {
        entries,
        bills,
        month,
        days,
        turn_overdue_since,
        enforced_at,
        stripe,
        notifications,
        operator_messages,
        accuracy,
        forecasts,
        unusual,
        shares,
        costs,
        size_bytes,
    })
}

/// Bytes of a local file.
async fn size(c: &Connection) -> Result<Option<i64>, BooksError> {
    if !c.is_local() {
        return Ok(None);
    }
    let pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    first_row(c, pages, ()).await?.map(|row| row.get(0)).transpose()
}

/// As [`Database::customer_stats`], beside other queries of the connection.
pub async fn customer_stats(c: &Connection, now: Timestamp) -> Result<CustomerStats, BooksError> {
    let (counted, amounts) = tokio::try_join!(counted_customers(c, now), amounts(c))?;
    Ok(counted.with_amounts(amounts))
}

/// Differs from an earlier one when usage was booked since, a decision changed, a customer came or
/// changed its plan, or the month is another. Credentials for TURN, and what others change in the
/// tables without a decision that follows (a status, a deleted customer), leave no mark.
pub async fn customer_marks(c: &Connection, now: Timestamp) -> Result<String, BooksError> {
    let sql = "SELECT ?1 || format(' %d %d %d %d %d', (SELECT max(version_id) FROM bookings), (SELECT max(seq) FROM customer_plans), \
               (SELECT max(seq) FROM entitlement_changes), (SELECT max(seq) FROM notifications), (SELECT max(seq) FROM audit_log))";
    let row = first_row(c, sql, params![Month::of(now).to_string()]).await?;
    row.map_or(Ok(String::new()), |row| row.get(0))
}

/// Only the figures that need a reading of every customer.
pub async fn counted_customers(c: &Connection, now: Timestamp) -> Result<CustomerStats, BooksError> {
    let mut found = CustomerStats::default();
    let turn = "SELECT coalesce(sum(used), 0), coalesce(sum(refused), 0) FROM turn_periods \
                WHERE closed_at IS NULL AND starts_at <= ?1 AND ends_at > ?1";
    let pending = "SELECT count(*) FROM notifications WHERE state = 'pending'";
    let (decisions, mut statuses, near_limit, turn, unknown, pending) = tokio::try_join!(
        decisions(c),
        c.query("SELECT status, count(*) FROM customers GROUP BY status", ()),
        near_limit(c),
        first_row(c, turn, params![now.as_second()]),
        unknown(c, now),
        first_row(c, pending, ()),
    )?;
    found.pending_notifications = pending.map_or(Ok(0), |row| row.get(0))?;
    while let Some(row) = statuses.next().await? {
        found.by_status.insert(row.get(0)?, row.get(1)?);
    }
    if let Some(row) = turn {
        (found.turn_used, found.turn_refused) = (row.get(0)?, row.get(1)?);
    }
    Ok(CustomerStats { decisions, near_limit, unknown, ..found })
}

fn at(row: &crate::store::connection::Row, place: i32) -> Result<Option<Timestamp>, BooksError> {
    Ok(row.get::<Option<i64>>(place)?.map(instant))
}

async fn bills(c: &Connection) -> Result<Vec<BillStats>, BooksError> {
    // a payer without a booked version, because the first one is on hold
    let only_on_hold = "SELECT payer, max(month), count(*), max(hold_reason) FROM bill_versions b WHERE state = 'on_hold' \
                     AND NOT EXISTS (SELECT 1 FROM bill_versions a WHERE a.payer = b.payer AND a.state = 'applied') GROUP BY payer";
    let (mut rows, newest, mut on_hold, mut noted) =
        tokio::try_join!(c.query(NEWEST_BILLS, ()), newest_bills(c), c.query(only_on_hold, ()), c.query(NOTES, ()))?;
    let through = usage_through(&newest);
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let (payer, delivered): (String, Option<String>) = (row.get(0)?, row.get(4)?);
        found.push(BillStats {
            month: row.get(1)?,
            delivered_at: delivered.and_then(|t| t.parse().ok()),
            usage_through: through.get(&payer).copied(),
            rows: row.get(2)?,
            counted_rows: row.get(3)?,
            lines: BTreeMap::new(),
            notes: vec![],
            on_hold: row.get(5)?,
            hold_reason: row.get(6)?,
            payer,
        });
    }
    let lines = futures::future::try_join_all(found.iter().map(|bill: &BillStats| {
        // unclaimed lines of a month stay visible when the next month has begun
        let sql = "SELECT claim, sum(lines) FROM bill_lines WHERE version_id IN (SELECT id FROM bill_versions v \
                   WHERE payer = ?1 AND state = 'applied' AND month >= ?2 AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)) \
                   GROUP BY claim";
        let before = bill.month.parse::<Month>().map_or(bill.month.clone(), |month| month.previous().to_string());
        c.query(sql, params![bill.payer.clone(), before])
    }));
    for (bill, mut rows) in found.iter_mut().zip(lines.await?) {
        while let Some(row) = rows.next().await? {
            bill.lines.insert(row.get(0)?, row.get(1)?);
        }
    }
    while let Some(row) = noted.next().await? {
        let (payer, month): (String, String) = (row.get(0)?, row.get(1)?);
        let Some(bill) = found.iter_mut().find(|bill| bill.payer == payer) else { continue };
        add_notes(bill, &month, notes(&row.get::<String>(2)?)?);
    }
    while let Some(row) = on_hold.next().await? {
        let bill = BillStats::none(&row.get::<String>(0)?);
        found.push(BillStats { month: row.get(1)?, on_hold: row.get(2)?, hold_reason: row.get(3)?, ..bill });
    }
    Ok(found)
}

/// Adds the notes of a month that is older than those before. One of a kind that a newer month has
/// only adds its month, and one of which nothing need follow counts in the newest bill alone.
fn add_notes(bill: &mut BillStats, month: &str, notes: Vec<BillNote>) {
    let newer = bill.notes.iter().filter(|known| known.month != month).count();
    for note in notes {
        if month != bill.month && note.kind == NoteKind::MeterCountsNothing {
            continue;
        }
        match bill.notes[..newer].iter_mut().find(|known| known.note == note) {
            Some(known) if known.also.last().is_some_and(|last| last == month) => {}
            Some(known) => known.also.push(month.to_owned()),
            None => bill.notes.push(MonthNote { month: month.to_owned(), also: vec![], note }),
        }
    }
}

fn notes(json: &str) -> Result<Vec<BillNote>, BooksError> {
    serde_json::from_str(json).map_err(|e| BooksError::Integrity(format!("bill_versions: the notes: {e}")))
}

/// Usage of the current month and of the last days, by meter.
async fn usage(c: &Connection, now: Timestamp) -> Result<(Vec<MonthUsage>, Vec<DayUsage>), BooksError> {
    let month = Month::of(now);
    let oldest = now - jiff::SignedDuration::from_hours(24 * i64::from(DAYS));
    let from = oldest.to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    let first = month.first_day().to_string();
    let sql = "SELECT day, meter, attributed, units, rest FROM usage_totals WHERE day > ?1 ORDER BY day, meter";
    let mut rows = c.query(sql, params![from.clone().min(first.clone())]).await?;
    let mut days: BTreeMap<(String, String), Sums> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let sums = days.entry((row.get(0)?, row.get(1)?)).or_default();
        let quantity = Quantity::from_parts(row.get(3)?, row.get(4)?);
        if row.get::<i64>(2)? == 1 {
            sums.0 = quantity;
        } else {
            sums.1 = quantity;
        }
    }
    let last = month.last_day().to_string();
    let mut months: BTreeMap<&str, (Sums, i64)> = BTreeMap::new();
    for ((day, meter), (attributed, unattributed)) in &days {
        let (sums, newest) = months.entry(meter).or_default();
        if (&first..=&last).contains(&day) && !(attributed.is_zero() && unattributed.is_zero()) {
            sums.0 += *attributed;
            sums.1 += *unattributed;
            *newest = day.rsplit('-').next().and_then(|of_month| of_month.parse().ok()).unwrap_or_default();
        }
    }
    let newest_of_all = months.values().map(|(_, newest)| *newest).max().unwrap_or_default();
    let months = months.into_iter().map(|(meter, ((attributed, unattributed), newest))| MonthUsage {
        meter: meter.to_owned(),
        attributed,
        unattributed,
        days: newest.max(newest_of_all - METERS_APART),
    });
    let months = months.collect();
    let days = days.into_iter().filter(|((day, _), _)| *day > from);
    let day = |((day, meter), (attributed, unattributed)): ((String, String), Sums)| DayUsage {
        day,
        meter,
        attributed,
        unattributed,
    };
    Ok((months, days.map(day).collect()))
}

async fn stripe(c: &Connection) -> Result<StripeStats, BooksError> {
    let mut found = StripeStats::default();
    let open = "SELECT state, count(*), min(created_at), min(first_attempt_at) FROM meter_events INDEXED BY meter_events_open \
                WHERE state IN ('pending', 'sending', 'unconfirmed') GROUP BY state";
    let ended = "SELECT (SELECT count(*) FROM meter_events WHERE state = 'refused'), (SELECT coalesce(max(seq), 0) FROM meter_events)";
    let (mut rows, ended, alarms, some_alarms, hold) = tokio::try_join!(
        c.query(open, ()),
        first_row(c, ended, ()),
        alarm::count(c),
        alarm::alarms(c, NAMED),
        billing_hold(c),
    )?;
    while let Some(row) = rows.next().await? {
        let count = row.get(1)?;
        match row.get::<String>(0)?.as_str() {
            "pending" => (found.events.pending, found.oldest_pending_at) = (count, at(&row, 2)?),
            "unconfirmed" => (found.events.unconfirmed, found.oldest_unconfirmed_at) = (count, at(&row, 3)?),
            _ => found.events.sending = count,
        }
    }
    if let Some(row) = ended {
        found.events.refused = row.get(0)?;
        let open: i64 = found.events.named().iter().map(|(_, count)| count).sum();
        found.events.settled = row.get::<i64>(1)? - open;
    }
    Ok(StripeStats { alarms, some_alarms, restored_from: hold.map(|hold| hold.backup_at), ..found })
}

/// Of notifications to the web backend, and of messages to the operator.
async fn notifications(c: &Connection) -> Result<(NotificationStats, NotificationStats), BooksError> {
    let sql = "SELECT count(*), (SELECT count(*) FROM notifications WHERE state = 'dead'), min(created_at), \
                      (SELECT count(*) FROM operator_messages WHERE state = 'pending'), \
                      (SELECT count(*) FROM operator_messages WHERE state = 'dead'), \
                      (SELECT min(created_at) FROM operator_messages WHERE state = 'pending') \
               FROM (SELECT created_at FROM notifications INDEXED BY notifications_expiring \
                     WHERE state = 'pending' ORDER BY give_up_at LIMIT ?1)";
    let Some(row) = first_row(c, sql, params![MANY]).await? else { return Ok(Default::default()) };
    let of = |first: i32| -> Result<NotificationStats, BooksError> {
        let (pending, dead) = (row.get(first)?, row.get(first + 1)?);
        Ok(NotificationStats { pending, dead, oldest_pending_at: at(&row, first + 2)? })
    };
    Ok((of(0)?, of(3)?))
}

async fn decisions(c: &Connection) -> Result<BTreeMap<String, Decisions>, BooksError> {
    let sql = format!(
        "SELECT meter, CASE WHEN allowed = 0 THEN iif(used > 0 AND reason IN {REACHED}, 'blocked', 'denied') \
                            WHEN effective_limit IS NOT NULL AND used / 4 >= effective_limit / 5 THEN 'near' \
                            WHEN used > included THEN 'overage' ELSE 'allowed' END AS decision, count(*) \
         FROM entitlements GROUP BY 1, 2"
    );
    let mut rows = c.query(&sql, ()).await?;
    let mut found: BTreeMap<String, Decisions> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let of = found.entry(row.get(0)?).or_default();
        let count = row.get(2)?;
        match row.get::<String>(1)?.as_str() {
            "blocked" => of.blocked = count,
            "denied" => of.denied = count,
            "near" => of.near = count,
            "overage" => of.overage = count,
            _ => of.allowed = count,
        }
    }
    Ok(found)
}

async fn near_limit(c: &Connection) -> Result<Vec<NearLimit>, BooksError> {
    let sql = format!(
        "SELECT customer, meter, allowed, reason, used, effective_limit, used_measured, blocked_at FROM entitlements \
         WHERE iif(allowed = 0, used > 0 AND reason IN {REACHED}, effective_limit IS NOT NULL AND used / 4 >= effective_limit / 5) \
         ORDER BY allowed, used * 1.0 / max(coalesce(effective_limit, 1), 1) DESC, customer, meter LIMIT {NAMED}"
    );
    let mut rows = c.query(&sql, ()).await?;
    let mut found = vec![];
    let quantity = |scaled: i64| Quantity::from_scaled(i128::from(scaled));
    while let Some(row) = rows.next().await? {
        found.push(NearLimit {
            customer: row.get(0)?,
            meter: row.get(1)?,
            allowed: row.get::<i64>(2)? == 1,
            reason: row.get(3)?,
            used: quantity(row.get(4)?),
            limit: row.get::<Option<i64>>(5)?.map(quantity),
            used_measured: quantity(row.get(6)?),
            blocked_at: row.get::<Option<i64>>(7)?.map(instant),
        });
    }
    Ok(found)
}

/// Usage of the current month and the one before under ids without a row in `customers`; a bill of
/// a month's last days comes in the next month. Steps through the index from id to id, and not from
/// day to day.
async fn unknown(c: &Connection, now: Timestamp) -> Result<BTreeMap<String, Quantity>, BooksError> {
    let sql = concat!(
        "WITH RECURSIVE ids (id) AS ( \
                 SELECT (SELECT min(customer) FROM ledger_entries WHERE customer > '') \
                 UNION ALL SELECT (SELECT min(customer) FROM ledger_entries WHERE customer > ids.id) FROM ids WHERE ids.id IS NOT NULL) \
               SELECT u.meter, ",
        sum_of_units!("u.quantity"),
        ", ",
        sum_of_rests!("u.quantity"),
        " \
               FROM ids CROSS JOIN booked_usage u ON u.customer = ids.id \
               WHERE ids.id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM customers k WHERE k.id = ids.id) AND u.day BETWEEN ?1 AND ?2 GROUP BY u.meter"
    );
    let month = Month::of(now);
    let days = params![month.previous().first_day().to_string(), month.last_day().to_string()];
    let mut rows = c.query(sql, days).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        found.insert(row.get(0)?, Quantity::from_parts(row.get(1)?, row.get(2)?));
    }
    Ok(found)
}

/// Only the amounts of billing targets, which indexes answer: shortfalls, and deferred amounts, in
/// units of the meters.
pub async fn amounts(c: &Connection) -> Result<CustomerStats, BooksError> {
    let per_unit = "SELECT meter, per_unit FROM stripe_meters";
    // no difference of a delay: `reconcile_stripe` compares what was sent more than a day ago
    let shortfalls =
        "SELECT meter, sum(abs(shortfall)) FROM billing_targets WHERE shortfall IS NOT NULL GROUP BY meter";
    let deferred = "SELECT meter, iif(acknowledged, 'acknowledged', reason) AS shown, count(*), sum(amount), \
                 min(iif(amount > 0 AND NOT acknowledged, since, NULL)) FROM deferred_amounts GROUP BY meter, shown";
    let (mut rows, mut shortfalls, mut deferred) =
        tokio::try_join!(c.query(per_unit, ()), c.query(shortfalls, ()), c.query(deferred, ()))?;
    let mut found = CustomerStats::default();
    let mut per_unit: BTreeMap<String, Decimal> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        per_unit.insert(row.get(0)?, row.get::<String>(1)?.parse().unwrap_or(Decimal::ONE));
    }
    // Stripe's whole numbers in units of the meter, to ten decimals
    let units = |meter: &str, events: i64| {
        let by = per_unit.get(meter).copied().filter(|by| !by.is_zero()).unwrap_or(Decimal::ONE);
        let units = Decimal::from(events).checked_div(by).unwrap_or_default().round_dp(10);
        units.to_string().parse::<Quantity>().map_err(|e| BooksError::Integrity(e.to_string()))
    };
    while let Some(row) = shortfalls.next().await? {
        let meter: String = row.get(0)?;
        found.drift.insert(meter.clone(), units(&meter, row.get(1)?)?);
    }
    for meter in per_unit.keys() {
        found.drift.entry(meter.clone()).or_default();
        found.deferred_units.entry(meter.clone()).or_default();
    }
    while let Some(row) = deferred.next().await? {
        let (meter, reason): (String, String) = (row.get(0)?, row.get(1)?);
        *found.deferred.entry(reason).or_default() += row.get::<i64>(2)?;
        *found.deferred_units.entry(meter.clone()).or_default() += units(&meter, row.get(3)?)?;
        let since = at(&row, 4)?;
        found.oldest_deferred_at = [found.oldest_deferred_at, since].into_iter().flatten().min();
    }
    Ok(found)
}
