//! The invoices: the usage that Stripe would bill, and the events that it took and will never
//! bill.

use std::collections::HashMap;

use rust_decimal::Decimal;

use crate::World;
use crate::ledger::Event;
use crate::prices::Price;
use crate::subscriptions::Subscription;

/// A line of an invoice: one metered item in one period of one subscription. Usage of a meter with
/// two items is on two lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceLine {
    pub subscription: String,
    /// The id of the item's price.
    pub price: String,
    /// The event name of the meter.
    pub event_name: String,
    pub start: i64,
    /// The end of the period, exclusive.
    pub end: i64,
    /// The sum of the events.
    pub sum: Decimal,
    /// The billed amount: the sum, but at least zero.
    pub quantity: Decimal,
    /// The subscription's currency, as Stripe writes it.
    pub currency: String,
    /// What the line costs, in whole minor units of the currency.
    pub amount: Decimal,
    /// Whether the invoice is finalised: nothing changes it any more.
    pub finalised: bool,
}

/// A period of a subscription that has begun. Instants are seconds since 1970, ends exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionPeriod {
    pub subscription: String,
    pub start: i64,
    pub end: i64,
    /// The month by the anchor that held, which a start, an end or a new anchor may have cut.
    pub month: (i64, i64),
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
            for (start, end) in self.begun(subscription) {
                self.lines_of(subscription, start, end, &mut lines);
            }
        }
        lines.sort_by(|a, b| {
            (a.start, &a.subscription, &a.event_name, &a.price).cmp(&(
                b.start,
                &b.subscription,
                &b.event_name,
                &b.price,
            ))
        });
        lines
    }

    /// The periods of a customer's subscriptions that have begun, each subscription's in order.
    pub fn subscription_periods(&self, customer: &str) -> Vec<SubscriptionPeriod> {
        let of_customer = self.subscriptions.iter().filter(|one| one.customer == customer);
        let periods = of_customer.flat_map(|one| {
            self.begun(one).into_iter().map(|(start, end)| SubscriptionPeriod {
                subscription: one.id.clone(),
                start,
                end,
                month: one.month(start),
            })
        });
        periods.collect()
    }

    fn begun(&self, subscription: &Subscription) -> Vec<(i64, i64)> {
        let (mut from, mut found) = (subscription.started, vec![]);
        while let Some((start, end)) = subscription.billed_period(from).filter(|&(start, _)| start <= self.now()) {
            found.push((start, end));
            from = end;
        }
        found
    }

    fn lines_of(&self, subscription: &Subscription, start: i64, end: i64, lines: &mut Vec<InvoiceLine>) {
        let currency = self.currency_of(subscription);
        for item in subscription.billed_items(end) {
            let Some((price, meter)) = self.metered(&item.price) else { continue };
            let sum = self.billed(&subscription.customer, meter, item.since.max(start), end);
            let quantity = sum.max(Decimal::ZERO);
            lines.push(InvoiceLine {
                subscription: subscription.id.clone(),
                price: price.id.clone(),
                event_name: price.event_name.clone(),
                start,
                end,
                sum,
                quantity,
                amount: price.cost(quantity, &currency),
                currency: currency.clone(),
                finalised: self.now() >= self.finalised_at(end),
            });
        }
    }

    /// A price with a meter, and the meter's id.
    fn metered(&self, price: &str) -> Option<(&Price, &str)> {
        let price = self.price(price)?;
        Some((price, price.meter()?))
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
    /// after their invoice was finalised, or no item of their meter bills the period from that
    /// instant on.
    pub fn lost(&self) -> Vec<Event> {
        let mut of_customer: HashMap<&str, Vec<&Subscription>> = HashMap::new();
        for subscription in &self.subscriptions {
            of_customer.entry(&subscription.customer).or_default().push(subscription);
        }
        let is_lost = |event: &&Event| {
            let subscriptions = of_customer.get(event.customer.as_str()).map_or(&[][..], Vec::as_slice);
            let on_invoice = |one: &&Subscription| {
                let Some((_, end)) = one.billed_period(event.timestamp) else { return false };
                let has_meter = |price: &str| self.metered(price).is_some_and(|(_, meter)| meter == event.meter);
                let has_item = one.billed_items(end).any(|i| i.since <= event.timestamp && has_meter(&i.price));
                has_item && is_billed(event, self.finalised_at(end))
            };
            event.cancelled.is_none() && !subscriptions.iter().any(on_invoice)
        };
        self.events().iter().filter(is_lost).cloned().collect()
    }
}
