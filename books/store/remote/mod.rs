//! A libSQL server as a database: Hrana 3 over HTTP, in JSON.
//!
//! **Owns** the HTTP client that all databases of a process share, streams, and what the server's
//! errors mean. **Does not own** SQL, and no rule of the books.
//!
//! **Invariants**: a statement outside of a transaction is one request; a transaction of n
//! statements is n + 1, and none at all for n = 0; after an error with which the server may have
//! ended a transaction, no further statement of it is sent, because it would commit by itself.

pub mod http;
mod server_error;
pub(super) mod stream;
