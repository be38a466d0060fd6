//! `meter forecast`: what customers will have used at the end of the month, and what it costs them.

use std::collections::BTreeMap;

use books::forecast::stored::{MeterForecast, UsageForecast};
use books::units::calendar::{Day, Month};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::forecast_usage::make::{ForecastRun, ForecastSettings, add_bills, with_bills};
use schemars::JsonSchema;
use serde::Serialize;

use super::{known_customer, known_meter};
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, WithUnits, forecast as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer
    customer: Option<String>,
    /// Only this meter
    #[arg(long)]
    meter: Option<String>,
    /// Show how the forecasts of past months would have been, beside two naive rules
    #[arg(long, conflicts_with = "customer")]
    backtest: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// The JSON form.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Forecasts<'a> {
    month: Month,
    /// Null when there is no forecast.
    settled_through: Option<Day>,
    meters: &'a [MeterForecast],
    customers: &'a [UsageForecast],
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if let Some(meter) = &args.meter {
        known_meter::require(config, meter)?;
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require_or_usage(&books, customer).await?;
    }
    let measuring = config.measuring();
    let settings = ForecastSettings {
        billing: wiring::billing(&config.stripe)?,
        payers: config.exports.iter().map(|export| export.payer.clone()).collect(),
        settle_after: measuring.settle_after,
    };
    let run = ForecastRun::prepare(&books, settings, now).await?;
    let (mut meters, mut customers) = (vec![], vec![]);
    if let Some(run) = &run {
        meters = run.meters();
        match &args.customer {
            Some(customer) => customers = run.forecasts(&books, std::slice::from_ref(customer)).await?.forecasts,
            None if args.backtest => {}
            None => {
                for page in run.pages() {
                    customers.extend(run.forecasts(&books, page).await?.forecasts);
                }
                let mut bills = BTreeMap::new();
                add_bills(&mut bills, &customers);
                meters = with_bills(meters, &bills);
            }
        }
    }
    if let Some(meter) = &args.meter {
        meters.retain(|of| of.forecast.meter == *meter);
        customers.retain(|of| of.meter == *meter);
    }
    let (month, settled_through) = (Month::of(now), run.as_ref().map(ForecastRun::settled_through));
    if args.json {
        let found = Forecasts { month, settled_through, meters: &meters, customers: &customers };
        print::json(&WithUnits::new(found, config))?;
        return Ok(Exit::Ok);
    }
    let Some(settled) = settled_through.filter(|_| !meters.is_empty()) else {
        let hours = config.measure.settle_hours;
        print::out("nothing can be forecast: no usage of the last weeks is settled by a bill of each export");
        print::out(&format!("(measure.settle_hours is {hours})"));
        return Ok(Exit::Ok);
    };
    let units = config.units();
    if args.backtest {
        tables::backtest(&meters);
        return Ok(Exit::Ok);
    }
    tables::meaning(month, settled);
    match &args.customer {
        Some(customer) if customers.is_empty() => {
            print::out(&format!("{customer} used nothing in the last six weeks, so there is nothing to forecast"));
        }
        Some(_) => tables::customers(&customers, &units, now),
        None => {
            tables::meters(&meters, &units);
            tables::customers(&customers, &units, now);
        }
    }
    print::out("");
    tables::rules(&meters);
    Ok(Exit::Ok)
}
