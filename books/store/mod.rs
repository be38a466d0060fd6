//! The database of the books: a local libSQL file or a remote server.
//!
//! **Owns** the connection and its thread, transactions and their fences, schema changes, copies of
//! whole books, and the tables `settings`, `audit_log` and `erased_customers`. **Does not own** the
//! meaning of any other table.
//!
//! **Invariants**: one transaction at a time; a transaction that began with a fence commits only
//! while the fence holds; a schema of a newer build is refused; a reported commit is on disk;
//! the audit log is appended and never changed.

pub mod audit_log;
pub mod connection;
pub mod copy;
pub mod database;
pub mod erased;
pub mod error;
pub mod migrations;
pub mod pace;
pub mod remote;
pub mod row_counts;
pub mod rows;
pub mod settings;
pub mod traffic;
