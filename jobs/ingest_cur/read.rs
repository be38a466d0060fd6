//! Reading all files of a version: row groups in parallel, in bounded memory.
//!
//! The footers of a few files are read ahead, column chunks are fetched and decoded within a budget
//! of bytes, and decoding runs on as many blocking threads as there are cores. Each thread takes an
//! aggregator from a pool; the few aggregators are merged at the end.
//!
//! A row group that takes more than
//! [`ReadLimits::largest_group`](crate::context::ReadLimits::largest_group) is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::aggregate::{UsageAggregator, WaitingLine, WantedLines};
use super::csv;
use super::parquet_file::{BillColumns, ParquetFile, texts};
use crate::context::ReadSettings;
use crate::data_files::budget::Budget;
use crate::data_files::column_file;
use crate::data_files::object_reader::Footer;
use crate::data_files::read_error::ReadError;
use crate::source::{Object, Source};
use books::units::calendar::Month;
use books::usage::bill::BillFile;
use books::usage::meter::Rules;

/// Files that are opened ahead, with their footers.
const OPEN_AHEAD: usize = 4;

/// The files of a version, as they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct FileStats {
    pub(super) files: Vec<BillFile>,
    /// Files with counted lines and without a column for the customer tag.
    pub(super) files_without_tag: usize,
    /// Row groups that cannot have a wanted line, and were not read.
    pub(super) skipped_row_groups: u64,
}

impl FileStats {
    pub(super) fn rows(&self) -> u64 {
        self.files.iter().map(|f| f.rows).sum()
    }
}

/// A piece of a version that is read by itself.
enum ReadUnit {
    Group {
        file: usize,
        parquet: Arc<ParquetFile>,
        group: usize,
        footer: Arc<OwnedSemaphorePermit>,
    },
    Csv {
        file: usize,
    },
    /// Row groups that are not read.
    Skipped {
        groups: u64,
    },
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
    skipped_row_groups: u64,
    /// The unit's share of the file's bytes.
    bytes: u64,
}

/// What is read beside the sums.
pub(super) enum ReadExtent {
    Sums,
    /// These lines are listed. Only the row groups are read that can have one; the sums are then
    /// not those of the bill.
    Lines(Arc<WantedLines>),
    /// Unclaimed lines are described.
    Descriptions,
}

struct Shared {
    source: Arc<dyn Source>,
    objects: Vec<Object>,
    columns: BillColumns,
    rules: Arc<Rules>,
    month: Month,
    pool: Mutex<Vec<UsageAggregator>>,
    budget: Budget,
    largest_group: u64,
    extent: ReadExtent,
}

impl Shared {
    fn take(&self) -> UsageAggregator {
        let pooled = self.pool.lock().ok().and_then(|mut pool| pool.pop());
        pooled.unwrap_or_else(|| self.aggregator())
    }

    fn aggregator(&self) -> UsageAggregator {
        let new = UsageAggregator::new(Arc::clone(&self.rules), self.month);
        match &self.extent {
            ReadExtent::Sums => new,
            ReadExtent::Lines(wanted) => new.listing(Arc::clone(wanted)),
            ReadExtent::Descriptions => new.describing(),
        }
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
            return Ok(Opened::Parquet { file, footer: column_file::footer(&self.source, object).await? });
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
        let object = self.objects[file].clone();
        let permit = Arc::new(self.budget.footer(&self.source.name(&object.key), &footer).await?);
        let (source, columns) = (Arc::clone(&self.source), self.columns.clone());
        let opened = ParquetFile::open(source, object, &footer, columns, self.largest_group)?;
        let Some(parquet) = opened.map(Arc::new) else { return Ok(vec![ReadUnit::Skipped { groups: 0 }]) };
        let groups = match &self.extent {
            ReadExtent::Lines(wanted) => parquet.groups_with(&footer, wanted)?,
            ReadExtent::Sums | ReadExtent::Descriptions => (0..parquet.row_groups()).collect(),
        };
        let skipped = u64::try_from(parquet.row_groups() - groups.len()).unwrap_or(0);
        let unit = |group| ReadUnit::Group { file, parquet: Arc::clone(&parquet), group, footer: Arc::clone(&permit) };
        Ok(std::iter::once(ReadUnit::Skipped { groups: skipped }).chain(groups.into_iter().map(unit)).collect())
    }

    async fn work(self: Arc<Self>, part: ReadUnit) -> Result<Found, ReadError> {
        match part {
            ReadUnit::Skipped { groups } => Ok(Found { skipped_row_groups: groups, ..Found::default() }),
            ReadUnit::Csv { file } => {
                let _memory = self.budget.memory(csv::BYTES).await?;
                let _processor = self.budget.processor().await?;
                let aggregator = self.take();
                let object = self.objects[file].clone();
                let (aggregator, facts) =
                    csv::aggregate(Arc::clone(&self.source), object, self.columns.clone(), aggregator).await?;
                self.give_back(aggregator);
                let (rows, counted_rows, lacks_tag) = (facts.rows, facts.counted_rows, facts.lacks_tag);
                Ok(Found { file, rows, counted_rows, lacks_tag, bytes: self.objects[file].size, ..Found::default() })
            }
            ReadUnit::Group { file, parquet, group, footer } => {
                let memory = self.budget.group_memory(parquet.needed_bytes(group)).await?;
                let (rows, lacks_tag) = (parquet.rows(group), parquet.lacks_tag());
                let groups = u64::try_from(parquet.row_groups()).unwrap_or(1).max(1);
                let bytes = parquet.object().size / groups;
                let fetched = parquet.fetch(group).await?;
                let (shared, own) = (Arc::clone(&self), Arc::clone(&parquet));
                let decoding = self.budget.decode(fetched, move |chunks, plan| {
                    let mut aggregator = shared.take();
                    let counted_rows = own.aggregate(chunks, plan, &mut aggregator)?;
                    let waiting = aggregator.take_waiting();
                    shared.give_back(aggregator);
                    Ok((counted_rows, waiting))
                });
                let (mut counted_rows, waiting) = decoding.await?;
                drop(memory);
                if !waiting.is_empty() {
                    counted_rows += Arc::clone(&self).count_waiting(&parquet, group, waiting).await?;
                }
                drop(footer);
                Ok(Found { file, rows, row_groups: 1, counted_rows, lacks_tag, bytes, skipped_row_groups: 0 })
            }
        }
    }
}

impl Shared {
    /// Counts the lines of a row group that wait for their resource, and returns how many a meter
    /// counted.
    async fn count_waiting(
        self: Arc<Self>,
        parquet: &ParquetFile,
        group: usize,
        waiting: Vec<WaitingLine>,
    ) -> Result<u64, ReadError> {
        let lines = u64::try_from(size_of::<WaitingLine>() * waiting.len()).unwrap_or(u64::MAX);
        let _memory = self.budget.group_memory(parquet.resource_bytes(group).saturating_add(lines)).await?;
        let fetched = parquet.fetch_resources(group).await?;
        let mut aggregator = self.take();
        let before = aggregator.counted_rows();
        let Some(fetched) = fetched else {
            waiting.iter().for_each(|line| aggregator.count_waiting(line, ""));
            let counted = aggregator.counted_rows() - before;
            self.give_back(aggregator);
            return Ok(counted);
        };
        let shared = Arc::clone(&self);
        let counting = self.budget.decode(fetched, move |chunks, plan| {
            let mut waiting = waiting.iter().peekable();
            texts(chunks, plan, |row, text| {
                while let Some(line) = waiting.next_if(|line| line.row == row) {
                    aggregator.count_waiting(line, text);
                }
            })?;
            let counted = aggregator.counted_rows() - before;
            shared.give_back(aggregator);
            Ok(counted)
        });
        counting.await
    }
}

pub(super) async fn read_files(
    source: &Arc<dyn Source>,
    objects: &[Object],
    read_settings: &ReadSettings,
    month: Month,
) -> Result<(UsageAggregator, FileStats), ReadError> {
    read_extent(source, objects, read_settings, month, ReadExtent::Sums).await
}

/// Reads the files of a version, and what is wanted beside the sums.
pub(super) async fn read_extent(
    source: &Arc<dyn Source>,
    objects: &[Object],
    read_settings: &ReadSettings,
    month: Month,
    extent: ReadExtent,
) -> Result<(UsageAggregator, FileStats), ReadError> {
    let ReadSettings { rules, limits, progress, .. } = read_settings;
    let shared = Arc::new(Shared {
        source: Arc::clone(source),
        objects: objects.to_vec(),
        columns: match extent {
            ReadExtent::Descriptions => BillColumns::with_descriptions(rules),
            ReadExtent::Sums | ReadExtent::Lines(_) => BillColumns::of(rules),
        },
        rules: Arc::clone(rules),
        month,
        pool: Mutex::default(),
        budget: Budget::new(limits),
        largest_group: limits.largest_group(),
        extent,
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
    let mut facts = FileStats { files: objects.iter().map(file).collect(), ..FileStats::default() };
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
        facts.skipped_row_groups += found.skipped_row_groups;
        without_tag[found.file] |= found.lacks_tag;
        progress.add(found.bytes);
    }
    let counts = facts.files.iter().map(|file| file.counted_rows > 0);
    facts.files_without_tag = without_tag.into_iter().zip(counts).filter(|of| *of == (true, true)).count();
    let mut aggregators = shared.pool.lock().map(|mut pool| std::mem::take(&mut *pool)).unwrap_or_default();
    let mut whole = aggregators.pop().unwrap_or_else(|| shared.aggregator());
    while let Some(aggregator) = aggregators.pop() {
        whole.merge(&aggregator);
        let broken = |why| ReadError::Broken { file: "all files together".into(), place: String::new(), why };
        whole.too_much().map_or(Ok(()), |why| Err(broken(why)))?;
    }
    match &shared.extent {
        ReadExtent::Lines(_) => name_listed(&mut whole, &shared).await?,
        ReadExtent::Sums | ReadExtent::Descriptions => name_resources(&mut whole, &shared).await?,
    }
    Ok((whole, facts))
}

/// Looks up the resources of listed lines: that column is read for row groups with such lines only.
async fn name_listed(whole: &mut UsageAggregator, shared: &Shared) -> Result<(), ReadError> {
    let Some(listing) = whole.listing_mut() else { return Ok(()) };
    let mut places: BTreeMap<Arc<str>, BTreeMap<usize, BTreeSet<u64>>> = BTreeMap::new();
    for ((file, group, row), _) in listing.lines.iter().filter(|(_, line)| line.resource.is_none()) {
        if let Some(group) = group {
            places.entry(Arc::clone(file)).or_default().entry(*group).or_default().insert(*row);
        }
    }
    for (file, groups) in places {
        let Some(object) = shared.objects.iter().find(|object| *object.key == *file) else { continue };
        let footer = column_file::footer(&shared.source, object).await?;
        let _footer = shared.budget.footer(&file, &footer).await?;
        let (source, columns) = (Arc::clone(&shared.source), shared.columns.clone());
        let opened = ParquetFile::open(source, object.clone(), &footer, columns, shared.largest_group)?;
        let Some(parquet) = opened else { continue };
        for (group, rows) in groups {
            let _memory = shared.budget.group_memory(parquet.resource_bytes(group)).await?;
            for (row, resource) in parquet.resources(group, rows).await? {
                if let Some(line) = listing.lines.get_mut(&(Arc::clone(&file), Some(group), row)) {
                    line.resource = Some(resource);
                }
            }
        }
    }
    Ok(())
}

/// Looks up the resources of faulty lines that are named. A bill without faults is read without
/// that column.
async fn name_resources(whole: &mut UsageAggregator, shared: &Shared) -> Result<(), ReadError> {
    for ((file, group), rows) in whole.without_resource() {
        let Some(object) = shared.objects.iter().find(|object| object.key == file) else { continue };
        let footer = column_file::footer(&shared.source, object).await?;
        let (source, columns) = (Arc::clone(&shared.source), shared.columns.clone());
        let opened = ParquetFile::open(source, object.clone(), &footer, columns, shared.largest_group)?;
        let Some(parquet) = opened else { continue };
        let resources = parquet.resources(group, rows).await?;
        whole.name_resources(&file, group, &resources);
    }
    Ok(())
}
