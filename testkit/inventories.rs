//! Small handmade S3 Inventories in a folder, in both formats, as S3 lays them out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use md5::{Digest, Md5};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

/// The bucket that is listed.
pub const BUCKET: &str = "acme-files";

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
#[derive(Clone, Debug)]
pub struct NewInventory {
    /// When it began: `2026-11-28T01:00:00Z`.
    pub began: String,
    pub form: Form,
    /// The objects of each data file.
    pub files: Vec<Vec<StoredObject>>,
    /// Columns that it does not have.
    pub without: Vec<&'static str>,
}

impl NewInventory {
    /// One file, current versions only.
    pub fn new(form: Form, began: &str, objects: &[StoredObject]) -> Self {
        Self { began: began.into(), form, files: vec![objects.to_vec()], without: VERSIONS.to_vec() }
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

    /// The name of its folder, `2026-11-28T01-00Z`.
    pub fn folder(&self) -> String {
        self.began.parse::<Timestamp>().unwrap().strftime("%Y-%m-%dT%H-%MZ").to_string()
    }

    /// Writes it below the folder of a configuration, as the data files of S3's next keys.
    pub fn write(&self, configuration: &Path) -> PathBuf {
        let files: Vec<(String, Vec<u8>)> = self.files.iter().map(|objects| self.data(objects)).collect();
        self.write_files(configuration, &files)
    }

    /// As [`NewInventory::write`], with these data files.
    pub fn write_files(&self, configuration: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
        std::fs::create_dir_all(configuration.join("data")).unwrap();
        let listed = |(name, bytes): &(String, Vec<u8>)| {
            std::fs::write(configuration.join("data").join(name), bytes).unwrap();
            json!({"key": format!("reports/{BUCKET}/daily/data/{name}"), "size": bytes.len(),
                   "MD5checksum": hex(&Md5::digest(bytes))})
        };
        let files: Vec<Value> = files.iter().map(listed).collect();
        let folder = configuration.join(self.folder());
        write_manifest(&folder, &self.manifest(files).to_string());
        folder
    }

    /// Writes the manifest of data files that are there already; their MD5 is not computed.
    pub fn write_listing(&self, configuration: &Path, names: &[String]) {
        let listed = |name: &String| {
            let size = std::fs::metadata(configuration.join("data").join(name)).unwrap().len();
            let key = format!("reports/{BUCKET}/daily/data/{name}");
            json!({"key": key, "size": size, "MD5checksum": "0".repeat(32)})
        };
        let files = names.iter().map(listed).collect();
        write_manifest(&configuration.join(self.folder()), &self.manifest(files).to_string());
    }

    fn manifest(&self, files: Vec<Value>) -> Value {
        let columns = self.columns();
        let schema = match self.form {
            Form::Csv => columns.iter().map(|(csv, _)| *csv).collect::<Vec<_>>().join(", "),
            Form::Parquet => {
                let fields: String = columns.iter().map(|(_, name)| format!(" optional binary {name};")).collect();
                format!("message s3.inventory {{ {fields} }}")
            }
        };
        json!({
            "sourceBucket": BUCKET,
            "destinationBucket": "arn:aws:s3:::acme-reports",
            "version": "2016-11-30",
            "creationTimestamp": self.began.parse::<Timestamp>().unwrap().as_millisecond().to_string(),
            "fileFormat": if self.form == Form::Csv { "CSV" } else { "Parquet" },
            "fileSchema": schema,
            "files": files,
        })
    }

    /// The name and the bytes of a data file.
    pub fn data(&self, objects: &[StoredObject]) -> (String, Vec<u8>) {
        let (ending, bytes) = match self.form {
            Form::Csv => ("csv.gz", gzip(self.csv(objects).as_bytes())),
            Form::Parquet => ("parquet", self.parquet(objects)),
        };
        (format!("{}.{ending}", hex(&Md5::digest(&bytes))), bytes)
    }

    /// The lines of a file of CSV.
    pub fn csv(&self, objects: &[StoredObject]) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let line = |object: &StoredObject| {
            let value = |name: &str| match name {
                "Bucket" => BUCKET.to_owned(),
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

    fn parquet(&self, objects: &[StoredObject]) -> Vec<u8> {
        let texts = |of: &dyn Fn(&StoredObject) -> Option<String>| -> ArrayRef {
            Arc::new(objects.iter().map(of).collect::<StringArray>())
        };
        let flags = |of: &dyn Fn(&StoredObject) -> bool| -> ArrayRef {
            Arc::new(objects.iter().map(|object| Some(of(object))).collect::<BooleanArray>())
        };
        let times = |of: &dyn Fn(&StoredObject) -> Option<String>| -> ArrayRef {
            let time = |object: &StoredObject| of(object).map(|t| t.parse::<Timestamp>().unwrap().as_millisecond());
            Arc::new(objects.iter().map(time).collect::<TimestampMillisecondArray>())
        };
        let array = |name: &str| match name {
            "Bucket" => texts(&|_| Some(BUCKET.to_owned())),
            "Key" => texts(&|object| Some(object.key.clone())),
            "VersionId" => texts(&|object| object.version.clone()),
            "IsLatest" => flags(&|object| object.is_latest),
            "IsDeleteMarker" => flags(&|object| object.is_delete_marker),
            "Size" => Arc::new(objects.iter().map(|object| object.size).collect::<Int64Array>()),
            "LastModifiedDate" => times(&|object| object.created.clone()),
            "ETag" => texts(&|object| Some(object.etag.clone())),
            "StorageClass" => texts(&|object| Some(object.class.clone())),
            _ => times(&|object| object.expires.clone()),
        };
        let columns = self.columns().into_iter().map(|(csv, name)| (name, array(csv), true));
        parquet_of(&RecordBatch::try_from_iter_with_nullable(columns).unwrap())
    }
}

/// A file in row groups of few rows.
pub fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = vec![];
    let small = WriterProperties::builder().set_max_row_group_row_count(Some(5)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(small)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Writes a manifest and its checksum.
pub fn write_manifest(folder: &Path, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("manifest.json"), text).unwrap();
    std::fs::write(folder.join("manifest.checksum"), hex(&Md5::digest(text))).unwrap();
}

/// Bytes in one member of gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
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
