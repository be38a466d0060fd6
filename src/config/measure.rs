//! The section `measure`, and what meters count when they are measured.

use books::measured::accrual::Accrues;
use books::measured::policy::MeasuredMeter;
use jiff::SignedDuration;
use jobs::context::MeasuringSettings;
use serde::{Deserialize, Serialize};

use super::raw::Step;
use super::{Config, MeterConfig};

/// Usage that the web backend measures.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureConfig {
    /// A use that nobody ends counts for so many hours.
    pub longest_use_hours: u16,
    /// Days of the lifecycle rule of the bucket with the uploads.
    pub upload_days: u16,
    /// A day is settled by a bill that was delivered so many hours after its end, or later.
    pub settle_hours: u16,
    /// Measurements that have been over for so many days are folded, and no older one is taken.
    pub keep_days: u16,
}

impl Default for MeasureConfig {
    fn default() -> Self {
        Self { longest_use_hours: 24, upload_days: 1, settle_hours: 24, keep_days: 40 }
    }
}

impl MeasureConfig {
    /// What is wrong, and where.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let keys = [
            ("longest_use_hours", self.longest_use_hours, 1..=744, "hours"),
            ("upload_days", self.upload_days, 1..=3650, "days"),
            ("settle_hours", self.settle_hours, 1..=720, "hours"),
            ("keep_days", self.keep_days, 7..=400, "days"),
        ];
        let wrong = keys.into_iter().filter(|(_, value, allowed, _)| !allowed.contains(value));
        wrong
            .map(|(name, _, allowed, unit)| {
                let path = vec![Step::Key("measure".into()), Step::Key(name.into())];
                (path, format!("it is {} to {} {unit}", allowed.start(), allowed.end()))
            })
            .collect()
    }
}

impl Config {
    /// As jobs take it.
    pub fn measuring(&self) -> MeasuringSettings {
        let MeasureConfig { longest_use_hours, upload_days, settle_hours, keep_days } = self.measure;
        let measured = |MeterConfig { name, accrues, .. }: &MeterConfig| {
            let accrues = accrues.or_else(|| Accrues::built_in(name))?;
            Some(MeasuredMeter::new(name, accrues, i64::from(longest_use_hours) * 3600, i64::from(upload_days)))
        };
        let settle_after = SignedDuration::from_hours(i64::from(settle_hours));
        MeasuringSettings { meters: self.meters.iter().filter_map(measured).collect(), settle_after, keep_days }
    }
}
