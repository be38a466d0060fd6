//! Meters.

use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::lists::{Page, list};

/// A meter that sums the values of its events.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) id: String,
    pub(crate) event_name: String,
    pub(crate) customer_key: String,
    pub(crate) value_key: String,
    display_name: String,
    created: i64,
    updated: i64,
    deactivated: Option<i64>,
}

impl Meter {
    /// Whether it takes events.
    pub(crate) fn is_active(&self) -> bool {
        self.deactivated.is_none()
    }

    fn to_json(&self, livemode: bool) -> Value {
        json!({
            "id": self.id,
            "object": "billing.meter",
            "created": self.created,
            "customer_mapping": { "event_payload_key": self.customer_key, "type": "by_id" },
            "default_aggregation": { "formula": "sum" },
            "display_name": self.display_name,
            "event_name": self.event_name,
            "event_time_window": null,
            "livemode": livemode,
            "status": if self.is_active() { "active" } else { "inactive" },
            "status_transitions": { "deactivated_at": self.deactivated },
            "updated": self.updated,
            "value_settings": { "event_payload_key": self.value_key },
        })
    }
}

impl World {
    /// Adds a meter that sums `payload[value]` by `payload[stripe_customer_id]`. Returns its id.
    ///
    /// An active meter with that event name is reused.
    pub fn add_meter(&mut self, event_name: &str) -> String {
        if let Some(meter) = self.active_meter(event_name) {
            return meter.id.clone();
        }
        self.make_meter(event_name, event_name, "stripe_customer_id", "value").id.clone()
    }

    /// Deactivates a meter: from now on it takes no events.
    pub fn deactivate_meter(&mut self, id: &str) {
        let now = self.now();
        if let Some(meter) = self.meters.iter_mut().find(|meter| meter.id == id && meter.is_active()) {
            meter.deactivated = Some(now);
            meter.updated = now;
        }
    }

    /// The active meter of an event name: there is at most one.
    pub(crate) fn active_meter(&self, event_name: &str) -> Option<&Meter> {
        self.meters.iter().find(|meter| meter.event_name == event_name && meter.is_active())
    }

    /// The active meter of an event name, or else the newest with that name.
    pub(crate) fn newest_meter(&self, event_name: &str) -> Option<&Meter> {
        let newest = || self.meters.iter().rev().find(|meter| meter.event_name == event_name);
        self.active_meter(event_name).or_else(newest)
    }

    fn make_meter(&mut self, event_name: &str, display_name: &str, customer_key: &str, value_key: &str) -> &Meter {
        let now = self.now();
        let mode = if self.options.livemode { "live" } else { "test" };
        let id = format!("mtr_{mode}_fake{:010}", self.next_number());
        let place = self.meters.len();
        self.meters.push(Meter {
            id,
            event_name: event_name.to_owned(),
            customer_key: customer_key.to_owned(),
            value_key: value_key.to_owned(),
            display_name: display_name.to_owned(),
            created: now,
            updated: now,
            deactivated: None,
        });
        &self.meters[place]
    }

    /// The meter with this id.
    pub(crate) fn meter_with(&self, id: &str) -> Option<&Meter> {
        self.meters.iter().find(|meter| meter.id == id)
    }

    fn meter(&self, id: &str) -> Result<&Meter, Answer> {
        self.meter_with(id).ok_or_else(|| answers::not_found("billing meter", id))
    }

    /// Whether a meter with this event name may become active. The text is by belief.
    fn event_name_is_free(&self, event_name: &str) -> Result<(), Answer> {
        match self.active_meter(event_name) {
            None => Ok(()),
            Some(meter) => {
                let message = format!(
                    "There is already an active meter with the event name \"{event_name}\": {}. Deactivate it first.",
                    meter.id
                );
                Err(answers::invalid(&message, Some("event_name")))
            }
        }
    }

    /// GET /v1/billing/meters
    pub(crate) fn list_meters(&self, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let status = params.one_of("status", &["active", "inactive"])?;
        params.finish()?;
        let keep = |meter: &&Meter| status.as_ref().is_none_or(|status| (status == "active") == meter.is_active());
        let mut all: Vec<&Meter> = self.meters.iter().rev().collect();
        all.sort_by_key(|meter| std::cmp::Reverse(meter.created));
        let (meters, more) = page.cut("billing meter", all, |meter| &meter.id, keep)?;
        let data = meters.iter().map(|meter| meter.to_json(self.options.livemode)).collect();
        Ok(list("/v1/billing/meters", data, more))
    }

    /// POST /v1/billing/meters. The fake only sums raw events, and refuses every other kind of
    /// meter.
    pub(crate) fn create_meter(&mut self, mut params: Params) -> Result<Value, Answer> {
        let display_name = params.required("display_name", 250)?;
        let event_name = params.required("event_name", 100)?;
        let formulas = ["count", "last", "sum"];
        let formula = params.one_of("default_aggregation[formula]", &formulas)?;
        let formula = formula.ok_or_else(|| answers::missing("default_aggregation[formula]"))?;
        let window = params.one_of("event_time_window", &["day", "hour"])?;
        let customer_key = params.string("customer_mapping[event_payload_key]", 100)?;
        let mapping = params.one_of("customer_mapping[type]", &["by_id"])?;
        let value_key = params.string("value_settings[event_payload_key]", 100)?;
        params.finish()?;
        if customer_key.is_some() != mapping.is_some() {
            let absent = if mapping.is_some() { "event_payload_key" } else { "type" };
            return Err(answers::missing(&format!("customer_mapping[{absent}]")));
        }
        if formula != "sum" || window.is_some() {
            let message = "this fake knows only meters with the formula 'sum' and without an event_time_window.";
            return Err(answers::invalid(message, None));
        }
        self.event_name_is_free(&event_name)?;
        let customer_key = customer_key.as_deref().unwrap_or("stripe_customer_id");
        let livemode = self.options.livemode;
        let meter = self.make_meter(&event_name, &display_name, customer_key, value_key.as_deref().unwrap_or("value"));
        Ok(meter.to_json(livemode))
    }

    /// GET /v1/billing/meters/{id}
    pub(crate) fn retrieve_meter(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        Ok(self.meter(id)?.to_json(self.options.livemode))
    }

    /// POST /v1/billing/meters/{id}/deactivate
    pub(crate) fn deactivate(&mut self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        self.meter(id)?;
        self.deactivate_meter(id);
        Ok(self.meter(id)?.to_json(self.options.livemode))
    }

    /// POST /v1/billing/meters/{id}/reactivate
    pub(crate) fn reactivate(&mut self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let meter = self.meter(id)?;
        if !meter.is_active() {
            self.event_name_is_free(&meter.event_name)?;
        }
        let now = self.now();
        if let Some(meter) = self.meters.iter_mut().find(|meter| meter.id == id && !meter.is_active()) {
            meter.deactivated = None;
            meter.updated = now;
        }
        Ok(self.meter(id)?.to_json(self.options.livemode))
    }
}
