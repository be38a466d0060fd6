//! Customers, their subscriptions, their billing periods and their TURN counters.
//!
//! **Owns** the tables `customers`, `subscriptions`, `subscription_items`, their histories
//! (`stripe_customers`, `subscription_anchors`, `subscription_item_history`), `billing_periods` and
//! `turn_periods`, and what people change in them by hand. An erasure renames a customer in the
//! tables of all floors. **Does not own** sign-up, which is the web backend's, nor payment, which
//! is Stripe's.
//!
//! **Invariants**: billing periods of a customer follow each other without gap or overlap; a closed
//! period never changes; an increment of a TURN counter is in exactly one period.

pub mod billing_period;
pub mod by_hand;
pub mod changes;
pub mod customer;
mod erasable;
pub mod erase;
pub mod known;
pub mod living_item;
pub mod periods;
pub mod search;
pub mod subscription;
