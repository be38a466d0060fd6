//! `meter schedule`: the cron lines, and the next and last run of each.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::Exit;
use crate::format::ago;
use crate::print;
use crate::queue::{JobFilter, JobState};
use crate::wiring::{self, Open};
use crate::worker::schedule;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct Row {
    name: &'static str,
    enqueues: &'static str,
    cron: Vec<String>,
    next: Option<Timestamp>,
    /// Whether a tick has passed that nobody turned into jobs: a worker does so at once.
    due: bool,
    /// When the last tick was turned into jobs.
    last: Option<Timestamp>,
    last_job: Option<i64>,
    last_state: Option<JobState>,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let queue = wiring::open_queue(config, Open::EXISTING).await?;
    let last = queue.last_ticks().await?;
    let mut rows = vec![];
    for schedule in schedule::table(config) {
        let filter = JobFilter { origin: Some(format!("schedule {}", schedule.name)), ..JobFilter::default() };
        let job = queue.list(&filter, 1).await?.pop();
        let last = last.get(schedule.name);
        rows.push(Row {
            name: schedule.name,
            enqueues: schedule.about,
            next: schedule.next(now),
            due: schedule.latest(now).is_some_and(|tick| last.is_none_or(|last| last.tick < tick)),
            cron: schedule.lines,
            last: last.map(|last| last.enqueued_at),
            last_job: job.as_ref().map(|j| j.seq),
            last_state: job.map(|j| j.state),
        });
    }
    if args.json {
        print::json(&rows)?;
        return Ok(Exit::Ok);
    }
    let row = |row: Row| {
        let next = match row.next {
            None => "off".to_owned(),
            Some(_) if row.due => "at once, by a worker".to_owned(),
            Some(next) => next.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        };
        let last = row.last.map_or("never".into(), |t| ago(t, now));
        let job = match (row.last_job, row.last_state) {
            (Some(seq), Some(state)) => format!("job {seq}: {state}"),
            _ => String::new(),
        };
        vec![row.name.to_owned(), row.cron.join("; "), next, last, job, row.enqueues.to_owned()]
    };
    let titles = ["schedule", "3cron (UTC)", "next", "4last", "2last job", "1~enqueues"];
    print::table(&titles, rows.into_iter().map(row).collect());
    Ok(Exit::Ok)
}
