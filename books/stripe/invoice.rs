//! Until when Stripe's invoices take meter events. The view `covered_periods` (migration 0014) says
//! how much of a period an invoice covers, and `placement.rs` which invoice an event is on.
//! `reconciliation.rs` alone selects events by their time: Stripe's total of a period is by time,
//! whatever the invoice took.

use serde::Serialize;

/// An invoice, by the billing period that it is for: from `start` to before `end`, in seconds since
/// 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InvoicePeriod {
    pub start: i64,
    pub end: i64,
}

/// Seconds before the end of an invoice's grace in which no event is sent: clocks differ, and
/// requests take time. `event_invoices` uses the same number.
pub const MARGIN: i64 = 600;

/// Largest value of one event: Stripe takes at most 15 significant digits
/// (<https://docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation>).
/// A total of at most 15 digits is exact in Stripe's answers. A CHECK of `meter_events` has the
/// same limit.
pub const LARGEST_VALUE: i64 = 999_999_999_999_999;

/// Seconds after the first attempt during which an event is sent again under its identifier.
/// Stripe refuses a second use of an identifier for at least 24 hours
/// (<https://docs.stripe.com/api/billing/meter-event/create>).
pub const RESEND: i64 = 23 * 3600;

/// The instant from which the grace of a period's invoice runs: where its cover ends. A period
/// without a subscription has no invoice; its end counts instead.
pub fn takes_until(subscription: Option<&str>, covered_until: i64, end: i64) -> i64 {
    if subscription.is_some() { covered_until } else { end }
}

/// The instant from which no event is sent to the invoice of a period that ends at `end`. The
/// invoice takes late usage for `grace` seconds.
pub fn closes(end: i64, grace: i64) -> i64 {
    end + grace - MARGIN
}

/// An invoice of a period that ends after this instant could still take events at `since`.
pub fn open_after(since: i64, grace: i64) -> i64 {
    since - grace + MARGIN
}
