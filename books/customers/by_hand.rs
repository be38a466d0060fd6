//! What an operator or a demo does to a customer in the place of Stripe or the web backend.

use jiff::Timestamp;

use crate::store::connection::{Row, Value, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::instant;

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

/// The answer to `may_use`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MayUse {
    pub allowed: bool,
    pub reason: String,
    /// Up to when it holds at the present level.
    pub until: Option<Timestamp>,
}

/// What the web backend measured of a meter.
#[derive(Clone, Debug)]
pub struct UseReport {
    pub customer: String,
    pub meter: String,
    /// The backend's own: of the attendee or the report.
    pub id: String,
    pub what: Measured,
    pub at: Timestamp,
}

/// Levels and quantities are in the smallest unit of the meter.
#[derive(Clone, Copy, Debug)]
pub enum Measured {
    Starts { level: i64 },
    Stops,
    Counted { quantity: i64 },
}

/// A statement as the contract prints it.
fn statement(name: &str) -> &'static str {
    let mark = format!("<!-- statement: {name} -->\n```sql\n");
    let block = CONTRACT.split_once(&mark).map_or("", |(_, after)| after);
    block.split("```").next().unwrap_or_default()
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
        let read = |row: &Row| {
            let granted = row.get::<i64>(0)? == 1;
            Ok(TurnAnswer { granted, reason: row.get(1)?, used: row.get(2)?, limit: row.get(3)? })
        };
        self.first_answer(statement("take_turn"), vec![customer.to_owned().into(), Value::Null], read).await
    }

    /// Stores what the web backend measured, by the statement that it uses; false when it is not
    /// taken.
    pub async fn measure(&self, report: UseReport) -> Result<bool, BooksError> {
        let UseReport { customer, meter, id, what, at } = report;
        let (name, number) = match what {
            Measured::Starts { level } => ("start_use", Some(level)),
            Measured::Stops => ("stop_use", None),
            Measured::Counted { quantity } => ("report_use", Some(quantity)),
        };
        let mut values: Vec<Value> = vec![customer.into(), meter.into(), id.into()];
        values.extend(number.map(Value::from));
        values.push(at.as_second().into());
        Ok(self.first_answer(statement(name), values, |_| Ok(())).await?.is_some())
    }

    /// Whether a meter may be used at an instant, by the statement that the web backend uses;
    /// `None` without such a customer.
    pub async fn may_use(&self, customer: &str, meter: &str, at: Timestamp) -> Result<Option<MayUse>, BooksError> {
        let sql = format!("SELECT allowed, reason, until FROM ({})", statement("may_use"));
        let values = vec![customer.to_owned().into(), meter.to_owned().into(), at.as_second().into()];
        let read = |row: &Row| {
            let until = row.get::<Option<i64>>(2)?.map(instant);
            Ok(MayUse { allowed: row.get::<i64>(0)? == 1, reason: row.get(1)?, until })
        };
        self.first_answer(&sql, values, read).await
    }

    async fn first_answer<T: Send + 'static>(
        &self,
        sql: &str,
        values: Vec<Value>,
        read: fn(&Row) -> Result<T, BooksError>,
    ) -> Result<Option<T>, BooksError> {
        let sql = sql.to_owned();
        self.with_connection(async move |c| {
            let mut rows = c.query(&sql, values).await?;
            let Some(row) = rows.next().await? else { return Ok(None) };
            let answer = read(&row)?;
            // the statement has its effect only once every row is read
            while rows.next().await?.is_some() {}
            Ok(Some(answer))
        })
        .await
    }
}
