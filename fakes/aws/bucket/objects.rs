//! What lies in the bucket, and from when to when.

use anyhow::Result;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::draw::{Drawn, chance_of, is_one_of};
use super::{BucketWorld, DAY};

/// Fewest bytes of an object of STANDARD_IA: AWS bills smaller ones as so many.
pub(super) const LEAST_INFREQUENT: u64 = 128 << 10;

/// S3's storage classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StorageClass {
    Standard,
    Infrequent,
}

impl StorageClass {
    /// As reports name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::Infrequent => "STANDARD_IA",
        }
    }
}

/// Why an object ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectEnd {
    Lifecycle,
    Deleted,
    Overwritten,
}

/// Whether an object is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    Listed,
    /// Inventories leave it out, by their fault.
    Lost,
    /// Parts of an upload that is never finished: no Inventory lists them.
    Unfinished,
}

/// Bytes that are billed for some time. Times are seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct BucketObject {
    pub(super) key: String,
    /// Whom the key names: a place among the customers.
    pub(super) customer: Option<usize>,
    pub(super) bytes: u64,
    pub(super) class: StorageClass,
    pub(super) created: i64,
    /// The end by the lifecycle rule.
    pub(super) expires: i64,
    /// The end of what is billed; not after `expires`.
    pub(super) ended: i64,
    /// Lists have it until then.
    pub(super) removed: i64,
    pub(super) end: ObjectEnd,
    pub(super) listing: Listing,
}

impl BucketObject {
    /// Byte-seconds between two instants of it, within an interval.
    pub(super) fn byte_seconds(&self, from: i64, until: i64, within: (i64, i64)) -> u128 {
        let seconds = until.min(within.1).saturating_sub(from.max(within.0));
        u128::from(self.bytes) * u128::try_from(seconds).unwrap_or(0)
    }
}

/// The first midnight at or after creation and a day.
fn lifecycle_end(created: i64) -> i64 {
    let day_later = created + DAY;
    day_later + (-day_later).rem_euclid(DAY)
}

/// The objects that are made on a day, and those that later overwrite them.
pub(super) fn draw(world: &mut BucketWorld, day: i64) -> Result<()> {
    let mut chance = chance_of(world, Drawn::Objects, day);
    let mut losses = chance_of(world, Drawn::LostObjects, day);
    for number in 0..world.spec.uploads_per_day {
        let drawn = one(world, (day, number), &mut chance)?;
        let next = (drawn.end == ObjectEnd::Overwritten).then(|| overwriting(world, &drawn, &mut chance));
        for mut object in [drawn].into_iter().chain(next) {
            let is_lost = is_one_of(world.spec.shares.lost_objects, &mut losses);
            if is_lost && object.listing == Listing::Listed {
                object.listing = Listing::Lost;
            }
            world.objects.push(object);
        }
    }
    Ok(())
}

fn one(world: &BucketWorld, (day, number): (i64, u32), chance: &mut ChaCha8Rng) -> Result<BucketObject> {
    let (spec, shares) = (&world.spec, world.spec.shares);
    let customers = spec.customers.len();
    let owner = chance.random_range(0..customers).min(chance.random_range(0..customers));
    let customer = Some(owner).filter(|_| !is_one_of(shares.of_nobody, chance));
    let created = world.calendar.second(day) + chance.random_range(0..DAY);
    let class = match is_one_of(shares.infrequent, chance) {
        true => StorageClass::Infrequent,
        false => StorageClass::Standard,
    };
    let unfinished = is_one_of(shares.unfinished, chance);
    let early = is_one_of(shares.ended_early, chance) && !unfinished;
    let expires = lifecycle_end(created);
    let early_end = chance.random_range(created + 1..expires);
    let overwritten = chance.random::<bool>();
    let removal = chance.random_range(0..10 * 3600);
    let (end, ended, removed) = match (early, overwritten) {
        (false, _) => (ObjectEnd::Lifecycle, expires, expires + removal),
        (true, false) => (ObjectEnd::Deleted, early_end, early_end),
        (true, true) => (ObjectEnd::Overwritten, early_end, early_end),
    };
    let bytes = bytes(spec.largest_bytes, class, chance);
    Ok(BucketObject {
        key: key(world, customer, (day, number)),
        customer,
        bytes,
        class,
        created,
        expires,
        ended,
        removed,
        end,
        listing: if unfinished { Listing::Unfinished } else { Listing::Listed },
    })
}

/// The object that takes the place of another one, and lives until its own end.
fn overwriting(world: &BucketWorld, old: &BucketObject, chance: &mut ChaCha8Rng) -> BucketObject {
    let expires = lifecycle_end(old.ended);
    BucketObject {
        bytes: bytes(world.spec.largest_bytes, old.class, chance),
        created: old.ended,
        expires,
        ended: expires,
        removed: expires + chance.random_range(0..10 * 3600),
        end: ObjectEnd::Lifecycle,
        ..old.clone()
    }
}

/// More small ones than large ones.
fn bytes(largest: u64, class: StorageClass, chance: &mut ChaCha8Rng) -> u64 {
    let bytes = chance.random_range(1..=largest).min(chance.random_range(1..=largest));
    if class == StorageClass::Infrequent { bytes.max(LEAST_INFREQUENT) } else { bytes }
}

/// Keys with all that has to be encoded.
fn key(world: &BucketWorld, customer: Option<usize>, (day, number): (i64, u32)) -> String {
    let date = world.calendar.date(day);
    let file = match number % 5 {
        0 => format!("Fotos \u{fc}ber+unter {number}.jpg"),
        1 => format!("100%25 {number}.bin"),
        2 => format!("a=b&c;({number}).txt"),
        _ => format!("upload-{number:06}.bin"),
    };
    match customer {
        Some(_) => format!("c/{}/{date}/{file}", world.customer(customer)),
        None => format!("public/{date}/{file}"),
    }
}
