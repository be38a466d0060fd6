//! `meter versions`: the versions of bills that are booked or on hold.

use books::units::calendar::Month;
use clap::Args as ClapArgs;
use jobs::ingest_cur::hold::accept_command;

use crate::config::Config;
use crate::exit::Exit;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this month
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let versions = books.versions(args.month).await?;
    let on_hold = versions.iter().any(|v| v.state == "on_hold");
    let done = if on_hold { Exit::NeedsAttention } else { Exit::Ok };
    if args.json {
        print::json(&versions)?;
        return Ok(done);
    }
    if versions.is_empty() {
        let of = args.month.map_or("any bill".to_owned(), |month| format!("a bill of {month}"));
        print::out(&format!("no version of {of} is booked or on hold"));
        return Ok(done);
    }
    let rows = versions.iter().map(|v| {
        let state = if v.current { "current".to_owned() } else { v.state.clone() };
        vec![
            v.month.to_string(),
            v.payer.clone(),
            v.export.clone(),
            v.version.chars().take(8).collect(),
            v.delivered_at.strftime("%Y-%m-%d %H:%M").to_string(),
            state,
            print::count(v.rows),
            print::count(v.entries),
            print::count(v.unrecognised_lines),
            v.newest_day.clone().unwrap_or_default(),
        ]
    });
    let titles = [
        "month",
        "payer",
        "1export",
        "#version",
        "4delivered UTC",
        "state",
        "2>rows",
        "3>entries",
        "6>unrecognised",
        "5newest day",
    ];
    print::table(&titles, rows.collect());
    for v in versions.iter().filter(|v| v.state == "on_hold") {
        print::out(&format!("on hold: {} {} version {}: {}", v.payer, v.month, v.version, v.hold_reason));
    }
    // only the newest delivery can be accepted; the rows of a bill begin with it
    let mut bills = vec![];
    for v in versions.iter().filter(|v| v.state == "on_hold") {
        let bill = (v.payer.as_str(), v.month);
        if !bills.contains(&bill) {
            bills.push(bill);
            print::out(&format!("to accept it: {}", accept_command(v.month, &v.version, &v.hold_digest)));
        }
    }
    Ok(done)
}
