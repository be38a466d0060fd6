//! `meter ingest`: reads the bills of each export and month in this process.

use books::BooksError;
use books::units::calendar::Month;
use books::usage::months::{Months, to_read};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::ingest_cur::{IngestCur, IngestReport};
use serde::Serialize;

use super::{failure, progress, select};
use crate::config::Config;
use crate::exit::Exit;
use crate::format::Counted;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this month (YYYY-MM) [default: the current one, `lookback_months` before it, and all
    /// booked ones that are not complete]
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
    /// Book a version even if it reduces booked usage
    #[arg(long)]
    accept_restatement: bool,
    /// Book a version even if it has unknown line types; their lines are left out
    #[arg(long)]
    allow_unknown_line_types: bool,
    /// Print the reports as JSON
    #[arg(long)]
    json: bool,
}

/// A run as JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Run {
    Report(Box<Counted<IngestReport>>),
    Failed { export: String, month: Month, failed: String, retryable: bool },
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let chosen = select::months(args.month, args.from, args.to, now)?;
    let exports = select::exports(config, args.export.as_deref())?;
    let open = if args.dry_run { Open::DRY_RUN } else { Open::MIGRATED };
    let books = wiring::open_books(config, open).await?;
    let known = if chosen.is_none() { books.months(now).await? } else { Months::new() };
    let context = wiring::context(config, books).await?;
    let (mut runs, mut done) = (vec![], Exit::Ok);
    for export in &exports {
        let payer = config.exports.iter().find(|e| e.name == *export).map(|e| &e.payer);
        let incomplete = || to_read(payer.and_then(|payer| known.get(payer)), None, config.lookback_months, now);
        for month in chosen.clone().unwrap_or_else(incomplete) {
            let job = IngestCur {
                export: export.clone(),
                month,
                dry_run: args.dry_run,
                accept_restatement: args.accept_restatement,
                allow_unknown_line_types: args.allow_unknown_line_types,
            };
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
                    runs.push(Run::Report(Box::new(Counted::new(report, context.books.traffic()))));
                }
                Err(failure) => {
                    done = Exit::Failed;
                    let (failed, retryable) = (format!("{:#}", failure.error()), failure.is_retryable());
                    let advice = failure::advice(&failure);
                    let unsure = matches!(failure.error().downcast_ref(), Some(BooksError::Network(_)));
                    let booked = if unsure { "" } else { ", nothing was booked" };
                    eprintln!("meter: ingest of {export} {month} failed{booked}{advice}: {failed}");
                    runs.push(Run::Failed { export: export.clone(), month, failed, retryable });
                }
            }
        }
    }
    if args.json {
        print::json(&runs)?;
    }
    Ok(done)
}
