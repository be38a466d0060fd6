//! Where chance comes from: one seed, and a stream of its own for each thing, so that one does not
//! move another.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The stream of chance with this number.
pub(crate) fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    chance.set_stream(number);
    chance
}

/// A random (version 4) UUID.
pub(crate) fn uuid(chance: &mut ChaCha8Rng) -> String {
    let bits = chance.random::<u128>() & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A UUID that is always the same for the same text.
pub(crate) fn uuid_of(text: &str) -> String {
    uuid(&mut stream(hash(text), 0))
}

/// FNV-1a: short, and the same on every machine.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
