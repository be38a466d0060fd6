//! Describing an HTTP client's error for logs and stored rows. Of the address only scheme, host and
//! port are named: the rest may contain a secret.

use books::store::remote::http::{cause, origin};
use reqwest::Url;

/// Why there was no response from `url`, in a few words: the innermost cause.
pub(crate) fn describe(error: &reqwest::Error, url: &Url) -> String {
    let to = origin(url);
    let cause = cause(error);
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => format!("no connection to {to} in time"),
        (true, false) => format!("no connection to {to} ({cause})"),
        (false, true) => format!("no answer in time from {to}"),
        (false, false) => format!("the request to {to} failed ({cause})"),
    }
}
