//! The parts of a large bill: planned files, and the sums that workers read from them. Rows live
//! until a version of their bill is booked.

use crate::store::connection::{Connection, Row, params};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::usage::bill::{BillFile, BillId};

/// A file, as it was when the bill was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    pub key: String,
    pub size: u64,
    pub etag: String,
}

/// Identifies a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartId {
    pub bill: BillId,
    /// Digest over version, files and rules.
    pub identity: String,
    pub part: u32,
}

/// The files of a part, as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFacts {
    pub files: Vec<BillFile>,
    /// Files with counted lines and without a column for the customer tag.
    pub files_without_tag: usize,
}

/// A part that was read.
#[derive(Clone, Debug)]
pub struct StoredPart {
    pub facts: PartFacts,
    /// Its sums, packed by the job that read it.
    pub sums: Vec<u8>,
}

fn from_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, BooksError> {
    serde_json::from_str(text).map_err(|e| BooksError::Integrity(format!("a stored part of a bill: {e}")))
}

impl Database {
    /// Plans the parts of a bill, unless they are planned already, and returns those that are not
    /// read yet. Other plans for the bill are removed when they are older than a day; a younger one
    /// may belong to another export of the payer, or to a worker with other rules.
    pub async fn plan_parts(
        &self,
        bill: &BillId,
        identity: &str,
        groups: Vec<Vec<PlannedFile>>,
        now: Timestamp,
    ) -> Result<Vec<u32>, BooksError> {
        let (bill, identity) = (bill.clone(), identity.to_owned());
        let rows = json(&groups)?;
        let day_before = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(Timestamp::MIN).to_string();
        self.transaction(async move |c| {
            let (payer, month) = (bill.payer.clone(), bill.month.to_string());
            let other = "DELETE FROM bill_parts WHERE payer = ?1 AND month = ?2 AND identity <> ?3 AND planned_at < ?4";
            c.execute(other, params![payer.clone(), month.clone(), identity.clone(), day_before]).await?;
            let sql = "INSERT INTO bill_parts (payer, month, identity, part, groups, files, planned_at) \
                       SELECT ?1, ?2, ?3, key, json_array_length(?4), value, ?5 FROM json_each(?4) \
                       WHERE true ON CONFLICT DO NOTHING";
            let values = params![payer.clone(), month.clone(), identity.clone(), rows, now.to_string()];
            c.execute(sql, values).await?;
            let sql = "SELECT part FROM bill_parts WHERE payer = ?1 AND month = ?2 AND identity = ?3 AND sums IS NULL \
                       ORDER BY part";
            let mut missing = c.query(sql, params![payer, month, identity]).await?;
            let mut parts = vec![];
            while let Some(row) = missing.next().await? {
                parts.push(row.get(0)?);
            }
            Ok(parts)
        })
        .await
    }

    /// The files of a part; none when it is read already, or not planned any more.
    pub async fn planned_part(&self, id: &PartId) -> Result<Option<Vec<PlannedFile>>, BooksError> {
        let id = id.clone();
        self.with_connection(async move |c| {
            let sql = "SELECT files FROM bill_parts WHERE payer = ?1 AND month = ?2 AND identity = ?3 AND part = ?4 \
                       AND sums IS NULL";
            let row =
                first_row(c, sql, params![id.bill.payer, id.bill.month.to_string(), id.identity, id.part]).await?;
            row.map(|row| from_json(&row.get::<String>(0)?)).transpose()
        })
        .await
    }

    /// Stores the sums of a part once. False when it is stored already, or not planned any more.
    pub async fn store_part(&self, id: &PartId, facts: &PartFacts, sums: Vec<u8>) -> Result<bool, BooksError> {
        let (id, facts) = (id.clone(), json(facts)?);
        self.transaction(async move |c| {
            let sql = "UPDATE bill_parts SET facts = ?5, sums = ?6 WHERE payer = ?1 AND month = ?2 AND identity = ?3 \
                       AND part = ?4 AND sums IS NULL";
            let month = id.bill.month.to_string();
            Ok(c.execute(sql, params![id.bill.payer, month, id.identity, id.part, facts, sums]).await? == 1)
        })
        .await
    }

    /// A part, if it is read.
    pub async fn read_part(&self, id: &PartId) -> Result<Option<StoredPart>, BooksError> {
        let id = id.clone();
        self.with_connection(async move |c| {
            let sql = "SELECT facts, sums FROM bill_parts WHERE payer = ?1 AND month = ?2 AND identity = ?3 AND part = ?4 \
                       AND sums IS NOT NULL";
            let row = first_row(c, sql, params![id.bill.payer, id.bill.month.to_string(), id.identity, id.part]).await?;
            let part = |row: Row| Ok(StoredPart { facts: from_json(&row.get::<String>(0)?)?, sums: row.get(1)? });
            row.map(part).transpose()
        })
        .await
    }

    /// Removes the sums of a part, so that it is read again.
    pub async fn forget_part(&self, id: &PartId) -> Result<(), BooksError> {
        let id = id.clone();
        self.transaction(async move |c| {
            let sql = "UPDATE bill_parts SET facts = NULL, sums = NULL WHERE payer = ?1 AND month = ?2 AND identity = ?3 AND part = ?4";
            c.execute(sql, params![id.bill.payer, id.bill.month.to_string(), id.identity, id.part]).await?;
            Ok(())
        })
        .await
    }
}

/// Removes all parts of a bill, in the transaction that books it.
pub async fn clear(c: &Connection, bill: &BillId) -> Result<(), BooksError> {
    let sql = "DELETE FROM bill_parts WHERE payer = ?1 AND month = ?2";
    c.execute(sql, params![bill.payer.clone(), bill.month.to_string()]).await?;
    Ok(())
}
