//! The outbox: notifications to the web backend, and messages to the operator. A notification is
//! stored in the transaction of the decision that it reports, once, and sent by a job of its own.
//! Messages to the operator ([`super::operator_message`]) are in another table with the same
//! columns of delivery, and everything here is done with both.

use crate::store::connection::{Connection, Row, Value, params};
use jiff::Timestamp;
use schemars::JsonSchema;
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
/// Seconds after which a worker looks again for the receiver of a notification that is not
/// configured: another worker may have it.
const NO_RECEIVER_WAIT: i64 = 600;
/// Seconds for which notifications that are not pending are kept: longer than a yearly billing
/// period, so that no notification of a current period is made twice.
const KEPT: i64 = 400 * 86_400;

/// Who receives notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageReceiver {
    /// The web backend.
    Backend,
    /// The operator, by an incoming webhook of Slack.
    Slack,
    /// The operator, by a webhook.
    Webhook,
}

impl MessageReceiver {
    pub const ALL: [Self; 3] = [Self::Backend, Self::Slack, Self::Webhook];
    pub const OPERATOR: [Self; 2] = [Self::Slack, Self::Webhook];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Slack => "slack",
            Self::Webhook => "webhook",
        }
    }

    fn named(name: &str) -> Result<Self, BooksError> {
        let found = Self::ALL.into_iter().find(|of| of.name() == name);
        found.ok_or_else(|| BooksError::Integrity(format!("`{name}` in the database is no receiver")))
    }

    /// Where its notifications are.
    fn table(self) -> &'static str {
        match self {
            Self::Backend => BACKEND,
            Self::Slack | Self::Webhook => OPERATOR,
        }
    }

    /// Why one is known and was not sent: its address is not configured.
    pub fn no_address(self) -> &'static str {
        match self {
            Self::Backend => NO_WEBHOOK,
            Self::Slack => "no address was configured (METER_OPERATOR__SLACK_URL)",
            Self::Webhook => "no address was configured (METER_OPERATOR__WEBHOOK_URL)",
        }
    }
}

const BACKEND: &str = "notifications";
const OPERATOR: &str = "operator_messages";

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
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Notification {
    /// The header `webhook-id`.
    pub id: String,
    pub receiver: MessageReceiver,
    /// Empty in a message to the operator.
    pub customer: String,
    /// Empty for the budget of all meters, and in a message to the operator.
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

/// The SQL that reads notifications, up to its WHERE.
fn select(table: &str) -> String {
    let own = match table {
        BACKEND => "'backend', customer, meter, kind, percent",
        _ => "receiver, '', '', kind, 0",
    };
    format!(
        "SELECT id, {own}, state, attempts, created_at, next_at, delivered_at, error, body, give_up_at FROM {table}"
    )
}

fn notification(row: &Row) -> Result<Notification, BooksError> {
    Ok(Notification {
        id: row.get(0)?,
        receiver: MessageReceiver::named(&row.get::<String>(1)?)?,
        customer: row.get(2)?,
        meter: row.get(3)?,
        kind: row.get(4)?,
        percent: row.get(5)?,
        state: row.get(6)?,
        attempts: row.get(7)?,
        created_at: instant(row.get(8)?),
        next_at: row.get::<Option<i64>>(9)?.map(instant),
        delivered_at: row.get::<Option<i64>>(10)?.map(instant),
        error: row.get(11)?,
        body: row.get(12)?,
        give_up_at: row.get(13)?,
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

/// The texts of a query's first column.
async fn texts(
    c: &Connection,
    sql: &str,
    values: impl crate::store::connection::params::IntoParams,
) -> Result<Vec<String>, BooksError> {
    let (mut rows, mut found) = (c.query(sql, values).await?, vec![]);
    while let Some(row) = rows.next().await? {
        found.push(row.get(0)?);
    }
    Ok(found)
}

impl Database {
    /// Notifications that are due, the oldest first.
    pub async fn due_notifications(
        &self,
        receiver: MessageReceiver,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<Notification>, BooksError> {
        self.with_connection(async move |c| {
            let (due, of) = (select(receiver.table()), of_receiver(receiver));
            let sql =
                format!("{due} WHERE state = 'pending' AND next_at <= ?1 AND {of} ORDER BY next_at, seq LIMIT ?2");
            all(c, &sql, params![now.as_second(), limit]).await
        })
        .await
    }

    /// Stores how an attempt ended, unless another run settled the notification meanwhile.
    pub async fn settle_notification(
        &self,
        notification: &Notification,
        sent: DeliveryOutcome,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        let Notification { id, attempts, receiver, .. } = notification;
        let (id, attempts, table) = (id.clone(), *attempts, receiver.table());
        self.transaction(async move |c| {
            let now = now.as_second();
            let (state, next, delivered, error) = match sent {
                DeliveryOutcome::Delivered => ("delivered", None, Some(now), None),
                DeliveryOutcome::Again(at, why) => ("pending", Some(at), None, Some(why)),
                DeliveryOutcome::Dead(why) => ("dead", None, None, Some(why)),
            };
            let sql = format!(
                "UPDATE {table} SET state = ?3, next_at = ?4, delivered_at = ?5, error = ?6, attempts = ?2 + 1 \
                 WHERE id = ?1 AND state <> 'known' AND state = 'pending' AND attempts = ?2"
            );
            c.execute(&sql, params![id, attempts, state, next, delivered, error]).await?;
            Ok(())
        })
        .await
    }

    /// Of up to 1,000 due notifications to a receiver that is not configured, sets those aside as
    /// known that are overdue, and lets the others wait. Returns how many are known now.
    pub async fn set_notifications_aside(&self, receiver: MessageReceiver, now: Timestamp) -> Result<u64, BooksError> {
        let (table, of) = (receiver.table(), of_receiver(receiver));
        let due = self
            .with_connection(async move |c| {
                let sql = format!("SELECT 1 FROM {table} WHERE state = 'pending' AND next_at <= ?1 AND {of} LIMIT 1");
                Ok(first_row(c, &sql, params![now.as_second()]).await?.is_some())
            })
            .await?;
        if !due {
            return Ok(0);
        }
        self.transaction(async move |c| {
            let now = now.as_second();
            let due = |more: &str| {
                format!(
                    "seq IN (SELECT seq FROM {table} WHERE state = 'pending' AND next_at <= ?1 AND {of} {more} LIMIT 1000)"
                )
            };
            let sql = format!(
                "UPDATE {table} SET state = 'known', next_at = NULL, error = ?2 WHERE {}",
                due("AND give_up_at <= ?1")
            );
            let known = c.execute(&sql, params![now, receiver.no_address()]).await?;
            let sql = format!("UPDATE {table} SET next_at = min(?2, give_up_at) WHERE {}", due("AND give_up_at > ?1"));
            c.execute(&sql, params![now, now.saturating_add(NO_RECEIVER_WAIT)]).await?;
            Ok(known)
        })
        .await
    }

    /// Removes up to 1,000 old notifications of each table that are not pending.
    pub async fn forget_notifications(&self, now: Timestamp) -> Result<u64, BooksError> {
        let before = now.as_second().saturating_sub(KEPT);
        let mut forgotten = 0;
        for table in [BACKEND, OPERATOR] {
            let old = self.with_connection(async move |c| {
                let sql = format!("SELECT created_at FROM {table} ORDER BY seq LIMIT 1");
                let oldest = first_row(c, &sql, ()).await?;
                Ok(oldest.map(|row| row.get::<i64>(0)).transpose()?.is_some_and(|at| at < before))
            });
            if !old.await? {
                continue;
            }
            let removed = self.transaction(async move |c| {
                let sql = format!(
                    "DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} ORDER BY seq LIMIT 1000) \
                     AND created_at < ?1 AND state <> 'pending'"
                );
                c.execute(&sql, params![before]).await
            });
            forgotten += removed.await?;
        }
        Ok(forgotten)
    }

    /// Notifications, newest first; of one state and one customer, when they are given. With a
    /// customer there are no messages to the operator.
    pub async fn notifications(
        &self,
        state: Option<String>,
        customer: Option<String>,
        limit: u32,
    ) -> Result<Vec<Notification>, BooksError> {
        self.with_connection(async move |c| {
            let newest = "(?1 IS NULL OR state = ?1) ORDER BY seq DESC LIMIT ?2";
            let sql = format!("{} WHERE (?3 IS NULL OR customer = ?3) AND {newest}", select(BACKEND));
            let mut found = all(c, &sql, params![state.clone(), limit, customer.clone()]).await?;
            if customer.is_none() {
                let sql = format!("{} WHERE {newest}", select(OPERATOR));
                found.extend(all(c, &sql, params![state, limit]).await?);
                // of one second, those to the backend come first
                found.sort_by_key(|of| std::cmp::Reverse(of.created_at));
                found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            }
            Ok(found)
        })
        .await
    }

    /// Those of `ids` that there are.
    pub async fn known_notifications(&self, ids: Vec<String>) -> Result<Vec<String>, BooksError> {
        let ids = json(&ids)?;
        self.with_connection(async move |c| {
            let of = |table: &str| format!("SELECT id FROM {table} WHERE id IN (SELECT value FROM json_each(?1))");
            texts(c, &format!("{} UNION ALL {} ORDER BY 1", of(BACKEND), of(OPERATOR)), params![ids]).await
        })
        .await
    }

    /// Makes notifications pending again for another day: those with these ids, whatever became of
    /// them, or up to 1,000 dead ones of each table when no id is given. Returns the ids.
    pub async fn retry_notifications(&self, ids: Vec<String>, now: Timestamp) -> Result<Vec<String>, BooksError> {
        let mut found = self.retry_in(BACKEND, &ids, now).await?;
        found.extend(self.retry_in(OPERATOR, &ids, now).await?);
        Ok(found)
    }

    async fn retry_in(&self, table: &'static str, ids: &[String], now: Timestamp) -> Result<Vec<String>, BooksError> {
        let list = json(ids)?;
        let (wanted, all_dead) = (list.clone(), ids.is_empty());
        let places = self.with_connection(async move |c| {
            let sql = match all_dead {
                true => format!("SELECT seq FROM {table} WHERE ?1 = '[]' AND state = 'dead' LIMIT 1000"),
                // the ids of known ones are in no index, so they are looked for outside of the
                // transaction
                false => format!("SELECT seq FROM {table} WHERE id IN (SELECT value FROM json_each(?1))"),
            };
            let (mut rows, mut places) = (c.query(&sql, params![wanted]).await?, vec![]);
            while let Some(row) = rows.next().await? {
                places.push(row.get::<i64>(0)?);
            }
            Ok(places)
        });
        let places = places.await?;
        if places.is_empty() {
            return Ok(vec![]);
        }
        let places = json(&places)?;
        self.transaction(async move |c| {
            let sql = format!(
                "UPDATE {table} SET state = 'pending', attempts = 0, next_at = ?3, give_up_at = ?4, delivered_at = NULL, error = NULL \
                 WHERE seq IN (SELECT value FROM json_each(?1)) AND iif(?2 = '[]', state = 'dead', state <> 'pending') RETURNING id"
            );
            let now = now.as_second();
            texts(c, &sql, params![places, list, now, now.saturating_add(GIVE_UP_AFTER)]).await
        })
        .await
    }
}

/// The condition of a table's rows for one receiver.
fn of_receiver(receiver: MessageReceiver) -> &'static str {
    match receiver {
        MessageReceiver::Backend => "true",
        MessageReceiver::Slack => "receiver = 'slack'",
        MessageReceiver::Webhook => "receiver = 'webhook'",
    }
}
