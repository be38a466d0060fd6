//! Which months, exports and shared buckets a command is about.

use books::units::calendar::Month;
use books::units::similar::offer;
use jiff::Timestamp;

use crate::config::{Config, SharedBucketConfig};
use crate::exit::BadUsage;

/// The months of `--month`, or of `--from --to`; none without them.
pub(super) fn months(
    month: Option<Month>,
    from: Option<Month>,
    to: Option<Month>,
    now: Timestamp,
) -> anyhow::Result<Option<Vec<Month>>> {
    let current = Month::of(now);
    if let Some(month) = month {
        return Ok(Some(vec![month]));
    }
    if from.is_none() && to.is_none() {
        return Ok(None);
    }
    let (Some(from), to) = (from, to.unwrap_or(current)) else {
        return Err(BadUsage("--to needs --from".into()).into());
    };
    if to < from {
        return Err(BadUsage(format!("--from {from} is after --to {to}")).into());
    }
    let months = Month::range(from, to);
    if months.len() > 120 {
        return Err(BadUsage(format!("{} months are too many at once; at most 120", months.len())).into());
    }
    Ok(Some(months))
}

/// The shared buckets: all, or the one that is named.
pub(super) fn shared_buckets<'a>(
    config: &'a Config,
    only: Option<&str>,
) -> Result<Vec<&'a SharedBucketConfig>, BadUsage> {
    let all = &config.shared_buckets;
    let Some(only) = only else { return Ok(all.iter().collect()) };
    match all.iter().find(|bucket| bucket.name == only) {
        Some(bucket) => Ok(vec![bucket]),
        None => {
            let known = match all.as_slice() {
                [] => "none is configured".to_owned(),
                all => offer(only, all.iter().map(|bucket| bucket.name.as_str())),
            };
            Err(BadUsage(format!("there is no shared bucket `{only}`; {known} ([[shared_buckets]])")))
        }
    }
}

/// The names of the exports: all, or the one of `--export`.
pub(super) fn exports(config: &Config, only: Option<&str>) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = config.exports.iter().map(|e| e.name.clone()).collect();
    match only {
        Some(name) if names.iter().any(|n| n == name) => Ok(vec![name.to_owned()]),
        Some(name) => {
            let known = match names.is_empty() {
                true => "none is configured".to_owned(),
                false => offer(name, names.iter().map(String::as_str)),
            };
            Err(BadUsage(format!("there is no export named `{name}`; {known}")).into())
        }
        None if names.is_empty() => {
            let why = "no export is configured; `meter init` finds one, or add one to meter.toml:\n\n  [[exports]]\n  name = \"main\"\n  location = \"s3://bucket/prefix\"   # or a local folder";
            Err(BadUsage(why.into()).into())
        }
        None => Ok(names),
    }
}
