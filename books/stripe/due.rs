//! The customers that are due for planning (`stripe_due`), and what else waits for `push_stripe`.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, Value, Write, params};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::pace::Pace;
use crate::store::rows::{first_row, json, json_parts};
use crate::store::settings;
use crate::usage::ledger::UNATTRIBUTED;

/// What waits for `push_stripe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Whether a customer is due.
    pub customers: bool,
    /// Whether an event is due.
    pub events: bool,
    /// Whether an error report of Stripe is unread.
    pub reports: bool,
    /// The newest version that is booked.
    pub newest_version: i64,
    /// The newest version that was booked before an earlier run planned.
    pub planned_version: i64,
}

/// A due customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DueSince {
    pub customer: String,
    /// The first day on which usage may have changed; `""` for every day.
    pub from_day: String,
}

/// When a customer is due again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DueAgain {
    pub customer: String,
    /// None: not before something changes.
    pub due_at: Option<i64>,
}

/// The setting with the newest version whose customers have been made due.
pub const PLANNED_VERSION: &str = "planned_version";

/// Customers that are due at ?1, at most ?2.
const DUE: &str = "SELECT customer, from_day FROM stripe_due INDEXED BY stripe_due_by_time WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2";

/// Deferred amounts of the customers that are not due at ?1, by reason.
const WAITING_OF_OTHERS: &str = "SELECT reason, count(*) FROM deferred_amounts \
    WHERE NOT acknowledged AND customer NOT IN (SELECT customer FROM stripe_due WHERE due_at <= ?1) GROUP BY reason";

/// Customers that are due at ?1, that have entries of the meters ?4 in versions after ?2 up to ?3,
/// or, with ?5, all.
const WOULD_BE_DUE: &str = "SELECT customer, from_day FROM stripe_due WHERE due_at <= ?1 \
    UNION ALL SELECT e.customer, min(e.day) FROM bookings b CROSS JOIN ledger_entries e ON e.booking_id = b.id \
      WHERE b.version_id > ?2 AND b.version_id <= ?3 AND e.customer <> '' \
      AND e.meter IN (SELECT value FROM json_each(?4)) GROUP BY e.customer \
    UNION ALL SELECT id, '' FROM customers WHERE ?5";

/// The next customers after ?2 with entries of the meters ?3 in the booking ?1, at most ?4.
const OF_BOOKING: &str = "SELECT customer, min(day) FROM ledger_entries WHERE booking_id = ?1 AND customer > ?2 \
    AND meter IN (SELECT value FROM json_each(?3)) GROUP BY customer ORDER BY customer LIMIT ?4";

/// Makes the customers of the [`DueSince`]s ?1 due.
const MARK_DUE: &str = "INSERT INTO stripe_due (customer, due_at, from_day) \
    SELECT value ->> 'customer', 0, value ->> 'from_day' FROM json_each(?1) WHERE true \
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day)";

/// The last of the next customers after ?1, at most ?2, and how many they are.
const NEXT: &str = "SELECT max(id), count(*) FROM (SELECT id FROM customers WHERE id > ?1 ORDER BY id LIMIT ?2)";

/// Makes the customers after ?1 up to ?2 due. Usage on days before ?3 counts as unchanged.
const MARK_ALL_DUE: &str = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT id, 0, ?3 FROM customers WHERE id > ?1 AND id <= ?2 \
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day)";

/// Customers of a transaction that makes them due.
const CUSTOMERS: Pace = Pace::new(5000, 20_000);

/// What waits for `push_stripe`. Reads a few rows, however large the tables are.
pub async fn backlog(c: &Connection, now: i64) -> Result<Backlog, BooksError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM stripe_due WHERE due_at <= ?1), \
               EXISTS (SELECT 1 FROM meter_events WHERE next_at <= ?1), \
               EXISTS (SELECT 1 FROM stripe_error_reports WHERE read_at IS NULL), \
               (SELECT coalesce(max(version_id), 0) FROM bookings), \
               (SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'planned_version')";
    let Some(row) = first_row(c, sql, params![now]).await? else { return Ok(Backlog::default()) };
    Ok(Backlog {
        customers: row.get(0)?,
        events: row.get(1)?,
        reports: row.get(2)?,
        newest_version: row.get(3)?,
        planned_version: row.get::<Option<i64>>(4)?.unwrap_or(0),
    })
}

/// A short text that changes when a plan does.
pub async fn plans_fingerprint(c: &Connection) -> Result<String, BooksError> {
    let row = first_row(c, "SELECT count(*) || ' ' || coalesce(max(applied_at), 0) FROM plans", ()).await?;
    row.map_or(Ok(String::new()), |row| row.get(0))
}

impl Database {
    /// As [`backlog`].
    pub async fn backlog(&self, now: Timestamp) -> Result<Backlog, BooksError> {
        let now = now.as_second();
        self.with_connection(async move |c| backlog(c, now).await).await
    }

    /// At most `limit` due customers, each with the first day on which usage may have changed. And
    /// the deferred amounts of all customers that are not due, by reason, as [`waiting_of_others`].
    pub async fn due(&self, limit: u32, now: Timestamp) -> Result<(Vec<DueSince>, BTreeMap<String, u64>), BooksError> {
        let now = now.as_second();
        self.with_connection(async move |c| {
            tokio::try_join!(read(c, DUE, params![now, limit]), counts(c, WAITING_OF_OTHERS, params![now]))
        })
        .await
    }

    /// Makes the customers of newly booked versions due, one version after another.
    pub async fn mark_due_for_bookings(&self, backlog: Backlog, meters: Vec<String>) -> Result<(), BooksError> {
        let meters = json(&meters)?;
        let (planned, newest) = (backlog.planned_version, backlog.newest_version);
        let bookings = self.with_connection(async move |c| {
            let sql =
                "SELECT id, version_id FROM bookings WHERE version_id > ?1 AND version_id <= ?2 ORDER BY version_id";
            let mut rows = c.query(sql, params![planned, newest]).await?;
            let mut bookings: Vec<(i64, i64)> = vec![];
            while let Some(row) = rows.next().await? {
                bookings.push((row.get(0)?, row.get(1)?));
            }
            Ok(bookings)
        });
        for (id, version) in bookings.await? {
            let (mut after, mut pace) = (UNATTRIBUTED.to_owned(), CUSTOMERS);
            loop {
                let (last, meters) = (after.clone(), meters.clone());
                let limit = pace.limit();
                let page =
                    self.with_connection(async move |c| read(c, OF_BOOKING, params![id, last, meters, limit]).await);
                let page = page.await?;
                if let Some(last) = page.last() {
                    after.clone_from(&last.customer);
                }
                let is_last = page.len() < pace.rows();
                let (start, parts) = (Instant::now(), json_parts(&page)?);
                let mark = self.transaction(async move |c| {
                    let mut writes: Vec<Write> = parts.into_iter().map(|rows| (MARK_DUE, vec![rows.into()])).collect();
                    writes.extend(is_last.then(|| settings::write(PLANNED_VERSION, &version.to_string())));
                    c.batch(writes).await.map(drop)
                });
                mark.await?;
                if is_last {
                    break;
                }
                pace.learn(page.len(), start);
            }
        }
        Ok(())
    }

    /// Makes every customer due if the setting `name` is not `value`, and stores `value`. Usage on
    /// days before `from_day` counts as unchanged.
    pub async fn mark_all_due_when(&self, name: &'static str, value: &str, from_day: &str) -> Result<(), BooksError> {
        if self.setting(name).await?.as_deref() == Some(value) {
            return Ok(());
        }
        self.mark_all_due(from_day, vec![settings::write(name, value)]).await
    }

    /// Makes every customer due in transactions of some, the last of which also runs `then`.
    pub async fn mark_all_due(&self, from_day: &str, then: Vec<Write>) -> Result<(), BooksError> {
        let (mut after, mut pace, mut then) = (String::new(), CUSTOMERS, Some(then));
        loop {
            let (from, limit) = (after.clone(), pace.limit());
            let page = self.with_connection(async move |c| {
                let Some(row) = first_row(c, NEXT, params![from, limit]).await? else { return Ok((None, 0)) };
                Ok((row.get::<Option<String>>(0)?, row.get::<u32>(1)?))
            });
            let (last, found) = page.await?;
            let is_last = found < limit;
            let mut writes: Vec<Write> = vec![];
            if let Some(last) = last {
                writes.push((MARK_ALL_DUE, vec![after.into(), last.clone().into(), from_day.into()]));
                after = last;
            }
            writes.extend(then.take_if(|_| is_last).into_iter().flatten());
            let start = Instant::now();
            self.transaction(async move |c| c.batch(writes).await.map(drop)).await?;
            if is_last {
                return Ok(());
            }
            pace.learn(pace.rows(), start);
        }
    }
}

/// As [`Database::due`], without a limit, and with the customers that the next run would make due.
pub async fn would_be_due(
    c: &Connection,
    backlog: Backlog,
    meters: &[String],
    now: i64,
) -> Result<Vec<DueSince>, BooksError> {
    let sql = format!("SELECT customer, min(from_day) FROM ({WOULD_BE_DUE}) GROUP BY customer");
    read(c, &sql, would_be_due_params(backlog, meters, now)?).await
}

fn would_be_due_params(backlog: Backlog, meters: &[String], now: i64) -> Result<[Value; 5], BooksError> {
    // before the first run every customer is due
    let everybody = backlog.planned_version == 0;
    let Backlog { planned_version, newest_version, .. } = backlog;
    Ok([now.into(), planned_version.into(), newest_version.into(), json(meters)?.into(), i64::from(everybody).into()])
}

/// Deferred amounts of all customers that the next run does not plan, by reason. Acknowledged
/// amounts do not count.
pub async fn waiting_of_others(
    c: &Connection,
    backlog: Backlog,
    meters: &[String],
    now: i64,
) -> Result<BTreeMap<String, u64>, BooksError> {
    let sql = format!(
        "SELECT reason, count(*) FROM deferred_amounts \
         WHERE NOT acknowledged AND customer NOT IN (SELECT customer FROM ({WOULD_BE_DUE})) GROUP BY reason"
    );
    counts(c, &sql, would_be_due_params(backlog, meters, now)?).await
}

async fn counts(
    c: &Connection,
    sql: &str,
    params: impl crate::store::connection::params::IntoParams,
) -> Result<BTreeMap<String, u64>, BooksError> {
    let (mut rows, mut found) = (c.query(sql, params).await?, BTreeMap::new());
    while let Some(row) = rows.next().await? {
        found.insert(row.get(0)?, row.get(1)?);
    }
    Ok(found)
}

async fn read(
    c: &Connection,
    sql: &str,
    params: impl crate::store::connection::params::IntoParams,
) -> Result<Vec<DueSince>, BooksError> {
    let mut rows = c.query(sql, params).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(DueSince { customer: row.get(0)?, from_day: row.get(1)? });
    }
    Ok(found)
}

/// Removes planned customers from `stripe_due`, or sets when they are due again.
pub fn mark_planned(customers: &[DueAgain]) -> Result<[Write; 2], BooksError> {
    let rows = json(customers)?;
    let planned = "DELETE FROM stripe_due WHERE customer IN (SELECT value ->> 'customer' FROM json_each(?1))";
    let again = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT value ->> 'customer', value ->> 'due_at', '9999' FROM json_each(?1) \
                 WHERE value ->> 'due_at' IS NOT NULL ON CONFLICT (customer) DO NOTHING";
    Ok([(planned, vec![rows.clone().into()]), (again, vec![rows.into()])])
}

/// Postpones customers. The first day on which usage may have changed stays stored.
pub fn postpone(customers: &[DueAgain]) -> Result<Write, BooksError> {
    let sql = "UPDATE stripe_due SET due_at = j.value ->> 'due_at' FROM json_each(?1) j WHERE customer = j.value ->> 'customer'";
    Ok((sql, vec![json(customers)?.into()]))
}
