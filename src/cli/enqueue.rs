//! `meter enqueue`: puts one job into the queue.

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::payload::{self, JobArgs};
use super::submit::{self, SubmitArgs};
use crate::config::Config;
use crate::exit::Exit;
use crate::queue::NewJob;
use crate::worker::{Kinds, ValidatedPayload};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Not before this instant (2026-03-01T00:00:00Z)
    #[arg(long, value_name = "INSTANT", value_parser = super::instant::instant)]
    at: Option<Timestamp>,
    /// Priority, -100 to 100; a higher one runs sooner
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-100..=100))]
    priority: i64,
    /// Unique key instead of the kind's own: while a job with this key waits or runs, no second one
    /// is enqueued
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    submit: SubmitArgs,
}

pub(crate) async fn run(args: Args, config: &Config) -> anyhow::Result<Exit> {
    let kind = payload::kind(&Kinds::all(), &args.job.kind)?;
    let ValidatedPayload { payload, key } = payload::read(&kind, &args.job)?;
    let job = NewJob::new(kind.name, payload, kind.max_attempts, "enqueue");
    let job = NewJob { key: args.key.or(key), priority: args.priority, run_at: args.at, ..job };
    submit::submit(&[job], |job| &job.kind, &args.submit, config).await
}
