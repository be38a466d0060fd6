//! `meter demo`: a made-up month of AWS bills, booked, delivered again, restated; a budget that is
//! overrun; invoices; and the proof.

mod budget;
mod generate;
mod meeting;
mod shared;
mod step;
mod stripe;
mod tour;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;

const COLUMNS: usize = 80;

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
    /// Only make bills in AWS's own layout
    Generate(generate::Generate),
    /// Only run the made-up Stripe account, for a worker with the key sk_test_demo, until a signal
    Stripe {
        /// Address of the account
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:12111")]
        listen: SocketAddr,
    },
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if args.action.is_none() {
        // as in a terminal of the usual width, so that it can be pasted
        print::set_pipe_columns(COLUMNS);
    }
    match (args.action, args.keep) {
        (Some(Action::Generate(bill)), _) => generate::run(&bill, config, now),
        (Some(Action::Stripe { listen }), _) => stripe::serve(listen).await,
        (None, None) => {
            let folder = tempfile::tempdir().context("a temporary folder is needed")?;
            let (config, exit) = tour::run(folder.path(), now).await?;
            print::out("");
            print::out("Nothing of it is kept. To keep it, and where to look next:");
            print::lines("  meter demo --keep demo");
            look_next(Path::new("demo/meter.toml"), &config);
            Ok(exit)
        }
        (None, Some(folder)) => {
            if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(BadUsage(format!("{} is not empty; name a new folder", folder.display())).into());
            }
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let named = folder.join("meter.toml");
            // an absolute path, so that its configuration works from everywhere
            let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
            let (config, exit) = tour::run(&folder, now).await?;
            std::fs::write(folder.join("meter.toml"), toml::to_string_pretty(&config)?)?;
            print::out("");
            print::out("Where to look next:");
            look_next(&named, &config);
            Ok(exit)
        }
    }
}

/// Commands that show more of what the demo made, and the worker's page.
fn look_next(file: &Path, config: &Config) {
    let file = file.display();
    print::lines(&format!(
        "  meter --config {file} work      # and open http://{}/\n  \
           meter --config {file} status    # or usage, entitlements, discover",
        config.http.listen
    ));
}
