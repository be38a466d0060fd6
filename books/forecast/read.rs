//! Reads the usage that forecasts are made of. A remote database charges for each row: of most
//! customers only the newest weeks are read, and longer histories of a sample.

use std::collections::BTreeMap;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::stripe::planning::{DailyUsage, WantedDays, daily_usage};
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// Steps from customer to customer, one row of the index for each.
const CUSTOMERS: &str = "WITH RECURSIVE ids (id) AS ( \
      SELECT (SELECT min(customer) FROM ledger_entries WHERE customer > '') \
      UNION ALL SELECT (SELECT min(customer) FROM ledger_entries WHERE customer > ids.id) FROM ids WHERE ids.id IS NOT NULL) \
    SELECT id FROM ids WHERE id IS NOT NULL";

/// All usage from ?1 to ?2.
const TOTALS: &str =
    "SELECT meter, day, sum(units), sum(rest) FROM usage_totals WHERE day BETWEEN ?1 AND ?2 GROUP BY meter, day";

/// The billing periods of the customers ?1 that go on at ?2.
const PERIODS: &str = "SELECT p.customer, p.first_day, p.last_day FROM json_each(?1) j \
    CROSS JOIN billing_periods p ON p.customer = j.value AND p.starts_at <= ?2 AND p.ends_at > ?2";

/// The days of a billing period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodOfCustomer {
    pub first: Day,
    pub last: Day,
}

fn day(text: String) -> Result<Day, BooksError> {
    text.parse().map_err(|e| BooksError::Integrity(format!("a day in the database: {e}")))
}

impl Database {
    /// Every customer's id under which anything was ever booked, in order.
    pub async fn customers_with_usage(&self) -> Result<Vec<String>, BooksError> {
        self.with_connection(async |c| {
            let (mut rows, mut found) = (c.query(CUSTOMERS, ()).await?, vec![]);
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }

    /// Usage of customers by meter and day.
    pub async fn usage_by_customer(
        &self,
        customers: &[String],
        meters: &[String],
        (first, last): (Day, Day),
    ) -> Result<BTreeMap<String, DailyUsage>, BooksError> {
        let wanted = |customer: &String| WantedDays { customer: customer.clone(), first, last };
        let (wanted, meters) = (customers.iter().map(wanted).collect::<Vec<_>>(), meters.to_vec());
        self.with_connection(async move |c| daily_usage(c, &wanted, &meters).await).await
    }

    /// All usage by meter and day, with and without a customer.
    pub async fn usage_of_meters(&self, (first, last): (Day, Day)) -> Result<DailyUsage, BooksError> {
        let values = params![first.to_string(), last.to_string()];
        self.with_connection(async move |c| {
            let (mut rows, mut found) = (c.query(TOTALS, values).await?, DailyUsage::new());
            while let Some(row) = rows.next().await? {
                let quantity = Quantity::from_parts(row.get(2)?, row.get(3)?);
                found.insert((row.get(0)?, day(row.get(1)?)?), quantity);
            }
            Ok(found)
        })
        .await
    }

    /// The billing period of each of these customers that goes on at an instant, in seconds.
    pub async fn current_periods(
        &self,
        customers: &[String],
        now: i64,
    ) -> Result<BTreeMap<String, PeriodOfCustomer>, BooksError> {
        let values = params![json(customers)?, now];
        self.with_connection(async move |c| {
            let (mut rows, mut found) = (c.query(PERIODS, values).await?, BTreeMap::new());
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?, PeriodOfCustomer { first: day(row.get(1)?)?, last: day(row.get(2)?)? });
            }
            Ok(found)
        })
        .await
    }
}
