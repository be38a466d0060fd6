//! What jobs are given: the books, the places they read from and send to, and plain settings.
//!
//! Nothing here does anything. The machine around the jobs fills a [`Context`] from its
//! configuration; tests and benches fill it by hand.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::{SignedDuration, Timestamp};
use reqwest::{Client, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use standardwebhooks::Webhook;

use crate::shared_bucket::customer::CustomerRule;
use crate::source::Source;
use crate::stripe::BillingSettings;
use books::Database;
use books::limits::notification::MessageReceiver;
use books::measured::accrual::Accrues;
use books::measured::policy::MeasuredMeter;
use books::units::calendar::Day;
use books::units::quantity::{Quantity, UNIT};
use books::usage::meter::Rules;

/// Everything that a job may use.
#[derive(Clone, Debug)]
pub struct Context {
    pub books: Database,
    /// The sources of bills, by name.
    pub exports: Arc<BTreeMap<String, Export>>,
    /// Buckets that all customers share, by name.
    pub shared_buckets: Arc<BTreeMap<String, SharedBucket>>,
    pub read_settings: ReadSettings,
    pub enforcement: Arc<EnforcementSettings>,
    pub measuring: Arc<MeasuringSettings>,
    /// The receiver of notifications, if one is configured.
    pub webhook: Option<WebhookTarget>,
    pub operator: Arc<OperatorSettings>,
    pub billing: Arc<BillingSettings>,
}

/// An export of AWS, ready to be read.
#[derive(Clone, Debug)]
pub struct Export {
    /// Label of the payer account; books are kept by it.
    pub payer: String,
    pub source: Arc<dyn Source>,
    /// Prefix at or below which the export lies; empty or ending with `/`.
    pub prefix: String,
    /// Its kind; none = `ingest_cur` finds out.
    pub format: Option<Format>,
}

/// A bucket with the files of all customers, and where S3 reports about it.
#[derive(Clone, Debug)]
pub struct SharedBucket {
    /// As the bill names it.
    pub name: String,
    pub customers: CustomerRule,
    /// What the web backend recorded of an upload names its customer, too.
    pub uses_uploads: bool,
    /// Days of the lifecycle rule by which every object ends; none = objects live on.
    pub expire_days: Option<u16>,
    /// S3 Inventory: the folder of the configuration's id.
    pub inventory: Option<ReportPlace>,
    /// S3 server access logs.
    pub access_logs: Option<ReportPlace>,
    /// A day of the logs is read when no new file of it has come for so many hours.
    pub quiet_hours: u16,
}

/// Where reports of S3 lie.
#[derive(Clone, Debug)]
pub struct ReportPlace {
    pub source: Arc<dyn Source>,
    /// Prefix below which they lie; empty or ending with `/`.
    pub prefix: String,
}

/// How bills are read.
#[derive(Clone, Debug)]
pub struct ReadSettings {
    pub rules: Arc<Rules>,
    pub hold: HoldPolicy,
    pub limits: ReadLimits,
    /// Written by a run, read by whoever shows it.
    pub progress: Arc<Progress>,
}

impl ReadSettings {
    /// The default policy and limits with these rules.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules: Arc::new(rules),
            hold: HoldPolicy::default(),
            limits: ReadLimits::default(),
            progress: Arc::default(),
        }
    }
}

/// When a version of a bill is put on hold.
#[derive(Clone, Debug)]
pub struct HoldPolicy {
    /// Books versions with unknown line types, without those lines.
    pub allow_unknown_line_types: bool,
    /// Books versions that take back usage.
    pub accept_restatements: bool,
    /// Books versions with lines that cannot be booked as they are, by the rule for each.
    pub accept_faulty_lines: bool,
    /// A meter's month that falls by more than this share, in percent, is a reason to hold.
    pub month_fall_percent: u32,
    /// A past, booked day that changes by more than this share, in percent, is a reason to hold;
    /// none = never.
    pub day_change_percent: Option<u32>,
    /// Settled days of a meter that grow by more than this share, in percent, are a reason to hold.
    pub past_growth_percent: u32,
    /// Books lines of usage during more than a day on their first day.
    pub accept_long_lines: bool,
    /// A change of at most this many units is never a reason to hold.
    pub floor: Quantity,
}

impl Default for HoldPolicy {
    fn default() -> Self {
        Self {
            allow_unknown_line_types: false,
            accept_restatements: false,
            accept_faulty_lines: false,
            month_fall_percent: 20,
            day_change_percent: None,
            past_growth_percent: 100,
            accept_long_lines: false,
            floor: Quantity::from_scaled(UNIT),
        }
    }
}

/// How much of a bill is read at once.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Row groups that are decoded at once.
    pub parallel: usize,
    /// Bytes in memory at once for what is fetched of a bill, and for decoding it.
    pub memory_bytes: u64,
    /// A bill of more bytes than this, in several files, is read in parts by several workers; none
    /// = never.
    pub fan_out_bytes: Option<u64>,
}

impl ReadLimits {
    /// Bytes that one row group may take, fetched and decoded; more than the others together.
    pub fn largest_group(&self) -> u64 {
        self.memory_bytes.max(96 << 20)
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            parallel: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: 48 << 20,
            fan_out_bytes: None,
        }
    }
}

/// Bytes of the data files that are being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadBytes {
    pub done: u64,
    pub total: u64,
}

/// How far a reading has come.
#[derive(Debug, Default)]
pub struct Progress {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    pub fn get(&self) -> ReadBytes {
        ReadBytes { done: self.done.load(Ordering::Relaxed), total: self.total.load(Ordering::Relaxed) }
    }

    pub(crate) fn start(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How entitlements are decided.
#[derive(Clone, Debug)]
pub struct EnforcementSettings {
    /// Booked usage that ends longer ago than this is stale.
    pub stale_after: SignedDuration,
    pub on_stale: OnStale,
    /// Shares in percent; the backend is notified when usage crosses one.
    pub thresholds: Vec<u32>,
}

impl Default for EnforcementSettings {
    fn default() -> Self {
        Self { stale_after: SignedDuration::from_hours(72), on_stale: OnStale::Warn, thresholds: vec![50, 80, 100] }
    }
}

/// How usage is measured by the web backend.
#[derive(Clone, Debug)]
pub struct MeasuringSettings {
    pub meters: Vec<MeasuredMeter>,
    /// A bill settles the days that had ended so long before its delivery.
    pub settle_after: SignedDuration,
    /// Measurements that have been over for so many days are folded.
    pub keep_days: u16,
}

impl Default for MeasuringSettings {
    fn default() -> Self {
        let meters = ["chime_minutes", "storage_gb", "transfer_gb"].iter();
        let built_in = |name: &&str| Some(MeasuredMeter::new(name, Accrues::built_in(name)?, 86_400, 1));
        Self {
            meters: meters.filter_map(built_in).collect(),
            settle_after: SignedDuration::from_hours(24),
            keep_days: 40,
        }
    }
}

impl MeasuringSettings {
    /// What was over before this day is folded at `now`.
    pub fn folds_before(&self, now: Timestamp) -> Day {
        let today = now.as_second().div_euclid(86_400) - i64::from(self.keep_days);
        i32::try_from(today).ok().and_then(Day::from_epoch).unwrap_or(Day::EPOCH)
    }
}

/// What happens to overage when booked usage is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStale {
    /// Decide by what is booked.
    Keep,
    /// As `keep`, and the report needs attention.
    #[default]
    Warn,
    /// Nothing beyond included amounts until a newer bill is booked, and the report needs
    /// attention.
    BlockOverage,
}

impl OnStale {
    /// Its name in the books and the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Warn => "warn",
            Self::BlockOverage => "block-overage",
        }
    }
}

/// The endpoint of a receiver of notifications.
#[derive(Clone)]
pub struct WebhookTarget {
    /// A client that follows no redirects and has timeouts.
    pub client: Client,
    pub url: Url,
    /// Signs with the shared secret; none for the operator's receivers.
    pub signer: Option<Arc<Webhook>>,
}

/// Messages to the operator.
#[derive(Clone, Debug, Default)]
pub struct OperatorSettings {
    /// Who receives them; empty = there are none.
    pub receivers: BTreeMap<MessageReceiver, WebhookTarget>,
    /// The address of the status page, without `/` at its end.
    pub status_page: Option<String>,
    /// The name of each meter that people read.
    pub names: BTreeMap<String, String>,
    /// The unit of each meter.
    pub units: BTreeMap<String, String>,
}

impl fmt::Debug for WebhookTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookTarget").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// The two kinds of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Cost and Usage Report of the API `cur`.
    Legacy,
    /// Data Exports, table `COST_AND_USAGE_REPORT`.
    Cur2,
}

impl Format {
    /// Its name in the books and the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Cur2 => "cur2",
        }
    }
}
