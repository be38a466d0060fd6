//! Checks of the invariants, the log of what people did by hand, and figures for operators.
//!
//! **Owns** the tables `audits` and `audit_log`. **Does not own** the tables that it
//! reads: it changes nothing else.
//!
//! **Invariants**: the audit log is appended and never changed; a check without violations has
//! counted the rows that it looked at.

pub mod checks;
pub mod log;
pub mod stats;
