//! Customers, and the counters on their rows that the web backend reads.

use libsql::{Connection, params};

use super::database::{BooksError, Database, first_row};
use super::period::Month;

/// Brings the counters up to `month`: of customers whose counters stand in an earlier month or nowhere yet,
/// and of those for whom version `of` booked something. Always recomputed from the books, never added to.
pub(super) async fn refresh_counters(c: &Connection, month: Month, of: Option<i64>) -> Result<u64, BooksError> {
    let values = params![month.to_string(), of];
    Ok(c.execute(include_str!("refresh_counters.sql"), values).await?)
}

impl Database {
    /// Moves counters into `month` for customers whose counters are not there: a new month, or a new customer with usage that
    /// was booked before the row appeared. Writes nothing when there is none.
    ///
    /// # Errors
    /// What the database says.
    pub async fn roll_counters(&self, month: Month) -> Result<u64, BooksError> {
        let name = month.to_string();
        let stale = self
            .read(async move |c| {
                let sql = "SELECT 1 FROM customers WHERE counters_period IS NULL OR counters_period < ?1 LIMIT 1";
                Ok(first_row(c, sql, params![name]).await?.is_some())
            })
            .await?;
        if !stale {
            return Ok(0);
        }
        self.write(async move |c| refresh_counters(c, month, None).await).await
    }

    /// Adds a customer, as the web backend does on sign-up; one that exists is left as it is.
    ///
    /// # Errors
    /// What the database says.
    pub async fn add_customer(&self, id: &str) -> Result<(), BooksError> {
        let id = id.to_owned();
        self.write(async move |c| {
            c.execute("INSERT INTO customers (id) VALUES (?1) ON CONFLICT DO NOTHING", params![id]).await?;
            Ok(())
        })
        .await
    }
}
