//! Folding measurements of long ago into `measured_days`.
//!
//! A measurement is folded whole, when it is over, in the transaction that removes it. From then on
//! nothing that is as old is taken (`folded_until`): a late repeat would be a second row.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::measurements::{columns, is_by_bound, measurement, over_at};
use crate::store::connection::{Connection, Value, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows};
use crate::store::settings;
use crate::units::calendar::Day;
use crate::units::quantity::UNIT;

/// Measurements that one transaction folds.
const PAGE: usize = 2000;
/// The setting with the instant up to which bounds were counted.
const COUNTED: &str = "measured_bounds_until";

/// A primary key of `measurements`.
type Key = [String; 3];

/// The next measurements that were over before an instant, in the order of their keys.
const NEXT: &str = concat!(
    "SELECT customer, meter, id, ",
    columns!(),
    " FROM measurements WHERE (customer, meter, id) > (?1, ?2, ?3) AND ",
    over_at!(),
    " < ?4 ORDER BY customer, meter, id LIMIT ?5"
);
const REMOVE: &str = concat!(
    "DELETE FROM measurements WHERE (customer, meter, id) > (?1, ?2, ?3) AND (customer, meter, id) <= (?4, ?5, ?6) AND ",
    over_at!(),
    " < ?7"
);

/// Folds one page behind `after`. Returns the last key of the page and its number of rows; none
/// when there are no more.
async fn page(c: &Connection, after: Key, before: i64) -> Result<Option<(Key, usize)>, BooksError> {
    let [customer, meter, id] = after.clone();
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    let mut rows = c.query(NEXT, params![customer, meter, id, before, limit]).await?;
    let (mut last, mut count) = (None, 0);
    let mut days: BTreeMap<(String, String, Day), i128> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let key: Key = [row.get(0)?, row.get(1)?, row.get(2)?];
        for (day, weight) in measurement(&row, 3)?.by_day(i64::MIN, i64::MAX) {
            *days.entry((key[0].clone(), key[1].clone(), day)).or_default() += weight;
        }
        last = Some(key);
        count += 1;
    }
    drop(rows);
    let Some(last) = last else { return Ok(None) };
    let days: Vec<_> = days.into_iter().collect();
    let too_large = |_| BooksError::Integrity("a measured day is too large to be folded".into());
    let mut parts = vec![];
    for (key, weight) in &days {
        let units = i64::try_from(weight / UNIT).map_err(too_large)?;
        parts.push((key, units, i64::try_from(weight % UNIT).map_err(too_large)?));
    }
    insert_rows(
        c,
        "INSERT INTO measured_days (customer, meter, day, units, rest)",
        "ON CONFLICT (customer, meter, day) DO UPDATE SET units = units + excluded.units, rest = rest + excluded.rest",
        &parts,
        |((customer, meter, day), units, rest)| {
            [customer.clone().into(), meter.clone().into(), day.to_string().into(), (*units).into(), (*rest).into()]
        },
    )
    .await?;
    let values = after.into_iter().chain(last.clone()).map(Value::from).chain([before.into()]);
    c.execute(REMOVE, values.collect::<Vec<Value>>()).await?;
    Ok(Some((last, count)))
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
        while let Some((last, count)) = {
            let after = after.clone();
            self.transaction(async move |c| page(c, after, before).await).await?
        } {
            after = last;
            folded += u64::try_from(count).unwrap_or(u64::MAX);
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
