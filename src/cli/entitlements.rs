//! `meter entitlements` and `meter explain-entitlement`: which customers may use which meters, and
//! why.

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::known_customer;
use crate::config::Config;
use crate::exit::Exit;
use crate::print;
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
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(customer) = &args.customer {
        known_customer::require(&books, customer).await?;
    }
    let mut decided = books.entitlements(args.customer).await?;
    decided.retain(|e| !args.blocked || !e.allowed);
    if args.json {
        print::json(&decided)?;
        return Ok(Exit::Ok);
    }
    print::entitlements::table(&decided, config, now);
    Ok(Exit::Ok)
}

pub(crate) async fn explain(args: ExplainArgs, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, &args.customer).await?;
    print::entitlements::explain(&books, &args.customer, &args.meter, config, now).await
}
