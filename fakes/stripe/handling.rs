//! Handles a request in Stripe's order: the key, the path, the rate, the Idempotency-Key, the
//! parameters.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::Value;

use crate::World;
use crate::answers::{self, Answer};
use crate::faults::{Fault, Seen};
use crate::form::Params;
use crate::recorded::Recorded;

/// A request with its whole body.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

/// How a request ends on its connection.
#[derive(Debug)]
pub(crate) enum Ending {
    Answer(Answer),
    /// The connection is closed within the answer's body.
    Cut(Answer),
    /// It is never answered.
    Hang,
    /// The connection is closed.
    Reset,
}

/// A meter event that counts as in flight for a while.
#[derive(Debug)]
pub(crate) struct Flight {
    of: (String, String),
    key: Option<String>,
}

/// The result of a request.
pub(crate) struct Handled {
    pub(crate) ending: Ending,
    /// The meter event that is in flight until the answer, and for how long.
    pub(crate) flight: Option<(Flight, Duration)>,
}

/// The result of an execution; of a meter event also its customer and meter.
type Executed = (Value, Option<(String, String)>);

impl World {
    /// Handles a request.
    pub(crate) fn handle(&mut self, request: &Request) -> Handled {
        self.counts.requests += 1;
        let params = Params::new(&request.query, &request.body);
        let fault = self.fault(request, &params);
        self.record(request);
        let done = |ending| Handled { ending, flight: None };
        match fault {
            Some(Fault::RateLimited { retry_after }) => {
                self.counts.rate_limited += 1;
                return done(self.sent(answers::rate_limited("global-rate", retry_after)));
            }
            Some(Fault::LockTimeout) => return done(self.sent(answers::lock_timeout())),
            Some(Fault::KeyInUse) => {
                let key = request.headers.get("idempotency-key").map_or("", String::as_str);
                return done(self.sent(answers::key_in_use(key)));
            }
            Some(Fault::HtmlBefore) => return done(self.sent_by_proxy()),
            Some(Fault::Redirect) => return done(Ending::Answer(Answer::redirect())),
            Some(Fault::HangBefore) => return done(Ending::Hang),
            Some(Fault::ResetBefore) => return done(Ending::Reset),
            Some(Fault::Unauthorized) => {
                return done(self.sent(answers::unauthorized(Some("sk_test_refusedbyfault"))));
            }
            Some(Fault::Forbidden) => return done(self.sent(answers::forbidden())),
            _ => {}
        }
        let (answer, flight) = self.answer(request, params, fault);
        let flight = flight.map(|flight| (flight, self.options.latency));
        let ending = match fault {
            Some(Fault::HtmlAfter) => self.sent_by_proxy(),
            Some(Fault::HangAfter) => Ending::Hang,
            Some(Fault::ResetAfter) => Ending::Reset,
            Some(Fault::ResetInBody) => match self.sent(answer) {
                Ending::Answer(answer) => Ending::Cut(answer),
                other => other,
            },
            Some(Fault::OddBody) if answer.status == 200 => self.sent(Answer::odd_body()),
            _ => self.sent(answer),
        };
        Handled { ending, flight }
    }

    fn fault(&mut self, request: &Request, params: &Params) -> Option<Fault> {
        let script = self.script.as_mut()?;
        let (method, path) = (request.method.clone(), request.path.clone());
        script(&Seen { method, path, form: params.by_name(), nth: self.counts.requests })
    }

    fn record(&mut self, request: &Request) {
        if !self.options.remember_requests {
            return;
        }
        let mut headers = request.headers.clone();
        if let Some(value) = headers.get_mut("authorization") {
            "Bearer ********".clone_into(value);
        }
        let question = if request.query.is_empty() { "" } else { "?" };
        self.requests.push(Recorded {
            method: request.method.clone(),
            target: format!("{}{question}{}", request.path, request.query),
            headers,
            body: String::from_utf8_lossy(&request.body).into_owned(),
        });
    }

    /// Adds the headers that every answer of Stripe has.
    fn sent(&mut self, answer: Answer) -> Ending {
        let id = format!("req_fake{:010}", self.next_number());
        let date = self.date();
        Ending::Answer(answer.with("request-id", id).with("date", date))
    }

    fn sent_by_proxy(&self) -> Ending {
        Ending::Answer(Answer::html_bad_gateway().with("date", self.date()))
    }

    fn date(&self) -> String {
        let now = Timestamp::from_second(self.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        DateTimePrinter::new().timestamp_to_rfc9110_string(&now).unwrap_or_default()
    }

    /// The answer by Stripe's rules, with the faults of the execution.
    fn answer(&mut self, request: &Request, params: Params, fault: Option<Fault>) -> (Answer, Option<Flight>) {
        if let Err(refusal) = self.authorize(request) {
            return (refusal, None);
        }
        let Some(route) = Route::of(&request.method, &request.path) else {
            return (answers::unrecognized_url(&request.method, &request.path), None);
        };
        if matches!(route, Route::CreateMeterEvent) && !self.rate_allows_an_event() {
            self.counts.rate_limited += 1;
            return (answers::rate_limited("endpoint-rate", None), None);
        }
        let key = request.headers.get("idempotency-key").filter(|_| request.method == "POST");
        let (now, fingerprint) = (self.now(), key.map_or(0, |_| request.fingerprint(&params)));
        if let Some((answer, replayed)) = key.and_then(|key| self.keys.answer(key, fingerprint, now)) {
            self.counts.replayed += u64::from(replayed);
            return (answer, None);
        }
        if let Some(Fault::ErrorBefore(status)) = fault {
            let answer = answers::failed(status);
            if let Some(key) = key.filter(|_| status >= 500) {
                self.keys.keep(key, fingerprint, now, false, answer.clone());
            }
            return (answer, None);
        }
        let executed = request.check_content_type().and_then(|()| self.execute(&route, params, fault));
        let (body, of) = match executed {
            Ok(executed) => executed,
            Err(refusal) => return (refusal, None),
        };
        let answer = match fault {
            Some(Fault::ErrorAfter(status)) => answers::failed(status),
            _ => Answer::json(200, &body),
        };
        let flight = of.and_then(|of| self.take_off(of, key.cloned()));
        if let Some(key) = key {
            self.keys.keep(key, fingerprint, now, flight.is_some(), answer.clone());
        }
        (answer, flight)
    }

    fn authorize(&self, request: &Request) -> Result<(), Answer> {
        let given = request.headers.get("authorization");
        let key = given.map(|value| value.strip_prefix("Bearer ").unwrap_or_default());
        if key == Some(self.options.key.as_str()) { Ok(()) } else { Err(answers::unauthorized(key)) }
    }

    /// Only an event that takes time can be seen in flight by another request
    fn take_off(&mut self, of: (String, String), key: Option<String>) -> Option<Flight> {
        if self.options.latency.is_zero() {
            self.counts.most_in_flight = self.counts.most_in_flight.max(self.in_flight.len() + 1);
            return None;
        }
        self.in_flight.insert(of.clone());
        self.counts.most_in_flight = self.counts.most_in_flight.max(self.in_flight.len());
        Some(Flight { of, key })
    }

    /// Ends the flight of a meter event.
    pub(crate) fn land(&mut self, flight: &Flight) {
        self.in_flight.remove(&flight.of);
        if let Some(key) = &flight.key {
            self.keys.land(key);
        }
    }

    fn execute(&mut self, route: &Route, params: Params, fault: Option<Fault>) -> Result<Executed, Answer> {
        let body = match route {
            Route::CreateMeterEvent => {
                let taken = self.create_meter_event(params, fault == Some(Fault::LateReject))?;
                return Ok((taken.body, Some(taken.of)));
            }
            Route::CreateAdjustment => self.create_adjustment(params),
            Route::ListMeters => self.list_meters(params),
            Route::CreateMeter => self.create_meter(params),
            Route::RetrieveMeter(id) => self.retrieve_meter(id, params),
            Route::DeactivateMeter(id) => self.deactivate(id, params),
            Route::ReactivateMeter(id) => self.reactivate(id, params),
            Route::ListSummaries(id) => self.list_summaries(id, params),
            Route::ListPrices => self.list_prices(params),
            Route::CreatePrice => self.create_price(params),
            Route::RetrievePrice(id) => self.retrieve_price(id, params),
            Route::CreateProduct => self.create_product(params),
            Route::RetrieveProduct(id) => self.retrieve_product(id, params),
            Route::ListSubscriptions => self.list_subscriptions(params),
            Route::RetrieveSubscription(id) => self.retrieve_subscription(id, params),
            Route::CreateSubscription => self.create_subscription(params),
            Route::ListSubscriptionItems => self.list_subscription_items(params),
            Route::CreateSubscriptionItem => self.create_subscription_item(params),
            Route::RetrieveSubscriptionItem(id) => self.retrieve_subscription_item(id, params),
            Route::ListCustomers => self.list_customers(params),
            Route::CreateCustomer => self.create_customer(params),
            Route::RetrieveCustomer(id) => self.retrieve_customer(id, params),
            Route::RetrieveCoreEvent(id) => self.retrieve_core_event(id, params),
        };
        body.map(|body| (body, None))
    }
}

impl Request {
    /// The part that two requests under one key must have in common.
    fn fingerprint(&self, params: &Params) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.method, &self.path, params.by_name()).hash(&mut hasher);
        hasher.finish()
    }

    /// API v1 reads forms only.
    fn check_content_type(&self) -> Result<(), Answer> {
        let given = self.headers.get("content-type").map_or("", String::as_str);
        if self.body.is_empty() || given.starts_with("application/x-www-form-urlencoded") {
            return Ok(());
        }
        let message = "Invalid request (check that your POST content type is application/x-www-form-urlencoded). If \
                       you have any questions, we can help at https://support.stripe.com/.";
        Err(answers::invalid(message, None))
    }
}

/// The endpoint of a request.
enum Route {
    CreateMeterEvent,
    CreateAdjustment,
    ListMeters,
    CreateMeter,
    RetrieveMeter(String),
    DeactivateMeter(String),
    ReactivateMeter(String),
    ListSummaries(String),
    ListPrices,
    CreatePrice,
    RetrievePrice(String),
    CreateProduct,
    RetrieveProduct(String),
    ListSubscriptions,
    CreateSubscription,
    RetrieveSubscription(String),
    ListSubscriptionItems,
    CreateSubscriptionItem,
    RetrieveSubscriptionItem(String),
    ListCustomers,
    CreateCustomer,
    RetrieveCustomer(String),
    RetrieveCoreEvent(String),
}

impl Route {
    fn of(method: &str, path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let route = match (method, parts.as_slice()) {
            ("POST", ["v1", "billing", "meter_events"]) => Self::CreateMeterEvent,
            ("POST", ["v1", "billing", "meter_event_adjustments"]) => Self::CreateAdjustment,
            ("GET", ["v1", "billing", "meters"]) => Self::ListMeters,
            ("POST", ["v1", "billing", "meters"]) => Self::CreateMeter,
            ("GET", ["v1", "billing", "meters", id]) => Self::RetrieveMeter((*id).to_owned()),
            ("POST", ["v1", "billing", "meters", id, "deactivate"]) => Self::DeactivateMeter((*id).to_owned()),
            ("POST", ["v1", "billing", "meters", id, "reactivate"]) => Self::ReactivateMeter((*id).to_owned()),
            ("GET", ["v1", "billing", "meters", id, "event_summaries"]) => Self::ListSummaries((*id).to_owned()),
            ("GET", ["v1", "prices"]) => Self::ListPrices,
            ("POST", ["v1", "prices"]) => Self::CreatePrice,
            ("GET", ["v1", "prices", id]) => Self::RetrievePrice((*id).to_owned()),
            ("POST", ["v1", "products"]) => Self::CreateProduct,
            ("GET", ["v1", "products", id]) => Self::RetrieveProduct((*id).to_owned()),
            ("POST", ["v1", "subscriptions"]) => Self::CreateSubscription,
            ("GET", ["v1", "subscriptions"]) => Self::ListSubscriptions,
            ("GET", ["v1", "subscriptions", id]) => Self::RetrieveSubscription((*id).to_owned()),
            ("GET", ["v1", "subscription_items"]) => Self::ListSubscriptionItems,
            ("POST", ["v1", "subscription_items"]) => Self::CreateSubscriptionItem,
            ("GET", ["v1", "subscription_items", id]) => Self::RetrieveSubscriptionItem((*id).to_owned()),
            ("GET", ["v1", "customers"]) => Self::ListCustomers,
            ("POST", ["v1", "customers"]) => Self::CreateCustomer,
            ("GET", ["v1", "customers", id]) => Self::RetrieveCustomer((*id).to_owned()),
            ("GET", ["v2", "core", "events", id]) => Self::RetrieveCoreEvent((*id).to_owned()),
            _ => return None,
        };
        Some(route)
    }
}
