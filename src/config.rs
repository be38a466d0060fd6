//! The configuration: one TOML file and environment variables, which override it; read and checked
//! once.
//!
//! `METER_DATABASE__URL` stands for `database.url`: prefix, then the path with `__` between its
//! parts. Secrets are taken from the environment only. Every fault is found in one go and named
//! with its file and line, or its variable.

mod cost_meters;
mod database;
mod display_names;
mod enforce;
mod http;
mod measure;
mod operator;
mod queue;
mod raw;
mod rules;
mod secret;
mod shared_buckets;
mod stripe;
mod value_faults;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use books::limits::plan::TURN;
use books::units::quantity::Quantity;
use jobs::context::Format;
use jobs::context::{HoldPolicy, ReadLimits};
use serde::{Deserialize, Serialize};

pub use self::cost_meters::CostMeterConfig;
pub(crate) use self::database::{COPY_TOKEN_VARIABLE, TOKEN_VARIABLE, database_fault};
pub use self::database::{DatabaseConfig, RowsQuota};
pub use self::enforce::{EnforceConfig, NotificationsConfig};
pub use self::http::{HttpConfig, LogConfig, LogFormat, Pages};
pub use self::measure::MeasureConfig;
pub use self::operator::OperatorConfig;
pub use self::queue::{QueueConfig, ScheduleConfig, cron};
use self::raw::SecretKey;
pub use self::raw::{ConfigError, DEFAULT_FILE};
pub(crate) use self::raw::{Raw, Step, in_order};
pub use self::rules::{IgnoreConfig, MeterConfig, RuleOrigin, RulesConfig};
pub use self::secret::Secret;
pub use self::shared_buckets::{ReportConfig, SharedBucketConfig};
pub(crate) use self::stripe::KEY_VARIABLE;
pub use self::stripe::{StripeConfig, StripeMeterConfig};

/// The key of the customer tag, when none is configured.
const TAG_KEY: &str = "chitchatter-customer-id";

/// Secrets come from the environment only.
const SECRETS: [SecretKey; 8] = [
    ("database", "token", database::TOKEN_VARIABLE),
    ("database", "copy_token", database::COPY_TOKEN_VARIABLE),
    ("notifications", "secret", enforce::SECRET_VARIABLE),
    ("stripe", "key", stripe::KEY_VARIABLE),
    ("http", "token", http::TOKEN_VARIABLE),
    ("http", "statement_key", http::STATEMENT_KEY_VARIABLE),
    ("operator", "slack_url", operator::SLACK_VARIABLE),
    ("operator", "webhook_url", operator::WEBHOOK_VARIABLE),
];

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub database: DatabaseConfig,
    /// Key of the cost allocation tag that holds the customer's id; none when `tag_keys` has keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_key: Option<String>,
    /// Several such keys, in order; the first one with a value on a line counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tag_keys: Vec<String>,
    /// How many months before the current one are read on each run.
    pub lookback_months: u8,
    /// Product codes: a meter or an ignore rule must claim each of their lines. `*` stands for any
    /// characters.
    pub watched_products: Vec<String>,
    pub exports: Vec<ExportConfig>,
    /// How the meters and ignore rules of the file go together with the built-in ones.
    pub rules: RulesConfig,
    /// Those that hold: the built-in ones and those of the file.
    pub meters: Vec<MeterConfig>,
    /// What AWS charges, summed for each customer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cost_meters: Vec<CostMeterConfig>,
    /// Known lines of watched products that no meter needs: built in and of the file.
    pub ignore: Vec<IgnoreConfig>,
    /// When a version is put on hold.
    pub guard: GuardConfig,
    /// How a bill is read.
    pub read: ReadConfig,
    pub enforce: EnforceConfig,
    /// What the web backend measures.
    pub measure: MeasureConfig,
    /// Buckets that all customers share.
    pub shared_buckets: Vec<SharedBucketConfig>,
    /// Notifications to the web backend.
    pub notifications: NotificationsConfig,
    /// Messages to the operator.
    pub operator: OperatorConfig,
    pub stripe: StripeConfig,
    pub queue: QueueConfig,
    pub schedule: ScheduleConfig,
    /// What `meter work` serves.
    pub http: HttpConfig,
    pub log: LogConfig,
}

/// An export of bills.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Its name on the command line and in the books.
    pub name: String,
    /// `s3://bucket/prefix`, `file:///folder` or a path.
    pub location: String,
    /// `auto`, `legacy` or `cur2`.
    #[serde(default)]
    pub format: FormatConfig,
    /// Label of the payer account; books are kept by it.
    #[serde(default = "default_payer")]
    pub payer: String,
    /// AWS region of the bucket; the SDK's own chain decides when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of another S3 server than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Kind of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FormatConfig {
    #[default]
    Auto,
    /// Cost and Usage Report of the `cur` API.
    Legacy,
    /// CUR 2.0 of Data Exports.
    Cur2,
}

impl FormatConfig {
    /// The format; `None` = detect it.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Auto => None,
            Self::Legacy => Some(Format::Legacy),
            Self::Cur2 => Some(Format::Cur2),
        }
    }
}

/// When a version is put on hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// Hold when a meter's month falls by more than this share.
    pub month_fall_percent: u32,
    /// Hold when a past, booked day changes by more than this share; left out = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_change_percent: Option<u32>,
    /// Hold when the days before the newest ones of a booked version grow by more than this share.
    pub past_growth_percent: u32,
    /// Changes of at most this many units never hold.
    pub floor: Quantity,
    pub accept_restatements: bool,
    /// Book lines of usage during more than a day on their first day without asking.
    pub accept_long_lines: bool,
    /// Leave out lines of unknown line types without asking.
    pub allow_unknown_line_types: bool,
    /// Book faulty lines by the rule for each without asking.
    pub accept_faulty_lines: bool,
}

/// How a bill is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadConfig {
    /// Row groups that are decoded at once; 0 = one for each core.
    pub parallel: u16,
    /// MiB for what is fetched of a bill, and for decoding it.
    pub memory_mib: u16,
    /// In a worker, a bill of more MiB than this is read in parts by several jobs; 0 = never.
    pub fan_out_mib: u32,
}

/// Whether a text is the address of a server, without anything that could be secret.
fn is_plain_address(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()) && is_plain
    })
}

const ADDRESS_FAULT: &str = "it is no address of a server; write https://host or https://host:port, without a user, a \
                             password or a query. Keys come from the environment";

fn default_payer() -> String {
    "default".into()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: DatabaseConfig::default(),
            tag_key: None,
            tag_keys: vec![],
            lookback_months: 1,
            watched_products: vec!["AmazonChime*".into(), "AmazonS3".into()],
            exports: vec![],
            rules: RulesConfig::default(),
            meters: rules::built_in_meters(),
            cost_meters: vec![],
            ignore: rules::built_in_ignore(),
            guard: GuardConfig::default(),
            read: ReadConfig::default(),
            enforce: EnforceConfig::default(),
            measure: MeasureConfig::default(),
            shared_buckets: vec![],
            notifications: NotificationsConfig::default(),
            operator: OperatorConfig::default(),
            stripe: StripeConfig::default(),
            queue: QueueConfig::default(),
            schedule: ScheduleConfig::default(),
            http: HttpConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for GuardConfig {
    fn default() -> Self {
        let policy = HoldPolicy::default();
        Self {
            month_fall_percent: policy.month_fall_percent,
            day_change_percent: None,
            past_growth_percent: policy.past_growth_percent,
            floor: policy.floor,
            accept_restatements: false,
            accept_long_lines: false,
            allow_unknown_line_types: false,
            accept_faulty_lines: false,
        }
    }
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self { parallel: 0, memory_mib: 48, fan_out_mib: 256 }
    }
}

impl Config {
    /// Reads `file` (or `meter.toml`, if it exists) and `variables`, which override it.
    pub fn load(file: Option<&Path>, variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut faults = vec![];
        let (mut raw, secrets) = Raw::read(file, variables, SECRETS, &mut faults)?;
        let mut config: Self = raw.extract(&mut faults);
        for (secret, (.., variable)) in secrets.iter().zip(SECRETS) {
            if secret.trim() != secret || secret.contains(char::is_control) {
                faults.push(format!(
                    "variable {variable}: it has a blank or a line end at an end, or a control character"
                ));
            }
        }
        let [token, copy_token, secret, key, acting, links, slack, webhook] = secrets;
        config.database.token = Secret::new(token);
        config.database.copy_token = Secret::new(copy_token);
        config.notifications.secret = Secret::new(secret);
        config.stripe.key = Secret::new(key);
        config.http.token = Secret::new(acting);
        config.http.statement_key = Secret::new(links);
        config.operator.slack_url = Secret::new(slack);
        config.operator.webhook_url = Secret::new(webhook);
        let mut later = vec![];
        config.extend_built_in(&raw, &mut later);
        config.check(&raw, &mut later);
        faults.extend(later.into_iter().filter_map(|fault| raw.said(fault)));
        if config.tag_keys.is_empty() {
            config.tag_key.get_or_insert_with(|| TAG_KEY.into());
        }
        in_order(&mut faults);
        if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
    }

    /// Checks that need several values.
    fn check(&self, raw: &Raw, faults: &mut Vec<String>) {
        let key = |text: &str| Step::Key(text.into());
        let mut names = BTreeMap::new();
        let mut payers = BTreeMap::new();
        for (i, export) in self.exports.iter().enumerate() {
            let mut fault = |field: &str, why: String| {
                let path = [key("exports"), Step::Place(i), key(field)];
                faults.push(raw.place(&path, &why));
            };
            if export.name.is_empty() {
                fault("name", "the name is empty".into());
            }
            if let Some(other) = names.insert(&export.name, i) {
                fault("name", format!("exports[{other}] has the same name"));
            }
            if export.payer.is_empty() {
                fault("payer", "the payer label is empty".into());
            }
            if let Some(other) = payers.insert(&export.payer, &export.name) {
                let payer = &export.payer;
                fault(
                    "payer",
                    format!(
                        "export `{other}` has the payer `{payer}` too; two exports of one account would count everything twice. Give exports of different accounts different payer labels"
                    ),
                );
            }
            if let Err(why) = Location::parse(&export.location) {
                fault("location", why);
            }
            if export.endpoint.as_deref().is_some_and(|endpoint| !is_plain_address(endpoint)) {
                fault("endpoint", ADDRESS_FAULT.to_owned());
            }
            if let Some(why) =
                export.region.as_deref().and_then(|region| Self::region_fault(region, export.endpoint.as_deref()))
            {
                fault("region", why);
            }
        }
        let billable: BTreeSet<&str> = self.meters.iter().map(|m| m.name.as_str()).collect();
        let stripe = self.stripe.faults(&billable);
        let (queue, schedule, http) = (self.queue.faults(), self.schedule.faults(), self.http.faults());
        let sections = [
            self.database.faults(),
            queue,
            schedule,
            self.enforce.faults(),
            self.measure.faults(),
            self.shared_bucket_faults(),
            self.notifications.faults(),
            self.operator.faults(),
            self.display_name_faults(),
            stripe,
            http,
        ];
        faults.extend(sections.into_iter().flatten().map(|(path, why)| raw.place(&path, &why)));
        for (i, meter) in self.meters.iter().enumerate().filter(|(_, m)| m.name == TURN) {
            let why = format!("`{}` is the counter of the web backend; a bill's meter needs another name", meter.name);
            faults.push(raw.place(&self.meter_path(i, "name"), &why));
        }
        if self.tag_key.is_some() && !self.tag_keys.is_empty() {
            let why =
                "`tag_key` is set, too; write all keys into `tag_keys`, the first one first, and remove `tag_key`";
            faults.push(raw.place(&[key("tag_keys")], why));
        }
        if let Err(found) = self.rule_set() {
            faults.extend(found.into_iter().map(|(path, why)| raw.place(&path, &why)));
        }
        for (field, percent) in [
            ("month_fall_percent", Some(self.guard.month_fall_percent)),
            ("day_change_percent", self.guard.day_change_percent),
            ("past_growth_percent", Some(self.guard.past_growth_percent)),
        ] {
            if percent.is_some_and(|p| p > 1000) {
                faults.push(raw.place(&[key("guard"), key(field)], "a share is 0 to 1000 percent"));
            }
        }
        if self.guard.floor < Quantity::ZERO {
            faults.push(raw.place(&[key("guard"), key("floor")], "it cannot be negative"));
        }
        if self.read.memory_mib < 8 {
            faults.push(raw.place(&[key("read"), key("memory_mib")], "at least 8 MiB are needed"));
        }
        if self.lookback_months > 36 {
            faults.push(raw.place(&[key("lookback_months")], "at most 36 months"));
        }
        if let Some(why) = LogConfig::level_fault(&self.log.level) {
            faults.push(raw.place(&[key("log"), key("level")], &why));
        }
    }

    /// The keys of the customer tag, in order.
    pub fn tag_keys(&self) -> Vec<String> {
        let one = || vec![self.tag_key.clone().unwrap_or_else(|| TAG_KEY.into())];
        if self.tag_keys.is_empty() { one() } else { self.tag_keys.clone() }
    }

    /// When a version is put on hold.
    pub fn hold_policy(&self) -> HoldPolicy {
        HoldPolicy {
            allow_unknown_line_types: self.guard.allow_unknown_line_types,
            accept_restatements: self.guard.accept_restatements,
            accept_faulty_lines: self.guard.accept_faulty_lines,
            month_fall_percent: self.guard.month_fall_percent,
            day_change_percent: self.guard.day_change_percent,
            past_growth_percent: self.guard.past_growth_percent,
            accept_long_lines: self.guard.accept_long_lines,
            floor: self.guard.floor,
        }
    }

    /// How much of a bill one command reads at once.
    pub fn read_limits(&self) -> ReadLimits {
        let default = ReadLimits::default();
        ReadLimits {
            parallel: if self.read.parallel == 0 { default.parallel } else { usize::from(self.read.parallel) },
            memory_bytes: u64::from(self.read.memory_mib) << 20,
            fan_out_bytes: None,
        }
    }

    /// The same for a worker, which can leave parts of a large bill to other workers.
    pub fn worker_read_limits(&self) -> ReadLimits {
        let fan_out = self.read.fan_out_mib;
        ReadLimits { fan_out_bytes: (fan_out > 0).then(|| u64::from(fan_out) << 20), ..self.read_limits() }
    }
}

/// Where an export lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Bucket and prefix; the prefix is empty or ends with `/`.
    Bucket(String, String),
    Folder(PathBuf),
}

/// Whether S3 could have a bucket of this name.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    name.len() >= 3 && name.bytes().all(known)
}

impl Location {
    /// Reads `s3://bucket/prefix`, `file:///folder` or a path.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.contains('@') {
                return Err(
                    "keys do not stand in an address; write s3://bucket/prefix. They come from the environment \
                            (AWS_ACCESS_KEY_ID …)"
                        .into(),
                );
            }
            if !is_bucket_name(bucket) {
                return Err(format!("`{bucket}` is no bucket name; write s3://bucket/prefix"));
            }
            let prefix = prefix.trim_end_matches('/');
            return Ok(Self::Bucket(
                bucket.into(),
                if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            ));
        }
        let path = match text.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => return Err("a file URL has three slashes: file:///folder".into()),
            None if text.contains("://") => {
                let scheme = text.split("://").next().unwrap_or_default();
                return Err(format!("`{scheme}://` is neither s3://bucket/prefix, file:///folder nor a path"));
            }
            None => text,
        };
        if path.is_empty() { Err("it is empty".into()) } else { Ok(Self::Folder(path.into())) }
    }
}
