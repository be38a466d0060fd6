//! Usage of shared buckets: which bucket a line is about.
//!
//! A bill has millions of resources, and those of a few lines matter. In Parquet they are a column
//! of their own, which is fetched only for row groups with such lines: until then the lines wait
//! ([`WaitingLine`]). Usage of a shared bucket is summed like that of a customer, under a name that
//! no customer can have.

use std::sync::Arc;

use books::shared_bucket::Measure;
use books::shared_bucket::billed::{Measured, measured};
use books::usage::meter::LineClaim;

use super::mark::Mark;
use super::{GroupKey, UsageAggregator};
use crate::ingest_cur::sums::{Place, idx};

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
    product: Arc<str>,
    usage_type: Arc<str>,
    line_type: Arc<str>,
    unit: Arc<str>,
    customer: Arc<str>,
    line: CountedLine,
    is_rounded: bool,
}

/// What a resource of S3 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource<'a> {
    None,
    Bucket(&'a str),
    /// A prefix, an access point or the like: its usage is that of a bucket as well.
    Part,
}

/// Since November 2026 AWS can bill prefixes beside their bucket
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_control_StorageLensCostAndUsageReportsPrefixLevel.html>).
fn resource(text: &str) -> Resource<'_> {
    let arn = || text.strip_prefix("arn:")?.split_once(":s3:::").map(|(_, name)| name);
    match arn().unwrap_or(text) {
        "" => Resource::None,
        name if name.contains(['/', ':']) => Resource::Part,
        name => Resource::Bucket(name),
    }
}

/// The name under which usage of a bucket is summed.
fn pool_name(bucket: &str, Measured { measure, class }: Measured) -> String {
    format!("{POOL}{bucket}{POOL}{}{POOL}{class}", measure.name())
}

/// Bucket, measure and storage class of a name of [`pool_name`]; none for a customer.
pub(super) fn pool(name: &str) -> Option<(&str, Measure, &str)> {
    let mut parts = name.strip_prefix(POOL)?.split(POOL);
    let (bucket, measure, class) = (parts.next()?, parts.next()?, parts.next()?);
    Some((bucket, Measure::named(measure).ok()?, class))
}

impl UsageAggregator {
    /// What counted lines of this kind measure, where the resource of a line matters.
    pub(super) fn measured(&self, key: GroupKey) -> Option<Measured> {
        if self.rules.shared_buckets.is_empty() {
            return None;
        }
        measured(self.names.text(key.product), self.names.text(key.usage_type))
    }

    /// Sums a counted line.
    #[inline]
    pub(super) fn put(&mut self, line: CountedLine) {
        let CountedLine { customer, meter, day, amount, is_long, is_similar } = line;
        self.counted_rows += 1;
        self.long_lines += u64::from(is_long);
        self.seen.similar_lines += u64::from(is_similar);
        let in_month = day - self.first_day;
        if (0..self.days).contains(&in_month) {
            let day = usize::try_from(in_month).unwrap_or(0);
            self.sums.add(self.shape(), Place { customer, meter, day }, amount);
        } else {
            self.out_of_month_lines += 1;
            *self.sums.overflow.entry((customer, meter, day)).or_default() += amount;
        }
    }

    /// Sums a counted line of which the resource is known; returns the mark of one that is left
    /// out.
    pub(super) fn put_of_resource(&mut self, line: CountedLine, measured: Measured, text: &str) -> Option<Mark> {
        let is_shared = |bucket: &str| self.rules.shared_buckets.iter().any(|rule| rule.bucket == bucket);
        let customer = match resource(text) {
            Resource::Part => return Some(Mark::PartOfBucket),
            Resource::Bucket(bucket) if line.customer == 0 && is_shared(bucket) => {
                self.customers.intern(&pool_name(bucket, measured))
            }
            Resource::Bucket(_) => line.customer,
            Resource::None => {
                self.seen.without_resource += u64::from(line.customer == 0);
                line.customer
            }
        };
        self.put(CountedLine { customer, ..line });
        None
    }

    /// Keeps a line until its resource is known.
    pub(super) fn wait(&mut self, key: GroupKey, row: usize, line: CountedLine, is_rounded: bool) {
        let name = |number: u32| Arc::clone(&self.names.texts[idx(number)]);
        self.waiting.push(WaitingLine {
            row: u64::try_from(row).unwrap_or(u64::MAX),
            product: name(key.product),
            usage_type: name(key.usage_type),
            line_type: name(key.line_type),
            unit: name(key.unit),
            customer: Arc::clone(&self.customers.texts[idx(line.customer)]),
            line,
            is_rounded,
        });
    }

    /// The lines that wait for their resource, in the order of their rows.
    pub(crate) fn take_waiting(&mut self) -> Vec<WaitingLine> {
        std::mem::take(&mut self.waiting)
    }

    /// Counts a line that waited; empty for a line without a resource.
    pub(crate) fn count_waiting(&mut self, waiting: &WaitingLine, text: &str) {
        let customer = self.customers.intern(&waiting.customer);
        let mut key = GroupKey {
            product: self.names.intern(&waiting.product),
            usage_type: self.names.intern(&waiting.usage_type),
            line_type: self.names.intern(&waiting.line_type),
            unit: self.names.intern(&waiting.unit),
        };
        let line = CountedLine { customer, ..waiting.line };
        let mark = match self.measured(key) {
            Some(measured) => self.put_of_resource(line, measured, text),
            None => {
                self.put(line);
                None
            }
        };
        if let Some(mark) = mark {
            key.line_type = self.marked(key.line_type, mark);
        }
        let group = self.line_group(key);
        let group = &mut self.line_groups[idx(group)];
        group.lines += 1;
        group.sum += line.amount;
        group.tagged += u64::from(customer != 0);
        self.rounded += u64::from(waiting.is_rounded);
    }

    /// Whether a line of this kind needs its resource.
    pub(super) fn needs_resource(&self, group: u32) -> Option<Measured> {
        let group = &self.line_groups[idx(group)];
        group.measured.filter(|_| matches!(group.claim, LineClaim::Counted(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::shared_bucket::billed::S3;

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
