//! S3 Inventories in a folder, in both formats, as S3 lays them out: the data files of all nights
//! in one folder, and for each night a manifest with the MD5 of each file, and the manifest's own
//! MD5 beside it.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html>.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use md5::{Digest, Md5};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

/// How data files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Csv,
    Parquet,
}

pub const FORMS: [Form; 2] = [Form::Csv, Form::Parquet];

/// An object as S3 lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub key: String,
    pub version: Option<String>,
    pub is_latest: bool,
    pub is_delete_marker: bool,
    pub size: Option<i64>,
    pub created: Option<String>,
    pub etag: String,
    pub class: String,
    pub expires: Option<String>,
}

/// An object of a key, with so many bytes, made at this time.
pub fn object(key: &str, size: i64, created: &str) -> StoredObject {
    StoredObject {
        key: key.into(),
        version: None,
        is_latest: true,
        is_delete_marker: false,
        size: Some(size),
        created: Some(created.into()),
        etag: hex(&Md5::digest(format!("{key} {size}"))),
        class: "STANDARD".into(),
        expires: None,
    }
}

/// The columns in the order of a configuration with all versions.
const COLUMNS: [(&str, &str); 10] = [
    ("Bucket", "bucket"),
    ("Key", "key"),
    ("VersionId", "version_id"),
    ("IsLatest", "is_latest"),
    ("IsDeleteMarker", "is_delete_marker"),
    ("Size", "size"),
    ("LastModifiedDate", "last_modified_date"),
    ("ETag", "e_tag"),
    ("StorageClass", "storage_class"),
    ("LifecycleExpirationDate", "lifecycle_expiration_date"),
];
const VERSIONS: [&str; 3] = ["VersionId", "IsLatest", "IsDeleteMarker"];

/// An Inventory that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInventory {
    /// The bucket that is listed.
    pub bucket: String,
    /// When it began: `2026-11-28T01:00:00Z`.
    pub began: String,
    pub form: Form,
    /// The objects of each data file.
    pub files: Vec<Vec<StoredObject>>,
    /// Columns that it does not have.
    pub without: Vec<&'static str>,
    /// Rows in a row group of Parquet.
    pub row_group_rows: usize,
}

impl NewInventory {
    /// One file, current versions only, row groups of few rows.
    pub fn new(bucket: &str, form: Form, began: &str, objects: &[StoredObject]) -> Self {
        Self {
            bucket: bucket.into(),
            began: began.into(),
            form,
            files: vec![objects.to_vec()],
            without: VERSIONS.to_vec(),
            row_group_rows: 5,
        }
    }

    /// Of all versions.
    #[must_use]
    pub fn with_versions(mut self) -> Self {
        self.without.retain(|column| !VERSIONS.contains(column));
        self
    }

    #[must_use]
    pub fn without(mut self, column: &'static str) -> Self {
        self.without.push(column);
        self
    }

    fn columns(&self) -> Vec<(&'static str, &'static str)> {
        COLUMNS.into_iter().filter(|(csv, _)| !self.without.contains(csv)).collect()
    }

    /// The time at which it began.
    fn began(&self) -> Result<Timestamp> {
        self.began.parse().with_context(|| format!("`{}` is no time", self.began))
    }

    /// The name of its folder, `2026-11-28T01-00Z`.
    ///
    /// # Errors
    /// When `began` is no time.
    pub fn folder(&self) -> Result<String> {
        Ok(self.began()?.strftime("%Y-%m-%dT%H-%MZ").to_string())
    }

    /// Writes it below the folder of a configuration, and returns the folder of its manifest.
    ///
    /// # Errors
    /// When a time is none, or a file cannot be written.
    pub fn write(&self, configuration: &Path) -> Result<PathBuf> {
        let files = self.files.iter().map(|objects| self.data(objects)).collect::<Result<Vec<_>>>()?;
        self.write_files(configuration, &files)
    }

    /// As [`NewInventory::write`], with these data files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_files(&self, configuration: &Path, files: &[(String, Vec<u8>)]) -> Result<PathBuf> {
        let data = configuration.join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let mut listed = vec![];
        for (name, bytes) in files {
            let path = data.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            listed.push(self.listed(name, bytes.len(), &hex(&Md5::digest(bytes))));
        }
        let folder = configuration.join(self.folder()?);
        write_manifest(&folder, &self.manifest(listed)?.to_string())?;
        Ok(folder)
    }

    /// Writes the manifest of data files that are there already; their MD5 is not computed.
    ///
    /// # Errors
    /// When one is not there, or the manifest cannot be written.
    pub fn write_listing(&self, configuration: &Path, names: &[String]) -> Result<()> {
        let mut listed = vec![];
        for name in names {
            let path = configuration.join("data").join(name);
            let file = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
            listed.push(self.listed(name, usize::try_from(file.len())?, &"0".repeat(32)));
        }
        write_manifest(&configuration.join(self.folder()?), &self.manifest(listed)?.to_string())
    }

    /// A data file as the manifest names it.
    fn listed(&self, name: &str, bytes: usize, md5: &str) -> Value {
        json!({"key": format!("reports/{}/daily/data/{name}", self.bucket), "size": bytes, "MD5checksum": md5})
    }

    fn manifest(&self, files: Vec<Value>) -> Result<Value> {
        let columns = self.columns();
        let schema = match self.form {
            Form::Csv => columns.iter().map(|(csv, _)| *csv).collect::<Vec<_>>().join(", "),
            Form::Parquet => {
                let fields: String = columns.iter().map(|(_, name)| format!(" optional binary {name};")).collect();
                format!("message s3.inventory {{ {fields} }}")
            }
        };
        Ok(json!({
            "sourceBucket": self.bucket,
            "destinationBucket": "arn:aws:s3:::acme-reports",
            "version": "2016-11-30",
            "creationTimestamp": self.began()?.as_millisecond().to_string(),
            "fileFormat": if self.form == Form::Csv { "CSV" } else { "Parquet" },
            "fileSchema": schema,
            "files": files,
        }))
    }

    /// The name and the bytes of a data file.
    ///
    /// # Errors
    /// When a time of an object is none.
    pub fn data(&self, objects: &[StoredObject]) -> Result<(String, Vec<u8>)> {
        let (ending, bytes) = match self.form {
            Form::Csv => ("csv.gz", gzip(self.csv(objects).as_bytes())?),
            Form::Parquet => ("parquet", self.parquet(objects)?),
        };
        Ok((format!("{}.{ending}", hex(&Md5::digest(&bytes))), bytes))
    }

    /// The lines of a file of CSV.
    pub fn csv(&self, objects: &[StoredObject]) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let line = |object: &StoredObject| {
            let value = |name: &str| match name {
                "Bucket" => self.bucket.clone(),
                "Key" => url_encoded(&object.key),
                "VersionId" => text(&object.version),
                "IsLatest" => object.is_latest.to_string(),
                "IsDeleteMarker" => object.is_delete_marker.to_string(),
                "Size" => object.size.map_or(String::new(), |size| size.to_string()),
                "LastModifiedDate" => text(&object.created),
                "ETag" => object.etag.clone(),
                "StorageClass" => object.class.clone(),
                _ => text(&object.expires),
            };
            let fields: Vec<String> = self.columns().iter().map(|(csv, _)| format!("\"{}\"", value(csv))).collect();
            fields.join(",") + "\n"
        };
        objects.iter().map(line).collect()
    }

    fn parquet(&self, objects: &[StoredObject]) -> Result<Vec<u8>> {
        let texts = |of: &dyn Fn(&StoredObject) -> Option<String>| -> ArrayRef {
            Arc::new(objects.iter().map(of).collect::<StringArray>())
        };
        let flags = |of: &dyn Fn(&StoredObject) -> bool| -> ArrayRef {
            Arc::new(objects.iter().map(|object| Some(of(object))).collect::<BooleanArray>())
        };
        let times = |of: &dyn Fn(&StoredObject) -> Option<&String>| -> Result<ArrayRef> {
            let time = |object: &StoredObject| of(object).map(|text| text.parse::<Timestamp>()).transpose();
            let times = objects.iter().map(time).collect::<Result<Vec<_>, _>>()?.into_iter();
            let times = times.map(|time| time.map(Timestamp::as_millisecond));
            Ok(Arc::new(times.collect::<TimestampMillisecondArray>()))
        };
        let array = |name: &str| -> Result<ArrayRef> {
            Ok(match name {
                "Bucket" => texts(&|_| Some(self.bucket.clone())),
                "Key" => texts(&|object| Some(object.key.clone())),
                "VersionId" => texts(&|object| object.version.clone()),
                "IsLatest" => flags(&|object| object.is_latest),
                "IsDeleteMarker" => flags(&|object| object.is_delete_marker),
                "Size" => Arc::new(objects.iter().map(|object| object.size).collect::<Int64Array>()),
                "LastModifiedDate" => times(&|object| object.created.as_ref())?,
                "ETag" => texts(&|object| Some(object.etag.clone())),
                "StorageClass" => texts(&|object| Some(object.class.clone())),
                _ => times(&|object| object.expires.as_ref())?,
            })
        };
        let columns = self.columns().into_iter().map(|(csv, name)| Ok((name, array(csv)?, true)));
        let batch = RecordBatch::try_from_iter_with_nullable(columns.collect::<Result<Vec<_>>>()?)?;
        let mut bytes = vec![];
        let properties = WriterProperties::builder()
            .set_compression(parquet::basic::Compression::SNAPPY)
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .build();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(bytes)
    }
}

/// Writes a manifest, and then its checksum: from that on it counts.
///
/// # Errors
/// When a file cannot be written.
pub fn write_manifest(folder: &Path, text: &str) -> Result<()> {
    let cannot = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    std::fs::write(folder.join("manifest.json"), text).with_context(cannot)?;
    std::fs::write(folder.join("manifest.checksum"), hex(&Md5::digest(text))).with_context(cannot)
}

/// Bytes in one member of gzip.
///
/// # Errors
/// When they cannot be packed.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key as CSV has it.
fn url_encoded(key: &str) -> String {
    let byte = |byte: u8| match byte {
        b' ' => "+".to_owned(),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'*' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    key.bytes().map(byte).collect()
}
