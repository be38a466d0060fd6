//! What an operator or a demo does to a customer in the place of Stripe or the web backend.

use crate::store::connection::params;

use crate::store::database::Database;
use crate::store::error::BooksError;

/// The document with the statements of the web backend.
const CONTRACT: &str = include_str!("../../docs/backend-contract.md");

/// The answer to a request for a TURN credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnAnswer {
    pub granted: bool,
    pub reason: String,
    pub used: i64,
    pub limit: i64,
}

impl Database {
    /// Puts every customer on a plan, also for the usage of before: a demo's bills are of the past.
    pub async fn put_all_on_plan(&self, plan: &str) -> Result<u64, BooksError> {
        let plan = plan.to_owned();
        self.transaction(async move |c| {
            let sql =
                "INSERT INTO customer_plans (customer, plan, from_at, set_by) SELECT id, ?1, 0, 'demo' FROM customers";
            c.execute(sql, params![plan.clone()]).await?;
            let sql = "UPDATE customers SET plan = ?1, plan_set_by = 'demo'";
            c.execute(sql, params![plan]).await
        })
        .await
    }

    /// Ties a customer to a customer of Stripe.
    pub async fn set_stripe_customer(&self, customer: &str, stripe_customer: &str) -> Result<u64, BooksError> {
        let values = params![customer, stripe_customer];
        let sql = "UPDATE customers SET stripe_customer_id = ?2 WHERE id = ?1";
        self.transaction(async move |c| Ok(c.execute(sql, values).await?)).await
    }

    /// Takes a TURN credential by the statement that the web backend uses; `None` without such a
    /// customer.
    pub async fn take_turn(&self, customer: &str) -> Result<Option<TurnAnswer>, BooksError> {
        let customer = customer.to_owned();
        let block = CONTRACT.split("<!-- statement: take_turn -->\n```sql\n").nth(1).unwrap_or_default();
        let sql = block.split("```").next().unwrap_or_default();
        self.with_connection(async move |c| {
            let mut rows = c.query(sql, params![customer, None::<i64>]).await?;
            let Some(row) = rows.next().await? else { return Ok(None) };
            let granted = row.get::<i64>(0)? == 1;
            let answer = TurnAnswer { granted, reason: row.get(1)?, used: row.get(2)?, limit: row.get(3)? };
            // the statement has its effect only once every row is read
            while rows.next().await?.is_some() {}
            Ok(Some(answer))
        })
        .await
    }
}
