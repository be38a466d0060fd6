//! Checks of the invariants, and figures for operators.
//!
//! **Owns** the tables `audits`, `billing_sums` and `findings`. **Does not own** the tables that it
//! reads: it changes nothing else, but for the messages about findings.
//!
//! **Invariants**: a check without violations has counted the rows that it read; a finding
//! that is not over has one row, and its beginning and its end have one message for each receiver,
//! made in the transaction that notes them.

pub mod billing_sums;
pub mod checks;
pub mod findings;
pub mod stats;
