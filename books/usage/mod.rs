//! The usage that AWS bills, and the usage that is booked.
//!
//! **Owns** the tables `bill_versions`, `bill_files`, `bill_lines`, `bill_totals`, `bill_parts`,
//! `bookings`, `cost_lines`, `ledger_entries` and `usage_totals`, the applied plans of changes, and
//! the rules by which a bill line belongs to a meter. **Does not own** how a bill is found and read
//! (`jobs/ingest_cur`).
//!
//! **Invariants**: for each applied version and meter, attributed + unattributed + excluded = the
//! sum over the file's lines; a version counts whole, from one commit on; the ledger is appended
//! and never changed; `usage_totals` equals the ledger.

pub mod applied_plans;
pub mod bill;
pub mod booking;
pub mod cost;
pub mod difference;
pub mod entries;
pub mod ledger;
pub mod meter;
pub mod months;
pub mod partial_reads;
pub mod reverting;
pub mod tag_key;
pub mod wanted;
