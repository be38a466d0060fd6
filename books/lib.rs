//! The books: the durable truth of `meter`, and the only place that knows its SQL.
//!
//! One folder for each domain, each imports only those before it: [`units`] (exact numbers and
//! days), [`store`] (the connection, transactions, migrations), [`measured`], [`shared_bucket`],
//! [`limits`], [`customers`], [`usage`], [`stripe`], [`forecast`], [`audit`]. Each `mod.rs` says
//! what its domain owns, what it does not own, and what is always true of it.
//!
//! Books know no job and no clock: `now` is an argument.

pub mod audit;
pub mod customers;
pub mod forecast;
pub mod limits;
pub mod measured;
pub mod shared_bucket;
pub mod store;
pub mod stripe;
pub mod units;
pub mod usage;

pub use store::database::Database;
pub use store::error::BooksError;
pub use store::migrations::newest as newest_schema_version;
