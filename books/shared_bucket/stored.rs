//! How booked bills are apportioned.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::reports::Reports;
use super::shares::{BucketRule, ShareState};
use super::{CustomerWeight, Measure, ReportSource, apportion};
use crate::store::audit_log::{self, AuditEntry};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;

/// A billed day of a shared bucket, as the current version of a bill is apportioned.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BookedShare {
    pub payer: String,
    pub month: Month,
    /// `assemblyId` or `executionId` of the bill.
    pub version: String,
    pub bucket: String,
    pub meter: String,
    pub measure: Measure,
    /// S3's storage class; empty for requests and what they sent.
    pub class: String,
    pub day: Day,
    pub state: ShareState,
    /// In the unit of the bill, as the other two.
    pub billed: Quantity,
    /// What the reports of the day account for, nobody's part with it; null without a report.
    pub predicted: Option<Quantity>,
    /// What customers have.
    pub apportioned: Quantity,
    /// Digest of the day's reports; empty without one.
    pub digest: String,
}

impl BookedShare {
    /// Predicted as a share of billed, in 10⁻⁴, at most 10,000 times as much; none without a
    /// report, or when nothing is billed.
    pub fn coverage(&self) -> Option<i64> {
        coverage(self.predicted?, self.billed)
    }
}

/// As [`BookedShare::coverage`].
pub fn coverage(predicted: Quantity, billed: Quantity) -> Option<i64> {
    const MOST: i128 = 100_000_000;
    let of = predicted.scaled().saturating_mul(10_000).checked_div(billed.scaled()).filter(|_| billed > Quantity::ZERO);
    of.map(|share| i64::try_from(share.min(MOST)).unwrap_or(i64::MAX))
}

/// Of the newest applied version of each payer and of each month of the JSON array ?1, which are
/// seeks in an index: each snapshot of the metrics asks.
const SHARES: &str = "WITH RECURSIVE payers (payer) AS (SELECT min(payer) FROM bill_versions \
      UNION ALL SELECT (SELECT min(payer) FROM bill_versions WHERE payer > payers.payer) FROM payers WHERE payers.payer IS NOT NULL), \
    newest (id) AS (SELECT (SELECT max(id) FROM bill_versions WHERE payer = p.payer AND month = m.value AND state = 'applied') \
      FROM payers p CROSS JOIN json_each(?1) m WHERE p.payer IS NOT NULL) \
    SELECT v.payer, v.month, v.version, s.bucket, s.meter, s.measure, s.class, s.day, s.state, s.billed, \
      s.predicted, s.apportioned, s.digest \
    FROM newest n CROSS JOIN bill_versions v ON v.id = n.id CROSS JOIN bucket_shares s ON s.version_id = v.id \
    WHERE s.day BETWEEN ?2 AND ?3 \
    ORDER BY s.bucket, s.day, s.meter, s.measure, s.class, v.payer, v.month";

/// The billed days of shared buckets from `from` to `to`, both included, of all current versions;
/// also beside other queries of the connection.
pub async fn booked_shares(c: &Connection, from: Day, to: Day) -> Result<Vec<BookedShare>, BooksError> {
    // usage of the month before can be in a bill
    let months: Vec<String> = Month::range(from.month(), to.month().next()).iter().map(Month::to_string).collect();
    let values = params![json(&months)?, from.to_string(), to.to_string()];
    let mut rows = c.query(SHARES, values).await?;
    let wrong = |what: &str, text: &str| BooksError::Integrity(format!("bucket_shares.{what} is `{text}`"));
    let amount = |text: String| text.parse::<Quantity>().map_err(|_| wrong("billed", &text));
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let (month, day, measure): (String, String, String) = (row.get(1)?, row.get(7)?, row.get(5)?);
        found.push(BookedShare {
            payer: row.get(0)?,
            month: month.parse().map_err(|_| wrong("month", &month))?,
            version: row.get(2)?,
            bucket: row.get(3)?,
            meter: row.get(4)?,
            measure: Measure::named(&measure)?,
            class: row.get(6)?,
            day: day.parse().map_err(|_| wrong("day", &day))?,
            state: ShareState::named(&row.get::<String>(8)?)?,
            billed: amount(row.get(9)?)?,
            predicted: row.get::<Option<String>>(10)?.map(amount).transpose()?,
            apportioned: amount(row.get(11)?)?,
            digest: row.get(12)?,
        });
    }
    Ok(found)
}

impl Database {
    /// As [`booked_shares`].
    pub async fn booked_shares(&self, from: Day, to: Day) -> Result<Vec<BookedShare>, BooksError> {
        self.with_connection(async move |c| booked_shares(c, from, to).await).await
    }

    /// Accepts the reports by which a booked bill holds a day of a bucket.
    pub async fn accept_bucket_day(
        &self,
        bucket: &str,
        day: Day,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<AcceptedDay, BooksError> {
        let (bucket, now) = (bucket.to_owned(), now.as_second());
        self.transaction(async move |c| {
            let shares = booked_shares(c, day, day).await?;
            let held = shares.iter().filter(|share| share.bucket == bucket && share.state == ShareState::Held);
            let held: BTreeSet<(ReportSource, String)> =
                held.map(|share| (share.measure.source(), share.digest.clone())).collect();
            let mut found = AcceptedDay::NotHeld;
            for (source, digest) in held {
                let day = day.to_string();
                let sql = "SELECT 1 FROM bucket_days WHERE bucket = ?1 AND source = ?2 AND day = ?3 AND digest = ?4";
                let seen = params![bucket.clone(), source.name(), day.clone(), digest.clone()];
                if first_row(c, sql, seen).await?.is_none() {
                    return Ok(AcceptedDay::OtherReports);
                }
                let sql = "INSERT INTO bucket_acceptances (bucket, day, digest, accepted_at) VALUES (?1, ?2, ?3, ?4) \
                           ON CONFLICT DO NOTHING";
                let new = c.execute(sql, params![bucket.clone(), day, digest, now]).await? > 0;
                found = if new || found == AcceptedDay::Accepted { AcceptedDay::Accepted } else { AcceptedDay::Again };
            }
            if found == AcceptedDay::Accepted {
                audit_log::record(c, &entry, now).await?;
            }
            Ok(found)
        })
        .await
    }
}

/// What became of an acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedDay {
    Accepted,
    /// It was accepted before, and is not booked yet.
    Again,
    /// No current bill holds the day.
    NotHeld,
    /// The reports are others by now than those that the bill was judged by.
    OtherReports,
}

/// What one customer has of a billed day, and why.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerShare {
    pub customer: String,
    /// In the measure's smallest unit; a text in JSON, because it can have 39 digits.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub weight: u128,
    /// Of everybody and nobody.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub all_weights: u128,
    /// What the weight is in the bill's unit, rounded down.
    pub predicted: Quantity,
    /// What is booked of it.
    pub share: Quantity,
}

fn as_text<S: serde::Serializer>(number: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(number)
}

/// What a customer has of a booked day, by the reports that were read of it. None when they or the
/// rule are others by now than those that the bill was divided by.
pub fn share_of(booked: &BookedShare, rule: &BucketRule, reports: &Reports, customer: &str) -> Option<CustomerShare> {
    let report = reports.of(&booked.bucket, booked.measure.source(), booked.day)?;
    if report.digest != booked.digest {
        return None;
    }
    let weights = report.weights.get(&(booked.measure, booked.class.clone())).map_or(&[][..], Vec::as_slice);
    let own: Vec<CustomerWeight> = weights.iter().filter(|(name, _)| name == customer).cloned().collect();
    let divisor = apportion::divisor(booked.measure, booked.day.month());
    let shares = match booked.state {
        ShareState::Apportioned => apportion::shares(booked.billed, weights, divisor, rule.remainder),
        _ => vec![],
    };
    let apportioned: Quantity = shares.iter().filter(|(name, _)| !name.is_empty()).map(|(_, share)| *share).sum();
    // another rule than the one of the booked version
    if apportioned != booked.apportioned {
        return None;
    }
    Some(CustomerShare {
        customer: customer.to_owned(),
        weight: own.iter().map(|(_, weight)| weight).sum(),
        all_weights: weights.iter().fold(0, |sum: u128, (_, weight)| sum.saturating_add(*weight)),
        predicted: apportion::predicted(&own, divisor),
        share: shares.into_iter().find(|(name, _)| name == customer).map_or(Quantity::ZERO, |(_, share)| share),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_a_share_of_what_is_billed() {
        let of = |predicted: &str, billed: &str| coverage(predicted.parse().unwrap(), billed.parse().unwrap());
        for (predicted, billed, want) in [
            ("98", "100", Some(9_800)),
            ("0", "100", Some(0)),
            ("3", "2", Some(15_000)),
            ("1", "0.0000000001", Some(100_000_000)),
            ("1", "0", None),
            ("1", "-1", None),
        ] {
            assert_eq!(of(predicted, billed), want, "{predicted} of {billed}");
        }
    }
}
