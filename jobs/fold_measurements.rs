//! `fold_measurements`: folds what was measured long ago into sums by day, counts uses that nobody
//! ended, and compares measured with billed usage of settled days.
//!
//! It also writes how meters are measured into the books, where the web backend's statements find
//! it; a worker does so when it starts.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use books::measured::accuracy::{JUDGED_DAYS, MeterAccuracy};
use books::units::calendar::Day;

/// A run that folds measurements that are old enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldMeasurements {}

/// What a run changed.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct FoldMeasurementsReport {
    /// What was over before this day is folded.
    pub before: Day,
    pub folded: u64,
    /// Uses that reached their bound without an end since the run before.
    pub ended_by_bound: u64,
    /// Meters of which measured and billed usage differ.
    pub differing: Vec<String>,
}

impl Job for FoldMeasurements {
    const KIND: &'static str = "fold_measurements";
    const DESCRIPTION: &'static str = "fold what was measured long ago, and compare settled days with the bill";
    type Report = FoldMeasurementsReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<FoldMeasurementsReport, Failure> {
        let Context { books, measuring, .. } = context;
        books.require_migrated().await?;
        books.keep_measured_meters(&measuring.meters).await?;
        // a clock that is ahead would fold what is new, and refuse what comes
        let before = measuring.folds_before(now.min(books.clock().await?));
        // before they are folded
        let ended_by_bound = books.count_bounds(now).await?;
        let folded = books.fold_measurements(before).await?;
        if ended_by_bound > 0 {
            tracing::warn!(ended_by_bound, "{ended_by_bound} use(s) that nobody ended have reached their bound");
        }
        let differing = compare(context, now).await?;
        Ok(FoldMeasurementsReport { before, folded, ended_by_bound, differing })
    }
}

/// Compares the newest settled days with the bill, and keeps what was found. Returns the meters
/// with a finding.
async fn compare(context: &Context, now: Timestamp) -> Result<Vec<String>, Failure> {
    let Context { books, measuring, exports, .. } = context;
    let payers = exports.values().map(|export| export.payer.clone()).collect();
    let settled = books.settled_days(payers, measuring.settle_after).await?;
    let meters = measuring.meters.iter().map(|of| (of.meter.clone(), of.accrues)).collect();
    let found = books.accuracy(meters, settled.newest(now, JUDGED_DAYS), settled.undivided(), None).await?.meters;
    books.keep_accuracy(&found, now).await?;
    let differing: Vec<String> =
        found.into_iter().filter(MeterAccuracy::has_finding).map(|accuracy| accuracy.meter).collect();
    if !differing.is_empty() {
        let meters = differing.join(", ");
        tracing::warn!(meters, "measured and billed usage of {meters} differ: meter accuracy");
    }
    Ok(differing)
}
