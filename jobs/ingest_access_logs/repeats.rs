//! Each line once, however often S3 delivered it: exact, in bounded memory.
//!
//! S3 may deliver a line twice, days apart and in different files
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerLogs.html>). A line becomes a
//! [`Sighting`] of 32 bytes: a hash of 128 bits of what makes it one and the same line, and what it
//! adds to a sum. Nothing is added to a sum before it is known that the line was not seen before:
//! so nothing has to be taken back.
//!
//! 1. Each thread that parses lines keeps its sightings in a list of its own. A full list is sorted
//!    by hash, repeats in it are merged, and it is written behind the others into a temporary file,
//!    as one run ([`SightingList::push`]).
//! 2. At the end the runs, and the lists that are still in memory, are merged by hash: sightings
//!    with the same hash follow each other and become one ([`distinct`]). A run is read in blocks.
//!
//! A day that fits into the lists needs no file and takes the same way. In memory are the lists
//! ([`SIGHTINGS`] together, 32 MB) and a block of each run (8 MB together, or 4 KiB for each), so
//! 100 million lines need less than 64 MB, and 3.2 GB on disk.
//!
//! Which of two sightings counts must not depend on their order, so they are merged by a rule that
//! has none: the larger number, and a contradiction when they name different customers.
//!
//! The file has no name from the moment it is made: the system frees it when the process ends, also
//! by `kill -9`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// Sightings in memory, in the lists of all threads together.
pub const SIGHTINGS: usize = 1_000_000;
/// Bytes of a stored sighting.
const STORED: usize = 32;
/// Bytes in memory for blocks of all runs together, and for one at least and at most.
const BLOCKS: usize = 8 << 20;
const SMALLEST_BLOCK: usize = 4 << 10;
const LARGEST_BLOCK: usize = 256 << 10;

/// Owners that are no customer: those with names have numbers from [`FIRST_CUSTOMER`] on.
pub const NOBODY: u32 = 0;
pub const CONTRADICTION: u32 = 1;
pub const UNUSABLE: u32 = 2;
pub const FIRST_CUSTOMER: u32 = 3;

/// How AWS bills a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    #[default]
    Free,
    Second,
    First,
}

/// What a line adds, and to whose sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub hash: [u64; 2],
    pub bytes_sent: u64,
    /// The number of the owner among those of the day.
    pub owner: u32,
    pub tier: Tier,
}

impl Sighting {
    /// Merges another sighting of the same line. The result is the same in any order and number.
    fn merge(&mut self, other: &Self) {
        self.bytes_sent = self.bytes_sent.max(other.bytes_sent);
        self.tier = self.tier.max(other.tier);
        if self.owner != other.owner {
            self.owner = CONTRADICTION;
        }
    }

    fn stored(&self) -> [u8; STORED] {
        let mut stored = [0; STORED];
        stored[..8].copy_from_slice(&self.hash[0].to_le_bytes());
        stored[8..16].copy_from_slice(&self.hash[1].to_le_bytes());
        stored[16..24].copy_from_slice(&self.bytes_sent.to_le_bytes());
        stored[24..28].copy_from_slice(&self.owner.to_le_bytes());
        stored[28] = match self.tier {
            Tier::Free => 0,
            Tier::Second => 1,
            Tier::First => 2,
        };
        stored
    }

    fn of_stored(stored: &[u8; STORED]) -> Self {
        let word =
            |at: usize| stored.iter().skip(at).take(8).rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        let owner = [stored[24], stored[25], stored[26], stored[27]];
        let tier = match stored[28] {
            0 => Tier::Free,
            1 => Tier::Second,
            _ => Tier::First,
        };
        Self { hash: [word(0), word(8)], bytes_sent: word(16), owner: u32::from_le_bytes(owner), tier }
    }
}

/// The hash of the parts that make a line one and the same. Parts are kept apart: `ab`, `c` is not
/// `a`, `bc`.
pub fn hash(parts: &[&[u8]]) -> [u64; 2] {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part);
        hasher.write_usize(part.len());
    }
    let hash = hasher.finish128();
    [hash.h1, hash.h2]
}

/// The temporary file of a day, with one run behind the other.
#[derive(Debug, Default)]
struct Spilled {
    file: Option<File>,
    /// Sightings of each run.
    runs: Vec<u64>,
}

impl Spilled {
    fn append(&mut self, run: &[Sighting]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        let mut writer = BufWriter::with_capacity(LARGEST_BLOCK, &*file);
        for sighting in run {
            writer.write_all(&sighting.stored())?;
        }
        writer.flush()?;
        self.runs.push(u64::try_from(run.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// The temporary file that the lists of a day share.
#[derive(Clone, Debug, Default)]
pub struct Spill(Arc<Mutex<Spilled>>);

impl Spill {
    fn with<T>(&self, act: impl FnOnce(&mut Spilled) -> io::Result<T>) -> io::Result<T> {
        act(&mut *self.0.lock().map_err(|_| io::Error::other("a thread that wrote to it has failed"))?)
    }

    /// Runs in the file.
    pub fn runs(&self) -> usize {
        self.0.lock().map_or(0, |spilled| spilled.runs.len())
    }
}

/// The sightings of one thread.
#[derive(Debug)]
pub struct SightingList {
    list: Vec<Sighting>,
    most: usize,
    /// Repeats that are merged already.
    repeated: u64,
    spill: Spill,
}

impl SightingList {
    /// A list that is written to `spill` when it has `most` sightings.
    pub fn new(most: usize, spill: Spill) -> Self {
        Self { list: vec![], most: most.max(1), repeated: 0, spill }
    }

    /// Notes a sighting.
    ///
    /// # Errors
    /// When the temporary file cannot be written.
    pub fn push(&mut self, sighting: Sighting) -> io::Result<()> {
        if self.list.capacity() == self.list.len() && self.list.len() < self.most {
            // doubled, but never beyond what it may hold
            let more = self.list.len().max(1_024).min(self.most - self.list.len());
            self.list.reserve_exact(more);
        }
        self.list.push(sighting);
        if self.list.len() < self.most {
            return Ok(());
        }
        self.settle();
        // so many were repeats that there is room
        if self.list.len() > self.most / 2 {
            let list = &self.list;
            self.spill.with(|spilled| spilled.append(list))?;
            self.list.clear();
        }
        Ok(())
    }

    /// Sorts the list, and merges repeats in it.
    pub fn settle(&mut self) {
        self.list.sort_unstable_by_key(|sighting| sighting.hash);
        let before = self.list.len();
        self.list.dedup_by(|later, first| {
            let same = later.hash == first.hash;
            if same {
                first.merge(later);
            }
            same
        });
        self.repeated += u64::try_from(before - self.list.len()).unwrap_or(u64::MAX);
    }
}

/// Sightings in order of their hashes.
enum Run {
    Listed(std::vec::IntoIter<Sighting>),
    Stored {
        /// Where its next block is in the file.
        at: u64,
        /// Sightings that are not yet in a block.
        left: u64,
        block: Vec<u8>,
        used: usize,
    },
}

impl Run {
    fn next(&mut self, file: &mut Option<File>, block_bytes: usize) -> io::Result<Option<Sighting>> {
        match self {
            Self::Listed(list) => Ok(list.next()),
            Self::Stored { at, left, block, used } => {
                if *used == block.len() {
                    if *left == 0 {
                        return Ok(None);
                    }
                    let sightings = u64::try_from(block_bytes / STORED).unwrap_or(1).min(*left);
                    block.resize(usize::try_from(sightings).unwrap_or(1) * STORED, 0);
                    let file = file.as_mut().ok_or(io::ErrorKind::NotFound)?;
                    file.seek(SeekFrom::Start(*at))?;
                    file.read_exact(block)?;
                    *at += u64::try_from(block.len()).unwrap_or_default();
                    *left -= sightings;
                    *used = 0;
                }
                let stored = block[*used..].first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
                *used += STORED;
                Ok(Some(Sighting::of_stored(stored)))
            }
        }
    }
}

/// Calls `each` for every line once, and returns how many sightings were repeats.
///
/// # Errors
/// When the temporary file cannot be read.
pub fn distinct(lists: Vec<SightingList>, spill: &Spill, mut each: impl FnMut(&Sighting)) -> io::Result<u64> {
    let mut repeated = 0;
    let mut runs = vec![];
    for mut seen in lists {
        seen.settle();
        repeated += seen.repeated;
        runs.push(Run::Listed(seen.list.into_iter()));
    }
    spill.with(|spilled| {
        let mut at = 0;
        for left in std::mem::take(&mut spilled.runs) {
            runs.push(Run::Stored { at, left, block: vec![], used: 0 });
            at += left * u64::try_from(STORED).unwrap_or_default();
        }
        let file = &mut spilled.file;
        let block_bytes = (BLOCKS / runs.len().max(1)).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        // the next of each run, the smallest hash first
        let mut heap = BinaryHeap::with_capacity(runs.len());
        let mut heads = vec![];
        for (place, run) in runs.iter_mut().enumerate() {
            let first = run.next(file, block_bytes)?;
            if let Some(first) = &first {
                heap.push(Reverse((first.hash, place)));
            }
            heads.push(first);
        }
        let mut current: Option<Sighting> = None;
        while let Some(mut top) = heap.peek_mut() {
            let Reverse((_, place)) = *top;
            let next = runs[place].next(file, block_bytes)?;
            let Some(sighting) = std::mem::replace(&mut heads[place], next) else { break };
            match next {
                // the heap is put in order when `top` is dropped
                Some(next) => *top = Reverse((next.hash, place)),
                None => drop(PeekMut::pop(top)),
            }
            match &mut current {
                Some(current) if current.hash == sighting.hash => {
                    current.merge(&sighting);
                    repeated += 1;
                }
                _ => {
                    if let Some(done) = current.replace(sighting) {
                        each(&done);
                    }
                }
            }
        }
        if let Some(last) = current {
            each(&last);
        }
        spilled.file = None;
        Ok(())
    })?;
    Ok(repeated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sighting(id: u64, bytes_sent: u64, owner: u32) -> Sighting {
        Sighting { hash: hash(&[&id.to_le_bytes()]), bytes_sent, owner, tier: Tier::Second }
    }

    /// What `distinct` finds of sightings that `lists` threads have noted in turn, by hash.
    fn found(all: &[Sighting], lists: usize, most: usize) -> (BTreeMap<[u64; 2], Sighting>, u64, usize) {
        let spill = Spill::default();
        let mut seen: Vec<SightingList> = (0..lists).map(|_| SightingList::new(most, spill.clone())).collect();
        for (at, sighting) in all.iter().enumerate() {
            seen[at % lists].push(*sighting).unwrap();
        }
        let (runs, mut found) = (spill.runs(), BTreeMap::new());
        let repeated = distinct(seen, &spill, |sighting| {
            assert_eq!(found.insert(sighting.hash, *sighting), None, "twice");
        });
        (found, repeated.unwrap(), runs)
    }

    #[test]
    fn stored_sightings_come_back() {
        for tier in [Tier::Free, Tier::Second, Tier::First] {
            let one = Sighting { hash: [u64::MAX - 1, 7], bytes_sent: 1 << 62, owner: 70_000, tier };
            assert_eq!(Sighting::of_stored(&one.stored()), one);
        }
    }

    #[test]
    fn spilled_runs_give_what_memory_gives() {
        // every seventh line again, and every third of these a third time
        let mut all: Vec<Sighting> = (0..5_000).map(|id| sighting(id, id * 3, 3)).collect();
        all.extend((0..5_000).step_by(7).map(|id| sighting(id, id * 3, 3)));
        all.extend((0..5_000).step_by(21).map(|id| sighting(id, id * 3, 3)));
        let (in_memory, repeated, runs) = found(&all, 1, 1_000_000);
        assert_eq!((in_memory.len(), repeated, runs), (5_000, 715 + 239, 0));
        for (lists, most) in [(1, 10), (2, 64), (3, 1_000), (4, 1_700)] {
            let (spilled, repeated, runs) = found(&all, lists, most);
            assert!(runs > 2 || most > 1_000, "{runs} runs");
            assert_eq!(repeated, 715 + 239, "{lists} lists of {most}");
            assert!(spilled == in_memory, "{lists} lists of {most}");
        }
        all.reverse();
        let (reversed, ..) = found(&all, 2, 100);
        assert!(reversed == in_memory, "in another order");
    }

    #[test]
    fn one_line_a_million_times_is_one_line() {
        let all = vec![sighting(1, 9, 3); 20_000];
        for most in [4, 100, 100_000] {
            let (distinct, repeated, runs) = found(&all, 2, most);
            assert_eq!((distinct.len(), repeated), (1, 19_999));
            assert_eq!(runs, 0, "repeats make room");
        }
    }

    #[test]
    fn lines_of_one_request_that_differ_are_merged_in_any_order() {
        let all = [sighting(1, 9, 3), sighting(1, 10, 4), sighting(1, 9, 3), sighting(2, 1, 5), sighting(2, 1, 5)];
        for turned in 0..all.len() {
            let mut turned_all = all.to_vec();
            turned_all.rotate_left(turned);
            for most in [2, 100] {
                let (distinct, repeated, _) = found(&turned_all, 2, most);
                assert_eq!(repeated, 3);
                let one = distinct[&all[0].hash];
                assert_eq!((one.bytes_sent, one.owner), (10, CONTRADICTION));
                assert_eq!(distinct[&all[3].hash].owner, 5);
            }
        }
    }

    #[test]
    fn parts_of_a_hash_are_told_apart() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        assert_ne!(hash(&[b"ab"]), hash(&[b"ab", b""]));
        let [one, other] = hash(&[b"ab"]);
        assert_ne!(one, other);
    }
}
