//! What S3's reports say of shared buckets in a month, as weights to divide a bill by.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::read::{PAGE, measured_weight};
use super::{CustomerWeight, Measure, ReportSource};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::units::calendar::{Day, Month};

/// The reports of a day, from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayReport {
    pub digest: String,
    /// Whether a person accepted it although it is far from the bill.
    pub accepted: bool,
    /// By measure and storage class; customers in order.
    pub weights: BTreeMap<(Measure, String), Vec<CustomerWeight>>,
}

/// The reports of some buckets in a month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Names all that is in them.
    pub digest: String,
    days: BTreeMap<(String, ReportSource, Day), DayReport>,
}

/// The first and the last day of a month, as the books write them.
fn days_of(month: Month) -> (String, String) {
    (month.first_day().to_string(), month.last_day().to_string())
}

impl Reports {
    pub fn of(&self, bucket: &str, source: ReportSource, day: Day) -> Option<&DayReport> {
        self.days.get(&(bucket.to_owned(), source, day))
    }
}

const DAYS: &str = "SELECT d.bucket, d.source, d.day, d.digest, a.bucket IS NOT NULL \
    FROM json_each(?1) b \
    JOIN bucket_days d ON d.bucket = b.value AND d.source IN ('access_logs', 'inventory') AND d.day BETWEEN ?2 AND ?3 \
    LEFT JOIN bucket_acceptances a ON a.bucket = d.bucket AND a.day = d.day AND a.digest = d.digest \
    ORDER BY d.bucket, d.source, d.day";
const WEIGHTS: &str = "SELECT measure, class, customer, amount, day FROM bucket_weights \
    WHERE bucket = ?1 AND source = ?2 AND day BETWEEN ?3 AND ?4 \
    AND (day, measure, class, customer) > (?3, ?5, ?6, ?7) ORDER BY day, measure, class, customer LIMIT ?8";

/// The days that there are, without their weights.
async fn days(c: &Connection, buckets: &[String], month: Month) -> Result<Reports, BooksError> {
    let (first, last) = days_of(month);
    let mut rows = c.query(DAYS, params![json(buckets)?, first, last]).await?;
    let (mut found, mut hash) = (BTreeMap::new(), Sha256::new());
    while let Some(row) = rows.next().await? {
        let (bucket, source, day): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (digest, accepted): (String, i64) = (row.get(3)?, row.get(4)?);
        hash.update(format!("{bucket} {source} {day} {digest} {accepted}\n"));
        let day = day.parse().map_err(|e| BooksError::Integrity(format!("bucket_days.day: {e}")))?;
        let report = DayReport { digest, accepted: accepted == 1, weights: BTreeMap::new() };
        found.insert((bucket, ReportSource::named(&source)?, day), report);
    }
    let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Reports { digest, days: found })
}

/// [`Reports::digest`] of what is stored now; also inside a transaction.
pub async fn reports_digest(c: &Connection, buckets: &[String], month: Month) -> Result<String, BooksError> {
    Ok(days(c, buckets, month).await?.digest)
}

impl Database {
    /// The stored reports of buckets in a month.
    ///
    /// A day that is stored while they are read has another digest: who writes what follows from
    /// them compares [`reports_digest`] in the same transaction.
    pub async fn reports(&self, buckets: &[String], month: Month) -> Result<Reports, BooksError> {
        let buckets = buckets.to_vec();
        let (first, last) = days_of(month);
        let mut reports = self.with_connection(async move |c| days(c, &buckets, month).await).await?;
        let places: Vec<(String, ReportSource)> = {
            let mut places: Vec<_> = reports.days.keys().map(|(bucket, source, _)| (bucket.clone(), *source)).collect();
            places.dedup();
            places
        };
        for (bucket, source) in places {
            let mut after = (first.clone(), String::new(), String::new(), String::new());
            loop {
                let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
                let (day, measure, class, customer) = after.clone();
                let values = params![bucket.clone(), source.name(), day, last.clone(), measure, class, customer, limit];
                let page = self.with_connection(async move |c| {
                    let mut rows = c.query(WEIGHTS, values).await?;
                    let mut page = vec![];
                    while let Some(row) = rows.next().await? {
                        page.push((row.get::<String>(4)?, measured_weight(&row)?));
                    }
                    Ok(page)
                });
                let page = page.await?;
                let rows = page.len();
                for (day, weight) in page {
                    after =
                        (day.clone(), weight.measure.name().to_owned(), weight.class.clone(), weight.customer.clone());
                    let day = day.parse().map_err(|e| BooksError::Integrity(format!("bucket_weights.day: {e}")))?;
                    if let Some(report) = reports.days.get_mut(&(bucket.clone(), source, day)) {
                        let of = report.weights.entry((weight.measure, weight.class)).or_default();
                        of.push((weight.customer, weight.amount));
                    }
                }
                if rows < PAGE {
                    break;
                }
            }
        }
        Ok(reports)
    }

    /// [`Reports::digest`] of what is stored now.
    pub async fn reports_digest(&self, buckets: &[String], month: Month) -> Result<String, BooksError> {
        let buckets = buckets.to_vec();
        self.with_connection(async move |c| reports_digest(c, &buckets, month).await).await
    }
}
