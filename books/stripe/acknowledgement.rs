//! A person has dealt with an alarm or a deferred amount outside of the books: it calls for nobody
//! again until it changes (migration 0018).

use std::fmt;
use std::ops::Range;

use jiff::Timestamp;
use libsql::params;

use crate::store::audit_log::{AuditEntry, record};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::stripe::alarm;
use crate::stripe::difference::Difference;
use crate::units::calendar::instant;

/// What a person acknowledged of a billing target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub period_start: Timestamp,
    pub meter: String,
    pub matter: Matter,
}

/// What a person acknowledges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matter {
    Alarm(Difference),
    Deferred { amount: i64, reason: String },
}

impl fmt::Display for Matter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alarm(difference) => difference.fmt(f),
            Self::Deferred { amount, reason } => write!(f, "deferred {amount}: {reason}"),
        }
    }
}

/// Targets of customer ?1 in periods that begin from ?2 to before ?3.
const TARGETS: &str = "customer = ?1 AND period_start >= ?2 AND period_start < ?3";

const NO_TOTAL: &str = "alarm_kind = 'no_total'";
const UNEXPLAINED: &str = "alarm_kind IN ('stripe_has_less', 'stripe_has_more')";
/// Of an amount that is too large nobody knows how large it is.
const DEFERRED: &str = "deferred <> 0 AND deferred_acknowledged IS NOT deferred AND deferred_reason <> 'too_large'";

const END_ALARM: &str = "alarm_kind = NULL, alarm_shortfall = NULL, alarm_total = NULL, alarm_until = NULL, \
    alarm_stripe_customer = NULL, alarm_answer = NULL";

impl Database {
    /// Acknowledges the alarms and deferred amounts of a customer's periods that begin in
    /// `periods`, as they are now. Returns those that were not acknowledged before.
    pub async fn acknowledge(
        &self,
        customer: String,
        periods: Range<i64>,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<Vec<Acknowledged>, BooksError> {
        self.transaction(async move |c| {
            let no_total = format!("no_total_acknowledged = alarm_stripe_customer, {END_ALARM}");
            let unexplained = format!(
                "acknowledged = acknowledged + alarm_shortfall, shortfall = NULL, shortfall_since = NULL, {END_ALARM}"
            );
            let deferred = "deferred_acknowledged = deferred".to_owned();
            let mut found = vec![];
            for (which, change) in [(NO_TOTAL, no_total), (UNEXPLAINED, unexplained), (DEFERRED, deferred)] {
                let values = || params![customer.clone(), periods.start, periods.end];
                let sql = format!(
                    "SELECT period_start, meter, deferred, deferred_reason, {} FROM billing_targets \
                     WHERE {TARGETS} AND {which} ORDER BY period_start, meter",
                    alarm::COLUMNS
                );
                let mut rows = c.query(&sql, values()).await?;
                while let Some(row) = rows.next().await? {
                    let matter = match alarm::read(&row, 4)? {
                        Some(difference) if which != DEFERRED => Matter::Alarm(difference),
                        _ => Matter::Deferred { amount: row.get(2)?, reason: row.get(3)? },
                    };
                    found.push(Acknowledged { period_start: instant(row.get(0)?), meter: row.get(1)?, matter });
                }
                c.execute(&format!("UPDATE billing_targets SET {change} WHERE {TARGETS} AND {which}"), values())
                    .await?;
            }
            if !found.is_empty() {
                record(c, &entry, now.as_second()).await?;
            }
            Ok(found)
        })
        .await
    }
}
