//! Who pays for usage beyond the overage budget, and since when.

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::database::Database;
use crate::store::error::BooksError;

/// Who pays for usage beyond the overage budget, which the block came too late to prevent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverageBilling {
    /// The company: a customer who has set a budget is never billed more.
    #[default]
    UpToBudget,
    /// The customer.
    All,
}

impl OverageBilling {
    pub const ALL: [Self; 2] = [Self::UpToBudget, Self::All];

    /// As in the configuration and in the books.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpToBudget => "up-to-budget",
            Self::All => "all",
        }
    }
}

/// What held when. A change holds for billing periods that begin after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverageHistory {
    first: OverageBilling,
    /// Instants of changes in seconds since 1970, the oldest first.
    changes: Vec<(i64, OverageBilling)>,
}

impl OverageHistory {
    /// What holds for a billing period.
    pub fn at(&self, period_start: i64) -> OverageBilling {
        let before = self.changes.iter().rev().find(|(from, _)| *from < period_start);
        before.map_or(self.first, |(_, mode)| *mode)
    }

    /// What holds now.
    pub fn newest(&self) -> OverageBilling {
        self.changes.last().map_or(self.first, |(_, mode)| *mode)
    }

    /// `known` with `configured` from `now` on, if that is a change.
    pub fn with(known: Option<Self>, configured: OverageBilling, now: Timestamp) -> Self {
        let mut found = known.unwrap_or(Self { first: configured, changes: vec![] });
        if found.newest() != configured {
            found.changes.push((now.as_second(), configured));
        }
        found
    }
}

impl Database {
    /// Stores what is configured, if that is a change, and returns the history.
    pub async fn note_overage_billing(
        &self,
        configured: OverageBilling,
        now: Timestamp,
    ) -> Result<OverageHistory, BooksError> {
        self.transaction(async move |c| {
            if load(c).await?.is_none_or(|found| found.newest() != configured) {
                let sql = "INSERT INTO overage_billing_changes (from_at, mode) \
                           SELECT max(?1, coalesce(max(from_at) + 1, ?1)), ?2 FROM overage_billing_changes";
                c.execute(sql, params![now.as_second(), configured.name()]).await?;
            }
            Ok(OverageHistory::with(load(c).await?, configured, now))
        })
        .await
    }
}

/// None as long as nothing was noted.
pub async fn load(c: &Connection) -> Result<Option<OverageHistory>, BooksError> {
    let mut rows = c.query("SELECT from_at, mode FROM overage_billing_changes ORDER BY from_at", ()).await?;
    let mut found = None::<OverageHistory>;
    while let Some(row) = rows.next().await? {
        let name: String = row.get(1)?;
        let mode = OverageBilling::ALL.into_iter().find(|mode| mode.name() == name);
        let mode = mode.ok_or_else(|| BooksError::Integrity(format!("overage_billing_changes: `{name}`")))?;
        match &mut found {
            None => found = Some(OverageHistory { first: mode, changes: vec![] }),
            Some(history) => history.changes.push((row.get(0)?, mode)),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_keeps_what_held_when_it_began() {
        use OverageBilling::{All, UpToBudget};
        let history = OverageHistory { first: UpToBudget, changes: vec![(100, All), (200, UpToBudget)] };
        for (start, expected) in [(0, UpToBudget), (100, UpToBudget), (101, All), (200, All), (201, UpToBudget)] {
            assert_eq!(history.at(start), expected, "{start}");
        }
    }
}
