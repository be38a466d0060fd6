//! `meter workers`: the worker processes, as of their last heartbeat.

use std::time::Duration;

use clap::Args as ClapArgs;
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::Exit;
use crate::format::ago;
use crate::print;
use crate::queue::WorkerRow;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Also stopped workers
    #[arg(long)]
    all: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let queue = wiring::open_queue(config, Open::EXISTING).await?;
    let mut workers = queue.workers().await?;
    workers.retain(|w| args.all || w.state != "stopped");
    if args.json {
        print::json(&workers)?;
        return Ok(Exit::Ok);
    }
    if workers.is_empty() {
        print::out("no worker is running; `meter work` starts one");
        return Ok(Exit::Ok);
    }
    // an idle worker records every half a minute that it is alive
    let lease = Duration::from_secs(u64::from(config.queue.lease_seconds).max(60));
    let row = |w: WorkerRow| {
        let silent = Duration::try_from(now.duration_since(w.seen_at)).unwrap_or_default();
        let state = if w.state != "stopped" && silent > lease { format!("{}, but silent", w.state) } else { w.state };
        let load = format!("{} of {}", w.running, w.concurrency);
        vec![w.id, w.version, state, load, ago(w.seen_at, now), ago(w.started_at, now), w.kinds.join(", ")]
    };
    let titles = ["worker (host:process:id)", "1version", "state", "3>running", "seen", "2started", "~kinds"];
    print::table(&titles, workers.into_iter().map(row).collect());
    Ok(Exit::Ok)
}
