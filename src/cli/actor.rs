//! The actor for the audit log.

/// The user and the machine: `ann@billing-1`.
pub(super) fn current() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".into());
    format!("{user}@{}", gethostname::gethostname().to_string_lossy())
}
