//! Whether an id is that of a customer, and which ids resemble it.

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;

/// Ids that are compared with an unknown one, at most.
const COMPARED: u32 = 5000;

/// What the books know of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownAs {
    /// It has a row in `customers`.
    Customer,
    /// It has no row, and usage is booked or measured under it.
    UsageOnly,
    Nothing,
}

impl Database {
    /// What the books know of an id.
    pub async fn known_as(&self, id: &str) -> Result<KnownAs, BooksError> {
        let id = id.to_owned();
        self.with_connection(async move |c| {
            let sql = "SELECT EXISTS (SELECT 1 FROM customers WHERE id = ?1), \
                              EXISTS (SELECT 1 FROM booked_usage WHERE customer = ?1) \
                           OR EXISTS (SELECT 1 FROM measurements WHERE customer = ?1) \
                           OR EXISTS (SELECT 1 FROM measured_days WHERE customer = ?1)";
            let row = first_row(c, sql, params![id]).await?;
            let Some(row) = row else { return Ok(KnownAs::Nothing) };
            Ok(match (row.get::<i64>(0)?, row.get::<i64>(1)?) {
                (1, _) => KnownAs::Customer,
                (_, 1) => KnownAs::UsageOnly,
                _ => KnownAs::Nothing,
            })
        })
        .await
    }

    /// Ids of customers that begin with the same letter, in either case.
    pub async fn customers_beside(&self, id: &str) -> Result<Vec<String>, BooksError> {
        let Some(first) = id.chars().next() else { return Ok(vec![]) };
        let (low, high) = (first.to_lowercase().to_string(), first.to_uppercase().to_string());
        self.with_connection(async move |c| {
            let sql =
                "SELECT id FROM customers WHERE id >= ?1 AND id < ?1 || ?3 OR id >= ?2 AND id < ?2 || ?3 LIMIT ?4";
            let mut rows = c.query(sql, params![low, high, char::MAX.to_string(), COMPARED]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }
}
