//! The figures of everything and what needs attention, for the metrics, the status page and
//! `meter status`.
//!
//! `overview` has the types of one reading, `exports` what is known of each export, `checks` finds
//! what of it needs attention (both pure), and `collector` reads it and keeps the last one.

mod checks;
mod collector;
mod exports;
mod overview;

pub use self::checks::ALERTS;
pub(crate) use self::checks::{BILL_STALE, LITTLE_SPACE, act_on, blocked};
pub use self::collector::StatsCollector;
pub(crate) use self::collector::{MADE_BY_DEMO, free_bytes_beside};
pub(crate) use self::exports::gaps;
pub use self::exports::{ExportHealth, Gap, MonthGap};
pub use self::overview::{BillingMode, Finding, Overview, Severity};
pub(crate) use self::overview::{NO_BILL, NO_WEBHOOK, ShareFault};
