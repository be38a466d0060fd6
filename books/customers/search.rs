//! Finding a customer by a part of its id, display name or Stripe id.

use schemars::JsonSchema;
use serde::Serialize;

use super::customer::{Customer, customer};
use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;

/// Customers that were found.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct FoundCustomers {
    /// By id.
    pub customers: Vec<Customer>,
    /// How many more there are beyond the limit.
    pub more: u64,
}

/// The customers with the text ?1, in small letters: SQLite's `lower` and `instr` know ASCII alone,
/// so other letters are compared as they are.
macro_rules! matching {
    () => {
        " FROM customers WHERE instr(lower(id), lower(?1)) > 0 OR instr(lower(display_name), lower(?1)) > 0 \
          OR instr(lower(stripe_customer_id), lower(?1)) > 0"
    };
}

impl Database {
    /// Customers with `text` in id, display name or Stripe id, at most `limit`; capitals and small
    /// letters of ASCII are the same.
    pub async fn search_customers(&self, text: &str, limit: u32) -> Result<FoundCustomers, BooksError> {
        let text = text.to_owned();
        self.with_connection(async move |c| {
            let sql = concat!(
                "SELECT id, plan, status, stripe_customer_id, created_at, display_name",
                matching!(),
                " ORDER BY id LIMIT ?2"
            );
            let mut rows = c.query(sql, params![text.clone(), limit]).await?;
            let mut customers = vec![];
            while let Some(row) = rows.next().await? {
                customers.push(customer(&row)?);
            }
            let counted = first_row(c, concat!("SELECT count(*)", matching!()), params![text]).await?;
            let counted: u64 = counted.map_or(Ok(0), |row| row.get(0))?;
            let more = counted.saturating_sub(u64::try_from(customers.len()).unwrap_or(u64::MAX));
            Ok(FoundCustomers { customers, more })
        })
        .await
    }
}
