//! Inventories in CSV, gzipped: the columns are named by the manifest, and keys are URL-encoded.
//!
//! A file is read whole, so its MD5 is that of the manifest, or nothing of it counts.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;

use md5::{Digest, Md5};

use super::intervals::Currency;
use super::manifest::{InventoryFile, hex};
use super::parquet_rows::{etag, milliseconds, version};
use super::tally::{ListedObject, RowKind, Scan, Tally};
use crate::data_files::csv_lines::{ENDLESS, Lines};
use crate::data_files::memory;
use crate::data_files::read_error::ReadError;
use crate::data_files::streamed::Streamed;
use crate::listed::shown;
use crate::source::{Object, Source, SourceError};

/// Memory that reading a file takes, with what is fetched ahead.
pub(super) const BYTES: u64 = 12 << 20;
/// Bytes that are parsed at once, a line at most.
const LINE_BYTES: usize = 16 << 10;

/// The bytes of a file, and the MD5 of those that were read.
#[derive(Clone)]
struct Digested(Rc<RefCell<(Streamed, Md5)>>);

impl Read for Digested {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.0.borrow_mut();
        let length = inner.0.read(buffer)?;
        inner.1.update(&buffer[..length]);
        Ok(length)
    }
}

/// The places of the columns in a record.
#[derive(Clone, Debug)]
struct Places {
    columns: usize,
    key: usize,
    size: usize,
    created: usize,
    version: Option<usize>,
    is_latest: Option<usize>,
    is_delete_marker: Option<usize>,
    etag: Option<usize>,
    class: Option<usize>,
    expires: Option<usize>,
}

impl Places {
    fn of(columns: &[String]) -> Result<Self, String> {
        let find = |name: &str| columns.iter().position(|column| column == name);
        let need = |name: &str| {
            find(name)
                .ok_or_else(|| format!("the manifest names no column {name}; add it to the Inventory's configuration"))
        };
        Ok(Self {
            columns: columns.len(),
            key: need("Key")?,
            size: need("Size")?,
            created: need("LastModifiedDate")?,
            version: find("VersionId"),
            is_latest: find("IsLatest"),
            is_delete_marker: find("IsDeleteMarker"),
            etag: find("ETag"),
            class: find("StorageClass"),
            expires: find("LifecycleExpirationDate"),
        })
    }
}

/// Adds all rows of a file; `columns` are those of the manifest.
///
/// # Errors
/// The first line that is no record, or another MD5 than the manifest's.
pub(super) async fn add(
    source: &Arc<dyn Source>,
    (object, listed): (Object, InventoryFile),
    columns: Vec<String>,
    scan: Scan,
    mut tally: Tally,
) -> Result<Tally, ReadError> {
    let name = source.name(&object.key);
    let (streamed, fetching) = Streamed::of(source, &object);
    let file = name.clone();
    let done = tokio::task::spawn_blocking(move || {
        let is_packed = object.key.to_ascii_lowercase().ends_with(".gz");
        let mut bytes = Digested(Rc::new(RefCell::new((streamed, Md5::new()))));
        let text: Box<dyn Read> = if is_packed {
            Box::new(flate2::read::MultiGzDecoder::new(bytes.clone()))
        } else {
            Box::new(bytes.clone())
        };
        let mut reading = Reading { file: &file, scan, tally: &mut tally, key: vec![] };
        let added = reading.add(text, &columns);
        if let Err(ReadError::Source(_)) = added {
            return added.map(|()| tally);
        }
        // what the file has after an error, too: another MD5 explains every other error
        let rest = io::copy(&mut bytes, &mut io::sink());
        rest.map_err(|e| source_error(&e).map_or_else(|| reading.broken("", e.to_string()), ReadError::Source))?;
        let md5 = hex(&bytes.0.borrow_mut().1.finalize_reset());
        if md5 != listed.md5 {
            return Err(reading.broken(
                "",
                format!(
                    "its MD5 is {md5}, and the manifest says {}; it is damaged or another file: copy it anew from S3",
                    listed.md5
                ),
            ));
        }
        added.map(|()| tally)
    });
    let result = done.await;
    fetching.abort();
    result.unwrap_or_else(|e| Err(ReadError::Broken { file: name, place: String::new(), why: e.to_string() }))
}

fn source_error(error: &io::Error) -> Option<SourceError> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<SourceError>()).cloned()
}

/// A file that is being read.
struct Reading<'a> {
    /// For people.
    file: &'a str,
    scan: Scan,
    tally: &'a mut Tally,
    /// The decoded key of the row.
    key: Vec<u8>,
}

impl Reading<'_> {
    fn broken(&self, place: &str, why: String) -> ReadError {
        ReadError::Broken { file: self.file.to_owned(), place: place.to_owned(), why }
    }

    fn add(&mut self, text: impl Read, columns: &[String]) -> Result<(), ReadError> {
        let places = Places::of(columns).map_err(|why| self.broken("", why))?;
        let (lines, text) = Lines::of(text);
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(LINE_BYTES).from_reader(text);
        let mut record = csv::ByteRecord::new();
        loop {
            lines.next_record();
            let more = reader.read_byte_record(&mut record);
            let line = || format!(", line {}", lines.of_record());
            if !more.map_err(|e| self.fault(&e, &line()))? {
                return Ok(());
            }
            self.add_record(&record, &places).map_err(|why| self.broken(&line(), why))?;
        }
    }

    fn fault(&self, error: &csv::Error, line: &str) -> ReadError {
        match error.kind() {
            csv::ErrorKind::Io(io) => match source_error(io) {
                Some(source) => ReadError::Source(source),
                None if io.to_string() == ENDLESS => self.broken(line, ENDLESS.into()),
                None => self.broken(
                    "",
                    format!(
                        "it cannot be unpacked ({io}); it is damaged, truncated or no gzip file: copy it anew from S3"
                    ),
                ),
            },
            _ => self.broken(line, error.to_string()),
        }
    }

    fn add_record(&mut self, record: &csv::ByteRecord, places: &Places) -> Result<(), String> {
        if record.len() != places.columns {
            return Err(format!(
                "it has {} fields, and the manifest names {} columns; the file is damaged, or of another Inventory",
                record.len(),
                places.columns
            ));
        }
        let text = |place: Option<usize>| {
            let value = place.map_or(&b""[..], |place| &record[place]);
            let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
            if length > memory::LONGEST_VALUE {
                return Err(memory::too_long(length));
            }
            str::from_utf8(value).map_err(|_| "a value is no UTF-8 text; the file is damaged".to_owned())
        };
        let is = |place: Option<usize>, value: &str| Ok::<_, String>(text(place)?.eq_ignore_ascii_case(value));
        let kind = match (is(places.is_delete_marker, "true")?, is(places.is_latest, "false")?) {
            (true, _) => RowKind::DeleteMarker,
            (false, true) => RowKind::Object(Currency::Noncurrent),
            (false, false) => RowKind::Object(Currency::Current),
        };
        let size = text(Some(places.size))?;
        let number = |text: &str| {
            let text = shown(text);
            format!("`{text}` in the column Size is no number; the file is damaged: copy it anew from S3")
        };
        url_decoded(text(Some(places.key))?, &mut self.key);
        let listed = ListedObject {
            key: &self.key,
            version: version(text(places.version)?),
            etag: etag(text(places.etag)?),
            class: text(places.class)?,
            kind,
            size: if size.is_empty() { None } else { Some(size.parse().map_err(|_| number(size))?) },
            created: milliseconds(text(Some(places.created))?)?,
            expires: milliseconds(text(places.expires)?)?,
        };
        self.tally.add(&listed, self.scan)
    }
}

/// A key without its URL-encoding, in which `+` is a blank. A percent sign without two digits stays
/// as it is: S3 writes none.
fn url_decoded(text: &str, key: &mut Vec<u8>) {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    key.clear();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let encoded = match (first, after) {
            (b'%', [high, low, ..]) => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match (first, encoded) {
            (_, Some((high, low))) => {
                key.push(high * 16 + low);
                rest = &after[2..];
            }
            (b'+', None) => key.push(b' '),
            (plain, None) => key.push(*plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        let mut key = b"before".to_vec();
        url_decoded(text, &mut key);
        key
    }

    #[test]
    fn keys_are_decoded_once() {
        for (text, key) in [
            ("c/acme/a.png", "c/acme/a.png"),
            ("c/acme/a%20b+c%2Bd", "c/acme/a b c+d"),
            ("c/%C3%BCber/%E2%80%A6", "c/über/…"),
            ("c%2Facme%2fx", "c/acme/x"),
            ("100%2525", "100%25"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%4x", "%zz%4x"),
            ("", ""),
        ] {
            assert_eq!(decoded(text), key.as_bytes(), "{text}");
        }
        assert_eq!(decoded("%ff%00"), [0xff, 0]);
    }

    proptest! {
        #[test]
        fn an_encoded_key_is_decoded_to_itself(key in prop::collection::vec(any::<u8>(), 0..200), blanks in any::<bool>()) {
            let encoded: String = key.iter().map(|byte| match byte {
                b' ' if blanks => "+".to_owned(),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => char::from(*byte).to_string(),
                other => format!("%{other:02X}"),
            }).collect();
            prop_assert_eq!(decoded(&encoded), key);
        }
    }
}
