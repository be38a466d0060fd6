//! The ways in which a request can be made to fail.

use std::collections::BTreeMap;

/// What a script of faults is shown of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The parameters of the query and the body by name.
    pub form: BTreeMap<String, String>,
    /// Which of all requests this is, from 1.
    pub nth: u64,
}

/// How a request fails.
///
/// "Applied" means: as far as its own parameters allow. A request that is refused anyway (a 400,
/// say) applies nothing, and the faults that would answer for something applied then give that
/// refusal instead. An answer that is replayed from its Idempotency-Key is not executed again, so
/// the faults of execution (`ErrorBefore`, `ErrorAfter`, `LateReject`) leave it alone; those of the
/// network do not.
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
    /// An error of this status with nothing applied; from 500 on it is stored under the key, as
    /// execution began.
    ErrorBefore(u16),
    /// Applied, then an error of this status, stored under the key.
    ErrorAfter(u16),
    /// A proxy's HTML 502; nothing applied.
    HtmlBefore,
    /// Applied and the answer stored under the key, then a proxy's HTML 502 in its place.
    HtmlAfter,
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
    /// Applied; a 200 whose body is no JSON.
    OddBody,
    /// 401 for an invalid key; nothing applied.
    Unauthorized,
    /// 403 for a missing permission; nothing applied.
    Forbidden,
    /// A meter event is answered with 200 and rejected afterwards: it counts nowhere, its
    /// identifier is used up.
    LateReject,
}

/// What decides on the fault of each request.
pub(crate) type Script = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;
