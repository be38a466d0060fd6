//! Stripe, as far as metering goes: an account, what is asked of it, and the few fields that are
//! read of its answers.
//!
//! Requests are async-stripe's typed ones over [`transport`]. Where an answer must be understood
//! whatever else is in it, its fields are read one by one: async-stripe refuses a whole list for
//! one field that it did not expect.

pub mod account;
pub mod check;
pub mod transport;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::Value;
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterCustomerMapping, CreateBillingMeterCustomerMappingType,
    CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
    ListBillingMeter,
};
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use stripe_billing::billing_meter_event_summary::ListIdBillingMeterEventSummary;
use stripe_billing::subscription::{ListSubscription, ListSubscriptionStatus};
use stripe_client_core::{IdempotencyKey, RequestBuilder, RequestStrategy, StripeRequest};
use stripe_product::price::ListPrice;

use self::transport::{CallError, CallFailure, ResponseMeta, Transport};
use books::stripe::meter_event::MeterEvent;

/// Objects that are asked for at once, the most that Stripe gives.
const PAGE: i64 = 100;
/// Where the payload of a meter event has its customer and its value, as Stripe has it by default.
const PAYLOAD: [&str; 2] = ["stripe_customer_id", "value"];

/// How usage is billed.
#[derive(Clone, Debug)]
pub struct BillingSettings {
    /// Meters that are billed, by our names.
    pub meters: BTreeMap<String, Mapping>,
    /// How long an invoice takes usage after its period, in seconds.
    pub grace: i64,
    /// Requests for totals on one day.
    pub reads_per_day: u32,
    /// How long after books were restored from a backup Stripe's totals are believed to have all
    /// that the lost ones had sent, in seconds.
    pub quiet: i64,
    pub mode: StripeMode,
}

/// Where a meter goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Stripe's name of the meter.
    pub event_name: String,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    /// What Stripe shows to the owner.
    pub display_name: String,
}

/// Where usage goes.
#[derive(Clone, Debug, Default)]
pub enum StripeMode {
    /// Nowhere: what would be sent is only told.
    #[default]
    DryRun,
    Stripe(StripeAccount),
}

impl Default for BillingSettings {
    fn default() -> Self {
        Self { meters: BTreeMap::new(), grace: 3600, reads_per_day: 300, quiet: 86_400, mode: StripeMode::DryRun }
    }
}

/// An account at Stripe; clones share its connections and its rate.
#[derive(Clone)]
pub struct StripeAccount {
    transport: Transport,
    rate: Arc<DefaultDirectRateLimiter>,
    /// Requests under way at once.
    pub at_once: usize,
    /// Requests in a second.
    pub per_second: u32,
    /// How long a request may take.
    pub timeout: Duration,
    /// What became of attempts to send.
    pub sends: Arc<SendCounters>,
}

/// Attempts to send, counted as they end, so that those of a run that fails count too; for the
/// operator.
#[derive(Debug, Default)]
pub struct SendCounters {
    pub accepted: AtomicU64,
    /// Refused by Stripe at once.
    pub refused: AtomicU64,
    pub unconfirmed: AtomicU64,
    /// Not taken; they are sent again.
    pub again: AtomicU64,
    /// Milliseconds for which attempts waited for the account's rate, added up.
    pub throttled_ms: AtomicU64,
}

impl fmt::Debug for StripeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeAccount").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// A meter as Stripe has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteMeter {
    pub id: String,
    pub event_name: String,
    pub active: bool,
    /// `sum`, `count` or `last`.
    pub formula: String,
    /// `hour` or `day` when only the last event of each counts.
    pub window: Option<String>,
    /// Where its events have their customer and their value.
    pub payload: [String; 2],
}

/// A price as Stripe has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemotePrice {
    pub id: String,
    /// The meter whose usage it charges.
    pub meter: String,
    /// ISO 4217, capitals.
    pub currency: String,
    /// Minor units for each of Stripe's units; none for a price in tiers.
    pub unit_amount: Option<Decimal>,
}

/// A subscription as Stripe has it.
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
    pub period: (i64, i64),
    /// Whether it is billed month by month.
    pub monthly: bool,
}

/// A page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next one begins, if there is one.
    pub next: Option<String>,
    pub date: Option<Timestamp>,
}

impl StripeAccount {
    /// An account that is sent `per_second` requests at most, `at_once` at once.
    pub fn new(transport: Transport, per_second: NonZeroU32, at_once: usize, timeout: Duration) -> Self {
        // a tenth of a second's requests may come at once, so that a short wait of ours costs no
        // rate
        let burst = NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN);
        let rate = Arc::new(RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst)));
        Self { transport, rate, at_once, per_second: per_second.get(), timeout, sends: Arc::default() }
    }

    async fn get(&self, request: RequestBuilder) -> Result<(Value, ResponseMeta), CallError> {
        self.rate.until_ready().await;
        let (body, around) = self.transport.call(request, None).await?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok((value, around)),
            Err(e) => Err(CallError {
                status: None,
                kind: CallFailure::Unreadable,
                code: None,
                message: format!("Stripe's answer cannot be read: {e}"),
                around,
            }),
        }
    }

    /// Waits for the account's rate.
    pub async fn ready(&self) {
        self.rate.until_ready().await;
    }

    /// SendCounters an event, whose turn by [`StripeAccount::ready`] has come. Errors that come
    /// with a status of 2xx mean that Stripe has it.
    pub async fn send(&self, event: &MeterEvent) -> Result<ResponseMeta, CallError> {
        let [customer, value] = PAYLOAD.map(str::to_owned);
        let payload = HashMap::from([(customer, event.stripe_customer.clone()), (value, event.value.to_string())]);
        let request = CreateBillingMeterEvent::new(event.event_name.clone(), payload)
            .identifier(event.identifier.clone())
            .timestamp(event.timestamp.as_second());
        let key = format!("{}:k{}", event.identifier, event.key_no);
        let (_, around) = self.transport.call(request.build(), Some(&key)).await?;
        Ok(around)
    }

    /// All meters of the account, active or not, and Stripe's clock.
    pub async fn meters(&self) -> Result<(Vec<RemoteMeter>, Option<Timestamp>), CallError> {
        let (mut found, mut after, mut clock) = (vec![], None::<String>, None);
        loop {
            let mut list = ListBillingMeter::new().limit(PAGE);
            if let Some(after) = &after {
                list = list.starting_after(after.clone());
            }
            let page = page(self.get(list.build()).await?, meter);
            found.extend(page.items);
            clock = page.date.or(clock);
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                return Ok((found, clock));
            }
        }
    }

    /// Makes a meter that adds up what it is sent. Asked for twice, it is made once.
    pub async fn create_meter(&self, mapping: &Mapping) -> Result<String, CallError> {
        let [customer, value] = PAYLOAD;
        let request = CreateBillingMeter::new(
            CreateBillingMeterDefaultAggregation::new(CreateBillingMeterDefaultAggregationFormula::Sum),
            mapping.display_name.clone(),
            mapping.event_name.clone(),
        )
        .customer_mapping(CreateBillingMeterCustomerMapping::new(customer, CreateBillingMeterCustomerMappingType::ById))
        .value_settings(CreateBillingMeterValueSettings::new(value));
        let key = IdempotencyKey::new(format!("meter-setup:{}", mapping.event_name));
        let key =
            key.map_err(|e| <CallError as stripe_client_core::StripeClientErr>::deserialize_err(format!("{e:?}")))?;
        self.rate.until_ready().await;
        let made = request.customize().request_strategy(RequestStrategy::Idempotent(key)).send(&self.transport).await?;
        Ok(made.id.to_string())
    }

    /// Active prices of the account that charge a meter.
    pub async fn prices(&self) -> Result<Vec<RemotePrice>, CallError> {
        let (mut found, mut after) = (vec![], None::<String>);
        loop {
            let mut list = ListPrice::new().active(true).limit(PAGE);
            if let Some(after) = &after {
                list = list.starting_after(after.clone());
            }
            let page = page(self.get(list.build()).await?, price);
            found.extend(page.items.into_iter().filter(|p| !p.meter.is_empty()));
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// A page of subscriptions in every state, the newest first; `since` leaves out those that were
    /// made before.
    pub async fn subscriptions(
        &self,
        since: Option<i64>,
        after: Option<String>,
    ) -> Result<Page<RemoteSubscription>, CallError> {
        let mut list = ListSubscription::new().limit(PAGE).status(ListSubscriptionStatus::All);
        if let Some(since) = since {
            list = list.created(stripe_types::RangeQueryTs::gte(since));
        }
        if let Some(after) = &after {
            list = list.starting_after(after.clone());
        }
        let mut page = page(self.get(list.build()).await?, subscription);
        // a page that leads to itself is the last one
        page.next = page.next.filter(|next| Some(next) != after.as_ref());
        Ok(page)
    }

    /// What a meter has of a customer from `start` to before `end`, both on the minute.
    ///
    /// # Errors
    /// What Stripe says; an amount that is no whole number is unreadable.
    pub async fn total(&self, meter: &str, customer: &str, start: i64, end: i64) -> Result<i64, CallError> {
        let (mut total, mut after) = (Decimal::ZERO, None::<String>);
        loop {
            let mut list = ListIdBillingMeterEventSummary::new(meter, customer, end, start).limit(PAGE);
            if let Some(after) = &after {
                list = list.starting_after(after.clone());
            }
            let (body, around) = self.get(list.build()).await?;
            let unreadable = |what: String| CallError {
                message: format!("Stripe's total of {customer} cannot be read: {what}"),
                ..<CallError as stripe_client_core::StripeClientErr>::deserialize_err("")
            };
            for summary in body["data"].as_array().ok_or_else(|| unreadable("no list".into()))? {
                let value = &summary["aggregated_value"];
                total += decimal(value).ok_or_else(|| unreadable(value.to_string()))?;
            }
            let page: Page<()> = page((body, around), |_| Some(()));
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                let whole = (total.fract().is_zero()).then(|| total.normalize().to_string());
                return whole.and_then(|w| w.parse().ok()).ok_or_else(|| unreadable(total.to_string()));
            }
        }
    }
}

/// A number, or text of one, exactly.
fn decimal(value: &Value) -> Option<Decimal> {
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

/// Reads a list; what lacks what must be there is left out.
fn page<T>((body, around): (Value, ResponseMeta), read: fn(&Value) -> Option<T>) -> Page<T> {
    let data = body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let more = body["has_more"].as_bool().unwrap_or(false);
    let next = data.last().filter(|_| more).and_then(|last| last["id"].as_str()).map(str::to_owned);
    Page { items: data.iter().filter_map(read).collect(), next, date: around.date }
}

fn meter(value: &Value) -> Option<RemoteMeter> {
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
    /// Why it cannot be used, if so.
    pub fn fault(&self) -> Option<String> {
        let formula = (self.formula != "sum").then(|| format!("it aggregates by `{}`, not by `sum`", self.formula));
        let window = self.window.as_ref().map(|w| format!("it counts only the last event of each {w}"));
        let payload = (self.payload != PAYLOAD).then(|| format!("its payload keys are {}", self.payload.join(", ")));
        formula.or(window).or(payload)
    }
}

fn price(value: &Value) -> Option<RemotePrice> {
    let per_unit = value["billing_scheme"] == "per_unit";
    let amount = decimal(&value["unit_amount_decimal"]).or_else(|| decimal(&value["unit_amount"]));
    Some(RemotePrice {
        id: value["id"].as_str()?.to_owned(),
        meter: text(&value["recurring"]["meter"]),
        currency: text(&value["currency"]).to_ascii_uppercase(),
        unit_amount: amount.filter(|_| per_unit),
    })
}

fn subscription(value: &Value) -> Option<RemoteSubscription> {
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
        period: (value["current_period_start"].as_i64()?, value["current_period_end"].as_i64()?),
        monthly: recurring["interval"] == "month" && recurring["interval_count"].as_i64().unwrap_or(1) == 1,
    })
}
