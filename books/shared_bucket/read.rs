//! Reading days of shared buckets.

use std::collections::BTreeMap;

use super::{BucketDay, DayCounts, Measure, ReportSource, StoredBucketDay, Weight};
use crate::store::connection::{Connection, Row, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::{Day, instant};

/// Weights that are read at once: a row has at most about 1,100 bytes, and a server's answer at
/// most 10 MB.
pub(super) const PAGE: usize = 6_000;

const DAYS: &str = "SELECT source, day, digest, files, counted, repeated, of_nobody, contradictions, bad_lines, read_at \
    FROM bucket_days WHERE bucket = ?1 AND day BETWEEN ?2 AND ?3 ORDER BY day, source";
const WEIGHTS: &str = "SELECT measure, class, customer, amount FROM bucket_weights \
    WHERE bucket = ?1 AND source = ?2 AND day = ?3 AND (measure, class, customer) > (?4, ?5, ?6) \
    ORDER BY measure, class, customer LIMIT ?7";

/// The weight of a row that begins with measure, class, customer and amount.
pub(super) fn measured_weight(row: &Row) -> Result<Weight, BooksError> {
    let (measure, amount): (String, String) = (row.get(0)?, row.get(3)?);
    let wrong = |_| BooksError::Integrity(format!("bucket_weights.amount is `{amount}`"));
    Ok(Weight {
        measure: Measure::named(&measure)?,
        class: row.get(1)?,
        customer: row.get(2)?,
        amount: amount.parse().map_err(wrong)?,
    })
}

/// The stored weights of a day, in order of measure, class and customer; also inside a transaction.
pub(super) async fn weights(
    c: &Connection,
    bucket: &str,
    source: ReportSource,
    day: Day,
) -> Result<Vec<Weight>, BooksError> {
    let mut found: Vec<Weight> = vec![];
    loop {
        let (measure, class, customer) = match found.last() {
            Some(last) => (last.measure.name(), last.class.clone(), last.customer.clone()),
            None => ("", String::new(), String::new()),
        };
        let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let values = params![bucket, source.name(), day.to_string(), measure, class, customer, limit];
        let mut rows = c.query(WEIGHTS, values).await?;
        let before = found.len();
        while let Some(row) = rows.next().await? {
            found.push(measured_weight(&row)?);
        }
        if found.len() - before < PAGE {
            return Ok(found);
        }
    }
}

fn stored_day(bucket: &str, row: &Row) -> Result<StoredBucketDay, BooksError> {
    let (source, day): (String, String) = (row.get(0)?, row.get(1)?);
    let count = |at: i32| -> Result<u64, BooksError> {
        let count: i64 = row.get(at)?;
        u64::try_from(count).map_err(|_| BooksError::Integrity(format!("{count} is no count of a bucket's day")))
    };
    let found = DayCounts {
        files: count(3)?,
        counted: count(4)?,
        repeated: count(5)?,
        of_nobody: count(6)?,
        contradictions: count(7)?,
        bad_lines: count(8)?,
    };
    let day = BucketDay {
        bucket: bucket.to_owned(),
        source: ReportSource::named(&source)?,
        day: day.parse().map_err(|e| BooksError::Integrity(format!("bucket_days.day: {e}")))?,
        digest: row.get(2)?,
        found,
        weights: vec![],
    };
    Ok(StoredBucketDay { day, read_at: instant(row.get(9)?) })
}

impl Database {
    /// The digests of the stored days of a bucket and source, from the day `from` on.
    pub async fn bucket_day_digests(
        &self,
        bucket: &str,
        source: ReportSource,
        from: Day,
    ) -> Result<BTreeMap<Day, String>, BooksError> {
        let values = params![bucket, source.name(), from.to_string()];
        self.with_connection(async move |c| {
            let sql = "SELECT day, digest FROM bucket_days WHERE bucket = ?1 AND source = ?2 AND day >= ?3";
            let mut rows = c.query(sql, values).await?;
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next().await? {
                let day: String = row.get(0)?;
                let day = day.parse().map_err(|e| BooksError::Integrity(format!("bucket_days.day: {e}")))?;
                found.insert(day, row.get(1)?);
            }
            Ok(found)
        })
        .await
    }

    /// The stored days of a bucket from `from` to `to`, both included, with their weights: in order
    /// of day and source.
    ///
    /// A run that writes meanwhile may be seen in part.
    pub async fn bucket_weights(&self, bucket: &str, from: Day, to: Day) -> Result<Vec<StoredBucketDay>, BooksError> {
        let bucket = bucket.to_owned();
        self.with_connection(async move |c| {
            let mut rows = c.query(DAYS, params![bucket.clone(), from.to_string(), to.to_string()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(stored_day(&bucket, &row)?);
            }
            drop(rows);
            for StoredBucketDay { day, .. } in &mut found {
                day.weights = weights(c, &bucket, day.source, day.day).await?;
            }
            Ok(found)
        })
        .await
    }
}
