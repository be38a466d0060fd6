//! `meter turn`: numbers of TURN credentials.

use books::customers::periods::TurnPeriod;
use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::select;
use crate::config::Config;
use crate::exit::Exit;
use crate::print;
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
    select::customer(&books, args.customer.as_deref()).await?;
    let periods = books.turn_periods(args.customer.clone(), now).await?;
    if args.json {
        print::json(&periods)?;
        return Ok(Exit::Ok);
    }
    if periods.is_empty() {
        let of = args.customer.map_or(String::new(), |c| format!(" of `{c}`"));
        print::out(&format!(
            "there is no period{of} in which TURN credentials are counted; `meter run roll-periods` opens them"
        ));
        return Ok(Exit::Ok);
    }
    print::table(
        &["customer", "from", "to before", ">used", ">limit", ">refused", ""],
        periods.iter().map(|p| row(p, now)).collect(),
    );
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
