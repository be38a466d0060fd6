//! `meter entitlements` and `meter explain-entitlement`: which customers may use which meters, and
//! why.

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::known_customer;
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, EntitlementRow, WithUnit, decided::Runs};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer
    customer: Option<String>,
    /// Only blocked meters
    #[arg(long)]
    blocked: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// The customer's id
    customer: String,
    /// The meter
    meter: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require(&books, customer).await?;
    }
    let runs = Runs::read(&books, config, now).await?;
    let mut decided = books.entitlements(args.customer.clone()).await?;
    let any = !decided.is_empty();
    decided.retain(|e| !args.blocked || !e.allowed);
    if args.json {
        for e in &mut decided {
            e.freshness = runs.freshness(e);
        }
        let units = config.units();
        let row = |row: EntitlementRow| WithUnit::new(row.clone(), row.meter(), &units);
        print::json(&EntitlementRow::all(decided).into_iter().map(row).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    match any && decided.is_empty() {
        true => print::out("no meter is blocked"),
        false => print::entitlements::table(&decided, config, &runs),
    }
    if any {
        let mut changes = print::decided::to_come(&books, config, args.customer, now).await?;
        changes.retain(|c| !args.blocked || !c.is.allowed || c.was.as_ref().is_some_and(|was| !was.allowed));
        print::decided::show_to_come(&changes, &runs);
    }
    Ok(Exit::Ok)
}

pub(crate) async fn explain(args: ExplainArgs, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, &args.customer).await?;
    let runs = Runs::read(&books, config, now).await?;
    let found = print::entitlements::explained(&books, (&args.customer, &args.meter), config, &runs).await?;
    if args.json {
        print::json(&found)?;
    } else {
        print::entitlements::explain(&found, &runs);
    }
    Ok(Exit::Ok)
}
