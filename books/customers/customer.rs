//! Customers, and the counters on their rows that the web backend reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::limits::plan::{DEFAULT_PLAN, Plans};
use crate::store::connection::{Connection, Row, params};
use crate::store::database::Database;
use crate::store::erased::ErasedIds;
use crate::store::error::BooksError;
use crate::store::pace::Pace;
use crate::store::rows::{json, scaled_sum};
use crate::units::calendar::{Month, instant};
use crate::units::form;
use crate::units::similar::offer;

/// Customers of a transaction that computes counters.
pub const COUNTERS: Pace = Pace::new(500, 5000);

/// A customer's row.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Customer {
    /// The value of the cost allocation tag.
    pub id: String,
    pub display_name: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
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

/// A customer to be added, or what a file says of one.
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
    #[serde(default)]
    pub display_name: Option<String>,
}

/// What is wrong with one of several customers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerFault {
    /// Place in the list.
    pub at: usize,
    pub id: String,
    pub why: String,
}

impl Display for CustomerFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "customer `{}`: {}", self.id.escape_debug(), self.why)
    }
}

/// Why customers cannot be added or changed.
#[derive(Debug, thiserror::Error)]
pub enum CustomerError {
    /// At most one fault of each customer, in the order of the list.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<CustomerFault>),
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
    /// [`CustomerError::Wrong`] for an id or a name that has not its form, an id given twice or
    /// erased, an unknown plan or status, and a Stripe id of another customer.
    pub async fn add_customers(&self, mut customers: Vec<NewCustomer>) -> Result<u64, CustomerError> {
        customers.iter_mut().for_each(NewCustomer::choose_plan);
        let rows = new_rows(&customers)?;
        let found = self.with_connection(async move |c| faults(c, &customers, &BTreeMap::new()).await);
        let found = found.await?;
        if !found.is_empty() {
            return Err(CustomerError::Wrong(found));
        }
        Ok(self.with_connection(async move |c| c.execute(ADD, params![rows]).await).await?)
    }

    /// Customers by id; of one plan, or with one id, when they are given.
    pub async fn customers(&self, plan: Option<String>, id: Option<String>) -> Result<Vec<Customer>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT id, plan, status, stripe_customer_id, created_at, display_name FROM customers \
                       WHERE (?1 IS NULL OR plan = ?1) AND (?2 IS NULL OR id = ?2) ORDER BY id";
            let mut rows = c.query(sql, params![plan, id.clone()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(customer(&row)?);
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

/// Reads id, plan, status, Stripe id, time and display name.
pub(super) fn customer(row: &Row) -> Result<Customer, BooksError> {
    Ok(Customer {
        id: row.get(0)?,
        plan: row.get(1)?,
        status: row.get(2)?,
        stripe_customer_id: row.get(3)?,
        created_at: row.get(4)?,
        display_name: row.get(5)?,
        subscriptions: vec![],
        periods: vec![],
    })
}

impl NewCustomer {
    /// Chooses [`DEFAULT_PLAN`] if no plan is said.
    pub(super) fn choose_plan(&mut self) {
        self.plan.get_or_insert_with(|| DEFAULT_PLAN.to_owned());
    }
}

/// The faults that show without the books, each by its place.
fn form_faults(customers: &[NewCustomer]) -> BTreeMap<usize, String> {
    let (mut seen, mut stripe) = (BTreeSet::new(), BTreeMap::new());
    let faults = customers.iter().enumerate().filter_map(|(at, new)| {
        // both are noted also of a customer with another fault
        let is_repeated = !seen.insert(new.id.as_str());
        let shares = new.stripe_customer_id.as_deref().and_then(|id| stripe.insert(id, new.id.as_str()));
        let fault = form_fault(new).or_else(|| {
            let repeated = is_repeated.then(|| "it is named twice; a tag value can be one customer's only".to_owned());
            repeated.or_else(|| shares.map(|other| format!("customer `{other}` has the same Stripe id")))
        });
        Some((at, fault?))
    });
    faults.collect()
}

fn form_fault(new: &NewCustomer) -> Option<String> {
    let name = |text: &str, what: &str, most: usize| {
        (!form::is_name(text, most)).then(|| format!("{what}: {}", form::name_rule(most)))
    };
    let optional = |text: &Option<String>, what: &str, most: usize| {
        text.as_deref().and_then(|text| name(text, &format!("`{}` is no {what}", text.escape_debug()), most))
    };
    let id = name(&new.id, "that is no id", form::CUSTOMER_ID);
    let stripe = || {
        let id = new.stripe_customer_id.as_deref().filter(|id| !form::is_stripe_id(id))?;
        let rule = form::stripe_id_rule();
        Some(format!("`{}` is no id of Stripe: {rule}; leave it out as long as there is none", id.escape_debug()))
    };
    let status = || {
        let is_known = matches!(new.status.as_deref(), None | Some("active" | "past_due" | "canceled"));
        (!is_known).then(|| "the status is active, past_due or canceled".to_owned())
    };
    id.or_else(|| optional(&new.plan, "plan", form::PLAN_NAME))
        .or_else(stripe)
        .or_else(status)
        .or_else(|| optional(&new.display_name, "display name", form::DISPLAY_NAME))
}

/// What is wrong with customers. `moved` are the Stripe ids that existing customers get at the same
/// time: whoever gets another one gives up the old one.
pub(super) async fn faults(
    c: &Connection,
    customers: &[NewCustomer],
    moved: &BTreeMap<String, String>,
) -> Result<Vec<CustomerFault>, BooksError> {
    let mut faults = form_faults(customers);
    let stripe: Vec<&str> = customers.iter().filter_map(|new| new.stripe_customer_id.as_deref()).collect();
    let (plans, erased, mut rows) =
        tokio::try_join!(Plans::load(c), ErasedIds::load(c), c.query(HOLDERS, params![json(&stripe)?]))?;
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        holders.insert(row.get(0)?, row.get(1)?);
    }
    for (at, new) in customers.iter().enumerate() {
        if let Some(plan) = new.plan.as_deref().filter(|plan| !plans.names().contains(plan)) {
            let known = offer(plan, plans.names());
            faults.entry(at).or_insert_with(|| format!("there is no plan `{plan}`; {known}"));
        }
        if let Some(pseudonym) = erased.pseudonym(&new.id) {
            let why = "this id was erased, and its usage is booked to";
            faults.entry(at).or_insert_with(|| format!("{why} {pseudonym}; give the customer another id"));
        }
        let Some((id, holder)) = new.stripe_customer_id.as_deref().and_then(|id| holders.get_key_value(id)) else {
            continue;
        };
        let gives_it_up = moved.get(holder).is_some_and(|other| other != id);
        if *holder != new.id && !gives_it_up {
            faults.entry(at).or_insert_with(|| format!("customer `{holder}` has the Stripe id {id}"));
        }
    }
    let fault = |(at, why)| Some(CustomerFault { at, id: customers.get(at)?.id.clone(), why });
    Ok(faults.into_iter().filter_map(fault).collect())
}

/// The customers who have one of the Stripe ids of a JSON array.
const HOLDERS: &str = "SELECT c.stripe_customer_id, c.id FROM json_each(?1) j \
    CROSS JOIN customers c ON c.stripe_customer_id = j.value";

/// The parameter of [`ADD`], of customers with a plan.
pub(super) fn new_rows(customers: &[NewCustomer]) -> Result<String, BooksError> {
    let row = |new: &'_ NewCustomer| {
        let (stripe, name) = (new.stripe_customer_id.clone(), new.display_name.clone());
        let status = new.status.clone().unwrap_or_else(|| "active".to_owned());
        (new.id.clone(), new.plan.clone(), stripe, status, name)
    };
    json(&customers.iter().map(row).collect::<Vec<_>>())
}

/// ?1 is a JSON array of [id, plan, Stripe id, status, display name]. One statement needs no
/// transaction to be whole, and holds the write lock no longer than it runs. In the order of the
/// ids it takes two thirds of the time: neighbours share pages.
pub(super) const ADD: &str = "INSERT INTO customers (id, plan, stripe_customer_id, status, display_name) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true ORDER BY 1 \
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
