//! What a customer may use, and what becomes of what was used: plans, overage budgets, the
//! decisions made from them, and the notifications to the web backend and the operator.
//!
//! **Owns** the tables `plans`, `plan_meters`, `overage_budgets`, `entitlements`,
//! `entitlement_changes`, `enforcement`, `enforcement_due`, `customer_plans`,
//! `overage_billing_changes`, `notifications` and `operator_messages`. **Does not own** how a
//! decision is made (`jobs/enforce_budgets`), nor how a notification is sent
//! (`jobs/deliver_notifications.rs`).
//!
//! **Invariants**: allowed is the same as used below the effective limit; each crossing of a
//! threshold has one notification, made in the transaction of its decision; the terms of a plan
//! version never change; money is never computed from measured usage.

pub mod budget;
pub mod customer_facts;
pub mod decisions;
pub mod due;
pub mod enforcement;
pub mod entitlement;
pub mod notification;
pub mod open_usage;
pub mod operator_message;
pub mod overage_billing;
pub mod plan;
pub mod rating;
pub mod settled;
pub mod stored_decisions;
pub mod terms;
pub mod terms_history;
