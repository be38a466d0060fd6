//! What a libSQL server's errors mean. Codes and texts are those of libsql-server
//! (`hrana/stmt.rs`, `hrana/batch.rs`, `hrana/http/stream.rs`, `error.rs`).

use std::time::Duration;

use libsql_hrana::proto::Error;
use reqwest::StatusCode;

use crate::store::error::BooksError;

/// The error of a statement or a batch. `waited` is how long its answer took.
pub(super) fn of_statement(error: Error, waited: Duration) -> BooksError {
    let Error { message, code } = error;
    match code.as_str() {
        "SQLITE_BUSY" | "SQLITE_LOCKED" => BooksError::Locked(waited),
        "SQLITE_FULL" => BooksError::Full,
        "SQLITE_READONLY" => BooksError::ReadOnly,
        "SQLITE_INTERRUPT" | "TRANSACTION_BUSY" => BooksError::Unavailable(message),
        "TRANSACTION_TIMEOUT" => BooksError::TransactionTimeout,
        "STREAM_EXPIRED" | "STREAM_CLOSED" => BooksError::StreamLost(message),
        "BLOCKED" => BooksError::Quota(message),
        "RESPONSE_TOO_LARGE" => BooksError::TooLarge(message),
        "SQLITE_AUTH" | "SQLITE_PERM" => BooksError::Unauthorized(message),
        _ => BooksError::Sql(message),
    }
}

/// After these codes SQLite or the server may have ended the transaction.
pub(super) fn ends_transaction(code: &str) -> bool {
    matches!(
        code,
        "TRANSACTION_TIMEOUT"
            | "STREAM_EXPIRED"
            | "STREAM_CLOSED"
            | "SQLITE_BUSY"
            | "SQLITE_FULL"
            | "SQLITE_INTERRUPT"
            | "SQLITE_IOERR"
            | "SQLITE_NOMEM"
            | "SQLITE_CORRUPT"
    )
}

/// The error of an answer other than 200.
pub(super) fn of_answer(status: StatusCode, body: &[u8], waited: Duration) -> BooksError {
    // a stream's error has `message` and `code`, another one `error`, and a proxy's any form
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| json.get(name).and_then(|v| v.as_str()).map(str::to_owned);
    if let (Some(message), Some(code)) = (field("message"), field("code")) {
        return of_statement(Error { message, code }, waited);
    }
    let plain = || String::from_utf8_lossy(body).chars().take(200).collect::<String>();
    let text = format!("{status}: {}", field("error").unwrap_or_else(plain).trim());
    match status.as_u16() {
        401 | 403 => BooksError::Unauthorized(text),
        404 => BooksError::Unauthorized(format!("{text}; there is no such database")),
        413 => BooksError::TooLarge(text),
        429 | 503 => BooksError::Unavailable(text),
        // "Received an invalid baton": the server was restarted and knows no stream of before
        400 if text.contains("baton") => BooksError::StreamLost(text),
        // the server has blocked the database as a whole
        500 if text.contains("Operation was blocked") => BooksError::Quota(text),
        500.. => BooksError::Network(text),
        _ => BooksError::Sql(text),
    }
}
