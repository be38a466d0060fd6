//! Reading all files of a version: row groups in parallel, in bounded memory.
//!
//! The footers of a few files are read ahead, column chunks are fetched within a budget of bytes,
//! and decoding runs on as many blocking threads as there are cores. Each thread takes an
//! aggregator from a pool; the few aggregators are merged at the end.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::aggregate::UsageAggregator;
use super::csv;
use super::parquet_file::{ParquetFile, ReadError};
use crate::context::ReadSettings;
use crate::source::{Object, Source};
use books::units::calendar::Month;
use books::usage::bill::BillFile;
use books::usage::meter::Rules;
use books::usage::tag_key::TagKeys;

/// Files that are opened ahead, with their footers.
const OPEN_AHEAD: usize = 4;
/// The memory budget is counted in this unit.
const KIB: u64 = 1024;

/// The files of a version, as they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStats {
    pub(super) files: Vec<BillFile>,
    pub(super) files_without_tag: usize,
}

impl FileStats {
    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }
}

/// A piece of a version that is read by itself.
enum ReadUnit {
    Group { file: usize, parquet: Arc<ParquetFile>, group: usize },
    Csv { file: usize },
    Empty,
}

/// What a [`ReadUnit`] contains.
#[derive(Default)]
struct Found {
    file: usize,
    rows: u64,
    row_groups: u64,
    counted_rows: u64,
    lacks_tag: bool,
    /// The unit's share of the file's bytes.
    bytes: u64,
}

/// What all units share.
struct Shared {
    source: Arc<dyn Source>,
    objects: Vec<Object>,
    keys: TagKeys,
    rules: Arc<Rules>,
    month: Month,
    pool: Mutex<Vec<UsageAggregator>>,
    processors: Semaphore,
    memory: Arc<Semaphore>,
    memory_kib: u32,
}

impl Shared {
    fn take(&self) -> UsageAggregator {
        let pooled = self.pool.lock().ok().and_then(|mut pool| pool.pop());
        pooled.unwrap_or_else(|| UsageAggregator::new(Arc::clone(&self.rules), self.month))
    }

    fn give_back(&self, aggregator: UsageAggregator) {
        if let Ok(mut pool) = self.pool.lock() {
            pool.push(aggregator);
        }
    }

    async fn open(self: Arc<Self>, file: usize) -> Result<Vec<ReadUnit>, ReadError> {
        let object = self.objects[file].clone();
        let name = || self.source.name(&object.key);
        let is = |ending: &str| object.key.to_ascii_lowercase().ends_with(ending);
        if is(".parquet") {
            let opened = ParquetFile::open(Arc::clone(&self.source), object.clone(), self.keys.clone()).await?;
            let Some(parquet) = opened.map(Arc::new) else { return Ok(vec![ReadUnit::Empty]) };
            let groups = 0..parquet.row_groups();
            return Ok(groups.map(|group| ReadUnit::Group { file, parquet: Arc::clone(&parquet), group }).collect());
        }
        if is(".csv") || is(".csv.gz") {
            return Ok(vec![if object.size == 0 { ReadUnit::Empty } else { ReadUnit::Csv { file } }]);
        }
        let why = "only .parquet, .csv and .csv.gz are read; set the export to Parquet, or to gzip for CSV".to_owned();
        Err(ReadError::Broken { file: name(), place: String::new(), why })
    }

    async fn work(self: Arc<Self>, part: ReadUnit) -> Result<Found, ReadError> {
        let gone = |_| ReadError::Broken { file: String::new(), place: String::new(), why: "stopped".into() };
        match part {
            ReadUnit::Empty => Ok(Found::default()),
            ReadUnit::Csv { file } => {
                let _processor = self.processors.acquire().await.map_err(gone)?;
                let aggregator = self.take();
                let object = self.objects[file].clone();
                let (aggregator, facts) =
                    csv::aggregate(Arc::clone(&self.source), object, self.keys.clone(), aggregator).await?;
                self.give_back(aggregator);
                let (rows, counted_rows, lacks_tag) = (facts.rows, facts.counted_rows, facts.lacks_tag);
                Ok(Found { file, rows, row_groups: 0, counted_rows, lacks_tag, bytes: self.objects[file].size })
            }
            ReadUnit::Group { file, parquet, group } => {
                let kib = u32::try_from(parquet.needed_bytes(group) / KIB).unwrap_or(u32::MAX).min(self.memory_kib);
                let _memory = Arc::clone(&self.memory).acquire_many_owned(kib).await.map_err(gone)?;
                let (rows, lacks_tag) = (parquet.rows(group), parquet.lacks_tag());
                let name = self.source.name(&parquet.object.key);
                let groups = u64::try_from(parquet.row_groups()).unwrap_or(1).max(1);
                let bytes = parquet.object.size / groups;
                let fetched = parquet.fetch(group).await?;
                let _processor = self.processors.acquire().await.map_err(gone)?;
                let mut aggregator = self.take();
                let aggregating = tokio::task::spawn_blocking(move || {
                    fetched.aggregate(&mut aggregator).map(|counted_rows| (aggregator, counted_rows))
                });
                let (aggregator, counted_rows) = aggregating.await.unwrap_or_else(|e| {
                    // a panic of the decoder means a damaged file and is no crash of the worker
                    let place = format!(", row group {group}");
                    let why = format!("the decoder gave up ({e}); the file is damaged");
                    Err(ReadError::Broken { file: name, place, why })
                })?;
                self.give_back(aggregator);
                Ok(Found { file, rows, row_groups: 1, counted_rows, lacks_tag, bytes })
            }
        }
    }
}

pub(super) async fn read_files(
    source: &Arc<dyn Source>,
    objects: &[Object],
    read_settings: &ReadSettings,
    month: Month,
) -> Result<(UsageAggregator, FileStats), ReadError> {
    let ReadSettings { rules, limits, progress, .. } = read_settings;
    let memory_kib = u32::try_from(limits.memory_bytes / KIB).unwrap_or(u32::MAX).max(1);
    let shared = Arc::new(Shared {
        source: Arc::clone(source),
        objects: objects.to_vec(),
        keys: TagKeys::new(&rules.tag_keys),
        rules: Arc::clone(rules),
        month,
        pool: Mutex::default(),
        processors: Semaphore::new(limits.parallel.max(1)),
        memory: Arc::new(Semaphore::new(usize::try_from(memory_kib).unwrap_or(1))),
        memory_kib,
    });
    progress.start(objects.iter().map(|o| o.size).sum());
    let file = |o: &Object| BillFile {
        key: o.key.clone(),
        size: o.size,
        etag: o.etag.clone(),
        rows: 0,
        row_groups: 0,
        counted_rows: 0,
    };
    let mut facts = FileStats { files: objects.iter().map(file).collect(), files_without_tag: 0 };
    let mut without_tag = vec![false; objects.len()];
    let opening = stream::iter(0..objects.len()).map(|i| Arc::clone(&shared).open(i)).buffered(OPEN_AHEAD);
    let parts = opening.map_ok(|parts| stream::iter(parts.into_iter().map(Ok))).try_flatten();
    let working = parts.map_ok(|part| Arc::clone(&shared).work(part)).try_buffer_unordered(limits.parallel.max(1) * 2);
    let mut working = std::pin::pin!(working);
    while let Some(found) = working.try_next().await? {
        let Some(own) = facts.files.get_mut(found.file) else { continue };
        own.rows += found.rows;
        own.row_groups += found.row_groups;
        own.counted_rows += found.counted_rows;
        without_tag[found.file] |= found.lacks_tag;
        progress.add(found.bytes);
    }
    facts.files_without_tag = without_tag.into_iter().filter(|w| *w).count();
    let mut aggregators = shared.pool.lock().map(|mut pool| std::mem::take(&mut *pool)).unwrap_or_default();
    let mut whole = aggregators.pop().unwrap_or_else(|| UsageAggregator::new(Arc::clone(rules), month));
    while let Some(aggregator) = aggregators.pop() {
        whole.merge(&aggregator);
    }
    name_resources(&mut whole, &shared, limits.memory_bytes).await?;
    Ok((whole, facts))
}

/// Looks up the resources of faulty lines that are named. A bill without faults is read without
/// that column.
async fn name_resources(whole: &mut UsageAggregator, shared: &Shared, limit: u64) -> Result<(), ReadError> {
    for ((file, group), rows) in whole.faults().without_resource() {
        let Some(object) = shared.objects.iter().find(|object| object.key == file) else { continue };
        let opened = ParquetFile::open(Arc::clone(&shared.source), object.clone(), shared.keys.clone()).await?;
        let Some(parquet) = opened.map(Arc::new) else { continue };
        let resources = parquet.resources(group, rows, limit).await?;
        whole.faults_mut().name_resources(&file, group, &resources);
    }
    Ok(())
}
