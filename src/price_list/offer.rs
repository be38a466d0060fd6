//! The price list of one offer, `index.json`: products and their terms on demand. Terms of
//! reservations are left out.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The only form that AWS writes.
const FORMAT: &str = "v1.0";

/// What an offer costs on demand.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub(crate) struct OfferList {
    pub(crate) code: String,
    pub(crate) version: String,
    pub(crate) published: String,
    /// By usage type and tier, each once: the places where it is the same are one.
    pub(crate) prices: BTreeSet<ListedPrice>,
}

/// A price of a usage type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
pub(crate) struct ListedPrice {
    /// As in the bill, with its region prefix.
    pub(crate) usage_type: String,
    pub(crate) unit: String,
    /// The amount from which it holds; above 0 in a higher tier.
    pub(crate) from: Decimal,
    pub(crate) price: Decimal,
    pub(crate) currency: String,
    pub(crate) operation: String,
    pub(crate) description: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawOffer {
    #[serde(default)]
    format_version: String,
    offer_code: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    publication_date: String,
    products: BTreeMap<String, RawProduct>,
    #[serde(default)]
    terms: RawTerms,
}

#[derive(Deserialize)]
struct RawProduct {
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct RawTerms {
    #[serde(rename = "OnDemand", default)]
    on_demand: BTreeMap<String, BTreeMap<String, RawTerm>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTerm {
    #[serde(default)]
    price_dimensions: BTreeMap<String, RawDimension>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDimension {
    #[serde(default)]
    unit: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    begin_range: Option<String>,
    #[serde(default)]
    price_per_unit: BTreeMap<String, String>,
}

impl OfferList {
    /// Reads the list of the offer `code`.
    ///
    /// # Errors
    /// When it is no such list, or not of this offer.
    pub(crate) fn parse(code: &str, json: &[u8]) -> Result<Self, String> {
        let raw: RawOffer = serde_json::from_slice(json).map_err(|error| match error.classify() {
            serde_json::error::Category::Eof => format!("it is cut off ({error}); fetch it again"),
            serde_json::error::Category::Data => format!("it is no price list of AWS ({error})"),
            _ => format!("it is no JSON ({error}), so no price list of AWS"),
        })?;
        if raw.offer_code != code {
            return Err(format!("it is the price list of `{}`, not of `{code}`", raw.offer_code));
        }
        if raw.format_version != FORMAT {
            let format = raw.format_version;
            return Err(format!("its formatVersion is `{format}`, and only {FORMAT} is known to this build"));
        }
        let mut prices = BTreeSet::new();
        for (sku, terms) in &raw.terms.on_demand {
            let Some(product) = raw.products.get(sku) else { continue };
            let attribute = |name: &str| product.attributes.get(name).cloned().unwrap_or_default();
            let usage_type = attribute("usagetype");
            if usage_type.is_empty() {
                continue;
            }
            for (rate, dimension) in terms.values().flat_map(|term| &term.price_dimensions) {
                let exact = |what: &str, text: &str| {
                    let number = Decimal::from_str_exact(text.trim()).map(|number| number.normalize());
                    number.map_err(|_| format!("rate {rate}: {what} is `{text}`, and that is no decimal"))
                };
                let from =
                    dimension.begin_range.as_deref().map_or(Ok(Decimal::ZERO), |text| exact("beginRange", text))?;
                for (currency, price) in &dimension.price_per_unit {
                    prices.insert(ListedPrice {
                        usage_type: usage_type.clone(),
                        unit: dimension.unit.clone(),
                        from,
                        price: exact(&format!("pricePerUnit in {currency}"), price)?,
                        currency: currency.clone(),
                        operation: attribute("operation"),
                        description: dimension.description.clone(),
                    });
                }
            }
        }
        Ok(Self { code: code.to_owned(), version: raw.version, published: raw.publication_date, prices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(price: &str) -> String {
        format!(
            r#"{{ "formatVersion": "v1.0", "disclaimer": "…", "offerCode": "AmazonChime", "version": "20240620184002",
                "publicationDate": "2024-06-20T18:40:02Z",
                "products": {{ "A": {{ "sku": "A", "productFamily": "Chime",
                    "attributes": {{ "servicecode": "AmazonChime", "usagetype": "USE1-calls", "operation": "" }} }},
                  "B": {{ "sku": "B", "attributes": {{ "servicecode": "AmazonChime" }} }} }},
                "terms": {{ "OnDemand": {{ "A": {{ "A.J": {{ "offerTermCode": "J", "sku": "A", "priceDimensions": {{
                    "A.J.1": {{ "rateCode": "A.J.1", "unit": "Minutes", "beginRange": "0", "endRange": "Inf",
                      "description": "per minute", "pricePerUnit": {{ "USD": {price} }}, "appliesTo": [] }} }} }} }},
                    "C": {{ "C.J": {{ "priceDimensions": {{}} }} }} }} }} }}"#
        )
    }

    #[test]
    fn prices_are_exact_and_nothing_else_passes_for_one() {
        let read = |price: &str| OfferList::parse("AmazonChime", list(price).as_bytes());
        let found = read("\"0.0017000000\"").unwrap();
        let [price] = &Vec::from_iter(found.prices)[..] else { panic!("one price") };
        assert_eq!((price.price.to_string().as_str(), price.currency.as_str()), ("0.0017", "USD"));
        for (price, why) in [
            ("0.0017", "it is no price list of AWS (invalid type: floating point"),
            ("\"free\"", "rate A.J.1: pricePerUnit in USD is `free`, and that is no decimal"),
            ("\"1e-3\"", "is `1e-3`, and that is no decimal"),
            // more digits than are exact
            ("\"0.00000000000000000000000000000000017\"", "and that is no decimal"),
        ] {
            let found = read(price).unwrap_err();
            assert!(found.contains(why), "{price}: {found}");
        }
    }

    #[test]
    fn a_list_of_another_form_is_refused() {
        let good = list("\"1\"");
        for (text, why) in [
            (good.replace("\"v1.0\"", "\"v2.0\""), "its formatVersion is `v2.0`"),
            (good.replace("\"offerCode\": \"AmazonChime\"", "\"offerCode\": \"AmazonS3\""), "price list of `AmazonS3`"),
            (good[..good.len() / 2].to_owned(), "it is cut off (EOF"),
            ("<html>".to_owned(), "it is no JSON"),
            ("{}".to_owned(), "it is no price list of AWS (missing field `offerCode`"),
            (String::new(), "it is cut off"),
        ] {
            let found = OfferList::parse("AmazonChime", text.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
