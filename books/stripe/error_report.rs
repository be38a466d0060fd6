//! Stripe's error reports about events that it had accepted.

use jiff::Timestamp;
use libsql::params;
use serde_json::Value as Json;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::stripe::meter_event::EventState;

/// What reading error reports did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorReportsRead {
    pub reports: u64,
    /// Events that became refused.
    pub refused: u64,
}

impl Database {
    /// Reads Stripe's error reports, and makes the accepted events that they name refused.
    pub async fn read_error_reports(&self, now: Timestamp) -> Result<ErrorReportsRead, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let mut rows = c.query("SELECT id, body FROM stripe_error_reports WHERE read_at IS NULL ORDER BY received_at LIMIT 100", ()).await?;
            let mut reports: Vec<(String, String)> = vec![];
            while let Some(row) = rows.next().await? {
                reports.push((row.get(0)?, row.get(1)?));
            }
            let mut done = ErrorReportsRead::default();
            for (id, body) in reports {
                let named = samples(&body);
                let (mut hit, mut found) = (0, vec![]);
                for (identifier, why) in &named {
                    found.extend(crate::stripe::meter_event::find(c, identifier).await?.map(|event| (event, why)));
                }
                // an event of the report is not settled yet: a later run reads the report
                if found.iter().any(|(i, _)| matches!(i.state, EventState::Sending | EventState::Unconfirmed)) {
                    continue;
                }
                for (event, why) in found {
                    let sql = "UPDATE meter_events SET state = 'refused', error = ?2, settled_at = ?3 WHERE seq = ?1 AND state = 'accepted'";
                    hit += c.execute(sql, params![event.seq, format!("said later: {why}"), now]).await?;
                }
                let outcome = format!("{} sample(s) named, {hit} event(s) refused", named.len());
                let sql = "UPDATE stripe_error_reports SET read_at = ?2, outcome = ?3 WHERE id = ?1";
                c.execute(sql, params![id.clone(), now, outcome]).await?;
                tracing::warn!(report = id, refused = hit, "Stripe rejected events after it had taken them: report {id}");
                done.reports += 1;
                done.refused += hit;
            }
            Ok(done)
        })
        .await
    }
}

/// The identifiers that a report names, each with its error:
/// `data.reason.error_types[].sample_errors[]`. A sample names an identifier or an
/// Idempotency-Key; our keys begin with the identifier.
fn samples(body: &str) -> Vec<(String, String)> {
    let list = |v: &Json, key: &str| v.get(key).and_then(Json::as_array).cloned().unwrap_or_default();
    let report: Json = serde_json::from_str(body).unwrap_or_default();
    let mut found = vec![];
    for kind in list(&report["data"]["reason"], "error_types") {
        let code = kind["code"].as_str().unwrap_or("rejected").to_owned();
        for sample in list(&kind, "sample_errors") {
            let Some(named) = sample["request"]["identifier"].as_str() else { continue };
            let identifier = named.split(":k").next().unwrap_or(named).to_owned();
            found.push((identifier, format!("{code}: {}", sample["error_message"].as_str().unwrap_or_default())));
        }
    }
    found
}
