//! The actor for the audit log, and the reason that is given.

use crate::exit::BadUsage;

/// The user and the machine: `ann@billing-1`.
pub(super) fn current() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".into());
    format!("{user}@{}", gethostname::gethostname().to_string_lossy())
}

/// The reason that a person gave.
pub(super) fn reason(given: &str) -> Result<String, BadUsage> {
    match given.trim() {
        "" => Err(BadUsage("--reason: say why; it is kept".into())),
        reason => Ok(reason.to_owned()),
    }
}
