//! Customers.

use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::lists::{Page, list};
use crate::world::Customer;

impl Customer {
    fn to_json(&self, id: &str, livemode: bool) -> Value {
        json!({
            "id": id,
            "object": "customer",
            "address": null,
            "balance": 0,
            "created": self.created,
            "currency": null,
            "default_source": null,
            "delinquent": false,
            "description": self.description,
            "email": self.email,
            "livemode": livemode,
            "metadata": self.metadata,
            "name": self.name,
            "phone": null,
            "preferred_locales": [],
            "shipping": null,
            "tax_exempt": "none",
            "test_clock": null,
        })
    }
}

impl World {
    /// POST /v1/customers
    pub(crate) fn create_customer(&mut self, mut params: Params) -> Result<Value, Answer> {
        let customer = Customer {
            created: self.now(),
            deleted: false,
            name: params.string("name", 256)?,
            email: params.string("email", 512)?,
            description: params.string("description", 5000)?,
            metadata: params.map("metadata"),
        };
        params.finish()?;
        let id = format!("cus_fake{:010}", self.next_number());
        let made = customer.to_json(&id, self.options.livemode);
        self.customers.insert(id, customer);
        Ok(made)
    }

    /// GET /v1/customers
    pub(crate) fn list_customers(&self, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let email = params.string("email", 512)?;
        let created = params.range("created")?;
        params.finish()?;
        let living = self.customers.iter().filter(|(_, customer)| !customer.deleted);
        let mut all: Vec<(&str, &Customer)> = living.map(|(id, customer)| (id.as_str(), customer)).collect();
        all.sort_by_key(|(id, customer)| std::cmp::Reverse((customer.created, *id)));
        let keep = |(_, customer): &(&str, &Customer)| {
            created.holds(customer.created) && (email.is_none() || email == customer.email)
        };
        let (page, more) = page.cut("customer", all, |(id, _)| id, keep)?;
        let data = page.iter().map(|(id, customer)| customer.to_json(id, self.options.livemode)).collect();
        Ok(list("/v1/customers", data, more))
    }

    /// GET /v1/customers/{id}
    pub(crate) fn retrieve_customer(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        let customer = self.customers.get(id).ok_or_else(|| answers::not_found("customer", id))?;
        if customer.deleted {
            return Ok(json!({ "id": id, "object": "customer", "deleted": true }));
        }
        Ok(customer.to_json(id, self.options.livemode))
    }
}
