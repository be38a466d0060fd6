//! The usage that the web backend measures, long before AWS bills it.
//!
//! **Owns** the tables `measured_meters`, `measurements`, `measured_days` and `measured_accuracy`,
//! how a level over time becomes usage of a day, and how it is compared with the bill. **Does not
//! own** the statements that write measurements (`docs/backend-contract.md`), nor what measured
//! usage decides (`limits/settled.rs`).
//!
//! **Invariants**: measured usage is never booked; a measurement counts once, in `measurements` or
//! in `measured_days`; sums are exact integers, and each customer, meter and day is rounded once.

pub mod accrual;
pub mod accuracy;
pub(crate) mod by_day;
pub mod folding;
pub mod measurements;
pub mod metered_day;
pub mod policy;
