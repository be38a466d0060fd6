//! What people did by hand, and why.

use jiff::Timestamp;
use libsql::{Connection, params};
use serde::Serialize;

use super::database::{BooksError, Database};
use super::period::instant;

/// What somebody does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub who: String,
    /// What.
    pub act: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// What somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// What.
    pub act: String,
    /// To what.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// Keeps an act, in the transaction that carries it out.
pub(crate) async fn note(c: &Connection, act: &Act, now: i64) -> Result<(), BooksError> {
    let values = params![now, act.who.clone(), act.act.clone(), act.subject.clone(), act.reason.clone()];
    c.execute("INSERT INTO audit_log (at, who, act, subject, reason) VALUES (?1, ?2, ?3, ?4, ?5)", values).await?;
    Ok(())
}

impl Database {
    /// What was done to `subject`, the oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audit(&self, subject: String) -> Result<Vec<Entry>, BooksError> {
        self.read(async move |c| {
            let sql = "SELECT at, who, act, subject, reason FROM audit_log WHERE subject = ?1 ORDER BY seq";
            let mut rows = c.query(sql, params![subject]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let at = instant(row.get(0)?);
                found.push(Entry { at, who: row.get(1)?, act: row.get(2)?, subject: row.get(3)?, reason: row.get(4)? });
            }
            Ok(found)
        })
        .await
    }
}
