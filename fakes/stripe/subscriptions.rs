//! Subscriptions and their items.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::lists::{Page, list};
use crate::periods;
use crate::world::Customer;

/// The statuses that the list can be filtered by.
const STATUSES: [&str; 10] = [
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
];

/// The most items that a subscription's object lists. The others are in the list of its items.
const ITEMS: usize = 10;

/// Fields that a subscription can have at Stripe and never has in the fake.
const UNSET: [&str; 19] = [
    "application",
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "cancellation_details",
    "customer_account",
    "days_until_due",
    "default_payment_method",
    "default_source",
    "description",
    "latest_invoice",
    "next_pending_invoice_item_invoice",
    "on_behalf_of",
    "payment_settings",
    "pending_invoice_item_interval",
    "pending_setup_event",
    "pending_update",
    "transfer_data",
    "trial_settings",
];

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    pub customer: String,
    /// Stripe's status.
    pub status: String,
    /// `billing_cycle_anchor`: the periods are counted from it.
    pub anchor: i64,
    /// `start_date` and `created`.
    pub started: i64,
    /// `ended_at`, and `canceled_at` with it.
    pub ended: Option<i64>,
    /// Whether it ends with its current period.
    pub cancel_at_period_end: bool,
    /// Whether `pause_collection` is set.
    pub paused: bool,
    /// The ids of its items' prices. Two prices may have one meter: Stripe bills its usage for each
    /// of them.
    pub prices: Vec<String>,
    /// Quantities of items with a fixed quantity, by price; 1 where there is none.
    pub quantities: BTreeMap<String, u64>,
    /// None: the currency of its first price.
    pub currency: Option<String>,
    /// The id of its schedule, if it has one.
    pub schedule: Option<String>,
    /// The id of its test clock, if it has one. Only for display: the fake has one clock.
    pub test_clock: Option<String>,
    /// Whether its `billing_mode` is `flexible`. Only for display.
    pub flexible: bool,
    /// The interval of its periods: day, week, month or year.
    pub interval: String,
    /// When its trial ends or ended. Only for display: by belief usage in the trial is billed like
    /// any other.
    pub trial_end: Option<i64>,
    /// Past resets of the anchor: when, and the anchor that held until then.
    resets: Vec<Reset>,
    /// When items were added to the running subscription, by price; the others are there from its
    /// start on.
    since: BTreeMap<String, i64>,
    /// Items that were removed.
    removed: Vec<RemovedItem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reset {
    at: i64,
    anchor_before: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RemovedItem {
    item: BilledItem,
    at: i64,
}

/// An item, as far as invoices are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BilledItem {
    pub(crate) price: String,
    /// Usage before it is not billed by the item.
    pub(crate) since: i64,
}

impl Subscription {
    /// An active monthly subscription. Its periods are counted from its start.
    pub fn monthly(id: &str, customer: &str, anchor_and_start: i64, prices: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            customer: customer.to_owned(),
            status: "active".to_owned(),
            anchor: anchor_and_start,
            started: anchor_and_start,
            ended: None,
            cancel_at_period_end: false,
            paused: false,
            prices: prices.iter().map(|&price| price.to_owned()).collect(),
            quantities: BTreeMap::new(),
            currency: None,
            schedule: None,
            test_clock: None,
            flexible: false,
            interval: "month".to_owned(),
            trial_end: None,
            resets: Vec::new(),
            since: BTreeMap::new(),
            removed: Vec::new(),
        }
    }

    /// When an item with a price was added.
    fn added(&self, price: &str) -> i64 {
        self.since.get(price).copied().unwrap_or(self.started)
    }

    /// The items on the invoice of a period, by its end. As Stripe documents it, an item that is
    /// added bills usage from then on, and one that is removed bills nothing of the running
    /// period.
    pub(crate) fn billed_items(&self, end: i64) -> impl Iterator<Item = BilledItem> {
        let present = self.prices.iter().map(|price| BilledItem { price: price.clone(), since: self.added(price) });
        let removed = self.removed.iter().filter(move |removed| removed.at >= end).map(|removed| removed.item.clone());
        present.chain(removed).filter(move |item| item.since < end)
    }

    /// The period that contains an instant. It begins at the subscription's start at the earliest,
    /// and is not cut at its end. A reset of the anchor ends a period.
    pub(crate) fn scheduled_period(&self, time: i64) -> (i64, i64) {
        let time = time.max(self.started);
        let next = self.next_reset(time);
        let from = if next == 0 { self.started } else { self.resets[next - 1].at };
        let (start, end) = self.month(time);
        (start.max(from), self.resets.get(next).map_or(end, |reset| reset.at.min(end)))
    }

    /// The period by the anchor that holds at an instant, whatever cuts it.
    pub(crate) fn month(&self, time: i64) -> (i64, i64) {
        let anchor = self.resets.get(self.next_reset(time)).map_or(self.anchor, |reset| reset.anchor_before);
        periods::around(anchor, &self.interval, time)
    }

    /// The place of the first reset after an instant.
    fn next_reset(&self, time: i64) -> usize {
        self.resets.iter().position(|reset| time < reset.at).unwrap_or(self.resets.len())
    }

    /// The period in which usage of an instant is billed; none before the start, and none from the
    /// end on.
    pub(crate) fn billed_period(&self, time: i64) -> Option<(i64, i64)> {
        if time < self.started || self.ended.is_some_and(|ended| time >= ended) {
            return None;
        }
        let (start, end) = self.scheduled_period(time);
        Some((start, self.ended.map_or(end, |ended| ended.min(end))))
    }

    /// Ends the subscription at once.
    pub(crate) fn cancel(&mut self, now: i64) {
        if self.ended.is_none() {
            "canceled".clone_into(&mut self.status);
            self.ended = Some(now);
        }
    }

    /// Makes the changes that happen to the subscription between two instants.
    pub(crate) fn pass(&mut self, before: i64, now: i64) {
        if self.status == "trialing" && self.trial_end.is_some_and(|end| now >= end) {
            "active".clone_into(&mut self.status);
        }
        if self.cancel_at_period_end && self.ended.is_none() {
            let (_, end) = self.scheduled_period(before);
            if now >= end {
                self.cancel(end);
            }
        }
    }
}

impl World {
    /// Adds a subscription, or replaces the one with its id. Adds its customer if unknown.
    ///
    /// # Panics
    /// If one of its prices was not added before, or where Stripe would refuse: a price twice in
    /// one subscription, or one that cannot charge in the subscription's currency.
    pub fn add_subscription(&mut self, subscription: Subscription) {
        let currency = self.currency_of(&subscription);
        for (place, price) in subscription.prices.iter().enumerate() {
            let id = &subscription.id;
            let known = self.price(price).unwrap_or_else(|| panic!("{id} has the price {price}, which was not added"));
            assert!(!subscription.prices[..place].contains(price), "{id} has the price {price} twice");
            assert!(known.charges_in(&currency), "{id} is in {currency}, and {price} cannot charge in it");
        }
        let customer = Customer { created: subscription.started, ..Customer::default() };
        self.customers.entry(subscription.customer.clone()).or_insert(customer);
        match self.subscription_places.get(&subscription.id) {
            Some(&place) => self.subscriptions[place] = subscription,
            None => {
                self.subscription_places.insert(subscription.id.clone(), self.subscriptions.len());
                self.subscriptions.push(subscription);
            }
        }
    }

    /// A subscription to be changed. Its id must stay.
    pub fn subscription_mut(&mut self, id: &str) -> Option<&mut Subscription> {
        self.subscription_places.get(id).and_then(|&place| self.subscriptions.get_mut(place))
    }

    /// Cancels a subscription now. Its running period ends now.
    pub fn cancel_subscription(&mut self, id: &str) {
        let now = self.now();
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.cancel(now);
        }
    }

    /// Resets the anchor of a subscription to now, as `billing_cycle_anchor=now` does. The running
    /// period ends now and is invoiced; periods before it stay as they were. By belief the invoice
    /// of the cut period takes usage for the grace, like any other.
    pub fn reset_anchor(&mut self, id: &str) {
        let now = self.now();
        if let Some(subscription) = self.subscription_mut(id) {
            subscription.resets.push(Reset { at: now, anchor_before: subscription.anchor });
            subscription.anchor = now;
        }
    }

    /// Moves a subscription to another Stripe customer: Stripe cannot, so it is cancelled now, and
    /// one with the same prices begins now under the other customer, who is added if unknown.
    pub fn move_subscription(&mut self, id: &str, new_id: &str, new_customer: &str) {
        let now = self.now();
        let Some(old) = self.subscription(id).cloned() else { return };
        let prices: Vec<&str> = old.prices.iter().map(String::as_str).collect();
        let new = Subscription::monthly(new_id, new_customer, now, &prices);
        let (currency, quantities) = (old.currency.clone(), old.quantities.clone());
        self.cancel_subscription(id);
        self.add_subscription(Subscription { currency, quantities, ..new });
    }

    /// Adds an item to a running subscription. It bills usage from now on.
    pub fn add_item(&mut self, id: &str, price: &str) {
        let now = self.now();
        let Some(mut subscription) = self.subscription(id).cloned() else { return };
        subscription.prices.push(price.to_owned());
        subscription.since.insert(price.to_owned(), now);
        self.add_subscription(subscription);
    }

    /// Removes an item. Its usage in the running period is billed no more.
    pub fn remove_item(&mut self, id: &str, price: &str) {
        let now = self.now();
        let Some(subscription) = self.subscription_mut(id) else { return };
        if let Some(place) = subscription.prices.iter().position(|one| one == price) {
            let item = BilledItem { price: subscription.prices.remove(place), since: subscription.added(price) };
            subscription.since.remove(price);
            subscription.removed.push(RemovedItem { item, at: now });
        }
    }

    pub(crate) fn subscription(&self, id: &str) -> Option<&Subscription> {
        self.subscription_places.get(id).and_then(|&place| self.subscriptions.get(place))
    }

    /// The currency that a subscription is charged in.
    pub(crate) fn currency_of(&self, subscription: &Subscription) -> String {
        let first = || subscription.prices.iter().find_map(|id| self.price(id)).map(|price| price.currency.clone());
        subscription.currency.clone().or_else(first).unwrap_or_else(|| "usd".to_owned())
    }

    /// The items. By belief they keep the scheduled end of the period when the subscription is
    /// cancelled at once.
    pub(crate) fn items(&self, subscription: &Subscription) -> Vec<Value> {
        let at = subscription.ended.map_or(self.now(), |ended| (ended - 1).min(self.now()));
        let (start, end) = subscription.scheduled_period(at);
        let prices = subscription.prices.iter().filter_map(|id| self.price(id));
        let item = |price: &crate::prices::Price| {
            let livemode = self.options.livemode;
            let mut item = json!({
                "id": item_id(subscription, &price.id),
                "object": "subscription_item",
                "billing_thresholds": null,
                "created": subscription.added(&price.id),
                "current_period_end": end,
                "current_period_start": start,
                "discounts": [],
                "metadata": {},
                "plan": price.to_plan_json(livemode),
                "price": price.to_json(livemode),
                "subscription": subscription.id,
                "tax_rates": [],
            });
            if price.terms.licensed {
                item["quantity"] = subscription.quantities.get(&price.id).copied().unwrap_or(1).into();
            }
            item
        };
        prices.map(item).collect()
    }

    pub(crate) fn subscription_json(&self, subscription: &Subscription) -> Value {
        let mut items = self.items(subscription);
        let scheduled = items.first().map_or(Value::Null, |item| item["current_period_end"].clone());
        let pause = if subscription.paused { json!({ "behavior": "void", "resumes_at": null }) } else { Value::Null };
        let url = format!("/v1/subscription_items?subscription={}", subscription.id);
        let more = items.len() > ITEMS;
        items.truncate(ITEMS);
        let mut items = list(&url, items, more);
        items["total_count"] = json!(subscription.prices.len());
        let mut object = json!({
            "id": subscription.id,
            "object": "subscription",
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": subscription.anchor,
            "billing_mode": { "flexible": null, "type": if subscription.flexible { "flexible" } else { "classic" } },
            "billing_schedules": [],
            "cancel_at": if subscription.cancel_at_period_end { scheduled } else { Value::Null },
            "cancel_at_period_end": subscription.cancel_at_period_end,
            "canceled_at": subscription.ended,
            "collection_method": "charge_automatically",
            "created": subscription.started,
            "currency": self.currency_of(subscription),
            "customer": subscription.customer,
            "default_tax_rates": [],
            "discounts": [],
            "ended_at": subscription.ended,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": items,
            "livemode": self.options.livemode,
            "metadata": {},
            "pause_collection": pause,
            "schedule": subscription.schedule,
            "start_date": subscription.started,
            "status": subscription.status,
            "test_clock": subscription.test_clock,
            "trial_end": subscription.trial_end,
            "trial_start": subscription.trial_end.map(|_| subscription.started),
        });
        for field in UNSET {
            object[field] = Value::Null;
        }
        object
    }

    /// GET /v1/subscriptions
    pub(crate) fn list_subscriptions(&self, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let status = params.one_of("status", &STATUSES)?;
        let customer = params.string("customer", 5000)?;
        let price = params.string("price", 5000)?;
        let method = params.one_of("collection_method", &["charge_automatically", "send_invoice"])?;
        let created = params.range("created")?;
        let period_start = params.range("current_period_start")?;
        let period_end = params.range("current_period_end")?;
        params.finish()?;
        if let Some(customer) = customer.as_ref().filter(|customer| !self.customers.contains_key(*customer)) {
            return Err(answers::no_such("customer", customer, "customer"));
        }
        if let Some(price) = price.as_ref().filter(|price| self.price(price).is_none()) {
            return Err(answers::no_such("price", price, "price"));
        }
        let now = self.now();
        let keep = |one: &&Subscription| {
            let (start, end) = one.scheduled_period(one.ended.map_or(now, |ended| (ended - 1).min(now)));
            customer.as_ref().is_none_or(|customer| *customer == one.customer)
                && has_status(one, status.as_deref())
                && price.as_ref().is_none_or(|price| one.prices.contains(price))
                && method.as_ref().is_none_or(|method| method == "charge_automatically")
                && created.holds(one.started)
                && period_start.holds(start)
                && period_end.holds(end)
        };
        let mut all: Vec<&Subscription> = self.subscriptions.iter().rev().collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.started));
        let (page, more) = page.cut("subscription", all, |one| &one.id, keep)?;
        let data = page.iter().map(|one| self.subscription_json(one)).collect();
        Ok(list("/v1/subscriptions", data, more))
    }

    /// GET /v1/subscriptions/{id}
    pub(crate) fn retrieve_subscription(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let subscription = self.subscription(id).ok_or_else(|| answers::not_found("subscription", id))?;
        Ok(self.subscription_json(subscription))
    }

    /// GET /v1/subscription_items/{id}
    pub(crate) fn retrieve_subscription_item(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let all = self.subscriptions.iter().flat_map(|subscription| self.items(subscription));
        all.into_iter().find(|item| item["id"] == id).ok_or_else(|| answers::not_found("subscription item", id))
    }

    /// GET /v1/subscription_items
    pub(crate) fn list_subscription_items(&self, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let id = params.required("subscription", 5000)?;
        params.finish()?;
        let found = self.subscription(&id);
        let subscription = found.ok_or_else(|| answers::no_such("subscription", &id, "subscription"))?;
        let id = |item: &Value| item["id"].as_str().unwrap_or_default().to_owned();
        let items: Vec<(String, Value)> = self.items(subscription).into_iter().map(|item| (id(&item), item)).collect();
        let (items, more) = page.cut("subscription item", items, |(id, _)| id, |_| true)?;
        Ok(list("/v1/subscription_items", items.into_iter().map(|(_, item)| item).collect(), more))
    }
}

/// The id of the item with a price.
pub(crate) fn item_id(subscription: &Subscription, price: &str) -> String {
    let of = |id: &str| id.split_once('_').map_or(id, |(_, rest)| rest).to_owned();
    format!("si_{}_{}", of(&subscription.id), of(price))
}

/// Whether the list with this status filter contains the subscription.
fn has_status(subscription: &Subscription, asked: Option<&str>) -> bool {
    let status = subscription.status.as_str();
    match asked {
        None => status != "canceled",
        Some("all") => true,
        Some("ended") => matches!(status, "canceled" | "incomplete_expired"),
        Some(asked) => status == asked,
    }
}
