//! `meter changes`: the plans that were applied.

use books::usage::applied_plans::{AppliedPlan, PlanEffect};
use books::usage::ledger::VersionEntry;
use clap::Args as ClapArgs;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat, WithUnits};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this one, with what it changed [default: all, the newest first]
    number: Option<i64>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// A change as JSON.
#[derive(JsonSchema, Serialize)]
pub(super) struct BookedChange {
    #[serde(flatten)]
    plan: AppliedPlan,
    effects: Vec<PlanEffect>,
    booked: Vec<VersionEntry>,
}

pub(crate) async fn run(args: Args, config: &Config) -> anyhow::Result<Exit> {
    let format = OutputFormat::of(args.json);
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let mut plans = books.applied_plans(args.number).await?;
    let Some(number) = args.number else {
        match format {
            OutputFormat::Json => print::json(&plans)?,
            OutputFormat::Text => print::changes::list(&plans),
        }
        return Ok(Exit::Ok);
    };
    let Some(plan) = plans.pop() else {
        return Err(BadUsage(format!("there is no change {number}; `meter changes` lists all")).into());
    };
    let effects = books.plan_effects(number).await?;
    let mut booked = vec![];
    for version in plan.versions.iter().filter(|version| version.reverts.is_none()) {
        booked.extend(books.entries_of(version.id).await?);
    }
    match format {
        OutputFormat::Json => print::json(&WithUnits::new(BookedChange { plan, effects, booked }, config))?,
        OutputFormat::Text => print::changes::one(&plan, &effects, &booked, &config.units()),
    }
    Ok(Exit::Ok)
}
