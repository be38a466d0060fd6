//! Reading all files of a version: row groups in parallel, in bounded memory.
//!
//! The footers of a few files are read ahead, column chunks are fetched and decoded within a budget
//! of bytes, and decoding runs on as many blocking threads as there are cores. Each thread takes an
//! aggregator from a pool; the few aggregators are merged at the end.
//!
//! What a row group takes is known only when it is fetched. One that takes more than most is
//! decoded while no other such one is, and one that takes more than
//! [`ReadLimits::largest_group`](crate::context::ReadLimits::largest_group) is refused.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::aggregate::UsageAggregator;
use super::csv;
use super::object_reader::Footer;
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
/// What decoding a row group of a bill takes at most, beside its column chunks.
const DECODING_BYTES: u64 = 16 << 20;
/// Memory for decoded footers.
const FOOTERS_BYTES: u64 = 24 << 20;

/// The files of a version, as they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStats {
    pub(super) files: Vec<BillFile>,
    /// Files with counted lines and without a column for the customer tag.
    pub(super) files_without_tag: usize,
}

impl FileStats {
    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }
}

/// A piece of a version that is read by itself.
enum ReadUnit {
    Group { file: usize, parquet: Arc<ParquetFile>, group: usize, footer: Arc<OwnedSemaphorePermit> },
    Csv { file: usize },
    Empty,
}

/// A file that is about to be read.
enum Opened {
    Parquet { file: usize, footer: Footer },
    Csv { file: usize },
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
    /// Memory of decoded footers.
    footers: Arc<Semaphore>,
    /// For the one row group that takes much.
    large: Semaphore,
    largest_group: u64,
}

fn gone(_: tokio::sync::AcquireError) -> ReadError {
    ReadError::Broken { file: String::new(), place: String::new(), why: "stopped".into() }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes / KIB).unwrap_or(u32::MAX)
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

    async fn open(self: Arc<Self>, file: usize) -> Result<Opened, ReadError> {
        let object = &self.objects[file];
        let name = || self.source.name(&object.key);
        let is = |ending: &str| object.key.to_ascii_lowercase().ends_with(ending);
        if is(".parquet") {
            return Ok(Opened::Parquet { file, footer: ParquetFile::footer(&self.source, object).await? });
        }
        if is(".csv") || is(".csv.gz") {
            // unpacking would call it damaged
            let empty = || ReadError::Broken { file: name(), place: String::new(), why: csv::EMPTY.to_owned() };
            return if object.size == 0 { Err(empty()) } else { Ok(Opened::Csv { file }) };
        }
        let why = "only .parquet, .csv and .csv.gz are read; set the export to Parquet, or to gzip for CSV".to_owned();
        Err(ReadError::Broken { file: name(), place: String::new(), why })
    }

    /// The units of a file. Footers wait for memory in the order of the files, so that the one
    /// that is needed next never waits for one that is needed later.
    async fn units(self: Arc<Self>, opened: Opened) -> Result<Vec<ReadUnit>, ReadError> {
        let (file, footer) = match opened {
            Opened::Csv { file } => return Ok(vec![ReadUnit::Csv { file }]),
            Opened::Parquet { file, footer } => (file, footer),
        };
        let (object, needed) = (self.objects[file].clone(), footer.decoded_bytes);
        if needed > FOOTERS_BYTES {
            let why = format!(
                "it takes {} MiB of memory, and that of a bill takes {} at most; it is damaged, or must be exported \
                 anew in larger row groups",
                needed >> 20,
                FOOTERS_BYTES >> 20
            );
            return Err(ReadError::Broken { file: self.source.name(&object.key), place: ", footer".into(), why });
        }
        let permit = Arc::clone(&self.footers).acquire_many_owned(kib(needed)).await.map_err(gone)?;
        let permit = Arc::new(permit);
        let (source, keys) = (Arc::clone(&self.source), self.keys.clone());
        let opened = ParquetFile::open(source, object, &footer, keys, self.largest_group)?;
        let Some(parquet) = opened.map(Arc::new) else { return Ok(vec![ReadUnit::Empty]) };
        let unit = |group| ReadUnit::Group { file, parquet: Arc::clone(&parquet), group, footer: Arc::clone(&permit) };
        Ok((0..parquet.row_groups()).map(unit).collect())
    }

    async fn work(self: Arc<Self>, part: ReadUnit) -> Result<Found, ReadError> {
        match part {
            ReadUnit::Empty => Ok(Found::default()),
            ReadUnit::Csv { file } => {
                let needed = kib(csv::BYTES).min(self.memory_kib);
                let _memory = Arc::clone(&self.memory).acquire_many_owned(needed).await.map_err(gone)?;
                let _processor = self.processors.acquire().await.map_err(gone)?;
                let aggregator = self.take();
                let object = self.objects[file].clone();
                let (aggregator, facts) =
                    csv::aggregate(Arc::clone(&self.source), object, self.keys.clone(), aggregator).await?;
                self.give_back(aggregator);
                let (rows, counted_rows, lacks_tag) = (facts.rows, facts.counted_rows, facts.lacks_tag);
                Ok(Found { file, rows, row_groups: 0, counted_rows, lacks_tag, bytes: self.objects[file].size })
            }
            ReadUnit::Group { file, parquet, group, footer } => {
                let needed = kib(parquet.needed_bytes(group).saturating_add(DECODING_BYTES)).min(self.memory_kib);
                let memory = Arc::clone(&self.memory).acquire_many_owned(needed).await.map_err(gone)?;
                let (rows, lacks_tag) = (parquet.rows(group), parquet.lacks_tag());
                let name = self.source.name(&parquet.object.key);
                let groups = u64::try_from(parquet.row_groups()).unwrap_or(1).max(1);
                let bytes = parquet.object.size / groups;
                let fetched = parquet.fetch(group).await?;
                let processor = self.processors.acquire().await.map_err(gone)?;
                // a panic of the decoder means a damaged file and is no crash of the worker
                let damaged = |e: tokio::task::JoinError| {
                    let place = format!(", row group {group}");
                    let why = format!("the decoder gave up ({e}); the file is damaged");
                    ReadError::Broken { file: name.clone(), place, why }
                };
                let planning = tokio::task::spawn_blocking(move || fetched.plan().map(|plan| (fetched, plan)));
                let (fetched, plan) = planning.await.unwrap_or_else(|e| Err(damaged(e)))?;
                let (batch_rows, decoding) = (plan.batch_rows, plan.bytes);
                tracing::debug!(file = %name, group, batch_rows, decoding, "{name}, row group {group}: {batch_rows} rows at once");
                let large = plan.bytes > DECODING_BYTES;
                let _large = if large { Some(self.large.acquire().await.map_err(gone)?) } else { None };
                let mut aggregator = self.take();
                let aggregating = tokio::task::spawn_blocking(move || {
                    fetched.aggregate(&plan, &mut aggregator).map(|counted_rows| (aggregator, counted_rows))
                });
                let (aggregator, counted_rows) = aggregating.await.unwrap_or_else(|e| Err(damaged(e)))?;
                drop((memory, processor, footer));
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
        footers: Arc::new(Semaphore::new(usize::try_from(kib(FOOTERS_BYTES)).unwrap_or(1))),
        large: Semaphore::new(1),
        largest_group: limits.largest_group(),
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
    let units = opening.and_then(|opened| Arc::clone(&shared).units(opened));
    let parts = units.map_ok(|parts| stream::iter(parts.into_iter().map(Ok))).try_flatten();
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
    let counts = facts.files.iter().map(|file| file.counted_rows > 0);
    facts.files_without_tag = without_tag.into_iter().zip(counts).filter(|of| *of == (true, true)).count();
    let mut aggregators = shared.pool.lock().map(|mut pool| std::mem::take(&mut *pool)).unwrap_or_default();
    let mut whole = aggregators.pop().unwrap_or_else(|| UsageAggregator::new(Arc::clone(rules), month));
    while let Some(aggregator) = aggregators.pop() {
        whole.merge(&aggregator);
        let broken = |why| ReadError::Broken { file: "all files together".into(), place: String::new(), why };
        whole.too_much().map_or(Ok(()), |why| Err(broken(why)))?;
    }
    name_resources(&mut whole, &shared).await?;
    Ok((whole, facts))
}

/// Looks up the resources of faulty lines that are named. A bill without faults is read without
/// that column.
async fn name_resources(whole: &mut UsageAggregator, shared: &Shared) -> Result<(), ReadError> {
    for ((file, group), rows) in whole.faults().without_resource() {
        let Some(object) = shared.objects.iter().find(|object| object.key == file) else { continue };
        let footer = ParquetFile::footer(&shared.source, object).await?;
        let (source, keys) = (Arc::clone(&shared.source), shared.keys.clone());
        let opened = ParquetFile::open(source, object.clone(), &footer, keys, shared.largest_group)?;
        let Some(parquet) = opened.map(Arc::new) else { continue };
        let resources = parquet.resources(group, rows).await?;
        whole.faults_mut().name_resources(&file, group, &resources);
    }
    Ok(())
}
