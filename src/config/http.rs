//! The sections `http` and `log`: what the operator sees.

use books::units::similar::offer;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::raw::Step;
use super::secret::Secret;

/// The variable of the token that acting on jobs over HTTP needs.
pub(super) const TOKEN_VARIABLE: &str = "METER_HTTP__TOKEN";
/// The variable of the key that signs links to statements.
pub(super) const STATEMENT_KEY_VARIABLE: &str = "METER_HTTP__STATEMENT_KEY";
/// A token that can be guessed is none.
const TOKEN_BYTES: usize = 16;

/// What `meter work` serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port; empty = nothing is served.
    pub listen: String,
    /// Who may read the status page and the jobs. Metrics and health are for whoever reaches the
    /// port.
    pub pages: Pages,
    /// Names by which browsers may ask for pages, besides those of this machine; `*` = any.
    pub hosts: Vec<String>,
    /// How often the gauges of the books are read at most.
    pub snapshot_seconds: u16,
    /// What retry and cancel need; from the environment only.
    #[serde(skip)]
    pub token: Secret,
    /// What signs links to statements; from the environment only.
    #[serde(skip)]
    pub statement_key: Secret,
}

/// Who may read pages that name customers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// Requests from this machine to a name of this machine.
    #[default]
    Localhost,
    /// Whoever reaches the port: something in front of it asks who they are.
    Anyone,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9464".into(),
            pages: Pages::default(),
            hosts: vec![],
            snapshot_seconds: 15,
            token: Secret::default(),
            statement_key: Secret::default(),
        }
    }
}

impl HttpConfig {
    /// Where to listen, if anywhere.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    /// What is wrong, and where. The token is not repeated.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let key = |name: &str| vec![Step::Key("http".into()), Step::Key(name.into())];
        let mut faults = vec![];
        if !self.listen.is_empty() && self.address().is_none() {
            faults.push((
                key("listen"),
                "it is no address and port, such as 127.0.0.1:9464; empty serves nothing".into(),
            ));
        }
        if !(1..=900).contains(&self.snapshot_seconds) {
            faults.push((key("snapshot_seconds"), "1 to 900 seconds".into()));
        }
        let secrets =
            [("token", &self.token, TOKEN_VARIABLE), ("statement_key", &self.statement_key, STATEMENT_KEY_VARIABLE)];
        for (name, secret, variable) in secrets {
            if (1..TOKEN_BYTES).contains(&secret.expose().len()) {
                faults.push((key(name), format!("{variable} has fewer than {TOKEN_BYTES} characters")));
            }
        }
        faults
    }
}

/// How runs are logged, to standard error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives of tracing's `EnvFilter`; `auto` is
    /// `info` for `meter work` and `warn` for everything else.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "auto".into(), format: LogFormat::Text }
    }
}

impl LogConfig {
    /// What is wrong with a level, or with a list of `target=level`.
    pub(crate) fn level_fault(text: &str) -> Option<String> {
        const LEVELS: [&str; 7] = ["auto", "error", "warn", "info", "debug", "trace", "off"];
        let level = |part: &str| part.rsplit('=').next().unwrap_or(part).trim().to_owned();
        let wrong = text.split(',').map(level).find(|level| !LEVELS.contains(&level.to_ascii_lowercase().as_str()));
        match wrong {
            Some(level) => Some(format!("`{level}` is no log level; {}", offer(&level, LEVELS))),
            None if tracing_subscriber::EnvFilter::try_new(text).is_err() => {
                Some("it is no list of levels; write info, or target=level,target=level".to_owned())
            }
            None => None,
        }
    }
}
