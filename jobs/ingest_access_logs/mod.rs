//! `ingest_access_logs`: S3's server access logs → what each customer's requests were on a day.
//!
//! S3 delivers logs late, twice, or not at all, and says so. So a day's weights are a function of
//! the files that can have lines of it, and of nothing else: each run lists the last ten days, and
//! reads a day whole when the digest of its files is another than the stored one. Late files open a
//! day again; a repeated run changes nothing.
//!
//! Which files those are, and when a day can be read: `places`. What a line says: `line`. That it
//! counts once: `repeats`. What it adds, and to whose sums: `sums`. How much is in memory: `read`.
//!
//! What cannot be right is not stored, and what is stored of the day stays: a day of whose lines
//! more than a tenth are bad, and one of which files have gone since it was read (the bucket of the
//! logs needs a retention of two weeks at least).

mod blocks;
pub mod line;
mod places;
mod read;
pub mod repeats;
mod sums;

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::places::{DayFiles, Places, Quiet};
use self::read::{DayError, DayRead, Reading, read_day};
use self::sums::WantedLines;
use crate::context::{Context, SharedBucket};
use crate::job::{Failure, Job};
use crate::shared_bucket::items::{FoundItems, ItemList, WantedItems};
use crate::shared_bucket::{BucketReport, on_day, past_days, recorded};
use crate::source::Object;
use books::shared_bucket::{BucketDay, ReportSource};
use books::units::calendar::Day;

/// A day is not stored when more than one line of so many is bad.
const LINES_OF_A_BAD_ONE: u64 = 10;
/// Other buckets that are named.
const NAMED_BUCKETS: usize = 3;
/// What the digest is of; another reading of the same lines needs another number.
const READING: &str = "access_logs 2";

/// Read the days of a shared bucket whose access logs are complete and changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestAccessLogs {
    pub bucket: String,
}

impl Job for IngestAccessLogs {
    const KIND: &'static str = "ingest_access_logs";
    const DESCRIPTION: &'static str = "read the access logs of a shared bucket: who fetched how much";
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);
    type Report = BucketReport;

    fn key(&self) -> Option<String> {
        Some(format!("{}/{}", Self::KIND, self.bucket))
    }

    fn needs_attention(report: &BucketReport) -> bool {
        !report.not_read.is_empty()
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<BucketReport, Failure> {
        let bucket = context.shared_buckets.get(&self.bucket).ok_or_else(|| {
            let why = "there is no such shared bucket in the configuration; see [[shared_buckets]] in meter.toml";
            Failure::GiveUp(anyhow!("{}: {why}", self.bucket))
        })?;
        context.books.require_migrated().await?;
        let report = ingest(bucket, context, now).await?;
        let (days, counted) = (report.days_read.len(), report.counted);
        tracing::debug!(
            bucket = %bucket.name, days, counted, files = report.files,
            "access logs of {}: {days} days read, {counted} lines counted", bucket.name
        );
        Ok(report)
    }
}

/// Reads each day that is complete and changed, and stores it.
async fn ingest(bucket: &SharedBucket, context: &Context, now: Timestamp) -> Result<BucketReport, Failure> {
    let place = bucket.access_logs.as_ref().ok_or_else(|| {
        let why = "it has no [shared_buckets.access_logs] in meter.toml, which says where its access logs lie";
        Failure::GiveUp(anyhow!("{}: {why}", bucket.name))
    })?;
    let days = past_days(now);
    let (Some(from), Some(to)) = (days.first(), days.last()) else { return Ok(BucketReport::default()) };
    let places = Places::list(place, &bucket.name, *from, *to).await?;
    let stored = context.books.bucket_day_digests(&bucket.name, ReportSource::AccessLogs, *from).await?;
    let recorded = recorded(context, bucket, *from, *to).await?;
    let mut report = BucketReport::default();
    describe_places(&places, &mut report);
    let settings = &context.read_settings;
    let reading = Reading { source: &place.source, limits: settings.limits, progress: &settings.progress };
    let quiet = Quiet { now, hours: bucket.quiet_hours };
    let mut days_without_files = 0;
    for day in &days {
        let day = *day;
        let files = match places.of_day(day, quiet) {
            DayFiles::Nothing => {
                days_without_files += 1;
                continue;
            }
            DayFiles::Waiting => {
                report.days_waiting += 1;
                continue;
            }
            DayFiles::Ready(files) => files,
        };
        let bucket = &*on_day(bucket, &recorded, day);
        let digest = digest(bucket, &files);
        let known = stored.get(&day);
        if known == Some(&digest) {
            continue;
        }
        if known.is_some()
            && let Some(gone) = files_gone(context, bucket, day, files.len()).await?
        {
            report.not_read.push(gone);
            continue;
        }
        let wanted = WantedLines { bucket: bucket.name.clone(), day, rule: bucket.customers.clone(), items: None };
        let read = match read_day(reading, &files, wanted).await {
            Ok(read) => read,
            Err(DayError::Source(error)) => return Err(error.into()),
            Err(error @ DayError::Sums(sums::SumError::TooManyCustomers(_))) => {
                report.not_read.push(format!("{day}: {error}; the day was not stored"));
                continue;
            }
            // a full disk, or a thread that was stopped
            Err(error) => return Err(Failure::Retry(anyhow!(error).context(format!("access logs of {day}")))),
        };
        describe_day(day, &read, &mut report);
        if places.are_by_event_time() && read.sums.counts.of_other_days > 0 {
            let lines = read.sums.counts.of_other_days;
            report.notes.push(format!(
                "{day}: {lines} lines are of other days than the folder of their file, and were not counted"
            ));
        }
        let counts = &read.sums.counts;
        if counts.bad_lines * LINES_OF_A_BAD_ONE > counts.lines {
            continue;
        }
        let mut found = read.sums.found;
        found.files = u64::try_from(files.len()).unwrap_or(u64::MAX);
        add(&mut report, &found);
        let weights = read.sums.weights;
        let stored =
            BucketDay { bucket: bucket.name.clone(), source: ReportSource::AccessLogs, day, digest, found, weights };
        if context.books.store_bucket_day(stored, now).await? {
            report.days_read.push(day);
        }
    }
    if days_without_files == days.len() {
        report.notes.push(format!(
            "{}: there is no log of {from} to {to}. S3 writes logs some hours after requests: either nobody used the \
             bucket, or its logging is off or has another target",
            place.source.name(&place.prefix)
        ));
    }
    Ok(report)
}

/// The largest requests of a customer on a day, read from the logs of it again; none for a day of
/// which there is no file any more.
pub async fn items(
    context: &Context,
    bucket: &str,
    day: Day,
    wanted: WantedItems,
    now: Timestamp,
) -> Result<Option<FoundItems>, Failure> {
    let missing = || Failure::GiveUp(anyhow!("{bucket}: there are no access logs of it in the configuration"));
    let bucket = context.shared_buckets.get(bucket).ok_or_else(missing)?;
    let place = bucket.access_logs.as_ref().ok_or_else(missing)?;
    let places = Places::list(place, &bucket.name, day, day).await?;
    let DayFiles::Ready(files) = places.of_day(day, Quiet { now, hours: 0 }) else { return Ok(None) };
    let bucket = &*on_day(bucket, &recorded(context, bucket, day, day).await?, day);
    let items = Arc::new(ItemList::new(wanted));
    let (name, rule) = (bucket.name.clone(), bucket.customers.clone());
    let lines = WantedLines { bucket: name, day, rule, items: Some(Arc::clone(&items)) };
    let settings = &context.read_settings;
    let reading = Reading { source: &place.source, limits: settings.limits, progress: &settings.progress };
    let read = read_day(reading, &files, lines).await;
    read.map_err(|error| Failure::GiveUp(anyhow!(error).context(format!("access logs of {day}"))))?;
    Ok(Some(FoundItems { digest: digest(bucket, &files), items: items.largest() }))
}

fn add(report: &mut BucketReport, found: &books::shared_bucket::DayCounts) {
    report.files += found.files;
    report.counted += found.counted;
    report.repeated += found.repeated;
    report.of_nobody += found.of_nobody;
    report.contradictions += found.contradictions;
    report.bad_lines += found.bad_lines;
}

/// Hexadecimal SHA-256 of what a day's weights follow from.
fn digest(bucket: &SharedBucket, files: &[Object]) -> String {
    let mut text = Sha256::new();
    let mut add = |part: &str| {
        text.update(part.len().to_string());
        text.update(":");
        text.update(part);
    };
    add(READING);
    add(&bucket.name);
    add(&bucket.customers.digest_text());
    for file in files {
        add(&file.key);
        add(&file.etag);
    }
    text.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What to say when a day was read from more files than there are now.
async fn files_gone(
    context: &Context,
    bucket: &SharedBucket,
    day: Day,
    files: usize,
) -> Result<Option<String>, Failure> {
    let stored = context.books.bucket_weights(&bucket.name, day, day).await?;
    let before = stored.iter().find(|stored| stored.day.source == ReportSource::AccessLogs);
    let before = before.map_or(0, |stored| stored.day.found.files);
    let files = u64::try_from(files).unwrap_or(u64::MAX);
    Ok((files < before).then(|| {
        format!(
            "{day}: {} of the {before} files that it was read from are gone; what is stored of the day stays. Keep \
             logs for two weeks at least",
            before - files
        )
    }))
}

/// What the list of files says beside the files.
fn describe_places(places: &Places, report: &mut BucketReport) {
    if places.are_mixed() {
        let places::Forms { simple, by_event_time, by_delivery_time } = places.forms;
        report.notes.push(format!(
            "log files are of several forms: {simple} simple, {by_event_time} partitioned by event time, \
             {by_delivery_time} by delivery time; all are read. Was the logging of the bucket changed?"
        ));
    }
    if places.foreign > 0 {
        report.notes.push(format!(
            "{} files or folders are no logs of the bucket and were not read, such as `{}`",
            places.foreign,
            places.foreign_names.join("`, `")
        ));
    }
}

/// What a person should know of a day's lines.
fn describe_day(day: Day, read: &DayRead, report: &mut BucketReport) {
    let (counts, found) = (&read.sums.counts, &read.sums.found);
    if counts.bad_lines > 0 {
        let too_many = counts.bad_lines * LINES_OF_A_BAD_ONE > counts.lines;
        let first: Vec<String> =
            read.first_bad.iter().map(|bad| format!("{}, line {}: {}", bad.file, bad.line, bad.why)).collect();
        let (bad, lines) = (counts.bad_lines, counts.lines);
        let stored = if too_many { "; the day was not stored" } else { "" };
        let what = format!("{day}: {bad} of {lines} lines cannot be read{stored}. {}", first.join("; "));
        if too_many { report.not_read.push(what) } else { report.notes.push(what) }
    }
    if !counts.of_other_buckets.is_empty() {
        let mut buckets: Vec<(&String, &u64)> = counts.of_other_buckets.iter().collect();
        buckets.sort_by_key(|(name, lines)| (std::cmp::Reverse(**lines), name.as_str()));
        let named: Vec<String> =
            buckets.iter().take(NAMED_BUCKETS).map(|(name, lines)| format!("`{name}` ({lines})")).collect();
        let lines: u64 = counts.of_other_buckets.values().sum();
        let what = format!("{day}: {lines} lines are of other buckets and were not counted: {}", named.join(", "));
        // none is of the wanted one: its name is wrong, or the place is
        let none = found.counted == 0;
        if none { report.not_read.push(what) } else { report.notes.push(what) }
    }
    if found.counted > 0 && found.counted == found.of_nobody {
        report.not_read.push(format!(
            "{day}: none of {} lines names a customer; check the bucket's `customer_key`, `customer_pattern`, \
             `customer_parameter` and `customer_uploads`",
            found.counted
        ));
    } else if read.sums.unusable > 0 {
        report.notes.push(format!(
            "{day}: {} lines name a customer in a form that is no id of one; they are nobody's",
            read.sums.unusable
        ));
    }
    if found.contradictions > 0 {
        report.notes.push(format!(
            "{day}: {} lines name one customer by their key, their parameter or their upload, and another by another \
             of these; they are nobody's",
            found.contradictions
        ));
    }
}
