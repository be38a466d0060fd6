//! What the fuzz targets share: a bucket in memory, and a bill that is read from it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a target that cannot go on fails")]

#[path = "../handmade_parquet.rs"]
pub mod handmade_parquet;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock, Once};

use books::units::calendar::Month;
use books::usage::meter::{Meter, Pattern, Rules, USAGE_LINE_TYPES};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use jobs::context::{Export, ReadLimits, ReadSettings};
use jobs::ingest_cur::discover;
use jobs::source::{Fetched, Listing, Object, Source, SourceError};
use tokio::runtime::Runtime;

/// Objects by key.
#[derive(Debug, Default)]
struct Memory {
    objects: BTreeMap<String, Bytes>,
    fetched: Fetched,
}

impl Memory {
    fn object(&self, key: &str) -> Result<Object, SourceError> {
        let bytes = self.objects.get(key).ok_or_else(|| SourceError::Missing(key.to_owned()))?;
        let size = u64::try_from(bytes.len()).unwrap();
        Ok(Object { key: key.to_owned(), size, etag: size.to_string(), modified: Timestamp::UNIX_EPOCH })
    }
}

impl Source for Memory {
    fn name(&self, key: &str) -> String {
        key.to_owned()
    }

    fn bucket(&self) -> Option<&str> {
        None
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>> {
        async move {
            let mut listing = Listing::default();
            let mut folders = BTreeSet::new();
            for key in self.objects.keys().filter(|key| key.starts_with(prefix)) {
                match key[prefix.len()..].split_once('/') {
                    Some((folder, _)) => _ = folders.insert(format!("{prefix}{folder}/")),
                    None => listing.objects.push(self.object(key)?),
                }
            }
            listing.folders = folders.into_iter().collect();
            Ok(listing)
        }
        .boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>> {
        async move { self.object(key) }.boxed()
    }

    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move {
            let bytes = &self.objects[&object.key];
            let place = |at: u64| usize::try_from(at).unwrap();
            Ok(bytes.slice(place(range.start)..place(range.end)))
        }
        .boxed()
    }

    fn fetched(&self) -> &Fetched {
        &self.fetched
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).build().unwrap());

static SETTINGS: LazyLock<ReadSettings> = LazyLock::new(|| {
    let meter = Meter {
        name: "chime_minutes".into(),
        unit: "minutes".into(),
        products: vec![Pattern::product("AmazonChime").unwrap()],
        usage_types: vec![Pattern::usage_type("Meetings-AttendeeMinutes").unwrap()],
        line_types: USAGE_LINE_TYPES.map(str::to_owned).into(),
        factor: "1".parse().unwrap(),
    };
    let mut settings = ReadSettings::new(Rules {
        tag_key: "chitchatter-customer-id".into(),
        meters: vec![meter],
        ignore: vec![],
        watched: vec![Pattern::product("AmazonChime*").unwrap()],
    });
    settings.limits = ReadLimits { parallel: 1, memory_bytes: 24 << 20, fan_out_bytes: None };
    settings
});

/// A panic of ours ends the process. Those of the crate that decodes Parquet are caught where it is
/// called, and are errors of the file.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map_or("", |l| l.file());
            if !["/parquet-", "/arrow-"].iter().any(|name| place.contains(name)) {
                report(panic);
                std::process::abort();
            }
        }));
    });
}

const DATA: &str = "data/BILLING_PERIOD=2026-10/v-1/";

/// Reads a bill of October 2026 with this manifest and this data file.
pub fn read_bill(manifest: &[u8], file: &str, data: &[u8]) {
    watch_panics();
    let objects = [
        ("metadata/BILLING_PERIOD=2026-10/e-Manifest.json".to_owned(), Bytes::copy_from_slice(manifest)),
        (format!("{DATA}{file}"), Bytes::copy_from_slice(data)),
    ];
    let source = Arc::new(Memory { objects: objects.into(), fetched: Fetched::default() });
    let export = Export { payer: "p".into(), source, prefix: String::new(), format: None };
    let month: Month = "2026-10".parse().unwrap();
    let read = RUNTIME.block_on(discover(&export, &SETTINGS, month));
    if let Err(failure) = read {
        assert!(!failure.error().to_string().is_empty());
    }
}

/// Reads a data file with a good manifest.
pub fn read_file(file: &str, data: &[u8]) {
    let manifest = format!(r#"{{"executionId": "v-1", "dataFiles": ["s3://b/{DATA}{file}"]}}"#);
    read_bill(manifest.as_bytes(), file, data);
}

/// The head and the first columns of a CSV bill.
pub const CSV_HEAD: &str = "line_item_product_code,line_item_usage_type,line_item_line_item_type,\
line_item_usage_amount,line_item_usage_start_date,resource_tags\n";
pub const CSV_LINE: &str = "AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,1.5,2026-10-01T00:00:00Z,";
