//! What the jobs that read S3's reports about shared buckets have in common.
//!
//! Files and their formats are those of the jobs; the days that come of them are
//! `books::shared_bucket`.

pub mod customer;
mod report;

pub use report::BucketReport;
