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
