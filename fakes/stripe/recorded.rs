//! The requests that the fake received, and counts of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A request as received, without the secret key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// The headers by their names in lower case; the Authorization is masked.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Recorded {
    /// The request as a JSON object of `method`, `target`, `headers` and `body`.
    pub fn to_json(&self) -> Value {
        json!({ "method": self.method, "target": self.target, "headers": self.headers, "body": self.body })
    }
}

impl From<&Recorded> for Value {
    fn from(recorded: &Recorded) -> Self {
        recorded.to_json()
    }
}

impl From<Recorded> for Value {
    fn from(recorded: Recorded) -> Self {
        recorded.to_json()
    }
}

/// Counts of requests by their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests, with those that a fault left without an answer.
    pub requests: u64,
    /// Meter events that were taken and count. Events rejected after their 200 do not.
    pub events_applied: u64,
    /// Meter events refused because their identifier was used within the last day.
    pub duplicates_refused: u64,
    /// Meter events refused because one for the same customer and meter was in flight.
    pub concurrent_refused: u64,
    /// Requests answered with a 429 for the rate, by the limit or by a fault.
    pub rate_limited: u64,
    /// Answers replayed from their Idempotency-Key.
    pub replayed: u64,
    /// The most meter events that were in flight at the same time.
    pub most_in_flight: usize,
    pub connections: u64,
}
