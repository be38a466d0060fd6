//! The audit: whether every derived row still equals what it is derived from.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use schemars::JsonSchema;
use serde::Serialize;

use super::billing_sums::{BillingSums, billing_sums};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, first_row, json, scaled_sum, sum_of, sum_of_rests, sum_of_units, unit};
use crate::units::calendar::Month;
use crate::units::quantity::Quantity;

/// One rule of the books and what breaks it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub rule: &'static str,
    /// Rows that were checked.
    pub checked: u64,
    /// Rows that break the rule, described; at most 20 of a query.
    pub violations: Vec<String>,
}

/// What an audit found.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Audit {
    pub checks: Vec<Check>,
    pub billing: Vec<BillingSums>,
}

impl Audit {
    /// Whether no check found a violation.
    pub fn is_sound(&self) -> bool {
        self.checks.iter().all(|check| check.violations.is_empty())
    }
}

impl LastAudit {
    /// The rules that are broken, and in how many places.
    pub fn broken(&self) -> impl Iterator<Item = (&String, i64)> {
        self.violations.iter().filter(|(_, n)| **n > 0).map(|(rule, n)| (rule, *n))
    }
}

/// The newest audit by a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct LastAudit {
    /// None = there was none yet.
    pub at: Option<jiff::Timestamp>,
    pub violations: BTreeMap<String, i64>,
    /// What became of all usage of each meter.
    pub billing: Vec<BillingSums>,
}

/// Not while the counters of a booking are still to be computed.
const COUNTERS: &str = concat!(
    "SELECT id, meter, counted, booked FROM ( \
    SELECT c.id, m.value AS meter, \
      CASE m.value WHEN 'chime_minutes' THEN chime_minutes_used WHEN 'storage_gb' THEN storage_gb_used ELSE transfer_gb_used END AS counted, \
      (SELECT coalesce(",
    scaled_sum!("quantity"),
    ", 0) \
         FROM booked_usage u WHERE u.customer = c.id AND u.meter = m.value \
         AND u.day BETWEEN c.counters_period || '-01' AND c.counters_period || '-31') / 1e10 AS booked \
    FROM customers c, json_each('[\"chime_minutes\",\"storage_gb\",\"transfer_gb\"]') m WHERE c.counters_period IS NOT NULL) \
    WHERE counted <> booked AND NOT EXISTS (SELECT 1 FROM bookings b WHERE b.counted = 0 AND b.version_id IS NOT NULL) LIMIT 20"
);

/// A check that is one query.
struct Query {
    name: &'static str,
    rule: &'static str,
    /// Counts the rows that are checked.
    counted: &'static str,
    /// Describes rows that break the rule, one text a row.
    broken: &'static str,
}

const QUERIES: [Query; 8] = [
    Query {
        name: "usage_totals",
        rule: "sums of all customers by day = sum of ledger entries",
        counted: "SELECT count(*) FROM usage_totals",
        broken: concat!(
            "SELECT coalesce(l.meter, t.meter) || ' ' || coalesce(l.day, t.day) || ': ledger ' || coalesce(l.units, 0) || ' + ' || coalesce(l.rest, 0) \
         || ', usage_totals ' || coalesce(t.units, 0) || ' + ' || coalesce(t.rest, 0) \
         FROM (SELECT meter, day, customer <> '' AS attributed, ",
            sum_of_units!("quantity"),
            " AS units, ",
            sum_of_rests!("quantity"),
            " AS rest \
               FROM booked_usage GROUP BY 1, 2, 3) l FULL OUTER JOIN usage_totals t USING (meter, day, attributed) \
         WHERE (coalesce(l.units, 0), coalesce(l.rest, 0)) <> (coalesce(t.units, 0), coalesce(t.rest, 0)) LIMIT 20"
        ),
    },
    Query {
        name: "bookings",
        rule: "each applied version has a booking, with as many entries as it says",
        counted: "SELECT count(*) FROM bookings WHERE version_id IS NOT NULL",
        broken: "SELECT v.payer || ' ' || v.month || ' version ' || v.id || ': ' || coalesce(b.found, 0) || ' of ' || coalesce(b.entries, 0) || ' entries' \
         FROM bill_versions v LEFT JOIN (SELECT version_id, entries, (SELECT count(*) FROM ledger_entries WHERE booking_id = id) AS found FROM bookings) b \
           ON b.version_id = v.id WHERE v.state = 'applied' AND (b.version_id IS NULL OR b.entries <> b.found) LIMIT 20",
    },
    Query {
        name: "billing_periods",
        rule: "billing periods of a customer follow each other without gap or overlap",
        counted: "SELECT count(*) FROM billing_periods",
        broken: "SELECT customer || ': ' || ends_at || ' is followed by ' || next FROM ( \
         SELECT customer, ends_at, lead(starts_at) OVER (PARTITION BY customer ORDER BY starts_at) AS next FROM billing_periods) \
         WHERE next <> ends_at LIMIT 20",
    },
    Query {
        name: "turn_periods",
        rule: "each open TURN period ends with a billing period",
        counted: "SELECT count(*) FROM turn_periods WHERE closed_at IS NULL",
        broken: "SELECT customer || ' from ' || starts_at FROM turn_periods t WHERE closed_at IS NULL \
         AND EXISTS (SELECT 1 FROM customers WHERE id = t.customer AND periods_until IS NOT NULL) \
         AND NOT EXISTS (SELECT 1 FROM billing_periods b WHERE b.customer = t.customer AND b.ends_at = t.ends_at) LIMIT 20",
    },
    Query {
        name: "billing_targets",
        rule: "used = within the plan + billable + house + not priced, for each customer, meter and period",
        counted: "SELECT count(*) FROM billing_targets",
        broken: "SELECT customer || ' ' || meter || ' from ' || period_start || ': ' || used || ' is not ' || within || ' + ' || billable || ' + ' \
           || house || ' + ' || not_priced FROM billing_targets WHERE used <> within + billable + house + not_priced LIMIT 20",
    },
    Query {
        name: "billed_usage",
        rule: "usage of a customer = sum of the customer's billing targets, once everything is planned",
        counted: "SELECT count(*) FROM customers",
        // only after a push, and of customers for whom nothing waits to be planned
        broken: concat!(
            "SELECT customer || ' ' || meter || ': booked ' || booked || ', in billing targets ' || targets FROM ( \
         SELECT c.id AS customer, m.meter, \
           (SELECT coalesce(",
            sum_of_units!("quantity"),
            ", 0) FROM booked_usage u WHERE u.customer = c.id AND u.meter = m.meter AND u.day <= l.day) AS booked, \
           (SELECT coalesce(",
            sum_of_rests!("quantity"),
            ", 0) FROM booked_usage u WHERE u.customer = c.id AND u.meter = m.meter AND u.day <= l.day) AS booked_rest, \
           (SELECT coalesce(",
            sum_of_units!("used"),
            ", 0) FROM billing_targets t WHERE t.customer = c.id AND t.meter = m.meter) AS targets, \
           (SELECT coalesce(",
            sum_of_rests!("used"),
            ", 0) FROM billing_targets t WHERE t.customer = c.id AND t.meter = m.meter) AS targets_rest \
         FROM customers c CROSS JOIN (SELECT key AS meter FROM json_each( \
             (SELECT iif(json_valid(value), value, '{}') FROM settings WHERE name = 'planned_for'), '$.meters')) m \
         JOIN (SELECT customer, max(last_day) AS day FROM billing_periods WHERE starts_at <= unixepoch() GROUP BY customer) l ON l.customer = c.id \
         WHERE c.periods_until IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stripe_due d WHERE d.customer = c.id AND d.from_day <> '9999') \
           AND (SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'planned_version') = (SELECT coalesce(max(version_id), 0) FROM bookings)) \
         WHERE booked - targets + (booked_rest - targets_rest) / ",
            unit!(),
            " <> 0 OR (booked_rest - targets_rest) % ",
            unit!(),
            " <> 0 LIMIT 20"
        ),
    },
    Query {
        name: "turn_counters",
        rule: "the TURN counter on a customer's row is that of one of its periods",
        counted: "SELECT count(*) FROM customers",
        broken: "SELECT id || ': ' || turn_allocations_used FROM customers c WHERE turn_allocations_used <> 0 \
         AND NOT EXISTS (SELECT 1 FROM turn_periods WHERE customer = c.id AND used = turn_allocations_used) LIMIT 20",
    },
    Query {
        name: "entitlements",
        rule: "allowed means used < effective limit, and newest history = decision",
        counted: "SELECT count(*) FROM entitlements",
        broken: "SELECT customer || ' ' || meter FROM entitlements e \
         WHERE allowed <> (effective_limit IS NULL OR used < effective_limit) \
            OR (allowed, reason) IS NOT (SELECT allowed, reason FROM entitlement_changes h \
                                         WHERE h.customer = e.customer AND h.meter = e.meter ORDER BY seq DESC LIMIT 1) LIMIT 20",
    },
];

/// As [`Database::last_audit`], beside other queries of the connection.
pub async fn last_audit(c: &Connection) -> Result<LastAudit, BooksError> {
    let (mut rows, mut sums) = tokio::try_join!(
        c.query("SELECT name, violations, at FROM audits", ()),
        c.query("SELECT sums FROM billing_sums ORDER BY meter", ()),
    )?;
    let mut audit = LastAudit::default();
    while let Some(row) = rows.next().await? {
        audit.violations.insert(row.get(0)?, row.get(1)?);
        audit.at = Some(crate::units::calendar::instant(row.get(2)?));
    }
    while let Some(row) = sums.next().await? {
        let wrong = |e| BooksError::Integrity(format!("billing_sums: {e}"));
        audit.billing.push(serde_json::from_str(&row.get::<String>(0)?).map_err(wrong)?);
    }
    Ok(audit)
}

impl Database {
    /// Stores the result of an audit, in place of the one before.
    pub async fn note_audit(&self, audit: &Audit, now: jiff::Timestamp) -> Result<(), BooksError> {
        let row = |check: &Check| serde_json::json!({ "name": check.name, "violations": check.violations.len() });
        let found = json(&audit.checks.iter().map(row).collect::<Vec<_>>())?;
        let billing = json(&audit.billing)?;
        self.transaction(async move |c| {
            c.execute("DELETE FROM audits", ()).await?;
            let sql = "INSERT INTO audits (name, violations, at) \
                       SELECT value ->> 'name', value ->> 'violations', ?2 FROM json_each(?1)";
            c.execute(sql, params![found, now.as_second()]).await?;
            c.execute("DELETE FROM billing_sums", ()).await?;
            let sql =
                "INSERT INTO billing_sums (meter, sums, at) SELECT value ->> 'meter', value, ?2 FROM json_each(?1)";
            c.execute(sql, params![billing, now.as_second()]).await?;
            Ok(())
        })
        .await
    }

    pub async fn last_audit(&self) -> Result<LastAudit, BooksError> {
        self.with_connection(async |c| last_audit(c).await).await
    }

    /// Runs every check over the whole books, and sums what became of all usage. Violations are
    /// part of the result and no error.
    pub async fn verify(&self) -> Result<Audit, BooksError> {
        self.with_connection(async |c| {
            let count = async |sql: &str| -> Result<u64, BooksError> {
                let row = first_row(c, sql, ()).await?;
                Ok(row.map(|r| r.get::<u64>(0)).transpose()?.unwrap_or(0))
            };
            let mut checks = vec![conservation(c).await?];
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
            for Query { name, rule, counted, broken } in QUERIES {
                let mut rows = c.query(broken, ()).await?;
                let mut violations = vec![];
                while let Some(row) = rows.next().await? {
                    violations.push(row.get::<String>(0)?);
                }
                checks.push(Check { name, rule, checked: count(counted).await?, violations });
            }
            Ok(Audit { checks, billing: billing_sums(c).await? })
        })
        .await
    }
}

/// Of the current versions.
const CURRENT_SHARES: &str = "SELECT s.version_id, s.meter, s.apportioned FROM bill_versions v \
    JOIN bucket_shares s ON s.version_id = v.id \
    WHERE v.state = 'applied' AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)";

/// Of usage and of costs; their meters have different names.
const LINES: &str = "SELECT version_id, meter, amount FROM bill_lines WHERE meter <> '' \
    UNION ALL SELECT version_id, meter, amount FROM cost_lines";

/// For the current version of each bill: the parts and the lines add up to the total, and the
/// ledger holds the booked quantity.
async fn conservation(c: &crate::store::connection::Connection) -> Result<Check, BooksError> {
    let exact = |text: String| text.parse::<Quantity>().map_err(|e| BooksError::Integrity(e.to_string()));
    let mut violations = vec![];
    let mut checked = 0;
    let mut rows = c
        .query(
            "SELECT t.version_id, t.meter, t.total, t.attributed, t.unattributed, t.excluded, t.booked, v.payer, v.month, t.apportioned \
             FROM bill_totals t JOIN bill_versions v ON v.id = t.version_id \
             WHERE v.state = 'applied' AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)",
            (),
        )
        .await?;
    let mut lines: BTreeMap<(i64, String), Quantity> = BTreeMap::new();
    let mut line_rows = c.query(LINES, ()).await?;
    while let Some(row) = line_rows.next().await? {
        *lines.entry((row.get(0)?, row.get(1)?)).or_default() += exact(row.get(2)?)?;
    }
    let mut shares: BTreeMap<(i64, String), Quantity> = BTreeMap::new();
    let mut share_rows = c.query(CURRENT_SHARES, ()).await?;
    while let Some(row) = share_rows.next().await? {
        *shares.entry((row.get(0)?, row.get(1)?)).or_default() += exact(row.get(2)?)?;
    }
    while let Some(row) = rows.next().await? {
        checked += 1;
        let (id, meter): (i64, String) = (row.get(0)?, row.get(1)?);
        let (total, attributed) = (exact(row.get(2)?)?, exact(row.get(3)?)?);
        let (unattributed, excluded, booked) = (exact(row.get(4)?)?, exact(row.get(5)?)?, exact(row.get(6)?)?);
        let (payer, month): (String, String) = (row.get(7)?, row.get(8)?);
        let name = format!("{payer} {} {meter}", month.parse::<Month>().map_or(month.clone(), |m| m.to_string()));
        let apportioned = exact(row.get(9)?)?;
        if attributed + apportioned + unattributed + excluded != total {
            violations
                .push(format!("{name}: {attributed} + {apportioned} + {unattributed} + {excluded} is not {total}"));
        }
        let by_day = shares.get(&(id, meter.clone())).copied().unwrap_or_default();
        if by_day != apportioned {
            violations.push(format!("{name}: shares of buckets make {by_day}, and {apportioned} is apportioned"));
        }
        let by_line = lines.get(&(id, meter.clone())).copied().unwrap_or_default();
        if by_line != total {
            violations.push(format!("{name}: lines make {by_line}, the total is {total}"));
        }
        let sql = concat!(
            "SELECT ",
            exact_sum!("quantity"),
            " FROM bookings b CROSS JOIN ledger_entries e ON e.booking_id = b.id \
             WHERE b.payer = ?1 AND b.month = ?2 AND b.version_id IS NOT NULL AND e.meter = ?3"
        );
        let sum = match first_row(c, sql, params![payer, month, meter]).await? {
            Some(row) => row.get::<Option<String>>(0)?,
            None => None,
        };
        let ledger = sum.map_or(Ok(Quantity::ZERO), |sum| sum_of(&sum))?;
        if ledger != booked {
            violations.push(format!("{name}: the ledger holds {ledger}, the bill said {booked}"));
        }
    }
    Ok(Check {
        name: "conservation",
        rule: "attributed + apportioned + unattributed + excluded = total of the meter's lines; booked = ledger",
        checked,
        violations,
    })
}
