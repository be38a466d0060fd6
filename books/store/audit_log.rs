//! The log of what people did by hand, and why.

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::instant;

/// An action that is carried out now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    pub actor: String,
    pub action: String,
    pub target: String,
    pub reason: String,
}

/// An action of the past.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct AuditRecord {
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub reason: String,
}

/// Stores an entry, in the transaction that carries the action out.
pub async fn record(c: &Connection, entry: &AuditEntry, now: i64) -> Result<(), BooksError> {
    let values = params![now, entry.actor.clone(), entry.action.clone(), entry.target.clone(), entry.reason.clone()];
    c.execute("INSERT INTO audit_log (at, actor, action, target, reason) VALUES (?1, ?2, ?3, ?4, ?5)", values).await?;
    Ok(())
}

impl Database {
    /// The actions on `target`, oldest first.
    pub async fn audit(&self, target: String) -> Result<Vec<AuditRecord>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT at, actor, action, target, reason FROM audit_log WHERE target = ?1 ORDER BY seq";
            let mut rows = c.query(sql, params![target]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let at = instant(row.get(0)?);
                found.push(AuditRecord {
                    at,
                    actor: row.get(1)?,
                    action: row.get(2)?,
                    target: row.get(3)?,
                    reason: row.get(4)?,
                });
            }
            Ok(found)
        })
        .await
    }
}
