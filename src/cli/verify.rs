//! `meter verify`: the audit of the books.

use std::path::PathBuf;

use anyhow::Context as _;
use books::Database;
use clap::Args as ClapArgs;

use super::{BadUsage, Exit, print};
use crate::config::Config;
use crate::wiring::{self, Open};

/// How to show it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Audit this local file instead of the configured books: a backup
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config) -> anyhow::Result<Exit> {
    let books = match args.database {
        None => wiring::open_books(config, Open::EXISTING).await?,
        Some(file) => {
            let fault = || format!("--database {}", file.display());
            if !wiring::may_exist(&file) {
                return Err(BadUsage(format!("{}: there is no such file", fault())).into());
            }
            let books = Database::open_read_only(&file).await.with_context(fault)?;
            books.require_migrated().await.with_context(fault)?;
            books
        }
    };
    audit(&books, args.json).await
}

/// Runs and prints all checks.
pub(super) async fn audit(books: &Database, json: bool) -> anyhow::Result<Exit> {
    let checks = books.verify().await?;
    let sound = checks.iter().all(|c| c.violations.is_empty());
    if json {
        print::json(&checks)?;
    } else {
        for check in &checks {
            let state = if check.violations.is_empty() { "ok    " } else { "BROKEN" };
            print::out(&format!("  {state}  {} ({} checked)", check.rule, print::count(check.checked)));
            check.violations.iter().for_each(|v| print::out(&format!("          {v}")));
        }
    }
    Ok(if sound { Exit::Ok } else { Exit::Failed })
}
