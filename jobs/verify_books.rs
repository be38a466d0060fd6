//! `verify_books`: the audit of the books, by schedule.
//!
//! Every booking is proved before it commits. This job checks all of them again, so that damage
//! from elsewhere (a person with a database shell, a disk) is noticed within a day. It changes
//! nothing but the stored result.

use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::job::{Failure, Job};
use books::audit::checks::Audit;

/// Violations are reported when they are still there after this time.
const CHECK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Check every invariant of the books.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBooks {}

/// The report of an audit.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct VerifyReport {
    /// True when there is no violation.
    pub sound: bool,
    #[serde(flatten)]
    pub audit: Audit,
}

impl Job for VerifyBooks {
    const KIND: &'static str = "verify_books";
    const DESCRIPTION: &'static str = "check that the books add up";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = VerifyReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &VerifyReport) -> bool {
        !report.sound
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<VerifyReport, Failure> {
        context.books.require_migrated().await?;
        let mut audit = context.books.verify().await?;
        if !audit.is_sound() {
            // the checks are several statements, and another process may have booked between two of
            // them; a real violation stays
            tokio::time::sleep(CHECK_AGAIN_AFTER).await;
            audit = context.books.verify().await?;
        }
        context.books.note_audit(&audit, now).await?;
        let sound = audit.is_sound();
        if !sound {
            let broken = audit.checks.iter().filter(|c| !c.violations.is_empty()).map(|c| c.name);
            let broken = broken.collect::<Vec<_>>().join(", ");
            tracing::error!(broken, "the books do not add up: {broken}");
        }
        Ok(VerifyReport { sound, audit })
    }
}
