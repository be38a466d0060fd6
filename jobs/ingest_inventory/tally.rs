//! The objects of a day, added up by storage class and customer.
//!
//! Inventories are read the newest first, and the first one that gives an object time on the day
//! decides its end and its class: what S3 stated last counts, whatever came in which order. Rows of
//! one Inventory are added in any order, and by many threads.
//!
//! Counted: current and noncurrent versions, whatever their class. Not counted: delete markers,
//! which have no bytes. Unfinished uploads, metadata and least sizes of some classes are in no
//! Inventory; they stay with the house.

use std::collections::HashMap;
use std::sync::Arc;

use super::intervals::{BilledDay, Currency, Life};
use super::seen::{SeenObjects, Sighting};
use crate::listed::shown;
use crate::shared_bucket::customer::{CustomerRule, Owner};
use crate::shared_bucket::items::{Item, ItemList};
use books::shared_bucket::{DayCounts, Measure, Weight};
use books::units::calendar::instant;

/// Bytes of the largest object that is believed; S3's have 50 TB at most.
const LARGEST_OBJECT: u64 = 1 << 50;
/// Most storage classes of a day; S3 has twelve.
const MOST_CLASSES: usize = 64;
const CLASS_BYTES: usize = 64;
/// Most customers of a day. Each is a row in the books.
const MOST_CUSTOMERS: usize = 200_000;

/// What a row of an Inventory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKind {
    Object(Currency),
    DeleteMarker,
}

/// A row of an Inventory. Times are in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListedObject<'a> {
    /// As S3 has it: not encoded.
    pub(super) key: &'a [u8],
    /// Empty for an object without versions.
    pub(super) version: &'a str,
    pub(super) etag: &'a str,
    pub(super) class: &'a str,
    pub(super) kind: RowKind,
    pub(super) size: Option<i64>,
    pub(super) created: Option<i64>,
    pub(super) expires: Option<i64>,
}

/// What all readers of a day have in common.
pub(super) struct DayObjects {
    pub(super) day: BilledDay,
    pub(super) customers: CustomerRule,
    /// All Inventories of the day tell versions apart, so versions do, too.
    pub(super) has_versions: bool,
    pub(super) has_etags: bool,
    pub(super) seen: SeenObjects,
    /// Whose objects are listed one by one.
    pub(super) items: Option<Arc<ItemList>>,
}

/// The Inventory that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// From 0 on.
    pub(super) number: u8,
    /// When it began, in seconds since 1970.
    pub(super) began_at: i64,
}

/// Whose a listed object is. A key that is no text names nobody.
fn owner_of<'a>(customers: &'a CustomerRule, row: &ListedObject<'a>) -> Owner<'a> {
    str::from_utf8(row.key).map_or(Owner::Nobody, |key| customers.of_key(key))
}

/// The sums of one thread.
pub(super) struct Tally {
    objects: Arc<DayObjects>,
    found: DayCounts,
    classes: Vec<ClassSum>,
    /// Customers over all classes.
    customers: usize,
    /// The bytes that an object is known by.
    identity: Vec<u8>,
}

struct ClassSum {
    class: String,
    /// Byte-seconds; those of nobody are under no name.
    customers: HashMap<String, u128>,
}

impl Tally {
    pub(super) fn new(objects: Arc<DayObjects>) -> Self {
        Self { objects, found: DayCounts::default(), classes: vec![], customers: 0, identity: vec![] }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// What is wrong with it, when nothing of the Inventory may count.
    pub(super) fn add(&mut self, row: &ListedObject<'_>, scan: Scan) -> Result<(), String> {
        let RowKind::Object(currency) = row.kind else { return Ok(()) };
        let size = row.size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size <= LARGEST_OBJECT);
        let (Some(size), Some(created)) = (size, row.created) else {
            self.found.bad_lines += 1;
            return Ok(());
        };
        let second = |ms: i64| ms.div_euclid(1000);
        let life = Life {
            created: second(created),
            expires: row.expires.map(second),
            deleted: self.objects.customers.deleted_at(row.key),
            currency,
            scanned_at: scan.began_at,
        };
        let seconds = self.objects.day.seconds_of(life);
        if seconds == 0 {
            return Ok(());
        }
        let weight = u128::from(size) * u128::from(seconds);
        self.identify(row, created);
        // one that has another class is another weight
        let class: u128 = row.class.bytes().fold(0, |sum, byte| sum.wrapping_mul(257).wrapping_add(u128::from(byte)));
        match self.objects.seen.see(&self.identity, scan.number, weight.wrapping_add(class << 64)) {
            Sighting::Again => self.found.repeated += 1,
            Sighting::First => {
                self.list(row, weight, seconds);
                return self.count(row, weight);
            }
            Sighting::Contradicting => {
                return Err(format!(
                    "`{}` is listed twice as one object, with two sizes, classes or dates of expiry; the Inventory is \
                     damaged: copy it anew from S3, or remove its folder",
                    shown(&String::from_utf8_lossy(row.key))
                ));
            }
        }
        Ok(())
    }

    fn identify(&mut self, row: &ListedObject<'_>, created: i64) {
        let objects = &self.objects;
        let version = if objects.has_versions { row.version } else { "" };
        let etag = if objects.has_etags { row.etag } else { "" };
        self.identity.clear();
        for text in [row.key, version.as_bytes(), etag.as_bytes()] {
            self.identity.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.identity.extend_from_slice(text);
        }
        self.identity.extend_from_slice(&created.to_le_bytes());
    }

    fn list(&self, row: &ListedObject<'_>, amount: u128, seconds: u64) {
        let Some(items) = &self.objects.items else { return };
        let wanted = &items.wanted;
        if wanted.class != row.class || owner_of(&self.objects.customers, row).customer() != wanted.customer {
            return;
        }
        items.add(Item {
            amount,
            key: String::from_utf8_lossy(row.key).into_owned(),
            id: row.version.to_owned(),
            kind: row.class.to_owned(),
            bytes: row.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            at: instant(row.created.unwrap_or(0).div_euclid(1000)),
            seconds,
        });
    }

    fn count(&mut self, row: &ListedObject<'_>, weight: u128) -> Result<(), String> {
        self.found.counted += 1;
        let at = match self.classes.iter().position(|sum| sum.class == row.class) {
            Some(at) => at,
            None => self.new_class(row.class)?,
        };
        let owner = owner_of(&self.objects.customers, row);
        match owner {
            Owner::Customer(_) => (),
            Owner::Nobody | Owner::Unusable => self.found.of_nobody += 1,
            Owner::Contradiction => self.found.contradictions += 1,
        }
        let customers = &mut self.classes[at].customers;
        let customer = owner.customer();
        if let Some(sum) = customers.get_mut(customer) {
            *sum += weight;
            return Ok(());
        }
        customers.insert(customer.to_owned(), weight);
        self.customers += 1;
        self.few_customers()
    }

    fn new_class(&mut self, class: &str) -> Result<usize, String> {
        let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if class.len() > CLASS_BYTES || !class.bytes().all(is_plain) {
            let class = shown(class);
            return Err(format!("`{class}` is no storage class of S3; the file is damaged: copy it anew from S3"));
        }
        if self.classes.len() == MOST_CLASSES {
            return Err(format!("there are more than {MOST_CLASSES} storage classes; the file is damaged"));
        }
        self.classes.push(ClassSum { class: class.to_owned(), customers: HashMap::new() });
        Ok(self.classes.len() - 1)
    }

    fn few_customers(&self) -> Result<(), String> {
        if self.customers <= MOST_CUSTOMERS {
            return Ok(());
        }
        Err(format!(
            "the keys name more than {MOST_CUSTOMERS} customers on a day; check `customer_key` or `customer_pattern` of \
             the shared bucket: does it take a part of the key that each object has for itself?"
        ))
    }

    /// Adds the sums of another thread.
    ///
    /// # Errors
    /// When there are too many customers.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), String> {
        let DayCounts { files, counted, repeated, of_nobody, contradictions, bad_lines } = other.found;
        let found = &mut self.found;
        for (sum, more) in [
            (&mut found.files, files),
            (&mut found.counted, counted),
            (&mut found.repeated, repeated),
            (&mut found.of_nobody, of_nobody),
            (&mut found.contradictions, contradictions),
            (&mut found.bad_lines, bad_lines),
        ] {
            *sum += more;
        }
        for ClassSum { class, customers } in other.classes {
            let at = match self.classes.iter().position(|sum| sum.class == class) {
                Some(at) => at,
                None => self.new_class(&class)?,
            };
            for (customer, weight) in customers {
                *self.classes[at].customers.entry(customer).or_default() += weight;
            }
        }
        self.customers = self.classes.iter().map(|sum| sum.customers.len()).sum();
        self.few_customers()
    }

    /// The counts and weights, in order.
    pub(super) fn finish(self) -> (DayCounts, Vec<Weight>) {
        let of_class = |ClassSum { class, customers }: ClassSum| {
            let weight = move |(customer, amount)| Weight {
                measure: Measure::ByteSeconds,
                class: class.clone(),
                customer,
                amount,
            };
            customers.into_iter().map(weight)
        };
        let mut weights: Vec<Weight> = self.classes.into_iter().flat_map(of_class).collect();
        weights.retain(|weight| weight.amount > 0);
        weights.sort();
        (self.found, weights)
    }
}
