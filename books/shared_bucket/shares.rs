//! The billed days of shared buckets, and how a version of a bill is apportioned.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::apportion::{self, Remainder};
use super::reports::Reports;
use super::{CustomerWeight, Measure};
use crate::store::connection::{Connection, params};
use crate::store::error::BooksError;
use crate::store::rows::json_parts;
use crate::units::calendar::Day;
use crate::units::quantity::{Quantity, UNIT};

/// By what rule the usage of a shared bucket is apportioned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRule {
    /// As the bill names it.
    pub bucket: String,
    pub remainder: Remainder,
    /// A day whose reports account for less than this part of the bill is held, in percent.
    pub floor_percent: u8,
    /// A day whose reports account for more than this part of the bill is held, too: 100 and more.
    pub ceiling_percent: u16,
    /// A bill settles the days that had ended so many hours before its delivery.
    pub settle_hours: u16,
}

/// What a version bills for a shared bucket on a day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BilledDay {
    pub bucket: String,
    pub meter: String,
    pub measure: Measure,
    /// S3's storage class; empty for requests and what they sent.
    pub class: String,
    pub day: Day,
    /// In the unit of the bill.
    pub billed: Quantity,
}

/// Whether an amount is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShareState {
    Apportioned,
    /// The bill does not settle the day yet.
    Open,
    /// Nothing of the day was read.
    NoReport,
    /// The reports account for less than the floor or more than the ceiling, and nobody accepted
    /// that.
    Held,
}

impl ShareState {
    /// Its name in the books.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apportioned => "apportioned",
            Self::Open => "open",
            Self::NoReport => "no_report",
            Self::Held => "held",
        }
    }

    pub(super) fn named(name: &str) -> Result<Self, BooksError> {
        [Self::Apportioned, Self::Open, Self::NoReport, Self::Held]
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| BooksError::Integrity(format!("bucket_shares.state is `{name}`")))
    }
}

/// A billed day of a shared bucket, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedDay {
    pub day: BilledDay,
    pub state: ShareState,
    /// What the reports of the day account for, nobody's part with it; none without a report.
    pub predicted: Option<Quantity>,
    /// Digest of the day's reports; empty without one.
    pub digest: String,
    /// By customer; the empty one has what stays without a customer. They make the billed amount.
    pub shares: Vec<(String, Quantity)>,
}

impl SharedDay {
    /// What customers have.
    pub fn apportioned(&self) -> Quantity {
        self.shares.iter().filter(|(customer, _)| !customer.is_empty()).map(|(_, share)| *share).sum()
    }
}

/// Less than this, in the unit of the bill, is divided however much more the reports have.
const SMALL: Quantity = Quantity::from_scaled(UNIT / 100);

/// Divides a billed day by the reports. `delivered` is when the version was, in seconds since 1970.
pub fn divide(day: BilledDay, rule: &BucketRule, reports: &Reports, delivered: i64) -> SharedDay {
    let report = reports.of(&day.bucket, day.measure.source(), day.day);
    let weights: &[CustomerWeight] =
        report.and_then(|report| report.weights.get(&(day.measure, day.class.clone()))).map_or(&[], Vec::as_slice);
    let divisor = apportion::divisor(day.measure, day.day.month());
    let predicted = report.map(|_| apportion::predicted(weights, divisor));
    let settled = delivered >= day.day.end().as_second() + i64::from(rule.settle_hours) * 3600;
    let is_off = |predicted: Quantity| {
        let (predicted, part) = (predicted.scaled().saturating_mul(100), |of| day.billed.scaled().saturating_mul(of));
        predicted < part(i128::from(rule.floor_percent))
            || predicted > part(i128::from(rule.ceiling_percent)) && day.billed >= SMALL
    };
    let state = match (report, predicted) {
        _ if !settled => ShareState::Open,
        (Some(report), Some(predicted)) if is_off(predicted) && !report.accepted => ShareState::Held,
        (Some(_), _) => ShareState::Apportioned,
        (None, _) => ShareState::NoReport,
    };
    let shares = match state {
        ShareState::Apportioned if day.billed > Quantity::ZERO => {
            apportion::shares(day.billed, weights, divisor, rule.remainder)
        }
        _ => vec![(String::new(), day.billed)],
    };
    let digest = report.map(|report| report.digest.clone()).unwrap_or_default();
    SharedDay { day, state, predicted, digest, shares }
}

/// A row of `bucket_shares` as a parameter.
#[derive(Serialize)]
struct ShareRow<'a> {
    bucket: &'a str,
    meter: &'a str,
    measure: &'static str,
    class: &'a str,
    day: Day,
    state: &'static str,
    billed: Quantity,
    predicted: Option<Quantity>,
    apportioned: Quantity,
    digest: &'a str,
}

const INSERT: &str = "INSERT INTO bucket_shares \
      (version_id, bucket, meter, measure, class, day, state, billed, predicted, apportioned, digest) \
    SELECT ?1, value ->> 'bucket', value ->> 'meter', value ->> 'measure', value ->> 'class', value ->> 'day', \
      value ->> 'state', value ->> 'billed', value ->> 'predicted', value ->> 'apportioned', value ->> 'digest' \
    FROM json_each(?2)";

/// Stores how a version is apportioned, in the transaction that books it.
pub async fn insert_shares(c: &Connection, version: i64, days: &[SharedDay]) -> Result<(), BooksError> {
    let rows = days.iter().map(|shared| ShareRow {
        bucket: &shared.day.bucket,
        meter: &shared.day.meter,
        measure: shared.day.measure.name(),
        class: &shared.day.class,
        day: shared.day.day,
        state: shared.state.name(),
        billed: shared.day.billed,
        predicted: shared.predicted,
        apportioned: shared.apportioned(),
        digest: &shared.digest,
    });
    for part in json_parts(rows)? {
        c.execute(INSERT, params![version, part]).await?;
    }
    Ok(())
}
