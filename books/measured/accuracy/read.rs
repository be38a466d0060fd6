//! Reads both witnesses, and keeps what the daily comparison found.
//!
//! The database sums; customers are read in pages, because an answer has at most 10 MB. Each row in
//! `measurements` is read once, and of the other tables only the rows of the compared days.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;

use super::{AccuracyCheck, MeterAccuracy, TwoWitnesses};
use crate::measured::accrual::Accrues;
use crate::measured::by_day::{weight, weights_by_day};
use crate::measured::metered_day::MeteredDay;
use crate::store::connection::{Connection, Value, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{json, sum_of_rests, sum_of_units};
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// Customers, meters and days in an answer; each takes about 100 bytes.
const CELLS: usize = 40_000;

/// Steps from customer to customer of some tables, from ?1 on: `$next` are the next ids after
/// `ids.id`. A blob is greater than any text.
macro_rules! ids {
    ($($next:literal),*) => {
        concat!(
            "ids (id) AS (SELECT ?1 UNION ALL SELECT nullif(min(",
            $("coalesce((SELECT min(customer) FROM ", $next, " WHERE customer > ids.id), x'ff'), ",)*
            "x'ff'), x'ff') FROM ids WHERE ids.id IS NOT NULL"
        )
    };
}

/// The first day that anybody measured, of the meters ?2.
const SINCE: &str = concat!(
    "WITH RECURSIVE ",
    ids!("measurements", "measured_days"),
    ") SELECT w.value, min( \
         coalesce((SELECT min(day) FROM measured_days WHERE customer = ids.id AND meter = w.value), x'ff'), \
         coalesce((SELECT date(min(started_at), 'unixepoch') FROM measurements WHERE customer = ids.id AND meter = w.value), x'ff')) AS day \
     FROM ids CROSS JOIN json_each(?2) w WHERE ids.id IS NOT NULL AND day <> x'ff'"
);

/// A page of ?3 customers from ?1 on, with usage of the meters ?4 on the days ?5, before the
/// instant ?2. The days are from ?6 to ?7.
const PAGE: &str = concat!(
    "WITH RECURSIVE ",
    ids!("measurements", "measured_days", "ledger_entries"),
    " LIMIT ?3), \
     c (id, first_day, last_day) AS (SELECT id, ?6, ?7 FROM ids WHERE id IS NOT NULL), \
     watched (meter) AS MATERIALIZED (SELECT value FROM json_each(?4)), \
     open (day, start, meter) AS MATERIALIZED (SELECT value, unixepoch(value), NULL FROM json_each(?5)) \
     SELECT c.id, (SELECT json_group_array(json_array(meter, day, high, low)) FROM (",
    weights_by_day!(uses_first),
    ")), (SELECT json_group_array(json_array(meter, day, units, rest)) FROM ( \
         SELECT u.meter, u.day, ",
    sum_of_units!("u.quantity"),
    " AS units, ",
    sum_of_rests!("u.quantity"),
    " AS rest \
         FROM watched w CROSS JOIN booked_usage u ON u.customer = c.id AND u.meter = w.meter \
          AND u.day BETWEEN c.first_day AND c.last_day \
         WHERE u.day IN (SELECT day FROM open) GROUP BY u.meter, u.day)) FROM c"
);

/// Keeps the first days and the comparisons of ?1, and forgets those of other meters.
const KEEP: &str = "INSERT INTO measured_accuracy (meter, since, found, at) \
    SELECT value ->> 'meter', value ->> 'since', value, ?2 FROM json_each(?1) WHERE true \
    ON CONFLICT (meter) DO UPDATE SET since = excluded.since, found = excluded.found, at = excluded.at";
const FORGET: &str = "UPDATE measured_accuracy SET found = NULL \
    WHERE found IS NOT NULL AND meter NOT IN (SELECT value ->> 'meter' FROM json_each(?1))";

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Accuracy {
    /// Of meters that somebody measures.
    pub meters: Vec<MeterAccuracy>,
    /// The same of the customer that was asked for alone; empty without usage.
    pub of_customer: Vec<MeterAccuracy>,
}

/// Meter, day and the parts of an amount.
#[derive(Deserialize)]
struct Amount(String, Day, i64, i64);

/// A customer's usage by meter and day.
type Usage = BTreeMap<(String, Day), TwoWitnesses>;

fn amounts(text: &str) -> Result<Vec<Amount>, BooksError> {
    serde_json::from_str(text).map_err(|e| BooksError::Integrity(format!("usage by day: {e}")))
}

fn usage(meters: &BTreeMap<String, (Accrues, Day)>, measured: &str, billed: &str) -> Result<Usage, BooksError> {
    let mut found = Usage::new();
    for Amount(meter, day, high, low) in amounts(measured)? {
        let Some((accrues, _)) = meters.get(&meter) else { continue };
        let quantity = accrues.quantity(weight(high, low), day);
        let wrong = |e| BooksError::Integrity(format!("measured usage of {meter}, {day}: {e}"));
        found.entry((meter.clone(), day)).or_default().measured = quantity.map_err(wrong)?;
    }
    for Amount(meter, day, units, rest) in amounts(billed)? {
        found.entry((meter, day)).or_default().billed = Quantity::from_parts(units, rest);
    }
    Ok(found)
}

/// The first measured day of each of these meters that has one: the kept one, else it is looked
/// for.
async fn since(
    c: &Connection,
    meters: &BTreeMap<String, Accrues>,
) -> Result<BTreeMap<String, (Accrues, Day)>, BooksError> {
    let mut days: BTreeMap<String, Day> = BTreeMap::new();
    let wrong = |e| BooksError::Integrity(format!("the first measured day: {e}"));
    let mut rows = c.query("SELECT meter, since FROM measured_accuracy", ()).await?;
    while let Some(row) = rows.next().await? {
        days.insert(row.get(0)?, row.get::<String>(1)?.parse().map_err(wrong)?);
    }
    let unknown: Vec<&String> = meters.keys().filter(|meter| !days.contains_key(*meter)).collect();
    if !unknown.is_empty() {
        let sql = format!("SELECT value, min(day) FROM ({SINCE}) GROUP BY value");
        let mut rows = c.query(&sql, params!["", json(&unknown)?]).await?;
        while let Some(row) = rows.next().await? {
            days.insert(row.get(0)?, row.get::<String>(1)?.parse().map_err(wrong)?);
        }
    }
    let known = meters.iter().filter_map(|(meter, accrues)| Some((meter.clone(), (*accrues, *days.get(meter)?))));
    Ok(known.collect())
}

/// Leaves out meters of which nobody reports any more: nothing was measured on the compared days,
/// and nothing so lately that it is not folded.
async fn leave_out_silent(c: &Connection, found: &mut Vec<MeterAccuracy>) -> Result<(), BooksError> {
    let silent = found.iter().filter(|of| of.usage.measured.is_zero()).map(|of| of.meter.as_str());
    let silent: Vec<&str> = silent.collect();
    if silent.is_empty() {
        return Ok(());
    }
    let sql = "SELECT value FROM json_each(?1) WHERE NOT EXISTS (SELECT 1 FROM measurements WHERE meter = value)";
    let mut rows = c.query(sql, params![json(&silent)?]).await?;
    while let Some(row) = rows.next().await? {
        let meter: String = row.get(0)?;
        found.retain(|of| of.meter != meter);
    }
    Ok(())
}

/// What the newest daily comparison found, by meter.
pub async fn kept_accuracy(c: &Connection) -> Result<Vec<MeterAccuracy>, BooksError> {
    let mut rows = c.query("SELECT found FROM measured_accuracy WHERE found IS NOT NULL ORDER BY meter", ()).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        // another build may have kept other figures; the next daily run keeps ours
        found.extend(serde_json::from_str::<MeterAccuracy>(&row.get::<String>(0)?));
    }
    Ok(found)
}

impl Database {
    /// Compares both witnesses on these settled days, which are in order, but for undivided ones;
    /// of all customers, and of one. Without a measured meter no usage is read.
    pub async fn accuracy(
        &self,
        meters: BTreeMap<String, Accrues>,
        days: Vec<Day>,
        undivided: BTreeSet<MeteredDay>,
        customer: Option<String>,
    ) -> Result<Accuracy, BooksError> {
        self.with_connection(async move |c| {
            let meters = since(c, &meters).await?;
            let mut check = AccuracyCheck::new(&meters, &days, &undivided);
            let mut of_customer = vec![];
            let earliest = meters.values().map(|(_, since)| *since).min();
            let days: Vec<Day> = days.into_iter().filter(|day| earliest.is_some_and(|since| *day > since)).collect();
            let (Some(first), Some(last)) = (days.first(), days.last()) else {
                let mut meters = check.finish();
                leave_out_silent(c, &mut meters).await?;
                return Ok(Accuracy { meters, of_customer });
            };
            let customers = (CELLS / (days.len() * meters.len()).max(1)).max(2);
            let names: Vec<&String> = meters.keys().collect();
            let lists = [json(&names)?, json(&days)?, first.to_string(), last.to_string()];
            let mut from = String::new();
            loop {
                let page = i64::try_from(customers).unwrap_or(i64::MAX);
                let values = [Value::Text(from.clone()), last.end().as_second().into(), page.into()];
                let values = values.into_iter().chain(lists.iter().cloned().map(Value::Text)).collect::<Vec<_>>();
                let (mut rows, mut read) = (c.query(PAGE, values).await?, 0);
                while let Some(row) = rows.next().await? {
                    read += 1;
                    let id: String = row.get(0)?;
                    // the last customer of the page before
                    if read == 1 && !from.is_empty() {
                        continue;
                    }
                    let usage = usage(&meters, &row.get::<String>(1)?, &row.get::<String>(2)?)?;
                    check.add(&id, &usage);
                    if customer.as_ref() == Some(&id) && !usage.is_empty() {
                        let mut own = AccuracyCheck::new(&meters, &days, &undivided);
                        own.add(&id, &usage);
                        of_customer = own.finish();
                    }
                    from = id;
                }
                if read < customers {
                    break;
                }
            }
            let mut meters = check.finish();
            leave_out_silent(c, &mut meters).await?;
            Ok(Accuracy { meters, of_customer })
        })
        .await
    }

    /// Keeps what the daily comparison found. Writes nothing while nobody measures.
    pub async fn keep_accuracy(&self, found: &[MeterAccuracy], now: Timestamp) -> Result<(), BooksError> {
        let found = json(found)?;
        let statements = vec![(KEEP, vec![found.clone().into(), now.as_second().into()]), (FORGET, vec![found.into()])];
        self.with_connection(async move |c| c.batch(statements).await.map(drop)).await
    }
}
