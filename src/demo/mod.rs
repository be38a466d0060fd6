//! `meter demo`: a made-up month of AWS bills, booked, delivered again, restated; a budget that is
//! overrun; and the proof.

mod generate;
mod meeting;
mod shared;
mod step;
mod stripe;
mod tour;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;

#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Keep everything in this new or empty folder [default: a temporary one, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Only make a bill in AWS's own layout
    Generate(generate::Generate),
    /// Only run the made-up Stripe account, for a worker with the key sk_test_demo, until a signal
    Stripe {
        /// Address of the account
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:12111")]
        listen: SocketAddr,
    },
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match (args.action, args.keep) {
        (Some(Action::Generate(bill)), _) => generate::run(&bill, config, now),
        (Some(Action::Stripe { listen }), _) => stripe::serve(listen).await,
        (None, None) => {
            let folder = tempfile::tempdir().context("a temporary folder is needed")?;
            let (_, exit) = tour::run(folder.path(), now).await?;
            print::out("");
            print::out("`meter demo --keep FOLDER` keeps the bills and the books, for further commands.");
            Ok(exit)
        }
        (None, Some(folder)) => {
            if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(BadUsage(format!("{} is not empty; name a new folder", folder.display())).into());
            }
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            // an absolute path, so that its configuration works from everywhere
            let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
            let (config, exit) = tour::run(&folder, now).await?;
            let file = folder.join("meter.toml");
            std::fs::write(&file, toml::to_string_pretty(&config)?)?;
            print::out("");
            print::out(&format!(
                "Go on with: meter --config {} work|status|usage|versions|discover|entitlements|turn|notifications list",
                file.display()
            ));
            Ok(exit)
        }
    }
}
