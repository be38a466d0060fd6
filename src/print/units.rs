//! The units of quantities in JSON.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;

/// Something of one meter, with the unit of its quantities.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct WithUnit<T> {
    #[serde(flatten)]
    of: T,
    /// The unit of the quantities; empty when the meter is not configured any more.
    unit: String,
}

impl<T> WithUnit<T> {
    pub(crate) fn new(of: T, meter: &str, units: &BTreeMap<String, String>) -> Self {
        Self { of, unit: units.get(meter).cloned().unwrap_or_default() }
    }
}

/// Something of several meters, with the units of their quantities.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct WithUnits<T> {
    #[serde(flatten)]
    of: T,
    /// By meter: the unit of its quantities.
    units: BTreeMap<String, String>,
}

impl<T> WithUnits<T> {
    pub(crate) fn new(of: T, config: &Config) -> Self {
        Self { of, units: config.units() }
    }
}
