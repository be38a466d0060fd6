//! The section `stripe`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use books::limits::overage_billing::OverageBilling;
use books::units::similar::offer;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::raw::Step;
use super::secret::Secret;
use super::{ADDRESS_FAULT, is_plain_address};

/// The variable of Stripe's secret key.
pub(crate) const KEY_VARIABLE: &str = "METER_STRIPE__KEY";
/// Stripe's API.
const API: &str = "https://api.stripe.com/";
/// Requests in a second when nothing is said: live and test. Stripe allows 100 and 25
/// (<https://docs.stripe.com/rate-limits>).
const RATES: [u32; 2] = [80, 20];

/// How usage is billed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StripeConfig {
    /// True when real money is meant: the key must be a live one then, and a test one otherwise.
    pub live: bool,
    pub url: String,
    /// How many hours after its period an invoice is finalised, as it is set in Stripe's dashboard.
    pub grace_hours: u16,
    /// Who pays for usage beyond a customer's overage budget.
    pub overage_billing: OverageBilling,
    /// Requests in a second; left out = 80 live, 20 test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    /// Requests under way at once.
    pub max_concurrent: u16,
    /// How long a request may take.
    pub timeout_seconds: u16,
    /// Totals that are read on one day.
    pub reads_per_day: u32,
    /// How many hours after books were restored from a backup Stripe's totals are believed.
    pub settle_delay_hours: u16,
    pub meters: BTreeMap<String, StripeMeterConfig>,
    /// Stripe's secret key; from the environment only.
    #[serde(skip)]
    pub key: Secret,
}

/// Where a meter goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeMeterConfig {
    /// Stripe's name of the meter.
    pub event_name: String,
    /// Stripe's units for each of ours; text, so that it is exact.
    #[serde(default = "one")]
    pub per_unit: Decimal,
    /// What Stripe shows to the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

fn one() -> Decimal {
    Decimal::ONE
}

impl Default for StripeConfig {
    fn default() -> Self {
        Self {
            live: false,
            url: API.into(),
            grace_hours: 1,
            overage_billing: OverageBilling::UpToBudget,
            per_second: None,
            max_concurrent: 16,
            timeout_seconds: 30,
            reads_per_day: 300,
            settle_delay_hours: 24,
            meters: BTreeMap::new(),
            key: Secret::default(),
        }
    }
}

impl StripeConfig {
    /// The most requests in a second.
    pub(crate) fn requests_per_second(&self) -> NonZeroU32 {
        let rate = self.per_second.unwrap_or(if self.live { RATES[0] } else { RATES[1] });
        NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN)
    }

    /// The address, with the `/` at its end that makes it a folder.
    pub(crate) fn base(&self) -> String {
        format!("{}/", self.url.trim_end_matches('/'))
    }

    /// What is wrong, and where. The key is never repeated.
    pub(super) fn faults(&self, meters: &BTreeSet<&str>) -> Vec<(Vec<Step>, String)> {
        let key = |names: &[&str]| -> Vec<Step> {
            ["stripe"].iter().chain(names).map(|name| Step::Key((*name).to_owned())).collect()
        };
        let mut faults = vec![];
        let mut fault = |names: &[&str], why: String| faults.push((key(names), why));
        let secret = self.key.expose();
        let is = |mode: &str| ["sk", "rk"].iter().any(|kind| secret.starts_with(&format!("{kind}_{mode}_")));
        if !secret.is_empty() {
            match (self.live, is("live"), is("test")) {
                (_, false, false) => {
                    fault(
                        &["key"],
                        format!(
                            "{KEY_VARIABLE} is no secret key: those begin with sk_live_, rk_live_, sk_test_ or rk_test_"
                        ),
                    );
                }
                (true, false, true) => {
                    fault(
                        &["live"],
                        format!("stripe.live is true, and {KEY_VARIABLE} is a test key: nothing would be charged"),
                    );
                }
                (false, true, false) => {
                    fault(
                        &["live"],
                        format!(
                            "stripe.live is false, and {KEY_VARIABLE} is a live key: customers would be charged; set stripe.live = true, or use a test key"
                        ),
                    );
                }
                _ => {}
            }
        }
        match reqwest::Url::parse(&self.url) {
            Ok(_) if !is_plain_address(&self.url) => fault(&["url"], ADDRESS_FAULT.to_owned()),
            Ok(url) => {
                let is_here = url.host_str().is_some_and(|h| matches!(h, "localhost" | "127.0.0.1" | "[::1]"));
                if url.scheme() == "http" && !is_here {
                    fault(&["url"], "a key is not sent in clear over a network: write https://".into());
                }
            }
            _ => fault(&["url"], format!("it is no address; leave it out for {API}")),
        }
        if !(1..=72).contains(&self.grace_hours) {
            fault(&["grace_hours"], "Stripe finalises an invoice 1 to 72 hours after its period".into());
        }
        if self.settle_delay_hours > 72 {
            fault(&["settle_delay_hours"], "it is 0 to 72".into());
        }
        if self.per_second.is_some_and(|n| !(1..=1000).contains(&n)) {
            fault(&["per_second"], "Stripe takes 1 to 1000 requests a second".into());
        }
        if !(1..=256).contains(&self.max_concurrent) {
            fault(&["max_concurrent"], "it is 1 to 256".into());
        }
        if !(1..=80).contains(&self.timeout_seconds) {
            fault(&["timeout_seconds"], "it is 1 to 80 seconds".into());
        }
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, meter) in &self.meters {
            if !meters.contains(name.as_str()) {
                fault(&["meters", name], format!("there is no such meter; {}", offer(name, meters.iter().copied())));
            }
            if meter.event_name.is_empty() || meter.event_name.len() > 100 {
                fault(&["meters", name, "event_name"], "an event name has 1 to 100 bytes".into());
            }
            if let Some(other) = names.insert(&meter.event_name, name) {
                fault(
                    &["meters", name, "event_name"],
                    format!("meter `{other}` has the same one; they would be one meter at Stripe"),
                );
            }
            if meter.per_unit <= Decimal::ZERO
                || meter.per_unit.scale() > 10
                || meter.per_unit > Decimal::from(1_000_000_000)
            {
                fault(
                    &["meters", name, "per_unit"],
                    "it is more than 0, at most 1000000000, and has at most 10 decimals".into(),
                );
            }
            if meter.display_name.as_ref().is_some_and(|n| n.is_empty() || n.chars().count() > 250) {
                fault(&["meters", name, "display_name"], "it has 1 to 250 characters".into());
            }
        }
        faults
    }
}
