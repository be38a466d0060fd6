//! Code that the tests of `jobs` and of `meter` share.
//!
//! Owns: the random histories of billing with their invariants (`billing_world`), books and a
//! bucket of small bills (`ingest_fixture`), S3 Inventories (`inventories`), files that stand for
//! gigabytes (`bombs`, by `handmade_parquet`), the check of requests to Stripe (`judge`), empty
//! books (`migrated`), a database server with faults on demand (`hrana`), suites over it
//! (`suite_database`), the search for what tests need (`needs`) and the list of skipped tests
//! (`skipped`).
//!
//! Does not own: code that needs the program or the library `meter`. It is in `tests/it/support`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

pub mod billing_world;
pub mod bombs;
pub mod handmade_parquet;
pub mod hrana;
pub mod ingest_fixture;
pub mod inventories;
pub mod judge;
pub mod migrated;
pub mod needs;
pub mod skipped;
pub mod suite_database;
pub mod usage;
