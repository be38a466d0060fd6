//! Asking a person before something is changed.

use std::io::IsTerminal;

use crate::exit::BadUsage;
use crate::print;

/// Why nothing is done where nobody can be asked.
pub(super) const NOBODY: &str = "nobody can be asked: look at it, then run this with --yes";

/// Whether a person has agreed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    Given,
    Asked,
}

impl Agreement {
    /// By the flag `--yes`.
    pub(super) fn of(yes: bool) -> Self {
        if yes { Self::Given } else { Self::Asked }
    }
}

/// Whether a person agrees.
///
/// # Errors
/// `nobody`, when nobody can be asked.
pub(super) fn agreed(agreement: Agreement, question: &str, nobody: &str) -> anyhow::Result<bool> {
    if agreement == Agreement::Given {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(BadUsage(nobody.to_owned()).into());
    }
    print::out(&format!("{question} (yes/no)"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
