//! Whether a customer can be erased: what of it still goes on, and which tables hold it.

use std::time::Duration;

use jiff::Timestamp;

use crate::store::connection::{Connection, Row, Value};
use crate::store::error::BooksError;
use crate::units::calendar::instant;

/// Tables with a column `customer`, but for those that an erasure handles by itself.
pub(super) async fn tables_of_customers(c: &Connection) -> Result<Vec<String>, BooksError> {
    let sql = "SELECT t.name FROM pragma_table_list t JOIN pragma_table_xinfo(t.name) c \
               WHERE t.schema = 'main' AND t.type = 'table' AND c.name = 'customer' \
                 AND t.name NOT IN ('erasing', 'stripe_due', 'enforcement_due') ORDER BY t.name";
    let mut rows = c.query(sql, ()).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(row.get(0)?);
    }
    Ok(found)
}

const STATUS: &str = "SELECT status FROM customers WHERE id = ?1 AND status <> 'canceled'";
/// Subscriptions that go on, or may begin.
const SUBSCRIPTIONS: &str = "SELECT id || ' (' || status || ')' FROM subscriptions WHERE customer = ?1 \
    AND status NOT IN ('canceled', 'incomplete_expired') AND (ended_at IS NULL OR ended_at > ?2)";
const EVENTS: &str = "SELECT seq || ' (' || state || ')' FROM meter_events WHERE customer = ?1 \
    AND state IN ('pending', 'sending', 'unconfirmed', 'refused') ORDER BY seq LIMIT 5";
/// Ends of periods whose invoice can still change.
const INVOICES: &str = "SELECT ends_at FROM invoiced_periods WHERE customer = ?1 AND starts_at <= ?2 AND ends_at + ?3 > ?2 \
    ORDER BY ends_at";
/// Ends of open periods with usage.
const USED_PERIODS: &str = "SELECT p.ends_at FROM billing_periods p WHERE p.customer = ?1 AND p.starts_at <= ?2 AND p.ends_at > ?2 \
    AND (EXISTS (SELECT 1 FROM booked_usage u WHERE u.customer = ?1 AND u.day BETWEEN p.first_day AND p.last_day) \
      OR EXISTS (SELECT 1 FROM measured_days u WHERE u.customer = ?1 AND u.day BETWEEN p.first_day AND p.last_day) \
      OR EXISTS (SELECT 1 FROM measurements u WHERE u.customer = ?1 AND coalesce(u.quantity, u.level) > 0 \
                 AND coalesce(u.ended_at, u.expires_at, u.started_at) >= p.starts_at))";
const NOTIFICATIONS: &str =
    "SELECT id FROM notifications WHERE customer = ?1 AND state = 'pending' ORDER BY seq LIMIT 5";
const READING: &str = "SELECT DISTINCT payer || ' ' || month FROM bill_parts";

fn text(row: &Row) -> Result<String, BooksError> {
    row.get(0)
}

fn time(row: &Row) -> Result<String, BooksError> {
    Ok(instant(row.get(0)?).to_string())
}

/// Something that may be in the way, and what to do then.
struct Question {
    sql: &'static str,
    values: Vec<Value>,
    read: fn(&Row) -> Result<String, BooksError>,
    what: &'static str,
    remedy: &'static str,
}

/// What must be done before the customer can be erased, a sentence for each. An invoice is final
/// `grace` after the end of its billing period.
pub(super) async fn in_the_way(
    c: &Connection,
    id: &str,
    grace: Duration,
    now: Timestamp,
) -> Result<Vec<String>, BooksError> {
    let (own, now): (Value, Value) = (id.into(), now.as_second().into());
    let grace: Value = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX).into();
    let (of, at) = (vec![own.clone()], vec![own.clone(), now.clone()]);
    let until = vec![own, now, grace];
    let ask = |sql, values: &[Value], read, what, remedy| Question { sql, values: values.to_vec(), read, what, remedy };
    let questions = [
        ask(STATUS, &of, text, "its status is", "`meter customer set ID --status canceled` ends what it may use"),
        ask(SUBSCRIPTIONS, &at, text, "it has a subscription:", "end it at Stripe, and wait for `sync_stripe`"),
        ask(EVENTS, &of, text, "events for Stripe are not settled:", "wait, or `meter events retry` or `discard` them"),
        ask(INVOICES, &until, time, "an invoice is not final, of the billing period up to", "wait for it"),
        ask(USED_PERIODS, &at, time, "it has usage in the open billing period up to", "wait for its end"),
        ask(NOTIFICATIONS, &of, text, "notifications wait to be sent:", "wait; `meter notifications list` shows them"),
        ask(READING, &[], text, "a large bill is being read:", "wait; `meter jobs list` shows the job"),
    ];
    let mut found = vec![];
    for Question { sql, values, read, what, remedy } in questions {
        let mut rows = c.query(sql, values).await?;
        let mut names = vec![];
        while let Some(row) = rows.next().await? {
            names.push(read(&row)?);
        }
        if !names.is_empty() {
            found.push(format!("{what} {}; {}", names.join(", "), remedy.replace("ID", id)));
        }
    }
    Ok(found)
}
