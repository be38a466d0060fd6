//! The section `operator`: who receives messages about findings, and the weekly digest.

use serde::{Deserialize, Serialize};

use super::is_plain_address;
use super::raw::Step;
use super::secret::Secret;

/// The variable of the address of Slack's incoming webhook. Whoever has it can write there.
pub(super) const SLACK_VARIABLE: &str = "METER_OPERATOR__SLACK_URL";
/// The variable of the address that takes the messages as JSON.
pub(super) const WEBHOOK_VARIABLE: &str = "METER_OPERATOR__WEBHOOK_URL";

/// Messages to the operator. Without an address there are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorConfig {
    /// From the environment only.
    #[serde(skip)]
    pub slack_url: Secret,
    /// From the environment only.
    #[serde(skip)]
    pub webhook_url: Secret,
    /// The address at which the operator opens the status page, for links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_page: Option<String>,
}

impl OperatorConfig {
    /// Whether somebody receives messages.
    pub fn is_on(&self) -> bool {
        !self.slack_url.expose().is_empty() || !self.webhook_url.expose().is_empty()
    }

    /// What is wrong, and where. Secret addresses are not repeated.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let key = |name: &str| vec![Step::Key("operator".into()), Step::Key(name.into())];
        let mut faults = vec![];
        let secrets =
            [("slack_url", &self.slack_url, SLACK_VARIABLE), ("webhook_url", &self.webhook_url, WEBHOOK_VARIABLE)];
        for (name, secret, variable) in secrets {
            if !secret.expose().is_empty() && !is_address(secret.expose()) {
                faults.push((key(name), format!("{variable} is no address; set it to https://host/path")));
            }
        }
        if self.status_page.as_deref().is_some_and(|page| !is_plain_address(page)) {
            let why = "it is no address of the status page; write https://host or https://host/path, without a user, a \
                       password or a query";
            faults.push((key("status_page"), why.to_owned()));
        }
        faults
    }
}

fn is_address(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "https" | "http") && url.host_str().is_some_and(|host| !host.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_not_repeated() {
        for (url, is_fine) in [
            ("", true),
            ("https://hooks.slack.com/services/T0/B0/secret", true),
            ("http://127.0.0.1:9/x?key=secret", true),
            ("hooks.slack.com/services/T0/B0/secret", false),
            ("ftp://host/secret", false),
            ("https:///", false),
        ] {
            let config = OperatorConfig {
                slack_url: Secret::new(url),
                webhook_url: Secret::new(url),
                ..OperatorConfig::default()
            };
            let faults = config.faults();
            assert_eq!(faults.len(), if is_fine { 0 } else { 2 }, "{url}");
            assert!(faults.iter().all(|(_, why)| !why.contains("secret")), "{faults:?}");
            assert_eq!(config.is_on(), !url.is_empty());
            assert!(!format!("{config:?}").contains("secret"));
        }
    }
}
