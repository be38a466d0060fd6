//! `ingest_inventory`: S3's Inventories of a shared bucket → byte-seconds of days by storage class
//! and customer.
//!
//! A day is a pure function of files: each run finds the Inventories that say something of a day
//! (`windows`), and reads the day anew when they or the rules are not those that it was read from.
//! So a first reading, a late Inventory, another rule and a repeat are one path, and the order in
//! which Inventories come cannot matter.
//!
//! An Inventory lists what lies in the bucket while it is made. One sighting of an object tells
//! when it was made and when it ends, and thereby its whole life (`intervals`); all other sightings
//! of it count nothing (`seen`). No object becomes a row in the books (`tally`).
//!
//! What is not known stays with the house: an object that no Inventory listed, because it was
//! removed before; unfinished uploads, which no Inventory lists. An object with a date of expiry
//! that is removed or overwritten before it counts up to that date. Inventories must be kept for
//! two weeks: days of the last ten are looked at.
//!
//! Memory grows with the objects that are billed on a day, 20 to 39 bytes for each, and with
//! customers × classes; not with rows or Inventories.

mod csv_rows;
mod intervals;
mod manifest;
mod parquet_rows;
mod read;
mod seen;
mod tally;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::manifest::{Inventory, Wanted, hex};
use self::read::{DayToRead, Unreadable, read_day};
use self::windows::{Inventories, Readiness, WINDOW_DAYS, digest, find, start_of, was_read_from};
use crate::context::{Context, ReportPlace, SharedBucket};
use crate::data_files::read_error::ReadError;
use crate::job::{Failure, Job};
use crate::shared_bucket::items::{FoundItems, ItemList, WantedItems};
use crate::shared_bucket::{BucketReport, on_day, past_days, recorded};
use books::shared_bucket::uploads::RecordedUpload;
use books::shared_bucket::{BucketDay, ReportSource};
use books::units::calendar::Day;

/// Read the days of a shared bucket that its Inventories tell something new of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestInventory {
    pub bucket: String,
}

impl Job for IngestInventory {
    const KIND: &'static str = "ingest_inventory";
    const DESCRIPTION: &'static str = "read from S3 Inventories who stored how much in a shared bucket";
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
    type Report = BucketReport;

    fn key(&self) -> Option<String> {
        Some(format!("{}/{}", Self::KIND, self.bucket))
    }

    fn needs_attention(report: &BucketReport) -> bool {
        // nobody's alone: the rule fits no key
        !report.not_read.is_empty()
            || report.bad_lines > 0
            || (report.counted > 0 && report.of_nobody == report.counted)
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<BucketReport, Failure> {
        let (bucket, place) = find_bucket(context, &self.bucket)?;
        context.books.require_migrated().await?;
        let days = past_days(now);
        let Some(first) = days.first().copied() else { return Ok(BucketReport::default()) };
        let stored = context.books.bucket_day_digests(&bucket.name, ReportSource::Inventory, first).await?;
        let inventories = find(Wanted { place, bucket: &bucket.name, now }, first).await?;
        let (inventories, broken) = (&inventories, vec![]);
        let recorded = recorded(context, bucket, first, days.last().copied().unwrap_or(first)).await?;
        let run = Run { context, bucket, place, inventories, recorded, stored, broken, now };
        run.read(&days).await
    }
}

/// The largest objects that a customer has of a day, read from the Inventories of it again; none
/// for a day of which there is no Inventory any more.
pub async fn items(
    context: &Context,
    bucket: &str,
    day: Day,
    wanted: WantedItems,
    now: Timestamp,
) -> Result<Option<FoundItems>, Failure> {
    let (bucket, place) = find_bucket(context, bucket)?;
    let inventories = find(Wanted { place, bucket: &bucket.name, now }, day).await?;
    let Readiness::Ready(inventories) = inventories.of_day(day, now) else { return Ok(None) };
    let bucket = &*on_day(bucket, &recorded(context, bucket, day, day).await?, day);
    let (items, digest) = (Arc::new(ItemList::new(wanted)), digest(bucket, &inventories));
    let (source, start, inventories) = (&place.source, start_of(day), &inventories);
    let to_read = DayToRead { source, bucket, start, inventories, digest, items: Some(Arc::clone(&items)) };
    let read = read_day(to_read, &context.read_settings.limits).await;
    read.map_err(|Unreadable { error, .. }| Failure::GiveUp(error.into()))?;
    Ok(Some(FoundItems { digest: hex(&digest), items: items.largest() }))
}

fn find_bucket<'a>(context: &'a Context, name: &str) -> Result<(&'a SharedBucket, &'a ReportPlace), Failure> {
    let Some(bucket) = context.shared_buckets.get(name) else {
        let names: Vec<_> = context.shared_buckets.keys().map(String::as_str).collect();
        let names = names.join(", ");
        return Err(Failure::GiveUp(anyhow!("there is no shared bucket named `{name}`; configured: {names}")));
    };
    let Some(place) = &bucket.inventory else {
        return Err(Failure::GiveUp(anyhow!(
            "the shared bucket `{name}` has no Inventory; name its place under [shared_buckets.inventory]"
        )));
    };
    Ok((bucket, place))
}

/// A run with what it found.
struct Run<'a> {
    context: &'a Context,
    bucket: &'a SharedBucket,
    place: &'a ReportPlace,
    inventories: &'a Inventories,
    /// What the web backend recorded of the objects.
    recorded: Vec<RecordedUpload>,
    /// The digests of days that the books have.
    stored: BTreeMap<Day, String>,
    /// Digests of the Inventories of which a file was found damaged.
    broken: Vec<String>,
    now: Timestamp,
}

impl Run<'_> {
    async fn read(mut self, days: &[Day]) -> Result<BucketReport, Failure> {
        let mut report = BucketReport::default();
        report.not_read.extend(self.inventories.unusable.iter().map(|inventory| inventory.why.clone()));
        if self.inventories.is_empty() {
            let place = self.place.source.name(&self.place.prefix);
            report.not_read.push(format!(
                "{place}: there is no Inventory yet, no folder like 2026-11-28T01-00Z. S3 writes the first one within 48 \
                 hours; else name the folder …/{}/<id of the configuration>",
                self.bucket.name
            ));
        }
        for day in days {
            match self.inventories.of_day(*day, self.now) {
                Readiness::Ready(inventories) => self.read_one(*day, &inventories, &mut report).await?,
                Readiness::Waiting => report.days_waiting += 1,
                Readiness::Missed => report.not_read.push(format!(
                    "{day}: S3 began no Inventory in the {} days after it, so nobody can be shown to have stored \
                     something; an Inventory must be daily",
                    WINDOW_DAYS - 1
                )),
                Readiness::Unusable | Readiness::TooEarly => (),
            }
        }
        for why in &report.not_read {
            tracing::warn!(bucket = %self.bucket.name, "an Inventory of {} is not read: {why}", self.bucket.name);
        }
        Ok(report)
    }

    /// Reads a day, unless it was read from the same, or from more than there is now.
    async fn read_one(
        &mut self,
        day: Day,
        inventories: &[&Inventory],
        report: &mut BucketReport,
    ) -> Result<(), Failure> {
        let bucket = &*on_day(self.bucket, &self.recorded, day);
        let digest = digest(bucket, inventories);
        let text = hex(&digest);
        if let Some(stored) = self.stored.get(&day) {
            let may_lack_some = || self.inventories.may_lack_some(day, self.now);
            if *stored == text || may_lack_some() && !was_read_from(stored, bucket, inventories) {
                return Ok(());
            }
        }
        if inventories.iter().any(|inventory| self.broken.contains(&inventory.digest)) {
            return Ok(());
        }
        let (source, start) = (&self.place.source, start_of(day));
        let to_read = DayToRead { source, bucket, start, inventories, digest, items: None };
        let (found, weights) = match read_day(to_read, &self.context.read_settings.limits).await {
            Ok(read) => read,
            Err(Unreadable { error: ReadError::Source(error), .. }) => return Err(error.into()),
            Err(Unreadable { error, inventory }) => {
                report.not_read.push(error.to_string());
                self.broken.extend(inventory);
                return Ok(());
            }
        };
        let (bucket, source) = (bucket.name.clone(), ReportSource::Inventory);
        let read = BucketDay { bucket, source, day, digest: text, found, weights };
        if !self.context.books.store_bucket_day(read, self.now).await? {
            return Ok(());
        }
        report.days_read.push(day);
        if found.contradictions > 0 {
            report.notes.push(format!(
                "{day}: {} objects name one customer by their key and another by their upload, or two customers \
                 recorded them; they are nobody's",
                found.contradictions
            ));
        }
        report.files += found.files;
        report.counted += found.counted;
        report.repeated += found.repeated;
        report.of_nobody += found.of_nobody;
        report.contradictions += found.contradictions;
        report.bad_lines += found.bad_lines;
        Ok(())
    }
}
