//! The days of shared buckets: how much each customer had of one, as S3's own reports tell it, and
//! whose a billed amount is by that.
//!
//! **Owns** the tables `bucket_days`, `bucket_weights`, `bucket_shares` and `bucket_acceptances`,
//! what a weight is, and how an amount is divided by weights. **Does not own** the reading of
//! reports (`jobs/shared_bucket`), nor the ledger: shares are booked with the version of the bill
//! (`usage::booking`).
//!
//! **Invariants**: a day of a bucket and source is stored whole, with its counts, in one
//! transaction; the same digest is the same day, and writes nothing; a weight is an integer above 0
//! in the smallest unit of its measure, and a day has each measure, class and customer once; the
//! shares of an amount make the amount, to the last decimal.

mod apportion;
pub mod billed;
mod read;
pub mod reports;
pub mod shares;
mod store;
pub mod stored;
pub mod uploads;

pub use apportion::Remainder;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::error::BooksError;
use crate::units::calendar::Day;
use jiff::Timestamp;

/// Which report of S3 a day was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportSource {
    /// S3 Inventory: which objects there are.
    Inventory,
    /// S3 server access logs: which requests there were.
    AccessLogs,
}

impl ReportSource {
    /// Its name in the books.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inventory => "inventory",
            Self::AccessLogs => "access_logs",
        }
    }

    fn named(name: &str) -> Result<Self, BooksError> {
        [Self::Inventory, Self::AccessLogs]
            .into_iter()
            .find(|source| source.name() == name)
            .ok_or_else(|| BooksError::Integrity(format!("bucket_days.source is `{name}`")))
    }
}

/// What a weight counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Bytes of stored objects × seconds.
    ByteSeconds,
    /// Bytes that downloads sent.
    BytesSent,
    /// Requests that AWS bills as tier 1: PUT, COPY, POST, LIST.
    Requests1,
    /// Requests that AWS bills as tier 2: GET, HEAD and all other.
    Requests2,
}

impl Measure {
    /// Its name in the books.
    pub fn name(self) -> &'static str {
        match self {
            Self::ByteSeconds => "byte_seconds",
            Self::BytesSent => "bytes_sent",
            Self::Requests1 => "requests_1",
            Self::Requests2 => "requests_2",
        }
    }

    /// The reports that it is read from.
    pub fn source(self) -> ReportSource {
        match self {
            Self::ByteSeconds => ReportSource::Inventory,
            Self::BytesSent | Self::Requests1 | Self::Requests2 => ReportSource::AccessLogs,
        }
    }

    /// As [`Measure::name`] says it.
    ///
    /// # Errors
    /// For another name.
    pub fn named(name: &str) -> Result<Self, BooksError> {
        [Self::ByteSeconds, Self::BytesSent, Self::Requests1, Self::Requests2]
            .into_iter()
            .find(|measure| measure.name() == name)
            .ok_or_else(|| BooksError::Integrity(format!("bucket_weights.measure is `{name}`")))
    }
}

/// What a customer has of a day.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    pub measure: Measure,
    /// S3's storage class; empty for requests and what they sent.
    pub class: String,
    /// Empty for what is nobody's.
    pub customer: String,
    /// In the measure's smallest unit. A weight of 0 is not stored.
    pub amount: u128,
}

/// A customer's weight on a day; the empty customer is nobody.
pub type CustomerWeight = (String, u128);

/// What was found in the reports of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct DayCounts {
    pub files: u64,
    /// Objects, or lines of logs, that counted.
    pub counted: u64,
    /// Those that other files had already.
    pub repeated: u64,
    /// Counted ones that name no customer.
    pub of_nobody: u64,
    /// Counted ones of which two sources name different customers; they are nobody's.
    pub contradictions: u64,
    pub bad_lines: u64,
}

/// A day of a shared bucket, read from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketDay {
    pub bucket: String,
    pub source: ReportSource,
    pub day: Day,
    /// Hexadecimal SHA-256 of all that the weights follow from: the files, and the rules by which
    /// they were read (`CustomerRule::digest_text`, days until expiry).
    pub digest: String,
    pub found: DayCounts,
    /// In any order.
    pub weights: Vec<Weight>,
}

/// A day as it is in the books, with its weights in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBucketDay {
    pub day: BucketDay,
    pub read_at: Timestamp,
}
