//! `meter enqueue`: one job, into the queue.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{BadUsage, Exit, print, wait};
use crate::config::Config;
use crate::queue::NewJob;
use crate::wiring::{self, Open};
use crate::worker::{Kind, Kinds, ValidatedPayload};

/// Which job.
#[derive(Debug, ClapArgs)]
pub(crate) struct What {
    /// Kind of the job: ingest_cur, roll_periods, enforce_budgets, deliver_notifications,
    /// sync_stripe, push_stripe, reconcile_stripe, roll_counters, verify_books, probe
    pub(super) kind: String,
    /// Its payload, field by field: export=main month=2026-03
    #[arg(value_name = "FIELD=VALUE")]
    pub(super) fields: Vec<String>,
    /// Its payload as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "fields")]
    pub(super) payload: Option<String>,
}

/// Which job, and when.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    what: What,
    /// Not before this instant (2026-03-01T00:00:00Z)
    #[arg(long, value_name = "INSTANT")]
    at: Option<Timestamp>,
    /// The higher, the sooner; -100 to 100
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-100..=100))]
    priority: i64,
    /// Unique key instead of the kind's own: while a job with it waits or runs, no second one is
    /// enqueued
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Wait for its end, and end as it does
    #[arg(long)]
    wait: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// The kind that a name means.
pub(super) fn kind_of(kinds: &Kinds, name: &str) -> anyhow::Result<Kind> {
    let list = || {
        let line = |k: &Kind| format!("\n  {:<14} {}", k.name, k.about);
        kinds.iter().map(line).collect::<String>()
    };
    // kinds are commands, too, and commands have dashes
    match kinds.get(&name.replace('-', "_")) {
        Some(kind) => Ok(kind.clone()),
        None => Err(BadUsage(format!("there is no kind of job named `{name}`; there are:{}", list())).into()),
    }
}

/// The payload that the command line describes, as the kind itself would write it.
pub(super) fn payload(kind: &Kind, what: &What) -> anyhow::Result<ValidatedPayload> {
    let bad = |why: String| BadUsage(format!("{}: {why}", kind.name));
    if let Some(json) = &what.payload {
        return Ok(kind.check(json).map_err(bad)?);
    }
    let mut fields: Vec<(&str, Value, Value)> = vec![];
    for field in &what.fields {
        let (name, text) = field.split_once('=').ok_or_else(|| bad(format!("`{field}` is not FIELD=VALUE")))?;
        if fields.iter().any(|(known, ..)| *known == name) {
            return Err(bad(format!("`{name}` is given twice")).into());
        }
        let text_value = Value::String(text.to_owned());
        let value = serde_json::from_str(text).unwrap_or_else(|_| text_value.clone());
        fields.push((name, value, text_value));
    }
    // `name=7` may mean the number or the text; the type decides, field by field
    let open: Vec<usize> = (0..fields.len()).filter(|i| fields[*i].1 != fields[*i].2).collect();
    let mut first = None;
    for choice in 0_u32..1 << open.len().min(8) {
        let as_text = |i: usize| open.iter().position(|o| *o == i).is_some_and(|bit| choice >> bit & 1 == 1);
        let values = fields.iter().enumerate();
        let payload: Map<String, Value> = values
            .map(|(i, (name, value, text))| ((*name).to_owned(), if as_text(i) { text.clone() } else { value.clone() }))
            .collect();
        match kind.check(&Value::Object(payload).to_string()) {
            Ok(checked) => return Ok(checked),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(bad(first.unwrap_or_default()).into())
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let kind = kind_of(&Kinds::all(), &args.what.kind)?;
    let ValidatedPayload { payload, key } = payload(&kind, &args.what)?;
    let job = NewJob::new(kind.name, payload, kind.max_attempts, "enqueue");
    let job = NewJob { key: args.key.or(key), priority: args.priority, run_at: args.at, ..job };
    hand_in(&[job], |job| &job.kind, config, now, (args.wait, args.json)).await
}

/// Enqueues jobs and says what became of that, each by its name, or waits for their end.
pub(super) async fn hand_in(
    jobs: &[NewJob],
    name: fn(&NewJob) -> &str,
    config: &Config,
    now: Timestamp,
    (wait, json): (bool, bool),
) -> anyhow::Result<Exit> {
    wiring::open_books(config, Open::CREATE).await?.migrate(now).await?;
    let queue = wiring::open_queue(config, Open::CREATE).await?;
    let enqueued = queue.enqueue(jobs).await?;
    if wait {
        return wait::wait_for(&queue, &enqueued, json).await;
    }
    if json {
        print::json(&enqueued)?;
        return Ok(Exit::Ok);
    }
    for (job, enqueued) in jobs.iter().zip(&enqueued) {
        let what = if enqueued.new { "enqueued as job" } else { "is waiting or running already, as job" };
        print::out(&format!("{} {what} {}", name(job), enqueued.id));
    }
    Ok(Exit::Ok)
}
