//! Meter event summaries.

use rust_decimal::Decimal;
use serde_json::{Number, Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::lists::{Page, list};

/// A summary of a time window.
struct Summary {
    id: String,
    start: i64,
    end: i64,
    sum: Decimal,
}

impl World {
    /// GET /v1/billing/meters/{id}/event_summaries
    ///
    /// By belief: a range without events gives one summary of zero, hours and days without events
    /// give none, the newest comes first, and a deleted customer still has summaries.
    pub(crate) fn list_summaries(&self, meter: &str, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let customer = params.required("customer", 5000)?;
        let start = params.required_integer("start_time")?;
        let end = params.required_integer("end_time")?;
        let window = params.one_of("value_grouping_window", &["day", "hour"])?;
        params.finish()?;
        if !self.meters.iter().any(|one| one.id == meter) {
            return Err(answers::not_found("billing meter", meter));
        }
        if !self.customers.contains_key(&customer) {
            return Err(answers::no_such("customer", &customer, "customer"));
        }
        let (step, unit) = match window.as_deref() {
            None => (60, "minute"),
            Some("hour") => (3600, "hour"),
            Some(_) => (crate::DAY, "day"),
        };
        for (name, time) in [("start_time", start), ("end_time", end)] {
            if time.rem_euclid(step) != 0 {
                let message = format!("{name} must be aligned with {unit} boundaries.");
                return Err(answers::invalid(&message, Some(name)));
            }
        }
        if start >= end {
            return Err(answers::invalid("start_time must be before end_time.", Some("start_time")));
        }
        let summaries = match window {
            None => vec![self.summary(meter, &customer, start, end).unwrap_or_else(|| none(meter, start, end))],
            Some(_) => self.summaries_by(step, meter, &customer, start, end),
        };
        let (summaries, more) = page.cut("billing meter event summary", summaries, |one| &one.id, |_| true)?;
        let data = summaries.iter().map(|one| self.summary_json(meter, one)).collect();
        Ok(list(&format!("/v1/billing/meters/{meter}/event_summaries"), data, more))
    }

    /// The summaries of the steps that have events, newest first.
    fn summaries_by(&self, step: i64, meter: &str, customer: &str, start: i64, end: i64) -> Vec<Summary> {
        let mut all = Vec::new();
        let mut from = start;
        while let Some(next) = self.ledger.between(customer, meter, from, end).next() {
            let begun = next.timestamp - next.timestamp.rem_euclid(step);
            all.extend(self.summary(meter, customer, begun, begun + step));
            from = begun + step;
        }
        all.reverse();
        all
    }

    /// The sum of the events that summaries already include; none if there is no such event.
    fn summary(&self, meter: &str, customer: &str, start: i64, end: i64) -> Option<Summary> {
        let shown = self.now() - self.options.summary_lag_seconds;
        let events = self.ledger.between(customer, meter, start, end);
        let mut values = events.filter(|event| event.cancelled.is_none() && event.received <= shown).peekable();
        values.peek()?;
        let sum = values.map(|event| event.value).sum();
        Some(Summary { sum, ..none(meter, start, end) })
    }

    fn summary_json(&self, meter: &str, summary: &Summary) -> Value {
        json!({
            "id": summary.id,
            "object": "billing.meter_event_summary",
            "aggregated_value": number(summary.sum),
            "end_time": summary.end,
            "livemode": self.options.livemode,
            "meter": meter,
            "start_time": summary.start,
        })
    }
}

/// The summary without events.
fn none(meter: &str, start: i64, end: i64) -> Summary {
    let id = format!("mtrusg_{}_{start}_{end}", meter.trim_start_matches("mtr_"));
    Summary { id, start, end, sum: Decimal::ZERO }
}

/// A sum as the nearest JSON number.
fn number(sum: Decimal) -> Number {
    let text = sum.normalize().to_string();
    let whole = text.parse::<i64>().ok().map(Number::from);
    whole.or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64)).unwrap_or_else(|| Number::from(0))
}
