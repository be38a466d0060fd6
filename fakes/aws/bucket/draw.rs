//! Streams of chance: one for each day of a bucket and each thing that is drawn.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::BucketWorld;
use crate::random::{hash, stream};

/// What is drawn, each without moving the others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drawn {
    Objects,
    Requests,
    /// When the Inventory of a night begins.
    Scans,
    LostObjects,
    /// Lines that are lost, late or doubled.
    Lines,
    Restatement,
}

/// The stream of a day.
pub(super) fn chance_of(world: &BucketWorld, drawn: Drawn, day: i64) -> ChaCha8Rng {
    let spec = &world.spec;
    let name = format!("bucket {} {}-{} {day} {drawn:?}", spec.bucket, spec.year, spec.month);
    stream(spec.seed, hash(&name))
}

/// True for so many of a thousand. It always draws, so that a share moves nothing else.
pub(super) fn is_one_of(share: u16, chance: &mut ChaCha8Rng) -> bool {
    chance.random_range(0..1000) < share
}
