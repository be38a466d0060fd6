//! The books: nouns that every job shares, and the only place that knows their SQL.

pub mod audit;
pub mod bill;
pub mod billing_period;
pub mod billing_target;
pub mod budget;
pub mod customer;
pub mod database;
pub mod entitlement;
pub mod ledger;
pub mod meter;
pub mod meter_event;
mod migrations;
pub mod money;
pub mod notification;
pub mod parts;
pub mod calendar;
pub mod plan;
pub mod quantity;
pub mod reconciliation;
pub mod restore;
pub mod standing;
pub mod subscription;
pub mod periods;
pub mod verify;

pub use database::{BooksError, Database};
pub use migrations::newest as newest_schema_version;
