//! The sections `shared_buckets`: buckets with the files of all customers, and where S3 reports
//! about them.

use std::collections::BTreeMap;

use books::shared_bucket::shares::BucketRule;
use books::shared_bucket::{Remainder, ReportSource};
use jobs::shared_bucket::customer::{CustomerRule, key_beginning, key_pattern, parameter_fault};
use serde::{Deserialize, Serialize};

use super::raw::Step;
use super::{ADDRESS_FAULT, Config, Location, is_plain_address};

/// A bucket that all customers share.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedBucketConfig {
    /// The bucket, as the bill names it.
    pub name: String,
    /// How keys begin, with `{customer}` in place of the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_key: Option<String>,
    /// A regular expression that fits whole keys, with a group `customer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_pattern: Option<String>,
    /// A parameter of requests that names the customer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer_parameter: Option<String>,
    /// Whether what the web backend recorded of an upload names its customer, too.
    #[serde(default)]
    pub customer_uploads: bool,
    /// Days of the lifecycle rule that ends every object; left out: objects live on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_days: Option<u16>,
    /// A day of access logs is read when no new file of it has come for so many hours.
    #[serde(default = "default_quiet_hours")]
    pub quiet_hours: u16,
    /// Who has the part of a billed amount that no report accounts for: `house` or `spread`.
    #[serde(default)]
    pub remainder: Remainder,
    /// A day whose reports account for less than this part of the bill is held, in percent.
    #[serde(default = "default_floor")]
    pub floor_percent: u8,
    /// A day whose reports account for more than this part of the bill is held, too, in percent.
    #[serde(default = "default_ceiling")]
    pub ceiling_percent: u16,
    /// A day whose reports account for more or less than the bill by more than this is a finding,
    /// in percent.
    #[serde(default = "default_band")]
    pub band_percent: u8,
    /// S3 Inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<ReportConfig>,
    /// S3 server access logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_logs: Option<ReportConfig>,
}

/// Where reports of S3 lie.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportConfig {
    /// `s3://bucket/prefix`, `file:///folder` or a path.
    pub location: String,
    /// AWS region of the bucket; the SDK's own chain decides when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Address of another S3 server than AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Uploads that name customers are kept for so many days: ten are read, and reports are late.
const UPLOAD_DAYS: u16 = 14;

fn default_quiet_hours() -> u16 {
    6
}

fn default_floor() -> u8 {
    50
}

fn default_ceiling() -> u16 {
    150
}

fn default_band() -> u8 {
    5
}

/// Whether the books accept it as the name of a bucket; old buckets have capital letters and
/// underscores.
fn is_bucket(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

impl SharedBucketConfig {
    /// How keys and requests name the customer.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn customers(&self) -> Result<CustomerRule, (&'static str, String)> {
        let key = match (&self.customer_key, &self.customer_pattern) {
            (Some(_), Some(_)) => {
                return Err(("customer_pattern", "`customer_key` is set, too; keep one of them".to_owned()));
            }
            (Some(text), None) => Some(key_beginning(text).map_err(|why| ("customer_key", why))?),
            (None, Some(text)) => Some(key_pattern(text).map_err(|why| ("customer_pattern", why))?),
            (None, None) => None,
        };
        if let Some(why) = self.customer_parameter.as_deref().and_then(parameter_fault) {
            return Err(("customer_parameter", why));
        }
        if key.is_none() && self.customer_parameter.is_none() && !self.customer_uploads {
            let why = "nothing says which customer a file belongs to: set `customer_key`, such as `c/{customer}/`, \
                       `customer_pattern`, `customer_parameter` or `customer_uploads`";
            return Err(("name", why.to_owned()));
        }
        if key.is_none() && !self.customer_uploads && self.inventory.is_some() {
            let why = "an inventory has keys and no requests: set `customer_key`, `customer_pattern` or \
                       `customer_uploads`";
            return Err(("inventory", why.to_owned()));
        }
        Ok(CustomerRule::new(key, self.customer_parameter.clone()))
    }

    /// By what rule its usage is apportioned.
    pub(super) fn rule(&self, settle_hours: u16) -> BucketRule {
        let Self { remainder, floor_percent, ceiling_percent, .. } = *self;
        BucketRule { bucket: self.name.clone(), remainder, floor_percent, ceiling_percent, settle_hours }
    }

    /// The reports that are configured; the name of the source is the key of the section.
    pub fn reports(&self) -> impl Iterator<Item = (ReportSource, &ReportConfig)> {
        let reports = [(ReportSource::Inventory, &self.inventory), (ReportSource::AccessLogs, &self.access_logs)];
        reports.into_iter().filter_map(|(source, report)| Some((source, report.as_ref()?)))
    }

    /// What is wrong with its own values: the path below the section, and why.
    fn faults(&self) -> Vec<(Vec<&'static str>, String)> {
        let mut faults = vec![];
        if !is_bucket(&self.name) {
            let why =
                "it is the name of the bucket in the bill: 1 to 255 letters, digits, dots, hyphens and underscores";
            faults.push((vec!["name"], why.to_owned()));
        }
        if let Err((key, why)) = self.customers() {
            faults.push((vec![key], why));
        }
        if self.expire_days.is_some_and(|days| !(1..=3650).contains(&days)) {
            faults.push((vec!["expire_days"], "it is 1 to 3650 days; left out, objects live on".into()));
        }
        for (key, percent) in [("floor_percent", self.floor_percent), ("band_percent", self.band_percent)] {
            if percent > 100 {
                faults.push((vec![key], "it is 0 to 100 percent".into()));
            }
        }
        if self.ceiling_percent < 100 {
            faults.push((vec!["ceiling_percent"], "it is 100 percent or more".into()));
        }
        if self.quiet_hours > 240 {
            faults.push((vec!["quiet_hours"], "it is 0 to 240 hours".into()));
        }
        if self.reports().next().is_none() {
            let why = "nothing is read about this bucket: add `[shared_buckets.inventory]`, \
                       `[shared_buckets.access_logs]` or both, each with a `location`";
            faults.push((vec!["name"], why.to_owned()));
        }
        for (source, report) in self.reports() {
            let key = source.name();
            if let Err(why) = Location::parse(&report.location) {
                faults.push((vec![key, "location"], why));
            }
            if report.endpoint.as_deref().is_some_and(|endpoint| !is_plain_address(endpoint)) {
                faults.push((vec![key, "endpoint"], ADDRESS_FAULT.to_owned()));
            }
            let endpoint = report.endpoint.as_deref();
            if let Some(why) = report.region.as_deref().and_then(|region| Config::region_fault(region, endpoint)) {
                faults.push((vec![key, "region"], why));
            }
        }
        faults
    }
}

impl Config {
    /// What is wrong with shared buckets, and where.
    pub(super) fn shared_bucket_faults(&self) -> Vec<(Vec<Step>, String)> {
        let mut faults = vec![];
        let mut names = BTreeMap::new();
        for (i, bucket) in self.shared_buckets.iter().enumerate() {
            let mut fault = |path: &[&str], why: String| {
                let path = path.iter().map(|key| Step::Key((*key).to_owned()));
                let section = [Step::Key("shared_buckets".into()), Step::Place(i)];
                faults.push((section.into_iter().chain(path).collect(), why));
            };
            for (path, why) in bucket.faults() {
                fault(&path, why);
            }
            if bucket.customer_uploads && self.measure.keep_days < UPLOAD_DAYS {
                let keep = self.measure.keep_days;
                let why = format!(
                    "the last ten days are read, and measure.keep_days = {keep} forgets uploads before: it must be \
                     {UPLOAD_DAYS} or more"
                );
                fault(&["customer_uploads"], why);
            }
            if let Some(other) = names.insert(&bucket.name, i) {
                fault(&["name"], format!("shared_buckets[{other}] is the same bucket"));
            }
        }
        faults
    }
}
