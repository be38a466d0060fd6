//! What AWS bills for the bucket: lines of product AmazonS3 that name the bucket and no customer.
//!
//! Storage is one line a day and class, in GB-months: bytes × hours / 2³⁰ / hours of the month
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/aws-usage-report-understand.html>).
//! Transfer and requests are lines of an hour. Amounts are rounded at the end, to 10 decimals;
//! those of hours so that their sum is the day's amount, rounded once.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rand::RngExt;

use super::draw::{Drawn, chance_of, is_one_of};
use super::objects::StorageClass;
use super::requests::RequestTier;
use super::{BucketWorld, DAY};
use crate::amount::ONE;
use crate::kinds::{S3_INFREQUENT, S3_STORAGE, S3_TIER_1, S3_TIER_2, S3_TRANSFER};

const GB: u128 = 1 << 30;

/// Which state of the bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BillState {
    /// The first one: the days that are restated lack up to a tenth.
    First,
    /// All that happened.
    Restated,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Billed {
    Storage(StorageClass),
    Transfer,
    Tier1,
    Tier2,
}

/// The lines of a bucket in the bill of its month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketBill {
    pub bucket: String,
    /// In order of days and hours.
    pub lines: Vec<BucketLine>,
}

/// A line of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLine {
    /// Day of the month, from 0 on.
    pub day: u16,
    /// Hour of the day; that of storage is 0.
    pub hour: u16,
    /// Scaled by 10^10: GB-months, GB or requests.
    pub amount: i64,
    of: Billed,
}

impl BucketLine {
    /// Its usage type.
    pub fn usage_type(&self) -> &'static str {
        crate::kinds::KINDS[kind_of(self)].usage_type
    }
}

/// The place of a line's kind.
pub(crate) fn kind_of(line: &BucketLine) -> usize {
    match line.of {
        Billed::Storage(StorageClass::Standard) => S3_STORAGE,
        Billed::Storage(StorageClass::Infrequent) => S3_INFREQUENT,
        Billed::Transfer => S3_TRANSFER,
        Billed::Tier1 => S3_TIER_1,
        Billed::Tier2 => S3_TIER_2,
    }
}

/// A fraction as an amount: half a unit of the last decimal is rounded up.
pub(super) fn as_usage_amount(numerator: u128, denominator: u128) -> Result<i64> {
    let scaled = numerator.checked_mul(u128::from(ONE.unsigned_abs())).context("more than a bill can say")?;
    i64::try_from((2 * scaled + denominator) / (2 * denominator)).context("more than a bill can say")
}

impl BucketWorld {
    /// The bucket's lines of the days with uploads. `BillState::Restated` has all that happened,
    /// and so has `BillState::First` when no days are restated.
    ///
    /// # Errors
    /// When an amount is more than a bill can say.
    pub fn bill(&self, state: BillState) -> Result<BucketBill> {
        let mut lines = self.storage_lines()?;
        lines.extend(self.hourly_lines()?);
        if state == BillState::First {
            for line in &mut lines {
                line.amount -= self.missing_at_first(line);
            }
        }
        lines.retain(|line| line.amount > 0);
        lines.sort_by_key(|line| (line.day, line.hour, line.of));
        Ok(BucketBill { bucket: self.spec.bucket.clone(), lines })
    }

    /// What the first state lacks of a line.
    fn missing_at_first(&self, line: &BucketLine) -> i64 {
        let mut chance = chance_of(self, Drawn::Restatement, line.day.into());
        let is_restated = is_one_of(self.spec.shares.restated_days, &mut chance);
        let part = line.amount * i64::from(chance.random_range(10..=100_u16)) / 1000;
        // requests are whole
        let part = if matches!(line.of, Billed::Tier1 | Billed::Tier2) { part - part % ONE } else { part };
        if is_restated { part } else { 0 }
    }

    /// Days of the bill, with their number.
    fn billed_days(&self) -> impl Iterator<Item = (u16, i64)> {
        (0_u16..).zip(0..self.calendar.days)
    }

    fn storage_lines(&self) -> Result<Vec<BucketLine>> {
        let gb_month = GB * 3600 * u128::from(self.calendar.hours);
        let mut lines = vec![];
        for (number, day) in self.billed_days() {
            let within = (self.calendar.second(day), self.calendar.second(day + 1));
            for class in [StorageClass::Standard, StorageClass::Infrequent] {
                let own = self.objects.iter().filter(|object| object.class == class);
                let sum: u128 = own.map(|object| object.byte_seconds(object.created, object.ended, within)).sum();
                let amount = as_usage_amount(sum, gb_month)?;
                lines.push(BucketLine { day: number, hour: 0, amount, of: Billed::Storage(class) });
            }
        }
        Ok(lines)
    }

    fn hourly_lines(&self) -> Result<Vec<BucketLine>> {
        // bytes sent, and requests of both tiers
        let mut hours: BTreeMap<i64, (u128, i64, i64)> = BTreeMap::new();
        for request in &self.requests {
            let sum = hours.entry((request.time - self.calendar.start).div_euclid(3600)).or_default();
            sum.0 += u128::from(request.bytes_out());
            sum.1 += i64::from(request.tier == RequestTier::First);
            sum.2 += i64::from(request.tier == RequestTier::Second);
        }
        let mut lines = vec![];
        for (day, of_day) in self.billed_days() {
            let mut bytes = 0;
            for (hour, place) in (0_u16..).zip(of_day * DAY / 3600..(of_day + 1) * DAY / 3600) {
                let (sent, first, second) = hours.get(&place).copied().unwrap_or_default();
                let before = as_usage_amount(bytes, GB)?;
                bytes += sent;
                let line = |of, amount| BucketLine { day, hour, amount, of };
                lines.push(line(Billed::Transfer, as_usage_amount(bytes, GB)? - before));
                lines.extend([line(Billed::Tier1, first * ONE), line(Billed::Tier2, second * ONE)]);
            }
        }
        Ok(lines)
    }
}
