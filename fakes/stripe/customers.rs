//! Customers.

use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;

impl World {
    /// GET /v1/customers/{id}
    pub(crate) fn retrieve_customer(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let customer = self.customers.get(id).ok_or_else(|| answers::not_found("customer", id))?;
        if customer.deleted {
            return Ok(json!({ "id": id, "object": "customer", "deleted": true }));
        }
        Ok(json!({
            "id": id,
            "object": "customer",
            "address": null,
            "balance": 0,
            "created": customer.created,
            "currency": null,
            "default_source": null,
            "delinquent": false,
            "description": null,
            "email": null,
            "livemode": self.options.livemode,
            "metadata": {},
            "name": null,
            "phone": null,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": null,
        }))
    }
}
