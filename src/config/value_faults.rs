//! Faults of single values, for whoever makes a configuration.

use super::{ADDRESS_FAULT, Config, is_plain_address};

impl Config {
    /// Why a text is no key of the customer tag.
    pub(crate) fn tag_key_fault(key: &str) -> Option<String> {
        let config = Self { tag_key: Some(key.to_owned()), ..Self::default() };
        let faults = config.rule_set().err()?;
        Some(faults.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "))
    }

    /// Why a text is no address of an S3 server.
    pub(crate) fn endpoint_fault(endpoint: &str) -> Option<&'static str> {
        (!is_plain_address(endpoint)).then_some(ADDRESS_FAULT)
    }
}
