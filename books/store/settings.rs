//! The table `settings`: values by name that outlive a run.

use crate::store::connection::{Connection, Write, params};

use super::database::Database;
use super::error::BooksError;
use super::rows::first_row;

pub async fn get(c: &Connection, name: &str) -> Result<Option<String>, BooksError> {
    let row = first_row(c, "SELECT value FROM settings WHERE name = ?1", params![name]).await?;
    row.map(|row| row.get(0)).transpose()
}

pub async fn put(c: &Connection, name: &str, value: &str) -> Result<(), BooksError> {
    let (sql, values) = write(name, value);
    c.execute(sql, values).await.map(drop)
}

/// The statement of [`put`].
pub fn write(name: &str, value: &str) -> Write {
    let sql =
        "INSERT INTO settings (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    (sql, vec![name.into(), value.into()])
}

impl Database {
    /// None when it was never set.
    pub async fn setting(&self, name: &'static str) -> Result<Option<String>, BooksError> {
        self.with_connection(async move |c| get(c, name).await).await
    }

    /// In a transaction of its own.
    pub async fn put_setting(&self, name: &'static str, value: String) -> Result<(), BooksError> {
        self.transaction(async move |c| put(c, name, &value).await).await
    }
}
