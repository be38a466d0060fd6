//! `meter config check|show`.

use clap::Subcommand;

use crate::config::{Config, ConfigError};
use crate::exit::Exit;
use crate::print;

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Action {
    /// List every fault of the file and the environment
    Check,
    /// Print the effective configuration, secrets masked
    Show,
}

pub(crate) fn run(action: Action, config: Result<Config, ConfigError>) -> anyhow::Result<Exit> {
    let config = config?;
    match action {
        Action::Check => {
            let (exports, meters) = (config.exports.len(), config.meters.len());
            print::out(&format!("the configuration is sound: {exports} export(s), {meters} meter(s)"));
            if exports == 0 {
                print::out("note: no export is configured, so there is nothing to ingest");
            }
        }
        Action::Show => {
            print::out(&format!("# database.token = {:?} (METER_DATABASE__TOKEN)", config.database.token));
            print::out(&format!(
                "# notifications.secret = {:?} (METER_NOTIFICATIONS__SECRET)",
                config.notifications.secret
            ));
            print::out(&format!("# stripe.key = {:?} (METER_STRIPE__KEY)", config.stripe.key));
            print::out(&format!("# http.token = {:?} (METER_HTTP__TOKEN)", config.http.token));
            print::out(toml::to_string_pretty(&config)?.trim_end());
        }
    }
    Ok(Exit::Ok)
}
