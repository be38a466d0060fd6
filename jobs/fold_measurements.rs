//! `fold_measurements`: folds what was measured long ago into sums by day, and counts uses that
//! nobody ended.
//!
//! It also writes how meters are measured into the books, where the web backend's statements find
//! it; a worker does so when it starts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use books::units::calendar::Day;

/// A run that folds measurements that are old enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldMeasurements {}

/// What a run changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoldMeasurementsReport {
    /// What was over before this day is folded.
    pub before: Day,
    pub folded: u64,
    /// Uses that reached their bound without an end since the run before.
    pub ended_by_bound: u64,
}

impl Job for FoldMeasurements {
    const KIND: &'static str = "fold_measurements";
    const DESCRIPTION: &'static str = "fold what was measured long ago into sums by day";
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
        Ok(FoldMeasurementsReport { before, folded, ended_by_bound })
    }
}
