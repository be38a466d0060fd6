//! `meter backup`: copies the books while workers run.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::visible;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The file to create; it must not exist
    file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// A backup that was made.
#[derive(JsonSchema, Serialize)]
pub(super) struct Backup {
    file: String,
    bytes: u64,
    /// The books are those of this instant.
    at: Timestamp,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let (file, url) = (args.file, &config.database.url);
    let Some(books) = wiring::local_path(config) else {
        let text = "is on a server: make the copy there (a snapshot, a dump, a point in time), and after one was restored say \
                    `meter restore mark --backup-at T` before anything else runs";
        return Err(BadUsage(format!("the database {url} {text}")).into());
    };
    let taken = || format!("{} is there already; a backup takes no file's place", visible::path(&file));
    if file.symlink_metadata().is_ok() {
        return Err(BadUsage(taken()).into());
    }
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let why =
            format!("the backup {} was not made: there is no folder {}", visible::path(&file), visible::path(folder));
        return Err(BadUsage(why).into());
    }
    let partial = file.with_added_extension(format!("{}.partial", std::process::id()));
    let made = async {
        wiring::open_books(config, Open::NOT_NEWER).await?.copy_to(&partial, now).await?;
        let copy = File::options().read(true).write(true).open(&partial)?;
        copy.sync_all()?;
        if file.symlink_metadata().is_ok() {
            bail!(taken());
        }
        std::fs::rename(&partial, &file)?;
        // the name is on disk, too
        File::open(folder)?.sync_all()?;
        Ok(copy.metadata()?.len())
    };
    let made = made.await;
    if made.is_err() {
        drop(std::fs::remove_file(&partial));
    }
    let bytes = made.with_context(|| format!("the backup {} was not made", file.display()))?;
    if args.json {
        print::json(&Backup { file: visible::path(&file), bytes, at: now })?;
        return Ok(Exit::Ok);
    }
    print::out(&format!("{}: {} bytes, the books of {now:.0}", file.display(), print::count(bytes)));
    print::out(&format!(
        "to restore it: stop every worker; move {0} and {0}-wal away, to names that still belong together ({0}.damaged, {0}.damaged-wal), and remove \
         {0}-shm; copy the file to {0}; start again. Billing is then on hold until `meter restore finish`; `meter restore status` says what to do",
        books.display()
    ));
    Ok(Exit::Ok)
}
