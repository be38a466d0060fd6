//! The lines of a CSV file, for messages. The `csv` crate counts them otherwise: a record of its
//! begins with the blank lines before it, and ends between `\r` and `\n`.
//!
//! So the crate gets the file a line at a time. When it returns a record, it has seen the lines of
//! that record and no other.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use memchr::memchr;

/// Longest record, in bytes of text; far above any line of a bill.
const RECORD_LIMIT: u64 = 4 << 20;
/// A record that is longer: an unclosed quote would read the rest of the file into memory.
pub(crate) const ENDLESS: &str = "a record has no end within 4 MiB (an unclosed quote?)";
/// Bytes of text that are unpacked at once.
const UNPACKED_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Bytes that the record may still have.
    left: u64,
    /// The line that is being read, from 1.
    line: u64,
    /// True when the next byte begins a line.
    ended: bool,
    /// The first line of the record that is not blank.
    first: Option<u64>,
}

/// Where the reader of a file is.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Rc<Cell<Place>>);

impl Lines {
    /// The lines of a text, and the text as it is to be read.
    pub(crate) fn of<R: Read>(text: R) -> (Self, ByLine<R>) {
        let place = Place { left: RECORD_LIMIT, line: 0, ended: true, first: None };
        let lines = Self(Rc::new(Cell::new(place)));
        let text = BufReader::with_capacity(UNPACKED_BYTES, text);
        (lines.clone(), ByLine { text, lines })
    }

    pub(crate) fn next_record(&self) {
        self.0.set(Place { left: RECORD_LIMIT, first: None, ..self.0.get() });
    }

    /// The line in which the record begins.
    pub(crate) fn of_record(&self) -> u64 {
        let place = self.0.get();
        place.first.unwrap_or(place.line)
    }
}

/// A text that is read a line at a time.
pub(crate) struct ByLine<R> {
    text: BufReader<R>,
    lines: Lines,
}

impl<R: Read> Read for ByLine<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let text = self.text.fill_buf()?;
        let line = memchr(b'\n', text).map_or(text.len(), |at| at + 1);
        let part = &text[..line.min(buffer.len())];
        let length = part.len();
        buffer[..length].copy_from_slice(part);
        let mut place = self.lines.0.get();
        place.line += u64::from(place.ended && length > 0);
        place.ended = part.last().map_or(place.ended, |last| *last == b'\n');
        if place.first.is_none() && part.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
            place.first = Some(place.line);
        }
        let left = place.left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX));
        place.left = left.unwrap_or(0);
        self.lines.0.set(place);
        self.text.consume(length);
        if left.is_some() { Ok(length) } else { Err(io::Error::other(ENDLESS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line and the first field of each record, after the header.
    fn records(text: &str, buffer: usize) -> Vec<(u64, String)> {
        let (lines, text) = Lines::of(text.as_bytes());
        let mut reader = csv::ReaderBuilder::new().buffer_capacity(buffer).from_reader(text);
        assert_eq!(reader.headers().unwrap(), &csv::StringRecord::from(vec!["a", "b"]));
        let mut record = csv::StringRecord::new();
        let mut found = vec![];
        loop {
            lines.next_record();
            if !reader.read_record(&mut record).unwrap() {
                return found;
            }
            found.push((lines.of_record(), record[0].to_owned()));
        }
    }

    #[test]
    fn a_record_has_the_line_in_which_it_begins() {
        for (text, want) in [
            ("a,b\n1,x\n2,x\n", &[(2, "1"), (3, "2")][..]),
            ("a,b\n1,x\n2,x", &[(2, "1"), (3, "2")]),
            ("a,b\n\n\n1,x\n\n2,x\n\n", &[(4, "1"), (6, "2")]),
            ("a,b\n1,\"x\n\ny\"\n2,x\n", &[(2, "1"), (5, "2")]),
            ("a,b\n\"\n1\",x\n2,x\n", &[(2, "\n1"), (4, "2")]),
            ("\n\na,b\n1,x\n", &[(4, "1")]),
            ("\"a\",\"b\"\n1,x\n", &[(2, "1")]),
            ("\u{feff}a,b\n1,x\n", &[(2, "1")]),
        ] {
            for text in [text.to_owned(), text.replace('\n', "\r\n")] {
                for buffer in [4, 5, 7, 1 << 14] {
                    let found: Vec<(u64, String)> =
                        records(&text, buffer).into_iter().map(|(line, key)| (line, key.replace('\r', ""))).collect();
                    let want: Vec<_> = want.iter().map(|(line, key)| (*line, (*key).to_owned())).collect();
                    assert_eq!(found, want, "{text:?} {buffer}");
                }
            }
        }
    }

    #[test]
    fn a_record_without_an_end_is_none() {
        let text = format!("a,b\n1,x\n\"{}", "no end\n".repeat(1_000_000));
        let (lines, text) = Lines::of(text.as_bytes());
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let mut record = csv::ByteRecord::new();
        lines.next_record();
        assert!(reader.read_byte_record(&mut record).unwrap());
        lines.next_record();
        assert!(reader.read_byte_record(&mut record).unwrap_err().to_string().contains(ENDLESS));
        assert_eq!(lines.of_record(), 3);
    }
}
