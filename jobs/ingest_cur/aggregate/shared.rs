//! Usage of shared buckets: which bucket a line is about.
//!
//! A bill has millions of resources, and those of a few lines matter. In Parquet they are a column
//! of their own, which is fetched only for row groups with such lines: until then the lines wait
//! ([`WaitingLine`]). Usage of a shared bucket is summed like that of a customer, under a name that
//! no customer can have.

use std::sync::Arc;

use books::shared_bucket::billed::{BilledMeasure, measured};
use books::usage::meter::LineClaim;

use super::listing::ListedLine;
use super::mark::Mark;
use super::resource::{CountedLine, Resource, WaitingLine, pool_name, resource};
use super::{GroupKey, UsageAggregator};
use crate::ingest_cur::sums::{Place, idx};

impl UsageAggregator {
    /// What counted lines of this kind measure, where the resource of a line matters.
    pub(super) fn measured(&self, key: GroupKey) -> Option<BilledMeasure> {
        if self.rules.shared_buckets.is_empty() {
            return None;
        }
        measured(self.names.text(key.product), self.names.text(key.usage_type))
    }

    /// Sums a counted line.
    #[inline]
    pub(super) fn put(&mut self, line: CountedLine) {
        let CountedLine { customer, meter, day, amount, is_long, is_similar, .. } = line;
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
    pub(super) fn put_of_resource(&mut self, line: CountedLine, measured: BilledMeasure, text: &str) -> Option<Mark> {
        let is_shared = |bucket: &str| self.rules.shared_buckets.iter().any(|rule| rule.bucket == bucket);
        let customer = match resource(text) {
            Resource::Part => return Some(Mark::PartOfBucket),
            Resource::Bucket(bucket) if line.is_untagged && is_shared(bucket) => {
                self.customers.intern(&pool_name(bucket, measured))
            }
            Resource::Bucket(_) => line.customer,
            Resource::None => {
                self.seen.without_resource += u64::from(line.is_untagged);
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
            listed: None,
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
        } else if let Some(listed) = &waiting.listed {
            self.list(Some(Box::new(ListedLine { resource: Some(text.to_owned()), ..ListedLine::clone(listed) })));
        }
        let group = self.line_group(key);
        let group = &mut self.line_groups[idx(group)];
        group.lines += 1;
        group.sum += line.amount;
        group.tagged += u64::from(customer != 0);
        self.rounded += u64::from(waiting.is_rounded);
    }

    /// Whether a line of this kind needs its resource.
    pub(super) fn needs_resource(&self, group: u32) -> Option<BilledMeasure> {
        let group = &self.line_groups[idx(group)];
        group.measured.filter(|_| matches!(group.claim, LineClaim::Counted(_)))
    }
}
