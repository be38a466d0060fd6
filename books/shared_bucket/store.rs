//! Storing a day of a shared bucket.
//!
//! A server bills a written row like a thousand read ones, so a day that was stored before is read
//! and compared inside the transaction, and only rows that differ are written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::read::weights;
use super::{BucketDay, DayCounts, Measure, Weight};
use crate::store::connection::{Connection, Value};
use crate::store::database::Database;
use crate::store::erased::ErasedIds;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json_parts};

const DAY: &str = "INSERT INTO bucket_days \
      (bucket, source, day, digest, files, counted, repeated, of_nobody, contradictions, bad_lines, read_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (bucket, source, day) DO UPDATE SET \
      digest = excluded.digest, files = excluded.files, counted = excluded.counted, repeated = excluded.repeated, \
      of_nobody = excluded.of_nobody, contradictions = excluded.contradictions, bad_lines = excluded.bad_lines, \
      read_at = excluded.read_at";
const PUT: &str = "INSERT INTO bucket_weights (bucket, source, day, measure, class, customer, amount) \
    SELECT ?1, ?2, ?3, value ->> 'measure', value ->> 'class', value ->> 'customer', value ->> 'amount' \
    FROM json_each(?4) WHERE true \
    ON CONFLICT (bucket, source, day, measure, class, customer) DO UPDATE SET amount = excluded.amount";
const REMOVE: &str = "DELETE FROM bucket_weights WHERE bucket = ?1 AND source = ?2 AND day = ?3 \
    AND (measure, class, customer) IN \
      (SELECT value ->> 'measure', value ->> 'class', value ->> 'customer' FROM json_each(?4))";

/// What a day has once.
type Key = (Measure, String, String);

/// A row of `bucket_weights` as a parameter. The amount is a text: a number of JSON has 64 bits.
#[derive(Serialize)]
struct WeightRow<'a> {
    measure: &'static str,
    class: &'a str,
    customer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<String>,
}

impl<'a> WeightRow<'a> {
    fn new((measure, class, customer): &'a Key, amount: Option<u128>) -> Self {
        Self { measure: measure.name(), class, customer, amount: amount.map(|amount| amount.to_string()) }
    }
}

/// Weights by what a day has once, without those of 0. An erased customer's are the pseudonym's.
///
/// # Errors
/// When one is there twice: the caller has not added up.
fn by_key(day: &BucketDay, erased: &ErasedIds) -> Result<BTreeMap<Key, u128>, BooksError> {
    let mut found = BTreeMap::new();
    for Weight { measure, class, customer, amount } in &day.weights {
        let customer = erased.pseudonym(customer).unwrap_or(customer);
        let key = (*measure, class.clone(), customer.to_owned());
        if found.insert(key, *amount).is_some() {
            let (bucket, day) = (&day.bucket, day.day);
            let what = measure.name();
            let error = format!("the bucket {bucket} has {what} of `{class}` and `{customer}` twice on {day}");
            return Err(BooksError::Integrity(error));
        }
    }
    found.retain(|_, amount| *amount > 0);
    Ok(found)
}

fn counts(found: DayCounts) -> Result<[i64; 6], BooksError> {
    let DayCounts { files, counted, repeated, of_nobody, contradictions, bad_lines } = found;
    let mut stored = [0; 6];
    for (place, count) in stored.iter_mut().zip([files, counted, repeated, of_nobody, contradictions, bad_lines]) {
        *place = i64::try_from(count)
            .map_err(|_| BooksError::Integrity(format!("{count} is no count of a bucket's day")))?;
    }
    Ok(stored)
}

/// Stores a day, inside a transaction; false when it is stored already.
async fn store(c: &Connection, day: &BucketDay, now: i64) -> Result<bool, BooksError> {
    let id = || -> Vec<Value> {
        vec![day.bucket.clone().into(), day.source.name().to_owned().into(), day.day.to_string().into()]
    };
    let sql = "SELECT digest FROM bucket_days WHERE bucket = ?1 AND source = ?2 AND day = ?3";
    let (known, erased) = tokio::try_join!(first_row(c, sql, id()), ErasedIds::load(c))?;
    let known: Option<String> = known.map(|row| row.get(0)).transpose()?;
    if known.as_ref() == Some(&day.digest) {
        return Ok(false);
    }
    let wanted = by_key(day, &erased)?;
    let mut stored = BTreeMap::new();
    if known.is_some() {
        for Weight { measure, class, customer, amount } in weights(c, &day.bucket, day.source, day.day).await? {
            stored.insert((measure, class, customer), amount);
        }
    }
    let mut values = id();
    values.push(day.digest.clone().into());
    values.extend(counts(day.found)?.map(Value::from));
    values.push(now.into());
    c.execute(DAY, values).await?;
    let gone = stored.keys().filter(|key| !wanted.contains_key(*key)).map(|key| WeightRow::new(key, None));
    let changed = wanted.iter().filter(|(key, amount)| stored.get(*key) != Some(*amount));
    let changed = changed.map(|(key, amount)| WeightRow::new(key, Some(*amount)));
    for (sql, parts) in [(REMOVE, json_parts(gone)?), (PUT, json_parts(changed)?)] {
        for part in parts {
            let mut values = id();
            values.push(part.into());
            c.execute(sql, values).await?;
        }
    }
    Ok(true)
}

impl Database {
    /// Makes the stored day this one, whole. Returns false, and writes nothing, when a day with the
    /// same digest is stored.
    ///
    /// # Errors
    /// [`BooksError::Integrity`] when a weight is there twice.
    pub async fn store_bucket_day(&self, day: BucketDay, now: Timestamp) -> Result<bool, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| store(c, &day, now).await).await
    }
}
