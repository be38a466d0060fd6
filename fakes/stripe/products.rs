//! Products: what a price is the price of. Only their names are of use here.

use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;

/// A product.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) name: String,
    pub(crate) created: i64,
}

impl Product {
    fn to_json(&self, id: &str, livemode: bool) -> Value {
        json!({
            "id": id,
            "object": "product",
            "active": true,
            "created": self.created,
            "default_price": null,
            "description": null,
            "images": [],
            "livemode": livemode,
            "marketing_features": [],
            "metadata": {},
            "name": self.name,
            "package_dimensions": null,
            "shippable": null,
            "statement_descriptor": null,
            "tax_code": null,
            "unit_label": null,
            "updated": self.created,
            "url": null,
        })
    }
}

impl World {
    /// Makes a product. Returns its id.
    pub(crate) fn make_product(&mut self, name: String) -> String {
        let id = format!("prod_fake{:010}", self.next_number());
        let product = Product { name, created: self.now() };
        self.products.insert(id.clone(), product);
        id
    }

    /// POST /v1/products
    pub(crate) fn create_product(&mut self, mut params: Params) -> Result<Value, Answer> {
        let name = params.required("name", 5000)?;
        params.finish()?;
        let id = self.make_product(name);
        self.product(&id).ok_or_else(|| answers::not_found("product", &id))
    }

    /// GET /v1/products/{id}
    pub(crate) fn retrieve_product(&self, id: &str, params: Params) -> Result<Value, Answer> {
        params.finish()?;
        self.product(id).ok_or_else(|| answers::not_found("product", id))
    }

    /// A product that a request made, or the own product of a price, with the name of its meter.
    fn product(&self, id: &str) -> Option<Value> {
        let own = || {
            let price = self.prices.iter().find(|price| price.product() == id)?;
            Some(Product { name: price.event_name.clone(), created: price.created })
        };
        let product = self.products.get(id).cloned().or_else(own)?;
        Some(product.to_json(id, self.options.livemode))
    }
}
