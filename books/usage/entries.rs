//! The entries of the ledger behind a figure, and the bills that they were booked from.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{delivered, json};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;
use crate::usage::bill::{BillFile, BillId};

/// A booked entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BookedEntry {
    pub meter: String,
    pub day: Day,
    pub quantity: Quantity,
    /// `usage`, `adjustment` or `apportioned`.
    pub kind: String,
    pub payer: String,
    /// The month of the bill.
    pub month: Month,
    /// `assemblyId` or `executionId` of the bill.
    pub version: String,
    pub booked_at: Timestamp,
    #[serde(skip)]
    pub version_id: i64,
}

/// A version of a bill that entries were booked from, or the newest one of such a bill.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BookedVersion {
    #[serde(skip)]
    pub id: i64,
    #[serde(flatten)]
    pub bill: BillId,
    /// `assemblyId` or `executionId`.
    pub version: String,
    /// Name of the export that delivered it.
    pub export: String,
    pub delivered_at: Timestamp,
    pub booked_at: Timestamp,
    /// Whether it is the newest one that was booked.
    pub is_current: bool,
    #[serde(skip)]
    pub rules_digest: String,
    /// As they were when they were read.
    pub files: Vec<BillFile>,
}

/// Which entries are looked up.
#[derive(Clone, Debug)]
pub struct EntriesFilter {
    pub customer: String,
    pub meters: Vec<String>,
    pub first: Day,
    pub last: Day,
}

/// Entries, by meter, day and booking, and the versions of their bills, the oldest booking first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BookedEntries {
    pub entries: Vec<BookedEntry>,
    pub versions: Vec<BookedVersion>,
}

const ENTRIES: &str = "SELECT u.meter, u.day, u.quantity, u.kind, u.payer, u.month, v.version, v.decided_at, v.id FROM booked_usage u \
    JOIN bill_versions v ON v.id = u.version_id \
    WHERE u.customer = ?1 AND u.meter IN (SELECT value FROM json_each(?2)) AND u.day BETWEEN ?3 AND ?4 \
    ORDER BY u.meter, u.day, u.version_id";

/// ?1 [`BillId`]s, ?2 ids of versions.
const VERSIONS: &str = "SELECT v.id, v.payer, v.month, v.version, v.export, v.delivered_at, v.decided_at, v.rules_digest, \
      v.id = (SELECT max(n.id) FROM bill_versions n WHERE n.payer = v.payer AND n.month = v.month AND n.state = 'applied') AS is_current \
    FROM json_each(?1) b JOIN bill_versions v ON v.payer = b.value ->> 'payer' AND v.month = b.value ->> 'month' \
    WHERE v.state = 'applied' AND (is_current OR v.id IN (SELECT value FROM json_each(?2))) ORDER BY v.id";

const FILES: &str = "SELECT version_id, key, size, etag, rows, row_groups, counted_rows FROM bill_files \
    WHERE version_id IN (SELECT value FROM json_each(?1)) ORDER BY version_id, key";

impl Database {
    /// What was booked of a customer on some days, one entry after another.
    pub async fn booked_entries(&self, filter: EntriesFilter) -> Result<BookedEntries, BooksError> {
        let EntriesFilter { customer, meters, first, last } = filter;
        self.with_connection(async move |c| {
            let values = params![customer, json(&meters)?, first.to_string(), last.to_string()];
            let mut rows = c.query(ENTRIES, values).await?;
            let mut found = BookedEntries::default();
            while let Some(row) = rows.next().await? {
                found.entries.push(BookedEntry {
                    meter: row.get(0)?,
                    day: parsed(&row.get::<String>(1)?)?,
                    quantity: Quantity::from_scaled(row.get::<i64>(2)?.into()),
                    kind: row.get(3)?,
                    payer: row.get(4)?,
                    month: parsed(&row.get::<String>(5)?)?,
                    version: row.get(6)?,
                    booked_at: delivered(&row.get::<String>(7)?)?,
                    version_id: row.get(8)?,
                });
            }
            let ids: BTreeSet<i64> = found.entries.iter().map(|entry| entry.version_id).collect();
            let bills: BTreeSet<(&str, Month)> =
                found.entries.iter().map(|entry| (entry.payer.as_str(), entry.month)).collect();
            let bills: Vec<BillId> =
                bills.into_iter().map(|(payer, month)| BillId { payer: payer.to_owned(), month }).collect();
            let mut rows = c.query(VERSIONS, params![json(&bills)?, json(&ids)?]).await?;
            while let Some(row) = rows.next().await? {
                found.versions.push(BookedVersion {
                    id: row.get(0)?,
                    bill: BillId { payer: row.get(1)?, month: parsed(&row.get::<String>(2)?)? },
                    version: row.get(3)?,
                    export: row.get(4)?,
                    delivered_at: delivered(&row.get::<String>(5)?)?,
                    booked_at: delivered(&row.get::<String>(6)?)?,
                    rules_digest: row.get(7)?,
                    is_current: row.get::<i64>(8)? == 1,
                    files: vec![],
                });
            }
            let ids: Vec<i64> = found.versions.iter().map(|version| version.id).collect();
            let mut rows = c.query(FILES, params![json(&ids)?]).await?;
            while let Some(row) = rows.next().await? {
                let id: i64 = row.get(0)?;
                let file = BillFile {
                    key: row.get(1)?,
                    size: row.get(2)?,
                    etag: row.get(3)?,
                    rows: row.get(4)?,
                    row_groups: row.get(5)?,
                    counted_rows: row.get(6)?,
                };
                if let Some(version) = found.versions.iter_mut().find(|version| version.id == id) {
                    version.files.push(file);
                }
            }
            Ok(found)
        })
        .await
    }
}

fn parsed<T: std::str::FromStr>(text: &str) -> Result<T, BooksError> {
    text.parse().map_err(|_| BooksError::Integrity(format!("`{text}` in the database is no day and no month")))
}
