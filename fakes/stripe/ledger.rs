//! The meter events that were taken, and their indexes.

use std::collections::{BTreeSet, HashMap};

use rust_decimal::Decimal;

use crate::DAY;

/// A meter event that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The identifier, from the request or generated.
    pub identifier: String,
    /// The event name of its meter.
    pub event_name: String,
    /// The id of its meter.
    pub meter: String,
    pub customer: String,
    pub value: Decimal,
    /// The time of the usage.
    pub timestamp: i64,
    /// When it was received, by the fake's clock.
    pub received: i64,
    /// When it was cancelled by an adjustment.
    pub cancelled: Option<i64>,
}

/// When an identifier was last used, and by which event; none if that event was rejected after its
/// 200.
#[derive(Clone, Copy, Debug)]
struct Used {
    received: i64,
    event: Option<usize>,
}

/// An event that was rejected after its 200.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub(crate) event: Event,
    pub(crate) code: &'static str,
}

/// All events, by customer, meter and time, and by identifier.
#[derive(Default)]
pub(crate) struct Ledger {
    events: Vec<Event>,
    series: HashMap<String, HashMap<String, BTreeSet<(i64, usize)>>>,
    identifiers: HashMap<String, Used>,
    rejected: Vec<Rejected>,
}

impl Ledger {
    /// All applied events, in order of receipt.
    pub(crate) fn events(&self) -> &[Event] {
        &self.events
    }

    /// All events that were rejected after their 200.
    pub(crate) fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Whether an identifier was used within the last day.
    pub(crate) fn is_used(&self, identifier: &str, now: i64) -> bool {
        self.identifiers.get(identifier).is_some_and(|used| now - used.received < DAY)
    }

    /// Stores an event that counts.
    pub(crate) fn apply(&mut self, event: Event) {
        let place = self.events.len();
        let used = Used { received: event.received, event: Some(place) };
        self.identifiers.insert(event.identifier.clone(), used);
        let by_meter = self.series.entry(event.customer.clone()).or_default();
        by_meter.entry(event.meter.clone()).or_default().insert((event.timestamp, place));
        self.events.push(event);
    }

    /// Stores an event that counts nowhere.
    pub(crate) fn reject(&mut self, event: Event, code: &'static str) {
        let used = Used { received: event.received, event: None };
        self.identifiers.insert(event.identifier.clone(), used);
        self.rejected.push(Rejected { event, code });
    }

    /// The last event that was taken with an identifier.
    pub(crate) fn find_mut(&mut self, identifier: &str) -> Option<&mut Event> {
        let place = self.identifiers.get(identifier)?.event?;
        self.events.get_mut(place)
    }

    /// A customer's events on a meter with start <= timestamp < end, by timestamp.
    pub(crate) fn between(&self, customer: &str, meter: &str, start: i64, end: i64) -> impl Iterator<Item = &Event> {
        let series = self.series.get(customer).and_then(|by_meter| by_meter.get(meter)).filter(|_| start < end);
        let places = series.into_iter().flat_map(move |series| series.range((start, 0)..(end, 0)));
        places.filter_map(|&(_, place)| self.events.get(place))
    }
}
