//! The audit of the books.

use books::audit::checks::Check;

use super::out;
use crate::exit::Exit;
use crate::format::count;

/// Prints every check, with the places where its rule is broken.
pub(crate) fn show(checks: &[Check]) {
    for check in checks {
        let state = if check.violations.is_empty() { "ok    " } else { "BROKEN" };
        out(&format!("  {state}  {} ({} checked)", check.rule, count(check.checked)));
        check.violations.iter().for_each(|v| out(&format!("          {v}")));
    }
}

/// How a command ends that found this.
pub(crate) fn exit(checks: &[Check]) -> Exit {
    if checks.iter().all(|c| c.violations.is_empty()) { Exit::Ok } else { Exit::Failed }
}
