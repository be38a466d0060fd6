//! The faults that a script can order for a request.

use std::collections::BTreeMap;

/// The data of a request that a script of faults receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The parameters of the query and the body by name.
    pub form: BTreeMap<String, String>,
    /// The number of the request among all requests, from 1.
    pub nth: u64,
}

/// How a request fails.
///
/// "Applied" means: as far as the request's own parameters allow. A request that is refused anyway
/// (with a 400, say) applies nothing, and then the faults after the application answer with that
/// refusal. An answer that is replayed from its Idempotency-Key is not executed again. So the
/// faults of execution (`ErrorBefore`, `ErrorAfter`, `LateReject`) do not affect it, but the
/// faults of the network do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 429 for the global rate, with or without a Retry-After; nothing applied, not stored under
    /// the key.
    RateLimited {
        /// The seconds of the Retry-After header.
        retry_after: Option<u64>,
    },
    /// 429 `lock_timeout`, without the header that names a rate limit; nothing applied.
    LockTimeout,
    /// 409 `idempotency_key_in_use`; nothing applied.
    KeyInUse,
    /// An error of this status with nothing applied. From 500 on it is stored under the key,
    /// because the execution began.
    ErrorBefore(u16),
    /// Applied, then an error of this status, stored under the key.
    ErrorAfter(u16),
    /// A proxy's HTML 502; nothing applied.
    HtmlBefore,
    /// Applied and the answer stored under the key, then a proxy's HTML 502 in its place.
    HtmlAfter,
    /// A redirect of another server, such as a proxy with a log-in; nothing applied.
    Redirect,
    /// Nothing applied and never answered; the connection stays open until the client leaves.
    HangBefore,
    /// Applied and never answered; the connection stays open until the client leaves.
    HangAfter,
    /// Nothing applied; the connection is closed without an answer.
    ResetBefore,
    /// Applied; the connection is closed without an answer.
    ResetAfter,
    /// Applied; the connection is closed in the middle of the answer's body.
    ResetInBody,
    /// Applied; a 200 with a body that is not JSON.
    OddBody,
    /// 401 for an invalid key; nothing applied.
    Unauthorized,
    /// 403 for a missing permission; nothing applied.
    Forbidden,
    /// A meter event is answered with 200 and rejected afterwards: it counts nowhere, and its
    /// identifier is used up.
    LateReject,
}

/// The script: it decides on the fault of each request.
pub(crate) type Script = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;
