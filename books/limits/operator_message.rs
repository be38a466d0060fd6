//! Messages to the operator: findings as they begin and end, and the weekly digest. They are stored
//! once and sent as notifications are ([`super::notification`]).

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::limits::notification::{GIVE_UP_AFTER, MessageReceiver};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorMessageKind {
    FindingBegan,
    FindingEnded,
    /// A week of the business.
    Digest,
}

impl OperatorMessageKind {
    /// As it is stored. The webhook's type is `meter.` and this.
    pub fn name(self) -> &'static str {
        match self {
            Self::FindingBegan => "finding_began",
            Self::FindingEnded => "finding_ended",
            Self::Digest => "digest",
        }
    }
}

/// A message to be stored, unless it was stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOperatorMessage {
    pub receiver: MessageReceiver,
    pub kind: OperatorMessageKind,
    /// What tells it from others of its kind: the number of the finding, the Monday of the week.
    pub about: String,
    /// What is sent, a JSON object.
    pub body: String,
}

impl NewOperatorMessage {
    /// Equal for messages about the same thing to the same receiver.
    pub fn id(&self) -> Result<String, BooksError> {
        let of = (self.receiver.name(), self.kind.name(), &self.about);
        let digest: [u8; 32] = Sha256::digest(json(&of)?).into();
        let half = digest.first_chunk().copied().unwrap_or_default();
        Ok(format!("msg_{:032x}", u128::from_be_bytes(half)))
    }
}

/// Stores messages inside a transaction, each once. Returns how many are new.
pub async fn store(c: &Connection, messages: &[NewOperatorMessage], now: i64) -> Result<u64, BooksError> {
    let sql = "INSERT INTO operator_messages (id, receiver, kind, body, created_at, give_up_at, next_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5) ON CONFLICT DO NOTHING";
    let mut stored = 0;
    for message in messages {
        let (receiver, kind, until) = (message.receiver.name(), message.kind.name(), now.saturating_add(GIVE_UP_AFTER));
        stored += c.execute(sql, params![message.id()?, receiver, kind, message.body.as_str(), now, until]).await?;
    }
    Ok(stored)
}

impl Database {
    /// Stores messages, each once. Returns how many are new.
    pub async fn store_operator_messages(
        &self,
        messages: Vec<NewOperatorMessage>,
        now: Timestamp,
    ) -> Result<u64, BooksError> {
        self.transaction(async move |c| store(c, &messages, now.as_second()).await).await
    }

    /// Whether a message was stored.
    pub async fn has_operator_message(&self, id: String) -> Result<bool, BooksError> {
        self.with_connection(async move |c| {
            Ok(first_row(c, "SELECT 1 FROM operator_messages WHERE id = ?1", params![id]).await?.is_some())
        })
        .await
    }
}
