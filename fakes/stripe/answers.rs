//! Answers, and errors in Stripe's own texts.

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The answer to a request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Headers besides Date and Request-Id, which every answer gets.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self { status, headers: vec![("content-type", "application/json".to_owned())], body }
    }

    /// The answer with one more header.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer of a proxy before Stripe that got no answer itself.
    pub(crate) fn html_bad_gateway() -> Self {
        let body = Bytes::from_static(
            b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>\
              </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
        );
        Self { status: 502, headers: vec![("content-type", "text/html".to_owned())], body }
    }

    /// The answer of a server that sends everybody to its log-in.
    pub(crate) fn redirect() -> Self {
        let headers = vec![("location", "https://login.example/".to_owned())];
        Self { status: 302, headers, body: Bytes::new() }
    }

    /// A 200 with a body that is not JSON.
    pub(crate) fn odd_body() -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status: 200, headers, body: Bytes::from_static(b"{\"object\": \"billing.meter_ev") }
    }
}

/// An error in Stripe's shape.
fn error(status: u16, kind: &str, code: Option<&str>, message: &str, param: Option<&str>) -> Answer {
    let mut fields = Map::new();
    if let Some(code) = code {
        fields.insert("code".to_owned(), json!(code));
        let page = code.replace('_', "-");
        fields.insert("doc_url".to_owned(), json!(format!("https://stripe.com/docs/error-codes/{page}")));
    }
    fields.insert("message".to_owned(), json!(message));
    if let Some(param) = param {
        fields.insert("param".to_owned(), json!(param));
    }
    fields.insert("type".to_owned(), json!(kind));
    Answer::json(status, &json!({ "error": fields }))
}

const INVALID: &str = "invalid_request_error";

/// A 400 without a code.
pub(crate) fn invalid(message: &str, param: Option<&str>) -> Answer {
    error(400, INVALID, None, message, param)
}

/// A 400 with a code.
pub(crate) fn refused(code: &str, message: &str, param: &str) -> Answer {
    error(400, INVALID, Some(code), message, Some(param))
}

/// 400 for a parameter that names an object that does not exist.
pub(crate) fn no_such(kind: &str, id: &str, param: &str) -> Answer {
    refused("resource_missing", &format!("No such {kind}: '{id}'"), param)
}

/// 404 for a path that names an object that does not exist.
pub(crate) fn not_found(kind: &str, id: &str) -> Answer {
    error(404, INVALID, Some("resource_missing"), &format!("No such {kind}: '{id}'"), Some("id"))
}

/// 404 for an unknown path.
pub(crate) fn unrecognized_url(method: &str, path: &str) -> Answer {
    let message = format!(
        "Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at \
         https://support.stripe.com/."
    );
    error(404, INVALID, None, &message, None)
}

/// 400 for a missing required parameter.
pub(crate) fn missing(param: &str) -> Answer {
    refused("parameter_missing", &format!("Missing required param: {param}."), param)
}

/// 400 for an unknown parameter.
pub(crate) fn unknown(param: &str) -> Answer {
    refused("parameter_unknown", &format!("Received unknown parameter: {param}"), param)
}

/// 400 for an identifier that was used within the last day.
pub(crate) fn duplicate(identifier: &str) -> Answer {
    let message = format!("An event already exists with identifier {identifier}.");
    invalid(&message, None).with("stripe-should-retry", "false")
}

/// 401 for a key other than the accepted one.
pub(crate) fn unauthorized(given: Option<&str>) -> Answer {
    let message = match given {
        Some(key) => format!("Invalid API Key provided: {}", masked(key)),
        None => "You did not provide an API key. You need to provide your API key in the Authorization header, using \
                 Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication \
                 for details, or we can help at https://support.stripe.com/."
            .to_owned(),
    };
    error(401, INVALID, None, &message, None).with("www-authenticate", "Basic realm=\"Stripe\"")
}

/// A key as Stripe's message shows it: its kind and its last four characters.
fn masked(key: &str) -> String {
    let shown = |(place, c): (usize, char)| if place < 8 || place + 4 >= key.chars().count() { c } else { '*' };
    key.chars().enumerate().map(shown).collect()
}

/// 403 for a restricted key without the permission.
pub(crate) fn forbidden() -> Answer {
    let message = "The provided key 'rk_test_*********fake' does not have the required permissions for this endpoint. \
                   Having the 'rak_billing_meter_event_write' permission would allow this request to continue.";
    error(403, INVALID, None, message, None)
}

/// 429 for a limit on the rate.
pub(crate) fn rate_limited(reason: &str, retry_after: Option<u64>) -> Answer {
    let message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits.";
    let answer = error(429, INVALID, Some("rate_limit"), message, None);
    let answer = answer.with("stripe-rate-limited-reason", reason);
    match retry_after {
        Some(seconds) => answer.with("retry-after", seconds.to_string()),
        None => answer,
    }
}

/// 429 for a second call for the same customer and meter while one is in flight.
///
/// Text and code are those of API v2; that v1 has the same is by belief.
pub(crate) fn too_many_concurrent_requests() -> Answer {
    let message = "Cannot create multiple usage events for the same customer, meter concurrently.";
    error(429, INVALID, Some("too_many_concurrent_requests"), message, None)
        .with("stripe-rate-limited-reason", "resource-specific")
}

/// 429 for an object that another request holds.
pub(crate) fn lock_timeout() -> Answer {
    let message = "This object cannot be accessed right now because another API request or Stripe process is currently \
                   accessing it. If you see this error intermittently, retry the request. If you see this error \
                   frequently and are making multiple concurrent requests to a single object, make your requests \
                   serially or at a lower rate.";
    error(429, INVALID, Some("lock_timeout"), message, None)
}

/// 409 for a key with a first request that is still in progress. That its type is not
/// `idempotency_error` is by belief.
pub(crate) fn key_in_use(key: &str) -> Answer {
    let message = format!(
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted \
         twice, and the other request is still going through): {key}. Please try again later."
    );
    error(409, INVALID, Some("idempotency_key_in_use"), &message, None)
}

/// 400 for a key that was first used with other parameters.
pub(crate) fn key_mismatch(key: &str) -> Answer {
    let message = format!(
        "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using \
         a key other than '{key}' if you meant to execute a different request."
    );
    error(400, "idempotency_error", None, &message, None)
}

/// An error of the server, or of any other status.
pub(crate) fn failed(status: u16) -> Answer {
    let kind = if status >= 500 { "api_error" } else { INVALID };
    error(status, kind, None, "An unknown error occurred", None)
}
