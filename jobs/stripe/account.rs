//! A Stripe account and its requests: async-stripe's typed requests over [`super::transport`].

use std::collections::HashMap;
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
use stripe_billing::subscription_item::ListSubscriptionItem;
use stripe_client_core::{IdempotencyKey, RequestBuilder, RequestStrategy, StripeRequest};
use stripe_product::price::ListPrice;

use super::mapping::Mapping;
use super::objects::{self, ListedItem, PAYLOAD, Page, RemoteMeter, RemotePrice, RemoteSubscription};
use super::transport::{CallError, CallFailure, ResponseMeta, Transport};
use books::stripe::meter_event::MeterEvent;

/// Objects on one page: the most that Stripe gives.
const PAGE: i64 = 100;

/// Subscriptions to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedSubscriptions {
    All,
    /// Those that Stripe made at this second since 1970 or later.
    CreatedSince(i64),
    /// Those of a Stripe customer.
    OfCustomer(String),
}

impl ListedSubscriptions {
    /// Whether an error says that Stripe does not have the customer.
    pub fn is_unknown_to_stripe(&self, error: &CallError) -> bool {
        matches!(self, Self::OfCustomer(_)) && error.code.as_deref() == Some("resource_missing")
    }
}

/// A Stripe account. Clones share its connections and its rate limit.
#[derive(Clone)]
pub struct StripeAccount {
    transport: Transport,
    rate: Arc<DefaultDirectRateLimiter>,
    /// The most requests in progress at once.
    pub max_concurrent: usize,
    /// The most requests in a second.
    pub per_second: u32,
    pub timeout: Duration,
    /// Results of the attempts to send, for metrics.
    pub sends: Arc<SendCounters>,
}

/// Attempts to send, counted as each one ends, so the attempts of a failed run count too.
/// Operators see them as metrics.
#[derive(Debug, Default)]
pub struct SendCounters {
    pub accepted: AtomicU64,
    /// Refused by Stripe's answer, not by a later error report.
    pub refused: AtomicU64,
    pub unconfirmed: AtomicU64,
    /// Stripe certainly did not take them: they are sent again.
    pub retried: AtomicU64,
    /// Milliseconds that attempts waited for the rate limit, added up.
    pub throttled_ms: AtomicU64,
}

impl fmt::Debug for StripeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeAccount").field("transport", &self.transport).finish_non_exhaustive()
    }
}

impl StripeAccount {
    /// An account with at most `per_second` requests in a second and `max_concurrent` at once.
    pub fn new(transport: Transport, per_second: NonZeroU32, max_concurrent: usize, timeout: Duration) -> Self {
        // a tenth of a second's requests may come in one burst, so a short delay on our side does
        // not lower the rate
        let burst = NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN);
        let rate = Arc::new(RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst)));
        Self { transport, rate, max_concurrent, per_second: per_second.get(), timeout, sends: Arc::default() }
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

    /// Waits until the rate limit allows a request.
    pub async fn ready(&self) {
        self.rate.until_ready().await;
    }

    /// Sends an event. The caller has waited for [`StripeAccount::ready`]. An error with a 2xx
    /// status means that Stripe took the event.
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

    /// All meters of the account, active or not, and the time of Stripe's clock.
    pub async fn meters(&self) -> Result<(Vec<RemoteMeter>, Option<Timestamp>), CallError> {
        let (mut found, mut after, mut clock) = (vec![], None::<String>, None);
        loop {
            let mut list = ListBillingMeter::new().limit(PAGE);
            if let Some(after) = &after {
                list = list.starting_after(after.clone());
            }
            let page = objects::page(self.get(list.build()).await?, objects::meter);
            found.extend(page.items);
            clock = page.date.or(clock);
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                return Ok((found, clock));
            }
        }
    }

    /// Creates a meter that sums up its events. The Idempotency-Key makes a second request create
    /// nothing.
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

    /// The account's active prices that belong to a meter, with their other currencies.
    pub async fn prices(&self) -> Result<Vec<RemotePrice>, CallError> {
        let (mut found, mut after) = (vec![], None::<String>);
        loop {
            let mut list = ListPrice::new().active(true).limit(PAGE).expand(vec!["data.currency_options".to_owned()]);
            if let Some(after) = &after {
                list = list.starting_after(after.clone());
            }
            let page = objects::page(self.get(list.build()).await?, objects::price);
            found.extend(page.items.into_iter().filter(|p| !p.meter.is_empty()));
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// A page of subscriptions in every state, the newest first, each with all of its items.
    pub async fn subscriptions(
        &self,
        which: &ListedSubscriptions,
        after: Option<String>,
    ) -> Result<Page<RemoteSubscription>, CallError> {
        let mut list = ListSubscription::new().limit(PAGE).status(ListSubscriptionStatus::All);
        list = match which {
            ListedSubscriptions::All => list,
            ListedSubscriptions::CreatedSince(since) => list.created(stripe_types::RangeQueryTs::gte(*since)),
            ListedSubscriptions::OfCustomer(id) => list.customer(id.clone()),
        };
        if let Some(after) = &after {
            list = list.starting_after(after.clone());
        }
        let mut page = objects::page(self.get(list.build()).await?, objects::subscription);
        // a page that points to itself is the last one
        page.next = page.next.filter(|next| Some(next) != after.as_ref());
        for subscription in &mut page.items {
            self.take_more_items(subscription).await?;
        }
        Ok(page)
    }

    /// Reads the items that the subscription's own object does not list: it lists ten.
    async fn take_more_items(&self, subscription: &mut RemoteSubscription) -> Result<(), CallError> {
        while let Some(after) = subscription.more_after.take() {
            let mut list = ListSubscriptionItem::new(subscription.id.as_str()).limit(PAGE);
            if !after.is_empty() {
                list = list.starting_after(after.clone());
            }
            let page: Page<ListedItem> = objects::page(self.get(list.build()).await?, objects::item);
            subscription.take(page.items);
            subscription.more_after = page.next.filter(|next| *next != after);
        }
        Ok(())
    }

    /// Stripe's total of a meter and customer from `start` to before `end`, both whole minutes.
    ///
    /// # Errors
    /// Stripe's error. A total that is not a whole number is [`CallFailure::Unreadable`].
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
                total += objects::decimal(value).ok_or_else(|| unreadable(value.to_string()))?;
            }
            let page: Page<()> = objects::page((body, around), |_| Some(()));
            after = page.next.filter(|next| Some(next) != after.as_ref());
            if after.is_none() {
                let whole = (total.fract().is_zero()).then(|| total.normalize().to_string());
                return whole.and_then(|w| w.parse().ok()).ok_or_else(|| unreadable(total.to_string()));
            }
        }
    }
}
