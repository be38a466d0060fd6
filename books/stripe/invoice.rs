//! When an invoice takes an event. Until when an invoice covers a period, and which invoice an
//! event is on, is said by the views `covered_periods`, `invoiced_periods` and `event_invoices`
//! (migration 0014); nothing else says it again.

/// Seconds before the end of an invoice's grace in which no event goes out: clocks differ, and
/// requests take time. `event_invoices` uses the same number.
pub const MARGIN: i64 = 600;

/// Largest value of one event: Stripe takes at most 15 significant digits
/// (<https://docs.stripe.com/changelog/dahlia/2026-04-22/billing-meter-event-values-validation>),
/// and sums of no more are exact in its answers. A CHECK of `meter_events` says the same.
pub const LARGEST_VALUE: i64 = 999_999_999_999_999;

/// Seconds for which an identifier is sent again after the first attempt. Stripe refuses a second
/// use for at least 24 hours (<https://docs.stripe.com/api/billing/meter-event/create>).
pub const RESEND: i64 = 23 * 3600;

/// From when on nothing is sent to the invoice of a period that ends at `end`, with `grace` seconds
/// for late usage.
pub fn closes(end: i64, grace: i64) -> i64 {
    end + grace - MARGIN
}
