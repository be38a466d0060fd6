//! Overage budgets: what a customer is willing to pay beyond the plan in each billing period.

use crate::store::connection::params;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::plan::Plans;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::units::calendar::instant;
use crate::units::money::{BUDGET_LIMIT, Currency};

/// A budget, or a change of one.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Budget {
    /// The meter that it caps; empty for all together.
    pub meter: String,
    /// In minor units of the currency; none = the budget was taken away.
    pub amount_minor: Option<i64>,
    pub currency: String,
    pub set_by: String,
    pub set_at: Timestamp,
}

/// A budget to be set, or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetChange {
    pub customer: String,
    /// The meter that it caps; empty for all together.
    pub meter: String,
    /// In minor units of the currency; none takes the budget away.
    pub amount_minor: Option<i64>,
    pub currency: Currency,
    pub set_by: String,
}

/// A customer's plan and its currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanCurrency {
    pub plan: String,
    pub currency: Currency,
}

/// Why a budget cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    #[error("there is no customer `{0}`; `meter customer list` shows all")]
    NoCustomer(String),
    #[error(
        "the customer's plan `{0}` is not known, so nobody can say in which currency the budget is; apply the plan first"
    )]
    NoPlan(String),
    #[error("the plan `{plan}` is in {currency}, so the budget must be too")]
    Currency { plan: String, currency: Currency },
    #[error("a budget is 0 to {BUDGET_LIMIT} minor units")]
    Amount,
    #[error(
        "{0} minor units of {1} are no whole amount; of {1} only whole amounts can be charged, so it is a multiple of 100"
    )]
    Fraction(i64, Currency),
    #[error(transparent)]
    Books(#[from] BooksError),
}

impl Database {
    /// The currency of a customer's plan.
    pub async fn currency_of(&self, customer: &str) -> Result<PlanCurrency, BudgetError> {
        let id = customer.to_owned();
        let found = self.with_connection(async move |c| {
            let row = first_row(c, "SELECT plan FROM customers WHERE id = ?1", params![id]).await?;
            let plan = row.map(|row| row.get::<String>(0)).transpose()?;
            Ok((plan, Plans::load(c).await?))
        });
        let (plan, plans) = found.await?;
        let plan = plan.ok_or_else(|| BudgetError::NoCustomer(customer.to_owned()))?;
        let currency = plans.iter().find(|p| p.name == plan).map(|p| p.currency);
        match currency {
            Some(currency) => Ok(PlanCurrency { plan, currency }),
            None => Err(BudgetError::NoPlan(plan)),
        }
    }

    /// Sets a budget, or takes it away, with effect from the next enforcement on. A trigger keeps
    /// the change.
    pub async fn set_budget(&self, change: BudgetChange, now: Timestamp) -> Result<(), BudgetError> {
        let BudgetChange { customer, meter, amount_minor, currency, set_by: by } = change;
        let own = self.currency_of(&customer).await?;
        if own.currency != currency {
            return Err(BudgetError::Currency { plan: own.plan, currency: own.currency });
        }
        if amount_minor.is_some_and(|minor| !(0..=BUDGET_LIMIT).contains(&minor)) {
            return Err(BudgetError::Amount);
        }
        if let Some(minor) = amount_minor.filter(|minor| !currency.can_be_charged(*minor)) {
            return Err(BudgetError::Fraction(minor, currency));
        }
        let write = self.transaction(async move |c| {
            let Some(minor) = amount_minor else {
                // the trigger that keeps the change reads who takes the budget away
                let sql = "UPDATE overage_budgets SET set_by = ?3, amount_minor = 0, set_at = ?4 WHERE customer = ?1 AND meter = ?2";
                c.execute(sql, params![customer.clone(), meter.clone(), by, now.as_second()]).await?;
                let sql = "DELETE FROM overage_budgets WHERE customer = ?1 AND meter = ?2";
                c.execute(sql, params![customer, meter]).await?;
                return Ok(());
            };
            let sql = "INSERT INTO overage_budgets (customer, meter, amount_minor, currency, set_by, set_at) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (customer, meter) DO UPDATE SET \
                       amount_minor = excluded.amount_minor, currency = excluded.currency, set_by = excluded.set_by, set_at = excluded.set_at";
            let values = params![customer, meter, minor, currency.to_string(), by, now.as_second()];
            c.execute(sql, values).await?;
            Ok(())
        });
        Ok(write.await?)
    }

    /// A customer's budgets as they stand.
    pub async fn budgets(&self, customer: &str) -> Result<Vec<Budget>, BooksError> {
        let sql = "SELECT meter, amount_minor, currency, set_by, set_at FROM overage_budgets \
                   WHERE customer = ?1 ORDER BY meter";
        self.budgets_by(sql, customer).await
    }

    /// Every change of a customer's budgets, the oldest first.
    pub async fn budget_history(&self, customer: &str) -> Result<Vec<Budget>, BooksError> {
        let sql = "SELECT meter, amount_minor, currency, set_by, set_at FROM overage_budget_changes \
                   WHERE customer = ?1 ORDER BY seq";
        self.budgets_by(sql, customer).await
    }

    async fn budgets_by(&self, sql: &'static str, customer: &str) -> Result<Vec<Budget>, BooksError> {
        let customer = customer.to_owned();
        self.with_connection(async move |c| {
            let mut rows = c.query(sql, params![customer]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(Budget {
                    meter: row.get(0)?,
                    amount_minor: row.get(1)?,
                    currency: row.get(2)?,
                    set_by: row.get(3)?,
                    set_at: instant(row.get(4)?),
                });
            }
            Ok(found)
        })
        .await
    }
}
