//! Finding an export in a bucket, and reading its manifests.
//!
//! In both kinds of export the manifest decides: AWS writes it after all data files, it lists them,
//! and it has the version. Layouts for the month 2026-10 (`<…>` are names that the export's owner
//! chose):
//!
//! ```text
//! legacy CUR
//!   <root>/20261001-20261101/[<assemblyId>/]<report>-Manifest.json
//!   <root>/20261001-20261101/[<assemblyId>/]<report>-<n>.csv.gz, or
//!   <root>/<report>/year=2026/month=10/<report>-<n>.snappy.parquet
//! CUR 2.0
//!   <root>/metadata/BILLING_PERIOD=2026-10/<export>-Manifest.json
//!   <root>/data/BILLING_PERIOD=2026-10/[<timestamp>-<executionId>/]<export>-<n>.snappy.parquet
//! ```
//!
//! Sources: <https://docs.aws.amazon.com/cur/latest/userguide/understanding-report-versions.html>,
//! <https://docs.aws.amazon.com/cur/latest/userguide/dataexports-export-delivery.html>.

use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::delivery_time::impossible;
use crate::context::Format;
use crate::source::{Object, Source, SourceError, read_small};
use books::units::calendar::Month;
use books::units::words::several;

/// A column that every FOCUS export has, and no other.
pub(super) const FOCUS_COLUMN: &str = "ChargePeriodStart";
pub(super) const FOCUS: &str = "this is a FOCUS export, which does not name usage types as bills do; \
     set up an export of the table CUR 2.0 (COST_AND_USAGE_REPORT) and name its location";
/// Largest manifest that is read. A CUR 2.0 manifest of 1,000 files has about 250 KB.
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Longest name of a version, in bytes. AWS's have 36, or 61 with the time.
const VERSION_LIMIT: usize = 256;
/// Characters of a listed file's name that an error shows.
const SHOWN: usize = 300;
/// Levels of folders below the configured location that are searched for an export.
const SEARCH_DEPTH: usize = 3;
/// Folders that are searched at most.
const SEARCH_FOLDERS: usize = 200;

/// Why an export or its manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "no {wanted} export below {location}: looked for `metadata/BILLING_PERIOD=YYYY-MM/` and `YYYYMMDD-YYYYMMDD/` in {}; point the export's location at the folder of the export",
        several(*.looked, "folder")
    )]
    NotFound {
        location: String,
        wanted: &'static str,
        /// Folders that were searched.
        looked: usize,
    },
    #[error(
        "several exports below {0}: {1}; name one of them as the location (two exports of one account must not both be booked)"
    )]
    Several(String, String),
    /// The manifest cannot be parsed; AWS may be writing it.
    #[error(
        "{0}: this is no manifest of a {1} export ({2}); if it is being written just now, the next run will read it"
    )]
    Unreadable(String, &'static str, String),
    /// The manifest lists no files: AWS is about to write them.
    #[error("{0}: it lists no data files yet; AWS may be writing them just now, the next run looks again")]
    NoFiles(String),
    /// The time of delivery, which orders versions, cannot be.
    #[error(
        "{manifest}: it was delivered {delivered_at} by {by}: {why}, so it is not read. Check this machine's clock, and \
         who wrote that folder or file; AWS's next delivery is read by itself"
    )]
    DeliveryTime {
        /// Name of the manifest.
        manifest: String,
        delivered_at: Timestamp,
        /// Where the time stands.
        by: &'static str,
        why: String,
    },
    /// The manifest contradicts its export or its folder.
    #[error("{0}: {1}")]
    Manifest(String, String),
}

/// An export's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub format: Format,
    /// Prefix, empty or ending with `/`.
    pub prefix: String,
}

/// A manifest: one version of a month.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub format: Format,
    pub object: Object,
    /// SHA-256 of its bytes.
    pub digest: String,
    /// `assemblyId` or `executionId`.
    pub version: String,
    /// Account number; empty when the manifest has none.
    pub account: String,
    pub delivered_at: Timestamp,
    /// Keys of the data files, in the order of the manifest.
    pub files: Vec<String>,
    /// True when the next delivery overwrites these files.
    pub overwritten: bool,
    /// Why a newer version is not read, when one is there whose time of delivery cannot be.
    pub passed_over: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LegacyManifest {
    assembly_id: String,
    #[serde(default)]
    account: String,
    billing_period: LegacyPeriod,
    report_keys: Vec<String>,
}

#[derive(Deserialize)]
struct LegacyPeriod {
    start: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cur2Manifest {
    execution_id: String,
    #[serde(default)]
    export_arn: String,
    data_files: Vec<String>,
}

fn last_part(prefix: &str) -> &str {
    prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// The month of `yyyymmdd-yyyymmdd`, by its start.
fn legacy_period(part: &str) -> Option<Month> {
    let digits = |s: &str| s.len() == 8 && s.bytes().all(|b| b.is_ascii_digit());
    let (start, end) = part.split_once('-')?;
    (digits(start) && digits(end) && &start[6..] == "01").then_some(())?;
    Month::new(start[..4].parse().ok()?, start[4..6].parse().ok()?)
}

/// The month of `BILLING_PERIOD=2026-10`, in any case (FOCUS exports write lower case).
fn cur2_period(part: &str) -> Option<Month> {
    let (name, month) = part.split_once('=')?;
    name.eq_ignore_ascii_case("BILLING_PERIOD").then(|| month.parse().ok()).flatten()
}

/// Finds the one export at or below `prefix`.
pub async fn find(source: &dyn Source, prefix: &str, wanted: Option<Format>) -> Result<Root, ExportError> {
    let Searched { mut found, looked } = find_all(source, prefix, wanted).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(ExportError::NotFound {
            location: source.name(prefix),
            wanted: wanted.map_or("legacy or CUR 2.0", Format::as_str),
            looked,
        }),
        _ => {
            let names: Vec<_> =
                found.iter().map(|r| format!("{} ({})", source.name(&r.prefix), r.format.as_str())).collect();
            Err(ExportError::Several(source.name(prefix), names.join(", ")))
        }
    }
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct Searched {
    pub found: Vec<Root>,
    /// Folders that were searched.
    pub looked: usize,
}

/// Finds all exports at or below `prefix`.
pub async fn find_all(source: &dyn Source, prefix: &str, wanted: Option<Format>) -> Result<Searched, ExportError> {
    let mut found = vec![];
    let mut level = vec![prefix.to_owned()];
    let mut looked = 0;
    for _ in 0..=SEARCH_DEPTH {
        let mut below = vec![];
        for folder in level {
            if looked == SEARCH_FOLDERS {
                break;
            }
            looked += 1;
            let listing = source.list(&folder).await?;
            let cur2 = listing.folders.iter().any(|f| last_part(f) == "metadata")
                && listing.folders.iter().any(|f| last_part(f) == "data");
            let legacy = listing.folders.iter().any(|f| legacy_period(last_part(f)).is_some());
            let roots = [(cur2, Format::Cur2), (legacy, Format::Legacy)];
            let here = roots.iter().filter(|(is, f)| *is && wanted.is_none_or(|w| w == *f));
            let before = found.len();
            found.extend(here.map(|(_, format)| Root { format: *format, prefix: folder.clone() }));
            if found.len() == before {
                below.extend(listing.folders);
            }
        }
        level = below;
    }
    Ok(Searched { found, looked })
}

/// Where the folders of the months are, and which month each one is of.
fn periods(root: &Root) -> (String, fn(&str) -> Option<Month>) {
    match root.format {
        Format::Legacy => (root.prefix.clone(), legacy_period),
        Format::Cur2 => (format!("{}metadata/", root.prefix), cur2_period),
    }
}

/// The months that have a folder, ascending. A folder may be without a manifest.
pub async fn months(source: &dyn Source, root: &Root) -> Result<Vec<Month>, ExportError> {
    let (parent, period) = periods(root);
    let folders = source.list(&parent).await?.folders;
    let mut months: Vec<Month> = folders.iter().filter_map(|folder| period(last_part(folder))).collect();
    months.sort_unstable();
    months.dedup();
    Ok(months)
}

/// The newest manifest of a month; none when AWS has delivered none yet. With `now`, versions whose
/// time of delivery cannot be are passed over.
///
/// # Errors
/// When a manifest cannot be used, or when all are of such times.
pub async fn newest(
    source: &dyn Source,
    root: &Root,
    month: Month,
    now: Option<Timestamp>,
) -> Result<Option<Manifest>, ExportError> {
    let (parent, period) = periods(root);
    let folders = source.list(&parent).await?.folders;
    let folders: Vec<_> = folders.into_iter().filter(|f| period(last_part(f)) == Some(month)).collect();
    let mut here = vec![];
    let mut below = vec![];
    for folder in &folders {
        let listing = source.list(folder).await?;
        here.extend(listing.objects.into_iter().filter(is_manifest));
        below.extend(listing.folders);
    }
    if here.len() > 1 {
        let keys: Vec<_> = here.iter().map(|o| source.name(&o.key)).collect();
        return Err(ExportError::Several(source.name(&folders[0]), keys.join(", ")));
    }
    let mut passed_over = None;
    // each delivery overwrites the top manifest; copies of older ones are searched only when it is
    // missing or passed over
    if let Some(top) = here.pop() {
        match believed(source, root, month, (top, now)).await {
            Err(error @ ExportError::DeliveryTime { .. }) => passed_over = Some(error),
            other => return other.map(Some),
        }
    }
    for folder in &below {
        let objects = source.list(folder).await?.objects;
        here.extend(objects.into_iter().filter(is_manifest));
    }
    // a copy of a bucket keeps the time in the folder's name, and not that of the object
    here.sort_by_cached_key(|o| (delivery_time(&o.key).unwrap_or(o.modified), o.key.clone()));
    while let Some(next) = here.pop() {
        match believed(source, root, month, (next, now)).await {
            Err(error @ ExportError::DeliveryTime { .. }) => passed_over = passed_over.or(Some(error)),
            Err(error) => return Err(error),
            Ok(manifest) => {
                let passed_over = passed_over.map(|error| error.to_string());
                return Ok(Some(Manifest { passed_over, ..manifest }));
            }
        }
    }
    passed_over.map_or(Ok(None), Err)
}

/// A manifest whose time of delivery can be.
async fn believed(
    source: &dyn Source,
    root: &Root,
    month: Month,
    (object, now): (Object, Option<Timestamp>),
) -> Result<Manifest, ExportError> {
    let manifest = read(source, root, month, object).await?;
    let delivered_at = manifest.delivered_at;
    let Some(why) = now.and_then(|now| impossible(delivered_at, month, now)) else { return Ok(manifest) };
    let by_name = manifest.files.iter().any(|file| delivery_time(file).is_some());
    let by = if by_name { "the name of its folder" } else { "the time of that file" };
    Err(ExportError::DeliveryTime { manifest: source.name(&manifest.object.key), delivered_at, by, why })
}

fn is_manifest(object: &Object) -> bool {
    let name = object.key.rsplit('/').next().unwrap_or_default();
    name.ends_with("Manifest.json") && !name.ends_with("RedshiftManifest.json")
}

/// Reads a manifest of `month`.
///
/// # Errors
/// When it is no manifest of that month, or lists no files, or files outside this export.
pub async fn read(source: &dyn Source, root: &Root, month: Month, object: Object) -> Result<Manifest, ExportError> {
    let name = source.name(&object.key);
    let bad = |why: String| ExportError::Manifest(name.clone(), why);
    let bytes = read_small(source, &object, MANIFEST_LIMIT).await?;
    let digest = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let not_json = |e: serde_json::Error| ExportError::Unreadable(name.clone(), root.format.as_str(), e.to_string());
    if str::from_utf8(&bytes).is_ok_and(|text| text.contains(&format!("\"{FOCUS_COLUMN}\""))) {
        return Err(bad(FOCUS.into()));
    }
    let (version, account, listed) = match root.format {
        Format::Legacy => {
            let m: LegacyManifest = serde_json::from_slice(&bytes).map_err(not_json)?;
            let start = &m.billing_period.start;
            let says = start.get(..8).and_then(|s| legacy_period(&format!("{s}-{s}")));
            if says != Some(month) {
                return Err(bad(format!("its billing period starts {start}, but its folder is that of {month}")));
            }
            (m.assembly_id, m.account, m.report_keys)
        }
        Format::Cur2 => {
            let m: Cur2Manifest = serde_json::from_slice(&bytes).map_err(not_json)?;
            let account = m.export_arn.split(':').nth(4).unwrap_or_default().to_owned();
            (m.execution_id, account, m.data_files)
        }
    };
    if version.is_empty() {
        return Err(bad("it names no version (assemblyId, executionId)".into()));
    }
    if version.len().max(account.len()) > VERSION_LIMIT {
        return Err(bad(format!("its version or account has more than {VERSION_LIMIT} bytes; it is damaged")));
    }
    if listed.is_empty() {
        return Err(ExportError::NoFiles(name));
    }
    let files =
        listed.iter().map(|uri| locate(source, root, month, uri).map_err(bad)).collect::<Result<Vec<_>, _>>()?;
    // two spellings of a path are one file of a folder
    let plain = |file: &String| file.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let mut unique: Vec<String> = files.iter().map(plain).collect();
    unique.sort();
    unique.dedup();
    if unique.len() != files.len() {
        return Err(bad("it lists a data file twice".into()));
    }
    let delivered_at = files.iter().find_map(|f| delivery_time(f)).unwrap_or(object.modified);
    let overwritten = !files.iter().all(|f| f.split('/').any(|part| part.contains(&version)));
    let format = root.format;
    Ok(Manifest { format, object, digest, version, account, delivered_at, files, overwritten, passed_over: None })
}

/// The time of delivery in the folder's name of an export that keeps its versions:
/// `2026-04-16T15:24:15.653Z-04e9e487-…`.
fn delivery_time(key: &str) -> Option<Timestamp> {
    key.split('/').find_map(|part| {
        let (time, rest) = part.split_at_checked(part.find("Z-")? + 1)?;
        (rest.len() > 8).then(|| time.parse().ok()).flatten()
    })
}

/// Key of a listed file in this source. The part from the month on is looked up in this export's
/// folder; in a bucket, the part before it must be that folder.
fn locate(source: &dyn Source, root: &Root, month: Month, uri: &str) -> Result<String, String> {
    let shown: String = uri.chars().take(SHOWN).collect();
    let key = match uri.strip_prefix("s3://") {
        Some(rest) => {
            let (bucket, key) = rest.split_once('/').ok_or_else(|| format!("`{shown}` names no file"))?;
            if source.bucket().is_some_and(|own| own != bucket) {
                return Err(format!(
                    "it lists files of another bucket, s3://{bucket}: the export was copied here, or its location is wrong. Name the bucket that AWS \
                     writes to; a copy is read from a folder"
                ));
            }
            key
        }
        None => uri,
    };
    let parts: Vec<&str> = key.split('/').collect();
    if parts.iter().any(|p| *p == ".." || *p == ".") || key.contains('\0') || key.contains('\\') {
        return Err(format!("it lists `{shown}`, whose path leaves the export's folder"));
    }
    let at = |i: usize| parts.get(i).copied().unwrap_or_default();
    let number = |part: &str, name: &str| part.strip_prefix(name).and_then(|n| n.parse::<i16>().ok());
    let start = (0..parts.len()).find_map(|i| match root.format {
        Format::Cur2 => cur2_period(at(i + 1)).filter(|_| at(i) == "data").map(|m| (i, m)),
        Format::Legacy => legacy_period(at(i)).map(|m| (i, m)).or_else(|| {
            let (year, number) = (number(at(i + 1), "year=")?, number(at(i + 2), "month=")?);
            Month::new(year, i8::try_from(number).ok()?).map(|m| (i, m))
        }),
    });
    let Some((start, says)) = start else {
        return Err(format!("it lists `{shown}`, which is not where a {} export keeps its data", root.format.as_str()));
    };
    if says != month {
        return Err(format!("it lists `{shown}`, a file of {says}, but its folder is that of {month}"));
    }
    let own = format!("{}{}", root.prefix, parts[start..].join("/"));
    if source.bucket().is_some() && own != key {
        return Err(format!("it lists `{shown}`, which lies outside this export ({})", source.name(&root.prefix)));
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;
    use futures::future::BoxFuture;

    use super::*;
    use crate::source::{Fetched, Folder, Listing};

    fn month() -> Month {
        "2026-10".parse().unwrap()
    }

    #[test]
    fn listed_files_are_found_in_a_copy_of_the_bucket() {
        let source = Folder::new("/nowhere");
        let cur2 = Root { format: Format::Cur2, prefix: "x/".into() };
        let legacy = Root { format: Format::Legacy, prefix: "cur/bill/".into() };
        let ok = |root: &Root, uri: &str| locate(&source, root, month(), uri);
        assert_eq!(
            ok(&cur2, "s3://b/a/e/data/BILLING_PERIOD=2026-10/t-1/e-00001.snappy.parquet").unwrap(),
            "x/data/BILLING_PERIOD=2026-10/t-1/e-00001.snappy.parquet"
        );
        assert_eq!(
            ok(&legacy, "/cur/bill/20261001-20261101/a1/bill-1.csv.gz").unwrap(),
            "cur/bill/20261001-20261101/a1/bill-1.csv.gz"
        );
        for path in ["bill/year=2026/month=10/f.parquet", "bill/year=2026/month=010/f.parquet"] {
            assert_eq!(ok(&legacy, &format!("cur/bill/{path}")).unwrap(), format!("cur/bill/{path}"));
        }
        for uri in [
            "s3://b/e/data/BILLING_PERIOD=2026-09/e.parquet",
            "s3://b/e/data/BILLING_PERIOD=2026-10/../../../etc/passwd",
            "s3://b",
            "e/metadata/BILLING_PERIOD=2026-10/e.parquet",
        ] {
            assert!(ok(&cur2, uri).is_err(), "{uri}");
        }
    }

    /// A folder with the name of a bucket.
    #[derive(Debug)]
    struct Named(Folder);

    impl Source for Named {
        fn name(&self, key: &str) -> String {
            self.0.name(key)
        }
        fn bucket(&self) -> Option<&str> {
            Some("billing")
        }
        fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>> {
            self.0.list(prefix)
        }
        fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>> {
            self.0.head(key)
        }
        fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>> {
            self.0.read(object, range)
        }
        fn fetched(&self) -> &Fetched {
            self.0.fetched()
        }
    }

    #[test]
    fn in_a_bucket_files_of_other_buckets_and_exports_are_refused() {
        let source = Named(Folder::new("/nowhere"));
        let root = Root { format: Format::Cur2, prefix: "cur/e/".into() };
        let tail = "data/BILLING_PERIOD=2026-10/e.parquet";
        let ok = |uri: String| locate(&source, &root, month(), &uri);
        assert_eq!(ok(format!("s3://billing/cur/e/{tail}")).unwrap(), format!("cur/e/{tail}"));
        assert!(ok(format!("s3://other/cur/e/{tail}")).unwrap_err().contains("files of another bucket, s3://other"));
        assert!(ok(format!("s3://billing/cur/other/{tail}")).unwrap_err().contains("outside this export"));
    }

    #[test]
    fn a_create_new_folder_tells_when_it_was_made() {
        let key =
            "d/data/BILLING_PERIOD=2026-04/2026-04-16T15:24:15.653Z-04e9e487-79a7-42b1-a680-1de7c660dc8f/x.parquet";
        assert_eq!(delivery_time(key).unwrap().to_string(), "2026-04-16T15:24:15.653Z");
        assert!(delivery_time("d/data/BILLING_PERIOD=2026-04/x.parquet").is_none());
    }
}
