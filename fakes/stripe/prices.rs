//! Prices, and what they charge. Each has its own product, and is metered and monthly unless its
//! terms say otherwise.

use std::collections::BTreeMap;

use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::lists::{Page, list};

/// What a price can have besides its amount in its own currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTerms {
    /// `unit_amount_decimal` in each further currency (`currency_options`).
    pub currency_options: BTreeMap<String, String>,
    /// `transform_quantity`: usage is divided by it before it is charged.
    pub transform: Option<Transform>,
    /// Graduated tiers (`billing_scheme` is `tiered`). None: a price for each unit.
    pub tiers: Vec<Tier>,
    /// `recurring.interval`, if it is not `month`.
    pub interval: Option<String>,
    /// Whether the price has a fixed quantity (`usage_type` is `licensed`), and so no meter.
    pub licensed: bool,
}

/// Packages of units; a part of a package is rounded to a whole one or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    pub divide_by: u32,
    /// `up` or `down`.
    pub round: &'static str,
}

/// A tier: units after the tier before it, up to `up_to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// None: the last tier.
    pub up_to: Option<u64>,
    pub unit_amount_decimal: String,
}

/// A price for a unit of a meter.
#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) event_name: String,
    pub(crate) meter: String,
    pub(crate) currency: String,
    /// Empty where the price has tiers.
    pub(crate) unit_amount_decimal: String,
    pub(crate) lookup_key: Option<String>,
    pub(crate) nickname: Option<String>,
    pub(crate) active: bool,
    pub(crate) created: i64,
    /// None: a product of its own, which nobody made.
    pub(crate) product: Option<String>,
    pub(crate) terms: PriceTerms,
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap_or_default()
}

fn whole(text: &str) -> Option<i64> {
    i64::try_from(text.parse::<Decimal>().ok().filter(Decimal::is_integer)?).ok()
}

fn tier_json(tier: &Tier) -> Value {
    json!({
        "flat_amount": null,
        "flat_amount_decimal": null,
        "unit_amount": whole(&tier.unit_amount_decimal),
        "unit_amount_decimal": tier.unit_amount_decimal,
        "up_to": tier.up_to,
    })
}

fn option_json(amount: &str) -> Value {
    json!({
        "custom_unit_amount": null,
        "tax_behavior": "unspecified",
        "unit_amount": whole(amount),
        "unit_amount_decimal": amount,
    })
}

impl Price {
    /// The fields that a price has only when a request expands them.
    const EXPANDABLE: [&str; 2] = ["data.currency_options", "data.tiers"];

    fn is_tiered(&self) -> bool {
        !self.terms.tiers.is_empty()
    }

    fn scheme(&self) -> &'static str {
        if self.is_tiered() { "tiered" } else { "per_unit" }
    }

    pub(crate) fn interval(&self) -> &str {
        self.terms.interval.as_deref().unwrap_or("month")
    }

    pub(crate) fn usage_type(&self) -> &'static str {
        if self.terms.licensed { "licensed" } else { "metered" }
    }

    /// The meter's id; none for a price with a fixed quantity.
    pub(crate) fn meter(&self) -> Option<&str> {
        (!self.terms.licensed).then_some(self.meter.as_str())
    }

    fn unit_amount(&self) -> Option<i64> {
        self.amount().and_then(whole)
    }

    /// A price in tiers has no amount of its own.
    fn amount(&self) -> Option<&str> {
        (!self.is_tiered()).then_some(self.unit_amount_decimal.as_str())
    }

    fn transform_json(&self) -> Value {
        let of = |transform: Transform| json!({ "divide_by": transform.divide_by, "round": transform.round });
        self.terms.transform.map_or(Value::Null, of)
    }

    fn tiers_mode(&self) -> Option<&'static str> {
        self.is_tiered().then_some("graduated")
    }

    /// Whether the price can charge in a currency.
    pub(crate) fn charges_in(&self, currency: &str) -> bool {
        self.currency == currency || self.terms.currency_options.contains_key(currency)
    }

    /// What a quantity costs in a currency, in whole minor units. Tiers have amounts in the
    /// price's own currency only.
    pub(crate) fn cost(&self, quantity: Decimal, currency: &str) -> Decimal {
        let quantity = match self.terms.transform {
            Some(Transform { divide_by, round }) => {
                let packages = quantity / Decimal::from(divide_by);
                if round == "up" { packages.ceil() } else { packages.floor() }
            }
            None => quantity,
        };
        let cost = if self.is_tiered() {
            self.tiered_cost(quantity)
        } else {
            let other = self.terms.currency_options.get(currency).filter(|_| currency != self.currency);
            quantity * decimal(other.unwrap_or(&self.unit_amount_decimal))
        };
        cost.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero)
    }

    fn tiered_cost(&self, quantity: Decimal) -> Decimal {
        let (mut cost, mut below) = (Decimal::ZERO, Decimal::ZERO);
        for tier in &self.terms.tiers {
            let until = tier.up_to.map_or(quantity, Decimal::from).min(quantity);
            cost += (until - below).max(Decimal::ZERO) * decimal(&tier.unit_amount_decimal);
            below = until.max(below);
        }
        cost
    }

    /// The price with the fields that a request expands.
    fn to_expanded_json(&self, livemode: bool, expand: &[String]) -> Value {
        let mut object = self.to_json(livemode);
        for field in expand {
            match field.as_str() {
                "data.currency_options" => {
                    let own = self.amount().map(|amount| (self.currency.clone(), option_json(amount)));
                    let others = self.terms.currency_options.iter();
                    let others = others.map(|(currency, amount)| (currency.clone(), option_json(amount)));
                    object["currency_options"] =
                        own.into_iter().chain(others).collect::<BTreeMap<_, _>>().into_iter().collect();
                }
                _ if self.is_tiered() => object["tiers"] = self.terms.tiers.iter().map(tier_json).collect(),
                _ => {}
            }
        }
        object
    }

    pub(crate) fn product(&self) -> String {
        let own = || format!("prod_{}", self.id.trim_start_matches("price_"));
        self.product.clone().unwrap_or_else(own)
    }

    pub(crate) fn to_json(&self, livemode: bool) -> Value {
        json!({
            "id": self.id,
            "object": "price",
            "active": self.active,
            "billing_scheme": self.scheme(),
            "created": self.created,
            "currency": self.currency,
            "custom_unit_amount": null,
            "livemode": livemode,
            "lookup_key": self.lookup_key,
            "metadata": {},
            "nickname": self.nickname,
            "product": self.product(),
            "recurring": {
                "interval": self.interval(),
                "interval_count": 1,
                "meter": self.meter(),
                "usage_type": self.usage_type(),
            },
            "tax_behavior": "unspecified",
            "tiers_mode": self.tiers_mode(),
            "transform_quantity": self.transform_json(),
            "type": "recurring",
            "unit_amount": self.unit_amount(),
            "unit_amount_decimal": self.amount(),
        })
    }

    /// The older `plan` object, which subscription items still carry besides the price.
    pub(crate) fn to_plan_json(&self, livemode: bool) -> Value {
        json!({
            "id": self.id,
            "object": "plan",
            "active": self.active,
            "amount": self.unit_amount(),
            "amount_decimal": self.amount(),
            "billing_scheme": self.scheme(),
            "created": self.created,
            "currency": self.currency,
            "interval": self.interval(),
            "interval_count": 1,
            "livemode": livemode,
            "metadata": {},
            "meter": self.meter(),
            "nickname": self.nickname,
            "product": self.product(),
            "tiers_mode": self.tiers_mode(),
            "transform_usage": self.transform_json(),
            "trial_period_days": null,
            "usage_type": self.usage_type(),
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
            nickname: None,
            active: true,
            created: self.now(),
            product: None,
            terms: PriceTerms::default(),
        };
        self.put_price(price);
    }

    /// Adds a price, or replaces the one with its id.
    pub(crate) fn put_price(&mut self, price: Price) {
        match self.price_places.get(&price.id) {
            Some(&place) => self.prices[place] = price,
            None => {
                self.price_places.insert(price.id.clone(), self.prices.len());
                self.prices.push(price);
            }
        }
    }

    /// Sets what a price has besides its amount.
    ///
    /// # Panics
    /// If the price was not added, or if Stripe would refuse the terms.
    pub fn set_price_terms(&mut self, id: &str, terms: PriceTerms) {
        let refused = !terms.tiers.is_empty() && (terms.transform.is_some() || !terms.currency_options.is_empty());
        assert!(!refused, "the fake has no tiers together with transform_quantity or further currencies");
        let price = self.price_places.get(id).and_then(|&place| self.prices.get_mut(place));
        price.unwrap_or_else(|| panic!("the price {id} was not added")).terms = terms;
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

    /// GET /v1/prices/{id}
    pub(crate) fn retrieve_price(&self, id: &str, mut params: Params) -> Result<Value, Answer> {
        let expand = params.expand(&["currency_options", "tiers"])?;
        params.finish()?;
        let price = self.price(id).ok_or_else(|| answers::not_found("price", id))?;
        let expand: Vec<String> = expand.iter().map(|field| format!("data.{field}")).collect();
        Ok(price.to_expanded_json(self.options.livemode, &expand))
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
        let expand = params.expand(&Price::EXPANDABLE)?;
        params.finish()?;
        let keep = |price: &&Price| {
            active.is_none_or(|active| price.active == active)
                && created.holds(price.created)
                && currency.as_ref().is_none_or(|currency| *currency == price.currency)
                && (lookup_keys.is_empty() || price.lookup_key.as_ref().is_some_and(|key| lookup_keys.contains(key)))
                && product.as_ref().is_none_or(|product| *product == price.product())
                && interval.as_ref().is_none_or(|interval| interval == price.interval())
                && meter.as_ref().is_none_or(|meter| Some(meter.as_str()) == price.meter())
                && usage.as_ref().is_none_or(|usage| usage == price.usage_type())
                && kind.as_ref().is_none_or(|kind| kind == "recurring")
        };
        let mut all: Vec<&Price> = self.prices.iter().rev().collect();
        all.sort_by_key(|price| std::cmp::Reverse(price.created));
        let (prices, more) = page.cut("price", all, |price| &price.id, keep)?;
        let data = prices.iter().map(|price| price.to_expanded_json(self.options.livemode, &expand)).collect();
        Ok(list("/v1/prices", data, more))
    }
}
