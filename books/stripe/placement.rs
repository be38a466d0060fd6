//! Which invoice a meter event is on, and what planning does with it. Pure.
//!
//! An event is on the invoice of the billing period that its timestamp lies in, as the periods are
//! known now, if
//!
//! - the period has a subscription, the timestamp is before the end of it, and a subscription of
//!   the Stripe customer that got the event lived at that instant (*covered*),
//! - Stripe took the event before the invoice was final, by the grace of when it was planned, or
//!   has not taken it yet (*in time*).
//!
//! The invoice is *open* until ten minutes before its grace ends. The grace begins where the
//! invoice's cover ends: at the end of the period, or of its subscription if that is earlier. A
//! period without a subscription has no invoice; its end counts instead. *Own* is the Stripe
//! customer with the invoice, that of the period's subscription; it is unknown when the customer
//! has no Stripe id. `-`: it makes no difference.
//!
//! | state | covered | in time | open | Stripe customer | counts as sent | change |
//! |---|---|---|---|---|---|---|
//! | pending | yes | yes | yes | own | billed | none |
//! | pending | yes | yes | yes | another | no | withdrawn |
//! | pending | yes | yes | yes | unknown | not billed | none |
//! | pending | yes | yes | no | - | no | withdrawn: late for its invoice |
//! | pending | no | yes | - | - | no | withdrawn: no period, or no subscription of its Stripe customer at its time |
//! | sending | yes | yes | - | own | billed | none |
//! | sending | yes | yes | - | not own | not billed | none |
//! | sending | no | yes | - | - | no | none |
//! | unconfirmed | yes | yes | yes | own | billed | none |
//! | unconfirmed | yes | yes | yes | not own | not billed | none |
//! | unconfirmed | yes | yes | no | own | billed | not sent again: Stripe's total decides |
//! | unconfirmed | yes | yes | no | not own | not billed | not sent again |
//! | unconfirmed | no | yes | yes | - | no | none: Stripe's answer settles it |
//! | unconfirmed | no | yes | no | - | no | not sent again |
//! | accepted | yes | yes | - | own | billed | none |
//! | accepted | yes | yes | - | not own | not billed | none |
//! | accepted | yes | no | - | - | no | none |
//! | accepted | no | - | - | - | no | none |
//! | refused | yes | yes | - | - | not billed | none |
//! | refused | yes | no | - | - | no | none |
//! | refused | no | - | - | - | no | none |
//! | discarded | - | - | - | - | not billed | none: a person decided that it never is |
//! | not_received | - | - | - | - | no | none |
//!
//! The amount of an event that does not count as sent is planned again. An event that is *not
//! billed* counts for its usage, and not for the total of the invoice. An imported event is
//! accepted and always in time: it counts as taken when its period began. The view `event_invoices`
//! has the rule of the invoice for figures; a test compares the two.

use crate::stripe::invoice::{InvoicePeriod, MARGIN, closes};
use crate::stripe::meter_event::EventState;
use crate::stripe::planning::EarlierMeterEvent;

/// What an event means for planning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The invoice for which it counts as sent; none if its amount is planned again.
    pub sent: Option<InvoicePeriod>,
    /// Whether that invoice has it or may still get it.
    pub billed: bool,
    pub change: Option<Change>,
}

/// What happens to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not sent: it becomes not received.
    Withdraw,
    /// It is not sent again: Stripe's total decides.
    StopResending,
}

/// The invoice that an event is on.
pub fn invoice_of(event: &EarlierMeterEvent) -> Option<InvoicePeriod> {
    let period = event.period.as_ref()?;
    let covered = event.subscribed && event.timestamp < period.covered_until;
    let grace = event.send_before - event.billed.end + MARGIN;
    let in_time = event.taken_at.is_none_or(|taken| taken < period.covered_until + grace);
    (covered && in_time).then_some(InvoicePeriod { start: period.start, end: period.covered_until })
}

/// What an event means as of `now`; `grace` is that of today.
pub fn place(event: &EarlierMeterEvent, now: i64, grace: i64) -> Placement {
    let invoice = invoice_of(event);
    let closed = event.period.as_ref().is_some_and(|p| now >= closes(p.takes_until, grace));
    let own = event.own_stripe_customer.as_ref();
    let billed = invoice.is_some() && own == Some(&event.stripe_customer);
    let counts = Placement { sent: invoice, billed, change: None };
    let another = own.is_some_and(|id| *id != event.stripe_customer);
    match event.state {
        EventState::Pending if invoice.is_none() || closed || another => {
            Placement { change: Some(Change::Withdraw), ..Placement::default() }
        }
        EventState::Unconfirmed if closed => Placement { change: Some(Change::StopResending), ..counts },
        EventState::Pending | EventState::Sending | EventState::Unconfirmed | EventState::Accepted => counts,
        EventState::Refused => Placement { billed: false, ..counts },
        EventState::Discarded => Placement { sent: Some(invoice.unwrap_or(event.billed)), ..Placement::default() },
        EventState::NotReceived => Placement::default(),
    }
}

#[cfg(test)]
mod tests;
