//! How everything stands, and what needs a person: read once, shown by the metrics, the status page and `meter status`.
//!
//! [`overview`] has the types of one reading, [`checks`] says what of it needs a person (pure), [`collector`] reads it and keeps the
//! last one.

mod checks;
mod collector;
mod overview;

pub use self::checks::ALERTS;
pub(crate) use self::checks::{BILL_STALE, LITTLE_SPACE};
pub use self::collector::StatsCollector;
pub(crate) use self::collector::free_bytes_beside;
pub use self::overview::{BillingMode, Finding, LastAudit, Overview, Severity};
pub(crate) use self::overview::{NO_BILL, NO_WEBHOOK};
