//! The whole state of the fake, and its setup.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::Options;
use crate::faults::{Fault, Script, Seen};
use crate::keys::Keys;
use crate::ledger::{Event, Ledger};
use crate::meters::Meter;
use crate::prices::Price;
use crate::products::Product;
use crate::recorded::{Counts, Recorded};
use crate::subscriptions::Subscription;

/// A customer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Customer {
    pub(crate) created: i64,
    pub(crate) deleted: bool,
    pub(crate) name: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// The whole state of the fake.
pub struct World {
    pub(crate) options: Options,
    pub(crate) customers: HashMap<String, Customer>,
    pub(crate) meters: Vec<Meter>,
    pub(crate) prices: Vec<Price>,
    pub(crate) price_places: HashMap<String, usize>,
    pub(crate) products: BTreeMap<String, Product>,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) subscription_places: HashMap<String, usize>,
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) in_flight: HashSet<(String, String)>,
    pub(crate) counts: Counts,
    pub(crate) requests: Vec<Recorded>,
    pub(crate) script: Option<Script>,
    pub(crate) next_arrival: Option<Instant>,
    made: u64,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            customers: HashMap::new(),
            meters: Vec::new(),
            prices: Vec::new(),
            price_places: HashMap::new(),
            products: BTreeMap::new(),
            subscriptions: Vec::new(),
            subscription_places: HashMap::new(),
            ledger: Ledger::default(),
            keys: Keys::default(),
            in_flight: HashSet::new(),
            counts: Counts::default(),
            requests: Vec::new(),
            script: None,
            next_arrival: None,
            made: 0,
        }
    }

    /// A number that was never used before.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// The instant of the fake's clock, in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.options.now.unwrap_or_else(|| jiff::Timestamp::now().as_second())
    }

    /// Sets the fake's clock. From now on it stands still between calls.
    ///
    /// Subscriptions that cancel at the end of their period end on the way, and trials that are
    /// over become active. With the system's clock neither happens.
    pub fn set_now(&mut self, now: i64) {
        let before = self.now();
        self.options.now = Some(now);
        for subscription in &mut self.subscriptions {
            subscription.pass(before, now);
        }
    }

    /// Sets the accepted secret key.
    pub fn set_key(&mut self, key: &str) {
        key.clone_into(&mut self.options.key);
    }

    /// Sets the value of `livemode` in every object.
    pub fn set_livemode(&mut self, livemode: bool) {
        self.options.livemode = livemode;
    }

    /// Sets how long after the end of its period an invoice is finalised, for past periods too.
    pub fn set_grace(&mut self, seconds: i64) {
        self.options.grace_seconds = seconds;
    }

    /// Sets how long after receipt summaries include an event.
    pub fn set_summary_lag(&mut self, seconds: i64) {
        self.options.summary_lag_seconds = seconds;
    }

    /// Sets how many meter events are let through in a second.
    pub fn set_events_per_second(&mut self, rate: Option<u32>) {
        self.options.events_per_second = rate;
        self.next_arrival = None;
    }

    /// Sets how long a meter event is in flight.
    pub fn set_latency(&mut self, latency: Duration) {
        self.options.latency = latency;
    }

    /// Sets whether requests are recorded.
    pub fn set_remember_requests(&mut self, remember: bool) {
        self.options.remember_requests = remember;
    }

    /// Sets whether an event for an unknown customer is reported later instead of refused.
    pub fn set_late_customer_errors(&mut self, late: bool) {
        self.options.late_customer_errors = late;
    }

    pub fn add_customer(&mut self, id: &str) {
        let customer = Customer { created: self.now(), ..Customer::default() };
        self.customers.insert(id.to_owned(), customer);
    }

    /// Deletes a customer, which cancels its subscriptions at once.
    pub fn delete_customer(&mut self, id: &str) {
        if let Some(customer) = self.customers.get_mut(id) {
            customer.deleted = true;
        }
        let now = self.now();
        for subscription in self.subscriptions.iter_mut().filter(|one| one.customer == id) {
            subscription.cancel(now);
        }
    }

    /// Whether the customer exists and is not deleted.
    pub(crate) fn has_customer(&self, id: &str) -> bool {
        self.customers.get(id).is_some_and(|customer| !customer.deleted)
    }

    /// Sets the script that decides on the fault of each request. It runs while the world is
    /// locked and must not lock it.
    pub fn set_faults(&mut self, faults: impl FnMut(&Seen) -> Option<Fault> + Send + 'static) {
        self.script = Some(Box::new(faults));
    }

    pub fn clear_faults(&mut self) {
        self.script = None;
    }

    /// The applied events in order of receipt, events that were cancelled later included.
    pub fn events(&self) -> &[Event] {
        self.ledger.events()
    }

    /// The events that were rejected after their 200, in order of receipt.
    pub fn late_rejected(&self) -> Vec<Event> {
        self.ledger.rejected().iter().map(|rejected| rejected.event.clone()).collect()
    }

    /// Counts of requests by their results.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The recorded requests, in order of arrival.
    pub fn requests(&self) -> &[Recorded] {
        &self.requests
    }

    /// Removes and returns the recorded requests.
    pub fn take_requests(&mut self) -> Vec<Recorded> {
        std::mem::take(&mut self.requests)
    }
}
