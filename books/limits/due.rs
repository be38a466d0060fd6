//! Who is to be decided, and when: `enforcement_due`.
//!
//! Triggers make a customer due at once, when something changes that decides. A run *takes* those
//! that are due before it reads anything about them, decides, and then stores the instant at which
//! the decision changes by time alone. A customer who becomes due in between stays due, because
//! only the value that the run knows is replaced; a run that dies leaves them due 20 seconds later.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::store::connection::{Connection, Rows, Value, params};
use crate::store::error::BooksError;
use crate::store::rows::json;

/// The earliest instant at which somebody is due, in seconds. Inside of another query libSQL reads
/// the whole table for `min`.
pub const EARLIEST: &str = "SELECT due_at AS at FROM enforcement_due ORDER BY due_at LIMIT 1";

/// Nothing is known that will change the decision.
pub const NEVER: i64 = 99_999_999_999;

/// For how many seconds a run has those that it took. A page takes a few; one that takes longer is
/// decided twice, which changes nothing.
const LEASE: i64 = 20;

/// When a customer is to be decided next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NextDecision {
    pub customer: String,
    /// What was stored, when the run took the customer.
    pub taken: i64,
    /// In seconds.
    pub due_at: i64,
}

/// Takes up to `limit` customers that are due at `now`, the first ones first, as page number `page`
/// of a run. A repeat after a lost reply finds the same ones.
pub async fn take(c: &Connection, now: i64, page: i64, limit: u32) -> Result<Taken, BooksError> {
    let until = Value::from(now + LEASE + page);
    let take = "UPDATE enforcement_due SET due_at = ?2 WHERE customer IN \
                (SELECT customer FROM enforcement_due WHERE due_at <= ?1 ORDER BY due_at LIMIT ?3)";
    let taken = "SELECT customer, due_at FROM enforcement_due WHERE due_at = ?1";
    let take = (take, vec![now.into(), until.clone(), limit.into()]);
    let mut answers = c.batch(vec![take, (taken, vec![until])]).await?.into_iter();
    let stored = all(answers.nth(1).unwrap_or_default()).await?;
    Ok(Taken { due: stored.keys().cloned().collect(), stored })
}

/// Gives back those that a run took and has not decided.
pub async fn give_back(c: &Connection, taken: &Taken) -> Result<(), BooksError> {
    let rows: Vec<(&String, Option<&i64>)> = taken.due.iter().map(|id| (id, taken.stored.get(id))).collect();
    let sql = "UPDATE enforcement_due SET due_at = 0 FROM json_each(?1) j \
               WHERE customer = j.value ->> 0 AND due_at = j.value ->> 1";
    c.execute(sql, params![json(&rows)?]).await.map(drop)
}

/// Takes those of `customers` that are due at `now`, with one request. A customer without a row
/// gets one that is never due, so that who looks at everybody finds that nothing had made it due.
pub async fn take_of(c: &Connection, customers: &[String], now: i64) -> Result<Taken, BooksError> {
    let ids = Value::from(json(customers)?);
    let sql = "UPDATE enforcement_due SET due_at = ?2 FROM json_each(?1) j WHERE customer = j.value AND due_at <= ?3 \
               RETURNING customer, due_at";
    let take = (sql, vec![ids.clone(), (now + LEASE).into(), now.into()]);
    let add = "INSERT INTO enforcement_due (customer, due_at) SELECT value, ?2 FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING";
    let add = (add, vec![ids.clone(), NEVER.into()]);
    let mut answers = c.batch(vec![add, take, (READ, vec![ids])]).await?.into_iter().skip(1);
    let due = all(answers.next().unwrap_or_default()).await?.into_keys().collect();
    Ok(Taken { stored: all(answers.next().unwrap_or_default()).await?, due })
}

const READ: &str = "SELECT customer, due_at FROM json_each(?1) j CROSS JOIN enforcement_due ON customer = j.value";

/// What is stored as the instants of customers.
pub async fn read(c: &Connection, customers: &[String]) -> Result<BTreeMap<String, i64>, BooksError> {
    all(c.query(READ, params![json(customers)?]).await?).await
}

/// Whether a customer with this instant waits for it: no run has taken the customer.
pub fn waits(due_at: i64, now: i64) -> bool {
    due_at > now + LEASE
}

/// A customer that a run took and has judged.
#[derive(Debug, Serialize)]
pub struct JudgedCustomer<'a> {
    pub customer: &'a str,
    /// What taking stored as the instant.
    pub taken: i64,
    /// The counts of the open TURN periods: most of them make nobody due.
    pub counted: i64,
}

/// Those about whom nothing that decides has changed since they were taken: it would have made them
/// due, and so would another run.
pub async fn unchanged(
    c: &Connection,
    judged: &[JudgedCustomer<'_>],
    now: i64,
) -> Result<BTreeSet<String>, BooksError> {
    let sql = "SELECT customer FROM json_each(?1) j CROSS JOIN enforcement_due d \
               ON customer = j.value ->> 'customer' AND due_at = j.value ->> 'taken' \
               WHERE j.value ->> 'counted' = (SELECT coalesce(sum(used), 0) FROM turn_periods t \
               WHERE t.customer = d.customer AND closed_at IS NULL AND ends_at > ?2)";
    let (mut rows, mut found) = (c.query(sql, params![json(&judged)?, now]).await?, BTreeSet::new());
    while let Some(row) = rows.next().await? {
        found.insert(row.get(0)?);
    }
    Ok(found)
}

/// Customers that a run took.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// What is stored as the instant of each.
    pub stored: BTreeMap<String, i64>,
    /// Those that were due.
    pub due: Vec<String>,
}

async fn all(mut rows: Rows) -> Result<BTreeMap<String, i64>, BooksError> {
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        found.insert(row.get(0)?, row.get(1)?);
    }
    Ok(found)
}

/// Stores when customers are due next. Where another run has stored something meanwhile, the
/// earlier instant stays: too early costs a look, too late a block.
pub(super) const NEXT: &str = "UPDATE enforcement_due SET due_at = iif(due_at = j.value ->> 'taken' AND due_at > 0, j.value ->> 'due_at', \
    min(due_at, j.value ->> 'due_at')) FROM json_each(?1) j WHERE customer = j.value ->> 'customer'";

/// Stores when customers are due next; see `NEXT`.
pub async fn store_next(c: &Connection, next: &[NextDecision]) -> Result<(), BooksError> {
    c.execute(NEXT, params![json(&next)?]).await.map(drop)
}

/// Makes everybody due who was decided by what was measured: a bill has settled days.
pub async fn make_measured_due(c: &Connection) -> Result<(), BooksError> {
    let sql = "UPDATE enforcement_due SET due_at = 0 WHERE due_at > 0 \
               AND customer IN (SELECT customer FROM entitlements WHERE used_measured <> 0)";
    c.execute(sql, ()).await.map(drop)
}
