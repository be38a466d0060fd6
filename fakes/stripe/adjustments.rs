//! Meter event adjustments: each cancels a single event.

use serde_json::{Value, json};

use crate::answers::{self, Answer};
use crate::form::Params;
use crate::{DAY, World};

impl World {
    /// POST /v1/billing/meter_event_adjustments
    ///
    /// By belief: both refusals and their texts; that a second cancellation is refused; that the
    /// status is `pending`, although the fake cancels at once; and that the cancelled event's
    /// identifier stays used.
    pub(crate) fn create_adjustment(&mut self, mut params: Params) -> Result<Value, Answer> {
        let event_name = params.required("event_name", 100)?;
        let kind = params.one_of("type", &["cancel"])?.ok_or_else(|| answers::missing("type"))?;
        let identifier = params.required("cancel[identifier]", 100)?;
        params.finish()?;
        let now = self.now();
        let param = Some("cancel[identifier]");
        let found = self.ledger.find_mut(&identifier);
        let found = found.filter(|event| event.event_name == event_name && event.cancelled.is_none());
        let Some(event) = found else {
            let message = format!("No event was found with identifier {identifier}.");
            return Err(answers::invalid(&message, param));
        };
        if now - event.received > DAY {
            let message = "Only events that Stripe received within the last 24 hours can be cancelled.";
            return Err(answers::invalid(message, param));
        }
        event.cancelled = Some(now);
        Ok(json!({
            "object": "billing.meter_event_adjustment",
            "cancel": { "identifier": identifier },
            "event_name": event_name,
            "livemode": self.options.livemode,
            "status": "pending",
            "type": kind,
        }))
    }
}
