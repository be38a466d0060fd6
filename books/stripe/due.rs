//! The customers that are due for planning (`stripe_due`), and what else waits for `push_stripe`.

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::store::settings;

/// What waits for `push_stripe`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Whether a customer is due.
    pub customers: bool,
    /// Whether an event is due.
    pub events: bool,
    /// Whether an error report of Stripe is unread.
    pub reports: bool,
    /// Number of the newest ledger entry.
    pub newest_entry: i64,
    /// Number of the newest ledger entry that an earlier run has processed.
    pub processed_entry: i64,
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

/// Customers that are due at ?1, at most ?2.
const DUE: &str = "SELECT customer, from_day FROM stripe_due INDEXED BY stripe_due_by_time WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2";

/// Makes the customers of ledger entries due: entries of the meters ?2, numbered after ?1 up to
/// ?3.
const MARK_DUE: &str = "INSERT INTO stripe_due (customer, due_at, from_day) \
    SELECT customer, 0, min(day) FROM ledger_entries WHERE seq > ?1 AND seq <= ?3 AND customer <> '' \
      AND meter IN (SELECT value FROM json_each(?2)) GROUP BY customer \
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day)";

impl Database {
    /// What waits for `push_stripe`. Reads a few rows, however large the tables are.
    pub async fn backlog(&self, now: Timestamp) -> Result<Backlog, BooksError> {
        let now = now.as_second();
        self.with_connection(async move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM stripe_due WHERE due_at <= ?1), \
                       EXISTS (SELECT 1 FROM meter_events WHERE next_at <= ?1), \
                       EXISTS (SELECT 1 FROM stripe_error_reports WHERE read_at IS NULL), \
                       (SELECT coalesce(max(seq), 0) FROM ledger_entries), \
                       (SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'entry')";
            let Some(row) = first_row(c, sql, params![now]).await? else { return Ok(Backlog::default()) };
            let yes = |i: i32| -> Result<bool, BooksError> { Ok(row.get::<i64>(i)? == 1) };
            Ok(Backlog {
                customers: yes(0)?,
                events: yes(1)?,
                reports: yes(2)?,
                newest_entry: row.get(3)?,
                processed_entry: row.get::<Option<i64>>(4)?.unwrap_or(0),
            })
        })
        .await
    }

    /// Makes the customers of new ledger entries due. Returns how many there are.
    pub async fn mark_due_for_entries(&self, backlog: Backlog, meters: Vec<String>) -> Result<u64, BooksError> {
        self.transaction(async move |c| {
            let marked =
                c.execute(MARK_DUE, params![backlog.processed_entry, json(&meters)?, backlog.newest_entry]).await?;
            settings::put(c, "entry", &backlog.newest_entry.to_string()).await?;
            Ok(marked)
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
            row.map_or(Ok(String::new()), |row| row.get(0))
        })
        .await
    }
}

/// At most `limit` due customers, each with the first day on which usage may have changed.
pub async fn due(c: &Connection, limit: u32, now: i64) -> Result<Vec<DueSince>, BooksError> {
    read(c, DUE, params![now, limit]).await
}

/// As [`due`], without a limit, and with the customers that the next run would make due.
pub async fn would_be_due(
    c: &Connection,
    backlog: Backlog,
    meters: &[String],
    now: i64,
) -> Result<Vec<DueSince>, BooksError> {
    // before the first run every customer is due
    let everybody = backlog.processed_entry == 0;
    let sql = "SELECT customer, min(from_day) FROM ( \
               SELECT customer, from_day FROM stripe_due WHERE due_at <= ?1 \
               UNION ALL SELECT customer, min(day) FROM ledger_entries WHERE seq > ?2 AND seq <= ?3 AND customer <> '' \
                 AND meter IN (SELECT value FROM json_each(?4)) GROUP BY customer \
               UNION ALL SELECT id, '' FROM customers WHERE ?5) GROUP BY customer";
    read(c, sql, params![now, backlog.processed_entry, backlog.newest_entry, json(meters)?, i64::from(everybody)]).await
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
pub async fn mark_planned(c: &Connection, customers: &[DueAgain]) -> Result<(), BooksError> {
    let rows = json(customers)?;
    let sql = "DELETE FROM stripe_due WHERE customer IN (SELECT value ->> 'customer' FROM json_each(?1))";
    c.execute(sql, params![rows.clone()]).await?;
    let sql = "INSERT INTO stripe_due (customer, due_at, from_day) SELECT value ->> 'customer', value ->> 'due_at', '9999' FROM json_each(?1) \
               WHERE value ->> 'due_at' IS NOT NULL ON CONFLICT (customer) DO NOTHING";
    c.execute(sql, params![rows]).await?;
    Ok(())
}

/// Postpones customers. The first day on which usage may have changed stays stored.
pub async fn postpone(c: &Connection, customers: &[DueAgain]) -> Result<(), BooksError> {
    if !customers.is_empty() {
        let sql = "UPDATE stripe_due SET due_at = j.value ->> 'due_at' FROM json_each(?1) j WHERE customer = j.value ->> 'customer'";
        c.execute(sql, params![json(customers)?]).await?;
    }
    Ok(())
}
