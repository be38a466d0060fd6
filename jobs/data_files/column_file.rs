//! A Parquet file's needed columns, row group by row group.
//!
//! The footer is read first, then the needed column chunks of one row group at a time. No file is
//! in memory as a whole.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use tokio::task::JoinError;

use super::decoder_guard::guarded;
use super::memory::{self, Chunk, Plan, TooMuch};
use super::object_reader::{Chunks, Footer, ObjectReader};
use super::read_error::ReadError;
use crate::source::{Object, Source};

/// Reads a file's footer.
pub(crate) async fn footer(source: &Arc<dyn Source>, object: &Object) -> Result<Footer, ReadError> {
    let file = ObjectReader { source: Arc::clone(source), object: object.clone() };
    file.footer().await.map_err(|e| ReadError::of_parquet(&source.name(&object.key), ", footer", e))
}

/// A Parquet file whose columns are known, and not yet how they are decoded.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    source: Arc<dyn Source>,
    object: Object,
    name: String,
    metadata: Arc<ParquetMetaData>,
    inferred: SchemaRef,
}

impl OpenedFile {
    /// Decodes the footer. None for a file without rows.
    ///
    /// # Errors
    /// When the footer is damaged.
    pub(crate) fn open(source: Arc<dyn Source>, object: Object, footer: &Footer) -> Result<Option<Self>, ReadError> {
        let name = source.name(&object.key);
        let metadata = footer.decode().map_err(|e| ReadError::of_parquet(&name, ", footer", e))?;
        let (rows, parts) = (metadata.file_metadata().num_rows(), metadata.row_groups().iter().map(|g| g.num_rows()));
        if parts.clone().any(|n| n < 0) || parts.sum::<i64>() != rows {
            let why = "its row groups do not add up to its rows; it is damaged".to_owned();
            return Err(ReadError::Broken { file: name, place: ", footer".to_owned(), why });
        }
        if rows == 0 {
            return Ok(None);
        }
        let inferred = guarded(|| ArrowReaderMetadata::try_new(Arc::clone(&metadata), plain()))
            .map_err(|e| ReadError::of_parquet(&name, ", schema", e))?;
        let inferred = Arc::clone(inferred.schema());
        Ok(Some(Self { source, object, name, metadata, inferred }))
    }

    /// The columns, with the types that they have by themselves.
    pub(crate) fn fields(&self) -> &Fields {
        self.inferred.fields()
    }

    /// What is wrong at a place, which begins with a comma.
    pub(crate) fn broken(&self, place: &str, why: String) -> ReadError {
        ReadError::Broken { file: self.name.clone(), place: place.to_owned(), why }
    }

    /// The file, decoded as these fields, of which row groups may take `limit` bytes, fetched and
    /// decoded.
    ///
    /// # Errors
    /// When the file's columns cannot be decoded so.
    pub(crate) fn decoded_as(self, fields: Vec<FieldRef>, limit: u64) -> Result<ColumnFile, ReadError> {
        let Self { source, object, name, metadata, .. } = self;
        let schema = Arc::new(Schema::new(fields));
        let metadata = guarded(|| ArrowReaderMetadata::try_new(metadata, plain().with_schema(schema)))
            .map_err(|e| ReadError::of_parquet(&name, ", schema", e))?;
        Ok(ColumnFile { source, object, name, metadata, limit })
    }
}

/// The file's own schema counts, not the one that a writer of Arrow left in it.
fn plain() -> ArrowReaderOptions {
    ArrowReaderOptions::new().with_skip_arrow_metadata(true)
}

/// A Parquet file that is ready to be decoded. A column's place is its number in the schema.
#[derive(Clone, Debug)]
pub(crate) struct ColumnFile {
    source: Arc<dyn Source>,
    pub(crate) object: Object,
    name: String,
    metadata: ArrowReaderMetadata,
    limit: u64,
}

impl ColumnFile {
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    pub(crate) fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    pub(crate) fn rows(&self, group: usize) -> u64 {
        u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or(0)
    }

    /// What is wrong at a place, which begins with a comma.
    pub(crate) fn broken(&self, place: &str, why: String) -> ReadError {
        ReadError::Broken { file: self.name.clone(), place: place.to_owned(), why }
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

    /// What the file says of the values at these places.
    ///
    /// # Errors
    /// When the footer is damaged.
    pub(crate) fn statistics(&self, footer: &Footer, places: &[usize]) -> Result<FileStatistics, ReadError> {
        let mask = self.mask(places);
        let leaves: Vec<usize> = (0..self.metadata.parquet_schema().num_columns()).collect();
        let wanted: Vec<usize> = leaves.into_iter().filter(|leaf| mask.leaf_included(*leaf)).collect();
        let decoded = footer.decode_with(&wanted);
        let metadata = decoded.map_err(|e| ReadError::of_parquet(&self.name, ", footer", e))?;
        Ok(FileStatistics { metadata, leaves: wanted })
    }

    /// Bytes that [`ColumnFile::fetch`] reads into memory for a row group.
    pub(crate) fn needed_bytes(&self, group: usize, places: &[usize]) -> u64 {
        bytes_of(&self.ranges(group, &self.mask(places)))
    }

    /// Fetches the column chunks of a row group at these places, which ascend.
    ///
    /// # Errors
    /// When the footer is damaged, the chunks are too large, or the source fails.
    pub(crate) async fn fetch(self: Arc<Self>, group: usize, places: Vec<usize>) -> Result<GroupChunks, ReadError> {
        let place = format!(", row group {group}");
        let ranges = self.ranges(group, &self.mask(&places));
        if ranges.iter().any(|r| r.end > self.object.size) {
            let why = "the footer points outside the file; it is damaged or truncated".to_owned();
            return Err(self.broken(&place, why));
        }
        let needed = bytes_of(&ranges);
        if needed > self.limit {
            let why = format!("its needed columns have {} MiB; {}", needed >> 20, memory::advice(needed));
            return Err(self.broken(&place, why));
        }
        let file = ObjectReader { source: Arc::clone(&self.source), object: self.object.clone() };
        let bytes = file.byte_ranges(&ranges).await.map_err(|e| ReadError::of_parquet(&self.name, &place, e))?;
        let parts = ranges.iter().map(|r| r.start).zip(bytes).collect();
        let chunks = Chunks { size: self.object.size, parts: Arc::new(parts) };
        Ok(GroupChunks { file: self, group, places, chunks })
    }
}

/// What a file says of the values of some columns.
#[derive(Debug)]
pub(crate) struct FileStatistics {
    metadata: Arc<ParquetMetaData>,
    leaves: Vec<usize>,
}

impl FileStatistics {
    /// Of the last leaf of the column at a place: the values of a map come after its keys. None
    /// where the file says nothing.
    pub(crate) fn of(&self, group: usize, place: usize) -> Option<&Statistics> {
        let schema = self.metadata.file_metadata().schema_descr();
        let leaf = self.leaves.iter().rev().find(|leaf| schema.get_column_root_idx(**leaf) == place)?;
        self.metadata.row_groups().get(group)?.columns().get(*leaf)?.statistics()
    }
}

/// A row group with its needed column chunks in memory.
#[derive(Debug)]
pub(crate) struct GroupChunks {
    file: Arc<ColumnFile>,
    group: usize,
    places: Vec<usize>,
    chunks: Chunks,
}

impl GroupChunks {
    /// Finds out how to decode the row group in the memory that it may take. CPU work.
    ///
    /// # Errors
    /// When it needs more, or is damaged.
    pub(crate) fn plan(&self) -> Result<Plan, ReadError> {
        let metadata = self.file.metadata.metadata().row_group(self.group);
        let mask = self.file.mask(&self.places);
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

    /// What is wrong when the decoder panics.
    pub(crate) fn damaged(&self) -> impl Fn(&JoinError) -> ReadError + Send + 'static {
        let (file, group) = (Arc::clone(&self.file), self.group);
        move |e| {
            let why = format!("the decoder gave up ({e}); the file is damaged");
            file.broken(&format!(", row group {group}"), why)
        }
    }

    /// File and row group, for people.
    pub(crate) fn name(&self) -> String {
        format!("{}, row group {}", self.file.name, self.group)
    }

    /// The number of the row group in its file.
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// The name of the column that a leaf belongs to.
    fn name_of(&self, leaf: usize) -> &str {
        self.file.metadata.parquet_schema().get_column_root(leaf).name()
    }

    /// Decodes the row group: `each` gets batch after batch, with the number of its first row. CPU
    /// work; it waits for nothing.
    ///
    /// # Errors
    /// The first column that cannot be decoded, or the first error of `each`.
    pub(crate) fn decode(
        &self,
        plan: &Plan,
        mut each: impl FnMut(usize, &RecordBatch) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let rows = plan.batch_rows;
        let schema = self.file.metadata.parquet_schema();
        let unmeasured = plan.unmeasured.iter().map(|leaf| schema.get_column_root_idx(*leaf));
        let unmeasured: Vec<usize> = unmeasured.filter_map(|place| self.places.binary_search(&place).ok()).collect();
        let mut first_row = 0;
        for batch in self.batches(&self.places, rows).map_err(|e| self.diagnose(rows, &e))? {
            let batch = batch.map_err(|e| self.diagnose(rows, &e.into()))?;
            for at in &unmeasured {
                let longest = longest_text(batch.column(*at));
                if longest > memory::LONGEST_VALUE {
                    let column = batch.schema_ref().field(*at).name();
                    return Err(self.broken(Some(column), &memory::too_long(longest)));
                }
            }
            each(first_row, &batch)?;
            first_row += batch.num_rows();
        }
        let wanted = self.file.rows(self.group);
        if u64::try_from(first_row).ok() != Some(wanted) {
            return Err(self.broken(None, &format!("{first_row} rows were decoded where the footer says {wanted}")));
        }
        Ok(())
    }

    fn batches(&self, places: &[usize], rows: usize) -> parquet::errors::Result<ParquetRecordBatchReader> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.chunks.clone(), self.file.metadata.clone())
            .with_row_groups(vec![self.group])
            .with_projection(self.file.mask(places))
            .with_batch_size(rows)
            .build()
    }

    /// Finds the column that cannot be decoded, by decoding one column after another.
    fn diagnose(&self, rows: usize, error: &ParquetError) -> ReadError {
        let fails = |place: &&usize| match self.batches(&[**place], rows) {
            Ok(mut batches) => batches.any(|b| b.is_err()),
            Err(_) => true,
        };
        let schema = self.file.metadata.schema();
        let column = self.places.iter().find(fails).map(|p| schema.field(*p).name().as_str());
        self.broken(column, &format!("it cannot be decoded ({error}); the file is damaged"))
    }

    /// What is wrong with the row group, or with a column of it.
    pub(crate) fn broken(&self, column: Option<&str>, why: &str) -> ReadError {
        let column = column.map(|c| format!(", column {c}")).unwrap_or_default();
        self.file.broken(&format!(", row group {}{column}", self.group), why.to_owned())
    }
}

fn bytes_of(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().fold(0, |sum: u64, r| sum.saturating_add(r.end - r.start))
}

/// Bytes of the longest of an array's texts.
fn longest_text(array: &ArrayRef) -> u64 {
    let of = |array: &ArrayRef| {
        if let Some(texts) = array.as_string_view_opt() {
            return texts.lengths().max().map_or(0, u64::from);
        }
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
