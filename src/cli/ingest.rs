//! `meter ingest`: reads the bills of each export and month in this process.

use std::path::PathBuf;

use books::BooksError;
use books::units::calendar::Month;
use books::usage::bill::VersionRow;
use books::usage::wanted::Wanted;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::changes::WantedChange;
use jobs::context::Context;
use jobs::ingest_cur::{Acceptance, IngestCur, IngestReport, hold};
use schemars::JsonSchema;
use serde::Serialize;

use super::{actor, failure, plan_change, progress, select};
use crate::config::{Config, ExportConfig};
use crate::exit::{BadUsage, Exit};
use crate::format::Counted;
use crate::print::{self, OutputFormat, WithUnits};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this month (YYYY-MM) [default: the current one, `lookback_months` before it, and all of
    /// the last twelve that are not complete]
    #[arg(long, value_name = "YYYY-MM", conflicts_with_all = ["from", "to"])]
    month: Option<Month>,
    /// From this month on
    #[arg(long, value_name = "YYYY-MM")]
    from: Option<Month>,
    /// Up to this month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    to: Option<Month>,
    /// Only this export
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// Print what would be booked, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write what would be booked into this file, with its money and who would be blocked, and
    /// write nothing to the books; `meter apply` books exactly that (see docs/changes.md)
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    plan: Option<PathBuf>,
    /// Book this version, which is on hold: its name or the first 8 characters of it, as `meter
    /// versions` shows it. It is booked only if nothing else is found now than when it was put on
    /// hold and looked at (`--seen`)
    #[arg(long, value_name = "VERSION", requires = "reason", conflicts_with_all = ["from", "to"])]
    accept: Option<String>,
    /// Names the reasons to hold the version that were looked at, as the printed command has it:
    /// whoever looked at other reasons has not accepted these
    #[arg(long, value_name = "DIGEST", requires = "accept")]
    seen: Option<String>,
    /// Why the version is accepted; kept in the audit log
    #[arg(long, value_name = "TEXT", requires = "accept")]
    reason: Option<String>,
    /// Print the reports as JSON; with --plan the plan
    #[arg(long)]
    json: bool,
}

/// A run as JSON.
#[derive(JsonSchema, Serialize)]
#[serde(untagged)]
pub(super) enum IngestRun {
    Report(Box<Counted<IngestReport>>),
    Failed { export: String, month: Month, failed: String, retryable: bool },
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let mut chosen = select::months(args.month, args.from, args.to, now)?;
    let names = select::exports(config, args.export.as_deref())?;
    let mut exports: Vec<&ExportConfig> = config.exports.iter().filter(|e| names.contains(&e.name)).collect();
    let reason = match &args.accept {
        Some(_) => actor::reason(args.reason.as_deref().unwrap_or_default())?,
        None => String::new(),
    };
    let looks_only = args.dry_run || args.plan.is_some();
    let open = if looks_only { Open::DRY_RUN } else { Open::MIGRATED };
    let books = wiring::open_books(config, open).await?;
    let mut accept = None;
    if let Some(prefix) = &args.accept {
        let (export, month, version) = on_hold(&books.versions(args.month).await?, prefix, &exports)?;
        (exports, chosen) = (vec![export], Some(vec![month]));
        accept = Some(Acceptance { version, seen: args.seen.clone(), actor: actor::current(), reason });
    }
    let payers: Vec<String> = exports.iter().map(|export| export.payer.clone()).collect();
    let wanted = match &chosen {
        Some(_) => Wanted::default(),
        None if looks_only => books.wanted(now).await?,
        None => books.want(&payers, Month::of(now), now).await?,
    };
    let context = wiring::context(config, books).await?;
    if let Some(file) = &args.plan {
        let mut changes = vec![];
        for ExportConfig { name, payer, .. } in exports {
            let incomplete = || wanted.to_read(payer, config.lookback_months, now);
            let months = chosen.clone().unwrap_or_else(incomplete).into_iter();
            changes.extend(months.map(|month| WantedChange { export: name.clone(), month, accept: accept.clone() }));
        }
        return plan_change::write((file, OutputFormat::of(args.json)), &changes, (&context, config), now).await;
    }
    let (mut runs, mut done) = (vec![], Exit::Ok);
    for ExportConfig { name: export, payer, .. } in exports {
        let incomplete = || wanted.to_read(payer, config.lookback_months, now);
        for month in chosen.clone().unwrap_or_else(incomplete) {
            let job = IngestCur { export: export.clone(), month, dry_run: args.dry_run, accept: accept.clone() };
            let context = Context { books: context.books.counted(), ..context.clone() };
            match progress::ingest(job, &context, now).await {
                Ok(report) => {
                    if report.outcome.needs_attention() && done == Exit::Ok {
                        done = Exit::NeedsAttention;
                    }
                    if !args.json {
                        print::ingest::show(&report, config);
                        print::cost(&context.books);
                    }
                    runs.push(IngestRun::Report(Box::new(Counted::new(report, context.books.traffic()))));
                }
                Err(failure) => {
                    done = Exit::Failed;
                    let (failed, retryable) = (format!("{:#}", failure.error()), failure.is_retryable());
                    let advice = failure::advice(&failure);
                    let unsure = matches!(failure.error().downcast_ref(), Some(BooksError::Network(_)));
                    let booked = if unsure { "" } else { ", nothing was booked" };
                    print::err(format_args!("ingest of {export} {month} failed{booked}{advice}: {failed}"));
                    runs.push(IngestRun::Failed { export: export.clone(), month, failed, retryable });
                }
            }
        }
    }
    if args.json {
        print::json(&runs.into_iter().map(|run| WithUnits::new(run, config)).collect::<Vec<_>>())?;
    }
    Ok(done)
}

/// Export, month and whole name of the version that begins with `prefix`: one on hold, or the one
/// that is booked already, which changes nothing. The export is that of the version's payer: it may
/// have had another name then.
fn on_hold<'a>(
    versions: &[VersionRow],
    prefix: &str,
    exports: &[&'a ExportConfig],
) -> anyhow::Result<(&'a ExportConfig, Month, String)> {
    let of = |v: &VersionRow| {
        let of_payer = || exports.iter().copied().filter(|e| e.payer == v.payer);
        let same_name = of_payer().find(|e| e.name == v.export);
        same_name.map_or_else(|| of_payer().collect(), |export| vec![export])
    };
    let own = || versions.iter().filter(|v| !of(v).is_empty());
    let held = || own().filter(|v| v.state == "on_hold");
    let named = |v: &&VersionRow| prefix.len() >= hold::VERSION_PREFIX && v.version.starts_with(prefix);
    let booked = own().find(|v| v.current && named(v)).filter(|_| !held().any(|v| named(&v)));
    let rows: Vec<&VersionRow> = match booked {
        Some(row) => vec![row],
        None => {
            let version = hold::named(prefix, held().map(|v| v.version.as_str())).map_err(BadUsage)?;
            held().filter(|v| v.version == version).collect()
        }
    };
    let bill =
        |v: &VersionRow| of(v).into_iter().map(|export| (export, v.month, v.version.clone())).collect::<Vec<_>>();
    let mut bills: Vec<(&ExportConfig, Month, String)> = rows.into_iter().flat_map(bill).collect();
    bills.sort_by_key(|(export, month, _)| (&export.name, *month));
    bills.dedup_by_key(|(export, month, _)| (&export.name, *month));
    match bills.len() {
        1 => Ok(bills.remove(0)),
        _ => {
            let names: Vec<String> =
                bills.iter().map(|(export, month, _)| format!("{} {month}", export.name)).collect();
            anyhow::bail!("`{prefix}` is on hold in several bills: {}; add --month or --export", names.join(", "))
        }
    }
}
