//! `meter health`: asks the worker on this machine whether it can work; for containers and
//! supervisors.

use std::net::SocketAddr;

use clap::Args as ClapArgs;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::http;
use crate::print;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Where the worker listens [default: http.listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What a worker answers.
#[derive(JsonSchema, Serialize)]
pub(super) struct WorkerHealth {
    /// Whether it can work.
    ready: bool,
    /// Its answer, line by line.
    answer: Vec<String>,
}

pub(crate) async fn run(args: Args, config: &Config) -> anyhow::Result<Exit> {
    let nowhere = || BadUsage("http.listen is empty, so no worker answers; name one with --listen".into());
    let address = args.listen.or(config.http.address()).ok_or_else(nowhere)?;
    let (ready, answer) = http::ask(address).await?;
    if args.json {
        print::json(&WorkerHealth { ready, answer: answer.lines().map(str::to_owned).collect() })?;
    } else {
        print::lines(&answer);
    }
    Ok(if ready { Exit::Ok } else { Exit::Failed })
}
