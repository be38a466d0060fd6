//! Enqueues jobs, and waits for them with a bar: what `meter enqueue` and `meter backfill` do last.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Config;
use crate::exit::Exit;
use crate::format::{cost_of, report_summary};
use crate::print;
use crate::queue::{Enqueued, JobFilter, JobRow, JobState, NewJob, Queue, WorkerRow, WorkerState};
use crate::visible;
use crate::wiring::{self, Open};

const POLL: Duration = Duration::from_millis(200);
/// Each look at a remote database is a request.
const REMOTE_POLL: Duration = Duration::from_secs(1);
/// How often it is asked whether a worker runs, and the pause after a failed look.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// Wait until the jobs are finished; the exit code is that of the worst one
    #[arg(long)]
    wait: bool,
    /// Give up waiting after so long without a running worker that takes the jobs, which stay in
    /// the queue; 0: never. The exit code is then 1
    #[arg(long, value_name = "SECONDS", requires = "wait", default_value_t = 60)]
    timeout: u64,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Waits until all jobs are finished, retries included; ends with the worst of their results.
/// Interrupting it does not affect the jobs.
///
/// # Errors
/// When no worker that takes the jobs runs for `--timeout`.
async fn wait_for(
    queue: &Queue,
    enqueued: &[Enqueued],
    args: &SubmitArgs,
    silent_after: Duration,
) -> anyhow::Result<Exit> {
    let filter = JobFilter { ids: enqueued.iter().map(|e| e.id.clone()).collect(), ..JobFilter::default() };
    let count = u32::try_from(enqueued.len())?;
    print::end_wait();
    let bar = bar(enqueued.len());
    let poll = if queue.database().is_local() { POLL } else { REMOTE_POLL };
    let (mut next_look, mut alone_since) = (Instant::now(), None);
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
        let patience = Duration::from_secs(args.timeout);
        let expired = args.timeout > 0 && alone_since.is_some_and(|since: Instant| since.elapsed() >= patience);
        if next_look <= Instant::now() || expired {
            next_look = Instant::now() + PATIENCE;
            match without_worker(queue, &rows, silent_after).await? {
                None => alone_since = None,
                Some(why) if expired => bail!(
                    "waited {} s, and {why}; the jobs stay in the queue: start a worker with `meter work`, and see \
                     `meter jobs list`",
                    args.timeout
                ),
                Some(why) if alone_since.is_none() => {
                    alone_since = Some(Instant::now());
                    let until = match args.timeout {
                        0 => "waiting until one does".to_owned(),
                        seconds => format!("waiting {seconds} s for one"),
                    };
                    print::err(format_args!("{why}; start one with `meter work`; {until}"));
                }
                Some(_) => {}
            }
        }
        tokio::time::sleep(poll).await;
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

/// Why no running worker can take one of the jobs that are not finished; none when one can, or when
/// the look failed.
async fn without_worker(queue: &Queue, rows: &[JobRow], silent_after: Duration) -> anyhow::Result<Option<String>> {
    let workers = match queue.workers().await {
        Ok(workers) => workers,
        Err(error) if error.is_retryable() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let now = queue.now();
    let alive = |w: &&WorkerRow| w.state_at(now, silent_after) == Some(WorkerState::Working);
    let alive: Vec<&WorkerRow> = workers.iter().filter(alive).collect();
    let mut open = rows.iter().filter(|row| !row.state.is_final() && row.state != JobState::Running).peekable();
    if open.peek().is_none() {
        return Ok(None);
    }
    if alive.is_empty() {
        return Ok(Some("no worker is running".to_owned()));
    }
    let taken = |row: &&JobRow| alive.iter().any(|w| w.kinds.contains(&row.kind));
    Ok(open.find(|row| !taken(row)).map(|row| format!("no running worker takes jobs of {}", row.kind)))
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
        return wait_for(&queue, &enqueued, args, wiring::silent_after(config)).await;
    }
    if args.json {
        print::json(&enqueued)?;
        return Ok(Exit::Ok);
    }
    for (job, enqueued) in jobs.iter().zip(&enqueued) {
        let what = if enqueued.new { "enqueued as job" } else { "is waiting or running already, as job" };
        print::out(&format!("{} {what} {}", name(job), enqueued.id));
    }
    let ids = enqueued.iter().map(|e| e.id.clone()).collect();
    // they are in the queue, whatever becomes of this look
    let rows = queue.list(&JobFilter { ids, ..JobFilter::default() }, u32::try_from(enqueued.len())?).await;
    if let Ok(rows) = rows
        && let Ok(Some(why)) = without_worker(&queue, &rows, wiring::silent_after(config)).await
    {
        print::out(&format!("{why}; `meter work` starts one"));
    }
    Ok(Exit::Ok)
}
