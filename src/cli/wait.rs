//! Waiting for jobs: how far they are, and in the end what they say themselves.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Exit, print};
use crate::format::report_summary;
use crate::queue::{Enqueued, JobFilter, JobRow, JobState, Queue, WorkerRow};

const LOOK: Duration = Duration::from_millis(200);
/// After so long without anybody who works, it is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until all jobs are finished; ends with the worst of their results. A retry is waited for
/// too. Interrupting it changes nothing about the jobs.
pub(super) async fn wait_for(queue: &Queue, enqueued: &[Enqueued], json: bool) -> anyhow::Result<Exit> {
    let filter = JobFilter { ids: enqueued.iter().map(|e| e.id.clone()).collect(), ..JobFilter::default() };
    let count = u32::try_from(enqueued.len())?;
    let bar = bar(enqueued.len());
    let mut waited = Duration::ZERO;
    let mut rows = loop {
        let rows = match queue.list(&filter, count).await {
            Ok(rows) => rows,
            Err(error) if error.is_retryable() => {
                eprintln!("meter: still waiting: {error}");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let finished = rows.iter().filter(|r| r.state.is_final()).count();
        if let Some(bar) = &bar {
            bar.set_position(u64::try_from(finished)?);
            let running: Vec<String> = rows.iter().filter(|r| !r.state.is_final()).map(said).collect();
            bar.set_message(running.join(", "));
        }
        if finished == rows.len() {
            break rows;
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
        let alive = |w: &WorkerRow| w.state == "working" && queue.now().duration_since(w.seen_at).as_secs() < 60;
        if waited == PATIENCE && !queue.workers().await?.iter().any(alive) {
            eprintln!("meter: no worker is running; start one with `meter work`. Still waiting.");
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    rows.sort_by_key(|r| r.seq);
    if json {
        print::json(&rows)?;
    } else {
        rows.iter().for_each(|row| print::out(&said(row)));
    }
    if rows.len() < enqueued.len() {
        eprintln!("meter: {} of the jobs were removed while they were waited for", enqueued.len() - rows.len());
    }
    let wrong = rows.len() < enqueued.len() || rows.iter().any(|r| r.state != JobState::Done);
    let held = rows.iter().any(|r| r.attention);
    Ok(match (wrong, held) {
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

/// A job in one line.
pub(super) fn said(row: &JobRow) -> String {
    let what = row.key.clone().unwrap_or_else(|| format!("{} {}", row.kind, row.payload));
    let head = format!("job {} {what}: {}", row.seq, row.state);
    match (row.state, &row.report, &row.reason) {
        (JobState::Done, Some(report), _) => format!("{head}; {}", report_summary(&report.to_string())),
        (JobState::Done, None, _) => head,
        (_, _, Some(reason)) => format!("{head}: {reason}"),
        _ => head,
    }
}
