//! POST /v1/prices, with the refusals that matter for metered prices. Their texts are by belief
//! where Stripe's documentation has none.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::prices::{Price, PriceTerms, Tier, Transform};

/// The most decimals of `unit_amount_decimal`.
const DECIMALS: u32 = 12;

/// What a price recurs by.
struct Recurring {
    interval: String,
    licensed: bool,
    meter: Option<String>,
}

/// `unit_amount` or `unit_amount_decimal` of a price or of a tier, in minor units.
fn amount(params: &mut Params, prefix: &str) -> Result<Option<String>, Answer> {
    let named = |field: &str| if prefix.is_empty() { field.to_owned() } else { format!("{prefix}[{field}]") };
    let (whole, decimal) = (named("unit_amount"), named("unit_amount_decimal"));
    let minor = params.integer(&whole)?;
    let written = params.string(&decimal, 100)?;
    match (minor, written) {
        (Some(_), Some(_)) => {
            let message = format!("You may only specify one of these parameters: {whole}, {decimal}.");
            Err(answers::invalid(&message, Some(&whole)))
        }
        (Some(minor), None) if minor < 0 => {
            let message = "This value must be greater than or equal to 0.";
            Err(answers::refused("parameter_invalid_integer", message, &whole))
        }
        (Some(minor), None) => Ok(Some(minor.to_string())),
        (None, Some(written)) => {
            let value = written.parse::<Decimal>().ok().filter(|value| !value.is_sign_negative());
            let Some(value) = value else {
                return Err(answers::invalid(&format!("Invalid decimal: {written}"), Some(&decimal)));
            };
            if value.normalize().scale() > DECIMALS {
                let message = format!("Invalid decimal: {written}; must contain at maximum {DECIMALS} decimal places.");
                return Err(answers::invalid(&message, Some(&decimal)));
            }
            Ok(Some(value.normalize().to_string()))
        }
        (None, None) => Ok(None),
    }
}

/// The tiers, whose last one has no end.
fn tiers(params: &mut Params) -> Result<Vec<Tier>, Answer> {
    let mut tiers: Vec<Tier> = vec![];
    for place in params.places("tiers") {
        let end = format!("{place}[up_to]");
        let written = params.required(&end, 100)?;
        let up_to = match written.as_str() {
            "inf" => None,
            number => {
                let refuse =
                    |_| answers::refused("parameter_invalid_integer", &format!("Invalid integer: {number}"), &end);
                Some(number.parse().map_err(refuse)?)
            }
        };
        let missing = || answers::missing(&format!("{place}[unit_amount]"));
        let unit_amount_decimal = amount(params, &place)?.ok_or_else(missing)?;
        tiers.push(Tier { up_to, unit_amount_decimal });
    }
    let ends: Vec<Option<u64>> = tiers.iter().map(|tier| tier.up_to).collect();
    let rises = ends.windows(2).all(|pair| match pair {
        [Some(before), Some(after)] => before < after,
        [before, _] => before.is_some(),
        _ => true,
    });
    if !rises || ends.last().is_some_and(Option::is_some) {
        let message = "The tiers must be in ascending order, and the last one must have `up_to` set to `inf`.";
        return Err(answers::invalid(message, Some("tiers")));
    }
    Ok(tiers)
}

fn transform(params: &mut Params) -> Result<Option<Transform>, Answer> {
    let divide_by = params.integer("transform_quantity[divide_by]")?;
    let round = params.one_of("transform_quantity[round]", &["down", "up"])?;
    match (divide_by, round) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(answers::missing("transform_quantity[divide_by]")),
        (Some(_), None) => Err(answers::missing("transform_quantity[round]")),
        (Some(divide_by), Some(round)) => {
            let refuse = || {
                let message = "This value must be greater than or equal to 1.";
                answers::refused("parameter_invalid_integer", message, "transform_quantity[divide_by]")
            };
            let divide_by = u32::try_from(divide_by).ok().filter(|by| *by > 0).ok_or_else(refuse)?;
            Ok(Some(Transform { divide_by, round: if round == "up" { "up" } else { "down" } }))
        }
    }
}

fn recurring(params: &mut Params) -> Result<Recurring, Answer> {
    let interval = params.one_of("recurring[interval]", &["day", "month", "week", "year"])?;
    let count = params.integer("recurring[interval_count]")?;
    let usage = params.one_of("recurring[usage_type]", &["licensed", "metered"])?;
    let meter = params.string("recurring[meter]", 5000)?;
    let Some(interval) = interval else {
        if usage.is_some() || meter.is_some() || count.is_some() {
            return Err(answers::missing("recurring[interval]"));
        }
        return Err(answers::invalid("this fake knows only recurring prices: set recurring[interval].", None));
    };
    if count.unwrap_or(1) != 1 {
        return Err(answers::invalid(
            "this fake knows only an interval_count of 1.",
            Some("recurring[interval_count]"),
        ));
    }
    let licensed = usage.as_deref() != Some("metered");
    if licensed && meter.is_some() {
        let message = "`recurring[meter]` can only be set when `recurring[usage_type]` is `metered`.";
        return Err(answers::invalid(message, Some("recurring[meter]")));
    }
    if !licensed && meter.is_none() {
        // https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-legacy-usage-based-billing
        let message = "When `recurring[usage_type]=metered`, you must set `recurring[meter]`: metered prices must be \
                       backed by a meter.";
        return Err(answers::refused("parameter_missing", message, "recurring[meter]"));
    }
    Ok(Recurring { interval, licensed, meter })
}

impl World {
    /// POST /v1/prices
    pub(crate) fn create_price(&mut self, mut params: Params) -> Result<Value, Answer> {
        let currency = params.required("currency", 3)?.to_lowercase();
        if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(answers::invalid(&format!("Invalid currency: {currency}."), Some("currency")));
        }
        let Recurring { interval, licensed, meter } = recurring(&mut params)?;
        let tiered = params.one_of("billing_scheme", &["per_unit", "tiered"])?.is_some_and(|scheme| scheme == "tiered");
        let mode = params.one_of("tiers_mode", &["graduated", "volume"])?;
        let tiers = tiers(&mut params)?;
        let transform = transform(&mut params)?;
        let own = amount(&mut params, "")?;
        let (product, name) = (params.string("product", 5000)?, params.string("product_data[name]", 5000)?);
        let lookup_key = params.string("lookup_key", 200)?;
        let nickname = params.string("nickname", 5000)?;
        params.finish()?;

        let unit_amount_decimal = match (tiered, own) {
            (false, Some(own)) if tiers.is_empty() && mode.is_none() => own,
            (false, None) => return Err(answers::missing("unit_amount")),
            (false, Some(_)) => {
                let message = "`tiers` and `tiers_mode` can only be set when `billing_scheme` is `tiered`.";
                return Err(answers::invalid(message, Some("billing_scheme")));
            }
            (true, Some(_)) => {
                let message = "`unit_amount` cannot be set when `billing_scheme` is `tiered`.";
                return Err(answers::invalid(message, Some("unit_amount")));
            }
            (true, None) if tiers.is_empty() => return Err(answers::missing("tiers")),
            (true, None) if mode.is_none() => return Err(answers::missing("tiers_mode")),
            (true, None) if mode.as_deref() == Some("volume") || transform.is_some() => {
                let message = "this fake knows only graduated tiers, without transform_quantity.";
                return Err(answers::invalid(message, Some("tiers_mode")));
            }
            (true, None) => String::new(),
        };
        if let Some(used) = self.prices.iter().find(|price| lookup_key.is_some() && price.lookup_key == lookup_key) {
            let message = format!("A price (`{}`) already uses that lookup key.", used.id);
            return Err(answers::invalid(&message, Some("lookup_key")));
        }
        let (meter, event_name) = match meter {
            None => (String::new(), String::new()),
            Some(id) => {
                let found =
                    self.meter_with(&id).ok_or_else(|| answers::no_such("billing meter", &id, "recurring[meter]"))?;
                if !found.is_active() {
                    let message = format!("The meter {id} is inactive. Prices can only be made for active meters.");
                    return Err(answers::invalid(&message, Some("recurring[meter]")));
                }
                (id, found.event_name.clone())
            }
        };
        let product = self.product_of_price(product, name)?;
        let price = Price {
            id: format!("price_fake{:010}", self.next_number()),
            event_name,
            meter,
            currency,
            unit_amount_decimal,
            lookup_key,
            nickname,
            active: true,
            created: self.now(),
            product: Some(product),
            terms: PriceTerms {
                currency_options: BTreeMap::new(),
                transform,
                tiers,
                interval: (interval != "month").then_some(interval),
                licensed,
            },
        };
        let made = price.to_json(self.options.livemode);
        self.put_price(price);
        Ok(made)
    }

    /// The product that a request names, or the new one that it describes.
    fn product_of_price(&mut self, product: Option<String>, name: Option<String>) -> Result<String, Answer> {
        match (product, name) {
            (Some(_), Some(_)) => {
                let message = "You may only specify one of these parameters: product, product_data.";
                Err(answers::invalid(message, Some("product")))
            }
            (None, None) => {
                let message = "You must specify either `product` or `product_data` when creating a price.";
                Err(answers::invalid(message, Some("product")))
            }
            (Some(id), None) if self.products.contains_key(&id) => Ok(id),
            (Some(id), None) => Err(answers::no_such("product", &id, "product")),
            (None, Some(name)) => Ok(self.make_product(name)),
        }
    }
}
