//! Faults of single values, for whoever makes a configuration.

use super::{ADDRESS_FAULT, Config, is_plain_address};

impl Config {
    /// Why a text is no key of the customer tag.
    pub(crate) fn tag_key_fault(key: &str) -> Option<String> {
        let config = Self { tag_key: Some(key.to_owned()), ..Self::default() };
        let faults = config.rule_set().err()?;
        Some(faults.into_iter().map(|(_, why)| why).collect::<Vec<_>>().join("; "))
    }

    /// Why a text is no region. Other S3 servers than AWS's have names of their own.
    pub(crate) fn region_fault(text: &str, endpoint: Option<&str>) -> Option<String> {
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if endpoint.is_some() {
            let is_name = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control());
            return (!is_name).then(|| format!("`{text}` is no region: a name without blanks"));
        }
        let is_name = text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_part);
        (!is_name).then(|| Self::no_region(text))
    }

    pub(crate) fn no_region(text: &str) -> String {
        format!("`{text}` is no AWS region; one looks like eu-central-1")
    }

    /// Why a text is no address of an S3 server.
    pub(crate) fn endpoint_fault(endpoint: &str) -> Option<&'static str> {
        (!is_plain_address(endpoint)).then_some(ADDRESS_FAULT)
    }
}
