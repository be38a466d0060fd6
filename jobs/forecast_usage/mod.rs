//! `forecast_usage`: forecasts the end of the month by customer and meter, once a day.
//!
//! Pages, metrics and `meter status` read what it stores. Nothing else is decided by it: no bill
//! and no limit. Days far outside of what was expected become findings, before they are billed. A
//! run replaces the forecasts of each customer, page by page, so one that stops
//! half-way leaves those of the day before.

mod causes;
pub mod make;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::causes::named;
use self::make::{ForecastRun, ForecastSettings, FoundForecasts, add_bills, with_bills};
use crate::context::Context;
use crate::job::{Failure, Job};
use books::forecast::rule::ForecastRule;
use books::forecast::stored::ForecastAccuracy;
use books::units::calendar::{Day, Month};

/// Forecast what customers will have used at the end of the month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForecastUsage {}

/// What a run forecast.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ForecastUsageReport {
    pub month: Month,
    /// Usage is known up to this day; none when no day is settled, and nothing was forecast.
    pub settled_through: Option<Day>,
    /// Customers with a forecast.
    pub customers: u64,
    pub meters: Vec<ForecastMeter>,
    /// Days of customers and meters far outside of what was expected.
    pub unusual_days: u64,
}

/// How the forecasts of a meter were made.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ForecastMeter {
    pub meter: String,
    pub rule: ForecastRule,
    /// Its error in past months, as a share; none when no month could be tried.
    pub error: Option<Decimal>,
}

impl Job for ForecastUsage {
    const KIND: &'static str = "forecast_usage";
    const DESCRIPTION: &'static str = "forecast what customers will have used at the end of the month";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = ForecastUsageReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<ForecastUsageReport, Failure> {
        let Context { books, .. } = context;
        books.require_migrated().await?;
        let mut report = ForecastUsageReport {
            month: Month::of(now),
            settled_through: None,
            customers: 0,
            meters: vec![],
            unusual_days: 0,
        };
        let Some(run) = ForecastRun::prepare(books, ForecastSettings::of(context), now).await? else {
            return Ok(report);
        };
        let (mut bills, mut unusual) = (BTreeMap::new(), run.unusual());
        for page in run.pages() {
            let FoundForecasts { forecasts: found, unusual: of_page } = run.forecasts(books, page).await?;
            unusual.extend(of_page);
            let mut customers: Vec<&str> = found.iter().map(|of| of.customer.as_str()).collect();
            customers.dedup();
            report.customers += u64::try_from(customers.len()).unwrap_or(u64::MAX);
            add_bills(&mut bills, &found);
            books.keep_forecasts(page, &found).await?;
        }
        let meters = with_bills(run.meters(), &bills);
        let (of_meters, accuracies): (Vec<_>, Vec<_>) = meters.into_iter().map(|of| (of.forecast, of.accuracy)).unzip();
        books.keep_forecasts(&[String::new()], &of_meters).await?;
        books.keep_forecast_accuracy(&accuracies, now).await?;
        let unusual = named(context, unusual, now).await?;
        books.keep_unusual_days(&unusual, now).await?;
        report.unusual_days = unusual.iter().map(|of| of.total).sum();
        report.settled_through = Some(run.settled_through());
        let meter = |of: ForecastAccuracy| ForecastMeter {
            rule: of.by_customer.used,
            error: of.by_customer.error(),
            meter: of.meter,
        };
        report.meters = accuracies.into_iter().map(meter).collect();
        Ok(report)
    }
}
