//! How a command ends: its exit code, and the error for bad usage.

use std::process::ExitCode;

/// The end of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// Something needs attention.
    NeedsAttention,
    /// It ran, and printed something that is wrong.
    Failed,
}

impl From<Exit> for ExitCode {
    fn from(done: Exit) -> Self {
        match done {
            Exit::Ok => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::NeedsAttention => Self::from(3),
        }
    }
}

/// Bad usage that clap cannot see; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadUsage(pub(crate) String);

/// Everything that is wrong with a file that a command line names; exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{head}:\n  {}", .faults.join("\n  "))]
pub(crate) struct FileFaults {
    /// The file, and what was not done.
    pub(crate) head: String,
    /// Each with its place.
    pub(crate) faults: Vec<String>,
}
