//! Errors of the books, and which of them pass by themselves.

use std::time::Duration;

use crate::units::quantity::QuantityError;

/// How long a statement on a local file waits for another process's write lock.
pub const BUSY_WAIT: Duration = Duration::from_secs(10);

/// An error of the books.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BooksError {
    /// Another process holds the write lock, after this wait.
    #[error("the database is locked by another process (waited {} s); try again when it is done", (.0.as_millis() + 500) / 1000)]
    Locked(Duration),
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
    /// Name of the mark that `meter copy` leaves until its end.
    #[error(
        "the database is an {0}: `meter copy` still runs or was stopped, and nothing may use it. If it was stopped, \
         delete this database and copy again, into an empty one; what was copied from is unchanged"
    )]
    UnfinishedCopy(String),
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
    /// A request was not sent: nothing listens there, or the network is down.
    #[error(
        "the remote database cannot be reached: {0}; nothing was changed by that; check the network and database.url \
         (for the copy of `meter copy`: --to)"
    )]
    NoConnection(String),
    #[error(
        "the remote database does not answer ({0}); whether it took the last change shows at the next run, which books nothing twice"
    )]
    Network(String),
    /// The server ends a transaction after 5 s when another writer waits.
    #[error(
        "the remote database ended the transaction, because it was open for more than 5 s and another writer waited; \
         nothing of it was written; run again"
    )]
    TransactionTimeout,
    /// The transaction ended on the server before its COMMIT.
    #[error("the remote database lost the transaction ({0}); nothing of it was written; run again")]
    StreamLost(String),
    /// The server carried nothing out.
    #[error("the remote database is overloaded or interrupted the statement ({0}); nothing was written; run again")]
    Unavailable(String),
    /// The quota of the plan is used up, or somebody blocked the database.
    #[error(
        "the remote database refuses statements ({0}); the quota of its plan is used up, or it was blocked by hand: \
         allow overages or take a larger plan, or lift the block"
    )]
    Quota(String),
    #[error(
        "the remote database refuses access ({0}); check the token (expired? permissions?) and the address: \
         METER_DATABASE__TOKEN and database.url, or METER_DATABASE__COPY_TOKEN and --to of `meter copy`"
    )]
    Unauthorized(String),
    #[error("a statement or its answer is too large for the remote database ({0})")]
    TooLarge(String),
    /// Any other error of libSQL.
    #[error("the database said: {0}")]
    Sql(String),
}

impl BooksError {
    /// True when the same call may succeed later without anybody acting.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Locked(_)
                | Self::Raced
                | Self::Fenced
                | Self::Full
                | Self::Open(..)
                | Self::NoConnection(_)
                | Self::Network(_)
                | Self::TransactionTimeout
                | Self::StreamLost(_)
                | Self::Unavailable(_)
        )
    }
}

/// Primary result codes of SQLite: <https://www.sqlite.org/rescode.html>.
fn from_code(code: i32, text: &str) -> BooksError {
    match code & 0xff {
        // SQLITE_IOERR_SHMSIZE: "may also indicate that the underlying filesystem volume is out of
        // space"
        10 if code == 4874 => BooksError::Full,
        5 | 6 => BooksError::Locked(BUSY_WAIT),
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
            libsql::Error::SqliteFailure(code, text) => from_code(*code, text),
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
