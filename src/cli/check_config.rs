//! `meter config check|show`.

use clap::Subcommand;
use jiff::Timestamp;
use jobs::stripe::check::check_unbilled;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::config::{Config, ConfigError, RuleOrigin, Secret};
use crate::exit::Exit;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Action {
    /// List every fault of the file and the environment; warn of prices in the plans of local books
    /// that are billed nowhere
    Check {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the effective configuration, secrets masked
    Show {
        /// Print as JSON; the names of the keys are those of the file
        #[arg(long)]
        json: bool,
    },
}

/// The configuration, with the keys of the file (docs/configuration.md).
#[derive(JsonSchema, Serialize)]
pub(super) struct ShownConfig(Value);

/// A configuration without faults.
#[derive(JsonSchema, Serialize)]
pub(super) struct SoundConfig {
    exports: usize,
    meters: usize,
    shared_buckets: usize,
    /// What may not be meant.
    notes: Vec<String>,
    /// Who receives messages to the operator.
    operator: String,
}

pub(crate) async fn run(action: Action, config: Result<Config, ConfigError>, now: Timestamp) -> anyhow::Result<Exit> {
    let config = config?;
    match action {
        Action::Check { json } => {
            let (exports, meters) = (config.exports.len(), config.meters.len());
            let mut notes: Vec<String> = config.rule_notes().iter().map(ToString::to_string).collect();
            if exports == 0 {
                notes.push("no export is configured, so there is nothing to ingest".to_owned());
            }
            let quota = config.database.rows_quota;
            if wiring::local_path(&config).is_some() && (quota.read.is_some() || quota.written.is_some()) {
                notes.push("database.rows_quota is of no use: the database is a local file, which has no plan".into());
            }
            let of_plans = plans(&config, now).await;
            if json {
                notes.extend(of_plans);
                let (shared_buckets, operator) = (config.shared_buckets.len(), operator(&config).to_owned());
                print::json(&SoundConfig { exports, meters, shared_buckets, notes, operator })?;
                return Ok(Exit::Ok);
            }
            let shared = match config.shared_buckets.len() {
                0 => String::new(),
                shared => format!(", {shared} shared bucket(s)"),
            };
            print::out(&format!("the configuration is sound: {exports} export(s), {meters} meter(s){shared}"));
            for note in notes {
                print::out(&format!("note: {note}"));
            }
            print::out(operator(&config));
            of_plans.iter().for_each(|note| print::out(note));
        }
        Action::Show { json: true } => print::json(&ShownConfig(serde_json::to_value(&config)?))?,
        Action::Show { json: false } => {
            print::out(&format!("# database.token = {:?} (METER_DATABASE__TOKEN)", config.database.token));
            print::out(&format!(
                "# database.copy_token = {:?} (METER_DATABASE__COPY_TOKEN)",
                config.database.copy_token
            ));
            print::out(&format!(
                "# notifications.secret = {:?} (METER_NOTIFICATIONS__SECRET)",
                config.notifications.secret
            ));
            print::out(&format!("# stripe.key = {:?} (METER_STRIPE__KEY)", config.stripe.key));
            print::out(&format!("# http.token = {:?} (METER_HTTP__TOKEN)", config.http.token));
            print::out(&format!("# http.statement_key = {:?} (METER_HTTP__STATEMENT_KEY)", config.http.statement_key));
            print::out(&format!("# operator.slack_url = {:?} (METER_OPERATOR__SLACK_URL)", config.operator.slack_url));
            let url = &config.operator.webhook_url;
            print::out(&format!("# operator.webhook_url = {url:?} (METER_OPERATOR__WEBHOOK_URL)"));
            print::lines(with_origins(&toml::to_string_pretty(&config)?, &config).trim_end());
        }
    }
    Ok(Exit::Ok)
}

/// The configuration as TOML, with the origin of each meter and ignore rule above it.
fn with_origins(toml: &str, config: &Config) -> String {
    let (mut meters, mut ignored) = (0.., 0..);
    let mut out = String::new();
    for line in toml.lines() {
        let origin = match line {
            "[[meters]]" => meters.next().map(|place| config.meter_origin(place)),
            "[[ignore]]" => ignored.next().map(|place| config.ignore_origin(place)),
            _ => None,
        };
        if let Some(origin) = origin {
            out += match origin {
                RuleOrigin::BuiltIn => "# built in\n",
                RuleOrigin::Added(_) => "# from the file\n",
                RuleOrigin::InPlace(_) => "# from the file, in place of the built-in meter of this name\n",
            };
        }
        out += line;
        out += "\n";
    }
    out
}

/// Who receives messages to the operator.
pub(super) fn operator(config: &Config) -> &'static str {
    let is_set = |secret: &Secret| !secret.expose().is_empty();
    match (is_set(&config.operator.slack_url), is_set(&config.operator.webhook_url)) {
        (false, false) => "messages to the operator: off, because METER_OPERATOR__SLACK_URL is not set",
        (true, false) => "messages to the operator: by Slack",
        (false, true) => "messages to the operator: by webhook",
        (true, true) => "messages to the operator: by Slack and by webhook",
    }
}

/// What cannot be right in the plans of local books. The configuration is sound without books, so a
/// database that cannot be read is a note.
async fn plans(config: &Config, now: Timestamp) -> Vec<String> {
    if wiring::local_path(config).is_none_or(|path| !wiring::may_exist(path)) {
        return vec![];
    }
    let read = async { anyhow::Ok(wiring::open_books(config, Open::EXISTING).await?.plans().await?) };
    match read.await {
        Ok(plans) => print::plan_warnings(&check_unbilled(&plans, now)),
        Err(error) => vec![format!("note: the plans were not checked: {error:#}")],
    }
}
