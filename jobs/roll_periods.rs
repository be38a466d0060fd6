//! `roll_periods`: closes the TURN counts of billing periods that are over, and opens the periods
//! to come.
//!
//! The web backend counts each credential on the row of the period in which it is taken, so a
//! period begins when its time comes; this job may run late, early, twice or beside itself and
//! changes nothing but when a count is called closed. Periods that were missed while nothing ran
//! are opened and closed one by one. A changed subscription moves the bounds of open periods; what
//! was counted on a row that is no period any more goes to the one that takes its time.
//! ClosedTurnPeriod counts are never touched.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use crate::stripe::StripeMode;
pub use books::customers::periods::ClosedTurnPeriod;
use books::customers::periods::RolledPeriods;
use books::{BooksError, Database};

/// Customers in one transaction on a local file: few enough that the web backend hardly waits for
/// it.
const CHUNK: usize = 1000;
/// The same over a network, where servers end transactions after seconds.
const REMOTE_CHUNK: usize = 200;
/// ClosedTurnPeriod counts and names that a stored report lists.
const SHOWN: usize = 20;

/// Close what is over, open what comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollPeriods {
    /// Only report what would change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RollPeriodsReport {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// True when nothing was done, because these books were restored and subscriptions are not read
    /// again yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub awaits_subscriptions: bool,
    /// Customers whose periods were looked at.
    pub customers: u64,
    pub closed: u64,
    /// Periods that were opened, or got other bounds.
    pub opened: u64,
    /// Open rows that a changed subscription did away with; their counts are in another row.
    pub merged: u64,
    /// Customers for whom more than one subscription lives; the one that began last decides.
    pub overlapping_subscriptions: u64,
    pub overlapping_customers: Vec<String>,
    /// Some of the closed counts.
    pub counts: Vec<ClosedTurnPeriod>,
}

impl RollPeriodsReport {
    fn add(&mut self, rolled: RolledPeriods, shown: usize) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.closed += count(rolled.closed.len());
        self.opened += rolled.opened;
        self.merged += rolled.merged;
        self.overlapping_subscriptions += count(rolled.overlapping_subscriptions.len());
        let room = |len: usize| shown.saturating_sub(len);
        self.overlapping_customers
            .extend(rolled.overlapping_subscriptions.into_iter().take(room(self.overlapping_customers.len())));
        self.counts.extend(rolled.closed.into_iter().take(room(self.counts.len())));
    }
}

impl Job for RollPeriods {
    const KIND: &'static str = "roll_periods";
    const DESCRIPTION: &'static str = "close the TURN counts of billing periods that are over, and open the next";
    type Report = RollPeriodsReport;

    fn key(&self) -> Option<String> {
        Some(if self.dry_run { "roll_periods dry run".to_owned() } else { Self::KIND.to_owned() })
    }

    fn needs_attention(report: &RollPeriodsReport) -> bool {
        report.overlapping_subscriptions > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<RollPeriodsReport, Failure> {
        let report = run(context, now, self.dry_run, SHOWN).await?;
        if report.overlapping_subscriptions > 0 {
            let names = report.overlapping_customers.join(", ");
            tracing::warn!(
                overlapping_subscriptions = report.overlapping_subscriptions,
                "customers with more than one living subscription: {names}"
            );
        }
        Ok(report)
    }
}

/// As [`roll`]; nothing while books that were restored from a backup do not know yet which
/// subscriptions there are. Two more periods stand open, so nobody misses them meanwhile.
pub async fn run(
    context: &Context,
    now: Timestamp,
    dry_run: bool,
    shown: usize,
) -> Result<RollPeriodsReport, BooksError> {
    context.books.require_migrated().await?;
    if matches!(context.billing.mode, StripeMode::Stripe(_)) && context.books.awaits_subscriptions(now).await? {
        tracing::info!(
            "these books were restored from a backup: periods are closed when every subscription has been read (`sync_stripe`)"
        );
        return Ok(RollPeriodsReport { dry_run, awaits_subscriptions: true, ..RollPeriodsReport::default() });
    }
    roll(&context.books, now, dry_run, shown).await
}

/// Closes and opens periods as of `now`; lists at most `shown` of what it closed.
///
/// # Errors
/// What the database says. Customers before the error are done whole, the others not at all.
pub async fn roll(
    books: &Database,
    now: Timestamp,
    dry_run: bool,
    shown: usize,
) -> Result<RollPeriodsReport, BooksError> {
    books.require_migrated().await?;
    let customers = books.customers_to_roll(now).await?;
    let mut report = RollPeriodsReport { dry_run, ..RollPeriodsReport::default() };
    report.customers = u64::try_from(customers.len()).unwrap_or(u64::MAX);
    if customers.is_empty() {
        return Ok(report);
    }
    let plans = books.plans().await?;
    for some in customers.chunks(if books.is_local() { CHUNK } else { REMOTE_CHUNK }) {
        let rolled = if dry_run {
            books.periods_to_roll(some.to_vec(), now).await?
        } else {
            books.roll_periods(some.to_vec(), plans.clone(), now).await?
        };
        report.add(rolled, shown);
    }
    Ok(report)
}
