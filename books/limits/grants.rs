//! What decides how much of the included amounts is left.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use serde_json::json;

use crate::limits::entitlement::{CustomerFacts, TurnBefore};
use crate::limits::terms_history;
use crate::store::error::BooksError;
use crate::store::rows::{self, exact_sum, sum_of};
use crate::units::calendar::PeriodError;
use crate::units::quantity::Quantity;

/// Adds plan history, and what was used in advance, to the facts about customers.
pub async fn load(c: &Connection, found: &mut BTreeMap<String, CustomerFacts>, now: i64) -> Result<(), BooksError> {
    let ids: Vec<&String> = found.keys().collect();
    let ids = rows::json(&ids)?;
    // budgets do not change what is included
    for (customer, history) in terms_history::load_plans(c, &ids).await? {
        if let Some(facts) = found.get_mut(&customer) {
            facts.history = history;
        }
    }
    let mut days = vec![];
    for (customer, facts) in found.iter() {
        let Some(period) = &facts.period else { continue };
        let stretches = facts.history.stretches(period.days.first, period.days.last);
        if stretches.len() > 1 {
            days.extend(stretches.iter().map(|s| json!({ "customer": customer, "first": s.first, "last": s.last })));
        }
    }
    if !days.is_empty() {
        let sql = concat!(
            "SELECT u.customer, u.meter, j.value ->> 'first', ",
            exact_sum!("u.quantity"),
            " FROM json_each(?1) j JOIN booked_usage u ON u.customer = j.value ->> 'customer' \
              AND u.day BETWEEN j.value ->> 'first' AND j.value ->> 'last' GROUP BY 1, 2, 3"
        );
        let mut rows = c.query(sql, params![rows::json(&days)?]).await?;
        while let Some(row) = rows.next().await? {
            let first: String = row.get(2)?;
            let first = first.parse().map_err(|e: PeriodError| BooksError::Integrity(e.to_string()))?;
            let used = sum_of(&row.get::<String>(3)?)?;
            if let Some(facts) = found.get_mut(&row.get::<String>(0)?) {
                facts.stretches.insert((row.get(1)?, first), used);
            }
        }
    }
    let sql = "SELECT t.customer, t.meter, t.advance FROM json_each(?1) j JOIN billing_targets t ON t.customer = j.value \
               WHERE t.advance > 0 AND t.period_end = (SELECT starts_at FROM billing_periods p WHERE p.customer = t.customer \
                 AND p.starts_at <= ?2 ORDER BY p.starts_at DESC LIMIT 1)";
    let mut rows = c.query(sql, params![ids.clone(), now]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(facts) = found.get_mut(&row.get::<String>(0)?) {
            facts.advance.insert(row.get(1)?, Quantity::from_scaled(i128::from(row.get::<i64>(2)?)));
        }
    }
    let sql = "SELECT t.customer, t.starts_at, t.ends_at, t.used FROM json_each(?1) j JOIN turn_periods t ON t.customer = j.value \
               WHERE t.ends_at <= ?2 AND t.ends_at > ?2 - 366 * 86400 ORDER BY 1, 2";
    let mut rows = c.query(sql, params![ids.clone(), now]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(facts) = found.get_mut(&row.get::<String>(0)?) {
            let (starts_at, ends_at, used) = (row.get(1)?, row.get(2)?, row.get(3)?);
            facts.turn_before.push(TurnBefore { starts_at, ends_at, used });
        }
    }
    Ok(())
}
