//! The bookings that take an applied plan back: each is what the version before was, with the
//! opposite of the entries that the plan booked.
//!
//! A sum of the ledger is then what it was before the plan. That holds only while nothing was
//! booked on top of it, so a plan with a newer version of one of its bills is not taken back.

use jiff::Timestamp;

use super::applied_plans::AppliedPlan;
use super::bill::{BillId, CurrentVersion, MeterTotals, Version, VersionKey, current};
use super::booking::{Booking, BookingOrigin};
use super::ledger::{Adjustments, EntryKind, VersionEntry};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::erased;
use crate::store::error::BooksError;
use crate::store::rows::{delivered, first_row};

/// Entries that are read at once: a server's answer has at most 10 MB.
const PAGE: i64 = 20_000;

/// Why a plan cannot be taken back.
#[derive(Debug, thiserror::Error)]
pub enum RevertError {
    /// A newer version of one of its bills is booked.
    #[error(
        "the bill of {} {} was booked again after change {plan}, from version {version} at {at}; what change {plan} \
         did cannot be taken out from under it",
        bill.payer, bill.month
    )]
    BookedSince { plan: i64, bill: BillId, version: String, at: Timestamp },
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// The stored columns of a version.
struct StoredVersion {
    version: Version,
    supersedes: Option<i64>,
}

async fn stored(c: &Connection, id: i64, bill: &BillId) -> Result<StoredVersion, BooksError> {
    let sql = "SELECT export, format, version, manifest_key, manifest_digest, rules_digest, account, delivered_at, \
                 accepted, rows, counted_rows, rounded_amounts, newest_day, notes, reports_digest, supersedes \
               FROM bill_versions WHERE id = ?1";
    let wrong = |what: &str| BooksError::Integrity(format!("version {id}: {what} cannot be read"));
    let row = first_row(c, sql, params![id]).await?.ok_or_else(|| wrong("its row"))?;
    let newest_day: Option<String> = row.get(12)?;
    let format: String = row.get(1)?;
    let format = ["legacy", "cur2"].into_iter().find(|known| *known == format).ok_or_else(|| wrong("format"))?;
    let version = Version {
        bill: bill.clone(),
        key: VersionKey { version: row.get(2)?, manifest_digest: row.get(4)?, rules_digest: row.get(5)? },
        export: row.get(0)?,
        format,
        manifest_key: row.get(3)?,
        account: row.get(6)?,
        delivered_at: delivered(&row.get::<String>(7)?)?,
        rows: row.get(9)?,
        counted_rows: row.get(10)?,
        rounded_amounts: row.get(11)?,
        newest_day: newest_day.map(|day| day.parse()).transpose().map_err(|_| wrong("newest_day"))?,
        accepted: row.get(8)?,
        notes: serde_json::from_str(&row.get::<String>(13)?).map_err(|_| wrong("notes"))?,
        reports_digest: row.get(14)?,
    };
    Ok(StoredVersion { version, supersedes: row.get(15)? })
}

/// The version that takes `of` back: the one before it again, or one without any usage.
async fn version_before(c: &Connection, of: &StoredVersion) -> Result<Version, BooksError> {
    match of.supersedes {
        Some(before) => Ok(stored(c, before, &of.version.bill).await?.version),
        None => Ok(Version {
            rows: 0,
            counted_rows: 0,
            rounded_amounts: 0,
            newest_day: None,
            accepted: String::new(),
            notes: vec![],
            reports_digest: String::new(),
            ..of.version.clone()
        }),
    }
}

async fn totals(c: &Connection, version: i64) -> Result<Vec<MeterTotals>, BooksError> {
    let sql = "SELECT meter, unit, lines, total, attributed, apportioned, unattributed, excluded, booked \
               FROM bill_totals WHERE version_id = ?1 ORDER BY meter";
    let mut rows = c.query(sql, params![version]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let amount = |column| {
            let text: String = row.get(column)?;
            text.parse().map_err(|e| BooksError::Integrity(format!("bill_totals: {e}")))
        };
        found.push(MeterTotals {
            meter: row.get(0)?,
            unit: row.get(1)?,
            lines: row.get(2)?,
            total: amount(3)?,
            attributed: amount(4)?,
            apportioned: amount(5)?,
            unattributed: amount(6)?,
            excluded: amount(7)?,
            booked: amount(8)?,
        });
    }
    Ok(found)
}

fn kind(name: &str) -> Result<EntryKind, BooksError> {
    match name {
        // what is taken back was booked before, so its opposite is a change
        "usage" | "adjustment" => Ok(EntryKind::Adjustment),
        "apportioned" => Ok(EntryKind::Apportioned),
        other => Err(BooksError::Integrity(format!("ledger_entries.kind is `{other}`"))),
    }
}

/// Entries of a version after one, in the order of their cells.
async fn page(c: &Connection, version: i64, after: Option<&VersionEntry>) -> Result<Vec<VersionEntry>, BooksError> {
    let (customer, meter, day) =
        after.map_or_else(Default::default, |of| (of.customer.clone(), of.meter.clone(), of.day.to_string()));
    let sql = "SELECT customer, meter, day, quantity, kind FROM ledger_entries \
               WHERE booking_id = (SELECT id FROM bookings WHERE version_id = ?1) AND (customer, meter, day) > (?2, ?3, ?4) \
               ORDER BY customer, meter, day LIMIT ?5";
    let mut rows = c.query(sql, params![version, customer, meter, day, PAGE]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let day: String = row.get(2)?;
        found.push(VersionEntry {
            customer: row.get(0)?,
            meter: row.get(1)?,
            day: day.parse().map_err(|_| BooksError::Integrity(format!("ledger_entries.day is `{day}`")))?,
            quantity: row.get(3)?,
            kind: kind(&row.get::<String>(4)?)?,
        });
    }
    Ok(found)
}

impl Database {
    /// The entries of a booked version, in the order of customer, meter and day. Entries of first
    /// quantities are of kind `adjustment` here.
    pub async fn entries_of(&self, version: i64) -> Result<Vec<VersionEntry>, BooksError> {
        let mut all: Vec<VersionEntry> = vec![];
        loop {
            let after = all.last().cloned();
            let some = self.with_connection(async move |c| page(c, version, after.as_ref()).await).await?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend(some);
        }
    }

    /// The bookings that take back what a plan booked.
    ///
    /// # Errors
    /// [`RevertError::BookedSince`] when one of its bills has a newer version.
    pub async fn opposite_bookings(&self, plan: &AppliedPlan) -> Result<Vec<Booking>, RevertError> {
        let mut bookings = vec![];
        for of in plan.versions.iter().filter(|of| of.reverts.is_none()) {
            let bill = BillId { payer: of.payer.clone(), month: of.month };
            let (id, wanted) = (of.id, bill.clone());
            let read = self.with_connection(async move |c| {
                let newest = current(c, &wanted).await?;
                let taken = stored(c, id, &wanted).await?;
                let version = version_before(c, &taken).await?;
                let totals = match taken.supersedes {
                    Some(before) => totals(c, before).await?,
                    None => vec![],
                };
                Ok((newest, version, taken.supersedes, totals, erased::count(c).await?))
            });
            let (newest, version, before, totals, erased) = read.await?;
            if let Some(CurrentVersion { key, decided_at, .. }) = newest.filter(|newest| newest.id != of.id) {
                return Err(RevertError::BookedSince { plan: plan.number, bill, version: key.version, at: decided_at });
            }
            let entries = self.entries_of(of.id).await?;
            bookings.push(Booking {
                version,
                against: Some(of.id),
                files: vec![],
                lines: vec![],
                cost_lines: vec![],
                totals,
                shared_days: vec![],
                origin: BookingOrigin::TakesBack { reverts: of.id, before },
                adjustments: Adjustments::opposite(entries)?,
                erased,
                accepted_by: None,
            });
        }
        Ok(bookings)
    }
}
