//! `meter bill`: what the metered lines of invoices will say, in currency.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::push_stripe::bill::{Bills, WantedBills, WantedPeriods, bills};

use super::billing_period::BillingPeriod;
use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::bill::View;
use crate::print::{self, WithUnits, bill as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer, line by line [default: all customers, one row for each]
    customer: Option<String>,
    /// Billing periods that begin in this month or on this day [default: those that go on now]
    #[arg(long, alias = "month", value_name = "YYYY-MM[-DD]")]
    period: Option<BillingPeriod>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print each line as CSV
    #[arg(long)]
    csv: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let periods = args.period.map_or(WantedPeriods::Current, |period| WantedPeriods::Begin(period.starts()));
    if let WantedPeriods::Begin(starts) = &periods
        && starts.start > now.as_second()
    {
        return Err(BadUsage("--period has not begun".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require(&books, customer).await?;
    }
    let context = wiring::context(config, books).await?;
    if context.billing.meters.is_empty() && !args.json && !args.csv {
        print::out("nothing is billed: stripe.meters names no meter");
        return Ok(Exit::Ok);
    }
    let wanted = WantedBills { customer: args.customer.clone(), periods };
    let found = bills(&context.books, &context.billing, wanted, now).await?;
    if args.json {
        print::json(&WithUnits::new(&found, config))?;
    } else if args.csv {
        tables::csv(&found, &config.units())?;
    } else {
        let view = if args.customer.is_some() { View::Lines } else { View::Sums };
        tables::show(&found, view, &config.units());
    }
    Ok(exit(&found))
}

fn exit(found: &Bills) -> Exit {
    let has_fault = |why: &str| !matches!(why, "no_subscription" | "no_stripe_customer" | "below_zero" | "inactive");
    let lines = found.bills.iter().flat_map(|bill| &bill.lines);
    let waits = lines.filter_map(|line| line.waits.as_ref()).any(|waits| has_fault(&waits.reason));
    if waits || !found.unknown.is_empty() { Exit::NeedsAttention } else { Exit::Ok }
}
