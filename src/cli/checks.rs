//! Results of checks with a remedy for each problem, for `meter doctor` and `meter init`.

use jobs::ingest_cur::export::ExportError;
use jobs::source::SourceError;
use schemars::JsonSchema;
use serde::Serialize;

use crate::print::Mark;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Ok,
    /// Nothing breaks, but a person should know.
    Warning,
    Wrong,
}

impl Verdict {
    /// As it stands before a line.
    pub(super) fn mark(self) -> (Mark, &'static str) {
        match self {
            Self::Ok => (Mark::Good, "ok   "),
            Self::Warning => (Mark::Warning, "warn "),
            Self::Wrong => (Mark::Wrong, "WRONG"),
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct Check {
    pub(super) what: String,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// The remedy; empty when the check is ok.
    pub(super) act: String,
}

#[derive(Default)]
pub(super) struct Checks(pub(super) Vec<Check>);

impl Checks {
    pub(super) fn add(&mut self, what: &str, verdict: Verdict, found: String, act: &str) {
        self.0.push(Check { what: what.to_owned(), verdict, found, act: act.to_owned() });
    }

    pub(super) fn ok(&mut self, what: &str, found: String) {
        self.add(what, Verdict::Ok, found, "");
    }

    pub(super) fn warn(&mut self, what: &str, found: String, act: &str) {
        self.add(what, Verdict::Warning, found, act);
    }

    pub(super) fn wrong(&mut self, what: &str, found: String, act: &str) {
        self.add(what, Verdict::Wrong, found, act);
    }
}

/// What to do about an export that cannot be read.
pub(super) fn remedy(error: &ExportError) -> &'static str {
    match error {
        ExportError::Source(error) => source_remedy(error).unwrap_or("check exports[].location"),
        ExportError::NotFound { .. } | ExportError::Several(..) => "check exports[].location",
        ExportError::NoFiles(_) => "nothing; if it stays so for a day, look at the export in the Billing console",
        ExportError::DeliveryTime { .. } => "what the message says; the next delivery of AWS is read by itself",
        ExportError::Unreadable(..) | ExportError::Manifest(..) => {
            "check that exports[].location is the folder that AWS writes to, and not a copy of it"
        }
    }
}

/// The remedy for a source that cannot be read; none when its location is to be checked.
pub(super) fn source_remedy(error: &SourceError) -> Option<&'static str> {
    match error {
        SourceError::Denied(..) | SourceError::NoCredentials(..) => {
            Some("`aws sts get-caller-identity` on this machine says whose credentials are used")
        }
        SourceError::OtherRegion(..) => Some("write that region into the configuration"),
        SourceError::NoAnswer(..) | SourceError::Unreachable(..) => {
            Some("see whether this machine reaches that address; a run tries again by itself")
        }
        SourceError::Forbidden(_) => Some("let the user of the worker read it"),
        SourceError::Missing(_) | SourceError::Changed(_) | SourceError::NoPlace(..) | SourceError::Key(..) => None,
    }
}
