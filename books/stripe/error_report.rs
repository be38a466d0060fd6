//! Stripe's error reports about events that it had accepted.

use crate::store::connection::params;
use jiff::Timestamp;
use serde_json::Value as Json;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::stripe::meter_event::{EventState, find_by_identifier};

/// Identifiers of others that an outcome names, and the most characters of each.
const SHOWN: usize = 3;
const LONGEST: usize = 100;

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
                let (mut hit, mut found, mut foreign) = (0, vec![], vec![]);
                for (identifier, why) in &named {
                    match find_by_identifier(c, identifier).await? {
                        Some(event) => found.push((event, why)),
                        None => foreign.push(identifier.as_str()),
                    }
                }
                // an event of the report is not settled yet: a later run reads the report
                if found.iter().any(|(event, _)| matches!(event.state, EventState::Sending | EventState::Unconfirmed)) {
                    continue;
                }
                for (event, why) in found {
                    let sql = "UPDATE meter_events SET state = 'refused', error = ?2, settled_at = ?3 WHERE seq = ?1 AND state = 'accepted'";
                    hit += c.execute(sql, params![event.seq, format!("said later: {why}"), now]).await?;
                }
                let outcome = outcome(named.len(), hit, &foreign);
                let sql = "UPDATE stripe_error_reports SET read_at = ?2, outcome = ?3 WHERE id = ?1";
                c.execute(sql, params![id.clone(), now, outcome.clone()]).await?;
                tracing::warn!(report = id, refused = hit, "Stripe rejected events after it had taken them: report {id}: {outcome}");
                done.reports += 1;
                done.refused += hit;
            }
            Ok(done)
        })
        .await
    }
}

/// What a report led to. Identifiers that are not of these books are named, a few and shortened:
/// another program sends to the account, or other books do.
fn outcome(named: usize, refused: u64, foreign: &[&str]) -> String {
    let done = format!("{named} sample(s) named, {refused} event(s) refused");
    if foreign.is_empty() {
        return done;
    }
    let short = |id: &&str| id.chars().take(LONGEST).collect::<String>().escape_debug().to_string();
    let some: Vec<String> = foreign.iter().take(SHOWN).map(short).collect();
    let more = if foreign.len() > SHOWN { ", ..." } else { "" };
    format!("{done}, {} not of these books: {}{more}", foreign.len(), some.join(", "))
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
            found.push((
                identifier_of(named).to_owned(),
                format!("{code}: {}", sample["error_message"].as_str().unwrap_or_default()),
            ));
        }
    }
    found
}

/// The identifier in what a sample names: `identifier` or `identifier:k2`. Nothing else is cut off.
fn identifier_of(named: &str) -> &str {
    let key = named.rsplit_once(":k").filter(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    key.map_or(named, |(identifier, _)| identifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_of_a_key_is_cut_off() {
        for (named, identifier) in [
            ("meter-1f-7", "meter-1f-7"),
            ("meter-1f-7:k0", "meter-1f-7"),
            ("meter-1f-7:k12", "meter-1f-7"),
            ("meter-1f-7:k", "meter-1f-7:k"),
            ("meter-1f-7:kept", "meter-1f-7:kept"),
            ("meter-1f-7:k1:k2", "meter-1f-7:k1"),
            ("1", "1"),
            ("", ""),
        ] {
            assert_eq!(identifier_of(named), identifier, "{named}");
        }
    }

    #[test]
    fn identifiers_of_others_are_named_shortly() {
        assert_eq!(outcome(2, 2, &[]), "2 sample(s) named, 2 event(s) refused");
        assert_eq!(outcome(2, 1, &["1"]), "2 sample(s) named, 1 event(s) refused, 1 not of these books: 1");
        let long = "x".repeat(5000);
        let many = outcome(4, 0, &[&long, "a\n", "b", "c"]);
        assert!(many.ends_with("a\\n, b, ...") && many.len() < 250, "{many}");
    }
}
