//! The entries of the ledger behind one figure.

use jiff::Timestamp;
use serde::Serialize;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::delivered;
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;

/// A booked entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BookedEntry {
    pub quantity: Quantity,
    /// `usage`, `adjustment` or `apportioned`.
    pub kind: String,
    pub payer: String,
    /// The month of the bill.
    pub month: Month,
    /// `assemblyId` or `executionId` of the bill.
    pub version: String,
    pub booked_at: Timestamp,
}

impl Database {
    /// What was booked of a customer, meter and day, one entry after another.
    pub async fn entries(&self, customer: &str, meter: &str, day: Day) -> Result<Vec<BookedEntry>, BooksError> {
        let values = params![customer, meter, day.to_string()];
        self.with_connection(async move |c| {
            let sql = "SELECT u.quantity, u.kind, u.payer, u.month, v.version, v.decided_at FROM booked_usage u \
                       JOIN bill_versions v ON v.id = u.version_id \
                       WHERE u.customer = ?1 AND u.meter = ?2 AND u.day = ?3 ORDER BY u.version_id";
            let mut rows = c.query(sql, values).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let month: String = row.get(3)?;
                found.push(BookedEntry {
                    quantity: Quantity::from_scaled(row.get::<i64>(0)?.into()),
                    kind: row.get(1)?,
                    payer: row.get(2)?,
                    month: month.parse().map_err(|_| BooksError::Integrity(format!("`{month}` is no month")))?,
                    version: row.get(4)?,
                    booked_at: delivered(&row.get::<String>(5)?)?,
                });
            }
            Ok(found)
        })
        .await
    }
}
