//! `meter revert`: takes an applied plan back.

use anyhow::{Context as _, anyhow};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::changes::{Approval, OppositeError, opposite};

use super::agreement::{Agreement, NOBODY, agreed};
use super::{actor, failure};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The number of the plan, as `meter changes` lists it
    number: i64,
    /// Why; it is kept with the plan and in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print as JSON; nobody is asked
    #[arg(long, requires = "yes")]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let (number, reason) = (args.number, actor::reason(&args.reason)?);
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let context = wiring::context_without_sources(config, books)?;
    let found = opposite(&context, number).await.map_err(|why| error(number, why))?;
    if !args.json {
        print::changes::opposite(&found, &context, now);
    }
    if !agreed(Agreement::of(args.yes), "revert it?", NOBODY)? {
        print::out("nothing was booked");
        return Ok(Exit::Failed);
    }
    let advice = print::changes::after_revert(&found, &context.read_settings.rules.digest());
    let approval = Approval { actor: actor::current(), reason };
    found.book(&context, approval, now).await.map_err(|why| error(number, why))?;
    if args.json {
        print::json(&context.books.applied_plans(Some(number)).await?.pop().context("it is booked, and gone again")?)?;
        return Ok(Exit::Ok);
    }
    print::out(&format!("change {number} is reverted: every sum is what it was before"));
    advice.iter().for_each(|line| print::out(line));
    let next = print::decided::Runs::read(&context.books, config, now).await?.next();
    print::out(&format!("limits follow: {next}"));
    Ok(Exit::Ok)
}

fn error(number: i64, why: OppositeError) -> anyhow::Error {
    match why {
        OppositeError::Unknown(newest) => {
            let there = newest.map_or("none was applied".to_owned(), |newest| format!("the newest is {newest}"));
            BadUsage(format!("there is no change {number}; {there} (`meter changes`)")).into()
        }
        OppositeError::Already(plan) => {
            let by = plan.reverted.map_or(String::new(), |of| format!(" by {} at {}", of.actor, of.at));
            BadUsage(format!("change {number} was reverted already{by}; nothing was booked")).into()
        }
        OppositeError::BookedSince(why) => {
            BadUsage(format!("{why}; nothing was booked. Plan a new change: `meter ingest --plan FILE`")).into()
        }
        OppositeError::Failed(why) => failure::error(&why).context(anyhow!("change {number}: nothing was booked")),
    }
}
