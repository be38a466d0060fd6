//! Counted lines, and the resource that a line of S3 is about.

use std::sync::Arc;

use books::shared_bucket::Measure;
use books::shared_bucket::billed::BilledMeasure;

use super::listing::ListedLine;
use super::mark::Mark;

/// Begins and separates the names under which usage of shared buckets is summed. No customer has a
/// control character.
const POOL: char = '\0';

/// A line that a meter counts, as it is summed.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountedLine {
    pub(super) customer: u32,
    pub(super) meter: u8,
    /// Since 1970.
    pub(super) day: i32,
    pub(super) amount: i128,
    /// Whether it is about usage during more than a day.
    pub(super) is_long: bool,
    /// Whether it has no tag of the customer at all, also none that cannot be used.
    pub(super) is_untagged: bool,
    /// Whether it has no customer, and a tag similar to the customer's.
    pub(super) is_similar: bool,
}

/// What became of a line that a meter counts.
pub(super) enum Counted {
    Yes,
    LeftOut(Mark),
    /// It is counted when its resource is known.
    Waits,
}

/// A line of a Parquet file that is counted when its resource is known. Texts, because another
/// aggregator may count it.
#[derive(Clone, Debug)]
pub(crate) struct WaitingLine {
    /// Row of its row group.
    pub(crate) row: u64,
    pub(super) product: Arc<str>,
    pub(super) usage_type: Arc<str>,
    pub(super) line_type: Arc<str>,
    pub(super) unit: Arc<str>,
    pub(super) customer: Arc<str>,
    pub(super) line: CountedLine,
    pub(super) is_rounded: bool,
    /// What is listed of it, where lines are listed.
    pub(super) listed: Option<Box<ListedLine>>,
}

/// What a resource of S3 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    None,
    Bucket(&'a str),
    /// A prefix or an access point: its usage is that of a bucket as well.
    Part,
}

/// Since November 2026 AWS can bill prefixes beside their bucket
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_control_StorageLensCostAndUsageReportsPrefixLevel.html>).
pub(super) fn resource(text: &str) -> Resource<'_> {
    if text.is_empty() {
        return Resource::None;
    }
    if !text.starts_with("arn:") {
        return if text.contains('/') { Resource::Part } else { Resource::Bucket(text) };
    }
    match text.split_once(":s3:::") {
        Some((_, name)) if name.contains('/') => Resource::Part,
        Some((_, name)) => Resource::Bucket(name),
        None if text.contains(":s3:") && text.contains(":accesspoint") => Resource::Part,
        // something else has its own usage
        None => Resource::Bucket(text),
    }
}

/// The name under which usage of a bucket is summed.
pub(super) fn pool_name(bucket: &str, BilledMeasure { measure, class }: BilledMeasure) -> String {
    format!("{POOL}{bucket}{POOL}{}{POOL}{class}", measure.name())
}

/// Bucket, measure and storage class of a name of [`pool_name`]; none for a customer.
pub(super) fn pool(name: &str) -> Option<(&str, Measure, &str)> {
    let mut parts = name.strip_prefix(POOL)?.split(POOL);
    let (bucket, measure, class) = (parts.next()?, parts.next()?, parts.next()?);
    Some((bucket, Measure::named(measure).ok()?, class))
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::shared_bucket::billed::{S3, measured};

    #[test]
    fn a_resource_of_s3_is_a_bucket_or_a_part_of_one() {
        for (text, want) in [
            ("", Resource::None),
            ("my-uploads", Resource::Bucket("my-uploads")),
            ("arn:aws:s3:::my-uploads", Resource::Bucket("my-uploads")),
            ("arn:aws-cn:s3:::my-uploads", Resource::Bucket("my-uploads")),
            ("my-uploads/c/acme/", Resource::Part),
            ("arn:aws:s3:::my-uploads/c/", Resource::Part),
            ("arn:aws:s3:eu-central-1:111122223333:accesspoint/ap", Resource::Part),
            ("arn:aws:s3express:x:1:bucket/fast", Resource::Bucket("arn:aws:s3express:x:1:bucket/fast")),
        ] {
            assert_eq!(resource(text), want, "{text}");
        }
    }

    #[test]
    fn usage_of_a_bucket_is_summed_under_a_name_of_its_own() {
        let measured = measured(S3, "EUC1-TimedStorage-ByteHrs").unwrap();
        assert_eq!(pool(&pool_name("b", measured)), Some(("b", Measure::ByteSeconds, "STANDARD")));
        for customer in ["", "b", "acme"] {
            assert_eq!(pool(customer), None);
        }
    }
}
