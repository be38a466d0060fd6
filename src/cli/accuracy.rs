//! `meter accuracy`: what the web backend measured against what AWS billed, on settled days.

use std::collections::{BTreeMap, BTreeSet};

use books::measured::accrual::Accrues;
use books::measured::accuracy::{Accuracy, ComparedDay, JUDGED_DAYS, MeterAccuracy};
use books::units::calendar::{Day, Month};
use books::units::similar::offer;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, WithUnits, accuracy as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The settled days of this month [default: the newest 7 settled days]
    #[arg(long, value_name = "YYYY-MM", conflicts_with = "days")]
    month: Option<Month>,
    /// The newest so many settled days, of the last 40 days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=40))]
    days: Option<u8>,
    /// Only this customer, by day, beside the sums of all
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// Only this meter
    #[arg(long, value_name = "NAME")]
    meter: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Compared<'a> {
    days: &'a [Day],
    meters: &'a [MeterAccuracy],
    /// Days of the customer that was asked for, by meter.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    customer_days: BTreeMap<&'a str, &'a [ComparedDay]>,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let measured = measured(config, args.meter.as_deref())?;
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let payers: BTreeSet<String> = config.exports.iter().map(|export| export.payer.clone()).collect();
    let settled = books.settled_days(payers, config.measuring().settle_after).await?;
    let days = match args.month {
        Some(month) => settled.between(month.first_day(), month.last_day()),
        None => settled.newest(now, args.days.map_or(JUDGED_DAYS, usize::from)),
    };
    let Accuracy { mut meters, of_customer } =
        books.accuracy(measured, days.clone(), settled.undivided(), args.customer.clone()).await?;
    if let Some(customer) = &args.customer {
        if of_customer.is_empty() {
            known_customer::require_or_usage(&books, customer).await?;
        }
        meters.iter_mut().for_each(|of| only(of, &of_customer));
    }
    let exit = if meters.iter().any(MeterAccuracy::has_finding) { Exit::NeedsAttention } else { Exit::Ok };
    if args.json {
        let customer_days = of_customer.iter().map(|of| (of.meter.as_str(), of.days.as_slice())).collect();
        print::json(&WithUnits::new(Compared { days: &days, meters: &meters, customer_days }, config))?;
        return Ok(exit);
    }
    let units = config.units();
    match nothing(&days, &meters, config) {
        Some(why) => print::lines(&why),
        None => {
            tables::meters(&meters, &days, &units);
            match &args.customer {
                Some(customer) => tables::days(customer, &of_customer, &units),
                None => tables::customers(&meters, &units),
            }
            tables::meaning(&meters);
        }
    }
    Ok(exit)
}

/// The meters that are compared.
fn measured(config: &Config, only: Option<&str>) -> Result<BTreeMap<String, Accrues>, BadUsage> {
    let all: BTreeMap<String, Accrues> =
        config.measuring().meters.into_iter().map(|of| (of.meter, of.accrues)).collect();
    let Some(only) = only else { return Ok(all) };
    match all.get(only) {
        Some(accrues) => Ok([(only.to_owned(), *accrues)].into()),
        None => {
            let known = offer(only, all.keys().map(String::as_str));
            Err(BadUsage(format!("no meter `{only}` is measured (meters[].accrues); {known}")))
        }
    }
}

/// Leaves the finding of the customer that was asked for.
fn only(of: &mut MeterAccuracy, of_customer: &[MeterAccuracy]) {
    let own = of_customer.iter().find(|own| own.meter == of.meter);
    of.customers = own.map(|own| own.customers.clone()).unwrap_or_default();
    of.differing_customers = own.map_or(0, |own| own.differing_customers);
}

/// Why there is nothing to compare.
fn nothing(days: &[Day], meters: &[MeterAccuracy], config: &Config) -> Option<String> {
    if meters.iter().any(|of| !of.days.is_empty()) {
        return None;
    }
    if meters.is_empty() {
        return Some("nothing to compare: the web backend reports no measured usage".into());
    }
    if days.is_empty() {
        let hours = config.measure.settle_hours;
        return Some(format!(
            "nothing to compare: no bill settles one of these days (measure.settle_hours is {hours})"
        ));
    }
    let since: Vec<String> = meters.iter().map(|of| format!("{} since {}", of.meter, of.since)).collect();
    Some(format!("nothing to compare yet: no day after the first measured one is settled\n{}", since.join("\n")))
}
