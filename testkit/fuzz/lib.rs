//! The fuzz targets: whatever is read from outside, with any bytes. Bills are read from a bucket in
//! memory, as `meter discover` reads them.
//!
//! `fuzz.rs` gives them to libFuzzer, and `corpus.rs` tries the corpus in every run of the tests.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a target that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock, Once};

use books::limits::plan::Plans;
use books::units::calendar::Month;
use books::usage::meter::{Meter, Pattern, Rules, USAGE_LINE_TYPES};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use jobs::context::{Export, ReadLimits, ReadSettings};
use jobs::ingest_cur::discover;
use jobs::source::{Fetched, Listing, Object, Source, SourceError};
use meter::config::Config;
use testkit::handmade_parquet::{Column, bill, file};
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

thread_local! {
    static RUNTIME: Runtime =
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(2).build().unwrap();
}

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
        tag_keys: vec!["chitchatter-customer-id".into()],
        meters: vec![meter],
        ignore: vec![],
        watched: vec![Pattern::product("AmazonChime*").unwrap()],
        shared_buckets: vec![],
        costs: vec![],
    });
    settings.limits = ReadLimits { parallel: 1, memory_bytes: 24 << 20, fan_out_bytes: None };
    settings
});

/// From now on a panic of ours ends the process. Those of the crates that decode Parquet are caught
/// where they are called, and are errors of the file.
pub fn end_with_a_panic() {
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

fn read_bill(manifest: &[u8], file: &str, data: &[u8]) {
    let objects = [
        ("metadata/BILLING_PERIOD=2026-10/e-Manifest.json".to_owned(), Bytes::copy_from_slice(manifest)),
        (format!("{DATA}{file}"), Bytes::copy_from_slice(data)),
    ];
    let source = Arc::new(Memory { objects: objects.into(), fetched: Fetched::default() });
    let export = Export { payer: "p".into(), source, prefix: String::new(), format: None };
    let month: Month = "2026-10".parse().unwrap();
    let read = RUNTIME.with(|runtime| runtime.block_on(discover(&export, &SETTINGS, month)));
    if let Err(failure) = read {
        assert!(!failure.error().to_string().is_empty());
    }
}

fn read_file(file: &str, data: &[u8]) {
    let manifest = format!(r#"{{"executionId": "v-1", "dataFiles": ["s3://b/{DATA}{file}"]}}"#);
    read_bill(manifest.as_bytes(), file, data);
}

/// The head and the first columns of a line of a CSV bill.
const HEAD: &str = "line_item_product_code,line_item_usage_type,line_item_line_item_type,\
line_item_usage_amount,line_item_usage_start_date,resource_tags\n";
const LINE: &str = "AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,1.5,2026-10-01T00:00:00Z,";

/// A whole Parquet file: its footer, and the pages that it leads to.
fn parquet(data: &[u8]) {
    read_file("e-1.snappy.parquet", data);
}

/// The pages of one column, in a file whose footer is right. The first byte is the codec.
fn pages(data: &[u8]) {
    let Some((first, pages)) = data.split_first() else { return };
    let unit = Column { codec: i64::from(first % 8), rest: pages.to_vec(), ..Column::text("pricing_unit", vec![]) };
    read_file("e-1.snappy.parquet", &file(4, &[bill(4), vec![unit]].concat()));
}

/// A CSV bill, as plain text or, when it looks so, as gzip.
fn csv(data: &[u8]) {
    read_file(if data.starts_with(&[0x1f, 0x8b]) { "e-1.csv.gz" } else { "e-1.csv" }, data);
}

/// The tags of a line of a CSV bill, which are JSON.
fn tags(data: &[u8]) {
    let tags = String::from_utf8_lossy(data).replace('"', "\"\"");
    read_file("e-1.csv", format!("{HEAD}{LINE}\"{tags}\"\n").as_bytes());
}

fn manifest(data: &[u8]) {
    read_bill(data, "e-1.csv", HEAD.as_bytes());
}

/// The configuration file, and the rules of the meters in it.
fn config(data: &[u8]) {
    let file = std::env::temp_dir().join(format!("meter-fuzz-{}.toml", std::process::id()));
    std::fs::write(&file, data).unwrap();
    match Config::load(Some(&file), std::iter::empty()) {
        Ok(config) => _ = config.checked_rules(),
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

/// The file of plans that `meter plan apply` reads.
fn plans(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(meter::plan_file::PlanFile { plans, .. }) =
        meter::plan_file::PlanFile::read(Path::new("plans.toml"), text.to_owned(), &[])
    {
        let _ = Plans::new(plans);
    }
}

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 7] = [
    ("parquet", parquet),
    ("pages", pages),
    ("csv", csv),
    ("tags", tags),
    ("manifest", manifest),
    ("config", config),
    ("plans", plans),
];
