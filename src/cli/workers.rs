//! `meter workers`: the worker processes, as of their last heartbeat.

use clap::Args as ClapArgs;
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::Exit;
use crate::format::ago;
use crate::print;
use crate::queue::{WorkerRow, WorkerState};
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
    let silent_after = wiring::silent_after(config);
    let row = |w: WorkerRow| {
        let is_silent = w.state_at(now, silent_after) == Some(WorkerState::Silent);
        let state = if is_silent { format!("{}, but silent", w.state) } else { w.state };
        let load = format!("{} of {}", w.running, w.concurrency);
        vec![w.id, w.version, state, load, ago(w.seen_at, now), ago(w.started_at, now), w.kinds.join(", ")]
    };
    let titles = ["worker (host:process:id)", "1version", "state", "3>running", "seen", "2started", "~kinds"];
    print::table(&titles, workers.into_iter().map(row).collect());
    Ok(Exit::Ok)
}
