//! The figures of everything and what needs attention, for the metrics, the status page and
//! `meter status`.
//!
//! `overview` has the types of one reading, `checks` finds what of it needs attention (pure),
//! and `collector` reads it and keeps the last one.

mod checks;
mod collector;
mod overview;

pub use self::checks::ALERTS;
pub(crate) use self::checks::{BILL_STALE, LITTLE_SPACE, act_on, blocked};
pub use self::collector::StatsCollector;
pub(crate) use self::collector::{MADE_BY_DEMO, free_bytes_beside};
pub use self::overview::{BillingMode, Finding, Overview, Severity};
pub(crate) use self::overview::{NO_BILL, NO_WEBHOOK};
