//! Meter events for Stripe, billing targets, and the comparison with Stripe's totals.
//!
//! **Owns** the tables `meter_events`, `billing_targets`, `acknowledgements`, `stripe_due`,
//! `stripe_meters`, `stripe_reads` and `stripe_error_reports`. **Does not own** the decision how
//! much is sent (`jobs/push_stripe/decide.rs`), nor the judgement of a total
//! (`jobs/reconcile_stripe`).
//!
//! **Invariants**: the contents of an event are fixed before its first attempt; no two events have
//! the same identifier; of each customer and meter, one open event is sent at a time; accepted +
//! deferred = target once no event is open, refused or discarded. An event is open while it is
//! pending, being sent or unconfirmed.

pub mod acknowledgement;
pub mod alarm;
pub mod billing_target;
pub mod charge;
pub mod comparison;
pub mod difference;
pub mod due;
pub mod error_report;
pub mod invoice;
pub mod meter_event;
pub mod no_invoice;
pub mod placement;
pub mod planning;
pub mod pushed;
pub mod reconciliation;
pub mod restore;
pub mod stripe_meter;
