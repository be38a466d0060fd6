//! The sections `enforce` and `notifications`.

use jiff::SignedDuration;
use jobs::context::{EnforcementSettings, OnStale};
use serde::{Deserialize, Serialize};
use standardwebhooks::Webhook;

use super::raw::Step;
use super::secret::Secret;

/// The variable of the secret that signs notifications.
pub(super) const SECRET_VARIABLE: &str = "METER_NOTIFICATIONS__SECRET";
/// Bytes that a secret should have, says Standard Webhooks: 24 to 64.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// How entitlements are decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnforceConfig {
    /// A bill is stale when its newest usage is older than this.
    pub stale_after_hours: u16,
    /// What happens then: `keep`, `warn` or `block-overage`.
    pub on_stale: OnStale,
    /// Shares of an included amount or a budget, in percent; crossing one sends a notification to
    /// the web backend.
    pub thresholds: Vec<u32>,
}

impl Default for EnforceConfig {
    fn default() -> Self {
        let EnforcementSettings { stale_after, on_stale, thresholds } = EnforcementSettings::default();
        Self { stale_after_hours: u16::try_from(stale_after.as_hours()).unwrap_or(u16::MAX), on_stale, thresholds }
    }
}

impl EnforceConfig {
    /// As the job takes it.
    pub fn policy(&self) -> EnforcementSettings {
        let mut thresholds = self.thresholds.clone();
        thresholds.sort_unstable();
        EnforcementSettings {
            stale_after: SignedDuration::from_hours(i64::from(self.stale_after_hours)),
            on_stale: self.on_stale,
            thresholds,
        }
    }

    /// What is wrong, and where.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let key = |name: &str| vec![Step::Key("enforce".into()), Step::Key(name.into())];
        let mut faults = vec![];
        if self.stale_after_hours < 24 {
            faults.push((key("stale_after_hours"), "a bill is always hours old; at least 24".into()));
        }
        for (i, percent) in self.thresholds.iter().enumerate() {
            let mut path = key("thresholds");
            path.push(Step::Place(i));
            if !(1..=1000).contains(percent) {
                faults.push((path, "a share is 1 to 1000 percent".into()));
            } else if self.thresholds[..i].contains(percent) {
                faults.push((path, format!("{percent} stands there twice")));
            }
        }
        faults
    }
}

/// The receiver of notifications.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationsConfig {
    /// Address that takes webhooks; left out = notifications are kept and sent nowhere.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "masked")]
    pub url: Option<String>,
    /// Signs them; from the environment only.
    #[serde(skip)]
    pub secret: Secret,
}

/// Shows an address without what may be secret in it: user, password and query.
fn masked<S: serde::Serializer>(url: &Option<String>, s: S) -> Result<S::Ok, S::Error> {
    let shown = url.as_deref().and_then(|url| reqwest::Url::parse(url).ok()).map(|url| {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let query = if url.query().is_some() { "?********" } else { "" };
        format!("{}://{}{port}{}{query}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
    });
    s.serialize_str(shown.as_deref().unwrap_or("********"))
}

impl NotificationsConfig {
    /// What is wrong, and where. The values are not repeated: both may be secret.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let Some(url) = &self.url else { return vec![] };
        let fault =
            |why: &str| vec![(vec![Step::Key("notifications".into()), Step::Key("url".into())], why.to_owned())];
        match reqwest::Url::parse(url) {
            Err(_) => return fault("it is no address; write https://host/path"),
            Ok(url) if !matches!(url.scheme(), "https" | "http") => return fault("it is neither https:// nor http://"),
            Ok(url) if url.host_str().is_none_or(str::is_empty) => return fault("it names no host"),
            Ok(_) => {}
        }
        let secret = self.secret.expose();
        let bytes = secret.strip_prefix("whsec_").unwrap_or(secret).trim_end_matches('=').len() * 3 / 4;
        if secret.is_empty() {
            fault(&format!(
                "notifications are signed: set {SECRET_VARIABLE} to whsec_ and 24 to 64 random bytes in base64"
            ))
        } else if Webhook::new(secret).is_err() || !SECRET_BYTES.contains(&bytes) {
            fault(&format!("{SECRET_VARIABLE} is not whsec_ and 24 to 64 bytes in base64"))
        } else {
            vec![]
        }
    }
}
