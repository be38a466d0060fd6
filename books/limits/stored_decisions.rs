//! Reading the stored decisions.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::enforcement;
use crate::limits::entitlement::{COLUMNS, Entitlement, Reason, StoredEntitlement, reason_named, scaled};
use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::units::calendar::instant;
use crate::units::quantity::Quantity;

/// A decision of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct PastDecision {
    pub decided_at: Timestamp,
    pub allowed: bool,
    pub reason: Reason,
    pub effective_limit: Option<Quantity>,
}

/// Reads a row of [`COLUMNS`] as JSON.
fn stored(row: &str) -> Result<Entitlement, BooksError> {
    let wrong = |e: serde_json::Error| BooksError::Integrity(format!("entitlement {row}: {e}"));
    serde_json::from_str::<StoredEntitlement>(row).map_err(wrong)?.try_into()
}

impl Database {
    /// The stored decisions of one customer, or of all.
    pub async fn entitlements(&self, customer: Option<String>) -> Result<Vec<Entitlement>, BooksError> {
        self.with_connection(async move |c| {
            let of = if customer.is_some() { "customer = ?1" } else { "?1 IS NULL" };
            let sql = format!("SELECT json_array({COLUMNS}) FROM entitlements WHERE {of} ORDER BY customer, meter");
            let last = enforcement::read(c).await?;
            let mut rows = c.query(&sql, params![customer]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(enforcement::with_newest_bill(stored(&row.get::<String>(0)?)?, last.as_ref()));
            }
            Ok(found)
        })
        .await
    }

    /// The stored decisions of some customers, as they were decided.
    pub async fn entitlements_of(&self, customers: &[String]) -> Result<Vec<Entitlement>, BooksError> {
        let customers = json(customers)?;
        self.with_connection(async move |c| {
            let sql = format!(
                "SELECT json_array({COLUMNS}) FROM entitlements WHERE customer IN (SELECT value FROM json_each(?1))"
            );
            let (mut rows, mut found) = (c.query(&sql, params![customers]).await?, vec![]);
            while let Some(row) = rows.next().await? {
                found.push(stored(&row.get::<String>(0)?)?);
            }
            Ok(found)
        })
        .await
    }

    /// The newest decisions about a customer's meter that differ from the one before, newest first.
    pub async fn entitlement_history(
        &self,
        customer: &str,
        meter: &str,
        limit: u32,
    ) -> Result<Vec<PastDecision>, BooksError> {
        let (customer, meter) = (customer.to_owned(), meter.to_owned());
        self.with_connection(async move |c| {
            let sql = "SELECT decided_at, allowed, reason, effective_limit FROM entitlement_changes \
                       WHERE customer = ?1 AND meter = ?2 ORDER BY seq DESC LIMIT ?3";
            let mut rows = c.query(sql, params![customer, meter, limit]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(PastDecision {
                    decided_at: instant(row.get(0)?),
                    allowed: row.get::<i64>(1)? == 1,
                    reason: reason_named(&row.get::<String>(2)?)?,
                    effective_limit: row.get::<Option<i64>>(3)?.map(scaled),
                });
            }
            Ok(found)
        })
        .await
    }
}
