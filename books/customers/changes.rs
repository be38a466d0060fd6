//! Changing customers by hand: one by its fields, or many by a file, whole or not at all.
//!
//! Every change of a customer is an entry of the audit log, in the transaction that makes it. A
//! display name is personal data, so the entry says only that it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::customer::{ADD, CustomerError, CustomerFault, NewCustomer, faults, new_rows};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;

/// What is to be set of an existing customer; `None` leaves the field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomerChange {
    pub id: String,
    pub plan: Option<String>,
    pub status: Option<String>,
    /// `Some(None)` takes it away, as of the display name.
    pub stripe_customer_id: Option<Option<String>>,
    pub display_name: Option<Option<String>>,
}

impl From<NewCustomer> for CustomerChange {
    /// What a file says; an empty cell leaves the field as it is.
    fn from(NewCustomer { id, plan, stripe_customer_id, status, display_name }: NewCustomer) -> Self {
        let (stripe_customer_id, display_name) = (stripe_customer_id.map(Some), display_name.map(Some));
        Self { id, plan, status, stripe_customer_id, display_name }
    }
}

/// A field that can be changed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerField {
    Plan,
    Status,
    StripeCustomerId,
    DisplayName,
}

impl Display for CustomerField {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plan => "plan",
            Self::Status => "status",
            Self::StripeCustomerId => "Stripe customer",
            Self::DisplayName => "display name",
        })
    }
}

/// What a field was, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ChangedField {
    pub field: CustomerField,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl ChangedField {
    /// For the audit log.
    fn logged(&self) -> String {
        let Self { field, from, to } = self;
        let none = || "none".to_owned();
        match field {
            CustomerField::DisplayName if to.is_none() => format!("{field} removed"),
            CustomerField::DisplayName => format!("{field} changed"),
            _ => format!("{field} {} to {}", from.clone().unwrap_or_else(none), to.clone().unwrap_or_else(none)),
        }
    }
}

/// A customer with at least one changed field.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ChangedCustomer {
    pub customer: String,
    pub changes: Vec<ChangedField>,
}

/// What a list of customers changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerUpdate {
    pub added: Vec<String>,
    pub changed: Vec<ChangedCustomer>,
    pub unchanged: usize,
}

/// Who changes customers by which command, and why if it was said.
#[derive(Clone, Debug)]
pub struct ByHand {
    pub actor: String,
    pub action: &'static str,
    pub reason: Option<String>,
}

/// The fields of a stored customer that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    plan: String,
    status: String,
    stripe_customer_id: Option<String>,
    display_name: Option<String>,
}

impl Fields {
    fn with(&self, change: &CustomerChange) -> Self {
        Self {
            plan: change.plan.clone().unwrap_or_else(|| self.plan.clone()),
            status: change.status.clone().unwrap_or_else(|| self.status.clone()),
            stripe_customer_id: change.stripe_customer_id.clone().unwrap_or_else(|| self.stripe_customer_id.clone()),
            display_name: change.display_name.clone().unwrap_or_else(|| self.display_name.clone()),
        }
    }

    /// What differs in `other`. Pure.
    fn changes(&self, other: &Self) -> Vec<ChangedField> {
        let field = |field, from: Option<&String>, to: Option<&String>| {
            (from != to).then(|| ChangedField { field, from: from.cloned(), to: to.cloned() })
        };
        let all = [
            field(CustomerField::Plan, Some(&self.plan), Some(&other.plan)),
            field(CustomerField::Status, Some(&self.status), Some(&other.status)),
            field(CustomerField::StripeCustomerId, self.stripe_customer_id.as_ref(), other.stripe_customer_id.as_ref()),
            field(CustomerField::DisplayName, self.display_name.as_ref(), other.display_name.as_ref()),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Decided changes, and what they write.
#[derive(Clone, Debug, Default)]
struct Decided {
    update: CustomerUpdate,
    new: Vec<NewCustomer>,
    /// The changed customers as they will be.
    rows: Vec<(String, Fields)>,
    /// Those of them whose Stripe id another one of them gets.
    give_up: Vec<String>,
}

impl Database {
    /// Changes one customer. The change is empty when every field has its value already.
    ///
    /// # Errors
    /// [`CustomerError::Wrong`] for an unknown customer or plan, a name that has not its form, and
    /// a Stripe id of another customer.
    pub async fn change_customer(
        &self,
        change: CustomerChange,
        by: ByHand,
        now: Timestamp,
    ) -> Result<ChangedCustomer, CustomerError> {
        let (id, stripe_customer_id) = (change.id.clone(), change.stripe_customer_id.clone().flatten());
        let CustomerChange { plan, status, display_name, .. } = change.clone();
        let wanted = NewCustomer { id, plan, stripe_customer_id, status, display_name: display_name.flatten() };
        self.transaction_with(async move |c| {
            check(c, std::slice::from_ref(&wanted), &BTreeMap::new()).await?;
            let stored = stored(c, [wanted.id.as_str()]).await?;
            let Some(fields) = stored.get(&wanted.id) else {
                let why = "there is no such customer; `meter customer list` shows all".to_owned();
                return Err(CustomerError::Wrong(vec![CustomerFault { at: 0, id: wanted.id, why }]));
            };
            let becomes = fields.with(&change);
            let changes = fields.changes(&becomes);
            let changed = ChangedCustomer { customer: wanted.id, changes };
            if !changed.changes.is_empty() {
                let update = CustomerUpdate { changed: vec![changed.clone()], ..CustomerUpdate::default() };
                let rows = vec![(changed.customer.clone(), becomes)];
                apply(c, &Decided { update, rows, ..Decided::default() }, &by, now).await?;
            }
            Ok(changed)
        })
        .await
    }

    /// What [`Database::update_customers`] would do.
    pub async fn customer_update(&self, customers: Vec<NewCustomer>) -> Result<CustomerUpdate, CustomerError> {
        let decided = self.with_connection(async move |c| Ok(decide(c, customers).await));
        Ok(decided.await??.update)
    }

    /// Adds the customers that are unknown, and gives the others the values of the list; a field
    /// that the list does not say stays as it is. All or nothing.
    ///
    /// # Errors
    /// As [`Database::add_customers`].
    pub async fn update_customers(
        &self,
        customers: Vec<NewCustomer>,
        by: ByHand,
        now: Timestamp,
    ) -> Result<CustomerUpdate, CustomerError> {
        self.transaction_with(async move |c| {
            let decided = decide(c, customers).await?;
            apply(c, &decided, &by, now).await?;
            Ok(decided.update)
        })
        .await
    }
}

async fn check(
    c: &Connection,
    customers: &[NewCustomer],
    moved: &BTreeMap<String, String>,
) -> Result<(), CustomerError> {
    let found = faults(c, customers, moved).await?;
    if found.is_empty() { Ok(()) } else { Err(CustomerError::Wrong(found)) }
}

async fn stored<'a>(
    c: &Connection,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, Fields>, BooksError> {
    let sql = "SELECT c.id, c.plan, c.status, c.stripe_customer_id, c.display_name FROM json_each(?1) j \
               CROSS JOIN customers c ON c.id = j.value";
    let ids: Vec<&str> = ids.into_iter().collect();
    let mut rows = c.query(sql, params![json(&ids)?]).await?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let (plan, status) = (row.get(1)?, row.get(2)?);
        let (stripe_customer_id, display_name) = (row.get(3)?, row.get(4)?);
        found.insert(row.get(0)?, Fields { plan, status, stripe_customer_id, display_name });
    }
    Ok(found)
}

async fn decide(c: &Connection, mut customers: Vec<NewCustomer>) -> Result<Decided, CustomerError> {
    let stored = stored(c, customers.iter().map(|new| new.id.as_str())).await?;
    customers.iter_mut().filter(|new| !stored.contains_key(&new.id)).for_each(NewCustomer::choose_plan);
    let moved = customers.iter().filter_map(|new| Some((new.id.clone(), new.stripe_customer_id.clone()?)));
    check(c, &customers, &moved.collect()).await?;
    let mut decided = Decided::default();
    for new in customers {
        let Some(fields) = stored.get(&new.id) else {
            decided.update.added.push(new.id.clone());
            decided.new.push(new);
            continue;
        };
        let (customer, change) = (new.id.clone(), CustomerChange::from(new));
        let becomes = fields.with(&change);
        let changes = fields.changes(&becomes);
        if changes.is_empty() {
            decided.update.unchanged += 1;
        } else {
            decided.update.changed.push(ChangedCustomer { customer: customer.clone(), changes });
            decided.rows.push((customer, becomes));
        }
    }
    let wanted: BTreeSet<&str> = decided.rows.iter().filter_map(|(_, f)| f.stripe_customer_id.as_deref()).collect();
    let gives_up = |(id, becomes): &&(String, Fields)| {
        let had = stored.get(id).and_then(|fields| fields.stripe_customer_id.as_deref());
        had != becomes.stripe_customer_id.as_deref() && had.is_some_and(|had| wanted.contains(had))
    };
    decided.give_up = decided.rows.iter().filter(gives_up).map(|(id, _)| id.clone()).collect();
    Ok(decided)
}

/// ?1 is a JSON array of [id, plan, status, Stripe id, display name], ?2 who sets a new plan.
const CHANGE: &str = "UPDATE customers SET plan_set_by = iif(plan = j.value ->> 1, plan_set_by, ?2), \
      plan = j.value ->> 1, status = j.value ->> 2, stripe_customer_id = j.value ->> 3, display_name = j.value ->> 4 \
    FROM json_each(?1) j WHERE customers.id = j.value ->> 0";
const GIVE_UP: &str = "UPDATE customers SET stripe_customer_id = NULL WHERE id IN (SELECT value FROM json_each(?1))";
/// ?3 is a JSON array of [target, reason].
const LOG: &str = "INSERT INTO audit_log (at, actor, action, target, reason) \
    SELECT ?1, ?2, ?4, value ->> 0, value ->> 1 FROM json_each(?3) WHERE true";

async fn apply(c: &Connection, decided: &Decided, by: &ByHand, now: Timestamp) -> Result<(), BooksError> {
    if !decided.give_up.is_empty() {
        c.execute(GIVE_UP, params![json(&decided.give_up)?]).await?;
    }
    if !decided.rows.is_empty() {
        let row = |(id, f): &'_ (String, Fields)| {
            let Fields { plan, status, stripe_customer_id, display_name } = f.clone();
            (id.clone(), plan, status, stripe_customer_id, display_name)
        };
        let rows = json(&decided.rows.iter().map(row).collect::<Vec<_>>())?;
        c.execute(CHANGE, params![rows, by.actor.clone()]).await?;
        let entry = |changed: &ChangedCustomer| {
            let said = changed.changes.iter().map(ChangedField::logged).collect::<Vec<_>>().join(", ");
            let why = by.reason.as_ref().map_or(String::new(), |why| format!("; {why}"));
            (format!("customer {}", changed.customer), said + &why)
        };
        let entries = json(&decided.update.changed.iter().map(entry).collect::<Vec<_>>())?;
        c.execute(LOG, params![now.as_second(), by.actor.clone(), entries, by.action]).await?;
    }
    if !decided.new.is_empty() {
        c.execute(ADD, params![new_rows(&decided.new)?]).await?;
    }
    Ok(())
}
