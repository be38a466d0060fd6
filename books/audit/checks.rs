//! The audit: does everything that is derived still equal what it is derived from?

use std::collections::BTreeMap;

use libsql::params;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::units::calendar::Month;
use crate::units::quantity::Quantity;

/// One rule of the books and what breaks it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub rule: &'static str,
    /// How many things were looked at.
    pub checked: u64,
    /// What breaks it; empty when it holds.
    pub violations: Vec<String>,
}

const DERIVED: &str = "SELECT coalesce(l.customer, u.customer), coalesce(l.meter, u.meter), coalesce(l.day, u.day), l.q, u.quantity \
    FROM (SELECT payer, month, customer, meter, day, sum(quantity) AS q FROM ledger_entries GROUP BY payer, month, customer, meter, day) l \
    FULL OUTER JOIN usage_days u USING (payer, month, customer, meter, day) \
    WHERE coalesce(l.q, 0) <> coalesce(u.quantity, 0) LIMIT 20";

const COUNTERS: &str = "SELECT id, meter, counted, booked FROM ( \
    SELECT c.id, m.value AS meter, \
      CASE m.value WHEN 'chime_minutes' THEN chime_minutes_used WHEN 'storage_gb' THEN storage_gb_used ELSE transfer_gb_used END AS counted, \
      (SELECT coalesce(sum(quantity), 0) FROM usage_days u WHERE u.customer = c.id AND u.meter = m.value \
         AND substr(u.day, 1, 7) = c.counters_period) / 1e10 AS booked \
    FROM customers c, json_each('[\"chime_minutes\",\"storage_gb\",\"transfer_gb\"]') m WHERE c.counters_period IS NOT NULL) \
    WHERE counted <> booked LIMIT 20";

/// Checks that are one query: name, the rule, what is counted, and what breaks it, in one text
/// each.
const QUERIES: [(&str, &str, &str, &str); 5] = [
    (
        "usage_totals",
        "sums of all customers by day = sum of ledger entries",
        "SELECT count(*) FROM usage_totals",
        "SELECT coalesce(l.meter, t.meter) || ' ' || coalesce(l.day, t.day) || ': ledger ' || coalesce(l.units, 0) || ' + ' || coalesce(l.rest, 0) \
         || ', usage_totals ' || coalesce(t.units, 0) || ' + ' || coalesce(t.rest, 0) \
         FROM (SELECT meter, day, customer <> '' AS attributed, sum(quantity / 10000000000) AS units, sum(quantity % 10000000000) AS rest \
               FROM ledger_entries GROUP BY 1, 2, 3) l FULL OUTER JOIN usage_totals t USING (meter, day, attributed) \
         WHERE (coalesce(l.units, 0), coalesce(l.rest, 0)) <> (coalesce(t.units, 0), coalesce(t.rest, 0)) LIMIT 20",
    ),
    (
        "billing_periods",
        "billing periods of a customer follow each other without gap or overlap",
        "SELECT count(*) FROM billing_periods",
        "SELECT customer || ': ' || ends_at || ' is followed by ' || next FROM ( \
         SELECT customer, ends_at, lead(starts_at) OVER (PARTITION BY customer ORDER BY starts_at) AS next FROM billing_periods) \
         WHERE next <> ends_at LIMIT 20",
    ),
    (
        "turn_periods",
        "TURN periods are billing periods, and closed with them",
        "SELECT count(*) FROM turn_periods",
        "SELECT coalesce(t.customer, b.customer) || ' from ' || coalesce(t.starts_at, b.starts_at) FROM turn_periods t \
         FULL OUTER JOIN billing_periods b ON b.customer = t.customer AND b.starts_at = t.starts_at \
         WHERE t.ends_at IS NOT b.ends_at OR (t.closed_at IS NULL) <> (b.closed_at IS NULL) LIMIT 20",
    ),
    (
        "turn_counters",
        "the TURN counter on a customer's row is that of one of its periods",
        "SELECT count(*) FROM customers",
        "SELECT id || ': ' || turn_allocations_used FROM customers c WHERE turn_allocations_used <> 0 \
         AND NOT EXISTS (SELECT 1 FROM turn_periods WHERE customer = c.id AND used = turn_allocations_used) LIMIT 20",
    ),
    (
        "entitlements",
        "allowed means used < effective limit, and newest history = decision",
        "SELECT count(*) FROM entitlements",
        "SELECT customer || ' ' || meter FROM entitlements e \
         WHERE allowed <> (effective_limit IS NULL OR used < effective_limit) \
            OR (allowed, reason) IS NOT (SELECT allowed, reason FROM entitlement_changes h \
                                         WHERE h.customer = e.customer AND h.meter = e.meter ORDER BY seq DESC LIMIT 1) LIMIT 20",
    ),
];

impl Database {
    /// Notes how an audit ended, in place of the one before.
    pub async fn note_audit(&self, checks: &[Check], now: jiff::Timestamp) -> Result<(), BooksError> {
        let found: Vec<_> = checks.iter().map(|check| (check.name, check.violations.len())).collect();
        let found = crate::store::rows::json(&found)?;
        self.transaction(async move |c| {
            c.execute("DELETE FROM audits", ()).await?;
            let sql =
                "INSERT INTO audits (name, violations, at) SELECT value ->> 0, value ->> 1, ?2 FROM json_each(?1)";
            c.execute(sql, params![found, now.as_second()]).await?;
            Ok(())
        })
        .await
    }

    /// When the newest audit was, and how often each rule was broken.
    pub async fn last_audit(&self) -> Result<(Option<jiff::Timestamp>, BTreeMap<String, i64>), BooksError> {
        self.with_connection(async |c| {
            let mut rows = c.query("SELECT name, violations, at FROM audits", ()).await?;
            let (mut at, mut found) = (None, BTreeMap::new());
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?, row.get(1)?);
                at = Some(crate::units::calendar::instant(row.get(2)?));
            }
            Ok((at, found))
        })
        .await
    }

    /// Runs every check over the whole books.
    ///
    /// # Errors
    /// What the database says; violations are no error but part of the answer.
    pub async fn verify(&self) -> Result<Vec<Check>, BooksError> {
        self.with_connection(async |c| {
            let count = async |sql: &str| -> Result<u64, BooksError> {
                let row = first_row(c, sql, ()).await?;
                Ok(row.map(|r| r.get::<u64>(0)).transpose()?.unwrap_or(0))
            };
            let mut checks = vec![conservation(c).await?];
            let mut violations = vec![];
            let mut rows = c.query(DERIVED, ()).await?;
            while let Some(row) = rows.next().await? {
                let (customer, meter, day): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let (ledger, table): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                violations.push(format!("{customer} {meter} {day}: ledger {ledger:?}, usage_days {table:?}"));
            }
            let checked = count("SELECT count(*) FROM ledger_entries").await?;
            checks.push(Check {
                name: "usage_days",
                rule: "usage per day = sum of ledger entries",
                checked,
                violations,
            });
            let mut violations = vec![];
            let mut rows = c.query(COUNTERS, ()).await?;
            while let Some(row) = rows.next().await? {
                let (customer, meter): (String, String) = (row.get(0)?, row.get(1)?);
                let (counter, booked): (f64, f64) = (row.get(2)?, row.get(3)?);
                violations.push(format!("{customer} {meter}: counter {counter}, booked {booked}"));
            }
            let checked = count("SELECT count(*) FROM customers WHERE counters_period IS NOT NULL").await?;
            checks.push(Check {
                name: "counters",
                rule: "counters of customers = booked usage of their period",
                checked,
                violations,
            });
            for (name, rule, counted, broken) in QUERIES {
                let mut rows = c.query(broken, ()).await?;
                let mut violations = vec![];
                while let Some(row) = rows.next().await? {
                    violations.push(row.get::<String>(0)?);
                }
                checks.push(Check { name, rule, checked: count(counted).await?, violations });
            }
            Ok(checks)
        })
        .await
    }
}

/// For the current version of each bill: the parts make the total, the lines make the total, and
/// the ledger holds what the version said.
async fn conservation(c: &libsql::Connection) -> Result<Check, BooksError> {
    let exact = |text: String| text.parse::<Quantity>().map_err(|e| BooksError::Integrity(e.to_string()));
    let mut violations = vec![];
    let mut checked = 0;
    let mut rows = c
        .query(
            "SELECT t.version_id, t.meter, t.total, t.attributed, t.unattributed, t.excluded, t.booked, v.payer, v.month \
             FROM bill_totals t JOIN bill_versions v ON v.id = t.version_id \
             WHERE v.state = 'applied' AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)",
            (),
        )
        .await?;
    let mut lines: BTreeMap<(i64, String), Quantity> = BTreeMap::new();
    let mut line_rows = c.query("SELECT version_id, meter, amount FROM bill_lines WHERE meter <> ''", ()).await?;
    while let Some(row) = line_rows.next().await? {
        *lines.entry((row.get(0)?, row.get(1)?)).or_default() += exact(row.get(2)?)?;
    }
    while let Some(row) = rows.next().await? {
        checked += 1;
        let (id, meter): (i64, String) = (row.get(0)?, row.get(1)?);
        let (total, attributed) = (exact(row.get(2)?)?, exact(row.get(3)?)?);
        let (unattributed, excluded, booked) = (exact(row.get(4)?)?, exact(row.get(5)?)?, exact(row.get(6)?)?);
        let (payer, month): (String, String) = (row.get(7)?, row.get(8)?);
        let name = format!("{payer} {} {meter}", month.parse::<Month>().map_or(month.clone(), |m| m.to_string()));
        if attributed + unattributed + excluded != total {
            violations.push(format!("{name}: {attributed} + {unattributed} + {excluded} is not {total}"));
        }
        let by_line = lines.get(&(id, meter.clone())).copied().unwrap_or_default();
        if by_line != total {
            violations.push(format!("{name}: lines make {by_line}, the total is {total}"));
        }
        let sql = "SELECT coalesce(sum(quantity / 10000000000), 0), coalesce(sum(quantity % 10000000000), 0) \
                   FROM ledger_entries WHERE payer = ?1 AND month = ?2 AND meter = ?3";
        let sums = first_row(c, sql, params![payer, month, meter]).await?;
        let ledger = match sums {
            Some(r) => Quantity::from_parts(r.get(0)?, r.get(1)?),
            None => Quantity::ZERO,
        };
        if ledger != booked {
            violations.push(format!("{name}: the ledger holds {ledger}, the bill said {booked}"));
        }
    }
    Ok(Check {
        name: "conservation",
        rule: "attributed + unattributed + excluded = total of the bill = ledger",
        checked,
        violations,
    })
}
