//! `meter jobs`: lists, shows, retries, cancels and removes jobs of the queue.

use std::collections::BTreeSet;

use clap::{Args as ClapArgs, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::queue::{FailedRun, JobFilter, JobRow, JobState, Queue};
use crate::wiring::{self, Open};
use crate::worker::Kinds;
use books::units::similar::offer;

/// Failed runs that are shown of a job.
const FAILED_RUNS: u32 = 50;

/// A job as `meter jobs show --json` prints it.
#[derive(JsonSchema, Serialize)]
pub(super) struct JobWithFailures {
    #[serde(flatten)]
    job: JobRow,
    /// Newest first.
    failed_runs: Vec<FailedRun>,
}

/// How many jobs were changed.
#[derive(JsonSchema, Serialize)]
pub(super) struct ChangedJobs {
    jobs: u64,
}

/// How many jobs of a kind are in a state.
#[derive(JsonSchema, Serialize)]
pub(super) struct CountedJobs {
    kind: String,
    state: JobState,
    jobs: i64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List jobs, newest first
    List(List),
    /// Show everything about one job
    Show(Show),
    /// Make dead, cancelled or waiting jobs due now, with all their attempts
    Retry(Which),
    /// Cancel unfinished jobs; a running one stops at the next heartbeat of its worker
    Cancel(Which),
    /// Remove finished jobs
    Purge(Purge),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
    /// Only jobs with a report that needs attention
    #[arg(long)]
    attention: bool,
    /// The most jobs listed
    #[arg(long, value_name = "N", default_value_t = 30)]
    limit: u32,
    /// Only the number of jobs of each kind in each state
    #[arg(long)]
    count: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Show {
    /// Its number or id
    job: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Which {
    /// Numbers or ids
    jobs: Vec<String>,
    /// Of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// In these states: pending, scheduled, running, retrying, done, dead, cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    state: Vec<JobState>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Purge {
    #[command(flatten)]
    which: Which,
    /// Finished longer ago than this: 7d, 12h, 30m
    #[arg(long, value_name = "SPAN", value_parser = super::instant::span)]
    older_than: Option<Span>,
    /// All finished jobs
    #[arg(long)]
    all: bool,
}

impl Which {
    fn filter(&self) -> JobFilter {
        JobFilter {
            ids: self.jobs.clone(),
            kinds: self.kind.clone(),
            states: self.state.clone(),
            ..JobFilter::default()
        }
    }

    /// The filter; an empty one is refused, so that no command changes every job by mistake.
    fn chosen(&self, verb: &str) -> anyhow::Result<JobFilter> {
        if self.jobs.is_empty() && self.kind.is_empty() && self.state.is_empty() {
            let why =
                format!("say which jobs to {verb}: their numbers, --kind or --state (`meter jobs list` shows them)");
            return Err(BadUsage(why).into());
        }
        Ok(self.filter())
    }
}

/// Checks what is named: an unknown kind and a missing job are errors, not empty results. Returns
/// how many jobs are named.
async fn check(queue: &Queue, which: &Which) -> anyhow::Result<u64> {
    let kinds = Kinds::all();
    for kind in which.kind.iter().filter(|kind| kinds.get(kind).is_none()) {
        let of_kind = JobFilter { kinds: vec![kind.clone()], ..JobFilter::default() };
        if queue.list(&of_kind, 1).await?.is_empty() {
            let known = offer(kind, kinds.names());
            return Err(BadUsage(format!("there is no kind of job named `{kind}`; {known}")).into());
        }
    }
    let mut named = BTreeSet::new();
    for job in &which.jobs {
        let Some(found) = queue.get(job).await? else { return Err(no_job(job).into()) };
        named.insert(found.seq);
    }
    Ok(u64::try_from(named.len())?)
}

fn no_job(job: &str) -> BadUsage {
    BadUsage(format!("there is no job {job}; finished jobs are removed after a while (`meter jobs list` shows them)"))
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let queue = wiring::open_queue(config, Open::EXISTING).await?;
    let named = match &action {
        Action::List(List { which, .. }) | Action::Retry(which) | Action::Cancel(which) => check(&queue, which).await?,
        Action::Purge(Purge { which, .. }) => check(&queue, which).await?,
        Action::Show(_) => 0,
    };
    match action {
        Action::List(args) => list(&queue, &args, now).await,
        Action::Show(args) => show(&queue, &args, now).await,
        Action::Retry(which) => {
            let filter = which.chosen("retry")?;
            let changed = queue.retry(&filter).await?;
            acted(
                &which,
                (changed, named),
                "due now",
                "only dead, cancelled and waiting jobs can be retried, and of those with the same key the newest, unless an unfinished job has that key",
            )
        }
        Action::Cancel(which) => {
            let filter = which.chosen("cancel")?;
            let changed = queue.cancel(&filter).await?;
            acted(&which, (changed, named), "cancelled, or stopping", "finished jobs cannot be cancelled")
        }
        Action::Purge(args) => purge(&queue, &args, named, now).await,
    }
}

fn acted(which: &Which, (changed, named): (u64, u64), done: &str, otherwise: &str) -> anyhow::Result<Exit> {
    if which.json {
        print::json(&ChangedJobs { jobs: changed })?;
    } else {
        print::out(&format!("{changed} job(s) {done}"));
    }
    if changed >= named {
        return Ok(Exit::Ok);
    }
    match changed {
        0 => print::err(format_args!("nothing was changed: {otherwise}")),
        _ => print::err(format_args!("{} of {named} jobs stay as they were: {otherwise}", named - changed)),
    }
    Ok(Exit::Failed)
}

async fn list(queue: &Queue, args: &List, now: Timestamp) -> anyhow::Result<Exit> {
    if args.count {
        let counts = queue.counts().await?;
        let count = |((kind, state), jobs)| CountedJobs { kind, state, jobs };
        let rows: Vec<CountedJobs> = counts.into_iter().map(count).collect();
        if args.which.json {
            print::json(&rows)?;
        } else {
            let row = |of: &CountedJobs| vec![of.kind.clone(), of.state.to_string(), print::count(of.jobs)];
            print::table(&["kind", "state", ">jobs"], rows.iter().map(row).collect());
        }
        return Ok(Exit::Ok);
    }
    let filter = JobFilter { attention: args.attention, ..args.which.filter() };
    let jobs = queue.list(&filter, args.limit).await?;
    if args.which.json {
        print::json(&jobs)?;
        return Ok(Exit::Ok);
    }
    if jobs.is_empty() {
        print::out("there are no such jobs");
        return Ok(Exit::Ok);
    }
    let row = |j: &JobRow| {
        let attempts = format!("{} of {}", j.attempts, j.max_attempts);
        vec![j.seq.to_string(), what(j), state(j), attempts, when(j, now), j.origin.clone(), first_line(j)]
    };
    let titles = [">job", "what", "state", "2>attempts", "when", "1from", "~result"];
    print::table(&titles, jobs.iter().map(row).collect());
    Ok(Exit::Ok)
}

/// The key of a job, or its kind.
fn what(job: &JobRow) -> String {
    job.key.clone().unwrap_or_else(|| job.kind.clone())
}

fn state(job: &JobRow) -> String {
    if job.attention { format!("{}, needs attention", job.state) } else { job.state.to_string() }
}

/// What the report says of itself.
fn sentence(job: &JobRow) -> &str {
    job.report.as_ref().and_then(|report| report.get("sentence")?.as_str()).unwrap_or_default()
}

/// What the last run did, or why it failed.
fn first_line(job: &JobRow) -> String {
    let reason = job.reason.as_deref().filter(|_| job.state != JobState::Done);
    let line = reason.unwrap_or(sentence(job)).lines().next().unwrap_or_default();
    let short: String = line.chars().take(100).collect();
    if short.len() < line.len() { format!("{short}…") } else { short }
}

/// The time of a job's last change, or of its next run.
fn when(job: &JobRow, now: Timestamp) -> String {
    match (job.run_at, job.finished_at, job.started_at.filter(|_| job.state == JobState::Running)) {
        (Some(due), ..) if due > now => format!("in {}", print::span(due.duration_since(now))),
        (Some(_), ..) => "now".into(),
        (_, Some(finished), _) => format!("{} ago", print::span(now.duration_since(finished))),
        (_, _, Some(started)) => format!("for {}", print::span(now.duration_since(started))),
        _ => format!("since {}", print::span(now.duration_since(job.enqueued_at))),
    }
}

async fn show(queue: &Queue, args: &Show, now: Timestamp) -> anyhow::Result<Exit> {
    let Some(job) = queue.get(&args.job).await? else {
        return Err(no_job(&args.job).into());
    };
    let failed = queue.failed_runs(job.seq, FAILED_RUNS).await?;
    if args.json {
        print::json(&JobWithFailures { job, failed_runs: failed })?;
        return Ok(Exit::Ok);
    }
    let instant = |t: Option<Timestamp>| match t {
        Some(t) if t <= now => {
            format!("{} ({} ago)", t.strftime("%Y-%m-%d %H:%M:%S UTC"), print::span(now.duration_since(t)))
        }
        Some(t) => format!("{} (in {})", t.strftime("%Y-%m-%d %H:%M:%S UTC"), print::span(t.duration_since(now))),
        None => String::new(),
    };
    let lines = [
        ("job", format!("{} ({})", job.seq, job.id)),
        ("kind", job.kind.clone()),
        ("state", state(&job)),
        ("attempts", format!("{} of {}", job.attempts, job.max_attempts)),
        ("result", sentence(&job).to_owned()),
        ("why", job.reason.clone().unwrap_or_default()),
        ("worker", job.worker.clone().unwrap_or_default()),
        ("due", instant(job.run_at)),
        ("enqueued", format!("{} by {}", instant(Some(job.enqueued_at)), job.origin)),
        ("started", instant(job.started_at)),
        ("finished", instant(job.finished_at)),
        ("priority", job.priority.to_string()),
        ("key", job.key.clone().unwrap_or_default()),
        ("lane", job.lane.clone().unwrap_or_default()),
        ("waits", if job.awaits { "for its children".into() } else { String::new() }),
        ("payload", serde_json::to_string(&job.payload)?),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        print::out(&format!("{name:<9} {value}"));
    }
    for run in &failed {
        let when = instant(Some(run.failed_at));
        print::out(&format!("failed    attempt {} at {when} on {}: {}", run.attempt, run.worker, run.reason));
    }
    if let Some(report) = &job.report {
        print::out("report");
        print::json(report)?;
    }
    Ok(Exit::Ok)
}

async fn purge(queue: &Queue, args: &Purge, named: u64, now: Timestamp) -> anyhow::Result<Exit> {
    let open = args.which.state.iter().find(|s| !s.is_final());
    if let Some(state) = open {
        return Err(BadUsage(format!("{state} jobs are not finished; cancel them first")).into());
    }
    let mut filter =
        if args.all || args.older_than.is_some() { args.which.filter() } else { args.which.chosen("purge")? };
    if let Some(span) = args.older_than {
        let before =
            now.to_zoned(TimeZone::UTC).checked_sub(span).map_err(|e| BadUsage(format!("--older-than: {e}")))?;
        filter.finished_before = Some(before.timestamp());
        if before.timestamp() > now {
            return Err(BadUsage("--older-than is a span of time like 7d".into()).into());
        }
    }
    let removed = queue.purge(&filter).await?;
    acted(&args.which, (removed, named), "removed", "only finished jobs can be removed")
}
