//! Shared by the tests of the jobs: books in a temporary file, a folder as the bucket, and small
//! handmade bills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use books::Database;
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use books::usage::ledger::Usage;
use books::usage::meter::{IgnoreRule, Meter, Pattern, Rules, USAGE_LINE_TYPES};
use jiff::Timestamp;
use jobs::context::{Context, EnforcementSettings, Export, ReadSettings};
use jobs::ingest_cur::{Acceptance, IngestCur, IngestReport};
use jobs::job::{Failure, Job};
use jobs::source::{Folder, Source};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

use crate::migrated;
use crate::suite_database::SuiteServer;

pub const TAG: &str = "chitchatter-customer-id";

pub fn now() -> Timestamp {
    "2026-10-31T23:59:59Z".parse().unwrap()
}

pub fn month() -> Month {
    "2026-10".parse().unwrap()
}

pub fn meter(name: &str, product: &str, usage_type: &str, factor: &str) -> Meter {
    Meter {
        name: name.into(),
        unit: "units".into(),
        products: vec![Pattern::product(product).unwrap()],
        usage_types: vec![Pattern::usage_type(usage_type).unwrap()],
        line_types: USAGE_LINE_TYPES.map(str::to_owned).into(),
        factor: factor.parse().unwrap(),
    }
}

pub fn rules(tag_key: &str) -> Rules {
    let product = |p: &str| Pattern::product(p).unwrap();
    let usage = |p: &str| Pattern::usage_type(p).unwrap();
    Rules {
        tag_keys: vec![tag_key.into()],
        meters: vec![
            meter("chime_minutes", "AmazonChime", "Meetings-AttendeeMinutes", "1"),
            meter("storage_gb", "AmazonS3", "TimedStorage-*ByteHrs", "1"),
            meter("transfer_gb", "AmazonS3", "DataTransfer-Out-Bytes", "1"),
        ],
        ignore: vec![IgnoreRule { products: vec![product("AmazonS3")], usage_types: vec![usage("Requests-*")] }],
        watched: vec![product("AmazonChime*"), product("AmazonS3")],
        shared_buckets: vec![],
        costs: vec![],
    }
}

pub fn read_settings(rules: Rules) -> ReadSettings {
    ReadSettings::new(rules)
}

async fn open(file: &Path, server: Option<&SuiteServer>) -> Database {
    match server {
        Some(server) => server.open().await,
        None => Database::open_local(file).await.unwrap(),
    }
}

/// Books and one bucket in a temporary folder.
pub struct IngestFixture {
    pub folder: TempDir,
    pub context: Context,
    /// When [`IngestFixture::ingest`] runs.
    pub now: Timestamp,
    server: Option<SuiteServer>,
}

impl IngestFixture {
    pub async fn new() -> Self {
        Self::with(rules(TAG)).await
    }

    pub async fn with(rules: Rules) -> Self {
        let folder = TempDir::new().unwrap();
        let bucket = folder.path().join("bucket");
        std::fs::create_dir(&bucket).unwrap();
        let file = folder.path().join("meter.db");
        migrated::write(&file).await;
        let server = SuiteServer::of(&file);
        let books = open(&file, server.as_ref()).await;
        books.require_migrated().await.unwrap();
        let exports = Arc::new(BTreeMap::from([("main".to_owned(), export(Arc::new(Folder::new(bucket))))]));
        let enforcement = Arc::new(EnforcementSettings::default());
        let context = Context {
            books,
            exports,
            shared_buckets: Arc::default(),
            read_settings: read_settings(rules),
            enforcement,
            measuring: Arc::default(),
            webhook: None,
            operator: Arc::default(),
            billing: Arc::default(),
        };
        Self { folder, context, now: now(), server }
    }

    /// The books as another process has them.
    pub async fn open_again(&self) -> Database {
        open(&self.database(), self.server.as_ref()).await
    }

    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("meter.db")
    }

    pub fn source(&mut self, source: Arc<dyn Source>) {
        self.context.exports = Arc::new(BTreeMap::from([("main".to_owned(), export(source))]));
    }

    pub async fn ingest(&self) -> Result<IngestReport, Failure> {
        job().run(&self.context, self.now).await
    }

    /// As [`accept`], for a person who has just looked at the newest version that is on hold under
    /// this name.
    pub async fn accept(&self, version: &str) -> IngestCur {
        let versions = self.context.books.versions(None).await.unwrap();
        let held = versions.iter().filter(|v| v.state == "on_hold" && v.version.starts_with(version));
        let seen = held.max_by_key(|v| v.id).map(|v| v.hold_digest.clone()).unwrap_or_default();
        accept(version, &seen)
    }

    pub async fn usage(&self, customer: &str, meter: &str) -> Quantity {
        let usage = self.context.books.usage(month(), None).await.unwrap();
        let own = |u: &Usage| u.customer == customer && u.meter == meter;
        usage.into_iter().find(own).map(|u| u.quantity).unwrap_or_default()
    }

    /// The content of the ledger: every entry, in order.
    pub async fn ledger(&self) -> Vec<String> {
        self.dump("SELECT version_id || '|' || payer || '|' || month || '|' || customer || '|' || meter || '|' || day || '|' || quantity || '|' || kind FROM booked_usage ORDER BY version_id, customer, meter, day").await
    }

    pub async fn dump(&self, sql: &'static str) -> Vec<String> {
        self.context
            .books
            .with_connection(async move |c| {
                let mut rows = c.query(sql, ()).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    found.push(row.get::<String>(0)?);
                }
                Ok(found)
            })
            .await
            .unwrap()
    }

    pub async fn sound(&self) {
        for check in self.context.books.verify().await.unwrap().checks {
            assert!(check.violations.is_empty(), "{}: {:?}", check.rule, check.violations);
        }
    }
}

pub fn export(source: Arc<dyn Source>) -> Export {
    Export { payer: "default".into(), source, prefix: String::new(), format: None }
}

pub fn job() -> IngestCur {
    IngestCur::new("main", month())
}

/// As [`job`], for a person who accepts a version on hold and has seen the words with this digest.
pub fn accept(version: &str, seen: &str) -> IngestCur {
    let (actor, reason) = ("ann@test".into(), "asked AWS".into());
    IngestCur { accept: Some(Acceptance { version: version.into(), seen: Some(seen.into()), actor, reason }), ..job() }
}

/// A line of a handmade bill.
#[derive(Clone, Debug)]
pub struct Line {
    pub product: &'static str,
    pub usage_type: String,
    pub line_type: String,
    pub customer: String,
    pub amount: f64,
    pub day: i8,
}

/// `amount` minutes of Chime for `customer` on a day of October 2026.
pub fn chime(customer: &str, day: i8, amount: f64) -> Line {
    Line {
        product: "AmazonChime",
        usage_type: "USE1-Meetings-AttendeeMinutes".into(),
        line_type: "Usage".into(),
        customer: customer.into(),
        amount,
        day,
    }
}

pub fn instant(day: i8) -> i64 {
    jiff::civil::date(2026, 10, day).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_millisecond()
}

fn text<T: Into<String>>(items: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from(items.map(Into::into).collect::<Vec<String>>()))
}

/// The columns of lines by name, in the form of most bills.
pub fn columns(lines: &[Line]) -> Vec<(&'static str, ArrayRef)> {
    let days = lines.iter().map(|l| instant(l.day)).collect::<Vec<_>>();
    vec![
        ("line_item_product_code", text(lines.iter().map(|l| l.product))),
        ("line_item_usage_type", text(lines.iter().map(|l| l.usage_type.clone()))),
        ("line_item_line_item_type", text(lines.iter().map(|l| l.line_type.clone()))),
        ("line_item_usage_amount", Arc::new(Float64Array::from(lines.iter().map(|l| l.amount).collect::<Vec<_>>()))),
        ("line_item_usage_start_date", Arc::new(TimestampMillisecondArray::from(days).with_timezone("UTC"))),
        ("pricing_unit", text(lines.iter().map(|_| "minutes"))),
        ("resource_tags_user_chitchatter_customer_id", text(lines.iter().map(|l| l.customer.clone()))),
    ]
}

pub fn parquet_bytes(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let nullable = |(name, array): (_, ArrayRef)| {
        let nulls = array.logical_null_count() > 0;
        (name, array, nulls)
    };
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(nullable)).unwrap();
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Writes a handmade CUR 2.0 delivery: data files, then the manifest.
pub fn deliver(bucket: &Path, version: &str, files: &[(&str, Vec<u8>)]) {
    let data = "e/data/BILLING_PERIOD=2026-10";
    let keys: Vec<String> = files.iter().map(|(name, _)| format!("s3://b/{data}/{version}/{name}")).collect();
    std::fs::create_dir_all(bucket.join(data).join(version)).unwrap();
    for (name, bytes) in files {
        std::fs::write(bucket.join(data).join(version).join(name), bytes).unwrap();
    }
    manifest(bucket, version, &keys);
}

pub fn manifest(bucket: &Path, version: &str, keys: &[String]) {
    let folder = bucket.join("e/metadata/BILLING_PERIOD=2026-10");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(bucket.join("e/data")).unwrap();
    let json = serde_json::json!({
        "executionId": version,
        "exportArn": "arn:aws:bcm-data-exports:us-east-1:111122223333:export/e-1",
        "columns": [],
        "dataFiles": keys,
    });
    std::fs::write(folder.join("e-Manifest.json"), json.to_string()).unwrap();
}

/// Delivers lines as one Parquet file.
pub fn deliver_lines(bucket: &Path, version: &str, lines: &[Line]) {
    deliver(bucket, version, &[("e-00001.snappy.parquet", parquet_bytes(columns(lines)))]);
}
