//! One HTTP call to Stripe. It keeps what async-stripe's own client throws away: the status with
//! any body, Request-Id, Retry-After and the time at Stripe. It never repeats a call: the caller
//! decides that, and counts attempts in the books.

use std::fmt;
use std::time::Duration;

use books::store::remote::http::origin;
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Url};
use serde_json::Value;
use stripe_client_core::{
    ApiVersion, CustomizedStripeRequest, RequestBuilder, StripeClient, StripeClientErr, StripeMethod, VERSION,
};

use crate::http_error;

/// Connections, an address and a key.
#[derive(Clone)]
pub struct Transport {
    client: Client,
    base: Url,
    key: String,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("host", &self.base.host_str()).finish_non_exhaustive()
    }
}

/// The headers of Stripe's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseMeta {
    /// Stripe's `Request-Id`.
    pub request_id: Option<String>,
    pub retry_after: Option<Duration>,
    pub date: Option<Timestamp>,
    /// True if the answer is a stored one, of an earlier request with the same Idempotency-Key.
    pub replayed: bool,
}

/// A call that did not end with 2xx and a whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The status, if one came.
    pub status: Option<u16>,
    /// The kind of failure; it also tells calls without a status apart.
    pub kind: CallFailure,
    /// Stripe's error code, if there is one.
    pub code: Option<String>,
    /// Stripe's message, or what went wrong. It never contains the key.
    pub message: String,
    pub around: ResponseMeta,
}

/// Ways in which a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// Nothing was sent: no connection.
    NotSent,
    /// It was sent, and no whole answer came.
    NoAnswer,
    /// Stripe answered, with an error of its own.
    Answered,
    /// The answer is not an error of Stripe's: it is from a proxy or another server.
    NotStripe,
    /// A 2xx with a body that cannot be read.
    Unreadable,
}

impl CallError {
    /// Whether Stripe gives no total. A deleted customer has none.
    pub fn is_no_total(&self) -> bool {
        matches!(self.status, Some(400 | 404)) || self.kind == CallFailure::Unreadable
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status, self.kind) {
            (Some(status), CallFailure::NotStripe) => write!(f, "something that is not Stripe answered {status}: ")?,
            (Some(status), _) => write!(f, "Stripe answered {status}: ")?,
            (None, CallFailure::NotSent | CallFailure::NoAnswer) => f.write_str("Stripe: ")?,
            (None, _) => {}
        }
        f.write_str(&self.message)?;
        self.around.request_id.as_ref().map_or(Ok(()), |id| write!(f, " ({id})"))
    }
}

impl std::error::Error for CallError {}

impl StripeClientErr for CallError {
    fn deserialize_err(msg: impl fmt::Display) -> Self {
        let message = format!("Stripe's answer cannot be read: {msg}");
        Self { status: None, kind: CallFailure::Unreadable, code: None, message, around: ResponseMeta::default() }
    }
}

impl StripeClient for Transport {
    type Err = CallError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, CallError> {
        let (request, options) = request.into_pieces();
        let key = options.request_strategy.and_then(|s| s.get_key());
        let (body, _) = self.call(request, key.as_ref().map(|k| k.as_str())).await?;
        Ok(body)
    }
}

impl Transport {
    /// Calls the API at `base`, which ends with `/`, over `client` and with a secret key.
    pub fn new(client: Client, base: Url, key: String) -> Self {
        Self { client, base, key }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// Every result but a 2xx with a whole body.
    pub async fn call(&self, request: RequestBuilder, key: Option<&str>) -> Result<(Bytes, ResponseMeta), CallError> {
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let lost = |kind, error: &reqwest::Error| CallError {
            status: None,
            kind,
            code: None,
            message: format!("{}; check the network and stripe.url", http_error::describe(error, &self.base)),
            around: ResponseMeta::default(),
        };
        let mut url =
            self.base.join(&format!("v1/{}", request.path.trim_start_matches('/'))).map_err(|e| CallError {
                status: None,
                kind: CallFailure::NotSent,
                code: None,
                message: format!("no address for {}: {e}", request.path),
                around: ResponseMeta::default(),
            })?;
        url.set_query(request.query.as_deref().filter(|q| !q.is_empty()));
        let version: &ApiVersion = &VERSION;
        let mut call = self
            .client
            .request(method, url)
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
            .header("Stripe-Version", version.as_str());
        if let Some(key) = key {
            call = call.header("Idempotency-Key", key);
        }
        if let Some(body) = request.body {
            call = call.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
        }
        let answer = call.send().await.map_err(|e| {
            let kind = if e.is_connect() || e.is_builder() { CallFailure::NotSent } else { CallFailure::NoAnswer };
            lost(kind, &e)
        })?;
        let (status, around) = (answer.status(), around(answer.headers()));
        let body = answer.bytes().await;
        match body {
            Ok(body) if status.is_success() => Ok((body, around)),
            Ok(body) => {
                let mut refused = refusal(status.as_u16(), &body, around, &self.base);
                // another server may say back what it was sent
                if !self.key.is_empty() {
                    refused.message = refused.message.replace(&self.key, "(the key)");
                }
                Err(refused)
            }
            Err(e) => Err(CallError { status: Some(status.as_u16()), around, ..lost(CallFailure::NoAnswer, &e) }),
        }
    }
}

fn around(headers: &HeaderMap) -> ResponseMeta {
    let text = |value: Option<&reqwest::header::HeaderValue>| Some(value?.to_str().ok()?.trim().to_owned());
    ResponseMeta {
        request_id: text(headers.get("request-id")).filter(|id| id.len() <= 200),
        retry_after: text(headers.get(RETRY_AFTER)).and_then(|s| s.parse().ok()).map(Duration::from_secs),
        replayed: headers.get("idempotent-replayed").is_some_and(|v| v.as_bytes() == b"true"),
        date: text(headers.get(DATE)).and_then(|d| Some(jiff::fmt::rfc2822::parse(&d).ok()?.timestamp())),
    }
}

/// The error for an answer other than 2xx from `base`. Of a proxy's page only the status is kept.
fn refusal(status: u16, body: &[u8], around: ResponseMeta, base: &Url) -> CallError {
    let error = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let text = |key: &str| error["error"][key].as_str().map(|t| t.chars().take(500).collect::<String>());
    let is_stripe = error["error"].is_object();
    let kind = if is_stripe { CallFailure::Answered } else { CallFailure::NotStripe };
    let elsewhere = || format!("check stripe.url ({}), and a proxy on the way", origin(base));
    let message = if is_stripe { text("message").unwrap_or_else(|| "no message".into()) } else { elsewhere() };
    CallError { status: Some(status), kind, code: text("code"), message, around }
}
