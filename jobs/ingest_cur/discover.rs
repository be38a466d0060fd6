//! Reading a bill without booking it: which kinds of lines does it have?

use std::collections::BTreeMap;

use super::aggregate::{FaultyLines, KindDescription, KindKey, Totals};
use super::delivery::describe_version;
use super::export::{self, Manifest};
use super::notes;
use crate::context::{Export, ReadSettings};
use crate::job::Failure;
use books::units::calendar::Month;
use books::usage::bill::LineKind;

/// A bill that was read and not booked.
#[derive(Clone, Debug)]
pub struct DiscoveredBill {
    pub manifest: Manifest,
    pub lines: Vec<LineKind>,
    /// Lines that a meter counts and that cannot be booked as they are.
    pub faults: Vec<FaultyLines>,
    /// What lines that no rule claims say of themselves.
    pub described: BTreeMap<KindKey, KindDescription>,
    /// Why there are no lines, when the bill has rows.
    pub nothing_watched: Option<String>,
}

/// Reads the newest version of a month; touches no books.
pub async fn discover(
    export: &Export,
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Option<DiscoveredBill>, Failure> {
    let root = export::find(export.source.as_ref(), &export.prefix, export.format).await?;
    let Some(manifest) = export::newest(export.source.as_ref(), &root, month, None).await? else { return Ok(None) };
    let read = describe_version(&export.source, &manifest, read_settings, month).await?;
    let nothing_watched = notes::nothing_watched(&read.totals, read.files.rows());
    let Totals { lines, faults, described, .. } = read.totals;
    Ok(Some(DiscoveredBill { manifest, lines, faults, described, nothing_watched }))
}
