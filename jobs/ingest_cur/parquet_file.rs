//! Parquet bills: the columns that matter, row group by row group.
//!
//! A bill has 120 columns and more; those that matter are an eighth of the bytes. So the footer is
//! read first, then the needed column chunks of one row group at a time. No file is in memory as a
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;

use super::aggregate::{Origin, UsageAggregator};
use super::batch::{Amounts, Batch, Days, Tag, TagColumn, TextColumn};
use super::decoder_guard::guarded;
use super::export::{FOCUS, FOCUS_COLUMN};
use super::memory::{self, Chunk, Plan, TooMuch};
use super::object_reader::{Chunks, Footer, ObjectReader};
use crate::source::{Object, Source, SourceError};
use books::usage::tag_key::{TagKeys, TagName, canonical_name};

/// Why a data file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{file}{place}: {why}")]
    Broken {
        file: String,
        /// Row group and column, as far as they are known; begins with a comma.
        place: String,
        why: String,
    },
}

/// The places of the columns that are read.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    product: usize,
    usage_type: usize,
    line_type: usize,
    amount: usize,
    day: usize,
    /// Read only where there is no interval.
    end: Option<usize>,
    interval: Option<usize>,
    unit: Option<usize>,
    split_parent: Option<usize>,
    period: Option<usize>,
    tags: Vec<usize>,
    /// Columns of tags whose key is similar to a configured one.
    similar: Vec<usize>,
    /// The tags that have a column of their own in the file.
    pub(super) tag_columns: Vec<String>,
    /// Read for faulty lines only.
    resource: Option<usize>,
}

/// True for the canonical name of a column with all tags of a line.
pub(super) fn is_tag_map(canonical: &str) -> bool {
    matches!(canonical, "resource_tags" | "tags")
}

impl Wanted {
    /// Finds the columns by their canonical names.
    ///
    /// # Errors
    /// The names of required columns that are missing.
    pub fn find<'a>(names: impl Iterator<Item = &'a str>, keys: &TagKeys) -> Result<Self, Vec<&'static str>> {
        let names: Vec<(String, &str)> = names.map(|n| (canonical_name(n), n)).collect();
        let find = |name: &str| names.iter().position(|(n, _)| n == name);
        let mut missing = vec![];
        let mut need = |name: &'static str, place: Option<usize>| {
            place.unwrap_or_else(|| {
                missing.push(name);
                0
            })
        };
        let day = find("line_item_usage_start_date").or_else(|| find("identity_time_interval"));
        let is_tag = |(canonical, name): &(String, &str)| keys.place_of_column(name).is_some() || is_tag_map(canonical);
        let tag_columns = names.iter().filter_map(|(_, name)| Some(TagName::of_column(name)?.written())).collect();
        let interval = find("identity_time_interval");
        let wanted = Self {
            product: need("line_item_product_code", find("line_item_product_code")),
            usage_type: need("line_item_usage_type", find("line_item_usage_type")),
            line_type: need("line_item_line_item_type", find("line_item_line_item_type")),
            amount: need("line_item_usage_amount", find("line_item_usage_amount")),
            day: need("line_item_usage_start_date", day),
            end: find("line_item_usage_end_date").filter(|_| interval.is_none()),
            interval,
            unit: find("pricing_unit"),
            split_parent: find("split_line_item_parent_resource_id"),
            period: find("bill_billing_period_start_date"),
            tags: (0..names.len()).filter(|i| is_tag(&names[*i])).collect(),
            similar: (0..names.len()).filter(|i| keys.is_similar_column(names[*i].1)).collect(),
            tag_columns,
            resource: find("line_item_resource_id"),
        };
        if missing.is_empty() { Ok(wanted) } else { Err(missing) }
    }

    /// The place of the column that names the resource of a line.
    pub fn resource(&self) -> Option<usize> {
        self.resource
    }

    /// Places of all columns that each row is read for, ascending.
    pub fn places(&self) -> Vec<usize> {
        let mut places = vec![self.product, self.usage_type, self.line_type, self.amount, self.day];
        let more = [self.end, self.interval, self.unit, self.split_parent, self.period];
        places.extend(more.into_iter().flatten());
        places.extend(&self.tags);
        places.extend(&self.similar);
        places.sort_unstable();
        places.dedup();
        places
    }

    /// True when no column can have the customer tag.
    pub fn lacks_tag(&self) -> bool {
        self.tags.is_empty()
    }

    /// The columns of a batch; `array` gives the array at a place of [`Wanted::find`].
    ///
    /// # Errors
    /// Name and type of a column of a wrong type.
    pub fn batch<'a>(
        &self,
        rows: usize,
        array: impl Fn(usize) -> (&'a str, &'a ArrayRef),
        keys: &TagKeys,
    ) -> Result<Batch<'a>, (String, DataType)> {
        let wrong = |place: usize| {
            let (name, array) = array(place);
            (name.to_owned(), array.data_type().clone())
        };
        let text = |place: usize| TextColumn::from_array(array(place).1).ok_or_else(|| wrong(place));
        let days = |place: usize| Days::from_array(array(place).1).ok_or_else(|| wrong(place));
        let tags = self.tags.iter().map(|place| {
            let (column, values) = array(*place);
            let found = Tag::from_array(column, values, keys);
            found.map(|tag| TagColumn { column, tag }).ok_or_else(|| wrong(*place))
        });
        Ok(Batch {
            rows,
            product: text(self.product)?,
            usage_type: text(self.usage_type)?,
            line_type: text(self.line_type)?,
            unit: self.unit.map(text).transpose()?,
            split_parent: self.split_parent.map(text).transpose()?,
            tags: tags.collect::<Result<_, _>>()?,
            // they are only looked at for a note, so one of another type is no fault
            similar: self.similar.iter().filter_map(|place| TextColumn::from_array(array(*place).1)).collect(),
            amount: Amounts::from_array(array(self.amount).1).ok_or_else(|| wrong(self.amount))?,
            day: days(self.day)?,
            end: self.end.and_then(|place| Days::from_array(array(place).1)),
            interval: self.interval.and_then(|place| TextColumn::from_array(array(place).1)),
            period: self.period.map(days).transpose()?,
        })
    }
}

/// A Parquet file with its footer read and its columns found.
#[derive(Clone, Debug)]
pub struct ParquetFile {
    source: Arc<dyn Source>,
    pub object: Object,
    name: String,
    metadata: ArrowReaderMetadata,
    wanted: Wanted,
    keys: TagKeys,
    /// Bytes that a row group may take, fetched and decoded.
    limit: u64,
}

/// As [`Field`], but with text as dictionary codes.
fn with_codes(field: &FieldRef) -> FieldRef {
    let codes = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary | DataType::LargeBinary => codes(),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(parts) => {
                let parts: Vec<FieldRef> = parts.iter().map(with_codes).collect();
                let entries = Field::new(entries.name(), DataType::Struct(parts.into()), entries.is_nullable());
                DataType::Map(Arc::new(entries), *sorted)
            }
            other => other.clone(),
        },
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

impl ParquetFile {
    pub(super) async fn footer(source: &Arc<dyn Source>, object: &Object) -> Result<Footer, ReadError> {
        let file = ObjectReader { source: Arc::clone(source), object: object.clone() };
        file.footer().await.map_err(|e| parquet_fault(&source.name(&object.key), ", footer", e))
    }

    /// Decodes the footer and finds the columns. None for a file without rows: AWS leaves such
    /// files behind when a delivery needs fewer files than the one before.
    pub(super) fn open(
        source: Arc<dyn Source>,
        object: Object,
        footer: &Footer,
        keys: TagKeys,
        limit: u64,
    ) -> Result<Option<Self>, ReadError> {
        let name = source.name(&object.key);
        let broken = |place: &str, why: String| ReadError::Broken { file: name.clone(), place: place.to_owned(), why };
        let metadata = footer.decode().map_err(|e| parquet_fault(&name, ", footer", e))?;
        let (rows, parts) = (metadata.file_metadata().num_rows(), metadata.row_groups().iter().map(|g| g.num_rows()));
        if parts.clone().any(|n| n < 0) || parts.sum::<i64>() != rows {
            return Err(broken(", footer", "its row groups do not add up to its rows; it is damaged".into()));
        }
        if rows == 0 {
            return Ok(None);
        }
        let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let inferred = guarded(|| ArrowReaderMetadata::try_new(Arc::clone(&metadata), plain.clone()))
            .map_err(|e| parquet_fault(&name, ", schema", e))?;
        let fields = inferred.schema().fields();
        let names = || fields.iter().map(|f| f.name().as_str());
        let wanted = Wanted::find(names(), &keys).map_err(|missing| broken("", missing_columns(&missing, names())))?;
        let places = wanted.places();
        let coded =
            fields.iter().enumerate().map(|(i, f)| if places.contains(&i) { with_codes(f) } else { Arc::clone(f) });
        let schema = Arc::new(Schema::new(coded.collect::<Vec<_>>()));
        let metadata = guarded(|| ArrowReaderMetadata::try_new(metadata, plain.with_schema(Arc::clone(&schema))))
            .map_err(|e| parquet_fault(&name, ", schema", e))?;
        let empty = RecordBatch::new_empty(Arc::clone(metadata.schema()));
        let array = |place: usize| (metadata.schema().field(place).name().as_str(), empty.column(place));
        // a column without a value may have any type: whether it has one is seen when it is decoded
        if let Err((column, data_type)) = wanted.batch(0, array, &keys) {
            return Err(broken(&format!(", column {column}"), wrong_type(&data_type)));
        }
        Ok(Some(Self { source, object, name, metadata, wanted, keys, limit }))
    }

    pub fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    pub fn rows(&self, group: usize) -> u64 {
        u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    pub fn lacks_tag(&self) -> bool {
        self.wanted.lacks_tag()
    }

    /// The needed column chunks of a row group. An impossible range of a damaged footer becomes one
    /// beyond every file.
    fn ranges(&self, group: usize, mask: &ProjectionMask) -> Vec<Range<u64>> {
        let columns = self.metadata.metadata().row_group(group).columns().iter().enumerate();
        let needed = columns.filter(|(leaf, _)| mask.leaf_included(*leaf));
        needed
            .map(|(_, column)| {
                // `ColumnChunkMetaData::byte_range` panics when a damaged footer has negative
                // numbers
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                match (u64::try_from(start), u64::try_from(column.compressed_size())) {
                    (Ok(start), Ok(length)) => start..start.saturating_add(length),
                    _ => 0..u64::MAX,
                }
            })
            .collect()
    }

    fn mask(&self, places: &[usize]) -> ProjectionMask {
        ProjectionMask::roots(self.metadata.parquet_schema(), places.iter().copied())
    }

    /// Bytes that [`ParquetFile::fetch`] reads into memory for a row group.
    pub fn needed_bytes(&self, group: usize) -> u64 {
        bytes_of(&self.ranges(group, &self.mask(&self.wanted.places())))
    }

    /// Fetches the needed column chunks of a row group.
    pub async fn fetch(self: Arc<Self>, group: usize) -> Result<RowGroup, ReadError> {
        let places = self.wanted.places();
        self.fetch_columns(group, &places).await
    }

    /// The resources of some rows of a row group, by row: a second look at rows that are faulty. A
    /// column that is missing, damaged or too large gives none.
    ///
    /// # Errors
    /// When the source fails.
    pub async fn resources(
        self: Arc<Self>,
        group: usize,
        rows: BTreeSet<u64>,
    ) -> Result<BTreeMap<u64, String>, ReadError> {
        let Some(place) = self.wanted.resource.filter(|_| group < self.row_groups()) else {
            return Ok(BTreeMap::new());
        };
        let fetched = match self.fetch_columns(group, &[place]).await {
            Ok(fetched) => fetched,
            Err(ReadError::Broken { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        // a panic of the decoder means a damaged file
        let found = tokio::task::spawn_blocking(move || fetched.texts(place, &rows)).await;
        Ok(found.ok().flatten().unwrap_or_default())
    }

    async fn fetch_columns(self: Arc<Self>, group: usize, places: &[usize]) -> Result<RowGroup, ReadError> {
        let place = format!(", row group {group}");
        let ranges = self.ranges(group, &self.mask(places));
        if ranges.iter().any(|r| r.end > self.object.size) {
            let why = "the footer points outside the file; it is damaged or truncated".to_owned();
            return Err(ReadError::Broken { file: self.name.clone(), place, why });
        }
        let needed = bytes_of(&ranges);
        if needed > self.limit {
            let why = format!("its needed columns have {} MiB; {}", needed >> 20, memory::advice(needed));
            return Err(ReadError::Broken { file: self.name.clone(), place, why });
        }
        let file = ObjectReader { source: Arc::clone(&self.source), object: self.object.clone() };
        let bytes = file.byte_ranges(&ranges).await.map_err(|e| parquet_fault(&self.name, &place, e))?;
        let parts = ranges.iter().map(|r| r.start).zip(bytes).collect();
        let chunks = Chunks { size: self.object.size, parts: Arc::new(parts) };
        Ok(RowGroup { file: self, group, chunks })
    }
}

/// A row group with its needed column chunks in memory.
#[derive(Debug)]
pub struct RowGroup {
    file: Arc<ParquetFile>,
    group: usize,
    chunks: Chunks,
}

impl RowGroup {
    /// Finds out how to decode the row group in the memory that it may take. CPU work.
    ///
    /// # Errors
    /// When it needs more, or is damaged.
    pub(super) fn plan(&self) -> Result<Plan, ReadError> {
        self.plan_columns(&self.file.wanted.places())
    }

    fn plan_columns(&self, places: &[usize]) -> Result<Plan, ReadError> {
        let metadata = self.file.metadata.metadata().row_group(self.group);
        let mask = self.file.mask(places);
        let leaves: Vec<usize> = (0..metadata.num_columns()).filter(|leaf| mask.leaf_included(*leaf)).collect();
        let ranges = self.file.ranges(self.group, &mask);
        let bytes: Option<Vec<_>> = ranges.iter().map(|range| self.chunks.slice(range)).collect();
        let bytes = bytes.unwrap_or_default();
        let rows = self.file.rows(self.group);
        let columns = leaves.iter().zip(&bytes);
        let columns: Vec<Chunk<'_>> =
            columns.map(|(leaf, bytes)| Chunk { leaf: *leaf, meta: metadata.column(*leaf), bytes, rows }).collect();
        let planned = catch_unwind(AssertUnwindSafe(|| memory::plan(&columns, &self.chunks, self.file.limit)));
        match planned {
            Ok(plan) => plan.map_err(|TooMuch { leaf, why }| self.broken(leaf.map(|l| self.name_of(l)), &why)),
            Err(_) => Err(self.broken(None, "the decoder gave up on it; the file is damaged")),
        }
    }

    /// The name of the column that a leaf belongs to.
    fn name_of(&self, leaf: usize) -> &str {
        self.file.metadata.parquet_schema().get_column_root(leaf).name()
    }

    /// Decodes the row group into the aggregator and returns how many rows a meter counted. CPU
    /// work; it waits for nothing.
    ///
    /// # Errors
    /// The first column that cannot be decoded.
    pub(super) fn aggregate(&self, plan: &Plan, aggregator: &mut UsageAggregator) -> Result<u64, ReadError> {
        let before = aggregator.counted_rows();
        aggregator.seen.tags.see(&self.file.wanted.tag_columns);
        let places = self.file.wanted.places();
        let rows = plan.batch_rows;
        let schema = self.file.metadata.parquet_schema();
        let unmeasured = plan.unmeasured.iter().map(|leaf| schema.get_column_root_idx(*leaf));
        let unmeasured: Vec<usize> = unmeasured.filter_map(|place| places.binary_search(&place).ok()).collect();
        let mut first_row = 0;
        for batch in self.batches(&places, rows).map_err(|e| self.diagnose(&places, rows, &e))? {
            let batch = batch.map_err(|e| self.diagnose(&places, rows, &e.into()))?;
            for at in &unmeasured {
                let longest = longest_text(batch.column(*at));
                if longest > memory::LONGEST_VALUE {
                    let column = batch.schema_ref().field(*at).name();
                    return Err(self.broken(Some(column), &memory::too_long(longest)));
                }
            }
            let names = self.file.metadata.schema();
            let array = |place: usize| {
                let at = places.binary_search(&place).unwrap_or(0);
                (names.field(place).name().as_str(), batch.column(at))
            };
            let columns = self.file.wanted.batch(batch.num_rows(), array, &self.file.keys);
            let columns = columns.map_err(|(column, t)| self.broken(Some(&column), &wrong_type(&t)))?;
            let origin = Origin {
                file: &self.file.object.key,
                row_group: Some(self.group),
                place: &|row| u64::try_from(first_row + row).unwrap_or(0),
                resource: &|_| None,
            };
            aggregator.add(&columns, &origin);
            if let Some(why) = aggregator.too_much() {
                return Err(self.broken(None, &why));
            }
            first_row += batch.num_rows();
        }
        let wanted = self.file.rows(self.group);
        if u64::try_from(first_row).ok() != Some(wanted) {
            return Err(self.broken(None, &format!("{first_row} rows were decoded where the footer says {wanted}")));
        }
        Ok(aggregator.counted_rows() - before)
    }

    /// The texts of some rows of a column; none when it cannot be decoded.
    fn texts(&self, place: usize, rows: &BTreeSet<u64>) -> Option<BTreeMap<u64, String>> {
        let mut found = BTreeMap::new();
        let mut first_row = 0;
        let plan = self.plan_columns(&[place]).ok()?;
        for batch in self.batches(&[place], plan.batch_rows).ok()? {
            let batch = batch.ok()?;
            let count = u64::try_from(batch.num_rows()).ok()?;
            let own: Vec<u64> = rows.range(first_row..first_row + count).copied().collect();
            if !own.is_empty() {
                let texts = cast(batch.column(0), &DataType::Utf8).ok()?;
                let texts = texts.as_string::<i32>();
                for row in own {
                    let at = usize::try_from(row - first_row).ok()?;
                    found.insert(row, if texts.is_valid(at) { texts.value(at).to_owned() } else { String::new() });
                }
            }
            first_row += count;
        }
        Some(found)
    }

    fn batches(
        &self,
        places: &[usize],
        rows: usize,
    ) -> parquet::errors::Result<parquet::arrow::arrow_reader::ParquetRecordBatchReader> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.chunks.clone(), self.file.metadata.clone())
            .with_row_groups(vec![self.group])
            .with_projection(self.file.mask(places))
            .with_batch_size(rows)
            .build()
    }

    /// Finds the column that cannot be decoded, by decoding one column after another.
    fn diagnose(&self, places: &[usize], rows: usize, error: &ParquetError) -> ReadError {
        let fails = |place: &&usize| match self.batches(&[**place], rows) {
            Ok(mut batches) => batches.any(|b| b.is_err()),
            Err(_) => true,
        };
        let schema = self.file.metadata.schema();
        let column = places.iter().find(fails).map(|p| schema.field(*p).name().as_str());
        self.broken(column, &format!("it cannot be decoded ({error}); the file is damaged"))
    }

    fn broken(&self, column: Option<&str>, why: &str) -> ReadError {
        let column = column.map(|c| format!(", column {c}")).unwrap_or_default();
        let place = format!(", row group {}{column}", self.group);
        ReadError::Broken { file: self.file.name.clone(), place, why: why.to_owned() }
    }
}

fn bytes_of(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().fold(0, |sum: u64, r| sum.saturating_add(r.end - r.start))
}

fn wrong_type(data_type: &DataType) -> String {
    format!("its type {data_type} is not one that this column can have; export the bill anew as AWS writes it")
}

/// What is missing, for a file without required columns.
pub(super) fn missing_columns<'a>(missing: &[&str], mut names: impl Iterator<Item = &'a str>) -> String {
    if names.any(|name| name == FOCUS_COLUMN) {
        return FOCUS.to_owned();
    }
    format!("there is no column {}; add it to the export", missing.join(", "))
}

/// Bytes of the longest of an array's texts.
fn longest_text(array: &ArrayRef) -> u64 {
    let of = |array: &ArrayRef| {
        let values = array.as_any_dictionary_opt().map(|d| d.values());
        let offsets = values.and_then(|v| {
            let texts = v.as_string_opt::<i32>().map(|texts| texts.offsets());
            texts.or_else(|| v.as_binary_opt::<i32>().map(|texts| texts.offsets()))
        });
        let longest = offsets.and_then(|offsets| offsets.lengths().max());
        longest.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
    };
    match array.as_map_opt() {
        Some(map) => of(map.keys()).max(of(map.values())),
        None => of(array),
    }
}

/// An error of the Parquet crate, or of the source that it reads through.
fn parquet_fault(file: &str, place: &str, error: ParquetError) -> ReadError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<SourceError>() {
            Ok(source) => ReadError::Source(*source),
            Err(other) => ReadError::Broken { file: file.to_owned(), place: place.to_owned(), why: other.to_string() },
        },
        ParquetError::General(why) => ReadError::Broken { file: file.to_owned(), place: place.to_owned(), why },
        other => ReadError::Broken { file: file.to_owned(), place: place.to_owned(), why: other.to_string() },
    }
}
