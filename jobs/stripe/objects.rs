//! Stripe's objects, with the few fields that are needed of each. Pure.
//!
//! Fields are read one by one, so an answer is understood whatever else it contains: async-stripe
//! rejects a whole list because of one unexpected field.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;

use super::transport::ResponseMeta;

/// Keys of the customer and of the value in the payload of a meter event: Stripe's defaults.
pub(super) const PAYLOAD: [&str; 2] = ["stripe_customer_id", "value"];

/// A meter, as Stripe lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteMeter {
    pub id: String,
    pub event_name: String,
    pub active: bool,
    /// `sum`, `count` or `last`.
    pub formula: String,
    /// `hour` or `day` if only the last event of each hour or day counts.
    pub window: Option<String>,
    /// Keys of the customer and of the value in the payload of its events.
    pub payload: [String; 2],
}

/// What a price, an item or a subscription can have at Stripe that is not billed rightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsupported {
    /// The price has an amount in several currencies, and Stripe charges one that is not its own.
    MultiCurrencyPrice,
    /// Usage is divided before it is charged.
    TransformQuantity,
    NotMonthly,
    /// Metered without a meter: it cannot take meter events.
    NoMeter,
    Trial,
    Schedule,
    TestClock,
}

impl Unsupported {
    /// Its name in the books, in reports and in messages: Stripe's own word where there is one.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultiCurrencyPrice => "multi-currency price",
            Self::TransformQuantity => "transform_quantity",
            Self::NotMonthly => "not monthly",
            Self::NoMeter => "metered without a meter",
            Self::Trial => "trial",
            Self::Schedule => "schedule",
            Self::TestClock => "test clock",
        }
    }

    /// Whether the invoice has another amount than the books say as long as it stays. A trial and a
    /// schedule may be meant so, and end or act by themselves.
    pub fn bills_wrongly(self) -> bool {
        !matches!(self, Self::Trial | Self::Schedule)
    }
}

/// Names as the books store them.
pub fn names(found: &[Unsupported]) -> String {
    found.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ")
}

/// A price in Stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemotePrice {
    pub id: String,
    /// Id of the meter that the price charges for.
    pub meter: String,
    /// ISO 4217, capitals.
    pub currency: String,
    /// Minor units for each of Stripe's units; none for a price in tiers.
    pub unit_amount: Option<Decimal>,
    pub unsupported: Vec<Unsupported>,
}

/// A subscription in Stripe. Instants are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteSubscription {
    pub id: String,
    pub customer: String,
    pub status: String,
    pub anchor: i64,
    pub started: i64,
    pub ended: Option<i64>,
    /// ISO 4217, capitals: what Stripe charges in.
    pub currency: String,
    /// Whether its `billing_mode` is `flexible`.
    pub flexible: bool,
    /// What the subscription itself has; its items have their own.
    pub unsupported: Vec<Unsupported>,
    pub items: Vec<RemoteItem>,
    /// Items with a fixed quantity, which are not read further.
    pub fixed: u64,
    /// The last listed item, if Stripe has more than it listed.
    pub more_after: Option<String>,
}

/// A metered item of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteItem {
    pub id: String,
    pub price: String,
    pub meter: String,
    /// ISO 4217, capitals: the price's own currency, until [`RemoteSubscription::take`] sets the
    /// one that the item is charged in.
    pub currency: String,
    /// Minor units for each of Stripe's units; none for a price in tiers.
    pub unit_amount: Option<Decimal>,
    pub tiered: bool,
    /// None for usage.
    pub quantity: Option<i64>,
    pub created: i64,
    /// Start and end of the current billing period.
    pub period_start: i64,
    pub period_end: i64,
    pub unsupported: Vec<Unsupported>,
}

/// An item as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedItem {
    Metered(RemoteItem),
    /// It has a fixed quantity, such as a base fee: none of it comes from usage.
    Fixed,
}

impl RemoteSubscription {
    pub fn take(&mut self, items: Vec<ListedItem>) {
        for item in items {
            let ListedItem::Metered(mut item) = item else {
                self.fixed += 1;
                continue;
            };
            if !self.currency.is_empty() && item.currency != self.currency {
                item.currency.clone_from(&self.currency);
                item.unsupported.insert(0, Unsupported::MultiCurrencyPrice);
            }
            self.items.push(item);
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The cursor of the next page (`starting_after`); none on the last page.
    pub next: Option<String>,
    pub date: Option<Timestamp>,
}

/// The exact value of a number, or of a text that contains one.
pub(super) fn decimal(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        _ => return None,
    };
    text.parse().ok().or_else(|| Decimal::from_scientific(&text).ok())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Reads a page of a list. Objects without a required field are left out.
pub(super) fn page<T>((body, around): (Value, ResponseMeta), read: fn(&Value) -> Option<T>) -> Page<T> {
    let data = body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let more = body["has_more"].as_bool().unwrap_or(false);
    let next = data.last().filter(|_| more).and_then(|last| last["id"].as_str()).map(str::to_owned);
    Page { items: data.iter().filter_map(read).collect(), next, date: around.date }
}

pub(super) fn meter(value: &Value) -> Option<RemoteMeter> {
    Some(RemoteMeter {
        id: value["id"].as_str()?.to_owned(),
        event_name: text(&value["event_name"]),
        active: value["status"] == "active",
        formula: text(&value["default_aggregation"]["formula"]),
        window: value["event_time_window"].as_str().map(str::to_owned),
        payload: [
            text(&value["customer_mapping"]["event_payload_key"]),
            text(&value["value_settings"]["event_payload_key"]),
        ],
    })
}

impl RemoteMeter {
    /// Why events cannot be sent to the meter; none if they can.
    pub fn fault(&self) -> Option<String> {
        let formula = (self.formula != "sum").then(|| format!("it aggregates by `{}`, not by `sum`", self.formula));
        let window = self.window.as_ref().map(|w| format!("it counts only the last event of each {w}"));
        let payload = (self.payload != PAYLOAD).then(|| format!("its payload keys are {}", self.payload.join(", ")));
        formula.or(window).or(payload)
    }
}

/// What a price has that is not billed rightly, as far as the price alone shows.
fn unsupported(price: &Value) -> Vec<Unsupported> {
    let recurring = &price["recurring"];
    let monthly = recurring["interval"] == "month" && recurring["interval_count"].as_i64().unwrap_or(1) == 1;
    let found = [
        (price["transform_quantity"].is_object(), Unsupported::TransformQuantity),
        (!monthly, Unsupported::NotMonthly),
        (recurring["meter"].as_str().is_none(), Unsupported::NoMeter),
    ];
    found.into_iter().filter(|(has, _)| *has).map(|(_, what)| what).collect()
}

fn is_tiered(price: &Value) -> bool {
    price["billing_scheme"] == "tiered"
}

fn unit_amount(price: &Value) -> Option<Decimal> {
    let amount = decimal(&price["unit_amount_decimal"]).or_else(|| decimal(&price["unit_amount"]));
    amount.filter(|_| !is_tiered(price))
}

pub(super) fn price(value: &Value) -> Option<RemotePrice> {
    let mut unsupported = if value["recurring"].is_object() { unsupported(value) } else { vec![] };
    if value["currency_options"].as_object().is_some_and(|options| options.len() > 1) {
        unsupported.insert(0, Unsupported::MultiCurrencyPrice);
    }
    Some(RemotePrice {
        id: value["id"].as_str()?.to_owned(),
        meter: text(&value["recurring"]["meter"]),
        currency: text(&value["currency"]).to_ascii_uppercase(),
        unit_amount: unit_amount(value),
        unsupported,
    })
}

pub(super) fn subscription(value: &Value) -> Option<RemoteSubscription> {
    // an expanded customer is an object
    let customer = value["customer"].as_str().or(value["customer"]["id"].as_str())?.to_owned();
    let listed = &value["items"];
    let data = listed["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let last = || data.last().and_then(|last| last["id"].as_str()).unwrap_or_default().to_owned();
    let is_set = |field: &str| !value[field].is_null();
    let found = [
        (value["status"] == "trialing", Unsupported::Trial),
        (is_set("schedule"), Unsupported::Schedule),
        (is_set("test_clock"), Unsupported::TestClock),
    ];
    let mut subscription = RemoteSubscription {
        id: value["id"].as_str()?.to_owned(),
        customer,
        status: text(&value["status"]),
        anchor: value["billing_cycle_anchor"].as_i64()?,
        started: value["start_date"].as_i64().or(value["created"].as_i64())?,
        ended: value["ended_at"].as_i64(),
        currency: text(&value["currency"]).to_ascii_uppercase(),
        flexible: value["billing_mode"]["type"] == "flexible",
        unsupported: found.into_iter().filter(|(has, _)| *has).map(|(_, what)| what).collect(),
        more_after: (listed["has_more"] == true).then(last),
        ..RemoteSubscription::default()
    };
    subscription.take(data.iter().filter_map(item).collect());
    Some(subscription)
}

pub(super) fn item(value: &Value) -> Option<ListedItem> {
    let price = &value["price"];
    if price["recurring"]["usage_type"] != "metered" {
        return Some(ListedItem::Fixed);
    }
    Some(ListedItem::Metered(RemoteItem {
        id: value["id"].as_str()?.to_owned(),
        price: text(&price["id"]),
        meter: text(&price["recurring"]["meter"]),
        currency: text(&price["currency"]).to_ascii_uppercase(),
        unit_amount: unit_amount(price),
        tiered: is_tiered(price),
        quantity: value["quantity"].as_i64(),
        created: value["created"].as_i64()?,
        period_start: value["current_period_start"].as_i64()?,
        period_end: value["current_period_end"].as_i64()?,
        unsupported: unsupported(price),
    }))
}
