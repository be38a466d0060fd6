//! What the tests of `jobs` and of `meter` share.
//!
//! Owns: the random histories of billing with their invariants (`billing_world`), books beside a
//! bucket of small bills (`ingest_fixture`), the judge of requests to Stripe (`judge`), a database
//! server that misbehaves on demand (`hrana`), what tests need (`needs`) and the list of those that
//! were skipped (`skipped`).
//!
//! Does not own: what needs the program or the library `meter`, which stays in `tests/it/support`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

pub mod billing_world;
pub mod hrana;
pub mod ingest_fixture;
pub mod judge;
pub mod needs;
pub mod skipped;
