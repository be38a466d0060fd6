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

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts are the server's own.
    #[test]
    fn errors_of_the_server_are_told_apart() {
        let of = |code: &str, message: &str| {
            of_statement(Error { code: code.into(), message: message.into() }, Duration::from_millis(4_980))
        };
        let cases = [
            (of("SQLITE_BUSY", "SQLite error: database is locked"), true, "waited 5 s"),
            (of("TRANSACTION_TIMEOUT", "Transaction timed out"), true, "nothing of it was written"),
            (of("SQLITE_INTERRUPT", "SQLite error: interrupted"), true, "interrupted"),
            (of("TRANSACTION_BUSY", "Server cannot handle additional transactions"), true, "additional"),
            (of("BLOCKED", "Operation was blocked: usage"), false, "larger plan"),
            (of("RESPONSE_TOO_LARGE", "Response is too large"), false, "too large"),
            (of("SQLITE_CONSTRAINT", "SQLite error: UNIQUE constraint failed: t.a"), false, "UNIQUE constraint"),
            (of("SQL_INPUT_ERROR", "SQL input error: no such table: t (at offset 14)"), false, "no such table"),
        ];
        for (error, retryable, says) in cases {
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn answers_without_results_are_told_apart() {
        let of = |status: u16, body: &str| {
            of_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes(), Duration::from_secs(1))
        };
        let expired = r#"{"message":"The stream has expired due to inactivity","code":"STREAM_EXPIRED"}"#;
        let cases = [
            (of(400, expired), true, "expired due to inactivity"),
            (of(400, "Received an invalid baton"), true, "lost the transaction"),
            (of(401, r#"{"error":"Unauthorized: `The JWT has expired`"}"#), false, "The JWT has expired"),
            (of(404, r#"{"error":"Namespace `x` doesn't exist"}"#), false, "no such database"),
            (of(429, r#"{"error":"Too many concurrent requests"}"#), true, "nothing was written"),
            (of(500, r#"{"error":"Operation was blocked: usage"}"#), false, "quota"),
            (of(502, "<html>Bad Gateway</html>"), true, "whether it took the last change"),
            (of(413, ""), false, "too large"),
        ];
        for (error, retryable, says) in cases {
            assert_eq!(error.is_retryable(), retryable, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
