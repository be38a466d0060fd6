//! Stored objects that the web backend recorded (`record_upload`, `record_delete`): of whom an
//! object is, and when it was deleted before its lifecycle rule ended it.

use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::Day;

/// Rows that are read at once; a server's answer has at most 10 MB.
const PAGE: usize = 5000;

/// A recorded object. Instants are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedUpload {
    pub key: String,
    pub customer: String,
    pub created_at: i64,
    /// When it ends by the lifecycle rule of `measure.upload_days`.
    pub ends_at: i64,
    /// An earlier end, by `record_delete`.
    pub deleted_at: Option<i64>,
}

/// The end by the rule, as `record_upload` computes it.
macro_rules! ends_at {
    () => {
        "((m.started_at + w.upload_days * 86400 + 86399) / 86400 * 86400)"
    };
}

const SQL: &str = concat!(
    "SELECT m.customer, m.meter, m.id, m.started_at, ",
    ends_at!(),
    ", iif(m.ended_at < ",
    ends_at!(),
    ", m.ended_at, NULL) FROM measurements m JOIN measured_meters w ON w.meter = m.meter AND w.upload_days IS NOT NULL \
     WHERE (m.customer, m.meter, m.id) > (?1, ?2, ?3) AND m.level IS NOT NULL AND m.started_at < ?5 AND ",
    ends_at!(),
    " > ?4 ORDER BY m.customer, m.meter, m.id LIMIT ?6"
);

async fn read(c: &Connection, from: i64, to: i64) -> Result<Vec<RecordedUpload>, BooksError> {
    let (mut found, mut after) = (vec![], <[String; 3]>::default());
    loop {
        let [customer, meter, id] = after.clone();
        let page = i64::try_from(PAGE).unwrap_or(i64::MAX);
        let (mut rows, before) = (c.query(SQL, params![customer, meter, id, from, to, page]).await?, found.len());
        while let Some(row) = rows.next().await? {
            let (customer, meter, key): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            after = [customer.clone(), meter, key.clone()];
            let (created_at, ends_at, deleted_at) = (row.get(3)?, row.get(4)?, row.get(5)?);
            found.push(RecordedUpload { key, customer, created_at, ends_at, deleted_at });
        }
        if found.len() - before < PAGE {
            return Ok(found);
        }
    }
}

impl Database {
    /// The recorded objects that were stored on a day from `from` to `to`, both included, if
    /// nobody deleted them. It looks at each measurement once.
    pub async fn recorded_uploads(&self, from: Day, to: Day) -> Result<Vec<RecordedUpload>, BooksError> {
        let (from, to) = (i64::from(from.epoch()) * 86_400, to.end().as_second());
        self.with_connection(async move |c| read(c, from, to).await).await
    }
}
