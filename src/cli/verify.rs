//! `meter verify`: the audit of the books.

use std::path::PathBuf;

use anyhow::Context as _;
use books::Database;
use clap::Args as ClapArgs;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::format::Counted;
use crate::print;
use crate::wiring::{self, Open};

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
    let books = books.counted();
    let audit = books.verify().await?;
    if args.json {
        print::json(&Counted::new(&audit, books.traffic()))?;
    } else {
        print::audit::show(&audit);
        print::cost(&books);
    }
    Ok(print::audit::exit(&audit))
}
