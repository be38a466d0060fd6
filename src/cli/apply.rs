//! `meter apply`: books exactly what a plan says, or nothing.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::changes::{ApplyError, Approval, ChangePlan, apply};

use super::agreement::{Agreement, NOBODY, agreed};
use super::{actor, failure, progress};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::visible;
use crate::wiring::{self, Open};
use crate::wording;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The plan, as `meter ingest --plan` wrote it
    file: PathBuf,
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
    let name = visible::path(&args.file);
    let reason = actor::reason(&args.reason)?;
    let text = std::fs::read_to_string(&args.file);
    let text = text
        .map_err(|why| BadUsage(format!("{name}: it cannot be read: {}; nothing was booked", wording::of_io(&why))))?;
    let plan = ChangePlan::from_text(&text);
    let plan = plan.map_err(|why| BadUsage(format!("{name}: {why}; nothing was booked")))?;
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let Some(applied) = books.applied_plan_of(&plan.digest).await? {
        return Err(BadUsage(already(&name, &applied)).into());
    }
    if !args.json {
        print::changes::plan(&plan, config);
    }
    if !agreed(Agreement::of(args.yes), "apply it?", NOBODY)? {
        print::out("nothing was booked");
        return Ok(Exit::Failed);
    }
    let context = wiring::context(config, books).await?;
    let approval = Approval { actor: actor::current(), reason };
    let applying = apply(&context, &plan, approval, now);
    match progress::reading("the plan", &context.read_settings.progress, applying).await {
        Ok(number) if args.json => {
            print::json(
                &context.books.applied_plans(Some(number)).await?.pop().context("it is booked, and gone again")?,
            )?;
            Ok(Exit::Ok)
        }
        Ok(number) => {
            print::out(&format!("booked as change {number}; to take it back:"));
            print::out(&format!("  meter revert {number} --reason \"why\""));
            let next = print::decided::Runs::read(&context.books, config, now).await?.next();
            print::out(&format!("limits follow: {next}"));
            print::cost(&context.books);
            Ok(Exit::Ok)
        }
        Err(ApplyError::Already(applied)) => Err(BadUsage(already(&name, &applied)).into()),
        Err(ApplyError::Empty) => Err(BadUsage(format!("{name}: it changes nothing; nothing was booked")).into()),
        Err(ApplyError::Moved(what)) => bail!(
            "{name}: nothing was booked, because this is another than when the plan was made ({}): {}. Plan anew: `meter \
             ingest --plan {name}`, with the months and exports of before",
            plan.made_at.strftime("%F %T UTC"),
            what.join("; ")
        ),
        Err(ApplyError::Failed(why)) => Err(failure::error(&why).context(anyhow!("{name}: nothing was booked"))),
    }
}

fn already(name: &str, applied: &books::usage::applied_plans::AppliedPlan) -> String {
    let (number, by, at) = (applied.number, &applied.actor, applied.applied_at.strftime("%F %T UTC"));
    format!(
        "{name} was applied as number {number} by {by} at {at}; nothing was booked. `meter changes {number}` shows it"
    )
}
