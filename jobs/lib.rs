//! The work of `meter`: one module for each kind of job, and [`books`], the nouns that they share.
//!
//! Read [`job`] first (what a job is and how it may end), then [`books`] (what must always be
//! true), then a job. Jobs never call each other; they meet in the books. Nothing here knows a
//! queue, a command line or a clock.

pub mod deliver_notifications;
pub mod enforce_budgets;
pub mod ingest_cur;
pub mod job;
pub mod probe;
pub mod push_stripe;
pub mod reconcile_stripe;
pub mod roll_counters;
pub mod roll_periods;
pub mod stripe;
pub mod sync_stripe;
pub mod verify_books;
mod wire;

/// The kinds of job that there are.
pub const KINDS: [&str; 11] = {
    use job::Job;
    [
        ingest_cur::IngestCur::KIND,
        ingest_cur::IngestPart::KIND,
        roll_periods::RollPeriods::KIND,
        enforce_budgets::EnforceBudgets::KIND,
        deliver_notifications::DeliverNotifications::KIND,
        sync_stripe::SyncStripe::KIND,
        push_stripe::PushStripe::KIND,
        reconcile_stripe::ReconcileStripe::KIND,
        roll_counters::RollCounters::KIND,
        verify_books::VerifyBooks::KIND,
        probe::Probe::KIND,
    ]
};
