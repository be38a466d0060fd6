//! Large bills, read in parts by several workers.
//!
//! `ingest_cur` of a large bill plans groups of files, asks for one `ingest_part` job a group, and
//! waits. A part aggregates its files and stores the sums. When all parts are stored, the same
//! `ingest_cur` job runs again, merges them and goes on as if it had read the files itself: guard,
//! booking and proof are one code path. A part that fails is tried again alone.
//!
//! Parts of different readings cannot be mixed: the plan's identity is a digest over the version,
//! the rules and each file's key, size and entity tag, and every step checks it. A delivery that is
//! replaced meanwhile leaves an obsolete plan, which a later plan for the bill removes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::aggregate::{PARTIAL_SUMS_VERSION, UsageAggregator};
use super::delivery::{Delivery, Reading, find_export, head_all, read_objects, snapshot, verify_unchanged};
use super::read::{FileStats, read_files};
use crate::context::Context;
use crate::job::{Failure, Job, Request};
use crate::source::Object;
use books::units::calendar::Month;
use books::usage::bill::BillId;
use books::usage::partial_reads::{PartFacts, PartId, PlannedFile, StoredPart};

/// Bytes of a group of files, about: large enough to be worth a job, small enough that losing one
/// costs little.
const GROUP_BYTES: u64 = 64 << 20;
/// A bill that waits for its parts runs again after this time at the latest.
const WAIT_AT_MOST: Duration = Duration::from_secs(3600);

/// Read one part of a planned bill and store its sums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestPart {
    pub export: String,
    pub month: Month,
    pub identity: String,
    /// Digest of the rules that the plan was made with.
    pub rules: String,
    pub part: u32,
}

/// How reading a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartOutcome {
    /// Its sums are stored.
    Stored,
    /// Nothing was to be done: the part is stored already, its bill is booked, or another version
    /// is being read.
    Obsolete,
}

/// What reading a part found.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PartReport {
    pub outcome: PartOutcome,
    pub files: usize,
    pub rows: u64,
    /// Bytes of its stored sums.
    pub stored_bytes: usize,
}

impl Job for IngestPart {
    const KIND: &'static str = "ingest_part";
    const DESCRIPTION: &'static str = "read one part of a large bill (asked for by ingest_cur)";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    const MAX_CONCURRENT: usize = 2;
    type Report = PartReport;

    fn key(&self) -> Option<String> {
        Some(format!("{}/{}/{}/{}/{}", Self::KIND, self.export, self.month, self.identity, self.part))
    }

    async fn run(self, context: &Context, _now: Timestamp) -> Result<PartReport, Failure> {
        let obsolete = PartReport { outcome: PartOutcome::Obsolete, files: 0, rows: 0, stored_bytes: 0 };
        let export = find_export(context, &self.export)?;
        let read_settings = &context.read_settings;
        if read_settings.rules.digest() != self.rules {
            return Err(Failure::Retry(anyhow!(
                "this worker reads bills by other rules (meters, tag key) than the worker that planned this one; give both the same configuration"
            )));
        }
        let bill = BillId { payer: export.payer.clone(), month: self.month };
        let id = PartId { bill, identity: self.identity.clone(), part: self.part };
        let Some(planned) = context.books.planned_part(&id).await? else { return Ok(obsolete) };
        let source = &export.source;
        let keys: Vec<String> = planned.iter().map(|f| f.key.clone()).collect();
        let objects = head_all(source.as_ref(), &keys).await?;
        if moved(&planned, &objects) {
            return Ok(obsolete);
        }
        let read = read_files(source, &objects, read_settings, self.month).await;
        if moved(&planned, &head_all(source.as_ref(), &keys).await?) {
            return Ok(obsolete);
        }
        let (aggregator, FileStats { files, files_without_tag, .. }) = read?;
        let rows = files.iter().map(|f| f.rows).sum();
        let facts = PartFacts { files, files_without_tag };
        let packing = tokio::task::spawn_blocking(move || aggregator.pack());
        let sums = packing.await.map_err(|e| Failure::Retry(e.into()))?.map_err(|e| Failure::GiveUp(e.into()))?;
        let (files, stored_bytes) = (facts.files.len(), sums.len());
        if !context.books.store_part(&id, &facts, sums).await? {
            return Ok(obsolete);
        }
        Ok(PartReport { outcome: PartOutcome::Stored, files, rows, stored_bytes })
    }
}

fn moved(planned: &[PlannedFile], now: &[Object]) -> bool {
    planned.iter().zip(now).any(|(was, is)| was.etag != is.etag || was.size != is.size)
}

/// Reads a version: directly, or merged from parts when it is large. While parts are missing, the
/// job waits for them.
pub(super) async fn read_version(
    delivery: &Delivery<'_>,
    context: &Context,
    now: Timestamp,
) -> Result<Reading, Failure> {
    let Delivery { name, export, manifest, bill, .. } = delivery;
    let (source, read_settings) = (&export.source, &context.read_settings);
    let objects = snapshot(source.as_ref(), manifest).await?;
    let bytes: u64 = objects.iter().map(|o| o.size).sum();
    let limit = read_settings.limits.fan_out_bytes.unwrap_or(u64::MAX);
    let groups = group(&objects, GROUP_BYTES.min(limit.max(1)));
    if bytes <= limit || groups.len() < 2 {
        return read_objects(source, manifest, &objects, read_settings, bill.month).await;
    }
    let (identity, parts) = (identity(delivery, &groups), groups.len());
    let missing = context.books.plan_parts(bill, &identity, groups, now).await?;
    if !missing.is_empty() {
        let why = anyhow!("waits for {} of {parts} parts of the bill of {} MiB", missing.len(), bytes >> 20);
        let rules = read_settings.rules.digest();
        let part = |part| IngestPart {
            export: (*name).to_owned(),
            month: bill.month,
            identity: identity.clone(),
            rules: rules.clone(),
            part,
        };
        let requests: Result<Vec<_>, _> = missing.into_iter().map(|n| Request::of(&part(n))).collect();
        return Err(Failure::WaitFor(requests.map_err(|e| Failure::GiveUp(e.into()))?, WAIT_AT_MOST, why));
    }
    let plan = Plan { bill, identity, parts };
    let reading = merge(&plan, context, &objects).await?;
    verify_unchanged(source.as_ref(), manifest, &objects).await.map_err(Failure::Retry)?;
    Ok(reading)
}

/// The plan by which a large bill is read.
struct Plan<'a> {
    bill: &'a BillId,
    identity: String,
    parts: usize,
}

/// Merges all parts, in order.
async fn merge(plan: &Plan<'_>, context: &Context, objects: &[Object]) -> Result<Reading, Failure> {
    let (rules, month) = (&context.read_settings.rules, plan.bill.month);
    let mut whole = UsageAggregator::new(Arc::clone(rules), month);
    let mut files = FileStats::default();
    for part in (0_u32..).take(plan.parts) {
        let id = PartId { bill: plan.bill.clone(), identity: plan.identity.clone(), part };
        let Some(StoredPart { facts, sums }) = context.books.read_part(&id).await? else {
            return Err(Failure::Retry(anyhow!(
                "part {} of the bill is gone; another worker decided the bill",
                id.part
            )));
        };
        let rules = Arc::clone(rules);
        let unpacking = tokio::task::spawn_blocking(move || UsageAggregator::unpack(rules, month, &sums));
        let aggregator = unpacking.await.map_err(|e| Failure::Retry(e.into()))?;
        let aggregator = match aggregator {
            Ok(aggregator) => aggregator,
            Err(why) => {
                context.books.forget_part(&id).await?;
                return Err(Failure::Retry(anyhow!(
                    "part {} of the bill is damaged and is read again: {why}",
                    id.part
                )));
            }
        };
        whole.merge(&aggregator);
        whole.too_much().map_or(Ok(()), |why| Err(Failure::GiveUp(anyhow!("all files together: {why}"))))?;
        files.files.extend(facts.files);
        files.files_without_tag += facts.files_without_tag;
    }
    // proves that the parts are the bill: every file of the manifest, once, as it is now
    let read = files.files.iter().map(|f| (&f.key, f.size, &f.etag));
    if !read.eq(objects.iter().map(|o| (&o.key, o.size, &o.etag))) {
        return Err(Failure::GiveUp(anyhow!("the parts of the bill are not its files; nothing was booked")));
    }
    let totals = whole.finish().map_err(|e| Failure::GiveUp(e.into()))?;
    Ok(Reading { totals, files })
}

/// Groups neighbouring files, up to about `limit` bytes a group. Pure.
fn group(objects: &[Object], limit: u64) -> Vec<Vec<PlannedFile>> {
    let mut groups: Vec<(u64, Vec<PlannedFile>)> = vec![];
    for Object { key, size, etag, .. } in objects {
        let file = PlannedFile { key: key.clone(), size: *size, etag: etag.clone() };
        match groups.last_mut().filter(|(bytes, _)| bytes + size <= limit) {
            Some((bytes, files)) => {
                *bytes += size;
                files.push(file);
            }
            None => groups.push((*size, vec![file])),
        }
    }
    groups.into_iter().map(|(_, files)| files).collect()
}

/// The identity of a plan: a digest over the version, the rules, the groups of files and the form
/// of stored sums. Pure.
fn identity(delivery: &Delivery<'_>, groups: &[Vec<PlannedFile>]) -> String {
    let key = delivery.key;
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    };
    [&key.version, &key.manifest_digest, &key.rules_digest].into_iter().for_each(|text| add(text));
    add(&PARTIAL_SUMS_VERSION.to_string());
    for group in groups {
        add(&group.len().to_string());
        for PlannedFile { key, size, etag } in group {
            add(key);
            add(&size.to_string());
            add(etag);
        }
    }
    digest.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(i: usize, size: u64) -> Object {
        Object { key: format!("f{i}"), size, etag: "e".into(), modified: Timestamp::UNIX_EPOCH }
    }

    proptest! {
        /// Every file is in exactly one group, in order; no group could have taken in its
        /// neighbour's first file.
        #[test]
        fn groups_are_a_partition(sizes in prop::collection::vec(0_u64..100, 0..40), limit in 1_u64..150) {
            let objects: Vec<_> = sizes.iter().enumerate().map(|(i, s)| object(i, *s)).collect();
            let groups = group(&objects, limit);
            let keys: Vec<_> = groups.iter().flatten().map(|f| f.key.clone()).collect();
            prop_assert_eq!(keys, objects.iter().map(|o| o.key.clone()).collect::<Vec<_>>());
            for pair in groups.windows(2) {
                let bytes: u64 = pair[0].iter().map(|f| f.size).sum();
                prop_assert!(bytes + pair[1][0].size > limit);
            }
            for files in &groups {
                let bytes: u64 = files.iter().map(|f| f.size).sum();
                prop_assert!(files.len() == 1 || bytes <= limit);
            }
        }
    }
}
