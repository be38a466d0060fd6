//! `meter copy`: the books in another database, from a file to a server or back.

use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, bail};
use books::audit::checks::Audit;
use books::store::copy::{BooksCopy, CopiedTable};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::progress;
use crate::config::{COPY_TOKEN_VARIABLE, Config, DatabaseConfig, database_fault};
use crate::exit::{BadUsage, Exit};
use crate::format::ago;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Where to: a path, `libsql://…`, `https://…` or `http://…`, without tables. Its token is in
    /// METER_DATABASE__COPY_TOKEN
    #[arg(long, value_name = "URL")]
    to: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Report<'a> {
    from: &'a str,
    to: &'a str,
    at: Timestamp,
    tables: Vec<CopiedTable>,
    audit: Audit,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let (from, to) = (config.database.url.as_str(), args.to.as_str());
    if let Some(why) = database_fault(to, COPY_TOKEN_VARIABLE) {
        return Err(BadUsage(format!("--to: {why}")).into());
    }
    let source = wiring::open_books(config, Open::EXISTING).await?;
    refuse_workers(config, now).await?;
    let database =
        DatabaseConfig { url: args.to.clone(), token: config.database.copy_token.clone(), ..config.database.clone() };
    let nothing = || format!("nothing was copied to {to}");
    let target =
        wiring::open_books(&Config { database, ..config.clone() }, Open::CREATE).await.with_context(nothing)?;
    let mut copy = BooksCopy::begin(&source, &target, now).await.with_context(nothing)?;
    let (done, total) = (AtomicU64::new(0), copy.rows_to_read());
    let filled = async {
        copy.fill(&done).await?;
        copy.compare(&done).await?;
        let audit = target.verify().await?;
        if !audit.is_sound() {
            let broken = audit.checks.iter().filter(|check| !check.violations.is_empty()).map(|check| check.name);
            let broken = broken.collect::<Vec<_>>().join(", ");
            bail!("the books break their rules, and so does the copy: {broken}. `meter verify` shows where");
        }
        anyhow::Ok((copy.finish().await?, audit))
    };
    let (tables, audit) = progress::rows(&format!("to {to}"), &done, total, filled)
        .await
        .with_context(|| format!("{to} is an unfinished copy, which no command uses; delete it"))?;
    // the copy is whole; its cost is only for the estimate
    drop(target.keep_row_counts(now).await);
    let report = Report { from, to, at: now, tables, audit };
    if args.json {
        print::json(&report)?;
    } else {
        show(&report);
    }
    Ok(Exit::Ok)
}

fn show(report: &Report<'_>) {
    let Report { from, to, at, tables, audit } = report;
    let rows: u64 = tables.iter().map(|table| table.rows).sum();
    let row = |table: &CopiedTable| {
        vec![table.table.clone(), print::count(table.rows), table.digest.chars().take(16).collect()]
    };
    let filled: Vec<_> = tables.iter().filter(|table| table.rows > 0).map(row).collect();
    let empty = tables.len() - filled.len();
    print::table(&["table", ">rows", "SHA-256 (start)"], filled);
    print::out("");
    print::out(&format!("{to} is a copy of {from}, begun {at:.0}"));
    print::out(&format!("{} rows were read again on both sides and are the same", print::count(rows)));
    print::out(&format!("{empty} tables are empty"));
    print::out(&format!("the copy keeps all {} rules that `meter verify` checks", audit.checks.len()));
    print::out("");
    print::out("next: give worker, commands and web backend the new database.url and token,");
    print::out("and then start them. Nothing may write to the old database any more:");
    print::out("two workers on two copies would bill everything twice");
}

/// A worker would write to the source, and its last writes would be missing in the copy.
async fn refuse_workers(config: &Config, now: Timestamp) -> anyhow::Result<()> {
    let silent_after = wiring::silent_after(config);
    let mut workers = wiring::open_queue(config, Open::EXISTING).await?.workers().await?;
    workers.retain(|w| w.runs_at(now, silent_after));
    if workers.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = workers.iter().map(|w| format!("{} (seen {})", w.id, ago(w.seen_at, now))).collect();
    bail!(
        "workers run on {}, so it is not copied: {}. Stop them (SIGTERM, or `systemctl stop meter`), and copy again. \
         One that was killed counts as gone {} s after it was last seen",
        config.database.url,
        named.join(", "),
        silent_after.as_secs()
    )
}
