//! What AWS charges for usage, by customer: the money beside the quantities.
//!
//! A cost meter sums a column of money over lines of a bill, and is booked, guarded and proven like
//! a meter of usage. In the books its name ends with the currency of the bill ([`booked_name`]), so
//! amounts in two currencies are never one sum.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::store::connection::params;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, json_parts, sum_of};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;

/// The column with the currency of a line's costs.
pub const CURRENCY_COLUMN: &str = "line_item_currency_code";

/// A column of money that a cost meter can sum
/// (<https://docs.aws.amazon.com/cur/latest/userguide/Lineitem-columns.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum CostColumn {
    /// What AWS charges for the line, before discounts that have lines of their own.
    #[serde(rename = "line_item_unblended_cost")]
    Unblended,
    /// The same after discounts.
    #[serde(rename = "line_item_net_unblended_cost")]
    NetUnblended,
    /// At the average rate of an organisation.
    #[serde(rename = "line_item_blended_cost")]
    Blended,
}

/// Line types that are charged for use, in every column. `SavingsPlanNegation` takes back what a
/// savings plan covers of `SavingsPlanCoveredUsage`.
const OF_USE: [&str; 4] = ["DiscountedUsage", "SavingsPlanCoveredUsage", "SavingsPlanNegation", "Usage"];

/// Line types that lower the price of use. Net costs have them in the lines of the use already.
const DISCOUNTS: [&str; 6] =
    ["BundledDiscount", "Discount", "EdpDiscount", "PrivateRateDiscount", "RiVolumeDiscount", "SppDiscount"];

impl CostColumn {
    pub const ALL: [Self; 3] = [Self::Unblended, Self::NetUnblended, Self::Blended];

    /// Its name in CUR 2.0, which is also the canonical form of its name in legacy bills.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unblended => "line_item_unblended_cost",
            Self::NetUnblended => "line_item_net_unblended_cost",
            Self::Blended => "line_item_blended_cost",
        }
    }

    /// The column of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    /// The line types whose costs count when the configuration names none. Credits, refunds, taxes,
    /// fees and commitments are no price of somebody's use: they stay excluded.
    pub fn line_types(self) -> Vec<&'static str> {
        match self {
            Self::NetUnblended => OF_USE.to_vec(),
            Self::Unblended | Self::Blended => [&OF_USE[..], &DISCOUNTS[..]].concat(),
        }
    }
}

/// The name of a cost meter in the books: `chime_cost(USD)`. It has no blank, which separates
/// meters where many cells are read.
pub fn booked_name(meter: &str, currency: &str) -> String {
    format!("{meter}({currency})")
}

/// Meter and currency of a name of [`booked_name`]; none for a meter of usage, whose name has
/// letters, digits and `_` alone.
pub fn cost_meter(booked: &str) -> Option<(&str, &str)> {
    booked.strip_suffix(')')?.rsplit_once('(')
}

/// What AWS charged for a customer's use, by one cost meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BookedCost {
    /// Empty for lines without a customer.
    pub customer: String,
    pub meter: String,
    pub currency: String,
    pub cost: Quantity,
}

/// What AWS charged in a month, by one cost meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonthCost {
    pub all: BookedCost,
    /// What of it is of days in no billing period of the customer.
    pub without_period: Quantity,
}

/// The costs of the newest version of a bill, by one cost meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BilledCost {
    /// Label of the payer account.
    pub payer: String,
    pub month: String,
    pub meter: String,
    pub currency: String,
    /// Of customers.
    pub attributed: Quantity,
    /// Of lines without a customer.
    pub unattributed: Quantity,
    /// Of lines that the meter claims and does not count: credits, taxes, fees.
    pub excluded: Quantity,
}

/// A customer's days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CustomerDays {
    pub customer: String,
    pub first: Day,
    pub last: Day,
}

/// ?1 [`CustomerDays`] as JSON, each with its place.
const OF_DAYS: &str = concat!(
    "SELECT j.value ->> 'place', u.meter, ",
    exact_sum!("u.amount"),
    " FROM json_each(?1) j CROSS JOIN booked_costs u ON u.customer = j.value ->> 'customer' \
     AND u.day BETWEEN j.value ->> 'first' AND j.value ->> 'last' GROUP BY 1, 2 ORDER BY 1, 2"
);

/// ?1 first, ?2 last day; ?3 a customer or null.
const BETWEEN: &str = concat!(
    "SELECT customer, meter, ",
    exact_sum!("amount"),
    ", ",
    exact_sum!("iif(in_period, 0, amount)"),
    " FROM (SELECT customer, meter, amount, EXISTS (SELECT 1 FROM billing_periods p \
        WHERE p.customer = u.customer AND u.day BETWEEN p.first_day AND p.last_day) AS in_period \
      FROM booked_costs u WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR customer = ?3)) \
     GROUP BY customer, meter ORDER BY customer, meter"
);

/// ?1 a month; null for the newest month of each payer. Each is a seek in an index, and books
/// without costs are not searched.
const OF_BILLS: &str = "WITH RECURSIVE payers (payer) AS (SELECT min(payer) FROM bill_versions WHERE EXISTS (SELECT 1 FROM cost_lines) \
      UNION ALL SELECT (SELECT min(payer) FROM bill_versions WHERE payer > payers.payer) FROM payers WHERE payers.payer IS NOT NULL), \
    months AS (SELECT payer, coalesce(?1, (SELECT max(month) FROM bill_versions WHERE payer = p.payer AND state = 'applied')) AS month \
      FROM payers p WHERE payer IS NOT NULL) \
    SELECT m.payer, m.month, t.meter, t.attributed, t.unattributed, t.excluded FROM months m JOIN bill_totals t ON t.version_id = \
      (SELECT max(id) FROM bill_versions WHERE payer = m.payer AND month = m.month AND state = 'applied') \
    WHERE t.meter LIKE '%)' ORDER BY m.payer, t.meter";

/// As [`Database::billed_costs`], beside other queries of the connection.
pub async fn billed_costs(
    c: &crate::store::connection::Connection,
    month: Option<Month>,
) -> Result<Vec<BilledCost>, BooksError> {
    let exact = |text: String| text.parse::<Quantity>().map_err(|e| BooksError::Integrity(format!("bill_totals: {e}")));
    let mut rows = c.query(OF_BILLS, params![month.map(|month| month.to_string())]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let booked: String = row.get(2)?;
        let Some((meter, currency)) = cost_meter(&booked) else { continue };
        found.push(BilledCost {
            payer: row.get(0)?,
            month: row.get(1)?,
            meter: meter.to_owned(),
            currency: currency.to_owned(),
            attributed: exact(row.get(3)?)?,
            unattributed: exact(row.get(4)?)?,
            excluded: exact(row.get(5)?)?,
        });
    }
    Ok(found)
}

impl Database {
    /// The costs of each customer on the days that are asked for, in their order.
    pub async fn costs_of(&self, asked: &[CustomerDays]) -> Result<Vec<Vec<BookedCost>>, BooksError> {
        #[derive(Serialize)]
        struct Asked<'a> {
            place: usize,
            #[serde(flatten)]
            days: &'a CustomerDays,
        }
        let parts = json_parts(asked.iter().enumerate().map(|(place, days)| Asked { place, days }))?;
        let mut found: BTreeMap<usize, Vec<BookedCost>> = BTreeMap::new();
        for part in parts {
            let rows = self.with_connection(async move |c| {
                let mut rows = c.query(OF_DAYS, params![part]).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    found.push((row.get::<u64>(0)?, row.get::<String>(1)?, sum_of(&row.get::<String>(2)?)?));
                }
                Ok(found)
            });
            for (place, booked, cost) in rows.await? {
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                let customer = asked.get(place).map_or(String::new(), |days| days.customer.clone());
                found.entry(place).or_default().extend(of(customer, &booked, cost));
            }
        }
        Ok((0..asked.len()).map(|place| found.remove(&place).unwrap_or_default()).collect())
    }

    /// The costs in the days of a month, of one customer or of everybody; of lines without a
    /// customer, too.
    pub async fn costs_in(&self, month: Month, customer: Option<String>) -> Result<Vec<MonthCost>, BooksError> {
        self.with_connection(async move |c| {
            let values = params![month.first_day().to_string(), month.last_day().to_string(), customer];
            let mut rows = c.query(BETWEEN, values).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let without_period = sum_of(&row.get::<String>(3)?)?;
                let all = of(row.get(0)?, &row.get::<String>(1)?, sum_of(&row.get::<String>(2)?)?);
                found.extend(all.map(|all| MonthCost { all, without_period }));
            }
            Ok(found)
        })
        .await
    }

    /// The costs of the booked bills of a month.
    pub async fn billed_costs(&self, month: Month) -> Result<Vec<BilledCost>, BooksError> {
        self.with_connection(async move |c| billed_costs(c, Some(month)).await).await
    }
}

/// None for an amount of 0.
fn of(customer: String, booked: &str, cost: Quantity) -> Option<BookedCost> {
    let (meter, currency) = cost_meter(booked).filter(|_| !cost.is_zero())?;
    Some(BookedCost { customer, meter: meter.to_owned(), currency: currency.to_owned(), cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_booked_name_is_that_of_a_cost_meter_and_no_other_is() {
        assert_eq!(cost_meter(&booked_name("chime_cost", "USD")), Some(("chime_cost", "USD")));
        for usage in ["chime_minutes", "", "usd", "cost_usd"] {
            assert_eq!(cost_meter(usage), None, "{usage}");
        }
    }

    /// Guards against: a discount that counts twice, once in the net cost of the use and once by
    /// its own line.
    #[test]
    fn each_column_counts_use_and_only_gross_ones_count_discounts() {
        for column in CostColumn::ALL {
            assert_eq!(CostColumn::named(column.name()), Some(column));
            let counted = column.line_types();
            for (line_type, counts) in [
                ("Usage", true),
                ("DiscountedUsage", true),
                ("SavingsPlanCoveredUsage", true),
                ("SavingsPlanNegation", true),
                ("EdpDiscount", column != CostColumn::NetUnblended),
                ("PrivateRateDiscount", column != CostColumn::NetUnblended),
                ("Credit", false),
                ("Refund", false),
                ("Tax", false),
                ("Fee", false),
                ("RIFee", false),
                ("SavingsPlanRecurringFee", false),
                ("SavingsPlanUpfrontFee", false),
            ] {
                assert_eq!(counted.contains(&line_type), counts, "{} {line_type}", column.name());
            }
        }
        assert_eq!(CostColumn::named("line_item_usage_amount"), None);
    }
}
