//! The invoices: the usage that Stripe would bill, and the events that it took and will never
//! bill.

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
    /// The end of the period, exclusive.
    pub end: i64,
    /// The sum of the events.
    pub sum: Decimal,
    /// The billed amount: the sum, but at least zero.
    pub quantity: Decimal,
    /// Whether the invoice is finalised: nothing changes it any more.
    pub finalised: bool,
}

/// Whether an invoice that is finalised at an instant includes an event.
///
/// An event that is cancelled later stays included. By belief an event received in that very
/// second is too late.
fn is_billed(event: &Event, finalised: i64) -> bool {
    event.received < finalised && event.cancelled.is_none_or(|at| at >= finalised)
}

impl World {
    /// The lines of a customer's invoices by start of the period: finalised, not finalised, and of
    /// the running period.
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

    /// The sum of a period's invoices: of the events that were received before the invoice was
    /// finalised and were not cancelled by then. It may be below zero.
    pub fn effective(&self, customer: &str, event_name: &str, start: i64, end: i64) -> Decimal {
        let meters = self.meters.iter().filter(|meter| meter.event_name == event_name);
        meters.map(|meter| self.billed(customer, &meter.id, start, end)).sum()
    }

    /// The events that were taken, were not cancelled and are on no invoice. They were received
    /// after their invoice was finalised, or are in no period of a subscription with a price of
    /// their meter.
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
