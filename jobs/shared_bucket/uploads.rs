//! What the web backend recorded of a bucket's objects on a day: of whom a key is, and when its
//! object was deleted.
//!
//! Keys are known by 128 bits of a keyed hash (SipHash), 64 bytes for each; who names objects
//! cannot know its key, which is made of all rows of the day.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use siphasher::sip128::SipHasher13;

use books::shared_bucket::uploads::RecordedUpload;
use books::units::calendar::Day;

/// What is recorded of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recorded {
    /// A place in the list of customers; none when two customers recorded the key.
    customer: Option<u32>,
    deleted_at: Option<i64>,
}

/// Whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedOwner<'a> {
    Customer(&'a str),
    Nobody,
    /// Two customers recorded it.
    Contradiction,
}

/// The recorded objects of a day.
#[derive(Clone)]
pub struct UploadsOfDay {
    customers: Vec<Arc<str>>,
    by_key: HashMap<u128, Recorded>,
    hasher: SipHasher13,
    digest: [u8; 32],
}

/// By its digest alone, which stands for all rows.
impl fmt::Debug for UploadsOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadsOfDay(")?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

impl UploadsOfDay {
    /// Of all rows those that were stored on the day, in any order.
    pub fn new(rows: &[RecordedUpload], day: Day) -> Self {
        let (start, end) = (i64::from(day.epoch()) * 86_400, day.end().as_second());
        let stored = |row: &&RecordedUpload| row.created_at < end && row.ends_at > start;
        let text = |row: &RecordedUpload| (row.key.clone(), row.customer.clone(), row.deleted_at);
        let mut rows: Vec<_> = rows.iter().filter(stored).map(text).collect();
        rows.sort();
        rows.dedup();
        let mut sum = Sha256::new();
        for (key, customer, deleted_at) in &rows {
            let deleted_at = deleted_at.map(|at| at.to_string()).unwrap_or_default();
            for part in [key, customer, &deleted_at] {
                sum.update(part.len().to_le_bytes());
                sum.update(part);
            }
        }
        let digest: [u8; 32] = sum.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        let hasher = SipHasher13::new_with_key(&key);
        let mut found = Self { customers: vec![], by_key: HashMap::with_capacity(rows.len()), hasher, digest };
        let mut numbers: HashMap<Arc<str>, u32> = HashMap::new();
        for (key, customer, deleted_at) in rows {
            let number = *numbers.entry(customer.into()).or_insert_with_key(|customer| {
                found.customers.push(Arc::clone(customer));
                u32::try_from(found.customers.len() - 1).unwrap_or(u32::MAX)
            });
            let hash = found.hash(key.as_bytes());
            let one = found.by_key.entry(hash).or_insert(Recorded { customer: Some(number), deleted_at });
            if one.customer != Some(number) {
                one.customer = None;
            }
            // the later deletion: until then it was stored
            one.deleted_at = one.deleted_at.zip(deleted_at).map(|(one, other)| one.max(other));
        }
        found
    }

    fn hash(&self, key: &[u8]) -> u128 {
        u128::from(self.hasher.hash(key))
    }

    /// Whose a key is.
    pub fn owner(&self, key: &str) -> RecordedOwner<'_> {
        let Some(recorded) = self.by_key.get(&self.hash(key.as_bytes())) else { return RecordedOwner::Nobody };
        let number = recorded.customer.and_then(|number| usize::try_from(number).ok());
        match number.and_then(|number| self.customers.get(number)) {
            Some(customer) => RecordedOwner::Customer(customer),
            None => RecordedOwner::Contradiction,
        }
    }

    /// When the object of a key was deleted, in seconds since 1970; none if its rule ends it.
    pub fn deleted_at(&self, key: &[u8]) -> Option<i64> {
        self.by_key.get(&self.hash(key))?.deleted_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn row(key: &str, customer: &str, created_at: i64, deleted_at: Option<i64>) -> RecordedUpload {
        RecordedUpload { key: key.into(), customer: customer.into(), created_at, ends_at: 48 * HOUR, deleted_at }
    }

    fn day(number: i32) -> Day {
        Day::from_epoch(number).unwrap()
    }

    #[test]
    fn a_key_is_of_who_recorded_it_while_it_is_stored() {
        let rows = [
            row("a", "ann", HOUR, None),
            row("b", "bob", 26 * HOUR, Some(30 * HOUR)),
            row("both", "ann", HOUR, Some(30 * HOUR)),
            row("both", "bob", HOUR, None),
            // of two meters
            row("twice", "bob", HOUR, Some(30 * HOUR)),
            row("twice", "bob", HOUR, Some(31 * HOUR)),
        ];
        let second = UploadsOfDay::new(&rows, day(1));
        assert_eq!(second.owner("a"), RecordedOwner::Customer("ann"));
        assert_eq!(second.owner("b"), RecordedOwner::Customer("bob"));
        assert_eq!(second.owner("both"), RecordedOwner::Contradiction);
        assert_eq!(second.owner("twice"), RecordedOwner::Customer("bob"));
        assert_eq!(second.owner("c"), RecordedOwner::Nobody);
        let deleted = ["a", "b", "both", "twice", "c"].map(|key| second.deleted_at(key.as_bytes()));
        assert_eq!(deleted, [None, Some(30 * HOUR), None, Some(31 * HOUR), None]);
        // not made yet, and over
        assert_eq!(UploadsOfDay::new(&rows, day(0)).owner("b"), RecordedOwner::Nobody);
        assert_eq!(UploadsOfDay::new(&rows, day(2)).owner("a"), RecordedOwner::Nobody);
    }

    #[test]
    fn the_digest_stands_for_the_rows_of_the_day_in_any_order() {
        let rows = [row("a", "ann", HOUR, None), row("b", "bob", 26 * HOUR, None)];
        let text = |rows: &[RecordedUpload], number| format!("{:?}", UploadsOfDay::new(rows, day(number)));
        let reversed: Vec<_> = rows.iter().rev().cloned().collect();
        assert_eq!(text(&rows, 1), text(&reversed, 1));
        assert_eq!(text(&rows, 0), text(&rows[..1], 0), "b is not stored yet");
        for other in
            [row("b", "bob", 26 * HOUR, Some(HOUR)), row("b", "bo", 26 * HOUR, None), row("bb", "ob", 26 * HOUR, None)]
        {
            assert_ne!(text(&rows, 1), text(&[rows[0].clone(), other], 1));
        }
    }
}
