//! Which months of each payer are booked whole, and which must still be read.
//!
//! AWS finishes a month in the days after its end. So a month is complete when it is booked from a
//! version that was delivered a week after the end or later. Every reading goes back to the months
//! that are not, so that a worker that was off for months misses none. AWS delivers a month only
//! when something changed, so most months end with a version of that week: it is read again, and
//! nobody is called for it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::connection::{Connection, Row, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::store::settings;
use crate::units::calendar::Month;

/// Months before the current one that are looked after. AWS can apply a tag anew to twelve
/// (`StartCostAllocationTagBackfill`); older ones change only by a support case.
pub const WINDOW: u8 = 12;
/// AWS issues a month's invoice on the 3rd to the 7th of the next month
/// (<https://docs.aws.amazon.com/cur/latest/userguide/view-finalized-cur.html>). A version from so
/// long after the month's end has its final figures. Without any version from after the end by
/// then, they were missed.
pub const FINAL_AFTER: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A month that is booked from a version of the week after its end is read again for so long.
const PROVISIONAL: SignedDuration = SignedDuration::from_hours(90 * 24);
/// The setting that keeps the newest look at closed months.
const LOOKS: &str = "month_looks";

/// The newest version of a month that is booked or, while none is, on hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KnownMonth {
    /// False while all of its versions are on hold.
    pub booked: bool,
    /// The newest version on hold.
    pub on_hold: Option<ManifestOnHold>,
    /// Name of the export that delivered the version.
    pub export: String,
    pub version: String,
    pub manifest_digest: String,
    /// The manifest of the version that the booked one took back, if it did.
    pub taken_back: Option<String>,
    pub delivered_at: Timestamp,
    pub decided_at: Timestamp,
}

impl KnownMonth {
    /// When it was delivered, at the latest: what it says of that may lie in the future.
    fn delivered_by(&self) -> Timestamp {
        self.delivered_at.min(self.decided_at)
    }
}

/// A version that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestOnHold {
    pub manifest_digest: String,
    pub decided_at: Timestamp,
}

/// The months of a payer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PayerMonths {
    /// The first month that has a version. What is before it was never wanted.
    pub first: Month,
    /// Months of the window that have a version.
    pub known: BTreeMap<Month, KnownMonth>,
}

/// The months of each payer that has a version.
pub type Months = BTreeMap<String, PayerMonths>;

/// What is known of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonthState {
    /// It is not over, or not for long enough to have its final figures.
    Open,
    /// It is booked from a version with its final figures.
    Complete,
    /// It is over, and the booked version is from the days after its end, in which AWS finishes it.
    Provisional,
    /// It is over, and the booked version is from before its end.
    NotFinal,
    /// It is over, and no version was ever booked or put on hold.
    Unread,
    /// A version of it waits for a person.
    OnHold,
}

/// The end of a month.
fn end(month: Month) -> Timestamp {
    month.last_day().end()
}

/// The first month of the window.
fn window(now: Timestamp) -> Month {
    (0..WINDOW).fold(Month::of(now), |month, _| month.previous())
}

impl PayerMonths {
    /// The months from the payer's first one on, as far as the window goes back, with the current
    /// one.
    fn all(&self, now: Timestamp) -> Vec<Month> {
        Month::range(self.first.max(window(now)), Month::of(now))
    }

    /// What is known of a month from the first one on.
    pub fn state(&self, month: Month, now: Timestamp) -> MonthState {
        match self.known.get(&month) {
            Some(known) if known.on_hold.is_some() => MonthState::OnHold,
            Some(known) if known.delivered_by() >= end(month) + FINAL_AFTER => MonthState::Complete,
            Some(known) if known.delivered_by() >= end(month) => MonthState::Provisional,
            Some(_) if now < end(month) + FINAL_AFTER => MonthState::Open,
            Some(_) => MonthState::NotFinal,
            None if now < end(month) => MonthState::Open,
            None => MonthState::Unread,
        }
    }

    /// Whether readings go back to a month by themselves. A provisional one is read for some time
    /// after its end; later its invoices are long out, and a person decides about each change.
    fn is_read_again(&self, month: Month, now: Timestamp) -> bool {
        match self.state(month, now) {
            MonthState::Complete | MonthState::OnHold => false,
            MonthState::Provisional => now < end(month) + PROVISIONAL,
            MonthState::Open | MonthState::NotFinal | MonthState::Unread => true,
        }
    }

    /// The months that are over and lack their figures.
    pub fn gaps(&self, now: Timestamp) -> impl Iterator<Item = (Month, MonthState)> {
        let all = self.all(now).into_iter().map(move |month| (month, self.state(month, now)));
        all.filter(|(_, state)| matches!(state, MonthState::NotFinal | MonthState::Unread))
    }

    /// The months that are over and older than `lookback`, so that no reading looks at them by
    /// itself once they are complete.
    pub fn closed(&self, now: Timestamp, lookback: u8) -> Vec<Month> {
        let recent = Month::back_to(Month::of(now), lookback);
        self.all(now).into_iter().filter(|month| !recent.contains(month)).collect()
    }
}

/// The months that a reading of a payer's bills goes through, the oldest first: the current one,
/// `lookback` before it, and all since the payer's first one that are not complete. Months that
/// wait for a person are left alone. `since` is the month in which somebody first read, if there
/// was no version then.
pub(super) fn to_read(of: Option<&PayerMonths>, since: Option<Month>, lookback: u8, now: Timestamp) -> Vec<Month> {
    let recent = Month::of(now).back_to(lookback);
    let from = match (of, since) {
        (None, None) => recent[0],
        // a new export rarely has a bill of the months before it, so they are tried no longer than
        // there is none at all
        (None, Some(since)) => since.back_to(lookback)[0],
        (Some(of), since) => since.map_or(of.first, |since| since.min(of.first)),
    };
    let unsure = |month: &Month| *month < recent[0] && of.is_none_or(|of| of.is_read_again(*month, now));
    let mut months = Month::range(from.max(window(now)), Month::of(now));
    months.retain(unsure);
    months.extend(recent);
    months
}

/// What a look at a month's newest manifest found.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// The version that is booked, or an older one.
    AsBooked,
    /// Another version than the booked one.
    Other { version: String, manifest_digest: String, delivered_at: Timestamp },
    /// No manifest.
    Nothing,
    /// A manifest that cannot be used, and why.
    Unreadable(String),
}

/// A look at the newest manifest of a month that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonthLook {
    pub payer: String,
    pub export: String,
    pub month: Month,
    pub at: Timestamp,
    pub found: Found,
}

impl MonthLook {
    /// Whether a person should read the month: its bill is another than the one that is booked or
    /// on hold, or cannot be used, no reading goes back to it, and nothing was booked or put on
    /// hold since.
    pub fn is_open(&self, of: &PayerMonths, now: Timestamp) -> bool {
        let other = match &self.found {
            Found::Other { manifest_digest, .. } if !of.is_read_again(self.month, now) => Some(manifest_digest),
            Found::Unreadable(_) => None,
            Found::Other { .. } | Found::AsBooked | Found::Nothing => return false,
        };
        let is_newer = |digest: &String, decided_at: Timestamp| other != Some(digest) && decided_at < self.at;
        let Some(known) = of.known.get(&self.month) else { return true };
        is_newer(&known.manifest_digest, known.decided_at)
            && known.on_hold.as_ref().is_none_or(|of| is_newer(&of.manifest_digest, of.decided_at))
    }
}

fn parse<T: std::str::FromStr>(row: &Row, column: i32) -> Result<T, BooksError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| BooksError::Integrity(format!("`{text}` in the database is not what its column holds")))
}

/// The months of each payer, as far as the window goes back.
pub async fn months(c: &Connection, now: Timestamp) -> Result<Months, BooksError> {
    let all = json(&Month::range(window(now), Month::of(now)))?;
    let mut rows = c.query(include_str!("months.sql"), params![all]).await?;
    let mut found = Months::new();
    while let Some(row) = rows.next().await? {
        let first = parse(&row, 1)?;
        let of = found.entry(row.get(0)?).or_insert_with(|| PayerMonths { first, known: BTreeMap::new() });
        let (booked, on_hold) = (row.get::<i64>(3)? == 1, row.get::<Option<String>>(4)?);
        if booked || on_hold.is_some() {
            // an instant that cannot be read is old, so the month is read again
            let instant = |column| parse(&row, column).unwrap_or_default();
            let known = KnownMonth {
                booked,
                on_hold: on_hold.map(|manifest_digest| ManifestOnHold { manifest_digest, decided_at: instant(5) }),
                export: row.get(6)?,
                version: row.get(7)?,
                manifest_digest: row.get(8)?,
                delivered_at: instant(9),
                decided_at: instant(10),
                taken_back: row.get(11)?,
            };
            of.known.insert(parse(&row, 2)?, known);
        }
    }
    Ok(found)
}

/// The newest look at closed months; empty when there was none, or another build made it.
pub async fn looks(c: &Connection) -> Result<Vec<MonthLook>, BooksError> {
    let kept = settings::get(c, LOOKS).await?;
    Ok(kept.and_then(|kept| serde_json::from_str(&kept).ok()).unwrap_or_default())
}

impl Database {
    /// The months of each payer, as far as the window goes back.
    pub async fn months(&self, now: Timestamp) -> Result<Months, BooksError> {
        self.with_connection(async move |c| months(c, now).await).await
    }

    /// Keeps a look at closed months in place of the one before.
    pub async fn keep_looks(&self, looks: &[MonthLook]) -> Result<(), BooksError> {
        let kept = json(looks)?;
        self.transaction(async move |c| settings::put(c, LOOKS, &kept).await).await
    }
}

#[cfg(test)]
mod tests;
