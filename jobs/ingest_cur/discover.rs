//! A look at a bill, without booking it.

use super::delivery::read_version;
use super::export::{self, Manifest};
use crate::context::{Export, ReadSettings};
use crate::job::Failure;
use books::units::calendar::Month;
use books::usage::bill::BillLine;

/// Reads the newest version of a month and says what is in it; touches no books.
///
/// # Errors
/// As the job itself.
pub async fn discover(
    export: &Export,
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Option<(Manifest, Vec<BillLine>)>, Failure> {
    let root = export::find(export.source.as_ref(), &export.prefix, export.format).await?;
    let Some(manifest) = export::newest(export.source.as_ref(), &root, month).await? else { return Ok(None) };
    let read = read_version(&export.source, &manifest, read_settings, month).await?;
    Ok(Some((manifest, read.totals.lines)))
}
