//! Checks of the invariants, and figures for operators.
//!
//! **Owns** the tables `audits` and `billing_sums`. **Does not own** the tables that
//! it reads: it changes nothing else.
//!
//! **Invariants**: a check without violations has counted the rows that it read.

pub mod billing_sums;
pub mod checks;
pub mod stats;
