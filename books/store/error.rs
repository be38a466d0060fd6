//! Errors of the books, and which of them pass by themselves.

use std::time::Duration;

use crate::units::quantity::QuantityError;

/// How long a statement waits for another process's write lock.
pub const BUSY_WAIT: Duration = Duration::from_secs(10);

/// An error of the books.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BooksError {
    /// Another process holds the write lock.
    #[error("the database is locked by another process (waited {} s); try again when it is done", BUSY_WAIT.as_secs())]
    Locked,
    #[error("the disk that holds the database is full; nothing was booked; free space and run again")]
    Full,
    #[error(
        "the database cannot be written (read-only file, folder or user); nothing was booked; check its permissions"
    )]
    ReadOnly,
    #[error("the database has schema version {found}, this meter knows up to {known}; use the newer meter")]
    Newer { found: i64, known: i64 },
    #[error("the database has schema version {found}, this meter needs {known}; migrate it first")]
    NotMigrated { found: i64, known: i64 },
    /// Another worker applied a version of this bill since the books were compared with it.
    #[error("another worker changed this bill's books in the meantime; run again")]
    Raced,
    /// The fence of the transaction did not hold.
    #[error("this run lost its lease, so nothing was written; the job is another worker's now")]
    Fenced,
    /// The books contradict themselves, or the change contradicts them.
    #[error("the books would not add up, so nothing was written: {0}")]
    Integrity(String),
    /// Name of the database, and why.
    #[error("the database {0} cannot be opened: {1}")]
    Open(String, String),
    #[error(
        "the remote database does not answer ({0}); whether it took the last change shows at the next run, which books nothing twice"
    )]
    Network(String),
    /// Any other error of libSQL.
    #[error("the database said: {0}")]
    Sql(String),
}

impl BooksError {
    /// True when the same call may succeed later without anybody acting.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Locked | Self::Raced | Self::Fenced | Self::Full | Self::Open(..) | Self::Network(_))
    }
}

/// Primary result codes of SQLite: <https://www.sqlite.org/rescode.html>.
fn from_code(code: i32, text: &str) -> BooksError {
    match code & 0xff {
        // SQLITE_IOERR_SHMSIZE: "may also indicate that the underlying filesystem volume is out of
        // space"
        10 if code == 4874 => BooksError::Full,
        5 | 6 => BooksError::Locked,
        8 => BooksError::ReadOnly,
        13 => BooksError::Full,
        14 => BooksError::Open(String::new(), text.to_owned()),
        11 | 26 => BooksError::Sql(format!("{text}; the file is damaged or no database: restore it from a backup")),
        _ => BooksError::Sql(text.to_owned()),
    }
}

impl From<libsql::Error> for BooksError {
    fn from(error: libsql::Error) -> Self {
        match &error {
            libsql::Error::SqliteFailure(code, text) | libsql::Error::RemoteSqliteFailure(code, _, text) => {
                from_code(*code, text)
            }
            // errors of the HTTP client, and errors of the server's SQLite with the code in the
            // text
            libsql::Error::Hrana(inner) => match inner.to_string() {
                text if text.contains("SQLITE_BUSY") || text.contains("SQLITE_LOCKED") => Self::Locked,
                text if text.contains("SQLITE_FULL") => Self::Full,
                text if text.contains("SQLITE_READONLY") => Self::ReadOnly,
                // an error of a batch has the message without the code
                text if ["SQLITE_", "SQLite error", "SQL input error", "ARGS_INVALID", "SQL_INPUT_ERROR"]
                    .iter()
                    .any(|sign| text.contains(sign)) =>
                {
                    Self::Sql(text)
                }
                text => Self::Network(text),
            },
            libsql::Error::ConnectionFailed(text) => Self::Open(String::new(), text.clone()),
            other => Self::Sql(other.to_string()),
        }
    }
}

impl From<QuantityError> for BooksError {
    fn from(error: QuantityError) -> Self {
        Self::Integrity(error.to_string())
    }
}
