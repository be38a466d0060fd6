//! `meter plan simulate`: what the plans of a file would have made of past billing periods.

use std::ops::Range;
use std::path::{Path, PathBuf};

use books::Database;
use books::limits::plan::{Plan, PlanError};
use clap::Args as ClapArgs;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use jobs::push_stripe::simulate::{Simulation, WantedSimulation, simulate};

use crate::cli::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, WithUnits, simulation as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The file of plans. Each holds in all periods, whatever its `effective_from`
    file: PathBuf,
    /// Billing periods that began in so many months before now; the open ones count as far as
    /// they are booked
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=36))]
    months: u8,
    /// Only this customer, period by period
    #[arg(long)]
    customer: Option<String>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print each customer, period and meter as CSV
    #[arg(long)]
    csv: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require(&books, customer).await?;
    }
    let plans = super::read(&args.file, config, "")?.plans;
    if config.stripe.meters.is_empty() && !args.json && !args.csv {
        print::out("nothing is billed: stripe.meters names no meter");
        return Ok(Exit::Ok);
    }
    let wanted = WantedSimulation { customer: args.customer.clone(), plans, begin: months(now, args.months)? };
    let begin = wanted.begin.clone();
    let found = tried(config, &books, (&args.file, wanted), now).await?;
    if args.json {
        print::json(&WithUnits::new(&found, config))?;
    } else if args.csv {
        tables::csv(&found, &config.units())?;
    } else if args.customer.is_some() {
        tables::periods(&found, &config.units());
    } else {
        tables::show(&found, begin);
    }
    Ok(Exit::Ok)
}

/// The time of so many months before now, in seconds since 1970.
fn months(now: Timestamp, months: u8) -> anyhow::Result<Range<i64>> {
    let from = now.to_zoned(TimeZone::UTC).checked_sub(i32::from(months).months())?;
    Ok(from.timestamp().as_second()..now.as_second() + 1)
}

/// What the plans of a file would have made of the last month.
pub(super) async fn last_month(
    config: &Config,
    books: &Database,
    (file, plans): (&Path, &[Plan]),
    now: Timestamp,
) -> anyhow::Result<Simulation> {
    let wanted = WantedSimulation { customer: None, plans: plans.to_vec(), begin: months(now, 1)? };
    tried(config, books, (file, wanted), now).await
}

async fn tried(
    config: &Config,
    books: &Database,
    (file, wanted): (&Path, WantedSimulation),
    now: Timestamp,
) -> anyhow::Result<Simulation> {
    let meters: Vec<String> = config.meters.iter().map(|meter| meter.name.clone()).collect();
    match books.check_plans(&wanted.plans, &meters).await {
        Err(wrong @ PlanError::Wrong(_)) => return Err(BadUsage(format!("{}: {wrong}", file.display())).into()),
        other => other?,
    }
    let billing = wiring::billing(&config.stripe)?;
    Ok(simulate(books, &billing, wanted, now).await?)
}
