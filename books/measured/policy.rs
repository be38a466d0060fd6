//! How usage is measured: the configuration, as the statements of the web backend find it in the
//! database.

use serde::Serialize;

use super::accrual::Accrues;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;

/// How usage of one meter is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeasuredMeter {
    pub meter: String,
    pub accrues: Accrues,
    /// A use that nobody ends counts for so many seconds; none = nothing of the meter runs.
    pub longest_use: Option<i64>,
    /// Days of S3's lifecycle rule; none = the meter has no stored objects.
    pub upload_days: Option<i64>,
}

impl MeasuredMeter {
    /// A meter with these rules, as far as they concern what it counts.
    pub fn new(meter: &str, accrues: Accrues, longest_use: i64, upload_days: i64) -> Self {
        Self {
            meter: meter.to_owned(),
            accrues,
            longest_use: accrues.runs().then_some(longest_use),
            upload_days: (accrues == Accrues::GbMonths).then_some(upload_days),
        }
    }
}

/// Meters that are measured, and no other. A row keeps its instant `folded_until` for ever.
const KEEP: &str = "INSERT INTO measured_meters (meter, accrues, longest_use, upload_days) \
    SELECT value ->> 'meter', value ->> 'accrues', value ->> 'longest_use', value ->> 'upload_days' FROM json_each(?1) WHERE true \
    ON CONFLICT (meter) DO UPDATE SET \
      accrues = excluded.accrues, longest_use = excluded.longest_use, upload_days = excluded.upload_days \
    WHERE (accrues, longest_use, upload_days) IS NOT (excluded.accrues, excluded.longest_use, excluded.upload_days)";
const FORGET: &str = "UPDATE measured_meters SET accrues = NULL, longest_use = NULL, upload_days = NULL \
    WHERE accrues IS NOT NULL AND meter NOT IN (SELECT value ->> 'meter' FROM json_each(?1))";

impl Database {
    /// Makes these the meters that are measured. Writes no row when they are that already.
    pub async fn keep_measured_meters(&self, meters: &[MeasuredMeter]) -> Result<(), BooksError> {
        let meters = json(meters)?;
        let statements = vec![(KEEP, vec![meters.clone().into()]), (FORGET, vec![meters.into()])];
        self.with_connection(async move |c| c.batch(statements).await.map(drop)).await
    }
}
