//! Findings that workers see, and the messages to the operator as they begin and end.
//!
//! Each worker reads the figures at its own pace, so two of them can see different things within
//! seconds. Only the books decide: a finding that is not over has one row, and the transaction that
//! says that it began or ended makes the messages. One that flickers makes none: it begins when it
//! was there for [`BEGINS_AFTER`], and ends when it was gone for [`ENDS_AFTER`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::limits::operator_message::{NewOperatorMessage, store};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::units::calendar::instant;

/// Seconds between the first look that sees a finding and its beginning.
pub const BEGINS_AFTER: i64 = 120;
/// Seconds between the first look that misses a finding and its end.
pub const ENDS_AFTER: i64 = 600;
/// Seconds for which findings that are over are kept.
const KEPT: i64 = 400 * 86_400;

/// A finding that a look sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFinding {
    /// The name of the alert: `MeterDeadJobs`.
    pub alert: String,
    /// The one thing that it is about: a kind of job, a payer; empty when there is only one.
    pub subject: String,
    /// `critical` or `warning`.
    pub severity: &'static str,
    pub what: String,
    /// What a person can do.
    pub act: String,
}

/// A stored finding that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredFinding {
    /// Its number.
    #[serde(rename = "finding")]
    pub seq: i64,
    pub alert: String,
    pub subject: String,
    pub severity: String,
    /// As it was when the finding began.
    pub what: String,
    pub act: String,
    #[serde(skip)]
    pub seen_at: i64,
    /// None as long as it has not begun.
    #[serde(skip)]
    pub began_at: Option<i64>,
    /// None as long as it is there.
    #[serde(skip)]
    pub gone_at: Option<i64>,
}

/// What a look changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingChange {
    /// It is there for the first time.
    Appears(SeenFinding),
    /// It has been there for long enough. With the words of now.
    Begins(StoredFinding),
    /// It is not there any more.
    Goes(StoredFinding),
    /// It is there again, before it ended.
    Returns(StoredFinding),
    /// It went before it began.
    Fades(StoredFinding),
    /// It has been gone for long enough.
    Ends(StoredFinding),
}

/// How many findings a look made begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotedFindings {
    pub began: u64,
    pub ended: u64,
}

/// What a look at `at` changes of the findings that are not over. Pure.
pub fn changes(open: &[StoredFinding], seen: &[SeenFinding], at: i64) -> Vec<FindingChange> {
    // the first of several with the same name
    let mut by_name: BTreeMap<(&str, &str), &SeenFinding> = BTreeMap::new();
    for finding in seen {
        by_name.entry((&finding.alert, &finding.subject)).or_insert(finding);
    }
    let mut found = vec![];
    for known in open {
        let is_seen = by_name.remove(&(known.alert.as_str(), known.subject.as_str()));
        let (known, has_begun) = (known.clone(), known.began_at.is_some());
        match (is_seen, known.gone_at) {
            // a look of another worker saw more lately that it is gone
            (Some(_), Some(gone)) if at <= gone => {}
            (Some(_), Some(_)) => found.push(FindingChange::Returns(known)),
            (Some(seen), None) if !has_begun && at.saturating_sub(known.seen_at) >= BEGINS_AFTER => {
                let SeenFinding { severity, what, act, .. } = seen.clone();
                found.push(FindingChange::Begins(StoredFinding {
                    severity: severity.to_owned(),
                    what,
                    act,
                    began_at: Some(at),
                    ..known
                }));
            }
            (Some(_), None) => {}
            (None, None) if at > known.seen_at => found.push(FindingChange::Goes(known)),
            (None, None) => {}
            (None, Some(gone)) if at.saturating_sub(gone) < ENDS_AFTER => {}
            (None, Some(_)) if has_begun => found.push(FindingChange::Ends(known)),
            (None, Some(_)) => found.push(FindingChange::Fades(known)),
        }
    }
    found.extend(by_name.into_values().cloned().map(FindingChange::Appears));
    found
}

/// The findings that are not over, the oldest first.
pub async fn open_findings(c: &Connection) -> Result<Vec<StoredFinding>, BooksError> {
    let sql = "SELECT seq, alert, subject, severity, what, act, seen_at, began_at, gone_at \
               FROM findings WHERE ended_at IS NULL ORDER BY seq";
    let (mut rows, mut found) = (c.query(sql, ()).await?, vec![]);
    while let Some(row) = rows.next().await? {
        found.push(StoredFinding {
            seq: row.get(0)?,
            alert: row.get(1)?,
            subject: row.get(2)?,
            severity: row.get(3)?,
            what: row.get(4)?,
            act: row.get(5)?,
            seen_at: row.get(6)?,
            began_at: row.get(7)?,
            gone_at: row.get(8)?,
        });
    }
    Ok(found)
}

async fn apply(c: &Connection, change: &FindingChange, at: i64) -> Result<(), BooksError> {
    let (sql, of) = match change {
        FindingChange::Appears(SeenFinding { alert, subject, severity, what, act }) => {
            let sql =
                "INSERT INTO findings (alert, subject, severity, what, act, seen_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let values = params![alert.as_str(), subject.as_str(), *severity, what.as_str(), act.as_str(), at];
            c.execute(sql, values).await?;
            return Ok(());
        }
        FindingChange::Begins(StoredFinding { seq, severity, what, act, .. }) => {
            let sql = "UPDATE findings SET began_at = ?2, severity = ?3, what = ?4, act = ?5 WHERE seq = ?1";
            c.execute(sql, params![*seq, at, severity.as_str(), what.as_str(), act.as_str()]).await?;
            return Ok(());
        }
        FindingChange::Goes(of) => ("UPDATE findings SET gone_at = ?2 WHERE seq = ?1", of),
        FindingChange::Returns(of) => ("UPDATE findings SET gone_at = NULL WHERE seq = ?1 AND gone_at < ?2", of),
        FindingChange::Fades(of) => ("DELETE FROM findings WHERE seq = ?1 AND gone_at < ?2", of),
        FindingChange::Ends(of) => ("UPDATE findings SET ended_at = ?2 WHERE seq = ?1", of),
    };
    c.execute(sql, params![of.seq, at]).await?;
    Ok(())
}

impl Database {
    /// The findings that have begun and are not over, the oldest first.
    pub async fn begun_findings(&self) -> Result<Vec<StoredFinding>, BooksError> {
        let mut found = self.with_connection(async |c| open_findings(c).await).await?;
        found.retain(|of| of.began_at.is_some());
        Ok(found)
    }

    /// Notes what a look at `at` sees, and stores the messages that `words` makes of what begins
    /// and ends, in one transaction. A look that changes nothing writes nothing.
    ///
    /// # Errors
    /// When the books cannot be read or written.
    pub async fn note_findings(
        &self,
        seen: Vec<SeenFinding>,
        at: Timestamp,
        words: impl Fn(&FindingChange) -> Vec<NewOperatorMessage> + Send + 'static,
    ) -> Result<NotedFindings, BooksError> {
        let at = at.as_second();
        let open = self.with_connection(async |c| open_findings(c).await).await?;
        if changes(&open, &seen, at).is_empty() {
            return Ok(NotedFindings::default());
        }
        self.transaction(async move |c| {
            // another worker may have noted them meanwhile
            let changes = changes(&open_findings(c).await?, &seen, at);
            let mut noted = NotedFindings::default();
            for change in &changes {
                apply(c, change, at).await?;
                store(c, &words(change), at).await?;
                match change {
                    FindingChange::Begins(_) => noted.began += 1,
                    FindingChange::Ends(_) => noted.ended += 1,
                    _ => {}
                }
            }
            if noted.ended > 0 && first_row(c, OLD, params![at.saturating_sub(KEPT)]).await?.is_some() {
                c.execute("DELETE FROM findings WHERE ended_at < ?1", params![at.saturating_sub(KEPT)]).await?;
            }
            Ok(noted)
        })
        .await
    }
}

const OLD: &str = "SELECT 1 FROM (SELECT ended_at FROM findings ORDER BY seq LIMIT 1) WHERE ended_at < ?1";

impl StoredFinding {
    /// When it began, or was first seen.
    pub fn since(&self) -> Timestamp {
        instant(self.began_at.unwrap_or(self.seen_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(alert: &str) -> SeenFinding {
        let text = |text: &str| text.to_owned();
        SeenFinding {
            alert: alert.to_owned(),
            subject: text("s"),
            severity: "warning",
            what: text("w"),
            act: text("a"),
        }
    }

    fn stored(seen_at: i64, began_at: Option<i64>, gone_at: Option<i64>) -> StoredFinding {
        let SeenFinding { alert, subject, severity, what, act } = seen("A");
        StoredFinding { seq: 1, alert, subject, severity: severity.into(), what, act, seen_at, began_at, gone_at }
    }

    #[test]
    fn a_finding_begins_after_two_minutes_and_ends_after_ten_without_it() {
        let name = |change: &FindingChange| match change {
            FindingChange::Appears(_) => "appears",
            FindingChange::Begins(_) => "begins",
            FindingChange::Goes(_) => "goes",
            FindingChange::Returns(_) => "returns",
            FindingChange::Fades(_) => "fades",
            FindingChange::Ends(_) => "ends",
        };
        let (there, not_there) = (vec![seen("A")], vec![]);
        for (known, look, at, expected) in [
            (None, &there, 1000, vec!["appears"]),
            (None, &not_there, 1000, vec![]),
            (Some(stored(1000, None, None)), &there, 1119, vec![]),
            (Some(stored(1000, None, None)), &there, 1120, vec!["begins"]),
            (Some(stored(1000, None, None)), &not_there, 1010, vec!["goes"]),
            // a look that began before the one that saw it
            (Some(stored(1000, None, None)), &not_there, 1000, vec![]),
            (Some(stored(1000, None, Some(1010))), &not_there, 1609, vec![]),
            (Some(stored(1000, None, Some(1010))), &not_there, 1610, vec!["fades"]),
            (Some(stored(1000, None, Some(1010))), &there, 1300, vec!["returns"]),
            (Some(stored(1000, Some(1120), None)), &there, 9999, vec![]),
            (Some(stored(1000, Some(1120), None)), &not_there, 9999, vec!["goes"]),
            (Some(stored(1000, Some(1120), Some(5000))), &not_there, 5599, vec![]),
            (Some(stored(1000, Some(1120), Some(5000))), &not_there, 5600, vec!["ends"]),
            (Some(stored(1000, Some(1120), Some(5000))), &there, 5599, vec!["returns"]),
            // an older look of another worker
            (Some(stored(1000, Some(1120), Some(5000))), &there, 5000, vec![]),
        ] {
            let known: Vec<StoredFinding> = known.into_iter().collect();
            let found = changes(&known, look, at);
            assert_eq!(found.iter().map(name).collect::<Vec<_>>(), expected, "{known:?} {look:?} {at}");
        }
    }

    #[test]
    fn each_name_counts_once() {
        let found = changes(&[stored(1, Some(2), None)], &[seen("A"), seen("B"), seen("B")], 5);
        assert_eq!(found, [FindingChange::Appears(seen("B"))]);
    }
}
