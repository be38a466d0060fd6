//! A connection to the database, its rows and its values: one form for a local file and for a
//! server.
//!
//! On a server a statement costs a round trip. Statements that belong together are one `batch`;
//! queries that run at the same time on one connection, with `join!`, share a request.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use libsql::params::{IntoParams, Params};
pub use libsql::{Value, params, params_from_iter};
use libsql_hrana::proto::{self, NamedArg, Stmt, StmtResult};

use super::error::BooksError;
use super::remote::stream::Stream;

/// [`Connection::execute_each`] sends about this many bytes of statements in one request.
const REQUEST_BYTES: usize = 1 << 20;

/// A statement, mostly one that writes, with the values of its parameters: part of a
/// [`Connection::batch`].
pub type Write = (&'static str, Vec<Value>);

/// A connection; its clones share one transaction.
#[derive(Clone)]
pub struct Connection(Half);

#[derive(Clone)]
enum Half {
    Local(libsql::Connection),
    Remote(Arc<Stream>),
}

impl Connection {
    pub(crate) fn local(connection: libsql::Connection) -> Self {
        Self(Half::Local(connection))
    }

    pub(super) fn remote(stream: Stream) -> Self {
        Self(Half::Remote(Arc::new(stream)))
    }

    /// True on a local file.
    pub fn is_local(&self) -> bool {
        matches!(self.0, Half::Local(_))
    }

    /// Runs a statement and returns its rows. A statement that writes is done when all of them have
    /// been read.
    pub async fn query(&self, sql: &str, params: impl IntoParams) -> Result<Rows, BooksError> {
        match &self.0 {
            Half::Local(c) => Ok(Rows(Source::Local(c.query(sql, params).await?))),
            Half::Remote(stream) => {
                let mut results = stream.run(vec![statement(sql, params.into_params()?, true)]).await?;
                Ok(results.pop().map(Rows::of).unwrap_or_default())
            }
        }
    }

    /// Runs a statement and returns how many rows it changed.
    pub async fn execute(&self, sql: &str, params: impl IntoParams) -> Result<u64, BooksError> {
        match &self.0 {
            Half::Local(c) => Ok(c.execute(sql, params).await?),
            Half::Remote(stream) => {
                let results = stream.run(vec![statement(sql, params.into_params()?, false)]).await?;
                Ok(results.first().map_or(0, |r| r.affected_row_count))
            }
        }
    }

    /// A statement that is executed more than once.
    pub async fn prepare(&self, sql: &str) -> Result<Statement, BooksError> {
        Ok(Statement(match &self.0 {
            Half::Local(c) => Prepared::Local(c.prepare(sql).await?),
            Half::Remote(_) => Prepared::Remote(self.clone(), sql.to_owned()),
        }))
    }

    /// Runs a statement once with each of `values`, until one fails; on a server with few requests.
    pub async fn execute_each(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = Vec<Value>>,
    ) -> Result<(), BooksError> {
        if let Half::Local(c) = &self.0 {
            let statement = c.prepare(sql).await?;
            for values in values {
                statement.execute(values).await?;
                statement.reset();
            }
            return Ok(());
        }
        let (mut batch, mut bytes) = (vec![], 0);
        for values in values {
            bytes += sql.len() + values.iter().map(size).sum::<usize>();
            batch.push((sql, values));
            if bytes > REQUEST_BYTES {
                self.batch(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.batch(batch).await.map(drop)
    }

    /// Runs the statements of a text, each of which ends with its line, until one fails.
    pub async fn execute_batch(&self, sql: &str) -> Result<(), BooksError> {
        match &self.0 {
            Half::Local(c) => Ok(c.execute_batch(sql).await.map(drop)?),
            Half::Remote(_) => self.batch(statements(sql).into_iter().map(|s| (s, vec![])).collect()).await.map(drop),
        }
    }

    /// Runs statements until one fails, with one request on a server, and returns the rows of each.
    /// Outside of a transaction each one commits by itself.
    pub async fn batch(&self, statements: Vec<(&str, Vec<Value>)>) -> Result<Vec<Rows>, BooksError> {
        match &self.0 {
            Half::Local(c) => {
                // a text that comes again is parsed once
                let (mut parsed, mut found) = (BTreeMap::new(), vec![]);
                for (sql, values) in statements {
                    let statement = match parsed.entry(sql) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(c.prepare(sql).await?),
                    };
                    found.push(Rows::all(statement.query(values).await?).await?);
                    statement.reset();
                }
                Ok(found)
            }
            Half::Remote(_) if statements.is_empty() => Ok(vec![]),
            Half::Remote(stream) => {
                let all = statements.into_iter().map(|(sql, values)| statement(sql, Params::Positional(values), true));
                Ok(stream.run(all.collect()).await?.into_iter().map(Rows::of).collect())
            }
        }
    }

    /// What the connection sees of the file now; none on a server.
    pub async fn sight(&self) -> Result<Option<Sight>, BooksError> {
        let Half::Local(c) = &self.0 else { return Ok(None) };
        let row = self.query("PRAGMA data_version", ()).await?.next().await?;
        let sight = |row: Row| Ok(Sight { others: row.get(0)?, own: c.total_changes() });
        row.map(sight).transpose()
    }

    pub(super) async fn begin(&self) -> Result<(), BooksError> {
        match &self.0 {
            Half::Local(c) => Ok(c.execute("BEGIN IMMEDIATE", ()).await.map(drop)?),
            Half::Remote(stream) => {
                stream.begin().await;
                Ok(())
            }
        }
    }

    pub(super) async fn commit(&self) -> Result<(), BooksError> {
        match &self.0 {
            Half::Local(c) => {
                let committed = c.execute("COMMIT", ()).await;
                if committed.is_err() {
                    self.rollback().await;
                }
                Ok(committed.map(drop)?)
            }
            Half::Remote(stream) => stream.commit().await,
        }
    }

    /// Undoes the transaction. The error before it is the one to report, and SQLite may have rolled
    /// back already (disk full).
    pub(super) async fn rollback(&self) {
        let undone = match &self.0 {
            Half::Local(c) if c.is_autocommit() => Ok(()),
            Half::Local(c) => c.execute("ROLLBACK", ()).await.map(drop).map_err(BooksError::from),
            Half::Remote(stream) => stream.rollback().await,
        };
        if let Err(undo) = undone {
            tracing::debug!(%undo, "rollback after an error");
        }
    }
}

/// What a connection sees of a local file. Two that are equal saw the same rows: nothing was
/// committed by another connection between them, and nothing written by this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// It is another number after each commit of another connection
    /// (<https://www.sqlite.org/pragma.html#pragma_data_version>).
    others: i64,
    /// Rows that this connection has written since it was opened.
    own: u64,
}

/// A prepared statement.
pub struct Statement(Prepared);

enum Prepared {
    Local(libsql::Statement),
    Remote(Connection, String),
}

impl Statement {
    /// Runs the statement and returns how many rows it changed.
    pub async fn execute(&self, params: impl IntoParams) -> Result<u64, BooksError> {
        match &self.0 {
            Prepared::Local(statement) => Ok(u64::try_from(statement.execute(params).await?).unwrap_or(u64::MAX)),
            Prepared::Remote(connection, sql) => connection.execute(sql, params).await,
        }
    }

    /// Makes the statement ready for the next execution.
    pub fn reset(&self) {
        if let Prepared::Local(statement) = &self.0 {
            statement.reset();
        }
    }
}

/// The rows of a statement.
#[derive(Default)]
pub struct Rows(Source);

enum Source {
    /// SQLite computes each row when it is asked for.
    Local(libsql::Rows),
    Whole {
        columns: Arc<[String]>,
        rows: std::vec::IntoIter<Vec<Value>>,
    },
}

impl Default for Source {
    fn default() -> Self {
        Self::Whole { columns: Arc::default(), rows: vec![].into_iter() }
    }
}

impl Rows {
    pub async fn next(&mut self) -> Result<Option<Row>, BooksError> {
        Ok(match &mut self.0 {
            Source::Local(rows) => rows.next().await?.map(|row| Row(Cells::Local(row))),
            Source::Whole { columns, rows } => {
                rows.next().map(|values| Row(Cells::Whole { columns: Arc::clone(columns), values }))
            }
        })
    }

    fn of(result: StmtResult) -> Self {
        let columns = result.cols.into_iter().map(|c| c.name.unwrap_or_default()).collect();
        let row = |row: proto::Row| row.values.into_iter().map(received).collect();
        let rows: Vec<_> = result.rows.into_iter().map(row).collect();
        Self(Source::Whole { columns, rows: rows.into_iter() })
    }

    async fn all(mut rows: libsql::Rows) -> Result<Self, BooksError> {
        let columns = (0..rows.column_count()).map(|i| rows.column_name(i).unwrap_or_default().to_owned()).collect();
        let mut found = vec![];
        while let Some(row) = rows.next().await? {
            found.push((0..row.column_count()).map(|i| row.get_value(i)).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(Self(Source::Whole { columns, rows: found.into_iter() }))
    }
}

/// A row of a statement.
pub struct Row(Cells);

enum Cells {
    Local(libsql::Row),
    Whole { columns: Arc<[String]>, values: Vec<Value> },
}

impl Row {
    /// The value of a column; an error when it is not of the type.
    pub fn get<T: FromValue>(&self, column: i32) -> Result<T, BooksError> {
        let value = self.get_value(column)?;
        let is = kind(&value);
        T::from_value(value)
            .ok_or_else(|| BooksError::Sql(format!("column {column} is {is} and not {}", std::any::type_name::<T>())))
    }

    pub fn get_value(&self, column: i32) -> Result<Value, BooksError> {
        match &self.0 {
            Cells::Local(row) => Ok(row.get_value(column)?),
            Cells::Whole { values, .. } => usize::try_from(column)
                .ok()
                .and_then(|i| values.get(i).cloned())
                .ok_or_else(|| BooksError::Sql(format!("there is no column {column}"))),
        }
    }

    pub fn column_count(&self) -> i32 {
        match &self.0 {
            Cells::Local(row) => row.column_count(),
            Cells::Whole { columns, .. } => i32::try_from(columns.len()).unwrap_or(i32::MAX),
        }
    }

    pub fn column_name(&self, column: i32) -> Option<&str> {
        match &self.0 {
            Cells::Local(row) => row.column_name(column),
            Cells::Whole { columns, .. } => columns.get(usize::try_from(column).ok()?).map(String::as_str),
        }
    }
}

/// Bytes of a value in a request, about.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Integer(_) | Value::Real(_) => 32,
        Value::Text(text) => 32 + text.len(),
        Value::Blob(bytes) => 32 + bytes.len() / 3 * 4,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Integer(_) => "an integer",
        Value::Real(_) => "a real number",
        Value::Text(_) => "a text",
        Value::Blob(_) => "a blob",
    }
}

/// A type that [`Row::get`] returns.
pub trait FromValue: Sized {
    /// None when the value is of another type.
    fn from_value(value: Value) -> Option<Self>;
}

impl FromValue for Value {
    fn from_value(value: Value) -> Option<Self> {
        Some(value)
    }
}

impl FromValue for i64 {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Integer(n) = value { Some(n) } else { None }
    }
}

impl FromValue for u64 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).and_then(|n| n.try_into().ok())
    }
}

impl FromValue for i32 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).and_then(|n| n.try_into().ok())
    }
}

impl FromValue for u32 {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).and_then(|n| n.try_into().ok())
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Real(x) = value { Some(x) } else { None }
    }
}

impl FromValue for bool {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Integer(0) => Some(false),
            Value::Integer(1) => Some(true),
            _ => None,
        }
    }
}

impl FromValue for Vec<u8> {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Blob(bytes) = value { Some(bytes) } else { None }
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        if let Value::Text(text) = value { Some(text) } else { None }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        if value == Value::Null { Some(None) } else { T::from_value(value).map(Some) }
    }
}

/// The statements of a text, each with the comment before it. A statement ends with its line; a
/// trigger with a line `END;`.
pub(super) fn statements(sql: &str) -> Vec<&str> {
    let (mut found, mut start, mut at, mut in_trigger) = (vec![], 0, 0, false);
    for line in sql.split_inclusive('\n') {
        at += line.len();
        let code = line.split("--").next().unwrap_or_default().trim_end();
        in_trigger |= code.starts_with("CREATE TRIGGER");
        if code == "END;" || (code.ends_with(';') && !in_trigger) {
            found.push(sql[start..at].trim());
            (start, in_trigger) = (at, false);
        }
    }
    found.extend(Some(sql[start..].trim()).filter(|rest| !rest.is_empty()));
    found
}

fn statement(sql: &str, params: Params, want_rows: bool) -> Stmt {
    let (args, named) = match params {
        Params::None => (vec![], vec![]),
        Params::Positional(values) => (values, vec![]),
        Params::Named(values) => (vec![], values),
    };
    let named_args = named.into_iter().map(|(name, value)| NamedArg { name, value: sent(value) }).collect();
    Stmt { args: args.into_iter().map(sent).collect(), named_args, ..Stmt::new(sql, want_rows) }
}

fn sent(value: Value) -> proto::Value {
    match value {
        Value::Null => proto::Value::Null,
        Value::Integer(value) => proto::Value::Integer { value },
        Value::Real(value) => proto::Value::Float { value },
        Value::Text(text) => proto::Value::Text { value: text.into() },
        Value::Blob(bytes) => proto::Value::Blob { value: bytes.into() },
    }
}

fn received(value: proto::Value) -> Value {
    match value {
        proto::Value::None | proto::Value::Null => Value::Null,
        proto::Value::Integer { value } => Value::Integer(value),
        proto::Value::Float { value } => Value::Real(value),
        proto::Value::Text { value } => Value::Text(value.to_string()),
        proto::Value::Blob { value } => Value::Blob(value.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::database::Database;

    async fn sight(books: &Database) -> Sight {
        books.transaction(async |c| c.sight().await).await.unwrap().unwrap()
    }

    async fn insert(books: &Database) {
        books.transaction(async |c| c.execute("INSERT INTO t VALUES (1)", ()).await).await.unwrap();
    }

    #[tokio::test]
    async fn a_sight_stays_until_somebody_writes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("meter.db");
        let books = Database::open_local(&file).await.unwrap();
        let other = Database::open_local(&file).await.unwrap();
        books.transaction(async |c| c.execute("CREATE TABLE t (x INTEGER)", ()).await).await.unwrap();
        let first = books.with_connection(async |c| c.sight().await).await.unwrap().unwrap();
        assert_eq!(sight(&books).await, first);
        sight(&other).await;
        assert_eq!(sight(&books).await, first, "the other one wrote nothing");
        insert(&other).await;
        let second = sight(&books).await;
        assert_ne!(second, first);
        insert(&books).await;
        let third = sight(&books).await;
        assert_ne!(third, second);
        assert_eq!(sight(&books).await, third);
        // what a transaction has seen at its end is what the next one sees at its start
        let last = books.transaction(async |c| {
            c.execute("INSERT INTO t VALUES (1)", ()).await?;
            c.sight().await
        });
        assert_eq!(last.await.unwrap(), Some(sight(&books).await));
    }

    #[tokio::test]
    async fn a_batch_gives_the_rows_of_each_statement() {
        let books = Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
        let found = books.transaction(async |c| {
            let insert = "INSERT INTO t VALUES (?1) RETURNING x + 1";
            let count = "SELECT count(*) FROM t";
            let mut statements = vec![("CREATE TABLE t (x INTEGER)", vec![])];
            for x in 1..=3 {
                statements.extend([(insert, vec![Value::Integer(x)]), (count, vec![])]);
            }
            // a column more, so that a statement is read anew
            statements.extend([("ALTER TABLE t ADD COLUMN y INTEGER", vec![]), (count, vec![])]);
            let mut found = vec![];
            for mut rows in c.batch(statements).await? {
                while let Some(row) = rows.next().await? {
                    found.push(row.get::<i64>(0)?);
                }
            }
            Ok(found)
        });
        assert_eq!(found.await.unwrap(), [2, 1, 3, 2, 4, 3, 3]);
    }
}
