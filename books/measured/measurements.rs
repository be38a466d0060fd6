//! Reading what was measured, by customer, meter and day.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::accrual::{Accrues, Measurement};
use crate::store::connection::{Connection, Row, Value};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// Measurements that are read at once, about: a server's answer has at most 10 MB.
const PAGE: i64 = 30_000;

/// When a measurement is over: nothing of it counts later.
macro_rules! over_at {
    () => {
        "max(coalesce(started_at, ended_at), \
             coalesce(min(coalesce(ended_at, expires_at), coalesce(expires_at, ended_at)), started_at))"
    };
}
pub(crate) use over_at;

/// Columns that [`measurement`] reads, from the third one on.
macro_rules! columns {
    () => {
        concat!("quantity, coalesce(level, 0), coalesce(started_at, ended_at), ", over_at!())
    };
}
pub(super) use columns;

/// Reads [`columns`]. An end without a start is a level of 0.
pub(super) fn measurement(row: &Row, at: i32) -> Result<Measurement, BooksError> {
    let starts_at = row.get(at + 2)?;
    Ok(match row.get::<Option<i64>>(at)? {
        Some(quantity) => Measurement::Counted { quantity, at: starts_at },
        None => Measurement::Level { level: row.get(at + 1)?, starts_at, ends_at: row.get(at + 3)? },
    })
}

/// What was measured of a customer, meter and day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredDay {
    pub customer: String,
    pub meter: String,
    pub day: Day,
    /// In the meter's unit, rounded once.
    pub quantity: Quantity,
    /// The same in the meter's smallest unit (attendee-seconds, byte-seconds, bytes), exact.
    pub weight: i128,
    /// Uses that nobody ended and that reached their bound on this day; unknown, so 0, for what is
    /// folded.
    pub ended_by_bound: u32,
}

/// A use that its bound ends: nobody has ended it, or later than that.
macro_rules! is_by_bound {
    () => {
        "(expires_at IS NOT NULL AND (ended_at IS NULL OR ended_at > expires_at))"
    };
}
pub(super) use is_by_bound;

/// Whose usage is read: the condition on `customer`, with parameters from the third one on.
struct Whose {
    sql: &'static str,
    values: Vec<Value>,
}

#[derive(Default)]
struct Sum {
    weight: i128,
    ended_by_bound: u32,
}

/// What measured meters count, by name.
async fn accruals(c: &Connection) -> Result<BTreeMap<String, Accrues>, BooksError> {
    let mut rows = c.query("SELECT meter, accrues FROM measured_meters WHERE accrues IS NOT NULL", ()).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let (meter, name): (String, String) = (row.get(0)?, row.get(1)?);
        let accrues = Accrues::named(&name)
            .ok_or_else(|| BooksError::Integrity(format!("measured_meters.accrues of {meter} is `{name}`")))?;
        found.insert(meter, accrues);
    }
    Ok(found)
}

async fn read(c: &Connection, whose: Whose, from: Day, to: Day, now: i64) -> Result<Vec<MeasuredDay>, BooksError> {
    let start = i64::from(from.epoch()) * 86_400;
    let end = to.end().as_second().min(now);
    // one statement, so that a measurement that is folded meanwhile counts once
    let sql = format!(
        "SELECT customer, meter, {}, {}, NULL, NULL, NULL FROM measurements \
         WHERE {whose} AND coalesce(started_at, ended_at) < ?2 AND {} >= ?1 \
         UNION ALL SELECT customer, meter, NULL, NULL, NULL, NULL, NULL, day, units, rest FROM measured_days \
         WHERE {whose} AND day BETWEEN date(?1, 'unixepoch') AND date(?2 - 1, 'unixepoch')",
        columns!(),
        is_by_bound!(),
        over_at!(),
        whose = whose.sql,
    );
    let values: Vec<Value> = [start.into(), end.into()].into_iter().chain(whose.values).collect();
    let (accruals, mut rows) = tokio::try_join!(accruals(c), c.query(&sql, values))?;
    let mut sums: BTreeMap<(String, String, Day), Sum> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let (customer, meter): (String, String) = (row.get(0)?, row.get(1)?);
        if let Some(day) = row.get::<Option<String>>(7)? {
            let day = day.parse().map_err(|e| BooksError::Integrity(format!("measured_days.day: {e}")))?;
            let weight = Quantity::from_parts(row.get(8)?, row.get(9)?).scaled();
            sums.entry((customer, meter, day)).or_default().weight += weight;
            continue;
        }
        let measured = measurement(&row, 2)?;
        for (day, weight) in measured.by_day(start, end) {
            sums.entry((customer.clone(), meter.clone(), day)).or_default().weight += weight;
        }
        if let Measurement::Level { ends_at, .. } = measured
            && row.get(6)?
            && ends_at > start
            && ends_at <= end
            && let Some(day) = i32::try_from((ends_at - 1).div_euclid(86_400)).ok().and_then(Day::from_epoch)
        {
            sums.entry((customer, meter, day)).or_default().ended_by_bound += 1;
        }
    }
    let day = |((customer, meter, day), sum): ((String, String, Day), Sum)| {
        let Sum { weight, ended_by_bound } = sum;
        let quantity = accruals.get(&meter)?.quantity(weight, day);
        let quantity =
            quantity.map_err(|e| BooksError::Integrity(format!("measured usage of {customer}, {meter}, {day}: {e}")));
        Some(quantity.map(|quantity| MeasuredDay { customer, meter, day, quantity, weight, ended_by_bound }))
    };
    sums.into_iter().filter_map(day).collect()
}

/// As [`Database::measured`], of these customers; also inside a transaction.
pub async fn of_customers(
    c: &Connection,
    customers: &[String],
    from: Day,
    to: Day,
    now: Timestamp,
) -> Result<Vec<MeasuredDay>, BooksError> {
    let whose = Whose { sql: "customer IN (SELECT value FROM json_each(?3))", values: vec![json(customers)?.into()] };
    read(c, whose, from, to, now.as_second()).await
}

/// Where the next page of customers ends; none for the last page.
async fn page_end(c: &Connection, after: &str) -> Result<Option<String>, BooksError> {
    let sql = "SELECT customer FROM measurements WHERE customer > ?1 ORDER BY customer LIMIT 1 OFFSET ?2";
    first_row(c, sql, vec![Value::from(after.to_owned()), PAGE.into()]).await?.map(|row| row.get(0)).transpose()
}

impl Database {
    /// What was measured from the day `from` to the day `to`, both included, and before `now`: of
    /// one customer or of all, in order of customer, meter and day. Days without any are left out.
    ///
    /// What `now` cuts off is usage that is still running, or that a clock ahead of ours reported.
    /// Meters that are no longer measured are left out.
    pub async fn measured(
        &self,
        customer: Option<String>,
        from: Day,
        to: Day,
        now: Timestamp,
    ) -> Result<Vec<MeasuredDay>, BooksError> {
        self.with_connection(async move |c| {
            if let Some(customer) = customer {
                return of_customers(c, &[customer], from, to, now).await;
            }
            let (mut after, mut found) = (String::new(), vec![]);
            loop {
                let end = page_end(c, &after).await?;
                let whose = match &end {
                    Some(end) => Whose {
                        sql: "customer > ?3 AND customer <= ?4",
                        values: vec![after.into(), end.clone().into()],
                    },
                    None => Whose { sql: "customer > ?3", values: vec![after.into()] },
                };
                found.extend(read(c, whose, from, to, now.as_second()).await?);
                let Some(end) = end else { return Ok(found) };
                after = end;
            }
        })
        .await
    }
}
