//! Subscriptions, as Stripe lists them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use libsql::params;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::store::settings;

/// A subscription to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionUpdate {
    pub id: String,
    pub customer: String,
    pub status: String,
    pub anchor: i64,
    pub started: i64,
    pub ended: Option<i64>,
    pub items: Vec<SubscriptionItemUpdate>,
}

/// A metered item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionItemUpdate {
    pub id: String,
    pub meter: String,
    pub price: String,
    /// ISO 4217.
    pub currency: String,
    /// First instant of the item's current period.
    pub starts_at: i64,
    pub ends_at: i64,
}

/// How many rows changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpsertedSubscriptions {
    /// Subscriptions that are new, or changed.
    pub subscriptions: u64,
    /// Items that are new, changed or gone.
    pub items: u64,
}

/// A row that the web backend wrote after the list was read is newer than the list and stays.
const SUBSCRIPTIONS: &str = "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, ended_at, updated_at) \
    SELECT value ->> 'id', value ->> 'customer', value ->> 'status', value ->> 'anchor', value ->> 'started', value ->> 'ended', ?2 \
    FROM json_each(?1) WHERE true \
    ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, status = excluded.status, anchor_at = excluded.anchor_at, \
        started_at = excluded.started_at, ended_at = excluded.ended_at, updated_at = excluded.updated_at \
    WHERE subscriptions.updated_at <= ?2 \
      AND (subscriptions.customer, subscriptions.status, subscriptions.anchor_at, subscriptions.started_at, subscriptions.ended_at) \
          IS NOT (excluded.customer, excluded.status, excluded.anchor_at, excluded.started_at, excluded.ended_at)";

const ITEMS: &str = "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) \
    SELECT i.value ->> 'id', s.value ->> 'id', s.value ->> 'customer', i.value ->> 'meter', i.value ->> 'price', i.value ->> 'currency', \
           i.value ->> 'starts_at', i.value ->> 'ends_at' \
    FROM json_each(?1) s, json_each(s.value, '$.items') i WHERE true \
    ON CONFLICT (id) DO UPDATE SET subscription = excluded.subscription, customer = excluded.customer, stripe_meter = excluded.stripe_meter, \
        price = excluded.price, currency = excluded.currency, starts_at = excluded.starts_at, ends_at = excluded.ends_at \
    WHERE (subscription_items.subscription, subscription_items.customer, subscription_items.stripe_meter, subscription_items.price, \
           subscription_items.currency, subscription_items.starts_at, subscription_items.ends_at) \
       IS NOT (excluded.subscription, excluded.customer, excluded.stripe_meter, excluded.price, excluded.currency, excluded.starts_at, excluded.ends_at)";

const GONE: &str = "DELETE FROM subscription_items WHERE subscription IN (SELECT value ->> 'id' FROM json_each(?1)) \
    AND id NOT IN (SELECT i.value ->> 'id' FROM json_each(?1) s, json_each(s.value, '$.items') i)";

impl Database {
    /// Customers by their Stripe ids, for those of `ids` that exist.
    pub async fn customers_by_stripe_id(&self, ids: Vec<String>) -> Result<BTreeMap<String, String>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT c.stripe_customer_id, c.id FROM json_each(?1) j JOIN customers c ON c.stripe_customer_id = j.value";
            let mut rows = c.query(sql, params![json(&ids)?]).await?;
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?, row.get(1)?);
            }
            Ok(found)
        })
        .await
    }

    /// Stores subscriptions and their items, as Stripe listed them at `asked_at`. Unchanged rows
    /// are not written. A CHECK of the schema refuses an impossible status or instant.
    pub async fn upsert_subscriptions(
        &self,
        updates: Vec<SubscriptionUpdate>,
        asked_at: Timestamp,
    ) -> Result<UpsertedSubscriptions, BooksError> {
        self.transaction(async move |c| {
            let rows = json(&updates)?;
            let subscriptions = c.execute(SUBSCRIPTIONS, params![rows.clone(), asked_at.as_second()]).await?;
            let gone = c.execute(GONE, params![rows.clone()]).await?;
            let items = c.execute(ITEMS, params![rows]).await?;
            Ok(UpsertedSubscriptions { subscriptions, items: items + gone })
        })
        .await
    }

    /// Ids of stored subscriptions that have not ended.
    pub async fn living_subscriptions(&self) -> Result<Vec<String>, BooksError> {
        self.with_connection(async |c| {
            let sql = "SELECT id FROM subscriptions WHERE ended_at IS NULL AND status NOT IN ('canceled', 'incomplete_expired') ORDER BY id";
            let mut rows = c.query(sql, ()).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }

    /// Stores a setting.
    pub async fn remember(&self, name: &'static str, value: String) -> Result<(), BooksError> {
        self.transaction(async move |c| settings::put(c, name, &value).await).await
    }
}
