//! The JSON Schema of numbers, dates and sentences that are texts in JSON.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::calendar::{Day, Month};
use super::money::{Currency, Price};
use super::quantity::Quantity;

macro_rules! text {
    ($name:ty, $title:literal, $pattern:literal, $description:literal) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $title.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $description })
            }
        }
    };
}

text!(Month, "Month", "^[0-9]{4}-[0-9]{2}$", "a month (UTC): 2026-03");
text!(Day, "Day", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "a day (UTC): 2026-03-31");
text!(Quantity, "Quantity", "^-?[0-9]+(\\.[0-9]{1,10})?$", "an exact decimal");
text!(Price, "Price", "^[0-9]+(\\.[0-9]{1,12})?$", "an exact decimal in the currency's major unit: 0.0017 of USD");
text!(Currency, "Currency", "^[A-Z]{3}$", "a currency by its code of ISO 4217");
