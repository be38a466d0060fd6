//! The lines of a booked bill that make up a customer's usage, read again from AWS's files.
//!
//! The books keep sums and no lines. They also keep which files a version had, with size and ETag,
//! so a version can be read again as long as these files are there. The reading is that of
//! `ingest_cur`, by the same rules: a line is listed exactly when it is summed.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

pub use super::aggregate::WantedLines;
use super::aggregate::{LineSum, ListedLine};
use super::delivery::head_all;
use super::export;
use super::read::{ReadExtent, read_extent};
use crate::context::{Context, Export};
use crate::job::Failure;
use crate::source::{Object, SourceError};
use books::units::calendar::{Day, instant};
use books::units::quantity::Quantity;
use books::usage::bill::BillFile;
use books::usage::entries::BookedVersion;
use books::usage::meter::Meter;

/// A line of a bill that is booked as a customer's usage.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BillLine {
    pub meter: String,
    pub day: Day,
    /// Key in the bucket or path in the folder.
    pub file: String,
    /// Null in CSV.
    pub row_group: Option<usize>,
    /// Row of the row group, from 0; in CSV the line of the file in which it begins, from 1.
    pub row: u64,
    /// When the usage began.
    pub start: Timestamp,
    /// `line_item_resource_id`; empty when the line has none, or the file has no such column.
    pub resource: String,
    pub product: String,
    pub usage_type: String,
    /// In the unit of the bill.
    pub amount: Quantity,
    /// `pricing_unit`.
    pub unit: String,
    /// In the unit of the meter, with all its decimals.
    pub quantity: String,
}

/// All lines of a meter and day.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct SummedDay {
    pub meter: String,
    pub day: Day,
    pub lines: u64,
    /// In the unit of the bill.
    pub amount: Quantity,
    /// In the unit of the meter, rounded once, as it is booked.
    pub quantity: Quantity,
}

/// What was found in the files of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct FoundLines {
    /// By file, row group and row.
    pub lines: Vec<BillLine>,
    /// Lines beyond the most that were wanted; they are in the sums.
    pub not_listed: u64,
    pub days: Vec<SummedDay>,
    pub files: usize,
    /// Row groups of the Parquet files that can have such lines.
    pub row_groups_read: u64,
    pub row_groups: u64,
    /// What a person should know of this reading.
    pub notes: Vec<String>,
}

/// Reads the wanted lines of a booked version again.
///
/// # Errors
/// When the version's files are gone or others by now, or cannot be read.
pub async fn lines(context: &Context, version: &BookedVersion, wanted: WantedLines) -> Result<FoundLines, Failure> {
    let settings = &context.read_settings;
    let export = export_of(context, version)?;
    let (objects, mut notes) = files(export, version).await?;
    if version.rules_digest != settings.rules.digest() {
        notes.push(
            "the rules of the configuration have changed since it was booked; these are the lines that the rules of \
             now count"
                .to_owned(),
        );
    }
    let (source, month) = (&export.source, version.bill.month);
    let (mut whole, stats) =
        read_extent(source, &objects, settings, month, ReadExtent::Lines(Arc::new(wanted))).await?;
    let row_groups_read = stats.files.iter().map(|file| file.row_groups).sum();
    let mut found = FoundLines {
        files: objects.len(),
        row_groups_read,
        row_groups: row_groups_read + stats.skipped_row_groups,
        notes,
        ..FoundLines::default()
    };
    let Some(listing) = whole.listing_mut() else { return Ok(found) };
    let meters = &settings.rules.meters;
    let mut sums = BTreeMap::new();
    for ((meter, day), LineSum { lines, amount }) in &listing.sums {
        let (Some(meter), Some(day)) = (meters.get(usize::from(*meter)), Day::from_epoch(*day)) else { continue };
        let amount = Quantity::from_scaled(*amount);
        let (quantity, _) = amount.times(meter.factor).map_err(|e| Failure::GiveUp(e.into()))?;
        let summed = SummedDay { meter: meter.name.clone(), day, lines: *lines, amount, quantity };
        sums.insert((meter.name.clone(), day), summed);
    }
    found.days = sums.into_values().collect();
    found.lines = listing.lines.values().filter_map(|line| of_meter(line, meters)).collect();
    let all: u64 = found.days.iter().map(|day| day.lines).sum();
    found.not_listed = all.saturating_sub(u64::try_from(found.lines.len()).unwrap_or(0));
    Ok(found)
}

fn of_meter(line: &ListedLine, meters: &[Meter]) -> Option<BillLine> {
    let meter = meters.get(usize::from(line.meter))?;
    let (file, row_group, row) = &line.place;
    let amount = line.amount();
    Some(BillLine {
        meter: meter.name.clone(),
        day: Day::from_epoch(line.day)?,
        file: file.to_string(),
        row_group: *row_group,
        row: *row,
        start: instant(line.start),
        resource: line.resource.clone().unwrap_or_default(),
        product: line.product.to_string(),
        usage_type: line.usage_type.to_string(),
        amount,
        unit: line.unit.to_string(),
        quantity: amount.times_exactly(meter.factor),
    })
}

/// The export that delivered a version, or another one of the same payer.
fn export_of<'a>(context: &'a Context, version: &BookedVersion) -> Result<&'a Export, Failure> {
    let BookedVersion { bill, export, .. } = version;
    let own = context.exports.get(export).filter(|export| export.payer == bill.payer);
    own.or_else(|| context.exports.values().find(|export| export.payer == bill.payer)).ok_or_else(|| {
        let why = format!("no export of payer `{}` is configured any more (it was `{export}`)", bill.payer);
        Failure::GiveUp(anyhow!(why))
    })
}

/// The files of a version, if they are what they were when it was booked, and notes about them.
async fn files(export: &Export, version: &BookedVersion) -> Result<(Vec<Object>, Vec<String>), Failure> {
    let source = export.source.as_ref();
    let keys: Vec<String> = version.files.iter().map(|file| file.key.clone()).collect();
    let objects = match head_all(source, &keys).await {
        Ok(objects) => objects,
        Err(SourceError::Missing(name)) => return Err(gone(export, version, format!("{name} is gone")).await),
        Err(error) => return Err(error.into()),
    };
    let pairs = || objects.iter().zip(&version.files);
    // the ETag of a file in a folder is its time, which a copy changes
    let is_bucket = source.bucket().is_some();
    let is_other = |(now, was): &(&Object, &_)| is_other(now, was, is_bucket);
    if let Some((other, _)) = pairs().find(is_other) {
        let why = format!("{} is not what it was when it was booked", source.name(&other.key));
        return Err(gone(export, version, why).await);
    }
    let copied = pairs().filter(|(now, was)| now.etag != was.etag).count();
    let note = || format!("{copied} of the files have another time than when they were booked, and the same size");
    let notes = if copied > 0 { vec![note()] } else { vec![] };
    Ok((objects, notes))
}

fn is_other(now: &Object, was: &BillFile, is_bucket: bool) -> bool {
    now.size != was.size || is_bucket && now.etag != was.etag
}

/// Why a version cannot be read any more, and which one is there.
async fn gone(export: &Export, version: &BookedVersion, why: String) -> Failure {
    let month = version.bill.month;
    let there = async {
        let root = export::find(export.source.as_ref(), &export.prefix, export.format).await?;
        export::newest(export.source.as_ref(), &root, month, None).await
    };
    let now = match there.await {
        Ok(Some(manifest)) if manifest.version != version.version => format!(
            "; AWS's newest version of {month} is {} now, delivered {}, and `meter ingest --month {month}` books it",
            manifest.version, manifest.delivered_at
        ),
        _ => String::new(),
    };
    Failure::GiveUp(anyhow!("{why}{now}"))
}
