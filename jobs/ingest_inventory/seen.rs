//! Which objects of a day were counted: one of them is listed by many Inventories.
//!
//! An object is known by 104 bits of a keyed hash (SipHash) of key, version, ETag and creation. Of
//! 100 million objects two are taken for one with a probability of 10⁻¹⁵, and nobody can make two
//! such keys without the hash's key. The rest of the 128 bits says which Inventory showed the
//! object, and what it weighed: one Inventory that shows it twice, with two weights, is damaged.
//!
//! Memory grows with the distinct objects that are billed on the day: 20 to 39 bytes for each.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use siphasher::sip128::SipHasher13;

/// Parts of the set. Each grows by itself, so that only one is there twice meanwhile, and several
/// threads rarely wait for each other.
const PARTS: usize = 256;
/// Bits of an entry that are no hash: the Inventory and the check.
const OTHER_BITS: u32 = 24;
const CHECK_BITS: u32 = 16;
const CHECK_MASK: u128 = (1 << CHECK_BITS) - 1;
const OTHER_MASK: u128 = (1 << OTHER_BITS) - 1;

/// What was seen of an object before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    First,
    Again,
    /// The same Inventory showed the object with another weight.
    Contradicting,
}

/// An object: 104 bits of its hash, 8 of the Inventory's number, 16 of a check of its weight.
#[derive(Clone, Copy, Debug)]
struct Entry(u128);

impl Entry {
    fn inventory(self) -> u128 {
        (self.0 & OTHER_MASK) >> CHECK_BITS
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0 >> OTHER_BITS == other.0 >> OTHER_BITS
    }
}

impl Eq for Entry {}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(high(self.0));
    }
}

fn high(n: u128) -> u64 {
    u64::try_from(n >> 64).unwrap_or_default()
}

/// A hasher of what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Part = Mutex<HashSet<Entry, BuildHasherDefault<Hashed>>>;

/// The objects that were counted.
pub(super) struct SeenObjects {
    parts: Vec<Part>,
    hasher: SipHasher13,
}

impl SeenObjects {
    /// With a key of the hash. It must be one that whoever chooses the keys of objects cannot know.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let parts = (0..PARTS).map(|_| Part::default()).collect();
        Self { parts, hasher: SipHasher13::new_with_key(key) }
    }

    /// Notes that an Inventory shows the object of which these bytes are all that is known, with
    /// this weight. Inventories have numbers from 0 on.
    pub(super) fn see(&self, identity: &[u8], inventory: u8, weight: u128) -> Sighting {
        let hash = u128::from(self.hasher.hash(identity));
        let check = weight.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> (128 - CHECK_BITS);
        let entry = Entry(hash & !OTHER_MASK | u128::from(inventory) << CHECK_BITS | check);
        let part = usize::try_from((hash >> OTHER_BITS) & 0xff).unwrap_or(0);
        let mut part = self.parts[part].lock().unwrap_or_else(PoisonError::into_inner);
        if part.insert(entry) {
            return Sighting::First;
        }
        let contradicts = |known: &Entry| known.inventory() == u128::from(inventory) && known.0 & CHECK_MASK != check;
        if part.get(&entry).is_some_and(contradicts) { Sighting::Contradicting } else { Sighting::Again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_seen_once_whoever_shows_it() {
        let seen = SeenObjects::new(b"0123456789abcdef");
        for n in 0..100_000_u32 {
            assert_eq!(seen.see(&n.to_le_bytes(), 1, u128::from(n)), Sighting::First, "{n}");
        }
        for n in 0..100_000_u32 {
            assert_eq!(seen.see(&n.to_le_bytes(), 1, u128::from(n)), Sighting::Again, "{n}");
            assert_eq!(seen.see(&n.to_le_bytes(), 2, u128::from(n) + 1), Sighting::Again, "{n}");
        }
        let found = (0..100_000_u32).filter(|n| seen.see(&n.to_le_bytes(), 1, u128::from(*n) + 1) == Sighting::Again);
        assert!(found.count() < 20, "two weights in one Inventory are found, but for a few in a million");
        assert!(seen.parts.iter().all(|part| part.lock().unwrap().len() > 200), "the parts are about as large");
    }

    #[test]
    fn the_key_of_the_hash_matters() {
        let hash = |key: &[u8; 16]| u128::from(SeenObjects::new(key).hasher.hash(b"object"));
        assert_ne!(hash(b"0123456789abcdef"), hash(b"0123456789abcdeg"));
    }
}
