//! The report of a run that reads S3's reports about a shared bucket.

use schemars::JsonSchema;
use serde::Serialize;

use books::units::calendar::Day;

/// What a run read, and what it found. Counts are those of the days that it read.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BucketReport {
    /// Days whose weights are new or another; what was read and is the same is not among them.
    pub days_read: Vec<Day>,
    /// Days that cannot be read yet, because more files of them are expected.
    pub days_waiting: u32,
    pub files: u64,
    /// Objects, or lines of logs, that counted.
    pub counted: u64,
    /// Those that other files had already.
    pub repeated: u64,
    /// Counted ones that name no customer.
    pub of_nobody: u64,
    /// Counted ones of which two sources name different customers.
    pub contradictions: u64,
    pub bad_lines: u64,
    /// What could not be read, and why: a person should look.
    pub not_read: Vec<String>,
    /// What was read and left out or looks odd; nothing has to be done.
    pub notes: Vec<String>,
}
