//! A world of one S3 bucket that all customers share: what lay in it and who fetched it, what AWS
//! bills for that, and the reports that S3 writes about it.
//!
//! **The judge.** Objects and requests come first, from a seed. The bill and the truth of each
//! customer are computed from them, second by second and byte by byte, and not from the reports. So
//! a reader of the reports has somebody to agree with:
//!
//! | of the world | where |
//! |---|---|
//! | who had which byte-seconds and requests, and what a report cannot tell | [`BucketWorld::storage`], [`BucketWorld::traffic`] |
//! | the lines of the bill | [`BucketWorld::bill`], for [`crate::Spec::shared_bucket`] |
//! | S3 Inventories, one a night | [`BucketWorld::inventories`] |
//! | server access logs | [`BucketWorld::logs`] |
//!
//! **What lives there.** A lifecycle rule of one day ends each object at the first midnight UTC at
//! or after its creation + 24 hours. Some are deleted or overwritten before; the bill ends then,
//! and an Inventory cannot know it: [`BucketStorage::beyond_end`] says by how much. Parts of
//! unfinished uploads are billed and are in no Inventory. S3 removes what has expired some hours
//! later, and lists it until then.
//!
//! **What is left out**: the minimum of 30 days and of 128 KiB that AWS bills for STANDARD_IA, old
//! versions, replication, and the transfer of anything but objects.
//!
//! Each day draws from streams of its own, and each kind of damage from another. So a world of more
//! days keeps the earlier ones, and losses change no object.

mod bill;
mod draw;
mod logs;
mod objects;
mod reports;
mod requests;
#[cfg(test)]
mod tests;
mod truth;

pub(crate) use bill::kind_of;
pub use bill::{BillState, BucketBill, BucketLine};
pub use logs::{LogDelivery, LogFile, LogForm};
pub use reports::WrittenReports;
pub use truth::{BucketCounts, BucketStorage, BucketTraffic, LogView};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use jiff::civil::Date;

use crate::Spec;
use crate::plan::Pool;
use objects::BucketObject;
use requests::BucketRequest;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// What bucket to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    pub bucket: String,
    pub account: String,
    pub region: String,
    /// Year and month (1 to 12) of the bill.
    pub year: i16,
    pub month: u8,
    /// There are uploads on the last day before the month, and on the first so many days of it.
    pub days: u8,
    /// Who uploads; the first ones the most. A key names them as `c/{customer}/`.
    pub customers: Vec<String>,
    pub uploads_per_day: u32,
    /// No object has more bytes; at least 128 KiB.
    pub largest_bytes: u64,
    /// What all chance comes from.
    pub seed: u64,
    pub shares: BucketShares,
}

/// How many of a thousand are out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketShares {
    /// Objects of the class STANDARD_IA.
    pub infrequent: u16,
    /// Objects that are deleted or overwritten before the lifecycle ends them.
    pub ended_early: u16,
    /// Uploads that are never finished.
    pub unfinished: u16,
    /// Objects with a key that names nobody.
    pub of_nobody: u16,
    /// Downloads of a customer's object with a parameter that names another customer.
    pub contradicting: u16,
    /// Objects that no Inventory lists although they lay there.
    pub lost_objects: u16,
    /// Lines of the access logs that S3 never delivers.
    pub lost_lines: u16,
    /// Lines that are in two files.
    pub doubled_lines: u16,
    /// Lines that come in a file of a second delivery, more than a day later.
    pub late_lines: u16,
    /// Days of which the bill's first state has less than the last one.
    pub restated_days: u16,
}

impl BucketShares {
    /// Nothing is lost, late, doubled or restated, and every object lives until its lifecycle ends
    /// it.
    pub const FAITHFUL: Self = Self {
        infrequent: 100,
        ended_early: 0,
        unfinished: 0,
        of_nobody: 50,
        contradicting: 10,
        lost_objects: 0,
        lost_lines: 0,
        doubled_lines: 0,
        late_lines: 0,
        restated_days: 0,
    };

    /// As a bucket is.
    pub const USUAL: Self = Self {
        ended_early: 40,
        unfinished: 10,
        lost_objects: 2,
        lost_lines: 3,
        doubled_lines: 3,
        late_lines: 20,
        restated_days: 100,
        ..Self::FAITHFUL
    };

    fn all(self) -> [u16; 10] {
        let Self { infrequent, ended_early, unfinished, of_nobody, contradicting, .. } = self;
        let Self { lost_objects, lost_lines, doubled_lines, late_lines, restated_days, .. } = self;
        [
            infrequent,
            ended_early,
            unfinished,
            of_nobody,
            contradicting,
            lost_objects,
            lost_lines,
            doubled_lines,
            late_lines,
            restated_days,
        ]
    }
}

impl BucketSpec {
    /// A small usual bucket of the account, the days and the customers of a bill.
    pub fn beside(spec: &Spec, bucket: &str) -> Self {
        Self {
            bucket: bucket.into(),
            account: spec.account.clone(),
            region: "us-east-1".into(),
            year: spec.year,
            month: spec.month,
            days: spec.days,
            customers: Pool::new(spec).customers,
            uploads_per_day: 60,
            largest_bytes: 200 << 20,
            seed: spec.seed,
            shares: BucketShares::USUAL,
        }
    }
}

/// The month of a world: days are counted from its first, which is 0.
#[derive(Clone, Copy, Debug)]
struct Calendar {
    first: Date,
    /// Seconds since 1970.
    start: i64,
    /// Of the whole month.
    hours: u16,
    /// Days with uploads.
    days: i64,
}

impl Calendar {
    fn of(spec: &BucketSpec) -> Result<Self> {
        let first = Date::new(spec.year, i8::try_from(spec.month)?, 1)?;
        let length = first.days_in_month();
        let start = first.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_second();
        let hours = u16::try_from(length)? * 24;
        Ok(Self { first, start, hours, days: i64::from(spec.days).clamp(1, i64::from(length)) })
    }

    /// The first second of a day.
    fn second(&self, day: i64) -> i64 {
        self.start + day * DAY
    }

    /// The day of a second.
    fn day_of(&self, second: i64) -> i64 {
        (second - self.start).div_euclid(DAY)
    }

    fn date(&self, day: i64) -> Date {
        self.first.saturating_add(jiff::Span::new().days(day))
    }

    /// Nights with an Inventory. What overwrites an object of the last day can live for two days
    /// more, and the night after them lists it.
    fn nights(&self) -> std::ops::RangeInclusive<i64> {
        0..=self.days + 2
    }
}

fn timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// A bucket with all that happened to it.
#[derive(Clone, Debug)]
pub struct BucketWorld {
    spec: BucketSpec,
    calendar: Calendar,
    /// In order of creation.
    objects: Vec<BucketObject>,
    /// In order of time.
    requests: Vec<BucketRequest>,
    /// When each of [`Calendar::nights`] began to list, in order.
    scans: Vec<i64>,
}

impl BucketWorld {
    /// Makes the world.
    ///
    /// # Errors
    /// When no bucket can look like this.
    pub fn new(spec: BucketSpec) -> Result<Self> {
        ensure!((2000..=9000).contains(&spec.year), "year {} is out of range", spec.year);
        ensure!((1..=12).contains(&spec.month), "there is no month {}", spec.month);
        ensure!(!spec.customers.is_empty(), "there is at least one customer");
        let is_part_of_key = |customer: &String| !customer.is_empty() && !customer.contains('/');
        ensure!(spec.customers.iter().all(is_part_of_key), "a customer is one part of a key, without `/`");
        ensure!(spec.largest_bytes >= objects::LEAST_INFREQUENT, "the largest object has at least 128 KiB");
        ensure!(spec.shares.all().iter().all(|share| *share <= 1000), "a share is at most 1000 of a thousand");
        let name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
        let is_bucket = (3..=63).contains(&spec.bucket.len()) && spec.bucket.bytes().all(name);
        ensure!(is_bucket, "`{}` is no name of a bucket", spec.bucket);
        let calendar = Calendar::of(&spec)?;
        let mut world = Self { spec, calendar, objects: vec![], requests: vec![], scans: vec![] };
        world.scans = world.calendar.nights().map(|night| reports::scan(&world, night)).collect();
        for day in -1..world.calendar.days {
            let from = world.objects.len();
            objects::draw(&mut world, day)?;
            requests::draw(&mut world, day, from);
        }
        world.objects.sort_by(|one, other| (one.created, &one.key).cmp(&(other.created, &other.key)));
        world.requests.sort_by(|one, other| (one.time, &one.id).cmp(&(other.time, &other.id)));
        Ok(world)
    }

    /// What it was made from.
    pub fn spec(&self) -> &BucketSpec {
        &self.spec
    }

    fn customer(&self, customer: Option<usize>) -> &str {
        customer.and_then(|at| self.spec.customers.get(at)).map_or("", String::as_str)
    }
}
