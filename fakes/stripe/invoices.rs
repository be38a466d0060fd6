//! The books: what Stripe would bill, and what it took and will bill to nobody.

use std::collections::HashMap;

use rust_decimal::Decimal;

use crate::World;
use crate::ledger::Event;
use crate::subscriptions::Subscription;

/// A line of an invoice: one meter in one period of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceLine {
    pub subscription: String,
    /// The event name of the meter.
    pub event_name: String,
    pub start: i64,
    /// The period's end, which does not belong to it.
    pub end: i64,
    /// The sum of the events.
    pub sum: Decimal,
    /// What is billed: the sum, but nothing below zero.
    pub quantity: Decimal,
    /// Whether the invoice is finalised, so that nothing changes it any more.
    pub finalised: bool,
}

/// Whether the invoice that is finalised at a time has an event on it.
///
/// An event that was cancelled later stays on it. By belief an event received in the very second is
/// too late.
fn is_billed(event: &Event, finalised: i64) -> bool {
    event.received < finalised && event.cancelled.is_none_or(|at| at >= finalised)
}

impl World {
    /// The lines of a customer's invoices, finalised or not, with the running period, by start.
    pub fn invoices(&self, customer: &str) -> Vec<InvoiceLine> {
        let mut lines = Vec::new();
        for subscription in self.subscriptions.iter().filter(|one| one.customer == customer) {
            let mut from = subscription.started;
            while let Some((start, end)) = subscription.billed_period(from).filter(|&(start, _)| start <= self.now()) {
                self.lines_of(subscription, start, end, &mut lines);
                from = end;
            }
        }
        lines.sort_by(|a, b| (a.start, &a.subscription, &a.event_name).cmp(&(b.start, &b.subscription, &b.event_name)));
        lines
    }

    fn lines_of(&self, subscription: &Subscription, start: i64, end: i64, lines: &mut Vec<InvoiceLine>) {
        for price in subscription.prices.iter().filter_map(|id| self.price(id)) {
            let sum = self.billed(&subscription.customer, &price.meter, start, end);
            lines.push(InvoiceLine {
                subscription: subscription.id.clone(),
                event_name: price.event_name.clone(),
                start,
                end,
                sum,
                quantity: sum.max(Decimal::ZERO),
                finalised: self.now() >= self.finalised_at(end),
            });
        }
    }

    fn finalised_at(&self, period_end: i64) -> i64 {
        period_end.saturating_add(self.options.grace_seconds)
    }

    fn billed(&self, customer: &str, meter: &str, start: i64, end: i64) -> Decimal {
        let finalised = self.finalised_at(end);
        let events = self.ledger.between(customer, meter, start, end);
        events.filter(|event| is_billed(event, finalised)).map(|event| event.value).sum()
    }

    /// What the invoices of a period bill: the sum of the events in it that were received before it
    /// was finalised and not cancelled by then, even if it is below zero.
    pub fn effective(&self, customer: &str, event_name: &str, start: i64, end: i64) -> Decimal {
        let meters = self.meters.iter().filter(|meter| meter.event_name == event_name);
        meters.map(|meter| self.billed(customer, &meter.id, start, end)).sum()
    }

    /// The events that were taken, were not cancelled and are on no invoice: received after it was
    /// finalised, or in no period of a subscription with a price on their meter.
    pub fn lost(&self) -> Vec<Event> {
        let mut of_customer: HashMap<&str, Vec<&Subscription>> = HashMap::new();
        for subscription in &self.subscriptions {
            of_customer.entry(&subscription.customer).or_default().push(subscription);
        }
        let is_lost = |event: &&Event| {
            let subscriptions = of_customer.get(event.customer.as_str()).map_or(&[][..], Vec::as_slice);
            let on_invoice = |one: &&Subscription| {
                let has_price = || one.prices.iter().any(|id| self.price(id).is_some_and(|p| p.meter == event.meter));
                let in_time = |(_, end)| is_billed(event, self.finalised_at(end));
                one.billed_period(event.timestamp).is_some_and(in_time) && has_price()
            };
            event.cancelled.is_none() && !subscriptions.iter().any(on_invoice)
        };
        self.events().iter().filter(is_lost).cloned().collect()
    }
}
