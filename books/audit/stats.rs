//! How the books stand: the few figures that tell an operator whether money is right and work is
//! moving.
//!
//! One reading serves the metrics, the status page and `meter status`, so that they can never tell
//! different things. It comes in two halves: what indexes answer at once, and what must look at
//! every customer and is therefore asked less often.

mod read;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::stripe::alarm::TargetAlarm;
use crate::units::quantity::Quantity;

/// Under this name `settings` remembers that the account which these books billed in was made up,
/// and is gone.
pub const OF_A_DEMO: &str = "demo";

/// Days of which usage is told one by one.
pub const DAYS: i32 = 35;

/// What indexes answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BooksStanding {
    pub entries: i64,
    pub bills: Vec<BillStanding>,
    /// Usage of the current month, by meter.
    pub month: Vec<MonthUsage>,
    /// Usage of the last days, oldest first.
    pub days: Vec<DayUsage>,
    /// Since when the oldest TURN period is over that is not closed.
    pub turn_overdue_since: Option<Timestamp>,
    /// What is sent to Stripe.
    pub stripe: StripeStanding,
    /// What the web backend is told.
    pub notifications: NotificationStats,
    /// Bytes of a local database.
    pub size_bytes: Option<i64>,
}

/// The bill of a payer.
#[derive(Clone, Debug, Serialize)]
pub struct BillStanding {
    /// Label of the payer account.
    pub payer: String,
    /// Newest month of which a version is booked.
    pub month: String,
    /// When AWS made the newest version that is booked.
    pub delivered_at: Option<Timestamp>,
    /// Up to when it tells of usage, by which budgets are decided: the end of the newest day, or
    /// the delivery, if that was before.
    pub usage_through: Option<Timestamp>,
    /// Rows of the newest month's booked version.
    pub rows: i64,
    /// Of these, the ones that a meter counted.
    pub matched_rows: i64,
    /// Lines of watched products in it, and in that of the month before, by who claims them.
    pub lines: BTreeMap<String, i64>,
    /// Versions that wait for a person.
    pub on_hold: i64,
    /// Why, of the newest of them.
    pub hold_reason: Option<String>,
}

impl BillStanding {
    /// That of a payer of whom nothing is booked.
    pub fn none(payer: &str) -> Self {
        Self {
            payer: payer.to_owned(),
            month: String::new(),
            delivered_at: None,
            usage_through: None,
            rows: 0,
            matched_rows: 0,
            lines: BTreeMap::new(),
            on_hold: 0,
            hold_reason: None,
        }
    }
}

/// Usage of a meter in the current month.
#[derive(Clone, Debug, Serialize)]
pub struct MonthUsage {
    pub meter: String,
    pub attributed: Quantity,
    pub unattributed: Quantity,
    /// Days of the month of which usage is told: up to the newest with usage of the meter, or of
    /// any other meter less two days, if that is later.
    pub days: i64,
}

/// Usage of a meter on one day.
#[derive(Clone, Debug, Serialize)]
pub struct DayUsage {
    /// The day (UTC), as `2026-03-01`.
    pub day: String,
    pub meter: String,
    pub attributed: Quantity,
    pub unattributed: Quantity,
}

/// What is sent to Stripe.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StripeStanding {
    /// Meter events in the states `pending`, `sending`, `unconfirmed`, `refused`, and `settled` for
    /// all others.
    pub events: BTreeMap<&'static str, i64>,
    /// When the oldest one was made that was not sent yet.
    pub oldest_pending_at: Option<Timestamp>,
    /// Since when the oldest unconfirmed one is unconfirmed.
    pub oldest_unconfirmed_at: Option<Timestamp>,
    /// Totals that a person must look at.
    pub alarms: i64,
    /// Some of them.
    pub some_alarms: Vec<TargetAlarm>,
    /// These books were made by `meter demo`.
    #[serde(skip)]
    pub of_a_demo: bool,
}

/// Notifications to the web backend.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NotificationStats {
    pub pending: i64,
    pub dead: i64,
    /// When the oldest pending one was made.
    pub oldest_pending_at: Option<Timestamp>,
}

/// What must look at every customer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CustomersStanding {
    pub by_status: BTreeMap<String, i64>,
    /// Customers by meter and decision.
    pub decisions: BTreeMap<String, Decisions>,
    /// Some customers whose limit is reached or near, blocked ones first.
    pub pressed: Vec<Pressed>,
    /// Usage of the current month and the one before under ids that no customer has a row for, by
    /// meter: it is billed nowhere.
    pub unknown: BTreeMap<String, Quantity>,
    /// TURN credentials handed out in current billing periods.
    pub turn_used: i64,
    pub turn_refused: i64,
    /// By meter: how far Stripe's totals are from what was sent, in units of the meter, of events
    /// that have had a day to show; above and below both count.
    pub drift: BTreeMap<String, Quantity>,
    /// Amounts that wait to be carried forward, by reason; `acknowledged` for those that a person
    /// has dealt with.
    pub deferred: BTreeMap<String, i64>,
    /// By meter: how much that is, in its units; negative is to be taken back.
    pub deferred_units: BTreeMap<String, Quantity>,
    /// Since when the oldest amount waits that is to be billed and that nobody has acknowledged.
    pub oldest_deferred_at: Option<Timestamp>,
}

/// How many customers were decided how, for one meter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    pub allowed: i64,
    /// Allowed, and 80 % of the limit used.
    pub near: i64,
    /// Allowed, beyond what is included.
    pub overage: i64,
    pub blocked: i64,
    /// Blocked for another reason: nothing is included and nothing was used, not in the plan,
    /// canceled, an unknown plan.
    pub denied: i64,
}

/// A customer whose limit is reached or near.
#[derive(Clone, Debug, Serialize)]
pub struct Pressed {
    pub customer: String,
    pub meter: String,
    /// Whether it may still be used.
    pub allowed: bool,
    pub reason: String,
    /// Used in the billing period.
    pub used: Quantity,
    /// Up to where it may be used; none: without end.
    pub limit: Option<Quantity>,
}
