//! Enqueues jobs, and waits for them with a bar: what `meter enqueue` and `meter backfill` do last.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Config;
use crate::exit::Exit;
use crate::format::{cost_of, report_summary};
use crate::print;
use crate::queue::{Enqueued, JobFilter, JobRow, JobState, NewJob, Queue, WorkerRow};
use crate::visible;
use crate::wiring::{self, Open};

const POLL: Duration = Duration::from_millis(200);
/// Each look at a remote database is a request.
const REMOTE_POLL: Duration = Duration::from_secs(1);
/// After this time without a running worker, a message says that none runs.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this time without one nobody waits any longer.
const WITHOUT_WORKER: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Wait until the jobs are finished, or no worker has run for a minute; the exit code is that
    /// of the worst one
    #[arg(long)]
    wait: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Waits until all jobs are finished, retries included; ends with the worst of their results.
/// Interrupting it does not affect the jobs.
async fn wait_for(queue: &Queue, enqueued: &[Enqueued], args: &SubmitArgs) -> anyhow::Result<Exit> {
    let filter = JobFilter { ids: enqueued.iter().map(|e| e.id.clone()).collect(), ..JobFilter::default() };
    let count = u32::try_from(enqueued.len())?;
    let bar = bar(enqueued.len());
    let poll = if queue.database().is_local() { POLL } else { REMOTE_POLL };
    let (mut waited, mut alone) = (Duration::ZERO, Duration::ZERO);
    let mut rows = loop {
        let rows = match queue.list(&filter, count).await {
            Ok(rows) => rows,
            Err(error) if error.is_retryable() => {
                print::err(format_args!("still waiting: {error}"));
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let finished = rows.iter().filter(|r| r.state.is_final()).count();
        if let Some(bar) = &bar {
            bar.set_position(u64::try_from(finished)?);
            let running: Vec<String> = rows.iter().filter(|r| !r.state.is_final()).map(line).collect();
            bar.set_message(visible::line(&running.join(", ")).into_owned());
        }
        if finished == rows.len() {
            break rows;
        }
        tokio::time::sleep(poll).await;
        waited += poll;
        if waited < PATIENCE {
            continue;
        }
        waited = Duration::ZERO;
        let alive = |w: &WorkerRow| w.state == "working" && queue.now().duration_since(w.seen_at).as_secs() < 60;
        alone = if queue.workers().await?.iter().any(alive) { Duration::ZERO } else { alone + PATIENCE };
        if alone == PATIENCE {
            print::err("no worker is running; start one with `meter work`. Still waiting.");
        } else if alone >= WITHOUT_WORKER {
            bail!("no worker has run for {} s; the jobs stay in the queue, for `meter work`", alone.as_secs());
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    rows.sort_by_key(|r| r.seq);
    if args.json {
        print::json(&rows)?;
    } else {
        rows.iter().for_each(|row| print::out(&line(row)));
    }
    if rows.len() < enqueued.len() {
        print::err(format_args!("{} of the jobs were removed while they were waited for", enqueued.len() - rows.len()));
    }
    let failed = rows.len() < enqueued.len() || rows.iter().any(|r| r.state != JobState::Done);
    let attention = rows.iter().any(|r| r.attention);
    Ok(match (failed, attention) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::NeedsAttention,
        (false, false) => Exit::Ok,
    })
}

fn bar(jobs: usize) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(u64::try_from(jobs).ok()?);
    let style = ProgressStyle::with_template("{pos} of {len} jobs finished {elapsed} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    Some(bar)
}

/// The line about a job.
fn line(row: &JobRow) -> String {
    let what = row.key.clone().unwrap_or_else(|| format!("{} {}", row.kind, row.payload));
    let head = format!("job {} {what}: {}", row.seq, row.state);
    match (row.state, &row.report, &row.reason) {
        (JobState::Done, Some(report), _) => {
            let cost = cost_of(report).map_or(String::new(), |cost| format!("; {cost}"));
            format!("{head}; {}{cost}", report_summary(&report.to_string()))
        }
        (JobState::Done, None, _) => head,
        (_, _, Some(reason)) => format!("{head}: {reason}"),
        _ => head,
    }
}

/// Enqueues jobs, and prints what became of each by its name or waits for their end.
pub(super) async fn submit(
    jobs: &[NewJob],
    name: fn(&NewJob) -> &str,
    args: &SubmitArgs,
    config: &Config,
) -> anyhow::Result<Exit> {
    wiring::open_books(config, Open::MIGRATED).await?;
    let queue = wiring::open_queue(config, Open::CREATE).await?;
    let enqueued = queue.enqueue(jobs).await?;
    if args.wait {
        return wait_for(&queue, &enqueued, args).await;
    }
    if args.json {
        print::json(&enqueued)?;
        return Ok(Exit::Ok);
    }
    for (job, enqueued) in jobs.iter().zip(&enqueued) {
        let what = if enqueued.new { "enqueued as job" } else { "is waiting or running already, as job" };
        print::out(&format!("{} {what} {}", name(job), enqueued.id));
    }
    Ok(Exit::Ok)
}
