//! The thin events that report meter events which Stripe rejected after its 200.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::ledger::Rejected;

/// Length of the time window of one report.
const WINDOW: i64 = 10;

impl World {
    /// The event `v1.billing.meter.error_report_triggered`, as fetched, for an event that was
    /// rejected after its 200.
    pub fn error_report(&self, identifier: &str) -> Option<Value> {
        let rejected = self.ledger.rejected();
        let place = rejected.iter().rposition(|one| one.event.identifier == identifier)?;
        rejected.get(place).map(|one| self.report(place, one))
    }

    fn report(&self, place: usize, rejected: &Rejected) -> Value {
        let event = &rejected.event;
        let start = event.received - event.received.rem_euclid(WINDOW);
        let message = "The customer mapped from the payload of the meter event was not found.";
        json!({
            "id": format!("evt_{}_fake{place:010}", if self.options.livemode { "live" } else { "test" }),
            "object": "v2.core.event",
            "created": rfc3339(start + WINDOW),
            "data": {
                "developer_message_summary": "There is 1 invalid event",
                "reason": {
                    "error_count": 1,
                    "error_types": [{
                        "code": rejected.code,
                        "error_count": 1,
                        "sample_errors": [{
                            "error_message": message,
                            "request": { "identifier": event.identifier },
                        }],
                    }],
                },
                "validation_end": rfc3339(start + WINDOW),
                "validation_start": rfc3339(start),
            },
            "livemode": self.options.livemode,
            "reason": null,
            "related_object": {
                "id": event.meter,
                "type": "billing.meter",
                "url": format!("/v1/billing/meters/{}", event.meter),
            },
            "type": "v1.billing.meter.error_report_triggered",
        })
    }

    /// GET /v2/core/events/{id}
    pub(crate) fn retrieve_core_event(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let number = id.rsplit_once("_fake").and_then(|(_, number)| number.parse::<usize>().ok());
        let report = number.and_then(|place| Some(self.report(place, self.ledger.rejected().get(place)?)));
        report.filter(|report| report["id"] == id).ok_or_else(|| answers::not_found("event", id))
    }
}

/// An instant with milliseconds, as API v2 writes it.
fn rfc3339(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| second.to_string(), |time| format!("{time:.3}"))
}
