//! `meter margin`: what customers are billed, less what AWS charges for their use.

use books::units::calendar::Month;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::push_stripe::bill::{WantedBills, WantedPeriods};

use super::billing_period::BillingPeriod;
use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::margin::margins;
use crate::print::bill::View;
use crate::print::{self, WithUnits, margin as tables};
use crate::statement::StatementSettings;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer, meter by meter [default: all customers, one row for each]
    customer: Option<String>,
    /// Billing periods that begin in this month or on this day [default: those that go on now]
    #[arg(long, alias = "month", value_name = "YYYY-MM[-DD]")]
    period: Option<BillingPeriod>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print each meter of each customer as CSV
    #[arg(long)]
    csv: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let periods = args.period.map_or(WantedPeriods::Current, |period| WantedPeriods::Begin(period.starts()));
    let month = match args.period {
        None => Month::of(now),
        Some(BillingPeriod::Month(month)) => month,
        Some(BillingPeriod::Day(day)) => day.month(),
    };
    if let WantedPeriods::Begin(starts) = &periods
        && starts.start > now.as_second()
    {
        return Err(BadUsage("--period has not begun".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require(&books, customer).await?;
    }
    if config.cost_meters.is_empty() && !args.json && !args.csv {
        print::out("no cost is known: the configuration has no [[cost_meters]] (docs/cost.md)");
        return Ok(Exit::Ok);
    }
    let settings = StatementSettings::new(config, wiring::billing(&config.stripe)?);
    let view = if args.customer.is_some() { View::Lines } else { View::Sums };
    let wanted = WantedBills { customer: args.customer, periods };
    let found = margins(&books, &settings, wanted, month, now).await?;
    if args.json {
        print::json(&WithUnits::new(&found, config))?;
    } else if args.csv {
        tables::csv(&found)?;
    } else {
        tables::show(&found, view);
    }
    Ok(if found.unknown.is_empty() { Exit::Ok } else { Exit::NeedsAttention })
}
