//! What the jobs that read S3's reports about shared buckets have in common.
//!
//! Files and their formats are those of the jobs; the days that come of them are
//! `books::shared_bucket`.

use std::borrow::Cow;
use std::sync::Arc;

use books::shared_bucket::uploads::RecordedUpload;
use books::store::error::BooksError;
use books::units::calendar::Day;
use jiff::Timestamp;

use self::uploads::UploadsOfDay;
use crate::context::{Context, SharedBucket};

pub mod customer;
pub mod items;
mod report;
pub mod uploads;

pub use report::BucketReport;

/// The bucket as it is read on a day: with what is recorded of it, if that names customers.
pub(crate) fn on_day<'a>(bucket: &'a SharedBucket, recorded: &[RecordedUpload], day: Day) -> Cow<'a, SharedBucket> {
    if !bucket.uses_uploads {
        return Cow::Borrowed(bucket);
    }
    let customers = bucket.customers.clone().with_uploads(Arc::new(UploadsOfDay::new(recorded, day)));
    Cow::Owned(SharedBucket { customers, ..bucket.clone() })
}

/// What the web backend recorded of objects that were stored on these days, if that names
/// customers.
pub(crate) async fn recorded(
    context: &Context,
    bucket: &SharedBucket,
    from: Day,
    to: Day,
) -> Result<Vec<RecordedUpload>, BooksError> {
    if bucket.uses_uploads { context.books.recorded_uploads(from, to).await } else { Ok(vec![]) }
}

/// Past days that a run looks at.
const LOOK_BACK_DAYS: i32 = 10;

/// The past days that a run looks at, in order.
pub(crate) fn past_days(now: Timestamp) -> Vec<Day> {
    let today = i32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(0);
    (today - LOOK_BACK_DAYS..today).filter_map(Day::from_epoch).collect()
}
