//! An Inventory's manifest. S3 writes it last, with its checksum beside it, so an Inventory counts
//! from that moment on:
//!
//! ```text
//! <prefix>/<bucket>/<configuration id>/YYYY-MM-DDTHH-MMZ/manifest.json
//! <prefix>/<bucket>/<configuration id>/YYYY-MM-DDTHH-MMZ/manifest.checksum   (MD5 of it)
//! <prefix>/<bucket>/<configuration id>/data/<file>.csv.gz or .parquet
//! ```
//!
//! All Inventories have one folder of data: only the manifest says which files belong together.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html>.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use serde::Deserialize;
use sha2::Sha256;

use crate::context::ReportPlace;
use crate::listed::shown;
use crate::source::{Object, SourceError, read_small};

const MANIFEST: &str = "manifest.json";
const CHECKSUM: &str = "manifest.checksum";
/// The one version that S3 writes.
const VERSION: &str = "2016-11-30";
/// Largest manifest that is read. One of 100,000 files has about 20 MB.
const MANIFEST_LIMIT: u64 = 32 << 20;
const CHECKSUM_LIMIT: u64 = 1 << 10;
/// Most files of an Inventory.
const MOST_FILES: usize = 100_000;
/// How far the time in the manifest may be from that of its folder, and from now.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(24);

/// How the data files are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InventoryFormat {
    /// With the names of the columns: the files have no header.
    Csv(Vec<String>),
    Parquet,
}

/// A data file, as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InventoryFile {
    /// Key in this source.
    pub(super) key: String,
    pub(super) size: u64,
    /// 32 hexadecimal digits.
    pub(super) md5: String,
}

/// An Inventory whose manifest is whole.
#[derive(Clone, Debug)]
pub(super) struct Inventory {
    /// Name of the manifest, for people.
    pub(super) name: String,
    /// SHA-256 of the manifest.
    pub(super) digest: String,
    /// When S3 began to list the bucket.
    pub(super) scanned_at: Timestamp,
    pub(super) format: InventoryFormat,
    pub(super) files: Vec<InventoryFile>,
    /// It tells versions apart.
    pub(super) has_versions: bool,
    pub(super) has_etags: bool,
}

/// Why an Inventory cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It will stay so until somebody acts, or S3 writes what is missing.
    #[error("{0}: {1}")]
    Unusable(String, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestText {
    source_bucket: String,
    version: String,
    /// Milliseconds since 1970, as text.
    creation_timestamp: String,
    file_format: String,
    file_schema: String,
    files: Vec<FileText>,
}

#[derive(Deserialize)]
struct FileText {
    key: String,
    size: u64,
    #[serde(rename = "MD5checksum")]
    md5: String,
}

/// The time in the name of an Inventory's folder, `2026-11-28T01-00Z`; none for other folders.
pub(super) fn folder_time(prefix: &str) -> Option<Timestamp> {
    let name = prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let time = DateTime::strptime("%Y-%m-%dT%H-%MZ", name).ok().filter(|_| name.len() == 17)?;
    time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp())
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The MD5 that a text is, in small letters.
fn md5_of_text(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// What an Inventory is looked up for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) place: &'a ReportPlace,
    /// The bucket that it must list.
    pub(super) bucket: &'a str,
    pub(super) now: Timestamp,
}

/// Reads the manifest in `folder`; none when S3 has not written it yet.
///
/// # Errors
/// What is wrong with it, and what to do.
pub(super) async fn read(wanted: Wanted<'_>, folder: &str) -> Result<Option<Inventory>, ManifestError> {
    let source = wanted.place.source.as_ref();
    let objects = source.list(folder).await?.objects;
    let find = |name: &str| objects.iter().find(|object| object.key.strip_prefix(folder) == Some(name));
    let Some(manifest) = find(MANIFEST) else { return Ok(None) };
    let name = source.name(&manifest.key);
    let unusable = |why: String| ManifestError::Unusable(name.clone(), why);
    let Some(checksum) = find(CHECKSUM) else {
        return Err(unusable(format!(
            "{CHECKSUM}, which S3 writes with it, is missing. If S3 is writing it just now, the next run reads it; a \
             copy needs both files"
        )));
    };
    let text = read_small(source, checksum, CHECKSUM_LIMIT).await?;
    let Some(expected) = md5_of_text(&String::from_utf8_lossy(&text)) else {
        return Err(ManifestError::Unusable(
            source.name(&checksum.key),
            "it is no MD5 of 32 hexadecimal digits; copy it anew from S3".to_owned(),
        ));
    };
    let bytes = read_small(source, manifest, MANIFEST_LIMIT).await?;
    let md5 = hex(&Md5::digest(&bytes));
    if md5 != expected {
        return Err(unusable(format!(
            "its MD5 is {md5}, and {CHECKSUM} beside it says {expected}: one of them was changed or is not whole. Copy \
             both anew from S3; if S3 is writing them just now, the next run reads them"
        )));
    }
    let inventory = parsed(wanted, manifest, &bytes).map_err(unusable)?;
    let by_folder = folder_time(folder).unwrap_or(inventory.scanned_at);
    if inventory.scanned_at.duration_since(by_folder).abs() > CLOCKS_DIFFER {
        return Err(unusable(format!(
            "its creationTimestamp is {}, and its folder is that of {by_folder}; it was put there by hand. Remove the \
             folder, or restore it from S3",
            inventory.scanned_at
        )));
    }
    if inventory.scanned_at.duration_since(wanted.now) > CLOCKS_DIFFER {
        return Err(unusable(format!(
            "it says that S3 began it at {}, and it is {} now; check this machine's clock, and who wrote the folder",
            inventory.scanned_at,
            wanted.now.strftime("%Y-%m-%d %H:%M UTC")
        )));
    }
    Ok(Some(inventory))
}

/// What the manifest says, if all of it can be.
fn parsed(wanted: Wanted<'_>, object: &Object, bytes: &[u8]) -> Result<Inventory, String> {
    let text: ManifestText = serde_json::from_slice(bytes)
        .map_err(|e| format!("it is no manifest of an S3 Inventory ({e}); copy it anew from S3"))?;
    if text.source_bucket != wanted.bucket {
        return Err(format!(
            "it lists the bucket `{}`, and not `{}`: the place of the Inventory must be the folder \
             …/{}/<id of the configuration>",
            shown(&text.source_bucket),
            wanted.bucket,
            wanted.bucket
        ));
    }
    if text.version != VERSION {
        let version = shown(&text.version);
        return Err(format!("its version is `{version}`, and only {VERSION} is known; a newer meter may read it"));
    }
    let milliseconds = text.creation_timestamp.parse().ok();
    let scanned_at = milliseconds.and_then(|ms| Timestamp::from_millisecond(ms).ok()).ok_or_else(|| {
        let time = shown(&text.creation_timestamp);
        format!("its creationTimestamp is `{time}`, which is no time in milliseconds since 1970; copy it anew from S3")
    })?;
    let columns: Vec<&str> = match text.file_format.to_ascii_lowercase().as_str() {
        "csv" => text.file_schema.split(',').map(str::trim).collect(),
        // `message s3.inventory { required binary bucket (UTF8); … }`
        "parquet" => text.file_schema.split(|c: char| !c.is_alphanumeric() && c != '_').collect(),
        "orc" => {
            return Err(
                "its files are ORC, which is not read; change the Inventory's format to Parquet (or CSV)".into()
            );
        }
        other => {
            let format = shown(other);
            return Err(format!("its format is `{format}`; change the Inventory's format to Parquet (or CSV)"));
        }
    };
    let has = |csv: &str, parquet: &str| columns.iter().any(|name| *name == csv || *name == parquet);
    for (csv, parquet) in [("Size", "size"), ("LastModifiedDate", "last_modified_date")] {
        if !has(csv, parquet) {
            return Err(format!("its objects have no {csv}; add the field {csv} to the Inventory's configuration"));
        }
    }
    if text.files.len() > MOST_FILES {
        return Err(format!("it lists {} files; at most {MOST_FILES} are read", text.files.len()));
    }
    let files = text.files.iter().map(|file| located(wanted.place, file)).collect::<Result<Vec<_>, _>>()?;
    let mut keys: Vec<&str> = files.iter().map(|file| file.key.as_str()).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|two| two[0] == two[1]) {
        return Err(format!("it lists the file `{}` twice; copy it anew from S3", shown(twice[0])));
    }
    let is_csv = text.file_format.eq_ignore_ascii_case("csv");
    let names = || columns.iter().map(|name| (*name).to_owned()).collect();
    Ok(Inventory {
        name: wanted.place.source.name(&object.key),
        digest: hex(&Sha256::digest(bytes)),
        scanned_at,
        has_versions: has("VersionId", "version_id"),
        has_etags: has("ETag", "e_tag"),
        format: if is_csv { InventoryFormat::Csv(names()) } else { InventoryFormat::Parquet },
        files,
    })
}

/// A listed file in this source. A folder may hold a copy of the configuration's folder alone, so
/// the part from `data/` on counts; in a bucket, the part before it must be that folder.
fn located(place: &ReportPlace, file: &FileText) -> Result<InventoryFile, String> {
    let name = shown(&file.key);
    let parts: Vec<&str> = file.key.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) || file.key.contains(['\0', '\\']) {
        return Err(format!("it lists `{name}`, whose path leaves the Inventory's folder; copy it anew from S3"));
    }
    let data = parts.iter().rposition(|part| *part == "data").filter(|at| at + 1 < parts.len());
    let Some(data) = data else {
        return Err(format!("it lists `{name}`, which is in no folder `data`; copy it anew from S3"));
    };
    let key = format!("{}{}", place.prefix, parts[data..].join("/"));
    if place.source.bucket().is_some() && key != file.key {
        let folder = place.source.name(&place.prefix);
        return Err(format!(
            "it lists `{name}`, which lies outside {folder}: the Inventory was copied here, or its place is wrong. Name \
             the bucket that S3 writes to; a copy is read from a folder"
        ));
    }
    let md5 = md5_of_text(&file.md5)
        .ok_or_else(|| format!("the MD5checksum of `{name}` is no MD5; copy the manifest anew from S3"))?;
    Ok(InventoryFile { key, size: file.size, md5 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_an_inventory_is_known_by_its_name() {
        let time = |name: &str| folder_time(name).map(|time| time.to_string());
        assert_eq!(time("x/files/daily/2026-11-28T01-00Z/").unwrap(), "2026-11-28T01:00:00Z");
        assert_eq!(time("2028-02-29T23-59Z/").unwrap(), "2028-02-29T23:59:00Z");
        for other in [
            "data/",
            "hive/",
            "",
            "2026-02-30T01-00Z/",
            "2026-11-28T1-00Z/",
            "2026-11-28T01-00Z-old/",
            "dt=2026-11-28-01-00/",
        ] {
            assert_eq!(time(other), None, "{other}");
        }
    }

    #[test]
    fn an_md5_is_32_digits_in_any_case() {
        assert_eq!(md5_of_text("D41D8CD98F00B204E9800998ECF8427E\n").unwrap(), "d41d8cd98f00b204e9800998ecf8427e");
        for other in ["", "d41d8cd98f00b204e9800998ecf8427", "g41d8cd98f00b204e9800998ecf8427e"] {
            assert_eq!(md5_of_text(other), None);
        }
    }
}
