//! `meter migrate`: brings the database's schema up to date.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::Exit;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What a migration did.
#[derive(JsonSchema, Serialize)]
pub(super) struct Migration {
    database: String,
    schema_version: i64,
    /// The migrations that were missing.
    applied: Vec<String>,
}

pub(crate) async fn run(args: &Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::CREATE).await?;
    let applied = books.migrate(now).await?;
    let version = books::newest_schema_version();
    if args.json {
        let applied = applied.iter().map(ToString::to_string).collect();
        print::json(&Migration { database: config.database.url.clone(), schema_version: version, applied })?;
        return Ok(Exit::Ok);
    }
    let url = &config.database.url;
    match i64::try_from(applied.len())? {
        0 => print::out(&format!("{url} is at schema version {version} already")),
        all if all == version => print::out(&format!("{url} is new, and at schema version {version}")),
        n => {
            print::out(&format!("{url} is at schema version {version} now; applied {n}: {}", applied.join(", ")));
        }
    }
    Ok(Exit::Ok)
}
