//! `meter turn`: numbers of TURN credentials.

use books::customers::periods::TurnPeriod;
use books::limits::plan::TURN;
use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::known_customer;
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, decided::Runs};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer, with closed periods [default: the current period of all]
    customer: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let periods = books.turn_periods(args.customer.clone(), now).await?;
    if let Some(customer) = args.customer.as_ref().filter(|_| periods.is_empty()) {
        known_customer::require(&books, customer).await?;
    }
    if args.json {
        print::json(&periods)?;
        return Ok(Exit::Ok);
    }
    if periods.is_empty() {
        print::out("there are no periods of TURN credentials; `meter run roll-periods` makes those of each customer");
        return Ok(Exit::Ok);
    }
    print::table(
        &["customer", "2from", "1to before", ">used", ">limit", ">refused", "~"],
        periods.iter().map(|p| row(p, now)).collect(),
    );
    let runs = Runs::read(&books, config, now).await?;
    print::out("used and refused are live; limits are as last decided");
    match args.customer {
        None => print::out(&runs.last()),
        Some(customer) => {
            let mut changes = print::decided::to_come(&books, config, Some(customer), now).await?;
            changes.retain(|change| change.is.meter == TURN);
            print::decided::show_to_come(&changes, &runs);
        }
    }
    Ok(Exit::Ok)
}

fn row(p: &TurnPeriod, now: Timestamp) -> Vec<String> {
    let state = match p.closed_at {
        Some(at) => format!("closed {at}"),
        None if p.ends_at <= now => "ended; `roll_periods` will close it".to_owned(),
        None => "current".to_owned(),
    };
    let limit = p.allowed_until.map_or("none".to_owned(), print::count);
    vec![
        p.customer.clone(),
        p.starts_at.to_string(),
        p.ends_at.to_string(),
        print::count(p.used),
        limit,
        print::count(p.refused),
        state,
    ]
}
