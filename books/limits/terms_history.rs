//! The history of customers' terms, from the books.

use std::collections::BTreeMap;

use crate::store::connection::{Rows, Value};

use crate::limits::terms::{BudgetFrom, PlanFrom, TermsHistory};
use crate::store::error::BooksError;

/// ?1 a JSON array of customers.
const PLANS: &str = "SELECT p.customer, p.from_at, p.plan FROM json_each(?1) j JOIN customer_plans p ON p.customer = j.value \
    ORDER BY p.customer, p.from_at, p.seq";

/// ?1 a JSON array of customers.
const BUDGETS: &str = "SELECT b.customer, b.set_at, b.meter, b.amount_minor, b.currency FROM json_each(?1) j \
    JOIN overage_budget_changes b ON b.customer = j.value ORDER BY b.customer, b.set_at, b.seq";

/// The statements whose rows [`read`] takes; `ids` is a JSON array.
pub fn statements(ids: &str) -> [(&'static str, Vec<Value>); 2] {
    [PLANS, BUDGETS].map(|sql| (sql, vec![ids.into()]))
}

/// The plans and budgets that customers had.
pub async fn read(plans: Rows, mut budgets: Rows) -> Result<BTreeMap<String, TermsHistory>, BooksError> {
    let mut found = read_plans(plans).await?;
    while let Some(row) = budgets.next().await? {
        let (from, meter, amount_minor, currency) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let budget = BudgetFrom { from, meter, amount_minor, currency };
        found.entry(row.get(0)?).or_default().budgets.push(budget);
    }
    Ok(found)
}

async fn read_plans(mut rows: Rows) -> Result<BTreeMap<String, TermsHistory>, BooksError> {
    let mut found: BTreeMap<String, TermsHistory> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        found.entry(row.get(0)?).or_default().plans.push(PlanFrom { from: row.get(1)?, plan: row.get(2)? });
    }
    Ok(found)
}
