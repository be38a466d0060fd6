//! What the jobs that read S3's reports about shared buckets have in common.
//!
//! Files and their formats are those of the jobs; the days that come of them are
//! `books::shared_bucket`.

use books::units::calendar::Day;
use jiff::Timestamp;

pub mod customer;
pub mod items;
mod report;

pub use report::BucketReport;

/// Past days that a run looks at.
const LOOK_BACK_DAYS: i32 = 10;

/// The past days that a run looks at, in order.
pub(crate) fn past_days(now: Timestamp) -> Vec<Day> {
    let today = i32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(0);
    (today - LOOK_BACK_DAYS..today).filter_map(Day::from_epoch).collect()
}
