//! Subscriptions, as Stripe lists them.

use std::collections::BTreeMap;

use crate::store::connection::params;
use jiff::Timestamp;
use serde::Serialize;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;

/// Whether a subscription has begun, as an SQL condition on its alias: one that was never paid for
/// has no periods, and bills nothing. It also stands in the `.sql` files of this folder and in the
/// view `event_invoices`.
macro_rules! has_begun {
    ($alias:literal) => {
        concat!($alias, ".status NOT IN ('incomplete', 'incomplete_expired')")
    };
}
pub(crate) use has_begun;

/// A subscription to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionUpdate {
    pub id: String,
    pub customer: String,
    pub status: String,
    pub anchor: i64,
    pub started: i64,
    pub ended: Option<i64>,
    /// Stripe's id of the customer that it belongs to.
    pub stripe_customer: String,
    /// ISO 4217.
    pub currency: String,
    /// Names of what is not billed rightly, with `, ` between them.
    pub unsupported: String,
    pub items: Vec<SubscriptionItemUpdate>,
}

/// A metered item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionItemUpdate {
    pub id: String,
    pub meter: String,
    pub price: String,
    /// Minor units for each of Stripe's units, as exact decimal text; none for a price in tiers.
    pub unit_amount: Option<String>,
    /// ISO 4217: what Stripe charges in.
    pub currency: String,
    /// None for usage.
    pub quantity: Option<i64>,
    pub tiered: bool,
    /// Names of what is not billed rightly, with `, ` between them.
    pub unsupported: String,
    /// When the item was made at Stripe.
    pub created_at: i64,
    /// First instant of the item's current period.
    pub starts_at: i64,
    pub ends_at: i64,
}

/// Stripe ids that the books got since they were last asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStripeIds {
    /// The number of the newest Stripe id in the books.
    pub newest: i64,
    pub ids: Vec<String>,
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

/// What `sync_stripe` alone knows of a subscription, whoever wrote its row last.
const READ_AT_STRIPE: &str = "UPDATE subscriptions SET stripe_customer = j.value ->> 'stripe_customer', \
        currency = j.value ->> 'currency', unsupported = j.value ->> 'unsupported' \
    FROM json_each(?1) j WHERE subscriptions.id = j.value ->> 'id' \
      AND (subscriptions.stripe_customer, subscriptions.currency, subscriptions.unsupported) \
          IS NOT (j.value ->> 'stripe_customer', j.value ->> 'currency', j.value ->> 'unsupported')";

/// ?1 [`SubscriptionUpdate`]s; ?2 when Stripe was asked.
const ITEMS: &str = "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, unit_amount, currency, quantity, \
        tiered, unsupported, created_at, starts_at, ends_at, seen_at) \
    SELECT i.value ->> 'id', s.value ->> 'id', s.value ->> 'customer', i.value ->> 'meter', i.value ->> 'price', \
           i.value ->> 'unit_amount', i.value ->> 'currency', i.value ->> 'quantity', i.value ->> 'tiered', i.value ->> 'unsupported', \
           i.value ->> 'created_at', i.value ->> 'starts_at', i.value ->> 'ends_at', ?2 \
    FROM json_each(?1) s, json_each(s.value, '$.items') i WHERE true \
    ON CONFLICT (id) DO UPDATE SET subscription = excluded.subscription, customer = excluded.customer, \
        stripe_meter = excluded.stripe_meter, price = excluded.price, unit_amount = excluded.unit_amount, \
        currency = excluded.currency, quantity = excluded.quantity, tiered = excluded.tiered, \
        unsupported = excluded.unsupported, created_at = excluded.created_at, starts_at = excluded.starts_at, \
        ends_at = excluded.ends_at, seen_at = excluded.seen_at \
    WHERE (subscription_items.subscription, subscription_items.customer, subscription_items.stripe_meter, \
           subscription_items.price, subscription_items.unit_amount, subscription_items.currency, subscription_items.quantity, \
           subscription_items.tiered, subscription_items.unsupported, subscription_items.created_at, \
           subscription_items.starts_at, subscription_items.ends_at) \
       IS NOT (excluded.subscription, excluded.customer, excluded.stripe_meter, excluded.price, excluded.unit_amount, \
               excluded.currency, excluded.quantity, excluded.tiered, excluded.unsupported, excluded.created_at, \
               excluded.starts_at, excluded.ends_at)";

/// Items that are listed no more. The history keeps when they were found gone.
macro_rules! gone {
    ($head:literal) => {
        concat!(
            $head,
            " WHERE subscription IN (SELECT value ->> 'id' FROM json_each(?1)) \
              AND id NOT IN (SELECT i.value ->> 'id' FROM json_each(?1) s, json_each(s.value, '$.items') i)"
        )
    };
}
const NOTE_GONE: &str = gone!("UPDATE subscription_items SET gone_at = ?2");
const GONE: &str = gone!("DELETE FROM subscription_items");

impl Database {
    /// Customers by their Stripe ids, for those of `ids` that a customer has or had: the one who
    /// has it now, else the one who had it last.
    pub async fn customers_by_stripe_id(&self, ids: Vec<String>) -> Result<BTreeMap<String, String>, BooksError> {
        self.with_connection(async move |c| {
            // each row replaces the one before it
            let sql = "SELECT h.stripe_customer, h.customer FROM json_each(?1) j \
                       JOIN stripe_customers h ON h.stripe_customer = j.value ORDER BY h.until IS NULL, h.seq";
            let mut rows = c.query(sql, params![json(&ids)?]).await?;
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?, row.get(1)?);
            }
            Ok(found)
        })
        .await
    }

    /// The Stripe ids that customers got after that of number `after`, and have still; if no number
    /// is known, those without a subscription in the books.
    pub async fn new_stripe_ids(&self, after: Option<i64>) -> Result<NewStripeIds, BooksError> {
        self.with_connection(async move |c| {
            let newest = "SELECT coalesce(max(seq), 0) FROM stripe_customers";
            let newest = c.query(newest, ()).await?.next().await?.map_or(Ok(0), |row| row.get(0))?;
            let sql = "SELECT h.stripe_customer FROM stripe_customers h \
                       WHERE h.seq > coalesce(?1, 0) AND h.seq <= ?2 AND h.until IS NULL \
                         AND (?1 IS NOT NULL OR NOT EXISTS (SELECT 1 FROM subscriptions s \
                             WHERE s.customer = h.customer AND s.stripe_customer = h.stripe_customer)) ORDER BY h.seq";
            let mut rows = c.query(sql, params![after, newest]).await?;
            let mut ids = vec![];
            while let Some(row) = rows.next().await? {
                ids.push(row.get(0)?);
            }
            Ok(NewStripeIds { newest, ids })
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
            c.execute(READ_AT_STRIPE, params![rows.clone()]).await?;
            c.execute(NOTE_GONE, params![rows.clone(), asked_at.as_second()]).await?;
            let gone = c.execute(GONE, params![rows.clone()]).await?;
            let items = c.execute(ITEMS, params![rows, asked_at.as_second()]).await?;
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
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sql_files_have_the_same_condition() {
        let files = [include_str!("known_periods.sql"), include_str!("customer_facts.sql")];
        for text in files {
            assert_eq!(text.matches("incomplete_expired").count(), text.matches(has_begun!("s")).count(), "{text}");
            assert!(text.contains(has_begun!("s")), "{text}");
        }
    }
}
