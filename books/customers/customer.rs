//! Customers, and the counters on their rows that the web backend reads.

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::time::Instant;

use crate::limits::plan::{DEFAULT_PLAN, Plans};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::pace::Pace;
use crate::store::rows::{first_row, json, scaled_sum};
use crate::units::calendar::{Month, instant};
use crate::units::form;

/// Customers of a transaction that computes counters.
pub const COUNTERS: Pace = Pace::new(500, 5000);

/// A customer's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Customer {
    /// The value of the cost allocation tag.
    pub id: String,
    pub plan: String,
    /// `active`, `past_due` or `canceled`.
    pub status: String,
    pub stripe_customer_id: Option<String>,
    pub created_at: String,
    pub subscriptions: Vec<SubscriptionRow>,
    /// Newest first, future ones included.
    pub periods: Vec<PeriodRow>,
}

/// A stored subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionRow {
    pub id: String,
    pub status: String,
    /// The Stripe customer that it belongs to; none until `sync_stripe` has read it.
    pub stripe_customer: Option<String>,
    pub anchor_at: Timestamp,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// A row of `billing_periods`, for `meter customer show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeriodRow {
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    /// None for a calendar month.
    pub subscription: Option<String>,
    /// First day of usage that belongs to it.
    pub first_day: String,
    pub last_day: String,
    /// True when the period can no longer change.
    pub closed: bool,
}

/// A customer to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NewCustomer {
    /// The value of the cost allocation tag.
    pub id: String,
    /// None = [`DEFAULT_PLAN`].
    #[serde(default)]
    pub plan: Option<String>,
    #[serde(default)]
    pub stripe_customer_id: Option<String>,
    /// None = `active`.
    #[serde(default)]
    pub status: Option<String>,
}

/// Why customers cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum CustomerError {
    #[error("customer `{}`: {why}", id.escape_debug())]
    Wrong {
        /// Place in the list.
        at: usize,
        id: String,
        why: String,
    },
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// The counter of a meter in [`REFRESH_COUNTERS`]. The division makes a plain number for
/// JavaScript.
macro_rules! counter {
    ($meter:literal) => {
        concat!(
            "(SELECT coalesce(",
            scaled_sum!("quantity"),
            ", 0) FROM booked_usage WHERE customer = customers.id AND meter = '",
            $meter,
            "' AND day BETWEEN max(coalesce(customers.counters_period, ''), ?1) || '-01' \
                           AND max(coalesce(customers.counters_period, ''), ?1) || '-31') / 1e10"
        )
    };
}

/// ?1 the month, ?2 a JSON array of customers. Counters never go back to an earlier month: a long
/// run that began before midnight must not undo the move into the new month.
const REFRESH_COUNTERS: &str = concat!(
    "UPDATE customers SET chime_minutes_used = ",
    counter!("chime_minutes"),
    ", storage_gb_used = ",
    counter!("storage_gb"),
    ", transfer_gb_used = ",
    counter!("transfer_gb"),
    ", counters_period = max(coalesce(counters_period, ''), ?1) WHERE id IN (SELECT value FROM json_each(?2))"
);

/// Recomputes the counters of the customers `ids` for `month`. Counters are never added to.
pub async fn refresh_counters(c: &Connection, month: Month, ids: &[String]) -> Result<u64, BooksError> {
    c.execute(REFRESH_COUNTERS, params![month.to_string(), json(ids)?]).await
}

impl Database {
    /// Moves the counters of all customers into `month`: in a new month, or for a new customer with
    /// usage that was booked before the row was added. Returns how many were moved.
    pub async fn roll_counters(&self, month: Month) -> Result<u64, BooksError> {
        let (mut moved, mut pace) = (0, COUNTERS);
        loop {
            let (name, limit) = (month.to_string(), pace.limit());
            let page = self.with_connection(async move |c| {
                let sql = "SELECT id FROM customers WHERE counters_period IS NULL OR counters_period < ?1 LIMIT ?2";
                let mut rows = c.query(sql, params![name, limit]).await?;
                let mut page: Vec<String> = vec![];
                while let Some(row) = rows.next().await? {
                    page.push(row.get(0)?);
                }
                Ok(page)
            });
            let page = page.await?;
            if page.is_empty() {
                return Ok(moved);
            }
            let (start, rows) = (Instant::now(), page.len());
            moved += self.transaction(async move |c| refresh_counters(c, month, &page).await).await?;
            pace.learn(rows, start);
        }
    }

    /// Adds a customer with the default plan, as the web backend does on sign-up. An existing
    /// customer is left as it is.
    pub async fn add_customer(&self, id: &str) -> Result<(), BooksError> {
        match self.add_customers(vec![NewCustomer { id: id.to_owned(), ..NewCustomer::default() }]).await {
            Ok(_) => Ok(()),
            Err(CustomerError::Books(error)) => Err(error),
            Err(wrong) => Err(BooksError::Integrity(wrong.to_string())),
        }
    }

    /// Adds customers, all or none, and returns how many are new. Existing customers are left as
    /// they are.
    ///
    /// # Errors
    /// [`CustomerError::Wrong`] for an id or a name that has not its form, an id given twice, an
    /// unknown plan or status, and a Stripe id of another customer.
    pub async fn add_customers(&self, customers: Vec<NewCustomer>) -> Result<u64, CustomerError> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut stripe: BTreeMap<&str, &str> = BTreeMap::new();
        for (at, new) in customers.iter().enumerate() {
            let wrong = |why: &str| Err(CustomerError::Wrong { at, id: new.id.clone(), why: why.to_owned() });
            if !form::is_name(&new.id, form::CUSTOMER_ID) {
                return wrong(&format!("that is no id: {}", form::name_rule(form::CUSTOMER_ID)));
            }
            if let Some(plan) = new.plan.as_deref().filter(|plan| !form::is_name(plan, form::PLAN_NAME)) {
                return wrong(&format!("`{}` is no plan: {}", plan.escape_debug(), form::name_rule(form::PLAN_NAME)));
            }
            if let Some(id) = new.stripe_customer_id.as_deref().filter(|id| !form::is_stripe_id(id)) {
                let rule = form::stripe_id_rule();
                return wrong(&format!(
                    "`{}` is no id of Stripe: {rule}; leave it out as long as there is none",
                    id.escape_debug()
                ));
            }
            if seen.insert(&new.id, at).is_some() {
                return wrong("it is named twice; a tag value can be one customer's only");
            }
            if let Some(other) = new.stripe_customer_id.as_deref().and_then(|id| stripe.insert(id, &new.id)) {
                return wrong(&format!("customer `{other}` has the same Stripe id"));
            }
            if !matches!(new.status.as_deref(), None | Some("active" | "past_due" | "canceled")) {
                return wrong("the status is active, past_due or canceled");
            }
        }
        let status = |new: &NewCustomer| new.status.clone().unwrap_or_else(|| "active".to_owned());
        let rows: Vec<_> =
            customers.iter().map(|new| (&new.id, plan_of(new), &new.stripe_customer_id, status(new))).collect();
        let rows = json(&rows)?;
        let looked_up = rows.clone();
        let looked_up = self
            .with_connection(async move |c| tokio::try_join!(Plans::load(c), first_row(c, TAKEN, params![looked_up])));
        let (plans, taken) = looked_up.await?;
        for (at, new) in customers.iter().enumerate() {
            let plan = plan_of(new);
            if !plans.names().contains(&plan.as_str()) {
                let why = format!("there is no plan `{plan}`; there are: {}", plans.names().join(", "));
                return Err(CustomerError::Wrong { at, id: new.id.clone(), why });
            }
        }
        if let Some(row) = taken {
            let (other, key, stripe): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let at = usize::try_from(key).unwrap_or_default();
            let id = customers.get(at).map(|n| n.id.clone()).unwrap_or_default();
            return Err(CustomerError::Wrong { at, id, why: format!("customer `{other}` has the Stripe id {stripe}") });
        }
        Ok(self.with_connection(async move |c| c.execute(ADD, params![rows]).await).await?)
    }

    /// Customers by id; of one plan, or with one id, when they are given.
    pub async fn customers(&self, plan: Option<String>, id: Option<String>) -> Result<Vec<Customer>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT id, plan, status, stripe_customer_id, created_at FROM customers \
                       WHERE (?1 IS NULL OR plan = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY id";
            let mut rows = c.query(sql, params![plan, id.clone()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(Customer {
                    id: row.get(0)?,
                    plan: row.get(1)?,
                    status: row.get(2)?,
                    stripe_customer_id: row.get(3)?,
                    created_at: row.get(4)?,
                    subscriptions: vec![],
                    periods: vec![],
                });
            }
            if let (Some(_), [one]) = (id, &mut found[..]) {
                one.subscriptions = subscriptions(c, &one.id).await?;
                one.periods = periods(c, &one.id).await?;
            }
            Ok(found)
        })
        .await
    }
}

fn plan_of(new: &NewCustomer) -> String {
    new.plan.clone().unwrap_or_else(|| DEFAULT_PLAN.to_owned())
}

/// A Stripe id that another customer has; ?1 as in [`ADD`].
const TAKEN: &str = "SELECT c.id, j.key, j.value ->> 2 FROM json_each(?1) j \
    JOIN customers c ON c.stripe_customer_id = j.value ->> 2 WHERE c.id <> j.value ->> 0 LIMIT 1";

/// ?1 is a JSON array of [id, plan, Stripe id, status]. One statement needs no transaction to be
/// whole, and holds the write lock no longer than it runs. In the order of the ids it takes two
/// thirds of the time: neighbours share pages.
const ADD: &str = "INSERT INTO customers (id, plan, stripe_customer_id, status) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?1) WHERE true ORDER BY 1 \
    ON CONFLICT (id) DO NOTHING";

async fn subscriptions(c: &Connection, customer: &str) -> Result<Vec<SubscriptionRow>, BooksError> {
    let sql = "SELECT id, status, anchor_at, started_at, ended_at, stripe_customer FROM subscriptions \
               WHERE customer = ?1 ORDER BY started_at DESC";
    let mut rows = c.query(sql, params![customer]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(SubscriptionRow {
            id: row.get(0)?,
            status: row.get(1)?,
            anchor_at: instant(row.get(2)?),
            started_at: instant(row.get(3)?),
            ended_at: row.get::<Option<i64>>(4)?.map(instant),
            stripe_customer: row.get(5)?,
        });
    }
    Ok(found)
}

async fn periods(c: &Connection, customer: &str) -> Result<Vec<PeriodRow>, BooksError> {
    let sql = "SELECT starts_at, ends_at, subscription, first_day, last_day, closed_at IS NOT NULL FROM billing_periods \
               WHERE customer = ?1 ORDER BY starts_at DESC LIMIT 40";
    let mut rows = c.query(sql, params![customer]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(PeriodRow {
            starts_at: instant(row.get(0)?),
            ends_at: instant(row.get(1)?),
            subscription: row.get(2)?,
            first_day: row.get(3)?,
            last_day: row.get(4)?,
            closed: row.get::<i64>(5)? == 1,
        });
    }
    Ok(found)
}
