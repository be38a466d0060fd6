//! A connection to the file, and the execution of statements on it (connection/program.rs in sqld).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use libsql_hrana::proto::{
    BatchResult, Col, DescribeCol, DescribeParam, DescribeResult, Error, Row, StmtResult, Value,
};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, StatementStatus, TransactionState};

use super::counts::Counters;
use super::statement::{Statement, Verb, error};
use super::write_lock::{WriteLock, Writer};

/// A parameter, a string or a row may have so many bytes (`max_row_size` in sqld).
const MAX_ROW_BYTES: i32 = 5_000_000;
/// How long a statement waits for a lock that another process has on the file.
const BUSY: Duration = Duration::from_millis(100);

/// What all connections to the file share.
pub(super) struct Site {
    pub(super) file: PathBuf,
    pub(super) lock: WriteLock,
    pub(super) counters: Arc<Counters>,
    pub(super) blocked: Mutex<Blocked>,
    pub(super) sizes: Sizes,
}

/// What an operator forbids, as Turso does when a quota is used up.
#[derive(Default)]
pub(super) struct Blocked {
    pub(super) reads: bool,
    pub(super) writes: bool,
    pub(super) reason: Option<String>,
}

impl Blocked {
    fn check(&self, verb: Verb) -> Result<(), Error> {
        let blocked = match verb {
            Verb::End => false,
            verb => self.reads || self.writes && verb.writes(),
        };
        let reason = self.reason.iter().map(|reason| format!(": {reason}")).collect::<String>();
        if blocked { Err(error("BLOCKED", format!("Operation was blocked{reason}"))) } else { Ok(()) }
    }
}

/// How large replies may be, as estimated by sqld.
pub(super) struct Sizes {
    /// One result or batch.
    pub(super) one: AtomicU64,
    /// All statements that run now.
    pub(super) all: AtomicU64,
    pub(super) now: AtomicU64,
}

/// What a reply has of the allowed sizes. A cursor has no limit.
pub(super) struct Size<'a> {
    limits: Option<&'a Sizes>,
    used: u64,
    statement: u64,
}

impl<'a> Size<'a> {
    pub(super) fn limited(limits: &'a Sizes) -> Self {
        Self { limits: Some(limits), used: 0, statement: 0 }
    }

    pub(super) fn unlimited() -> Self {
        Self { limits: None, used: 0, statement: 0 }
    }

    fn add(&mut self, bytes: usize) -> Result<(), Stop> {
        let Some(limits) = self.limits else { return Ok(()) };
        let bytes = u64::try_from(bytes).unwrap();
        if self.used + self.statement + bytes > limits.one.load(SeqCst) {
            return Err(Stop::TooLarge);
        }
        self.statement += bytes;
        let now = limits.now.fetch_add(bytes, SeqCst) + bytes;
        if now > limits.all.load(SeqCst) { Err(Stop::TooLarge) } else { Ok(()) }
    }

    fn end_statement(&mut self) {
        let Some(limits) = self.limits else { return };
        limits.now.fetch_sub(self.statement, SeqCst);
        self.used += std::mem::take(&mut self.statement);
    }
}

/// A statement with its arguments.
pub(super) struct Query {
    pub(super) statement: Statement,
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

/// Whether a step is executed.
pub(super) enum Condition {
    Ok(usize),
    Error(usize),
    Not(Box<Condition>),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    IsAutocommit,
}

impl Condition {
    /// A step that was skipped counts as a failed one.
    fn holds(&self, done: &[bool], autocommit: bool) -> bool {
        match self {
            Self::Ok(step) => done[*step],
            Self::Error(step) => !done[*step],
            Self::Not(condition) => !condition.holds(done, autocommit),
            Self::And(all) => all.iter().all(|condition| condition.holds(done, autocommit)),
            Self::Or(any) => any.iter().any(|condition| condition.holds(done, autocommit)),
            Self::IsAutocommit => autocommit,
        }
    }
}

/// A query of a batch.
pub(super) struct Step {
    pub(super) condition: Option<Condition>,
    pub(super) query: Query,
}

/// Why a statement has no result.
enum Stop {
    Failed(Error),
    /// The whole batch has no result then.
    TooLarge,
}

impl From<rusqlite::Error> for Stop {
    fn from(e: rusqlite::Error) -> Self {
        Self::Failed(failure(e))
    }
}

/// A connection that several requests use in turn.
pub(super) struct Connection {
    site: Arc<Site>,
    me: Weak<dyn Writer>,
    core: Mutex<Core>,
}

struct Core {
    db: rusqlite::Connection,
    /// It has the write lock.
    writes: bool,
    /// Another connection has rolled back its transaction.
    robbed: bool,
    /// The next statement is interrupted.
    interrupted: bool,
}

impl Core {
    /// Releases the write lock when nothing is written any more. `ended`: the client ended its
    /// transaction.
    fn settle(&mut self, lock: &WriteLock, ended: bool) {
        if self.writes && self.db.transaction_state(None) != Ok(TransactionState::Write) {
            self.writes = false;
            lock.release(ended);
        }
    }
}

impl Writer for Connection {
    fn try_roll_back(&self) -> bool {
        let Ok(mut core) = self.core.try_lock() else { return false };
        if core.writes {
            // an interrupted statement has undone its transaction already
            if !core.db.is_autocommit() {
                core.db.execute_batch("ROLLBACK").unwrap();
            }
            core.robbed = true;
            core.settle(&self.site.lock, false);
        }
        true
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let core = self.core.get_mut().unwrap();
        if !core.db.is_autocommit() {
            let _ = core.db.execute_batch("ROLLBACK");
        }
        core.settle(&self.site.lock, false);
    }
}

impl Connection {
    pub(super) fn open(site: &Arc<Site>) -> Arc<Self> {
        let db = rusqlite::Connection::open(&site.file).unwrap();
        db.busy_timeout(BUSY).unwrap();
        // SQLite may find the file locked here without calling its busy handler
        let pragmas = "PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL";
        let mut tries = 0..250;
        while let Err(error) = db.execute_batch(pragmas) {
            assert!(error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries.next().is_some(), "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES);
        let core = Mutex::new(Core { db, writes: false, robbed: false, interrupted: false });
        Arc::new_cyclic(|me: &Weak<Self>| {
            let me: Weak<dyn Writer> = me.clone();
            Self { site: Arc::clone(site), me, core }
        })
    }

    pub(super) fn is_autocommit(&self) -> bool {
        self.core.lock().unwrap().db.is_autocommit()
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.site.sizes
    }

    /// The next statement ends with SQLITE_INTERRUPT.
    pub(super) fn interrupt(&self) {
        self.core.lock().unwrap().interrupted = true;
    }

    pub(super) fn describe(&self, sql: &str) -> Result<DescribeResult, Error> {
        let core = self.core.lock().unwrap();
        let stmt = core.db.prepare(sql).map_err(failure)?;
        let params =
            (1..=stmt.parameter_count()).map(|i| DescribeParam { name: stmt.parameter_name(i).map(Into::into) });
        let cols = stmt
            .columns()
            .iter()
            .map(|c| DescribeCol { name: c.name().into(), decltype: c.decl_type().map(Into::into) })
            .collect();
        let (is_explain, is_readonly) = (stmt.is_explain() != 0, stmt.readonly());
        Ok(DescribeResult { params: params.collect(), cols, is_explain, is_readonly })
    }

    /// Executes the steps whose conditions hold. None when the reply would be too large.
    pub(super) fn run(&self, steps: &[Step], size: &mut Size<'_>) -> Option<BatchResult> {
        let (mut done, mut robbed) = (vec![], false);
        let mut results = BatchResult::default();
        for step in steps {
            // between two steps another connection may take the write lock
            let mut core = self.core.lock().unwrap();
            robbed |= std::mem::take(&mut core.robbed);
            let (result, failed) = if robbed {
                (None, Some(error("TRANSACTION_TIMEOUT", "Transaction timed out")))
            } else if step.condition.as_ref().is_some_and(|c| !c.holds(&done, core.db.is_autocommit())) {
                (None, None)
            } else {
                let executed = self.execute(&mut core, &step.query, size);
                if core.writes {
                    self.site.lock.executed();
                }
                core.settle(&self.site.lock, true);
                size.end_statement();
                match executed {
                    Ok(result) => (Some(result), None),
                    Err(Stop::Failed(error)) => (None, Some(error)),
                    Err(Stop::TooLarge) => return None,
                }
            };
            done.push(result.is_some());
            results.step_results.push(result);
            results.step_errors.push(failed);
        }
        Some(results)
    }

    fn execute(&self, core: &mut Core, query: &Query, size: &mut Size<'_>) -> Result<StmtResult, Stop> {
        let Statement { sql, verb } = &query.statement;
        let start = Instant::now();
        self.site.blocked.lock().unwrap().check(*verb).map_err(Stop::Failed)?;
        let Core { db, writes, interrupted, .. } = core;
        let mut stmt = db.prepare(sql)?;
        let mut cols = vec![];
        for column in stmt.columns() {
            let (name, decltype) = (column.name(), column.decl_type());
            size.add(r#"{"name":"","decltype":""}"#.len() + name.len() + decltype.unwrap_or("null").len())?;
            cols.push(Col { name: Some(name.to_owned()), decltype: decltype.map(str::to_owned) });
        }
        bind(&mut stmt, query).map_err(|why| {
            Stop::Failed(error("ARGS_INVALID", format!("Arguments do not match SQL parameters: {why}")))
        })?;
        if !stmt.readonly() && !*writes {
            self.site.lock.acquire(&self.me);
            *writes = true;
        }
        if *writes {
            self.site.lock.executes(sql, verb.writes());
        }
        if std::mem::take(interrupted) {
            db.progress_handler(1, Some(|| true));
        }
        let read = rows(&mut stmt, size);
        db.progress_handler(0, None::<fn() -> bool>);
        let rows = read?;
        let count = |status| u64::try_from(stmt.get_status(status)).unwrap_or_default();
        let (rows_read, rows_written) = (count(StatementStatus::RowsRead), count(StatementStatus::RowsWritten));
        self.site.counters.executed(sql, rows_read, rows_written);
        let micros = start.elapsed().as_micros();
        Ok(StmtResult {
            cols,
            rows,
            affected_row_count: if matches!(verb, Verb::Insert | Verb::Change) { db.changes() } else { 0 },
            last_insert_rowid: (*verb == Verb::Insert).then(|| db.last_insert_rowid()),
            replication_index: None,
            rows_read,
            rows_written,
            query_duration_ms: format!("{}.{:03}", micros / 1000, micros % 1000).parse().unwrap(),
        })
    }
}

fn rows(stmt: &mut rusqlite::Statement<'_>, size: &mut Size<'_>) -> Result<Vec<Row>, Stop> {
    let (columns, mut rows) = (stmt.column_count(), vec![]);
    let mut found = stmt.raw_query();
    while let Some(row) = found.next()? {
        let mut values = vec![];
        for column in 0..columns {
            let (value, bytes) = sent(row.get_ref(column)?);
            size.add(bytes)?;
            values.push(value);
        }
        rows.push(Row { values });
    }
    Ok(rows)
}

/// A value, and its size as sqld estimates it.
fn sent(value: ValueRef<'_>) -> (Value, usize) {
    let frame = |kind: &str| r#"{"type":"","value":""}"#.len() + kind.len();
    match value {
        ValueRef::Null => (Value::Null, r#"{"type":"null"}"#.len()),
        ValueRef::Integer(value) => (Value::Integer { value }, frame("integer") + value.to_string().len()),
        ValueRef::Real(value) => (Value::Float { value }, frame("float") + value.to_string().len()),
        ValueRef::Text(text) => {
            let value = String::from_utf8_lossy(text).into_owned();
            (Value::Text { value: value.into() }, frame("text") + text.len())
        }
        ValueRef::Blob(blob) => (Value::Blob { value: blob.to_vec().into() }, blob.len()),
    }
}

/// Gives a statement its arguments. A name may be sent without its first character.
fn bind(stmt: &mut rusqlite::Statement<'_>, query: &Query) -> Result<(), String> {
    let (count, sent) = (stmt.parameter_count(), query.positional.len() + query.named.len());
    if sent > count {
        return Err(format!("too many parameters, expected {count} found {sent}"));
    }
    let named = |name: &str| query.named.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    for index in 1..=count {
        let name = stmt.parameter_name(index).map(str::to_owned);
        let value = match name.as_deref() {
            None => query.positional.get(index - 1),
            Some(name) => match name.strip_prefix('?') {
                Some(position) => position.parse::<usize>().ok().and_then(|p| query.positional.get(p - 1)),
                None => named(name).or_else(|| named(&name[1..])),
            },
        };
        let Some(value) = value else {
            return Err(format!("value for parameter {} not found", name.unwrap_or_else(|| index.to_string())));
        };
        let value = match value {
            Value::None | Value::Null => ValueRef::Null,
            Value::Integer { value } => ValueRef::Integer(*value),
            Value::Float { value } => ValueRef::Real(*value),
            Value::Text { value } => ValueRef::Text(value.as_bytes()),
            Value::Blob { value } => ValueRef::Blob(value),
        };
        stmt.raw_bind_parameter(index, ToSqlOutput::Borrowed(value)).map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn failure(e: rusqlite::Error) -> Error {
    let (code, message) = match e {
        rusqlite::Error::SqliteFailure(code, Some(message)) => (code.code, message),
        rusqlite::Error::SqliteFailure(code, None) => (code.code, code.to_string()),
        rusqlite::Error::SqlInputError { msg, offset, .. } => {
            return error("SQL_INPUT_ERROR", format!("SQL input error: {msg} (at offset {offset})"));
        }
        other => (ErrorCode::Unknown, other.to_string()),
    };
    let name = match code {
        ErrorCode::InternalMalfunction => "INTERNAL",
        ErrorCode::PermissionDenied => "PERM",
        ErrorCode::OperationAborted => "ABORT",
        ErrorCode::DatabaseBusy => "BUSY",
        ErrorCode::DatabaseLocked => "LOCKED",
        ErrorCode::OutOfMemory => "NOMEM",
        ErrorCode::ReadOnly => "READONLY",
        ErrorCode::OperationInterrupted => "INTERRUPT",
        ErrorCode::SystemIoFailure => "IOERR",
        ErrorCode::DatabaseCorrupt => "CORRUPT",
        ErrorCode::NotFound => "NOTFOUND",
        ErrorCode::DiskFull => "FULL",
        ErrorCode::CannotOpen => "CANTOPEN",
        ErrorCode::FileLockingProtocolFailed => "PROTOCOL",
        ErrorCode::SchemaChanged => "SCHEMA",
        ErrorCode::TooBig => "TOOBIG",
        ErrorCode::ConstraintViolation => "CONSTRAINT",
        ErrorCode::TypeMismatch => "MISMATCH",
        ErrorCode::ApiMisuse => "MISUSE",
        ErrorCode::AuthorizationForStatementDenied => "AUTH",
        ErrorCode::ParameterOutOfRange => "RANGE",
        ErrorCode::NotADatabase => "NOTADB",
        _ => "UNKNOWN",
    };
    error(&format!("SQLITE_{name}"), format!("SQLite error: {message}"))
}
