//! Looking at the books: checks of the invariants, the log of what people did, and the figures for
//! operators.
//!
//! **Owns** the tables `audits` and `audit_log`. **Does not own** anything that it looks at: it
//! changes nothing else.
//!
//! **Invariants**: the audit log is appended and never changed; a check that finds nothing has
//! looked.

pub mod checks;
pub mod log;
pub mod stats;
