//! What Stripe was told, what it should have been told, and what its totals say.
//!
//! **Owns** the tables `meter_events`, `billing_targets`, `stripe_due`, `stripe_meters`,
//! `stripe_reads`, `stripe_error_reports` and `restored_bills`. **Does not own** what is to be sent
//! (`jobs/push_stripe/decide.rs`), nor how a total is judged (`jobs/reconcile_stripe`).
//!
//! **Invariants**: what is sent is fixed before the first attempt; an identifier is never used for
//! two events; one open event of a customer and meter is sent at a time; accepted + deferred =
//! target once nothing is open, refused or discarded.

pub mod acknowledgement;
pub mod alarm;
pub mod billing_target;
pub mod comparison;
pub mod difference;
pub mod invoice;
pub mod meter_event;
pub mod reconciliation;
pub mod restoration;
pub mod restore;
