//! Folding measurements of long ago into `measured_days`.
//!
//! A measurement is folded whole, when it is over, in the transaction that removes it. From then on
//! nothing that is as old is taken (`folded_until`): a late repeat would be a second row.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::measurements::{columns, is_by_bound, measurement, over_at};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows, json};
use crate::store::settings;
use crate::units::calendar::Day;
use crate::units::quantity::UNIT;

/// Measurements that one transaction folds.
const PAGE: i64 = 2000;
/// The setting with the instant up to which bounds were counted.
const COUNTED: &str = "measured_bounds_until";

/// A primary key of `measurements`.
type Key = [String; 3];

/// Keys of the next measurements that were over before an instant.
const NEXT: &str = concat!(
    "SELECT customer, meter, id FROM measurements WHERE (customer, meter, id) > (?1, ?2, ?3) AND ",
    over_at!(),
    " < ?4 ORDER BY customer, meter, id LIMIT ?5"
);
/// Another report may have changed one meanwhile.
const REMOVE: &str = concat!(
    "DELETE FROM measurements \
     WHERE (customer, meter, id) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1)) AND ",
    over_at!(),
    " < ?2 RETURNING customer, meter, ",
    columns!()
);
const ADD: &str =
    "ON CONFLICT (customer, meter, day) DO UPDATE SET units = units + excluded.units, rest = rest + excluded.rest";

/// The next page of keys. It looks at every row, so it takes no lock.
async fn next(c: &Connection, after: Key, before: i64) -> Result<Vec<Key>, BooksError> {
    let [customer, meter, id] = after;
    let mut rows = c.query(NEXT, params![customer, meter, id, before, PAGE]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push([row.get(0)?, row.get(1)?, row.get(2)?]);
    }
    Ok(found)
}

/// Folds measurements, inside a transaction; returns how many.
async fn fold(c: &Connection, keys: String, before: i64) -> Result<u64, BooksError> {
    let mut rows = c.query(REMOVE, params![keys, before]).await?;
    let mut removed = 0;
    let mut days: BTreeMap<(String, String, Day), i128> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let (customer, meter): (String, String) = (row.get(0)?, row.get(1)?);
        for (day, weight) in measurement(&row, 2)?.by_day(i64::MIN, i64::MAX) {
            *days.entry((customer.clone(), meter.clone(), day)).or_default() += weight;
        }
        removed += 1;
    }
    drop(rows);
    let too_large = |_| BooksError::Integrity("a measured day is too large to be folded".into());
    let mut parts = vec![];
    for (key, weight) in &days {
        let units = i64::try_from(weight / UNIT).map_err(too_large)?;
        parts.push((key, units, i64::try_from(weight % UNIT).map_err(too_large)?));
    }
    let head = "INSERT INTO measured_days (customer, meter, day, units, rest)";
    insert_rows(c, head, ADD, &parts, |((customer, meter, day), units, rest)| {
        [customer.clone().into(), meter.clone().into(), day.to_string().into(), (*units).into(), (*rest).into()]
    })
    .await?;
    Ok(removed)
}

impl Database {
    /// Folds every measurement that was over before the day `before`. Returns how many.
    pub async fn fold_measurements(&self, before: Day) -> Result<u64, BooksError> {
        let before = i64::from(before.epoch()) * 86_400;
        // before the first row goes, so that no repeat of it can come back
        self.transaction(async move |c| {
            c.execute("UPDATE measured_meters SET folded_until = ?1 WHERE folded_until < ?1", params![before]).await
        })
        .await?;
        let (mut after, mut folded) = (Key::default(), 0);
        loop {
            let keys = self.with_connection(async move |c| next(c, after, before).await).await?;
            let Some(last) = keys.last() else { break };
            after = last.clone();
            let keys = json(&keys)?;
            folded += self.transaction(async move |c| fold(c, keys, before).await).await?;
        }
        Ok(folded)
    }

    /// How many uses reached their bound without an end since this was last asked, up to `now`.
    pub async fn count_bounds(&self, now: Timestamp) -> Result<u64, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let since = settings::get(c, COUNTED).await?.and_then(|text| text.parse().ok()).unwrap_or(0_i64);
            if since >= now {
                return Ok(0);
            }
            let sql = concat!(
                "SELECT count(*) FROM measurements WHERE expires_at > ?1 AND expires_at <= ?2 AND ",
                is_by_bound!()
            );
            let found = first_row(c, sql, params![since, now]).await?.map_or(Ok(0), |row| row.get(0))?;
            settings::put(c, COUNTED, &now.to_string()).await?;
            Ok(found)
        })
        .await
    }
}
