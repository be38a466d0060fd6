//! Erasing a customer: the personal data goes, and the history stays under a pseudonym.
//!
//! The id is the value of a tag, and a product may choose it: it is personal data. So a random
//! pseudonym stands in its place in every table. Nothing else of a row changes, so all sums and
//! proofs stay what they were. What law demands of books stays: usage, amounts, and the Stripe ids
//! of what was billed.
//!
//! Tables with a column `customer` are found in the schema, so one that a later migration adds is
//! erased, too. Texts that people or programs wrote are listed in `TEXTS`; there the id is
//! replaced wherever it stands as a word.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::erasable::{in_the_way, tables_of_customers};
use crate::store::audit_log::{AuditEntry, record};
use crate::store::connection::{Connection, Value, params};
use crate::store::database::Database;
use crate::store::erased::{ERASURE_KEY, ErasedIds, digest};
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::store::settings;

/// What stands in the place of a personal word that is no id.
const GONE: &str = "(erased)";

/// What an erasure did.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Erasure {
    pub pseudonym: String,
    /// Rows of each table that have the pseudonym now.
    pub rows: Vec<ErasedRows>,
    /// The customers at Stripe that it is or was.
    pub stripe_customers: Vec<String>,
    /// Whether their ids stay in the books, with what was billed.
    pub was_billed: bool,
}

/// Rows of a table that an erasure changes.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct ErasedRows {
    pub table: String,
    pub rows: u64,
}

/// Why a customer is not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("there is no such customer; `meter customer list` shows all")]
    Unknown,
    /// It has this pseudonym.
    #[error("it was erased already, and its history is under {0}")]
    Already(String),
    /// What is to be done first.
    #[error("{}", .0.join("\n"))]
    Lives(Vec<String>),
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// Texts that may name a customer. `rows` says which: of one customer, or all.
struct Texts {
    table: &'static str,
    key: &'static str,
    column: &'static str,
    rows: &'static str,
}

const OF_CUSTOMER: &str = "customer = ?2";

const TEXTS: [Texts; 19] = [
    Texts { table: "notifications", key: "seq", column: "body", rows: OF_CUSTOMER },
    Texts { table: "notifications", key: "seq", column: "error", rows: OF_CUSTOMER },
    Texts { table: "operator_messages", key: "seq", column: "body", rows: "true" },
    Texts { table: "findings", key: "seq", column: "what", rows: "true" },
    Texts { table: "meter_events", key: "seq", column: "error", rows: OF_CUSTOMER },
    Texts { table: "jobs", key: "seq", column: "reason", rows: "true" },
    Texts { table: "jobs", key: "seq", column: "report", rows: "finished_at IS NOT NULL" },
    // what a waiting job is to do stays; no kind names a customer there
    Texts { table: "jobs", key: "seq", column: "payload", rows: "finished_at IS NOT NULL" },
    Texts { table: "bill_versions", key: "id", column: "notes", rows: "true" },
    Texts { table: "bill_versions", key: "id", column: "hold_reason", rows: "true" },
    Texts { table: "bill_versions", key: "id", column: "accepted", rows: "true" },
    Texts { table: "measured_accuracy", key: "meter", column: "found", rows: "true" },
    Texts { table: "unusual_days", key: "meter", column: "found", rows: "true" },
    Texts { table: "stripe_error_reports", key: "id", column: "body", rows: "true" },
    Texts { table: "stripe_error_reports", key: "id", column: "outcome", rows: "true" },
    Texts { table: "audit_log", key: "seq", column: "target", rows: "true" },
    Texts { table: "audit_log", key: "seq", column: "reason", rows: "true" },
    Texts { table: "applied_plans", key: "number", column: "reason", rows: "true" },
    Texts { table: "reverted_plans", key: "plan", column: "reason", rows: "true" },
];

/// A word that goes, and what comes in its place.
#[derive(Clone, Debug)]
struct Replaced {
    word: String,
    by: String,
}

impl Replaced {
    /// The word as it is, and as JSON writes it.
    fn spellings(&self) -> Vec<String> {
        let json = serde_json::to_string(&self.word).unwrap_or_default();
        let json = json.trim_matches('"').to_owned();
        if json == self.word { vec![json] } else { vec![self.word.clone(), json] }
    }

    /// The text with the word replaced wherever it is not a part of a longer one. Pure.
    fn in_text(&self, text: &str) -> String {
        self.spellings().iter().fold(text.to_owned(), |text, word| replaced(&text, word, &self.by))
    }
}

/// `ann` is no word of `ann-2`, `joann` and `ann.smith`; it is one of `u/ann/1` and `for ann.`
fn is_of_a_longer_word(before: Option<char>, after: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '@' | '+');
    let mut next = after.chars();
    let after = match next.next() {
        Some('.') => next.next().is_some_and(joins),
        Some(c) => joins(c),
        None => false,
    };
    after || before.is_some_and(|c| joins(c) || c == '.')
}

fn replaced(text: &str, word: &str, by: &str) -> String {
    let (mut done, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(word) {
        let (before, from) = rest.split_at(at);
        let after = from.get(word.len()..).unwrap_or_default();
        let ends = before.chars().next_back().or(done.chars().next_back());
        done += before;
        done += if is_of_a_longer_word(ends, after) { word } else { by };
        rest = after;
    }
    done + rest
}

impl Database {
    /// How many rows of each table an erasure would change. `grace` is how long after the end of a
    /// billing period its invoice is final.
    ///
    /// # Errors
    /// As [`Database::erase_customer`].
    pub async fn erasable(&self, id: &str, grace: Duration, now: Timestamp) -> Result<Vec<ErasedRows>, EraseError> {
        let id = id.to_owned();
        let read = self.with_connection(async move |c| {
            if let Err(error) = require_erasable(c, &id, grace, now).await {
                return Ok(Err(error));
            }
            let mut found = vec![];
            for table in tables_of_customers(c).await? {
                let sql = format!("SELECT count(*) FROM {table} WHERE customer = ?1");
                let rows = first_row(c, &sql, params![id.clone()]).await?.map_or(Ok(0), |row| row.get(0))?;
                found.push(ErasedRows { table, rows });
            }
            found.retain(|found| found.rows > 0);
            Ok(Ok(found))
        });
        read.await?
    }

    /// Erases a customer, in one transaction. The target of `entry` becomes the pseudonym.
    ///
    /// # Errors
    /// [`EraseError::Lives`] while something of the customer goes on, [`EraseError::Already`] for
    /// an id that was erased.
    pub async fn erase_customer(
        &self,
        id: &str,
        grace: Duration,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<Erasure, EraseError> {
        let id = id.to_owned();
        if self.is_local() {
            // what is written over leaves no bytes in the file
            let secure = async |c: &Connection| first_row(c, "PRAGMA secure_delete = ON", ()).await.map(drop);
            self.with_connection(secure).await?;
        }
        let done = self.transaction_with(async move |c| {
            require_erasable(c, &id, grace, now).await?;
            Ok::<_, EraseError>(erase(c, &id, entry, now).await?)
        });
        let done = done.await?;
        self.checkpoint().await?;
        Ok(done)
    }
}

async fn require_erasable(c: &Connection, id: &str, grace: Duration, now: Timestamp) -> Result<(), EraseError> {
    if let Some(pseudonym) = ErasedIds::load(c).await?.pseudonym(id) {
        return Err(EraseError::Already(pseudonym.to_owned()));
    }
    if first_row(c, "SELECT 1 FROM customers WHERE id = ?1", params![id]).await?.is_none() {
        return Err(EraseError::Unknown);
    }
    let found = in_the_way(c, id, grace, now).await?;
    if found.is_empty() { Ok(()) } else { Err(EraseError::Lives(found)) }
}

async fn erase(c: &Connection, id: &str, entry: AuditEntry, now: Timestamp) -> Result<Erasure, BooksError> {
    let now = now.as_second();
    let pseudonym = remember(c, id, now).await?;
    let both = || params![id, pseudonym.clone()];
    let Personal { words, stripe_customers, was_billed } = personal(c, id, &pseudonym).await?;
    let sql = "UPDATE customers SET stripe_customer_id = NULL, stripe_subscription_id = NULL, instance_id = NULL, \
                 display_name = NULL, plan_set_by = iif(plan_set_by = ?1, ?2, plan_set_by) WHERE id = ?1";
    c.execute(sql, both()).await?;
    c.execute("INSERT INTO erasing (customer, pseudonym) VALUES (?1, ?2)", both()).await?;
    if !was_billed {
        c.execute("DELETE FROM stripe_customers WHERE customer = ?1", params![id]).await?;
    }
    rewrite_texts(c, id, &words).await?;
    // an object's key may hold a file's name; nothing reads the id any more
    let sql = "UPDATE measurements SET id = 'erased-' || lower(hex(randomblob(16))) WHERE customer = ?1";
    c.execute(sql, params![id]).await?;
    let mut rows = vec![];
    for table in tables_of_customers(c).await? {
        let sql = match table.as_str() {
            // who set a plan or a budget may be the customer
            "customer_plans" | "overage_budgets" | "overage_budget_changes" => {
                format!("UPDATE {table} SET customer = ?2, set_by = iif(set_by = ?1, ?2, set_by) WHERE customer = ?1")
            }
            _ => format!("UPDATE {table} SET customer = ?2 WHERE customer = ?1"),
        };
        rows.push(ErasedRows { rows: c.execute(&sql, both()).await?, table });
    }
    c.execute("UPDATE customers SET id = ?2 WHERE id = ?1", both()).await?;
    // triggers above made both of them due
    for due in ["stripe_due", "enforcement_due"] {
        c.execute(&format!("DELETE FROM {due} WHERE customer = ?1"), params![id]).await?;
        let sql = format!(
            "INSERT INTO {due} (customer, due_at) VALUES (?1, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0"
        );
        c.execute(&sql, params![pseudonym.clone()]).await?;
    }
    c.execute("DELETE FROM erasing", ()).await?;
    let reason = words.iter().fold(entry.reason.clone(), |text, word| word.in_text(&text));
    record(c, &AuditEntry { target: format!("customer {pseudonym}"), reason, ..entry }, now).await?;
    rows.retain(|changed| changed.rows > 0);
    Ok(Erasure { pseudonym, rows, stripe_customers, was_billed })
}

/// Makes a pseudonym, and keeps the digest by which bills find it.
async fn remember(c: &Connection, id: &str, now: i64) -> Result<String, BooksError> {
    let sql = "SELECT 'erased-' || lower(hex(randomblob(8))), lower(hex(randomblob(32)))";
    let row = first_row(c, sql, ()).await?.ok_or_else(|| BooksError::Integrity("no random number".into()))?;
    let (pseudonym, new_key): (String, String) = (row.get(0)?, row.get(1)?);
    let key = match settings::get(c, ERASURE_KEY).await? {
        Some(key) => key,
        None => {
            settings::put(c, ERASURE_KEY, &new_key).await?;
            new_key
        }
    };
    let sql = "INSERT INTO erased_customers (digest, pseudonym, erased_at) VALUES (?1, ?2, ?3)";
    c.execute(sql, params![digest(&key, id), pseudonym.clone(), now]).await?;
    Ok(pseudonym)
}

/// What is personal of a customer, beside the id in columns.
struct Personal {
    /// The id comes first.
    words: Vec<Replaced>,
    stripe_customers: Vec<String>,
    /// Stripe's ids of what was billed stay: they lead to the invoices, which law keeps.
    was_billed: bool,
}

async fn personal(c: &Connection, id: &str, pseudonym: &str) -> Result<Personal, BooksError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM meter_events WHERE customer = ?1) \
                   OR EXISTS (SELECT 1 FROM subscriptions WHERE customer = ?1), \
                      (SELECT display_name FROM customers WHERE id = ?1)";
    let (row, mut rows) = tokio::try_join!(
        first_row(c, sql, params![id]),
        c.query("SELECT DISTINCT stripe_customer FROM stripe_customers WHERE customer = ?1", params![id])
    )?;
    let mut stripe_customers: Vec<String> = vec![];
    while let Some(row) = rows.next().await? {
        stripe_customers.push(row.get(0)?);
    }
    let row = row.ok_or_else(|| BooksError::Integrity("a query of one row found none".into()))?;
    let was_billed = row.get::<i64>(0)? == 1;
    let gone = |word: String| Replaced { word, by: GONE.to_owned() };
    let mut words = vec![Replaced { word: id.to_owned(), by: pseudonym.to_owned() }];
    words.extend(row.get::<Option<String>>(1)?.map(gone));
    if !was_billed {
        words.extend(stripe_customers.iter().cloned().map(gone));
    }
    Ok(Personal { words, stripe_customers, was_billed })
}

/// Replaces the id in [`TEXTS`], and the other words in what people did to this customer.
async fn rewrite_texts(c: &Connection, id: &str, words: &[Replaced]) -> Result<(), BooksError> {
    let all = |text: &str| words.iter().fold(text.to_owned(), |text, word| word.in_text(&text));
    let sql = "SELECT seq, reason FROM audit_log WHERE target = 'customer ' || ?1";
    for (seq, reason) in texts(c, sql, vec![id.into()]).await? {
        let sql = "UPDATE audit_log SET reason = ?1 WHERE seq = ?2";
        c.execute(sql, vec![all(&reason).into(), seq]).await?;
    }
    // a trigger lets the text of this table change with the customer alone
    let sql = "SELECT seq, reason FROM acknowledgements WHERE customer = ?1";
    for (seq, reason) in texts(c, sql, vec![id.into()]).await? {
        let sql = "UPDATE acknowledgements SET reason = ?1, customer = (SELECT pseudonym FROM erasing) WHERE seq = ?2";
        c.execute(sql, vec![all(&reason).into(), seq]).await?;
    }
    let Some(own) = words.first() else { return Ok(()) };
    for Texts { table, key, column, rows } in TEXTS {
        for word in own.spellings() {
            let sql =
                format!("SELECT {key}, {column} FROM {table} WHERE instr({column}, ?1) > 0 AND {rows} AND ?2 <> ''");
            let sql_of_row = format!("UPDATE {table} SET {column} = ?1 WHERE {key} = ?2");
            for (at, text) in texts(c, &sql, vec![word.into(), id.into()]).await? {
                let new = own.in_text(&text);
                if new != text {
                    c.execute(&sql_of_row, vec![new.into(), at]).await?;
                }
            }
        }
    }
    Ok(())
}

/// Reads keys and texts.
async fn texts(c: &Connection, sql: &str, values: Vec<Value>) -> Result<Vec<(Value, String)>, BooksError> {
    let mut rows = c.query(sql, values).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push((row.get_value(0)?, row.get(1)?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_replaced_where_it_stands_as_a_word() {
        for (word, text, expected) in [
            ("ann", "customer ann: ann.", "customer X: X."),
            ("ann", "ann-2 joann ann.smith @ann a.ann ann_1", "ann-2 joann ann.smith @ann a.ann ann_1"),
            ("ann", "u/ann/file, (ann) \"ann\"", "u/X/file, (X) \"X\""),
            ("ann", "annann ann", "annann X"),
            ("a\"b", r#"{"customer":"a\"b","was":"a"}"#, r#"{"customer":"X","was":"a"}"#),
            ("ann@example.com", "<ann@example.com>", "<X>"),
            ("é", "é éa", "X éa"),
        ] {
            let own = Replaced { word: word.to_owned(), by: "X".to_owned() };
            assert_eq!(own.in_text(text), expected, "{word} in {text}");
        }
    }
}
