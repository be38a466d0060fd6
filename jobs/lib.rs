//! The work of `meter`: one module for each kind of job.
//!
//! A guided tour: [`job`] (what a job is and how it may end), [`context`] (what jobs are given),
//! then the `books` (what must always be true), then the jobs in the order in which a bill becomes
//! an invoice:
//!
//! 1. [`ingest_cur`] reads a bill of AWS and books what it changes; `ingest_part` reads one part
//!    of a large bill for it, `check_months` looks whether AWS changed months that are over.
//! 2. [`roll_counters`] moves the customers' counters into the new month, [`roll_periods`] closes
//!    billing periods and opens the next.
//! 3. [`enforce_budgets`] decides what each customer may go on using;
//!    [`deliver_notifications`] sends what it decided to the web backend.
//! 4. [`sync_stripe`] reads subscriptions, [`push_stripe`] sends usage, [`reconcile_stripe`]
//!    compares Stripe's totals with the books; they share the client in [`stripe`].
//! 5. [`ingest_inventory`] and [`ingest_access_logs`] read S3's reports about buckets that all
//!    customers share; they have [`shared_bucket`] in common.
//! 6. [`fold_measurements`] keeps measurements few, [`forecast_usage`] forecasts the ends of
//!    months, [`verify_books`] checks the invariants of the books, [`operator_digest`] sends the
//!    operator the figures of a week ([`operator_message`] has the words), [`probe`] tries the
//!    queue.
//!
//! [`restore`] is no job: a person imports Stripe's totals into restored books. Neither is
//! [`changes`]: a person looks at a change, applies it, and can revert it.
//!
//! Jobs never call each other; they meet in the books. Nothing here knows a queue, a command line
//! or the wall clock: `now` is an argument. A monotonic clock, for pacing and for the time that a
//! run has taken, and the number of cores are allowed (law 3, `clippy.toml`).

pub mod changes;
pub mod context;
pub mod data_files;
pub mod deliver_notifications;
pub mod enforce_budgets;
pub mod fold_measurements;
pub mod forecast_usage;
mod http_error;
pub mod ingest_access_logs;
pub mod ingest_cur;
pub mod ingest_inventory;
pub mod job;
mod listed;
pub mod operator_digest;
pub mod operator_message;
pub mod probe;
pub mod push_stripe;
pub mod reconcile_stripe;
pub mod restore;
pub mod roll_counters;
pub mod roll_periods;
mod s3_error;
pub mod shared_bucket;
pub mod source;
pub mod stripe;
pub mod sync_stripe;
pub mod verify_books;

use job::Job;

/// The names of all kinds of jobs.
pub const KINDS: [&str; 17] = [
    ingest_cur::IngestCur::KIND,
    ingest_cur::IngestPart::KIND,
    ingest_cur::CheckMonths::KIND,
    ingest_inventory::IngestInventory::KIND,
    ingest_access_logs::IngestAccessLogs::KIND,
    roll_counters::RollCounters::KIND,
    roll_periods::RollPeriods::KIND,
    enforce_budgets::EnforceBudgets::KIND,
    deliver_notifications::DeliverNotifications::KIND,
    sync_stripe::SyncStripe::KIND,
    push_stripe::PushStripe::KIND,
    reconcile_stripe::ReconcileStripe::KIND,
    fold_measurements::FoldMeasurements::KIND,
    forecast_usage::ForecastUsage::KIND,
    verify_books::VerifyBooks::KIND,
    operator_digest::OperatorDigest::KIND,
    probe::Probe::KIND,
];
