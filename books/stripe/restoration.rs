//! Whether these books were restored from a backup, and what may not be planned or compared until
//! Stripe's totals are imported.

use libsql::{Connection, params};

use super::invoice::open_after;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};

/// That these books were restored from a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// When the backup was made.
    pub backup_at: i64,
    /// From when on the lost books may have sent what these do not know: the backup, or the first
    /// attempt of what was open in it.
    pub since: i64,
    /// When it was first seen that they are restored; the lost books sent nothing later.
    pub at: i64,
    /// False as long as no `push_stripe` has acted on it.
    pub seen: bool,
}

/// Customers and meters of which an invoice is to be taken over. ?1 objects with a
/// customer, ?2 meters, ?3 and ?4 [`bounds`].
pub const WAITING: &str = "SELECT DISTINCT b.customer, m.value FROM json_each(?1) j CROSS JOIN covered_periods b ON b.customer = j.value ->> 'customer' CROSS JOIN json_each(?2) m \
    LEFT JOIN billing_targets t ON t.customer = b.customer AND t.meter = m.value AND t.period_start = b.starts_at \
    WHERE b.starts_at < ?3 AND b.ends_at > ?4 AND b.covered_until > b.starts_at AND t.imported_until IS NOT min(b.covered_until, ?3)";

/// Whether the books were restored, as of `now`.
pub async fn restoration(c: &Connection, now: i64) -> Result<Option<Restoration>, BooksError> {
    let sql = "SELECT (SELECT value FROM settings WHERE name = 'backup_at'), (SELECT value FROM settings WHERE name = 'restored_from'), \
               (SELECT value FROM settings WHERE name = 'restored_since'), (SELECT value FROM settings WHERE name = 'restored_at')";
    let Some(row) = first_row(c, sql, ()).await? else { return Ok(None) };
    let number = |i: i32| -> Result<Option<i64>, BooksError> {
        let text = row.get::<Option<String>>(i)?;
        let wrong = |e| BooksError::Integrity(format!("settings: an instant is wrong: {e}"));
        text.map(|t| t.parse().map_err(wrong)).transpose()
    };
    if let Some(backup_at) = number(0)? {
        let since = first_open(c).await?.map_or(backup_at, |first| first.min(backup_at));
        return Ok(Some(Restoration { backup_at, since, at: now, seen: false }));
    }
    Ok(match (number(1)?, number(2)?, number(3)?) {
        (Some(backup_at), Some(since), Some(at)) => Some(Restoration { backup_at, since, at, seen: true }),
        _ => None,
    })
}

/// The first attempt of what is under way or unconfirmed.
async fn first_open(c: &Connection) -> Result<Option<i64>, BooksError> {
    let sql = "SELECT min(first_attempt_at) FROM meter_events WHERE state IN ('sending', 'unconfirmed')";
    Ok(first_row(c, sql, ()).await?.map_or(Ok(None), |row| row.get(0))?)
}

/// Which periods the lost books may have sent to: those that began before the first, and end after
/// the second. None when there were none.
pub async fn bounds(c: &Connection, now: i64, grace: i64) -> Result<(i64, i64), BooksError> {
    let found = restoration(c, now).await?;
    Ok(found.map_or((i64::MIN, i64::MAX), |r| (r.at, open_after(r.since, grace))))
}

/// Customers and meters, of those that are asked for, for which nothing is planned until an invoice
/// is taken over.
pub async fn waiting(
    c: &Connection,
    asked: String,
    meters: &[String],
    now: i64,
    grace: i64,
) -> Result<Vec<(String, String)>, BooksError> {
    let (at, open) = bounds(c, now, grace).await?;
    let mut found = vec![];
    if at == i64::MIN {
        return Ok(found);
    }
    let mut rows = c.query(WAITING, params![asked, json(meters)?, at, open]).await?;
    while let Some(row) = rows.next().await? {
        found.push((row.get(0)?, row.get(1)?));
    }
    Ok(found)
}
