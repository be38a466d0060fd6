//! `meter backfill`: past months through the queue, behind all live work.

use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;
use jobs::books::period::Month;
use jobs::ingest_cur::IngestCur;

use super::{Done, ingest, months, print, wait};
use crate::config::Config;
use crate::queue::NewJob;
use crate::wiring;

/// Live work has priority 0.
const PRIORITY: i64 = -10;

/// What to do again.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Read the bills of past months: one job for each month, one after another for one export
    Ingest(Args),
}

/// Which months, and what to let pass.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// From this month on
    #[arg(long, value_name = "YYYY-MM")]
    from: Month,
    /// Up to this month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    to: Option<Month>,
    /// Only this export
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// Only report what would be booked
    #[arg(long)]
    dry_run: bool,
    /// Book a version even if it takes back usage that is booked
    #[arg(long)]
    accept_restatement: bool,
    /// Book a version even if it has line types that nobody knows; their lines are left out
    #[arg(long)]
    allow_unknown_line_types: bool,
    /// Wait for the jobs, and end as they do
    #[arg(long)]
    wait: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Done> {
    let Action::Ingest(args) = action;
    let months = months(None, Some(args.from), args.to, 0, now)?;
    let mut jobs = vec![];
    for export in ingest::chosen(config, args.export.as_deref())? {
        for month in &months {
            let job = IngestCur {
                export: export.clone(),
                month: *month,
                dry_run: args.dry_run,
                accept_restatement: args.accept_restatement,
                allow_unknown_line_types: args.allow_unknown_line_types,
            };
            let lane = Some(format!("backfill/{export}"));
            jobs.push(NewJob { lane, priority: PRIORITY, ..NewJob::of(&job, "backfill")? });
        }
    }
    let books = wiring::open_books(config).await?;
    books.migrate(now).await?;
    let queue = wiring::open_queue(config).await?;
    let enqueued = queue.enqueue(&jobs).await?;
    if args.wait {
        return wait::wait_for(&queue, &enqueued, args.json).await;
    }
    if args.json {
        print::json(&enqueued)?;
        return Ok(Done::Well);
    }
    for (job, enqueued) in jobs.iter().zip(&enqueued) {
        let key = job.key.as_deref().unwrap_or_default();
        let what = if enqueued.new { "enqueued as job" } else { "is waiting or running already, as job" };
        print::out(&format!("{key} {what} {}", enqueued.id));
    }
    Ok(Done::Well)
}
