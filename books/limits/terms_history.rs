//! The history of customers' terms, from the books.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};

use crate::limits::terms::{BudgetFrom, PlanFrom, TermsHistory};
use crate::store::error::BooksError;

/// The plans and budgets that customers had; `ids` is a JSON array.
pub async fn load(c: &Connection, ids: &str) -> Result<BTreeMap<String, TermsHistory>, BooksError> {
    let mut found: BTreeMap<String, TermsHistory> = BTreeMap::new();
    let sql = "SELECT p.customer, p.from_at, p.plan FROM json_each(?1) j JOIN customer_plans p ON p.customer = j.value \
               ORDER BY p.customer, p.from_at, p.seq";
    let mut rows = c.query(sql, params![ids]).await?;
    while let Some(row) = rows.next().await? {
        found.entry(row.get(0)?).or_default().plans.push(PlanFrom { from: row.get(1)?, plan: row.get(2)? });
    }
    let sql = "SELECT b.customer, b.set_at, b.meter, b.amount_minor, b.currency FROM json_each(?1) j \
               JOIN overage_budget_changes b ON b.customer = j.value ORDER BY b.customer, b.set_at, b.seq";
    let mut rows = c.query(sql, params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let (from, meter, amount_minor, currency) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let budget = BudgetFrom { from, meter, amount_minor, currency };
        found.entry(row.get(0)?).or_default().budgets.push(budget);
    }
    Ok(found)
}
