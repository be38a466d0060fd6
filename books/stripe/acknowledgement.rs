//! Acknowledgements: appended entries that say who handled an alarm or a deferred amount outside of
//! the books, and why (migration 0029). Views compute what is acknowledged now.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::store::connection::{Connection, Row, params};
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::instant;

/// A row of `acknowledgements`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Acknowledgement {
    pub at: Timestamp,
    pub actor: String,
    pub reason: String,
    #[serde(skip)]
    pub customer: String,
    pub meter: String,
    pub period_start: Timestamp,
    pub matter: Matter,
}

/// What a person acknowledges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matter {
    /// The amount by which Stripe's total is below what was sent; below 0, above it.
    Difference(i64),
    NoTotal {
        stripe_customer: String,
    },
    Deferred {
        amount: i64,
        reason: String,
    },
}

impl fmt::Display for Matter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Difference(amount) => {
                let word = if *amount < 0 { "more" } else { "less" };
                write!(f, "Stripe has {} {word} than was sent", amount.unsigned_abs())
            }
            Self::NoTotal { stripe_customer } => write!(f, "Stripe has no total of {stripe_customer}"),
            Self::Deferred { amount, reason } => write!(f, "deferred {amount}: {reason}"),
        }
    }
}

impl JsonSchema for Matter {
    fn schema_name() -> Cow<'static, str> {
        "Matter".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// The sentence for people.
impl Serialize for Matter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who acknowledges, and why.
#[derive(Clone, Debug)]
pub struct AcknowledgedBy {
    pub actor: String,
    pub reason: String,
}

const COLUMNS: &str =
    "at, actor, reason, customer, meter, period_start, kind, amount, stripe_customer, deferred_reason";

/// Entries for the alarms and deferred amounts of customer ?1 in periods that begin from ?2 to
/// before ?3. Of an amount that is too large nobody knows how large it is. ?4 now, ?5 the actor, ?6
/// the reason.
const ENTRIES: &str = "SELECT ?4, ?5, ?6, customer, meter, period_start, iif(alarm_kind = 'no_total', alarm_kind, 'difference'), alarm_shortfall, \
      coalesce(alarm_stripe_customer, stripe_customer, (SELECT stripe_customer FROM stripe_customers s WHERE s.customer = ?1 ORDER BY seq DESC)), NULL \
    FROM target_totals WHERE customer = ?1 AND period_start >= ?2 AND period_start < ?3 AND alarm_kind IS NOT NULL \
    UNION ALL SELECT ?4, ?5, ?6, customer, meter, period_start, 'deferred', amount, NULL, reason \
    FROM deferred_amounts WHERE customer = ?1 AND period_start >= ?2 AND period_start < ?3 AND NOT acknowledged \
      AND reason <> 'too_large' ORDER BY 7 DESC, 6, 5";

/// Ends the alarms: what a later read finds beyond the entries is another one.
const END_ALARMS: &str = "UPDATE billing_targets SET shortfall = iif(alarm_kind = 'no_total', shortfall, NULL), \
      shortfall_since = iif(alarm_kind = 'no_total', shortfall_since, NULL), alarm_kind = NULL, alarm_shortfall = NULL, \
      alarm_total = NULL, alarm_until = NULL, alarm_stripe_customer = NULL, alarm_answer = NULL \
    WHERE customer = ?1 AND period_start >= ?2 AND period_start < ?3 AND alarm_kind IS NOT NULL";

fn entry(row: &Row) -> Result<Acknowledgement, BooksError> {
    let matter = match row.get::<String>(6)?.as_str() {
        "difference" => Matter::Difference(row.get(7)?),
        "no_total" => Matter::NoTotal { stripe_customer: row.get(8)? },
        _ => Matter::Deferred { amount: row.get(7)?, reason: row.get(9)? },
    };
    Ok(Acknowledgement {
        at: instant(row.get(0)?),
        actor: row.get(1)?,
        reason: row.get(2)?,
        customer: row.get(3)?,
        meter: row.get(4)?,
        period_start: instant(row.get(5)?),
        matter,
    })
}

/// The entries of a customer, or of all, for periods that begin in `periods`, oldest first.
pub(super) async fn entries(
    c: &Connection,
    customer: Option<String>,
    periods: &Range<i64>,
) -> Result<Vec<Acknowledgement>, BooksError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM acknowledgements WHERE (?1 IS NULL OR customer = ?1) AND period_start >= ?2 AND period_start < ?3 ORDER BY seq"
    );
    let mut rows = c.query(&sql, params![customer, periods.start, periods.end]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(entry(&row)?);
    }
    Ok(found)
}

impl Database {
    /// Acknowledges the alarms and deferred amounts of a customer's periods that begin in
    /// `periods`, as they are now. Returns the new entries.
    pub async fn acknowledge(
        &self,
        customer: String,
        periods: Range<i64>,
        by: AcknowledgedBy,
        now: Timestamp,
    ) -> Result<Vec<Acknowledgement>, BooksError> {
        self.transaction(async move |c| {
            let sql = format!("INSERT INTO acknowledgements ({COLUMNS}) {ENTRIES} RETURNING {COLUMNS}");
            let (start, end) = (periods.start, periods.end);
            let values = params![customer.clone(), start, end, now.as_second(), by.actor, by.reason];
            let mut rows = c.query(&sql, values).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(entry(&row)?);
            }
            c.execute(END_ALARMS, params![customer, start, end]).await?;
            Ok(found)
        })
        .await
    }
}
