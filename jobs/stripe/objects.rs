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
    pub items: Vec<RemoteItem>,
}

/// A metered item of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteItem {
    pub id: String,
    pub price: String,
    pub meter: String,
    /// ISO 4217, capitals.
    pub currency: String,
    /// Start and end of the current billing period.
    pub period_start: i64,
    pub period_end: i64,
    /// Whether it is billed every month.
    pub monthly: bool,
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

pub(super) fn price(value: &Value) -> Option<RemotePrice> {
    let per_unit = value["billing_scheme"] == "per_unit";
    let amount = decimal(&value["unit_amount_decimal"]).or_else(|| decimal(&value["unit_amount"]));
    Some(RemotePrice {
        id: value["id"].as_str()?.to_owned(),
        meter: text(&value["recurring"]["meter"]),
        currency: text(&value["currency"]).to_ascii_uppercase(),
        unit_amount: amount.filter(|_| per_unit),
    })
}

pub(super) fn subscription(value: &Value) -> Option<RemoteSubscription> {
    // an expanded customer is an object
    let customer = value["customer"].as_str().or(value["customer"]["id"].as_str())?.to_owned();
    let items = value["items"]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(RemoteSubscription {
        id: value["id"].as_str()?.to_owned(),
        customer,
        status: text(&value["status"]),
        anchor: value["billing_cycle_anchor"].as_i64()?,
        started: value["start_date"].as_i64().or(value["created"].as_i64())?,
        ended: value["ended_at"].as_i64(),
        items: items.iter().filter_map(item).collect(),
    })
}

fn item(value: &Value) -> Option<RemoteItem> {
    let recurring = &value["price"]["recurring"];
    Some(RemoteItem {
        id: value["id"].as_str()?.to_owned(),
        price: text(&value["price"]["id"]),
        meter: recurring["meter"].as_str()?.to_owned(),
        currency: text(&value["price"]["currency"]).to_ascii_uppercase(),
        period_start: value["current_period_start"].as_i64()?,
        period_end: value["current_period_end"].as_i64()?,
        monthly: recurring["interval"] == "month" && recurring["interval_count"].as_i64().unwrap_or(1) == 1,
    })
}
