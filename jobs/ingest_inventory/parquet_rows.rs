//! Inventories in Parquet: the columns that matter, row group by row group.
//!
//! Keys are as S3 has them; only CSV encodes them.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html>.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit, TimestampMillisecondType};
use jiff::Timestamp;

use super::intervals::Currency;
use super::tally::{ListedObject, RowKind, Scan, Tally};
use crate::data_files::column_file::{ColumnFile, GroupChunks, OpenedFile};
use crate::data_files::memory::Plan;
use crate::data_files::object_reader::Footer;
use crate::data_files::read_error::ReadError;
use crate::listed::shown;
use crate::source::{Object, Source};

/// The columns that are read, and whether an Inventory must have them.
const COLUMNS: [(&str, Need); 9] = [
    ("key", Need::Must),
    ("version_id", Need::May),
    ("is_latest", Need::May),
    ("is_delete_marker", Need::May),
    ("size", Need::Must),
    ("last_modified_date", Need::Must),
    ("e_tag", Need::May),
    ("storage_class", Need::May),
    ("lifecycle_expiration_date", Need::May),
];

/// Decoded batches that wait until their rows are added.
const BATCHES_AHEAD: usize = 1;

/// The next decoded batch; none after the last one.
fn next<T>(decoded: &Mutex<Receiver<T>>) -> Option<T> {
    decoded.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A column, a row of the batch, and what is wrong with it.
type BadBatch = (Option<&'static str>, Option<usize>, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// A data file with its footer read and its columns found.
#[derive(Clone, Debug)]
pub(super) struct ParquetRows {
    file: Arc<ColumnFile>,
    /// Of [`COLUMNS`].
    places: [Option<usize>; 9],
}

/// Texts as views: those of one page share its bytes, and nothing is copied.
fn with_views(field: &FieldRef) -> FieldRef {
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
            Arc::new(Field::new(field.name(), DataType::Utf8View, field.is_nullable()))
        }
        _ => Arc::clone(field),
    }
}

impl ParquetRows {
    /// Decodes the footer and finds the columns; none for a file without rows. A row group may
    /// take `limit` bytes.
    ///
    /// # Errors
    /// When the file is damaged, or lacks a column.
    pub(super) fn open(
        source: Arc<dyn Source>,
        object: Object,
        footer: &Footer,
        limit: u64,
    ) -> Result<Option<Self>, ReadError> {
        let Some(opened) = OpenedFile::open(source, object, footer)? else { return Ok(None) };
        let fields = opened.fields().clone();
        let mut places = [None; 9];
        for (place, (name, need)) in places.iter_mut().zip(COLUMNS) {
            *place = fields.iter().position(|field| field.name().eq_ignore_ascii_case(name));
            if place.is_none() && need == Need::Must {
                let why = format!("there is no column {name}; add it to the Inventory's configuration");
                return Err(opened.broken("", why));
            }
        }
        let file = opened.decoded_as(fields.iter().map(with_views).collect(), limit)?;
        let rows = Self { file: Arc::new(file), places };
        // a column of a wrong type is named before anything is decoded
        let empty = RecordBatch::new_empty(Arc::clone(rows.file.schema()));
        let array = |column: usize| rows.places[column].map(|place| empty.column(place));
        Columns::of(array)
            .map_err(|(column, why)| rows.file.broken(&format!(", column {}", COLUMNS[column].0), why))?;
        Ok(Some(rows))
    }

    pub(super) fn row_groups(&self) -> usize {
        self.file.row_groups()
    }

    fn needed(&self) -> Vec<usize> {
        let mut needed: Vec<usize> = self.places.iter().flatten().copied().collect();
        needed.sort_unstable();
        needed
    }

    /// Bytes that [`ParquetRows::fetch`] reads into memory.
    pub(super) fn needed_bytes(&self, group: usize) -> u64 {
        self.file.needed_bytes(group, &self.needed())
    }

    pub(super) async fn fetch(&self, group: usize) -> Result<GroupChunks, ReadError> {
        Arc::clone(&self.file).fetch(group, self.needed()).await
    }

    /// Adds the rows of a row group, batch by batch, on a thread for each of `tallies`, while the
    /// next batch is decoded: memory has room for few row groups at once. CPU work.
    ///
    /// # Errors
    /// The first column that cannot be decoded, or a row after which nothing of the file may count.
    pub(super) fn add(
        &self,
        chunks: &GroupChunks,
        plan: &Plan,
        scan: Scan,
        tallies: &mut [Tally],
    ) -> Result<(), ReadError> {
        let (batches, decoded) = sync_channel::<(usize, RecordBatch)>(BATCHES_AHEAD);
        let decoded = Arc::new(Mutex::new(decoded));
        std::thread::scope(|threads| {
            let adding = tallies.iter_mut().map(|tally| {
                // when all threads have ended, so has the channel
                let decoded = Arc::clone(&decoded);
                threads.spawn(move || {
                    while let Some((first_row, batch)) = next(&decoded) {
                        self.add_batch(&batch, scan, &mut *tally).map_err(|bad| (first_row, bad))?;
                    }
                    Ok(())
                })
            });
            let adding: Vec<_> = adding.collect();
            drop(decoded);
            let decoding = chunks.decode(plan, |first_row, batch| {
                // when rows cannot be added, the threads say why
                let sent = batches.send((first_row, batch.clone()));
                sent.map_err(|_| chunks.broken(None, "its rows were not added"))
            });
            drop(batches);
            let added = adding.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            let bad = added.filter_map(Result::err).min_by_key(|(first_row, _): &(usize, BadBatch)| *first_row);
            match bad {
                None => decoding,
                Some((first_row, (column, row, why))) => {
                    let why = row.map_or_else(|| why.clone(), |row| format!("row {}: {why}", first_row + row));
                    Err(chunks.broken(column, &why))
                }
            }
        })
    }

    /// # Errors
    /// A column that has another type, or a row after which nothing may count.
    fn add_batch(&self, batch: &RecordBatch, scan: Scan, tally: &mut Tally) -> Result<(), BadBatch> {
        let needed = self.needed();
        let array = |column: usize| {
            let at = needed.binary_search(&self.places[column]?).ok()?;
            Some(batch.column(at))
        };
        let columns = Columns::of(array).map_err(|(column, why)| (Some(COLUMNS[column].0), None, why))?;
        (0..batch.num_rows()).try_for_each(|row| {
            let added = columns.row(row).and_then(|listed| tally.add(&listed, scan));
            added.map_err(|why| (None, Some(row), why))
        })
    }
}

/// Times of a column.
enum Times<'a> {
    Milliseconds(TimestampMillisecondArray),
    Texts(&'a StringViewArray),
}

impl<'a> Times<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self, String> {
        match array.data_type() {
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                Ok(Self::Milliseconds(array.as_primitive::<TimestampMillisecondType>().clone()))
            }
            DataType::Timestamp(..) => {
                let cast = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(|e| e.to_string())?;
                Ok(Self::Milliseconds(cast.as_primitive::<TimestampMillisecondType>().clone()))
            }
            DataType::Utf8View => Ok(Self::Texts(array.as_string_view())),
            other => Err(wrong_type(other)),
        }
    }

    fn at(&self, row: usize) -> Result<Option<i64>, String> {
        match self {
            Self::Milliseconds(times) => Ok(times.is_valid(row).then(|| times.value(row))),
            Self::Texts(times) if times.is_valid(row) => milliseconds(times.value(row)),
            Self::Texts(_) => Ok(None),
        }
    }
}

/// The instant of a text like `2026-11-28T10:30:00.000Z`; none of an empty one.
///
/// # Errors
/// When it is another text.
pub(super) fn milliseconds(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = text.parse::<Timestamp>();
    time.map(|time| Some(time.as_millisecond())).map_err(|_| {
        let text = shown(text);
        format!("`{text}` is no time like 2026-11-28T10:30:00.000Z; the file is damaged: copy it anew from S3")
    })
}

fn wrong_type(data_type: &DataType) -> String {
    format!("its type {data_type} is not one that S3 gives it; copy the Inventory anew from S3")
}

/// The columns of a batch.
struct Columns<'a> {
    key: &'a StringViewArray,
    version: Option<&'a StringViewArray>,
    is_latest: Option<&'a BooleanArray>,
    is_delete_marker: Option<&'a BooleanArray>,
    size: &'a Int64Array,
    created: Times<'a>,
    etag: Option<&'a StringViewArray>,
    class: Option<&'a StringViewArray>,
    expires: Option<Times<'a>>,
}

impl<'a> Columns<'a> {
    /// # Errors
    /// The number of a column of a wrong type, and what is wrong.
    fn of(array: impl Fn(usize) -> Option<&'a ArrayRef>) -> Result<Self, (usize, String)> {
        let wrong = |column: usize| {
            let why = array(column).map_or_else(|| "it is missing".to_owned(), |array| wrong_type(array.data_type()));
            (column, why)
        };
        let text = |column: usize| match array(column) {
            None => Ok(None),
            Some(array) => array.as_string_view_opt().map(Some).ok_or_else(|| wrong(column)),
        };
        let flag = |column: usize| match array(column) {
            None => Ok(None),
            Some(array) => array.as_boolean_opt().map(Some).ok_or_else(|| wrong(column)),
        };
        let times =
            |column: usize| array(column).map(|array| Times::of(array).map_err(|why| (column, why))).transpose();
        let size = array(4).and_then(|array| array.as_any().downcast_ref::<Int64Array>());
        Ok(Self {
            key: text(0)?.ok_or_else(|| wrong(0))?,
            version: text(1)?,
            is_latest: flag(2)?,
            is_delete_marker: flag(3)?,
            size: size.ok_or_else(|| wrong(4))?,
            created: times(5)?.ok_or_else(|| wrong(5))?,
            etag: text(6)?,
            class: text(7)?,
            expires: times(8)?,
        })
    }

    fn row(&self, row: usize) -> Result<ListedObject<'_>, String> {
        let text = |column: Option<&'a StringViewArray>| {
            column.filter(|texts| texts.is_valid(row)).map_or("", |texts| texts.value(row))
        };
        let is = |column: Option<&BooleanArray>, value: bool| {
            column.is_some_and(|flags| flags.is_valid(row) && flags.value(row) == value)
        };
        let kind = match (is(self.is_delete_marker, true), is(self.is_latest, false)) {
            (true, _) => RowKind::DeleteMarker,
            (false, true) => RowKind::Object(Currency::Noncurrent),
            (false, false) => RowKind::Object(Currency::Current),
        };
        Ok(ListedObject {
            key: text(Some(self.key)).as_bytes(),
            version: version(text(self.version)),
            etag: etag(text(self.etag)),
            class: text(self.class),
            kind,
            size: self.size.is_valid(row).then(|| self.size.value(row)),
            created: self.created.at(row)?,
            expires: self.expires.as_ref().map_or(Ok(None), |times| times.at(row))?,
        })
    }
}

/// The version as all forms have it: an object from before the bucket had versions has `null`.
pub(super) fn version(text: &str) -> &str {
    if text == "null" { "" } else { text }
}

/// The ETag without the quotation marks of HTTP.
pub(super) fn etag(text: &str) -> &str {
    text.trim_matches('"')
}
