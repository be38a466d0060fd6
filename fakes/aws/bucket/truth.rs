//! Who had what of the bucket on each day: the truth, computed from objects and requests, and what
//! of it a reader of S3's reports cannot know.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::objects::{Listing, ObjectEnd};
use super::requests::{LineFate, RequestTier};
use super::{BucketWorld, DAY};

/// An Inventory says something of the day on which it began and of the two days before it.
const WINDOW_DAYS: i64 = 3;

/// Byte-seconds of a customer, a class and a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStorage {
    /// All that AWS bills, to the real end of each object.
    pub billed: u128,
    /// Of those: parts of unfinished uploads.
    pub unfinished: u128,
    /// Of those: objects that the Inventories were asked to lose.
    pub lost: u128,
    /// Of those: objects that were deleted or overwritten before an Inventory could list them.
    pub unseen: u128,
    /// What is not billed although an Inventory listed the object: from its deletion or overwriting
    /// to the end that its lifecycle would have given it.
    pub beyond_end: u128,
}

impl BucketStorage {
    /// What a reader of all Inventories finds.
    pub fn in_inventories(&self) -> u128 {
        self.billed + self.beyond_end - self.unfinished - self.lost - self.unseen
    }
}

/// Requests of a customer and a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketTraffic {
    pub bytes_sent: u128,
    /// PUT, POST and lists.
    pub requests_1: u64,
    /// GET and HEAD.
    pub requests_2: u64,
}

/// Whose eyes requests are seen with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogView {
    /// AWS's own: all that is billed.
    Everything,
    /// A reader's of the logs that come in time.
    FirstDelivery,
    /// A reader's of all logs.
    AllDelivered,
}

/// How much there is in a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketCounts {
    /// Whole ones.
    pub objects: u64,
    pub lost_objects: u64,
    pub ended_early: u64,
    pub unfinished: u64,
    pub lines: u64,
    pub lost_lines: u64,
    pub doubled_lines: u64,
    pub late_lines: u64,
}

impl BucketWorld {
    /// Storage by day, class and customer; nobody's has an empty customer.
    pub fn storage(&self) -> BTreeMap<(Date, &'static str, String), BucketStorage> {
        let mut found: BTreeMap<_, BucketStorage> = BTreeMap::new();
        for object in &self.objects {
            let first = self.calendar.day_of(object.created);
            for day in first..=self.calendar.day_of(object.expires - 1) {
                let within = (self.calendar.second(day), self.calendar.second(day + 1));
                let billed = object.byte_seconds(object.created, object.ended, within);
                let beyond = object.byte_seconds(object.ended.max(object.created), object.expires, within);
                let key = (self.calendar.date(day), object.class.name(), self.customer(object.customer).to_owned());
                let sum = found.entry(key).or_default();
                sum.billed += billed;
                match (object.listing, self.is_seen_on(day, object.created, object.removed)) {
                    (Listing::Unfinished, _) => sum.unfinished += billed,
                    (Listing::Lost, _) => sum.lost += billed,
                    (Listing::Listed, false) => sum.unseen += billed,
                    (Listing::Listed, true) => sum.beyond_end += beyond,
                }
            }
        }
        found.retain(|_, sum| *sum != BucketStorage::default());
        found
    }

    /// True when an Inventory that says something of the day lists what lay there from `created`
    /// until `removed`.
    fn is_seen_on(&self, day: i64, created: i64, removed: i64) -> bool {
        let start = self.calendar.second(day);
        let window = start..start + WINDOW_DAYS * DAY;
        self.scans.iter().any(|scan| window.contains(scan) && (created..removed).contains(scan))
    }

    /// Requests by day and customer; nobody's have an empty customer.
    pub fn traffic(&self, view: LogView) -> BTreeMap<(Date, String), BucketTraffic> {
        let mut found: BTreeMap<_, BucketTraffic> = BTreeMap::new();
        for request in &self.requests {
            let is_seen = match (view, request.fate) {
                (LogView::Everything, _) => true,
                (_, LineFate::Lost) | (LogView::FirstDelivery, LineFate::Late) => false,
                _ => true,
            };
            if !is_seen {
                continue;
            }
            let day = self.calendar.date(self.calendar.day_of(request.time));
            let sum = found.entry((day, self.customer(request.customer).to_owned())).or_default();
            sum.bytes_sent += u128::from(request.bytes_out());
            match request.tier {
                RequestTier::First => sum.requests_1 += 1,
                RequestTier::Second => sum.requests_2 += 1,
                RequestTier::Free => {}
            }
        }
        found.retain(|_, sum| *sum != BucketTraffic::default());
        found
    }

    /// How much there is.
    pub fn counts(&self) -> BucketCounts {
        let mut counts = BucketCounts::default();
        for object in &self.objects {
            let whole = object.listing != Listing::Unfinished;
            counts.objects += u64::from(whole);
            counts.unfinished += u64::from(!whole);
            counts.lost_objects += u64::from(object.listing == Listing::Lost);
            counts.ended_early += u64::from(object.end != ObjectEnd::Lifecycle);
        }
        for request in &self.requests {
            counts.lines += 1;
            counts.lost_lines += u64::from(request.fate == LineFate::Lost);
            counts.doubled_lines += u64::from(request.fate == LineFate::Twice);
            counts.late_lines += u64::from(request.fate == LineFate::Late);
        }
        counts
    }
}
