//! `meter backfill`: past months through the queue, after all live work.

use books::units::calendar::Month;
use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;
use jobs::ingest_cur::IngestCur;

use super::select;
use super::submit::{self, SubmitArgs};
use crate::config::Config;
use crate::exit::Exit;
use crate::queue::NewJob;

/// Live work has priority 0.
const PRIORITY: i64 = -10;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Read the bills of past months: one job for each month, one after another for one export
    Ingest(Args),
}

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
    /// Book a version even if it reduces booked usage
    #[arg(long)]
    accept_restatement: bool,
    /// Book a version even if it has unknown line types; their lines are left out
    #[arg(long)]
    allow_unknown_line_types: bool,
    #[command(flatten)]
    submit: SubmitArgs,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let Action::Ingest(args) = action;
    let months = select::months(None, Some(args.from), args.to, now)?.unwrap_or_default();
    let mut jobs = vec![];
    for export in select::exports(config, args.export.as_deref())? {
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
    submit::submit(&jobs, |job| job.key.as_deref().unwrap_or_default(), &args.submit, config).await
}
