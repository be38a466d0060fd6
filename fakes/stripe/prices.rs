//! Prices. Each is metered and monthly, and has its own product.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::World;
use crate::answers::Answer;
use crate::form::Params;
use crate::lists::{Page, list};

/// A price for a unit of a meter.
#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) event_name: String,
    pub(crate) meter: String,
    pub(crate) currency: String,
    unit_amount_decimal: String,
    lookup_key: Option<String>,
    active: bool,
    created: i64,
}

impl Price {
    fn unit_amount(&self) -> Option<i64> {
        let amount = self.unit_amount_decimal.parse::<Decimal>().ok().filter(Decimal::is_integer)?;
        i64::try_from(amount).ok()
    }

    fn product(&self) -> String {
        format!("prod_{}", self.id.trim_start_matches("price_"))
    }

    pub(crate) fn to_json(&self, livemode: bool) -> Value {
        json!({
            "id": self.id,
            "object": "price",
            "active": self.active,
            "billing_scheme": "per_unit",
            "created": self.created,
            "currency": self.currency,
            "custom_unit_amount": null,
            "livemode": livemode,
            "lookup_key": self.lookup_key,
            "metadata": {},
            "nickname": null,
            "product": self.product(),
            "recurring": {
                "interval": "month",
                "interval_count": 1,
                "meter": self.meter,
                "usage_type": "metered",
            },
            "tax_behavior": "unspecified",
            "tiers_mode": null,
            "transform_quantity": null,
            "type": "recurring",
            "unit_amount": self.unit_amount(),
            "unit_amount_decimal": self.unit_amount_decimal,
        })
    }

    /// The older `plan` object, which subscription items still carry besides the price.
    pub(crate) fn to_plan_json(&self, livemode: bool) -> Value {
        json!({
            "id": self.id,
            "object": "plan",
            "active": self.active,
            "amount": self.unit_amount(),
            "amount_decimal": self.unit_amount_decimal,
            "billing_scheme": "per_unit",
            "created": self.created,
            "currency": self.currency,
            "interval": "month",
            "interval_count": 1,
            "livemode": livemode,
            "metadata": {},
            "meter": self.meter,
            "nickname": null,
            "product": self.product(),
            "tiers_mode": null,
            "transform_usage": null,
            "trial_period_days": null,
            "usage_type": "metered",
        })
    }
}

impl World {
    /// Adds a price of a meter. Makes the meter if no meter has that event name.
    pub fn add_price(
        &mut self,
        id: &str,
        event_name: &str,
        currency: &str,
        unit_amount_decimal: &str,
        lookup_key: Option<&str>,
    ) {
        let known = self.newest_meter(event_name).map(|meter| meter.id.clone());
        let meter = known.unwrap_or_else(|| self.add_meter(event_name));
        let price = Price {
            id: id.to_owned(),
            event_name: event_name.to_owned(),
            meter,
            currency: currency.to_owned(),
            unit_amount_decimal: unit_amount_decimal.to_owned(),
            lookup_key: lookup_key.map(str::to_owned),
            active: true,
            created: self.now(),
        };
        match self.price_places.get(id) {
            Some(&place) => self.prices[place] = price,
            None => {
                self.price_places.insert(id.to_owned(), self.prices.len());
                self.prices.push(price);
            }
        }
    }

    /// Sets whether a price is active.
    pub fn set_price_active(&mut self, id: &str, active: bool) {
        if let Some(price) = self.price_places.get(id).and_then(|&place| self.prices.get_mut(place)) {
            price.active = active;
        }
    }

    /// The price with this id.
    pub(crate) fn price(&self, id: &str) -> Option<&Price> {
        self.price_places.get(id).and_then(|&place| self.prices.get(place))
    }

    /// GET /v1/prices
    pub(crate) fn list_prices(&self, mut params: Params) -> Result<Value, Answer> {
        let page = Page::of(&mut params)?;
        let active = params.boolean("active")?;
        let created = params.range("created")?;
        let currency = params.string("currency", 3)?;
        let lookup_keys = params.list("lookup_keys");
        let product = params.string("product", 5000)?;
        let interval = params.one_of("recurring[interval]", &["day", "month", "week", "year"])?;
        let meter = params.string("recurring[meter]", 5000)?;
        let usage = params.one_of("recurring[usage_type]", &["licensed", "metered"])?;
        let kind = params.one_of("type", &["one_time", "recurring"])?;
        params.finish()?;
        let keep = |price: &&Price| {
            active.is_none_or(|active| price.active == active)
                && created.holds(price.created)
                && currency.as_ref().is_none_or(|currency| *currency == price.currency)
                && (lookup_keys.is_empty() || price.lookup_key.as_ref().is_some_and(|key| lookup_keys.contains(key)))
                && product.as_ref().is_none_or(|product| *product == price.product())
                && interval.as_ref().is_none_or(|interval| interval == "month")
                && meter.as_ref().is_none_or(|meter| *meter == price.meter)
                && usage.as_ref().is_none_or(|usage| usage == "metered")
                && kind.as_ref().is_none_or(|kind| kind == "recurring")
        };
        let mut all: Vec<&Price> = self.prices.iter().rev().collect();
        all.sort_by_key(|price| std::cmp::Reverse(price.created));
        let (prices, more) = page.cut("price", all, |price| &price.id, keep)?;
        let data = prices.iter().map(|price| price.to_json(self.options.livemode)).collect();
        Ok(list("/v1/prices", data, more))
    }
}
