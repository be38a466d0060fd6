//! Reading the newest bill of an export before anything is configured or booked: what is in it?

use std::sync::Arc;

use jiff::Timestamp;

use super::aggregate::Totals;
use super::batch::Granularity;
use super::delivery::read_version;
use super::export::{self, Manifest, Root};
use super::notes;
use crate::context::ReadSettings;
use crate::job::Failure;
use crate::source::Source;
use books::units::calendar::Month;
use books::usage::bill::{BillNote, LineKind};

/// What a newcomer should know of a bill.
#[derive(Clone, Debug)]
pub struct BillSummary {
    pub month: Month,
    pub manifest: Manifest,
    pub rows: u64,
    /// None where the export has no intervals.
    pub granularity: Option<Granularity>,
    /// Every kind of line of the watched products.
    pub lines: Vec<LineKind>,
    pub notes: Vec<BillNote>,
}

/// Reads the newest version of the newest month that has one; touches no books.
pub async fn summarise(
    source: &Arc<dyn Source>,
    root: &Root,
    read_settings: &ReadSettings,
    now: Timestamp,
) -> Result<Option<BillSummary>, Failure> {
    for month in export::months(source.as_ref(), root).await?.into_iter().rev() {
        let Some(manifest) = export::newest(source.as_ref(), root, month, Some(now)).await? else { continue };
        let read = read_version(source, &manifest, read_settings, month).await?;
        let notes = notes::notes(&read.totals, &read.files, &read_settings.rules);
        let rows = read.files.rows();
        let Totals { lines, seen, .. } = read.totals;
        return Ok(Some(BillSummary { month, manifest, rows, granularity: seen.granularity, lines, notes }));
    }
    Ok(None)
}
