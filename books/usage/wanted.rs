//! Which months a reading of each payer's bills goes through.
//!
//! A payer's first version says since when its bills are wanted. While there is none, a setting
//! keeps the month in which somebody first read: an export that was broken for months is read from
//! there on, once it works.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::months::{Months, months, to_read};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::units::calendar::Month;

/// The settings of [`Wanted::since`], each followed by the payer.
const SINCE: &str = "wanted_since/";

/// What decides which months are read.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    months: Months,
    /// Of payers that had no version then, the month in which somebody first read.
    since: BTreeMap<String, Month>,
}

impl Wanted {
    /// Whether a version of the payer was ever booked or put on hold.
    pub fn has_version(&self, payer: &str) -> bool {
        self.months.contains_key(payer)
    }

    /// The months that a reading of the payer's bills goes through, the oldest first: the current
    /// one, `lookback` before it, and all older ones of the window that are not complete.
    pub fn to_read(&self, payer: &str, lookback: u8, now: Timestamp) -> Vec<Month> {
        to_read(self.months.get(payer), self.since.get(payer).copied(), lookback, now)
    }
}

async fn wanted(c: &Connection, now: Timestamp) -> Result<Wanted, BooksError> {
    let kept = "SELECT substr(name, length(?1) + 1), value FROM settings WHERE substr(name, 1, length(?1)) = ?1";
    let (months, mut rows) = tokio::try_join!(months(c, now), c.query(kept, params![SINCE]))?;
    let mut since = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        if let Ok(month) = row.get::<String>(1)?.parse() {
            since.insert(row.get(0)?, month);
        }
    }
    Ok(Wanted { months, since })
}

impl Database {
    /// What decides at `now` which months are read.
    pub async fn wanted(&self, now: Timestamp) -> Result<Wanted, BooksError> {
        self.with_connection(async move |c| wanted(c, now).await).await
    }

    /// As [`Self::wanted`], for a reading of `payers`: of those without a version it keeps that
    /// they are wanted since `since`, or since the earlier month that was kept before.
    pub async fn want(&self, payers: &[String], since: Month, now: Timestamp) -> Result<Wanted, BooksError> {
        let mut wanted = self.wanted(now).await?;
        let later = |payer: &&String| wanted.since.get(*payer).is_none_or(|kept| *kept > since);
        let new: Vec<String> = payers.iter().filter(|p| !wanted.has_version(p)).filter(later).cloned().collect();
        if new.is_empty() {
            return Ok(wanted);
        }
        let names = json(&new)?;
        self.transaction(async move |c| {
            let sql = "INSERT INTO settings (name, value) SELECT ?1 || value, ?2 FROM json_each(?3) WHERE true \
                       ON CONFLICT (name) DO UPDATE SET value = min(value, excluded.value)";
            c.execute(sql, params![SINCE, since.to_string(), names]).await.map(drop)
        })
        .await?;
        wanted.since.extend(new.into_iter().map(|payer| (payer, since)));
        Ok(wanted)
    }
}
