//! A delivery of AWS: whether it still has to be booked, and reading it whole and unchanged.

use std::sync::Arc;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::aggregate::{Totals, UsageAggregator};
use super::delivery_time::is_future;
use super::export::Manifest;
use super::read::{FileStats, ReadExtent, read_extent, read_files};
use super::report::IngestOutcome;
use crate::context::{Context, Export, ReadSettings};
use crate::data_files::read_error::ReadError;
use crate::job::Failure;
use crate::source::{Object, Source, SourceError};
use books::units::calendar::Month;
use books::usage::bill::{BillId, BookedVersions, TakenBack, VersionKey};

/// Objects that are looked up at once.
const HEADS_IN_FLIGHT: usize = 8;

/// A version of a bill, ready to be read.
pub(super) struct Delivery<'a> {
    /// Name of the export.
    pub(super) name: &'a str,
    pub(super) export: &'a Export,
    pub(super) manifest: &'a Manifest,
    pub(super) key: &'a VersionKey,
    pub(super) bill: &'a BillId,
}

/// A version that was read whole and did not change meanwhile.
pub(super) struct Reading {
    pub(super) totals: Totals,
    pub(super) files: FileStats,
}

pub(super) fn find_export<'a>(context: &'a Context, name: &str) -> Result<&'a Export, Failure> {
    context.exports.get(name).ok_or_else(|| {
        let names: Vec<_> = context.exports.keys().map(String::as_str).collect();
        Failure::GiveUp(anyhow!("there is no export named `{name}`; configured: {}", names.join(", ")))
    })
}

/// The time of a run, and what it would apportion by.
pub(super) struct Now {
    pub(super) instant: Timestamp,
    /// As [`books::shared_bucket::reports::Reports::digest`]; empty where nothing is apportioned.
    pub(super) reports: String,
}

/// The outcome when the version need not be read; none when it has to be. Pure.
pub(super) fn already_booked(
    manifest: &Manifest,
    key: &VersionKey,
    booked: &BookedVersions,
    now: &Now,
) -> Option<IngestOutcome> {
    let current = booked.current.as_ref()?;
    if current.key == *key {
        // other reports give other shares of a shared bucket
        return (current.reports_digest == now.reports).then_some(IngestOutcome::Unchanged);
    }
    // other rules, or other files under the same version: the version is read anew
    if current.key.version == manifest.version {
        return None;
    }
    // taken back, and other rules by now: it was never booked by these
    if booked.taken_back.as_ref().is_some_and(|taken| taken.key.version == manifest.version) {
        return None;
    }
    let superseded = booked.applied.contains(&manifest.version);
    let older = manifest.delivered_at < current.delivered_at;
    // a time that has not come yet says nothing about what was delivered before it
    ((superseded || older) && !is_future(current.delivered_at, now.instant)).then_some(IngestOutcome::Older)
}

/// The plan that had booked this version, when it was taken back and is not to be booked again by
/// itself. `reports` is as [`Now::reports`]. Pure.
pub(super) fn taken_back<'a>(key: &VersionKey, booked: &'a BookedVersions, reports: &str) -> Option<&'a TakenBack> {
    booked.taken_back.as_ref().filter(|taken| taken.key == *key && taken.reports_digest == reports)
}

/// What a person should know of a version that was taken back.
pub(super) fn stays_taken_back(taken: &TakenBack) -> String {
    format!(
        "change {} booked this version by this configuration, and was reverted; it is not booked again by itself. \
         `meter ingest --plan FILE` plans it anew",
        taken.plan
    )
}

/// What a person should know when the booked version is of the future: books of earlier builds can
/// have one.
pub(super) fn replaces_the_future(booked: &BookedVersions, now: Timestamp) -> Option<String> {
    let current = booked.current.as_ref().filter(|current| is_future(current.delivered_at, now))?;
    let (version, at) = (&current.key.version, current.delivered_at);
    Some(format!(
        "the booked version {version} says that it was delivered {at}, which cannot be; this delivery counts as newer"
    ))
}

/// Refuses to book one account's usage twice, and two accounts' usage as one.
pub(super) fn check_account(bill: &BillId, manifest: &Manifest, booked: &BookedVersions) -> Result<(), Failure> {
    let (payer, month, account) = (&bill.payer, bill.month, &manifest.account);
    if let Some(other) = &booked.account_booked_as {
        return Err(Failure::GiveUp(anyhow!(
            "the bill of account {account} for {month} is already booked under payer `{other}`; \
             booking it under `{payer}` too would count everything twice. \
             Give both exports the same payer label, or remove one of them"
        )));
    }
    if let Some(current) = &booked.current
        && !current.account.is_empty()
        && !account.is_empty()
        && current.account != *account
    {
        let known = &current.account;
        return Err(Failure::GiveUp(anyhow!(
            "payer `{payer}` is account {known} in the books, but this bill is of account {account}; \
             give each payer account a label of its own"
        )));
    }
    Ok(())
}

/// Reads a version whole.
pub(super) async fn read_version(
    source: &Arc<dyn Source>,
    manifest: &Manifest,
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Reading, Failure> {
    let objects = snapshot(source.as_ref(), manifest).await?;
    read_objects(source, manifest, &objects, read_settings, month).await
}

/// Reads a version whole, and describes the lines that no rule claims. A column that describes and
/// cannot be read is no fault: the version is then read without them, as `ingest_cur` reads it.
pub(super) async fn describe_version(
    source: &Arc<dyn Source>,
    manifest: &Manifest,
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Reading, Failure> {
    let objects = snapshot(source.as_ref(), manifest).await?;
    let read = match read_extent(source, &objects, read_settings, month, ReadExtent::Descriptions).await {
        Err(ReadError::Broken { .. }) => read_files(source, &objects, read_settings, month).await,
        read => read,
    };
    finish(source.as_ref(), manifest, &objects, read).await
}

/// As [`read_version`], when the files have been looked up already.
pub(super) async fn read_objects(
    source: &Arc<dyn Source>,
    manifest: &Manifest,
    objects: &[Object],
    read_settings: &ReadSettings,
    month: Month,
) -> Result<Reading, Failure> {
    let read = read_files(source, objects, read_settings, month).await;
    finish(source.as_ref(), manifest, objects, read).await
}

async fn finish(
    source: &dyn Source,
    manifest: &Manifest,
    objects: &[Object],
    read: Result<(UsageAggregator, FileStats), ReadError>,
) -> Result<Reading, Failure> {
    // a change explains every other error, and the next run reads the new state whole
    verify_unchanged(source, manifest, objects).await.map_err(Failure::Retry)?;
    let (aggregator, files) = read?;
    let totals = aggregator.finish().map_err(|e| Failure::GiveUp(e.into()))?;
    Ok(Reading { totals, files })
}

/// The files of a version as they are now.
pub(super) async fn snapshot(source: &dyn Source, manifest: &Manifest) -> Result<Vec<Object>, Failure> {
    let objects = head_all(source, &manifest.files).await?;
    // AWS writes the manifest last. Where deliveries overwrite each other, a file that is newer
    // than its manifest belongs to the next delivery. (Files of a folder were copied in any order,
    // so their times mean nothing.)
    let written = |o: &&Object| o.modified > manifest.object.modified;
    if let Some(file) = objects.iter().find(written).filter(|_| manifest.overwritten && source.bucket().is_some()) {
        let name = source.name(&file.key);
        return Err(Failure::Retry(anyhow!(
            "{name} is newer than its manifest: AWS is writing the next delivery over this one \
             (or a copy was made out of order)"
        )));
    }
    Ok(objects)
}

/// Looks up size and entity tag of each object.
pub(super) async fn head_all(source: &dyn Source, keys: &[String]) -> Result<Vec<Object>, SourceError> {
    // collected first: a stream over borrowed keys is not general enough for a spawned future
    let heads: Vec<_> = keys.iter().map(|key| source.head(key)).collect();
    futures::stream::iter(heads).buffered(HEADS_IN_FLIGHT).try_collect().await
}

/// Fails when the manifest or a file is not what it was in `objects`.
pub(super) async fn verify_unchanged(
    source: &dyn Source,
    manifest: &Manifest,
    objects: &[Object],
) -> anyhow::Result<()> {
    let name = source.name(&manifest.object.key);
    let now = source.head(&manifest.object.key).await?;
    if now.etag != manifest.object.etag || now.size != manifest.object.size {
        return Err(anyhow!("{name} was replaced while its files were read; nothing was booked"));
    }
    let again = head_all(source, &manifest.files).await?;
    match objects.iter().zip(&again).find(|(was, is)| was.etag != is.etag || was.size != is.size) {
        Some((was, _)) => Err(anyhow!("{} changed while it was read; nothing was booked", source.name(&was.key))),
        None => Ok(()),
    }
}
