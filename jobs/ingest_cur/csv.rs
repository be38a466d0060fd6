//! CSV bills, plain or gzipped: the same columns and the same aggregator as Parquet, but slower.
//!
//! Legacy CSV names columns `lineItem/UsageAmount`. CUR 2.0 names them as in Parquet and writes
//! maps as JSON text.

use std::io::Read;
use std::sync::Arc;

use arrow::array::ArrayRef;

use super::aggregate::{Origin, UsageAggregator};
use super::growing::Growing;
use super::parquet_file::{BillColumns, Wanted, is_tag_map, missing_columns};
use crate::data_files::csv_lines::{ENDLESS, Lines};
use crate::data_files::memory;
use crate::data_files::read_error::ReadError;
use crate::data_files::streamed::Streamed;
use crate::source::{Object, Source, SourceError};
use books::usage::tag_key::canonical_name;

/// Memory that reading a file takes, with what is fetched ahead.
pub(super) const BYTES: u64 = 12 << 20;
/// Characters of a line's resource that are kept for a message.
const RESOURCE_LIMIT: usize = 256;
/// Most columns; a bill has 120 to 600.
const COLUMNS: usize = 20_000;
/// Bytes that are parsed at once, a line at most.
const LINE_BYTES: usize = 16 << 10;
/// Rows that are aggregated at once, and bytes of their distinct texts.
const BATCH_ROWS: usize = 4_096;
const BATCH_BYTES: usize = 2 << 20;

/// What is wrong with a file without a header.
pub(super) const EMPTY: &str = "it is empty, without even a header: half delivered? The next delivery replaces it";

/// What a CSV file contains.
#[derive(Clone, Copy, Debug)]
pub struct CsvStats {
    pub rows: u64,
    /// Rows that a meter counted.
    pub counted_rows: u64,
    /// True when the file has no column for the customer tag.
    pub lacks_tag: bool,
}

/// Reads a whole CSV file into the aggregator. Fails at the first line that is no record.
pub async fn aggregate(
    source: Arc<dyn Source>,
    object: Object,
    bill_columns: BillColumns,
    mut aggregator: UsageAggregator,
) -> Result<(UsageAggregator, CsvStats), ReadError> {
    let (streamed, fetching) = Streamed::of(&source, &object);
    let name = source.name(&object.key);
    let file = name.clone();
    let done = tokio::task::spawn_blocking(move || {
        let file = CsvFile { name: &file, key: &object.key };
        let facts = if object.key.ends_with(".gz") {
            aggregate_text(flate2::read::MultiGzDecoder::new(streamed), file, &bill_columns, &mut aggregator)
        } else {
            aggregate_text(streamed, file, &bill_columns, &mut aggregator)
        }?;
        Ok((aggregator, facts))
    });
    let result = done.await;
    fetching.abort();
    result.unwrap_or_else(|e| Err(ReadError::Broken { file: name, place: String::new(), why: e.to_string() }))
}

/// The rows of the batch that is being read: their lines, and their resources one after another in
/// one text.
#[derive(Default)]
struct Rows {
    lines: Vec<u64>,
    resources: String,
    ends: Vec<usize>,
}

impl Rows {
    fn push(&mut self, line: u64, resource: Option<&[u8]>) {
        self.lines.push(line);
        if let Some(resource) = resource {
            // it is for messages alone, so a character that cannot be read is no fault
            let resource = String::from_utf8_lossy(resource);
            let end = resource.char_indices().nth(RESOURCE_LIMIT).map_or(resource.len(), |(at, _)| at);
            self.resources.push_str(&resource[..end]);
            self.ends.push(self.resources.len());
        }
    }

    fn line(&self, row: usize) -> u64 {
        self.lines.get(row).copied().unwrap_or_default()
    }

    fn resource(&self, row: usize) -> Option<String> {
        let start = row.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.resources.get(start..*self.ends.get(row)?).map(str::to_owned)
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.resources.clear();
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
    bill_columns: &BillColumns,
    aggregator: &mut UsageAggregator,
) -> Result<CsvStats, ReadError> {
    let broken = |place: String, why: String| ReadError::Broken { file: file.name.to_owned(), place, why };
    let (lines, text) = Lines::of(text);
    let line = || format!(", line {}", lines.of_record());
    let fault = |error: &csv::Error| match error.kind() {
        csv::ErrorKind::Io(io) => match io.get_ref().and_then(|e| e.downcast_ref::<SourceError>()) {
            Some(source) => ReadError::Source(source.clone()),
            None if io.to_string() == ENDLESS => broken(line(), ENDLESS.into()),
            None => {
                broken(String::new(), format!("it cannot be unpacked ({io}); it is damaged, truncated or no gzip file"))
            }
        },
        // which of them is missing is not known, so any value may be that of another column
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let why = format!("it has {len} fields, and the header has {expected_len}; the file is damaged");
            broken(line(), why)
        }
        _ => broken(line(), error.to_string()),
    };
    let mut reader = csv::ReaderBuilder::new().buffer_capacity(LINE_BYTES).from_reader(text);
    let headers = reader.byte_headers().map_err(|e| fault(&e))?;
    let headers: Vec<String> = headers.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let names = || headers.iter().map(String::as_str);
    if headers.is_empty() {
        return Err(broken(String::new(), EMPTY.to_owned()));
    }
    if headers.len() > COLUMNS {
        let why = format!("it has {} columns, and a bill has {COLUMNS} at most; export it anew", headers.len());
        return Err(broken(line(), why));
    }
    let wanted = Wanted::find(names(), bill_columns)
        .map_err(|missing| broken(String::new(), missing_columns(&missing, names())))?;
    let before = aggregator.counted_rows();
    aggregator.seen.tags.see(&wanted.tag_columns);
    let places = wanted.places();
    let is_map = |place: &usize| is_tag_map(&canonical_name(&headers[*place]));
    let new = |place| if is_map(place) { Growing::maps() } else { Growing::texts() };
    let mut columns: Vec<Growing> = places.iter().map(new).collect();
    // only the columns that are read have to be UTF-8
    let (mut record, mut batch_rows) = (csv::ByteRecord::new(), Rows::default());
    let (mut rows, mut pending) = (0_u64, 0);
    loop {
        lines.next_record();
        let more = reader.read_byte_record(&mut record).map_err(|e| fault(&e))?;
        if more {
            for (column, place) in columns.iter_mut().zip(&places) {
                let value = &record[*place];
                let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
                let pushed = match str::from_utf8(value) {
                    _ if length > column.longest() => Err(memory::too_long(length)),
                    Ok(text) => column.push(text),
                    Err(_) => Err("the value is no UTF-8 text; the file is damaged".to_owned()),
                };
                pushed.map_err(|why| broken(format!(", column {}{}", headers[*place], line()), why))?;
            }
            batch_rows.push(lines.of_record(), wanted.resource().map(|place| &record[place]));
            rows += 1;
            pending += 1;
        }
        let full = pending == BATCH_ROWS || columns.iter().map(Growing::bytes).sum::<usize>() >= BATCH_BYTES;
        if pending > 0 && (full || !more) {
            let arrays: Vec<ArrayRef> = columns
                .iter_mut()
                .map(Growing::take)
                .collect::<Result<_, _>>()
                .map_err(|why| broken(String::new(), why))?;
            let array = |place: usize| (headers[place].as_str(), &arrays[places.binary_search(&place).unwrap_or(0)]);
            let batch = wanted.batch(pending, array, &bill_columns.keys);
            let batch =
                batch.map_err(|(column, t)| broken(format!(", column {column}"), format!("its type is {t}")))?;
            let (place, resource) = (|row| batch_rows.line(row), |row| batch_rows.resource(row));
            aggregator.add(&batch, &Origin { file: file.key, row_group: None, place: &place, resource: &resource });
            batch_rows.clear();
            if let Some(why) = aggregator.too_much() {
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
