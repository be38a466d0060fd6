//! Stored forecasts: what the newest run of `forecast_usage` found, for pages and metrics.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backtest::Backtest;
use super::model::MonthEnd;
use super::unusual::UnusualDay;
use crate::store::connection::{Connection, Value, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows, json};
use crate::units::calendar::{Day, Month, instant};
use crate::units::money::Money;
use crate::units::quantity::Quantity;

/// A forecast of a customer's meter, or of a meter as a whole.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct UsageForecast {
    /// Empty for all usage of the meter, with what has no customer.
    pub customer: String,
    pub meter: String,
    pub month: Month,
    /// What is booked of the month.
    pub booked: Quantity,
    pub p50: Quantity,
    /// Nine of ten months end with no more; null when too few past errors are known.
    pub p90: Option<Quantity>,
    /// The day on which what the plan includes is used up; null when not in this billing period.
    pub included_on: Option<Day>,
    /// The day on which the limit is reached: the plan's, or the budget's.
    pub limit_on: Option<Day>,
    /// What the meter will cost in the billing period; null when nothing is billed or its price is
    /// not known.
    pub bill: Option<BillForecast>,
}

/// A meter's line on the bill of the current billing period.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BillForecast {
    /// The last day of the billing period.
    pub last_day: Day,
    pub p50: Money,
    /// If every meter of the customer ends at its P90.
    pub p90: Option<Money>,
}

/// How good the forecasts of a meter are.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ForecastAccuracy {
    pub meter: String,
    /// Usage is known up to this day.
    pub settled_through: Day,
    /// Customers whose past was looked at, and all with usage.
    pub sampled: usize,
    pub customers: usize,
    /// Of month ends of single customers.
    pub by_customer: Backtest,
    /// Of month ends of the meter as a whole.
    pub as_a_whole: Backtest,
}

/// What a run found of one meter as a whole.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MeterForecast {
    pub forecast: UsageForecast,
    pub accuracy: ForecastAccuracy,
    pub at: Timestamp,
}

/// The unusual days of a meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct UnusualOfMeter {
    pub meter: String,
    /// All of them.
    pub total: u64,
    /// The largest ones.
    pub days: Vec<UnusualDay>,
}

const COLUMNS: &str =
    "customer, meter, month, booked, p50, p90, included_on, limit_on, currency, last_day, bill_p50, bill_p90";

/// A changed entry of the customer ?1, the meter ?2 and the day ?3, from a version after the first
/// one that settled the day: one that was delivered at ?4 or later.
const RESTATED: &str = "SELECT 1 FROM booked_usage u WHERE u.customer = ?1 AND u.meter = ?2 AND u.day = ?3 AND u.version_id > ( \
    SELECT min(v.id) FROM bill_versions v WHERE v.payer = u.payer AND v.month = u.month AND v.state = 'applied' \
      AND unixepoch(v.delivered_at) >= ?4) LIMIT 1";

/// What is stored of the customers ?1 and is none of ?2.
const REMOVE: &str = "DELETE FROM forecasts WHERE customer IN (SELECT value FROM json_each(?1)) AND NOT EXISTS ( \
    SELECT 1 FROM json_each(?2) k WHERE k.value ->> 0 = customer AND k.value ->> 1 = month AND k.value ->> 2 = meter)";

/// A written row costs as much as a thousand read ones, so one that is the same stays.
const REPLACE: &str = "ON CONFLICT (customer, month, meter) DO UPDATE SET booked = excluded.booked, p50 = excluded.p50, p90 = excluded.p90, \
      included_on = excluded.included_on, limit_on = excluded.limit_on, currency = excluded.currency, \
      last_day = excluded.last_day, bill_p50 = excluded.bill_p50, bill_p90 = excluded.bill_p90 \
    WHERE (booked, p50, p90, included_on, limit_on, currency, last_day, bill_p50, bill_p90) IS NOT \
      (excluded.booked, excluded.p50, excluded.p90, excluded.included_on, excluded.limit_on, excluded.currency, \
       excluded.last_day, excluded.bill_p50, excluded.bill_p90)";

fn row(of: &UsageForecast) -> [Value; 12] {
    let text = |text: &dyn ToString| Value::Text(text.to_string());
    let day = |day: &Option<Day>| day.as_ref().map_or(Value::Null, |day| text(day));
    let bill = of.bill.as_ref();
    [
        text(&of.customer),
        text(&of.meter),
        text(&of.month),
        text(&of.booked),
        text(&of.p50),
        of.p90.as_ref().map_or(Value::Null, |p90| text(p90)),
        day(&of.included_on),
        day(&of.limit_on),
        bill.map_or(Value::Null, |bill| text(&bill.p50.currency)),
        bill.map_or(Value::Null, |bill| text(&bill.last_day)),
        bill.map_or(Value::Null, |bill| Value::Integer(bill.p50.minor)),
        bill.and_then(|bill| bill.p90).map_or(Value::Null, |p90| Value::Integer(p90.minor)),
    ]
}

fn parsed<T: std::str::FromStr>(text: String) -> Result<T, BooksError> {
    text.parse().map_err(|_| BooksError::Integrity(format!("forecasts: `{text}` is not what its column holds")))
}

async fn read(c: &Connection, customer: &str, month: Month) -> Result<Vec<UsageForecast>, BooksError> {
    let sql = format!("SELECT {COLUMNS} FROM forecasts WHERE customer = ?1 AND month = ?2 ORDER BY meter");
    let mut rows = c.query(&sql, params![customer, month.to_string()]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let optional = |column| row.get::<Option<String>>(column);
        let currency: Option<String> = row.get(8)?;
        let bill = match (currency, optional(9)?, row.get::<Option<i64>>(10)?) {
            (Some(currency), Some(last_day), Some(p50)) => {
                let currency = parsed(currency)?;
                let (p50, p90) = (Money { minor: p50, currency }, row.get::<Option<i64>>(11)?);
                let p90 = p90.map(|minor| Money { minor, currency });
                Some(BillForecast { last_day: parsed(last_day)?, p50, p90 })
            }
            _ => None,
        };
        found.push(UsageForecast {
            customer: row.get(0)?,
            meter: row.get(1)?,
            month: parsed(row.get(2)?)?,
            booked: parsed(row.get(3)?)?,
            p50: parsed(row.get(4)?)?,
            p90: optional(5)?.map(parsed).transpose()?,
            included_on: optional(6)?.map(parsed).transpose()?,
            limit_on: optional(7)?.map(parsed).transpose()?,
            bill,
        });
    }
    Ok(found)
}

/// What is stored of each meter as a whole, for a month. A few rows.
pub async fn meter_forecasts(c: &Connection, month: Month) -> Result<Vec<MeterForecast>, BooksError> {
    let mut rows = c.query("SELECT meter, found, at FROM forecast_accuracy", ()).await?;
    let mut accuracies = vec![];
    while let Some(row) = rows.next().await? {
        // another build may have kept other figures
        let found: Option<ForecastAccuracy> = serde_json::from_str(&row.get::<String>(1)?).ok();
        accuracies.extend(found.map(|found| (row.get::<i64>(2).unwrap_or(0), found)));
    }
    let forecasts = read(c, "", month).await?;
    let with_accuracy = |forecast: UsageForecast| {
        let (at, accuracy) = accuracies.iter().find(|(_, of)| of.meter == forecast.meter)?;
        Some(MeterForecast { forecast, accuracy: accuracy.clone(), at: instant(*at) })
    };
    Ok(forecasts.into_iter().filter_map(with_accuracy).collect())
}

/// The stored unusual days, by meter. A few rows.
pub async fn unusual_days(c: &Connection) -> Result<Vec<UnusualOfMeter>, BooksError> {
    let (mut rows, mut found) = (c.query("SELECT found FROM unusual_days ORDER BY meter", ()).await?, vec![]);
    while let Some(row) = rows.next().await? {
        // another build may have kept other figures
        found.extend(serde_json::from_str::<UnusualOfMeter>(&row.get::<String>(0)?).ok());
    }
    Ok(found)
}

/// Writes an object for each meter into a table, in place of all that it has.
async fn replace(c: &Connection, table: &str, found: &[(String, String)], now: i64) -> Result<(), BooksError> {
    c.execute(&format!("DELETE FROM {table}"), ()).await?;
    let values =
        |(meter, text): &(String, String)| [Value::Text(meter.clone()), Value::Text(text.clone()), Value::Integer(now)];
    insert_rows(c, &format!("INSERT INTO {table} (meter, found, at)"), "", found, values).await
}

impl Database {
    /// Keeps the unusual days of all meters.
    pub async fn keep_unusual_days(&self, found: &[UnusualOfMeter], now: Timestamp) -> Result<(), BooksError> {
        let (found, at) = (found.iter().map(|of| json(of).map(|text| (of.meter.clone(), text))), now.as_second());
        let found: Vec<(String, String)> = found.collect::<Result<_, _>>()?;
        self.transaction(async move |c| replace(c, "unusual_days", &found, at).await).await
    }

    /// Whether a bill changed a customer's day after an earlier one had settled it.
    pub async fn is_restated(
        &self,
        customer: &str,
        meter: &str,
        day: Day,
        settled_at: Timestamp,
    ) -> Result<bool, BooksError> {
        let values = params![customer, meter, day.to_string(), settled_at.as_second()];
        self.with_connection(async move |c| Ok(first_row(c, RESTATED, values).await?.is_some())).await
    }

    /// The stored forecasts of one customer, for a month.
    pub async fn customer_forecasts(&self, customer: &str, month: Month) -> Result<Vec<UsageForecast>, BooksError> {
        let customer = customer.to_owned();
        self.with_connection(async move |c| read(c, &customer, month).await).await
    }

    /// As [`meter_forecasts`].
    pub async fn meter_forecasts(&self, month: Month) -> Result<Vec<MeterForecast>, BooksError> {
        self.with_connection(async move |c| meter_forecasts(c, month).await).await
    }

    /// Keeps the forecasts of some customers in place of all that are stored of them.
    pub async fn keep_forecasts(&self, customers: &[String], found: &[UsageForecast]) -> Result<(), BooksError> {
        let key = |of: &UsageForecast| (of.customer.clone(), of.month, of.meter.clone());
        let keys: Vec<(String, Month, String)> = found.iter().map(key).collect();
        let (customers, keys, found) = (json(customers)?, json(&keys)?, found.to_vec());
        self.transaction(async move |c| {
            c.execute(REMOVE, params![customers, keys]).await?;
            insert_rows(c, &format!("INSERT INTO forecasts ({COLUMNS})"), REPLACE, &found, row).await
        })
        .await
    }

    /// Keeps the accuracies of all meters.
    pub async fn keep_forecast_accuracy(&self, found: &[ForecastAccuracy], now: Timestamp) -> Result<(), BooksError> {
        let (found, at) = (found.iter().map(|of| json(of).map(|text| (of.meter.clone(), text))), now.as_second());
        let found: Vec<(String, String)> = found.collect::<Result<_, _>>()?;
        self.transaction(async move |c| replace(c, "forecast_accuracy", &found, at).await).await
    }
}

impl UsageForecast {
    /// A month end without limits and bill.
    pub fn new(customer: &str, meter: &str, month: Month, (booked, end): (Quantity, MonthEnd)) -> Self {
        Self {
            customer: customer.to_owned(),
            meter: meter.to_owned(),
            month,
            booked,
            p50: end.p50,
            p90: end.p90,
            included_on: None,
            limit_on: None,
            bill: None,
        }
    }
}
