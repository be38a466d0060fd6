//! The outbox of notifications to the web backend. A notification is stored in the transaction of
//! the decision that it reports, once, and sent by a job of its own.

use crate::store::connection::{Connection, Row, Value, params};
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};
use crate::units::calendar::instant;

/// Seconds after which a notification that was not delivered is dead.
pub const GIVE_UP_AFTER: i64 = 86_400;
/// Why a notification is known and was not sent: nothing received any.
pub const NO_WEBHOOK: &str = "no webhook was configured (notifications.url)";
/// Seconds for which notifications that are not pending are kept: longer than a yearly billing
/// period, so that no notification of a current period is made twice.
const KEPT: i64 = 400 * 86_400;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationKind {
    /// Usage crossed a share of the included amount.
    IncludedUsed,
    /// Cost crossed a share of a budget.
    BudgetUsed,
    /// The meter may not be used any more.
    Blocked,
    Unblocked,
}

impl NotificationKind {
    /// As it is stored. The webhook's type is `meter.` and this.
    pub fn name(self) -> &'static str {
        match self {
            Self::IncludedUsed => "included_used",
            Self::BudgetUsed => "budget_used",
            Self::Blocked => "blocked",
            Self::Unblocked => "unblocked",
        }
    }
}

/// A notification to be stored, unless it was stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    pub customer: String,
    /// Empty for the budget of all meters.
    pub meter: String,
    pub kind: NotificationKind,
    /// First instant of the billing period.
    pub period_start: i64,
    /// The share that was crossed; 0 when a meter was blocked or unblocked.
    pub percent: u32,
    /// The amount that `percent` is a share of; for a block, a number that differs
    /// from that of every other block.
    pub base: i64,
    /// The webhook's data, a JSON object.
    pub data: String,
    /// Why it is recorded as known and not sent; none = it is sent.
    pub not_sent: Option<&'static str>,
}

impl NewNotification {
    /// Equal notifications have equal ids.
    fn id(&self) -> Result<String, BooksError> {
        let of = (&self.customer, &self.meter, self.kind.name(), self.period_start, self.percent, self.base);
        let digest: [u8; 32] = Sha256::digest(json(&of)?).into();
        let half = digest.first_chunk().copied().unwrap_or_default();
        Ok(format!("ntc_{:032x}", u128::from_be_bytes(half)))
    }

    /// A row of [`RECORD`] at `now`.
    pub(super) fn row(&self, now: i64) -> Result<[Value; 13], BooksError> {
        let is_sent = self.not_sent.is_none();
        Ok([
            self.id()?.into(),
            self.customer.as_str().into(),
            self.meter.as_str().into(),
            self.kind.name().into(),
            self.period_start.into(),
            self.percent.into(),
            self.base.into(),
            self.body(now)?.into(),
            if is_sent { "pending" } else { "known" }.into(),
            self.not_sent.map(str::to_owned).into(),
            now.into(),
            now.saturating_add(GIVE_UP_AFTER).into(),
            is_sent.then_some(now).into(),
        ])
    }

    /// Type, timestamp and data, as Standard Webhooks recommends.
    fn body(&self, now: i64) -> Result<String, BooksError> {
        let kind = json(&format!("meter.{}", self.kind.name()))?;
        let timestamp = json(&instant(now).to_string())?;
        Ok(format!(r#"{{"data":{},"timestamp":{timestamp},"type":{kind}}}"#, self.data))
    }
}

/// A stored notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// The header `webhook-id`.
    pub id: String,
    pub customer: String,
    /// Empty for the budget of all meters.
    pub meter: String,
    pub kind: String,
    /// The share that was crossed.
    pub percent: i64,
    /// `pending`, `delivered`, `dead` or `known`.
    pub state: String,
    pub attempts: i64,
    pub created_at: Timestamp,
    /// When it is sent next.
    pub next_at: Option<Timestamp>,
    pub delivered_at: Option<Timestamp>,
    /// Why the last attempt failed, or why a known one was not sent.
    pub error: Option<String>,
    pub body: String,
    #[serde(skip)]
    pub give_up_at: i64,
}

const COLUMNS: &str =
    "id, customer, meter, kind, percent, state, attempts, created_at, next_at, delivered_at, error, body, give_up_at";

fn notification(row: &Row) -> Result<Notification, BooksError> {
    Ok(Notification {
        id: row.get(0)?,
        customer: row.get(1)?,
        meter: row.get(2)?,
        kind: row.get(3)?,
        percent: row.get(4)?,
        state: row.get(5)?,
        attempts: row.get(6)?,
        created_at: instant(row.get(7)?),
        next_at: row.get::<Option<i64>>(8)?.map(instant),
        delivered_at: row.get::<Option<i64>>(9)?.map(instant),
        error: row.get(10)?,
        body: row.get(11)?,
        give_up_at: row.get(12)?,
    })
}

async fn all(
    c: &Connection,
    sql: &str,
    values: impl crate::store::connection::params::IntoParams,
) -> Result<Vec<Notification>, BooksError> {
    let mut rows = c.query(sql, values).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(notification(&row)?);
    }
    Ok(found)
}

/// The SQL before the rows of notifications ([`NewNotification::row`]).
pub(super) const RECORD: &str = "INSERT INTO notifications (id, customer, meter, kind, period_start, percent, base, body, \
                                                  state, error, created_at, give_up_at, next_at)";
/// The SQL after them: those that were stored before are not stored again.
pub(super) const UNLESS_KNOWN: &str = "ON CONFLICT DO NOTHING";

/// How an attempt to deliver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    Delivered,
    /// Try again at this second, because of this.
    Again(i64, String),
    /// No further attempt, because of this.
    Dead(String),
}

impl Database {
    /// Notifications that are due, the oldest first.
    pub async fn due_notifications(&self, now: Timestamp, limit: u32) -> Result<Vec<Notification>, BooksError> {
        self.with_connection(async move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM notifications WHERE state = 'pending' AND next_at <= ?1 ORDER BY next_at, seq LIMIT ?2"
            );
            all(c, &sql, params![now.as_second(), limit]).await
        })
        .await
    }

    /// Stores how an attempt ended, unless another run settled the notification meanwhile.
    pub async fn settle_notification(
        &self,
        id: &str,
        attempts: i64,
        sent: DeliveryOutcome,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        let id = id.to_owned();
        self.transaction(async move |c| {
            let now = now.as_second();
            let (state, next, delivered, error) = match sent {
                DeliveryOutcome::Delivered => ("delivered", None, Some(now), None),
                DeliveryOutcome::Again(at, why) => ("pending", Some(at), None, Some(why)),
                DeliveryOutcome::Dead(why) => ("dead", None, None, Some(why)),
            };
            let sql = "UPDATE notifications SET state = ?3, next_at = ?4, delivered_at = ?5, error = ?6, attempts = ?2 + 1 \
                       WHERE id = ?1 AND state <> 'known' AND state = 'pending' AND attempts = ?2";
            c.execute(sql, params![id, attempts, state, next, delivered, error]).await?;
            Ok(())
        })
        .await
    }

    /// Sets up to 1,000 overdue notifications aside as known, because nothing receives them.
    pub async fn set_notifications_aside(&self, now: Timestamp) -> Result<u64, BooksError> {
        let overdue = self
            .with_connection(async move |c| {
                let sql = "SELECT 1 FROM notifications WHERE state = 'pending' AND give_up_at <= ?1 LIMIT 1";
                Ok(first_row(c, sql, params![now.as_second()]).await?.is_some())
            })
            .await?;
        if !overdue {
            return Ok(0);
        }
        self.transaction(async move |c| {
            let sql = "UPDATE notifications SET state = 'known', next_at = NULL, error = ?2 \
                       WHERE seq IN (SELECT seq FROM notifications WHERE state = 'pending' AND give_up_at <= ?1 LIMIT 1000)";
            c.execute(sql, params![now.as_second(), NO_WEBHOOK]).await
        })
        .await
    }

    /// Removes up to 1,000 old notifications that are not pending.
    pub async fn forget_notifications(&self, now: Timestamp) -> Result<u64, BooksError> {
        let before = now.as_second().saturating_sub(KEPT);
        let old = self.with_connection(async move |c| {
            let oldest = first_row(c, "SELECT created_at FROM notifications ORDER BY seq LIMIT 1", ()).await?;
            Ok(oldest.map(|row| row.get::<i64>(0)).transpose()?.is_some_and(|at| at < before))
        });
        if !old.await? {
            return Ok(0);
        }
        self.transaction(async move |c| {
            let sql = "DELETE FROM notifications WHERE seq IN (SELECT seq FROM notifications ORDER BY seq LIMIT 1000) \
                       AND created_at < ?1 AND state <> 'pending'";
            c.execute(sql, params![before]).await
        })
        .await
    }

    /// Notifications, newest first; of one state and one customer, when they are given.
    pub async fn notifications(
        &self,
        state: Option<String>,
        customer: Option<String>,
        limit: u32,
    ) -> Result<Vec<Notification>, BooksError> {
        self.with_connection(async move |c| {
            let sql = format!(
                "SELECT {COLUMNS} FROM notifications WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR customer = ?2) \
                 ORDER BY seq DESC LIMIT ?3"
            );
            all(c, &sql, params![state, customer, limit]).await
        })
        .await
    }

    /// Those of `ids` that there are.
    pub async fn known_notifications(&self, ids: Vec<String>) -> Result<Vec<String>, BooksError> {
        let ids = json(&ids)?;
        self.with_connection(async move |c| {
            let sql = "SELECT id FROM notifications WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY id";
            let (mut rows, mut found) = (c.query(sql, params![ids]).await?, vec![]);
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }

    /// Makes notifications pending again for another day: those with these ids, whatever became of
    /// them, or up to 1,000 dead ones when no id is given. Returns the ids.
    pub async fn retry_notifications(&self, ids: Vec<String>, now: Timestamp) -> Result<Vec<String>, BooksError> {
        let list = json(&ids)?;
        let wanted = list.clone();
        let places = self.with_connection(async move |c| {
            let sql = match ids.is_empty() {
                true => "SELECT seq FROM notifications WHERE ?1 = '[]' AND state = 'dead' LIMIT 1000",
                // the ids of known ones are in no index, so they are looked for outside of the
                // transaction
                false => "SELECT seq FROM notifications WHERE id IN (SELECT value FROM json_each(?1))",
            };
            let (mut rows, mut places) = (c.query(sql, params![wanted]).await?, vec![]);
            while let Some(row) = rows.next().await? {
                places.push(row.get::<i64>(0)?);
            }
            json(&places)
        });
        let places = places.await?;
        self.transaction(async move |c| {
            let sql = "UPDATE notifications SET state = 'pending', attempts = 0, next_at = ?3, give_up_at = ?4, delivered_at = NULL, error = NULL \
                       WHERE seq IN (SELECT value FROM json_each(?1)) AND iif(?2 = '[]', state = 'dead', state <> 'pending') RETURNING id";
            let now = now.as_second();
            let mut rows = c.query(sql, params![places, list, now, now.saturating_add(GIVE_UP_AFTER)]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }
}
