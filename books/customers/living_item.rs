//! Items that Stripe bills now, of subscriptions that have not ended.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, Row, params};
use rust_decimal::Decimal;

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;

/// A metered item of a living subscription, as `sync_stripe` last read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingItem {
    pub customer: String,
    /// Stripe's id of its meter.
    pub stripe_meter: String,
    /// Stripe's id of the customer that the subscription belongs to, to whom events must go. None
    /// if nobody knows it: the web backend wrote the subscription, and the customer has no id.
    pub stripe_customer: Option<String>,
    pub subscription: String,
    /// Stripe's status of the subscription.
    pub status: String,
    /// Stripe's id of the item.
    pub item: String,
    pub price: String,
    /// Minor units of the price's own currency for each of Stripe's units; none for a price in
    /// tiers, and for an item that was not read since before `0022_stripe_history`.
    pub unit_amount: Option<Decimal>,
    /// ISO 4217: what Stripe charges in.
    pub currency: String,
    /// None for usage.
    pub quantity: Option<i64>,
    pub tiered: bool,
    /// Names of what is not billed rightly, with `, ` between them.
    pub unsupported: String,
    /// When the item was made at Stripe: it bills no usage before.
    pub created_at: Option<i64>,
    /// First instant of the item's current period.
    pub starts_at: i64,
    pub ends_at: i64,
}

/// A customer with a living subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivingCustomer {
    /// The customer's plan now; none without a row in `customers`.
    pub plan: Option<String>,
    /// What is not billed rightly, by subscription: names with `, ` between them, or `""`.
    pub subscriptions: BTreeMap<String, String>,
    /// By Stripe's id of the meter.
    pub items: BTreeMap<String, Vec<LivingItem>>,
}

/// ?1 customers as JSON; null: all.
const ITEMS: &str = "SELECT customer, stripe_meter, stripe_customer, subscription, status, item, price, unit_amount, currency, \
        quantity, tiered, unsupported, created_at, starts_at, ends_at FROM living_items \
    WHERE ?1 IS NULL OR customer IN (SELECT value FROM json_each(?1)) ORDER BY customer, stripe_meter, created_at, item";

const SUBSCRIPTIONS: &str = "SELECT customer, id, unsupported, plan FROM started_subscriptions";

/// Living items of `customers`, by customer and then by Stripe's id of the meter. More than one of
/// a meter under one Stripe customer bills its usage more than once.
pub async fn living_items(
    c: &Connection,
    customers: &[String],
) -> Result<BTreeMap<String, BTreeMap<String, Vec<LivingItem>>>, BooksError> {
    read(c, Some(json(customers)?)).await
}

async fn read(
    c: &Connection,
    customers: Option<String>,
) -> Result<BTreeMap<String, BTreeMap<String, Vec<LivingItem>>>, BooksError> {
    let mut rows = c.query(ITEMS, params![customers]).await?;
    let mut found: BTreeMap<String, BTreeMap<String, Vec<LivingItem>>> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let item = item(&row)?;
        let of_customer = found.entry(item.customer.clone()).or_default();
        of_customer.entry(item.stripe_meter.clone()).or_default().push(item);
    }
    Ok(found)
}

fn item(row: &Row) -> Result<LivingItem, BooksError> {
    let amount = row.get::<Option<String>>(7)?;
    let read = |text: &str| text.parse().map_err(|e| BooksError::Integrity(format!("unit_amount `{text}`: {e}")));
    Ok(LivingItem {
        customer: row.get(0)?,
        stripe_meter: row.get(1)?,
        stripe_customer: row.get(2)?,
        subscription: row.get(3)?,
        status: row.get(4)?,
        item: row.get(5)?,
        price: row.get(6)?,
        unit_amount: amount.as_deref().map(read).transpose()?,
        currency: row.get(8)?,
        quantity: row.get(9)?,
        tiered: row.get::<i64>(10)? == 1,
        unsupported: row.get(11)?,
        created_at: row.get(12)?,
        starts_at: row.get(13)?,
        ends_at: row.get(14)?,
    })
}

impl Database {
    /// A customer's living items, by Stripe's id of the meter.
    pub async fn living_items(&self, customer: &str) -> Result<BTreeMap<String, Vec<LivingItem>>, BooksError> {
        let customer = customer.to_owned();
        self.with_connection(async move |c| {
            let mut found = living_items(c, std::slice::from_ref(&customer)).await?;
            Ok(found.remove(&customer).unwrap_or_default())
        })
        .await
    }

    /// Every customer with a living subscription.
    pub async fn living_customers(&self) -> Result<BTreeMap<String, LivingCustomer>, BooksError> {
        self.with_connection(async |c| {
            let mut rows = c.query(SUBSCRIPTIONS, ()).await?;
            let mut found: BTreeMap<String, LivingCustomer> = BTreeMap::new();
            while let Some(row) = rows.next().await? {
                let customer = found.entry(row.get(0)?).or_default();
                customer.subscriptions.insert(row.get(1)?, row.get(2)?);
                customer.plan = row.get(3)?;
            }
            for (id, items) in read(c, None).await? {
                found.entry(id).or_default().items = items;
            }
            Ok(found)
        })
        .await
    }
}
