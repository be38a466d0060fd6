//! `roll_periods`: closes the TURN counts of billing periods that are over, and opens the periods
//! to come.
//!
//! The web backend counts each credential on the row of the period in which it is taken, so a
//! period begins by itself. This job may run late, early, twice or concurrently; only the time of
//! closing differs. Periods that were missed while nothing ran are opened and closed one by one. A
//! changed subscription moves the bounds of open periods; the count of a row that is no period any
//! more goes to the period that takes its time. Closed counts never change.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::context::Context;
use crate::job::{Failure, Job, Mode};
use crate::stripe::StripeMode;
pub use books::customers::periods::ClosedTurnPeriod;
use books::customers::periods::{DuePeriods, RolledPeriods, due_periods};
use books::limits::plan::Plans;
use books::store::pace::Pace;
use books::stripe::restore::billing_hold;
use books::{BooksError, Database};

/// Customers that are rolled in one transaction.
const CHUNK: Pace = Pace::new(500, 1000);
/// Closed counts, and customers, that a stored report lists.
const STORED: usize = 20;

/// Close what is over, open what comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollPeriods {
    /// Only report what would change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The report of a run, or of a dry run.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct RollPeriodsReport {
    /// True when nothing was changed.
    pub dry_run: bool,
    /// True when nothing was done, because the books were restored from a backup and the
    /// subscriptions are not read again yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_hold: bool,
    /// Customers with periods that are over, or not opened yet.
    pub customers: u64,
    pub closed: u64,
    /// Periods that were opened, or got other bounds.
    pub opened: u64,
    /// Open rows that a changed subscription removed; their counts are in another row.
    pub merged: u64,
    /// Customers with more than one living subscription. The one that began last governs.
    pub overlapping_subscriptions: u64,
    pub overlapping_customers: Vec<String>,
    pub counts: Vec<ClosedTurnPeriod>,
}

impl RollPeriodsReport {
    fn add(&mut self, rolled: RolledPeriods) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.closed += count(rolled.closed.len());
        self.opened += rolled.opened;
        self.merged += rolled.merged;
        self.overlapping_subscriptions += count(rolled.overlapping_subscriptions.len());
        self.overlapping_customers.extend(rolled.overlapping_subscriptions);
        self.counts.extend(rolled.closed);
    }

    /// Keeps the first `listed` counts and customers; the numbers stay.
    pub fn truncate(&mut self, listed: usize) {
        self.overlapping_customers.truncate(listed);
        self.counts.truncate(listed);
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
        let mut report = roll_unless_restored(context, now, Mode::of(self.dry_run)).await?;
        report.truncate(STORED);
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

/// As [`roll`], but does nothing while books that were restored from a backup wait for their
/// subscriptions. Two more periods stand open, so the web backend goes on counting meanwhile.
pub async fn roll_unless_restored(
    context: &Context,
    now: Timestamp,
    mode: Mode,
) -> Result<RollPeriodsReport, BooksError> {
    context.books.require_migrated().await?;
    let read = async move |c: &_| tokio::try_join!(billing_hold(c), due_periods(c, now));
    let (hold, due) = context.books.with_connection(read).await?;
    if matches!(context.billing.mode, StripeMode::Stripe(_)) && hold.is_some_and(|h| h.subscriptions_read_at.is_none())
    {
        return Ok(RollPeriodsReport { dry_run: mode == Mode::DryRun, on_hold: true, ..RollPeriodsReport::default() });
    }
    roll_due(&context.books, due, now, mode).await
}

/// Closes and opens periods as of `now`, and lists every closed count.
///
/// # Errors
/// Of the database. Each customer is done whole or not at all.
pub async fn roll(books: &Database, now: Timestamp, mode: Mode) -> Result<RollPeriodsReport, BooksError> {
    books.require_migrated().await?;
    let due = books.with_connection(async move |c| due_periods(c, now).await).await?;
    roll_due(books, due, now, mode).await
}

/// A closed period has ended by the database's clock too, so a worker with a clock that is ahead
/// closes nothing early.
async fn roll_due(
    books: &Database,
    DuePeriods { customers, clock }: DuePeriods,
    now: Timestamp,
    mode: Mode,
) -> Result<RollPeriodsReport, BooksError> {
    let mut report = RollPeriodsReport {
        dry_run: mode == Mode::DryRun,
        customers: u64::try_from(customers.len()).unwrap_or(u64::MAX),
        ..RollPeriodsReport::default()
    };
    if customers.is_empty() {
        return Ok(report);
    }
    let plans: Plans = books.plans().await?;
    let (mut rest, mut pace) = (customers.as_slice(), CHUNK);
    while !rest.is_empty() {
        let (start, some) = (Instant::now(), pace.take(&mut rest));
        let rolled = match mode {
            Mode::DryRun => books.periods_to_roll(some.to_vec(), now).await?,
            Mode::Write => books.roll_periods(some.to_vec(), plans.clone(), now.min(clock)).await?,
        };
        report.add(rolled);
        pace.learn(some.len(), start);
    }
    Ok(report)
}
