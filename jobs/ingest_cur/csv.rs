//! CSV bills, plain or gzipped: the same columns and the same aggregator as Parquet, but slower.
//!
//! Legacy CSV names columns `lineItem/UsageAmount`. CUR 2.0 names them as in Parquet and writes
//! maps as JSON text.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::aggregate::{Origin, UsageAggregator};
use super::growing::Growing;
use super::memory;
use super::parquet_file::{ReadError, Wanted, is_tag_map, missing_columns};
use crate::source::{Object, Source, SourceError};
use books::usage::tag_key::{TagKeys, canonical_name};

/// Memory that reading a file takes, with what is fetched ahead.
pub(super) const BYTES: u64 = 12 << 20;
/// Bytes that are fetched at once.
const READ_BYTES: u64 = 2 << 20;
/// Longest record, in bytes of text; far above any line of a bill.
const RECORD_LIMIT: u64 = 4 << 20;
const ENDLESS: &str = "a record has no end within 4 MiB (an unclosed quote?)";
/// Characters of a line's resource that are kept for a message.
const RESOURCE_LIMIT: usize = 256;
/// Longest map of tags, as text. AWS allows 50 tags of 128 and 256 characters.
const LONGEST_MAP: u64 = 1 << 20;
/// Most columns; a bill has 120 to 600.
const COLUMNS: usize = 20_000;
/// Rows that are aggregated at once, and bytes of their distinct texts.
const BATCH_ROWS: usize = 4_096;
const BATCH_BYTES: usize = 2 << 20;

/// What a CSV file contains.
#[derive(Clone, Copy, Debug)]
pub struct CsvStats {
    pub rows: u64,
    /// Rows that a meter counted.
    pub counted_rows: u64,
    /// True when the file has no column for the customer tag.
    pub lacks_tag: bool,
}

/// The object's bytes in order, fetched one chunk ahead of the reader.
struct Streamed {
    chunks: mpsc::Receiver<Result<Bytes, SourceError>>,
    current: Bytes,
}

impl Read for Streamed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Reads a whole CSV file into the aggregator. Fails at the first line that is no record.
pub async fn aggregate(
    source: Arc<dyn Source>,
    object: Object,
    keys: TagKeys,
    mut aggregator: UsageAggregator,
) -> Result<(UsageAggregator, CsvStats), ReadError> {
    let (sender, chunks) = mpsc::channel(1);
    let (reader, read) = (Arc::clone(&source), object.clone());
    let fetching = tokio::spawn(async move {
        let mut at = 0;
        while at < read.size {
            let end = read.size.min(at + READ_BYTES);
            let chunk = reader.read(&read, at..end).await;
            at = end;
            let failed = chunk.is_err();
            if sender.send(chunk).await.is_err() || failed {
                break;
            }
        }
    });
    let name = source.name(&object.key);
    let file = name.clone();
    let done = tokio::task::spawn_blocking(move || {
        let streamed = Streamed { chunks, current: Bytes::new() };
        let file = CsvFile { name: &file, key: &object.key };
        let facts = if object.key.ends_with(".gz") {
            aggregate_text(flate2::read::MultiGzDecoder::new(streamed), file, &keys, &mut aggregator)
        } else {
            aggregate_text(streamed, file, &keys, &mut aggregator)
        }?;
        Ok((aggregator, facts))
    });
    let result = done.await;
    fetching.abort();
    result.unwrap_or_else(|e| Err(ReadError::Broken { file: name, place: String::new(), why: e.to_string() }))
}

/// Fails on a record without an end: an unclosed quote would read the rest of the file into
/// memory.
struct Bounded<R> {
    text: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.text.read(buffer)?;
        let left = self.left.get().checked_sub(u64::try_from(length).unwrap_or(u64::MAX));
        self.left.set(left.ok_or_else(|| io::Error::other(ENDLESS))?);
        Ok(length)
    }
}

/// The resources of the rows of the batch that is being read, one after another in one text.
#[derive(Default)]
struct Resources {
    text: String,
    ends: Vec<usize>,
}

impl Resources {
    fn push(&mut self, resource: &str) {
        let end = resource.char_indices().nth(RESOURCE_LIMIT).map_or(resource.len(), |(at, _)| at);
        self.text.push_str(&resource[..end]);
        self.ends.push(self.text.len());
    }

    fn get(&self, row: usize) -> Option<String> {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.text.get(start..*self.ends.get(row)?).map(str::to_owned)
    }

    fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }
}

/// How a CSV file is called.
#[derive(Clone, Copy)]
struct CsvFile<'a> {
    /// For people.
    name: &'a str,
    key: &'a str,
}

fn aggregate_text(
    text: impl Read,
    file: CsvFile<'_>,
    keys: &TagKeys,
    aggregator: &mut UsageAggregator,
) -> Result<CsvStats, ReadError> {
    let broken = |place: String, why: String| ReadError::Broken { file: file.name.to_owned(), place, why };
    let fault = |line: u64, error: &csv::Error| match error.kind() {
        csv::ErrorKind::Io(io) => match io.get_ref().and_then(|e| e.downcast_ref::<SourceError>()) {
            Some(source) => ReadError::Source(source.clone()),
            None if io.to_string() == ENDLESS => broken(format!(", line {line}"), ENDLESS.into()),
            None => {
                broken(String::new(), format!("it cannot be unpacked ({io}); it is damaged, truncated or no gzip file"))
            }
        },
        _ => broken(format!(", line {line}"), error.to_string()),
    };
    let left = Rc::new(Cell::new(RECORD_LIMIT));
    let text = Bounded { text, left: Rc::clone(&left) };
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(1 << 20).from_reader(text);
    let headers = reader.headers().map_err(|e| fault(1, &e))?.clone();
    if headers.is_empty() {
        return Ok(CsvStats { rows: 0, counted_rows: 0, lacks_tag: false });
    }
    if headers.len() > COLUMNS {
        let why = format!("it has {} columns, and a bill has {COLUMNS} at most; export it anew", headers.len());
        return Err(broken(", line 1".into(), why));
    }
    let wanted = Wanted::find(headers.iter(), keys)
        .map_err(|missing| broken(String::new(), missing_columns(&missing, headers.iter())))?;
    let before = aggregator.counted_rows();
    aggregator.tags_seen.see(&wanted.tag_columns);
    let places = wanted.places();
    let is_map: Vec<bool> = places.iter().map(|place| is_tag_map(&canonical_name(&headers[*place]))).collect();
    let mut columns: Vec<Growing> = is_map.iter().map(|is_map| Growing::new(*is_map)).collect();
    let mut resources = Resources::default();
    let (mut record, mut rows, mut pending) = (csv::StringRecord::new(), 0_u64, 0);
    loop {
        left.set(RECORD_LIMIT);
        let more = reader.read_record(&mut record).map_err(|e| fault(rows + 2, &e))?;
        if more {
            for ((column, place), is_map) in columns.iter_mut().zip(&places).zip(&is_map) {
                let length = u64::try_from(record[*place].len()).unwrap_or(u64::MAX);
                if length > if *is_map { LONGEST_MAP } else { memory::LONGEST_VALUE } {
                    let place = format!(", column {}, line {}", &headers[*place], rows + 2);
                    return Err(broken(place, memory::too_long(length)));
                }
                let pushed = column.push(&record[*place]);
                pushed.map_err(|why| broken(format!(", column {}, line {}", &headers[*place], rows + 2), why))?;
            }
            if let Some(place) = wanted.resource() {
                resources.push(&record[place]);
            }
            rows += 1;
            pending += 1;
        }
        let full = pending == BATCH_ROWS || columns.iter().map(Growing::bytes).sum::<usize>() >= BATCH_BYTES;
        if pending > 0 && (full || !more) {
            let first = rows - u64::try_from(pending).unwrap_or(0) + 2;
            let arrays: Vec<ArrayRef> = columns
                .iter_mut()
                .map(Growing::take)
                .collect::<Result<_, _>>()
                .map_err(|why| broken(String::new(), why))?;
            let array = |place: usize| (&headers[place], &arrays[places.binary_search(&place).unwrap_or(0)]);
            let batch = wanted.batch(pending, array, keys);
            let batch =
                batch.map_err(|(column, t)| broken(format!(", column {column}"), format!("its type is {t}")))?;
            let resource = |row: usize| resources.get(row);
            let origin = Origin { file: file.key, row_group: None, first_row: first, resource: &resource };
            aggregator.add(&batch, &origin);
            resources.clear();
            if let Some(why) = aggregator.too_many_kinds() {
                return Err(broken(String::new(), why));
            }
            pending = 0;
        }
        if !more {
            return Ok(CsvStats {
                rows,
                counted_rows: aggregator.counted_rows() - before,
                lacks_tag: wanted.lacks_tag(),
            });
        }
    }
}
