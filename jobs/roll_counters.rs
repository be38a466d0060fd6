//! `roll_counters`: moves the counters on customers' rows into the new month when it begins, before
//! its first bill arrives.
//!
//! AWS delivers a month's first bill up to a day late. Until then a counter with last month's
//! minutes would block a customer who has used nothing yet. Counters are always recomputed from the
//! books, so a late, early or doubled run changes nothing.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use books::units::calendar::Month;

/// Bring all counters into the current month.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollCounters {}

/// What a run changed.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct RollCountersReport {
    /// The month of all counters now.
    pub month: Month,
    /// Customers with counters that were moved.
    pub customers: u64,
}

impl Job for RollCounters {
    const KIND: &'static str = "roll_counters";
    const DESCRIPTION: &'static str = "bring the customers' counters into the current month";
    type Report = RollCountersReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<RollCountersReport, Failure> {
        let month = Month::of(now);
        context.books.require_migrated().await?;
        context.books.finish_bookings(now).await?;
        let customers = context.books.roll_counters(month).await?;
        if customers > 0 {
            tracing::info!(%month, customers, "the counters of {customers} customers entered {month}");
        }
        Ok(RollCountersReport { month, customers })
    }
}
