//! `check_months`: whether AWS changed months that are over.
//!
//! `ingest_cur` goes through the newest months, and through older ones until they are complete.
//! After that nobody reads a month again, but AWS may deliver it again: for a refund, or because a
//! tag was applied to past months. So once a day this job compares the newest manifest of each such
//! month with the booked version. It reads no bill and books nothing: usage of such a month changes
//! only when a person says so. What it found is kept, and the state of the books shows it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::delivery_time::is_future;
use super::export::{ExportError, Root, find, newest};
use crate::context::{Context, Export};
use crate::job::{Failure, Job};
use books::units::calendar::Month;
use books::usage::months::{Found, KnownMonth, MonthLook, PayerMonths};

/// Compare the manifests of months that are over with what is booked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckMonths {
    /// Months before the current one that `ingest_cur` reads anyway.
    #[serde(default = "one")]
    pub lookback: u8,
}

fn one() -> u8 {
    1
}

/// The report of a look.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct CheckMonthsReport {
    /// Months of all exports that were looked at.
    pub looked_at: u64,
    /// Those whose newest manifest is the booked one.
    pub as_booked: u64,
    /// Those that AWS changed, or that were never booked and have a bill: `main 2026-08`.
    pub to_be_read: Vec<String>,
    /// Those of which AWS has a newer version that readings go back to by themselves, or that is on
    /// hold already.
    pub known: Vec<String>,
    /// Those without a manifest in the bucket.
    pub without_manifest: Vec<String>,
    /// Those whose manifest cannot be used.
    pub unreadable: Vec<String>,
}

impl Job for CheckMonths {
    const KIND: &'static str = "check_months";
    const DESCRIPTION: &'static str = "look whether AWS changed the bills of months that are over";
    const MAX_ATTEMPTS: u32 = 5;
    type Report = CheckMonthsReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &CheckMonthsReport) -> bool {
        !(report.to_be_read.is_empty() && report.unreadable.is_empty())
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<CheckMonthsReport, Failure> {
        context.books.require_migrated().await?;
        let months = context.books.months(now).await?;
        let mut looks = vec![];
        for (name, export) in context.exports.iter() {
            let Some(of) = months.get(&export.payer) else { continue };
            looks.extend(look(name, export, of, of.closed(now, self.lookback), now).await?);
        }
        context.books.keep_looks(&looks).await?;
        let is_open = |look: &MonthLook| months.get(&look.payer).is_some_and(|of| look.is_open(of, now));
        let mut report = CheckMonthsReport::default();
        for look in looks {
            let name = format!("{} {}", look.export, look.month);
            report.looked_at += 1;
            match look.found {
                Found::AsBooked => report.as_booked += 1,
                Found::Other { .. } if is_open(&look) => report.to_be_read.push(name),
                Found::Other { .. } => report.known.push(name),
                Found::Nothing => report.without_manifest.push(name),
                Found::Unreadable(why) => report.unreadable.push(format!("{name}: {why}")),
            }
        }
        Ok(report)
    }
}

/// Looks at the newest manifests of a payer's months. `name` is that of the payer's export.
pub async fn look(
    name: &str,
    export: &Export,
    of: &PayerMonths,
    months: Vec<Month>,
    now: Timestamp,
) -> Result<Vec<MonthLook>, Failure> {
    let mut looks = vec![];
    if months.is_empty() {
        return Ok(looks);
    }
    let root = find(export.source.as_ref(), &export.prefix, export.format).await?;
    for month in months {
        let found = compare((export, &root), month, of.known.get(&month), now).await?;
        looks.push(MonthLook { payer: export.payer.clone(), export: name.to_owned(), month, at: now, found });
    }
    Ok(looks)
}

/// Compares the newest manifest of a month with the booked version.
async fn compare(
    (export, root): (&Export, &Root),
    month: Month,
    known: Option<&KnownMonth>,
    now: Timestamp,
) -> Result<Found, Failure> {
    let manifest = match newest(export.source.as_ref(), root, month, Some(now)).await {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return Ok(Found::Nothing),
        Err(error @ ExportError::Source(_)) => return Err(error.into()),
        Err(error) => return Ok(Found::Unreadable(error.to_string())),
    };
    let as_booked = |known: &KnownMonth| {
        known.manifest_digest == manifest.digest
            || known.taken_back.as_ref() == Some(&manifest.digest)
            || known.version != manifest.version
                && manifest.delivered_at < known.delivered_at
                && !is_future(known.delivered_at, now)
    };
    if known.is_some_and(as_booked) {
        return Ok(manifest.passed_over.map_or(Found::AsBooked, Found::Unreadable));
    }
    Ok(Found::Other {
        version: manifest.version,
        manifest_digest: manifest.digest,
        delivered_at: manifest.delivered_at,
    })
}
