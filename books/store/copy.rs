//! A copy of whole books in another database: from a file to a server, and back.
//!
//! The copy is whole or not at all. It begins with a row in `schema_versions` that no build
//! accepts. That row goes when every table was read again on both sides and found to be the same,
//! so no command uses a copy that was interrupted or that differs. Triggers are created after the
//! rows, because they fired in the source already.
//!
//! Rows are written in short transactions and read in short steps, so nothing keeps the source from
//! changing meanwhile. The second reading shows a change: each table is read for the first time
//! before any is read for the second time, so between the two every table was as it was copied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::connection::{Connection, Value, params, size};
use super::database::Database;
use super::error::BooksError;
use super::migrations::UNFINISHED;
use super::pace::Pace;
use super::rows::first_row;

/// Rows of a writing transaction.
const ROWS: Pace = Pace::new(100, 20_000);
/// Rows of the first reading of a table, and about how many bytes a later one has. A server's
/// answer may have ten million.
const FIRST_ROWS: usize = 100;
const BYTES: usize = 1 << 20;
/// Rows and parameters of a statement (SQLite allows 32,766 parameters).
const STATEMENT_ROWS: usize = 100;
const STATEMENT_PARAMS: usize = 30_000;
/// An error that may pass is retried so often; the first wait is this long, each next one twice.
const TRIES: usize = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Why books are not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("it is not empty: it has {0} tables, indexes, views and triggers. Name a new file, or make a new database")]
    NotEmpty(usize),
    #[error(
        "{0} of the source changed while it was copied. Stop everything that writes there: workers, commands, the web \
         backend. Then copy again, into an empty database"
    )]
    Changed(String),
    #[error("{0} of the copy is not the same as in the source. Copy again, into an empty database")]
    Differs(String),
    #[error("table {0}: {1}")]
    Table(String, BooksError),
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// A table that was copied.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CopiedTable {
    pub table: String,
    pub rows: u64,
    /// SHA-256 of all rows in the order of their keys.
    pub digest: String,
}

/// An entry of `sqlite_schema`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Object {
    kind: String,
    name: String,
    sql: String,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// JSON may change the last digit of a float, so the database writes and reads it as text.
    float: bool,
    text: bool,
}

#[derive(Clone, Debug)]
struct Table {
    name: String,
    columns: Vec<Column>,
    /// Places in `columns` of the primary key, or of the rowid.
    key: Vec<usize>,
}

/// A copy that is being made.
#[derive(Debug)]
pub struct BooksCopy {
    source: Database,
    target: Database,
    layout: Vec<Object>,
    tables: Vec<Table>,
    rows: u64,
    copied: Vec<CopiedTable>,
}

impl BooksCopy {
    /// Makes the tables of `source`, without rows, in `target`, and marks it as unfinished.
    ///
    /// # Errors
    /// [`CopyError::NotEmpty`], and [`BooksError::UnfinishedCopy`] for a target that is one.
    pub async fn begin(source: &Database, target: &Database, now: Timestamp) -> Result<Self, CopyError> {
        let (layout, tables, rows) = source
            .with_connection(async |c| {
                let (layout, tables) = (layout(c).await?, tables(c).await?);
                let rows = count(c, &tables).await?;
                Ok((layout, tables, rows))
            })
            .await?;
        let create: Vec<Object> =
            layout.iter().filter(|o| matches!(o.kind.as_str(), "table" | "index")).cloned().collect();
        let begun = target.transaction_with(async move |c| {
            let there = self::layout(c).await?;
            if !there.is_empty() {
                return Err(CopyError::NotEmpty(there.len()));
            }
            create_all(c, &create).await?;
            let mark = "INSERT INTO schema_versions (version, name, checksum, applied_at) VALUES (?1, ?2, '', ?3)";
            c.execute(mark, params![UNFINISHED, format!("unfinished copy, begun {now:.0}"), now.to_string()]).await?;
            Ok(())
        });
        if let Err(error) = begun.await {
            let known = matches!(error, CopyError::NotEmpty(_));
            return match target.schema_version().await {
                Err(unfinished @ BooksError::UnfinishedCopy(_)) if known => Err(unfinished.into()),
                _ => Err(error),
            };
        }
        Ok(Self { source: source.clone(), target: target.clone(), layout, tables, rows, copied: vec![] })
    }

    /// Rows that [`Self::fill`] and [`Self::compare`] read and count in `done`.
    pub fn rows_to_read(&self) -> u64 {
        self.rows * 3
    }

    /// Copies all rows, and then creates views and triggers.
    pub async fn fill(&mut self, done: &AtomicU64) -> Result<(), CopyError> {
        let mut pace = ROWS;
        for table in &self.tables {
            let named = |error| CopyError::Table(table.name.clone(), error);
            if table.name == SEQUENCES {
                // the rows that were copied made some already
                again(|| self.target.with_connection(async |c| c.execute("DELETE FROM sqlite_sequence", ()).await))
                    .await?;
            }
            let mut reader = Reader::new(&self.source, table);
            loop {
                let rows = reader.next(done).await.map_err(named)?;
                if rows.is_empty() {
                    break;
                }
                write(&self.target, table, rows, &mut pace).await.map_err(named)?;
            }
            self.copied.push(reader.finish());
        }
        let layout = self.layout.clone();
        again(|| {
            let wanted = layout.clone();
            self.target.transaction(async move |c| {
                let there = self::layout(c).await?;
                let missing: Vec<Object> = wanted.into_iter().filter(|object| !there.contains(object)).collect();
                create_all(c, &missing).await
            })
        })
        .await?;
        Ok(())
    }

    /// Reads every row of both sides.
    ///
    /// # Errors
    /// [`CopyError::Changed`] and [`CopyError::Differs`].
    pub async fn compare(&self, done: &AtomicU64) -> Result<(), CopyError> {
        for (table, copied) in self.tables.iter().zip(&self.copied) {
            let named = |error| CopyError::Table(table.name.clone(), error);
            let (source, target) = (digest(&self.source, table, done), digest(&self.target, table, done));
            let (source, target) = tokio::try_join!(source, target).map_err(named)?;
            if source != *copied {
                return Err(CopyError::Changed(format!("table {}", table.name)));
            }
            if target != *copied {
                return Err(CopyError::Differs(format!("table {}", table.name)));
            }
        }
        let sorted = |mut objects: Vec<Object>| {
            objects.sort();
            objects
        };
        let expected = sorted(self.layout.clone());
        let read = |database: &Database| {
            let database = database.clone();
            again(move || {
                let database = database.clone();
                async move { database.with_connection(async |c| layout(c).await).await }
            })
        };
        let (source, target) = tokio::try_join!(read(&self.source), read(&self.target))?;
        if sorted(source) != expected {
            return Err(CopyError::Changed("the schema".into()));
        }
        if sorted(target) != expected {
            return Err(CopyError::Differs("the schema".into()));
        }
        Ok(())
    }

    /// Makes the copy usable.
    pub async fn finish(self) -> Result<Vec<CopiedTable>, CopyError> {
        let target = self.target;
        again(|| {
            target.with_connection(async |c| {
                c.execute("DELETE FROM schema_versions WHERE version = ?1", params![UNFINISHED]).await
            })
        })
        .await?;
        // it is whole now, whatever happens
        drop(target.checkpoint().await);
        Ok(self.copied)
    }
}

/// What SQLite knows of AUTOINCREMENT.
const SEQUENCES: &str = "sqlite_sequence";

/// The objects of a database, in the order in which they were made.
async fn layout(c: &Connection) -> Result<Vec<Object>, BooksError> {
    let sql = "SELECT type, name, sql FROM sqlite_schema \
               WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' AND name NOT LIKE 'libsql_%' \
               ORDER BY type = 'trigger', type = 'view', type = 'index', rowid";
    let (mut rows, mut found) = (c.query(sql, ()).await?, vec![]);
    while let Some(row) = rows.next().await? {
        found.push(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? });
    }
    Ok(found)
}

/// The tables with their columns; a table comes after those that it refers to.
async fn tables(c: &Connection) -> Result<Vec<Table>, BooksError> {
    let sql = "SELECT t.name, t.wr, c.name, c.type, c.pk FROM pragma_table_list t JOIN pragma_table_xinfo(t.name) c \
               WHERE t.schema = 'main' AND t.type = 'table' AND c.hidden = 0 \
                 AND (t.name = 'sqlite_sequence' OR t.name NOT LIKE 'sqlite_%' AND t.name NOT LIKE 'libsql_%') \
               ORDER BY t.name, c.cid";
    let (mut rows, mut described) = (c.query(sql, ()).await?, BTreeMap::<String, Vec<_>>::new());
    while let Some(row) = rows.next().await? {
        let column: (bool, String, String, i64) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        described.entry(row.get(0)?).or_default().push(column);
    }
    let sql = "SELECT t.name, f.\"table\" FROM pragma_table_list t JOIN pragma_foreign_key_list(t.name) f \
               WHERE t.schema = 'main' AND f.\"table\" <> t.name";
    let (mut rows, mut refers) = (c.query(sql, ()).await?, BTreeMap::<String, BTreeSet<String>>::new());
    while let Some(row) = rows.next().await? {
        refers.entry(row.get(0)?).or_default().insert(row.get(1)?);
    }
    let mut rest: Vec<Table> = described.into_iter().map(|(name, columns)| table(name, columns)).collect();
    let mut ordered: Vec<Table> = vec![];
    let sequences = rest.extract_if(.., |table| table.name == SEQUENCES).next();
    while !rest.is_empty() {
        let waits: BTreeSet<String> = rest.iter().map(|table| table.name.clone()).collect();
        let ready = |table: &mut Table| refers.get(&table.name).is_none_or(|to| to.is_disjoint(&waits));
        let next: Vec<Table> = rest.extract_if(.., ready).collect();
        if next.is_empty() {
            return Err(BooksError::Integrity(format!("the tables {waits:?} refer to each other in a circle")));
        }
        ordered.extend(next);
    }
    ordered.extend(sequences);
    Ok(ordered)
}

/// `columns`: whether the table is WITHOUT ROWID, name, type, and place in the primary key.
fn table(name: String, described: Vec<(bool, String, String, i64)>) -> Table {
    let without_rowid = described.iter().any(|(wr, ..)| *wr);
    let mut key: Vec<(i64, usize)> =
        described.iter().enumerate().filter(|(_, (.., pk))| *pk > 0).map(|(i, (.., pk))| (*pk, i)).collect();
    key.sort_unstable();
    let is_rowid = matches!(key[..], [(_, i)] if described[i].2.eq_ignore_ascii_case("INTEGER"));
    let mut columns: Vec<Column> = described
        .into_iter()
        .map(|(_, name, kind, _)| {
            let is = |what: &str| kind.eq_ignore_ascii_case(what);
            Column { float: is("REAL"), text: is("TEXT"), name }
        })
        .collect();
    let mut key: Vec<usize> = key.into_iter().map(|(_, i)| i).collect();
    if !without_rowid && !is_rowid {
        // the order of the rows, and what SQLite answers without ORDER BY, stays the same
        key = vec![columns.len()];
        columns.push(Column { name: "rowid".into(), float: false, text: false });
    }
    Table { name, columns, key }
}

async fn count(c: &Connection, tables: &[Table]) -> Result<u64, BooksError> {
    let counts: Vec<String> = tables.iter().map(|t| format!("(SELECT count(*) FROM \"{}\")", t.name)).collect();
    let row = first_row(c, &format!("SELECT {}", counts.join(" + ")), ()).await?;
    row.map_or(Ok(0), |row| row.get(0))
}

async fn create_all(c: &Connection, objects: &[Object]) -> Result<(), BooksError> {
    c.batch(objects.iter().map(|object| (object.sql.as_str(), vec![])).collect()).await.map(drop)
}

/// Reads a table in the order of its key, and computes its digest.
struct Reader<'a> {
    database: &'a Database,
    table: &'a Table,
    /// The key of the last row.
    after: Vec<Value>,
    limit: usize,
    /// Nothing comes after the last row.
    ended: bool,
    rows: u64,
    hash: Sha256,
}

impl<'a> Reader<'a> {
    fn new(database: &'a Database, table: &'a Table) -> Self {
        // the mark of an unfinished copy is no row of the source
        let after = if table.name == "schema_versions" { vec![Value::Integer(UNFINISHED)] } else { vec![] };
        Self { database, table, after, limit: FIRST_ROWS, ended: false, rows: 0, hash: Sha256::new() }
    }

    /// The next rows; none at the end.
    async fn next(&mut self, done: &AtomicU64) -> Result<Vec<Vec<Value>>, BooksError> {
        if self.ended {
            return Ok(vec![]);
        }
        let (rows, bytes) = loop {
            match again(|| self.read()).await {
                Err(BooksError::TooLarge(_)) if self.limit > 1 => self.limit = (self.limit / 8).max(1),
                read => break read?,
            }
        };
        self.ended = rows.len() < self.limit;
        let enough = self.limit.saturating_mul(BYTES) / bytes.max(1);
        self.limit = enough.clamp(1, self.limit.saturating_mul(4)).min(20_000);
        if let Some(last) = rows.last() {
            self.after = self.table.key.iter().map(|i| last[*i].clone()).collect();
        }
        for row in &rows {
            row.iter().for_each(|value| digest_value(&mut self.hash, value));
        }
        let read = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        self.rows += read;
        done.fetch_add(read, Relaxed);
        Ok(rows)
    }

    /// The rows after the last one, and their bytes.
    async fn read(&self) -> Result<(Vec<Vec<Value>>, usize), BooksError> {
        let quoted = |column: &Column| format!("\"{}\"", column.name);
        let local = self.database.is_local();
        let selected = |column: &Column| match quoted(column) {
            // `quote` writes as many digits as it takes
            name if column.float => format!("iif({name} IS NULL, NULL, quote({name}))"),
            // libsql ends a text of a file at its first NUL
            name if column.text && local => format!("CAST({name} AS BLOB)"),
            name => name,
        };
        let texts: Vec<bool> = self.table.columns.iter().map(|column| column.text && local).collect();
        let columns: Vec<String> = self.table.columns.iter().map(selected).collect();
        let key: Vec<String> = self.table.key.iter().map(|i| quoted(&self.table.columns[*i])).collect();
        let (columns, key, name) = (columns.join(", "), key.join(", "), &self.table.name);
        let places = vec!["?"; self.after.len()].join(", ");
        let after = if self.after.is_empty() { String::new() } else { format!("WHERE ({key}) > ({places})") };
        let sql = format!("SELECT {columns} FROM \"{name}\" {after} ORDER BY {key} LIMIT {}", self.limit);
        let values = self.after.clone();
        self.database
            .with_connection(async move |c| {
                let (mut rows, mut found, mut bytes) = (c.query(&sql, values).await?, vec![], 0);
                while let Some(row) = rows.next().await? {
                    let values = (0..row.column_count()).zip(&texts).map(|(i, is_text)| match row.get_value(i)? {
                        Value::Blob(bytes) if *is_text => text(bytes),
                        value => Ok(value),
                    });
                    let values = values.collect::<Result<Vec<_>, BooksError>>()?;
                    bytes += values.iter().map(size).sum::<usize>();
                    found.push(values);
                }
                Ok((found, bytes))
            })
            .await
    }

    fn finish(self) -> CopiedTable {
        let digest = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        CopiedTable { table: self.table.name.clone(), rows: self.rows, digest }
    }
}

fn text(bytes: Vec<u8>) -> Result<Value, BooksError> {
    let is_none = |_| BooksError::Integrity("a text that is not UTF-8 cannot be copied".into());
    String::from_utf8(bytes).map(Value::Text).map_err(is_none)
}

async fn digest(database: &Database, table: &Table, done: &AtomicU64) -> Result<CopiedTable, BooksError> {
    let mut reader = Reader::new(database, table);
    while !reader.next(done).await?.is_empty() {}
    Ok(reader.finish())
}

/// Each value with its type and length, so that no two rows have the same bytes.
fn digest_value(hash: &mut Sha256, value: &Value) {
    let mut add = |kind: u8, bytes: &[u8]| {
        hash.update([kind]);
        hash.update(bytes.len().to_be_bytes());
        hash.update(bytes);
    };
    match value {
        Value::Null => add(b'n', &[]),
        Value::Integer(n) => add(b'i', &n.to_be_bytes()),
        Value::Real(x) => add(b'r', &x.to_be_bytes()),
        Value::Text(text) => add(b't', text.as_bytes()),
        Value::Blob(bytes) => add(b'b', bytes),
    }
}

/// Writes rows; those that are there already, from a try whose answer was lost, stay.
async fn write(target: &Database, table: &Table, rows: Vec<Vec<Value>>, pace: &mut Pace) -> Result<(), BooksError> {
    let columns: Vec<String> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
    let places = format!("({})", vec!["?"; columns.len()].join(", "));
    let (name, columns) = (&table.name, columns.join(", "));
    let insert = |rows: usize| {
        let places = vec![places.as_str(); rows].join(", ");
        format!("INSERT INTO \"{name}\" ({columns}) VALUES {places} ON CONFLICT DO NOTHING")
    };
    let at_once = (STATEMENT_PARAMS / table.columns.len().max(1)).clamp(1, STATEMENT_ROWS);
    let mut rest = &rows[..];
    while !rest.is_empty() {
        let some = pace.take(&mut rest);
        let start = Instant::now();
        again(|| {
            let statements: Vec<(String, Vec<Value>)> =
                some.chunks(at_once).map(|rows| (insert(rows.len()), rows.concat())).collect();
            target.transaction(async move |c| {
                let statements = statements.iter().map(|(sql, values)| (sql.as_str(), values.clone()));
                c.batch(statements.collect()).await.map(drop)
            })
        })
        .await?;
        pace.learn(some.len(), start);
    }
    Ok(())
}

/// Repeats a step that changes nothing more when it is repeated.
async fn again<T, F>(step: impl FnMut() -> F) -> Result<T, BooksError>
where
    F: Future<Output = Result<T, BooksError>>,
{
    let waits = ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_times(TRIES);
    step.retry(waits).when(BooksError::is_retryable).await
}
