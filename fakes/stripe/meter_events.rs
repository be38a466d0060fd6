//! Meter events.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::DAY;
use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::ledger::Event;
use crate::meters::Meter;

/// The most significant digits that a value may have.
const DIGITS: usize = 15;

/// The result of a meter event that was taken.
pub(crate) struct Taken {
    /// The body of the answer.
    pub(crate) body: Value,
    /// Customer and meter: only one of their events may be in flight.
    pub(crate) of: (String, String),
}

/// A meter event as it was sent.
struct Sent {
    event_name: String,
    identifier: Option<String>,
    timestamp: Option<i64>,
    payload: BTreeMap<String, String>,
}

impl Sent {
    fn read(mut params: Params) -> Result<Self, Answer> {
        let event_name = params.required("event_name", 100)?;
        let identifier = params.string("identifier", 100)?;
        let timestamp = params.integer("timestamp")?;
        let payload = params.map("payload");
        params.finish()?;
        if payload.is_empty() {
            return Err(answers::missing("payload"));
        }
        if let Some((key, _)) = payload.iter().find(|(_, value)| value.chars().count() > 100) {
            let message = "Invalid string: payload values must be at most 100 characters";
            return Err(answers::invalid(message, Some(&format!("payload[{key}]"))));
        }
        Ok(Self { event_name, identifier, timestamp, payload })
    }

    fn payload(&self, key: &str) -> Result<&str, Answer> {
        let value = self.payload.get(key).map(String::as_str).filter(|value| !value.is_empty());
        value.ok_or_else(|| answers::missing(&format!("payload[{key}]")))
    }

    fn customer(&self, meter: &Meter) -> Result<String, Answer> {
        self.payload(&meter.customer_key).map(str::to_owned)
    }

    /// The value. By belief: both texts, and that digits are counted as written, trailing zeros
    /// included.
    fn value(&self, meter: &Meter) -> Result<Decimal, Answer> {
        let text = self.payload(&meter.value_key)?;
        let param = format!("payload[{}]", meter.value_key);
        let refuse = |code: &str, message: &str| answers::refused(code, message, &param);
        let no_number = || {
            let message = format!("Invalid value for {param}: '{text}' is not a decimal number.");
            refuse("meter_event_invalid_value", &message)
        };
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return Err(no_number());
        }
        let significant = unsigned.trim_start_matches(['0', '.']).bytes().filter(u8::is_ascii_digit).count();
        if significant > DIGITS {
            let message = format!("Invalid value for {param}: at most {DIGITS} significant digits are allowed.");
            return Err(refuse("meter_event_value_too_many_digits", &message));
        }
        Decimal::from_str_exact(text).map_err(|_| no_number())
    }

    /// The instant of the usage. By belief: the text for the future, modelled on the one for the
    /// past.
    fn timestamp(&self, now: i64) -> Result<i64, Answer> {
        let timestamp = self.timestamp.unwrap_or(now);
        let (oldest, newest) = (now - 35 * DAY, now + 300);
        if timestamp < oldest {
            let message = format!(
                "The event timestamp cannot be more than 35 days in past. Expected a timestamp greater than or equal \
                 to {oldest}."
            );
            return Err(answers::invalid(&message, Some("timestamp")));
        }
        if timestamp > newest {
            let message = format!(
                "The event timestamp cannot be more than 5 minutes in the future. Expected a timestamp less than or \
                 equal to {newest}."
            );
            return Err(answers::invalid(&message, Some("timestamp")));
        }
        Ok(timestamp)
    }
}

impl World {
    /// POST /v1/billing/meter_events. With `late` the event is rejected after its 200.
    ///
    /// By belief: an unknown customer is refused at once, and not only in an error report.
    pub(crate) fn create_meter_event(&mut self, params: Params, late: bool) -> Result<Taken, Answer> {
        let now = self.now();
        let sent = Sent::read(params)?;
        let Some(meter) = self.active_meter(&sent.event_name) else {
            let message = format!("No active meter found for event name \"{}\".", sent.event_name);
            return Err(answers::invalid(&message, Some("event_name")));
        };
        let customer = sent.customer(meter)?;
        let value = sent.value(meter)?;
        let timestamp = sent.timestamp(now)?;
        let (meter_id, customer_key) = (meter.id.clone(), meter.customer_key.clone());
        let known = self.has_customer(&customer);
        if !known && !self.options.late_customer_errors {
            return Err(answers::no_such("customer", &customer, &format!("payload[{customer_key}]")));
        }
        let of = (customer, meter_id);
        if self.in_flight.contains(&of) {
            self.counts.concurrent_refused += 1;
            return Err(answers::too_many_concurrent_requests());
        }
        let identifier = sent.identifier.unwrap_or_else(|| format!("fake-event-{:010}", self.next_number()));
        if self.ledger.is_used(&identifier, now) {
            self.counts.duplicates_refused += 1;
            return Err(answers::duplicate(&identifier));
        }
        let body = json!({
            "object": "billing.meter_event",
            "created": now,
            "event_name": sent.event_name,
            "identifier": identifier,
            "livemode": self.options.livemode,
            "payload": sent.payload,
            "timestamp": timestamp,
        });
        let (customer, meter) = of.clone();
        let event_name = sent.event_name;
        let event = Event { identifier, event_name, meter, customer, value, timestamp, received: now, cancelled: None };
        if late || !known {
            self.ledger.reject(event, "meter_event_customer_not_found");
        } else {
            self.counts.events_applied += 1;
            self.ledger.apply(event);
        }
        Ok(Taken { body, of })
    }

    /// Whether the rate limit allows one more meter event: a bucket of one second's events, in
    /// real time.
    pub(crate) fn rate_allows_an_event(&mut self) -> bool {
        let Some(rate) = self.options.events_per_second else { return true };
        if rate == 0 {
            return false;
        }
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let apart = second / rate;
        let due = self.next_arrival.map_or(now, |due| due.max(now));
        if due + apart > now + second {
            return false;
        }
        self.next_arrival = Some(due + apart);
        true
    }
}
