//! Figures for operators. One reading serves the metrics, the status page and `meter status`, so
//! that they agree.
//!
//! It comes in two halves: [`BooksStats`], which indexes answer at once, and [`CustomerStats`],
//! which reads every customer and is therefore asked less often. [`customer_marks`] says whether
//! the second half may have changed.

mod read;

pub use read::{amounts, books_stats, counted_customers, customer_marks, customer_stats};

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::forecast::stored::{MeterForecast, UnusualOfMeter};
use crate::measured::accuracy::MeterAccuracy;
use crate::shared_bucket::stored::BookedShare;
use crate::stripe::alarm::TargetAlarm;
use crate::units::quantity::Quantity;
use crate::usage::bill::BillNote;
use crate::usage::cost::BilledCost;

/// The days in [`BooksStats::days`].
pub const DAYS: i32 = 35;

/// The days in [`BooksStats::shares`].
pub const SHARED_DAYS: i32 = 14;

/// So many pending notifications are counted with each look, and all of them with the customers.
pub const MANY: i64 = 50;

/// Figures that indexes answer.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct BooksStats {
    pub entries: i64,
    pub bills: Vec<BillStats>,
    /// Usage of the current month, by meter.
    pub month: Vec<MonthUsage>,
    /// Usage of the last days, oldest first.
    pub days: Vec<DayUsage>,
    /// End of the oldest TURN period that is over and not closed.
    pub turn_overdue_since: Option<Timestamp>,
    /// When `enforce_budgets` last looked at every customer.
    pub enforced_at: Option<Timestamp>,
    pub stripe: StripeStats,
    pub notifications: NotificationStats,
    /// Messages to the operator.
    pub operator_messages: NotificationStats,
    /// Measured against billed usage by meter, as it was compared last.
    pub accuracy: Vec<MeterAccuracy>,
    /// What each meter as a whole will have been used at the end of the month, as it was forecast
    /// last.
    pub forecasts: Vec<MeterForecast>,
    /// Settled days far outside of what was expected of them, by meter.
    pub unusual: Vec<UnusualOfMeter>,
    /// The billed days of shared buckets of the last weeks, oldest first.
    pub shares: Vec<BookedShare>,
    /// What AWS charges, by cost meter, in the newest bill of each payer.
    pub costs: Vec<BilledCost>,
    /// Bytes of the database; none for a remote one.
    pub size_bytes: Option<i64>,
}

/// The bill of a payer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct BillStats {
    /// Label of the payer account.
    pub payer: String,
    /// Newest month of which a version is booked.
    pub month: String,
    /// When AWS delivered the newest booked version.
    pub delivered_at: Option<Timestamp>,
    /// End of the newest day with usage, or the delivery if that was earlier. Budgets are decided
    /// by it.
    pub usage_through: Option<Timestamp>,
    /// Rows of the newest month's booked version.
    pub rows: i64,
    /// Those of `rows` that a meter counted.
    pub counted_rows: i64,
    /// Lines of watched products by claim, in the versions of this month and the one before.
    pub lines: BTreeMap<String, i64>,
    /// Of the booked versions of the last year, the newest month first.
    pub notes: Vec<MonthNote>,
    pub on_hold: i64,
    /// Of the newest version on hold.
    pub hold_reason: Option<String>,
}

impl BillStats {
    /// The stats of a payer without a booked version.
    pub fn none(payer: &str) -> Self {
        Self {
            payer: payer.to_owned(),
            month: String::new(),
            delivered_at: None,
            usage_through: None,
            rows: 0,
            counted_rows: 0,
            lines: BTreeMap::new(),
            notes: vec![],
            on_hold: 0,
            hold_reason: None,
        }
    }
}

/// A note of a booked version.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MonthNote {
    pub month: String,
    /// Older months with a note of the same kind, the newest first.
    pub also: Vec<String>,
    #[serde(flatten)]
    pub note: BillNote,
}

impl MonthNote {
    /// The months in words.
    pub fn months(&self) -> String {
        match self.also.is_empty() {
            true => self.month.clone(),
            false => format!("{} (also {})", self.month, self.also.join(", ")),
        }
    }
}

/// Usage of a meter in the current month.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct MonthUsage {
    pub meter: String,
    pub attributed: Quantity,
    pub unattributed: Quantity,
    /// Days of the month that the bill covers: up to the newest day with usage of this meter, or
    /// two days less than the newest of any meter, if that is later.
    pub days: i64,
}

/// Usage of a meter on one day.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DayUsage {
    /// The day (UTC), as `2026-03-01`.
    pub day: String,
    pub meter: String,
    pub attributed: Quantity,
    pub unattributed: Quantity,
}

/// Meter events, and alarms of their totals.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct StripeStats {
    pub events: EventCounts,
    /// When the oldest pending event was made.
    pub oldest_pending_at: Option<Timestamp>,
    /// First attempt of the oldest unconfirmed event.
    pub oldest_unconfirmed_at: Option<Timestamp>,
    /// Billing targets with an alarm.
    pub alarms: i64,
    /// The first of them.
    pub some_alarms: Vec<TargetAlarm>,
    /// When the backup was made, while billing of restored books is on hold.
    pub restored_from: Option<Timestamp>,
}

/// Meter events by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct EventCounts {
    pub pending: i64,
    pub sending: i64,
    pub unconfirmed: i64,
    pub refused: i64,
    /// All other states.
    pub settled: i64,
}

impl EventCounts {
    /// Each count with its name, as the metrics and JSON call it.
    pub fn named(&self) -> [(&'static str, i64); 5] {
        let Self { pending, sending, unconfirmed, refused, settled } = *self;
        [
            ("pending", pending),
            ("sending", sending),
            ("unconfirmed", unconfirmed),
            ("refused", refused),
            ("settled", settled),
        ]
    }
}

/// Notifications to the web backend, or messages to the operator.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct NotificationStats {
    /// Counted up to [`MANY`]: without a receiver they are kept, and there is no end to them.
    pub pending: i64,
    pub dead: i64,
    /// When the oldest pending one was made.
    pub oldest_pending_at: Option<Timestamp>,
}

/// What all customers together, and lines without one, used of a meter on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterDay {
    /// The day (UTC), as `2026-03-01`.
    pub day: String,
    pub meter: String,
    pub quantity: Quantity,
}

/// Lines that a meter counted in the newest bills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaggedLines {
    pub meter: String,
    pub lines: i64,
    /// Those of `lines` with the customer tag.
    pub tagged: i64,
}

/// Figures that need a reading of every customer, and amounts of billing targets, which do not.
#[derive(Clone, Debug, Default, JsonSchema, Serialize, Deserialize)]
pub struct CustomerStats {
    pub by_status: BTreeMap<String, i64>,
    /// Customers by meter and decision.
    pub decisions: BTreeMap<String, Decisions>,
    /// The first customers that have reached a limit or are near it; blocked ones first.
    pub near_limit: Vec<NearLimit>,
    /// Usage of the current month and the one before by meter, under ids without a row in
    /// `customers`: nobody is billed for it.
    pub unknown: BTreeMap<String, Quantity>,
    /// TURN credentials issued in the current billing periods.
    pub turn_used: i64,
    pub turn_refused: i64,
    /// All pending notifications.
    pub pending_notifications: i64,
    /// By meter, in its units: the sum of differences between Stripe's totals and the events sent
    /// more than a day ago. Surplus and shortfall both count.
    pub drift: BTreeMap<String, Quantity>,
    /// Deferred amounts by reason; `acknowledged` for those that a person has acknowledged.
    pub deferred: BTreeMap<String, i64>,
    /// Sum of the deferred amounts by meter, in its units; below zero is to be credited.
    pub deferred_units: BTreeMap<String, Quantity>,
    /// When the oldest amount above 0 was deferred that no person has acknowledged.
    pub oldest_deferred_at: Option<Timestamp>,
}

impl CustomerStats {
    /// These figures with the amounts of `other`.
    #[must_use]
    pub fn with_amounts(self, other: Self) -> Self {
        let Self { drift, deferred, deferred_units, oldest_deferred_at, .. } = other;
        Self { drift, deferred, deferred_units, oldest_deferred_at, ..self }
    }
}

/// Customers of a meter by decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
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

/// A customer that has reached a limit or is near it.
#[derive(Clone, Debug, JsonSchema, Serialize, Deserialize)]
pub struct NearLimit {
    pub customer: String,
    pub meter: String,
    /// Whether the customer may still use the meter.
    pub allowed: bool,
    pub reason: String,
    /// Used in the billing period.
    pub used: Quantity,
    /// What of it is measured and not billed yet.
    #[serde(default)]
    pub used_measured: Quantity,
    /// None without a limit.
    pub limit: Option<Quantity>,
    /// When running uses reach the limit, at the present level.
    #[serde(default)]
    pub blocked_at: Option<Timestamp>,
}
