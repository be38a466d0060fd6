//! How much memory decoding a row group takes, found before it is decoded, and how many rows may
//! be decoded at once.
//!
//! A few packed bytes can stand for gigabytes: pages that unpack to thousands of times their size,
//! a dictionary of long texts, a row with millions of tags. So the page headers are looked at
//! first. Only where they do not suffice are pages unpacked and looked into, one at a time.

use std::io::Read;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use super::object_reader::Chunks;
use super::page_header::{Coding, Kind, PageHeader, Pages};
use super::thrift::{Fault, Input};

/// Rows that are decoded at once, where values are short.
const BATCH_ROWS: u64 = 16_384;
/// Fewer rows than this at once are so slow that pages are unpacked to know their values better.
const FEW_ROWS: u64 = 2_048;
/// Memory that a batch may take, as long as it has several rows.
const BATCH_BYTES: u64 = 6 << 20;
/// Longest value that is not a map of tags. AWS allows 256 characters for a tag's value, and
/// 1,011 for the longest ARN.
pub(crate) const LONGEST_VALUE: u64 = 64 << 10;
/// Most rows of a row group.
const MOST_ROWS: u64 = 1 << 26;
/// Bytes of a batch for each value: its level and code; in a map also those of its entry.
const VALUE_BYTES: u64 = 8;
const ENTRY_BYTES: u64 = 24;
/// A decoded text is copied this often while a batch is made.
const COPIES: u64 = 4;
/// What the decoder of Brotli keeps.
const BROTLI_WINDOW: u64 = 16 << 20;

/// How a row group is decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) batch_rows: usize,
    /// Bytes that decoding takes at most, beside the column chunks.
    pub(crate) bytes: u64,
    /// Leaf columns with texts whose lengths are known only when they are decoded.
    pub(crate) unmeasured: Vec<usize>,
}

/// Why a row group is not decoded: the leaf column, when it is one, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) leaf: Option<usize>,
    pub(crate) why: String,
}

/// A column chunk that is to be decoded.
pub(crate) struct Chunk<'a> {
    pub(crate) leaf: usize,
    pub(crate) meta: &'a ColumnChunkMetaData,
    pub(crate) bytes: &'a [u8],
    /// Rows of the row group.
    pub(crate) rows: u64,
}

/// What the pages of a chunk say about memory.
#[derive(Debug, Default)]
struct Measure {
    /// Largest page, unpacked.
    page: u64,
    /// Dictionary page, unpacked.
    dictionary: u64,
    dictionary_values: u64,
    /// Longest text of the dictionary.
    longest_code: u64,
    /// Values and bytes of text of each data page; no text for codes.
    pages: Vec<(u64, u64)>,
    values: u64,
    /// Bytes of a value that is no text.
    width: u64,
    /// A row can have several values.
    repeats: bool,
    has_codes: bool,
    has_texts: bool,
    /// The decoder reads the lengths of a page's texts at once.
    lengths: bool,
    /// Texts of a page may share beginnings: each may be as long as the page.
    prefixes: bool,
    /// Known exactly: values of the row with most, and bytes of the longest text.
    exact: Option<(u64, u64)>,
}

const NO_LZO: &str = "it is packed with LZO, which this build cannot read; \
     the file is sound: write it anew with Snappy, GZIP or ZSTD, as AWS does";

pub(crate) fn too_long(length: u64) -> String {
    format!(
        "a value has {length} bytes, more than AWS writes; \
         the file is damaged or was not made by AWS: have AWS write it anew"
    )
}

impl Measure {
    /// Bytes that stay in memory while the chunk is decoded.
    fn fixed(&self) -> u64 {
        let lengths = if self.lengths { self.pages.iter().map(|p| p.0).max().unwrap_or(0) * 8 } else { 0 };
        self.dictionary * 3 + self.dictionary_values * 8 + self.page * 2 + lengths
    }

    /// Most values in `rows` rows.
    fn values_in(&self, rows: u64) -> u64 {
        match self.exact {
            _ if !self.repeats => rows,
            Some((most, _)) => self.values.min(rows.saturating_mul(most)),
            None => self.values,
        }
    }

    /// Most bytes of text in a batch with this many values, beside those of the dictionary.
    fn text_in(&self, values: u64) -> u64 {
        if !self.has_texts {
            return 0;
        }
        // codes beside texts are written out as texts
        let codes = if self.has_codes { values.saturating_mul(self.longest_code) } else { 0 };
        if self.prefixes {
            return values.saturating_mul(self.page).saturating_add(codes);
        }
        let by_pages = self.text_of_neighbours(values);
        let texts = match self.exact {
            Some((_, longest)) if !self.lengths => values.saturating_mul(longest).min(by_pages),
            _ => by_pages,
        };
        texts.saturating_add(codes)
    }

    /// Most bytes of text in the pages that a batch can reach into.
    fn text_of_neighbours(&self, values: u64) -> u64 {
        let (mut first, mut between, mut bytes, mut most) = (0, 0_u64, 0_u64, 0);
        for (last, (_, text)) in self.pages.iter().enumerate() {
            if last > first + 1 {
                between += self.pages[last - 1].0;
            }
            bytes += text;
            // a batch that reaches into both has one value of each at least
            while first < last && between.saturating_add(2) > values {
                bytes -= self.pages[first].1;
                first += 1;
                between -= if first < last { self.pages[first].0 } else { 0 };
            }
            most = most.max(bytes);
        }
        most
    }

    /// Bytes of a batch.
    fn batch(&self, rows: u64) -> u64 {
        let values = self.values_in(rows);
        let own = if self.repeats { ENTRY_BYTES } else { VALUE_BYTES } + self.width * 2;
        values.saturating_mul(own).saturating_add(self.text_in(values).saturating_mul(COPIES))
    }

    /// Bytes that the chunk takes while it is decoded in batches of this many rows.
    fn whole(&self, rows: u64) -> u64 {
        self.fixed().saturating_add(self.batch(rows))
    }
}

/// Looks at the headers of the pages.
fn measure(chunk: &Chunk<'_>, limit: u64) -> Result<Measure, String> {
    let meta = chunk.meta;
    let is_text = meta.column_type() == Type::BYTE_ARRAY;
    if meta.compression() == Compression::LZO {
        return Err(NO_LZO.into());
    }
    // bytes that are numbers are not read as codes
    let is_number = meta.column_descr().converted_type() == ConvertedType::DECIMAL;
    let width = match meta.column_type() {
        Type::BYTE_ARRAY => 0,
        Type::FIXED_LEN_BYTE_ARRAY => u64::try_from(meta.column_descr().type_length()).unwrap_or(0),
        _ => 12,
    };
    let mut found = Measure { width, repeats: !chunk.is_flat(), ..Measure::default() };
    for page in Pages::of(chunk.bytes) {
        let page = page.map_err(|why| format!("{why}; the file is damaged"))?;
        if page.unpacked > limit {
            let mib = page.unpacked >> 20;
            return Err(format!("a page has {mib} MiB once it is unpacked; {}", advice(page.unpacked * 2)));
        }
        if unpacks_to_more(meta.compression(), &page) {
            return Err("a page unpacks to more than its header says; the file is damaged".into());
        }
        match page.kind {
            Kind::Index => (),
            Kind::Dictionary => {
                if page.values > page.unpacked {
                    return Err("its dictionary has more values than bytes; the file is damaged".into());
                }
                found.dictionary = found.dictionary.max(page.unpacked);
                found.dictionary_values = found.dictionary_values.max(page.values);
            }
            Kind::Data(coding) => {
                let has_text = is_text && (is_number || coding != Coding::Codes);
                found.has_texts |= has_text;
                found.has_codes |= coding == Coding::Codes;
                found.lengths |= is_text && matches!(coding, Coding::Lengths | Coding::Prefixes);
                found.prefixes |= is_text && coding == Coding::Prefixes;
                found.page = found.page.max(page.unpacked);
                found.pages.push((page.values, if has_text { page.unpacked } else { 0 }));
                found.values = found.values.saturating_add(page.values);
            }
        }
    }
    Ok(found)
}

/// True when the decoder of this codec would not stop at the size that the page's header says.
fn unpacks_to_more(codec: Compression, page: &PageHeader<'_>) -> bool {
    let start = usize::try_from(page.plain_start).unwrap_or(usize::MAX);
    let Some(packed) = page.packed.get(start..) else { return false };
    let limit = page.unpacked.saturating_sub(page.plain_start);
    let beyond = |unpacked: &mut dyn Read| {
        // what cannot be unpacked is found when it is decoded
        std::io::copy(&mut unpacked.take(limit + 1), &mut std::io::sink()).is_ok_and(|length| length > limit)
    };
    match codec {
        Compression::GZIP(_) => beyond(&mut flate2::read::MultiGzDecoder::new(packed)),
        Compression::BROTLI(_) => beyond(&mut brotli::Decompressor::new(packed, 4096)),
        // one of the three ways in which LZ4 is written
        Compression::LZ4 => beyond(&mut lz4_flex::frame::FrameDecoder::new(packed)),
        _ => false,
    }
}

/// What to do about a row group that needs this much.
pub(crate) fn advice(needed: u64) -> String {
    format!(
        "set read.memory_mib to {} at least, or have the file written anew in smaller row groups",
        (needed >> 20) + 1
    )
}

fn undecodable(why: impl std::fmt::Display) -> String {
    format!("it cannot be decoded ({why}); the file is damaged")
}

impl Chunk<'_> {
    fn is_text(&self) -> bool {
        self.meta.column_type() == Type::BYTE_ARRAY
    }

    fn is_flat(&self) -> bool {
        self.meta.column_descr().max_rep_level() == 0
    }

    fn unpacked(&self, parts: &Chunks) -> Result<SerializedPageReader<Chunks>, String> {
        let rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        SerializedPageReader::new(Arc::new(parts.clone()), self.meta, rows, None).map_err(undecodable)
    }

    /// The longest text of the dictionary.
    fn longest_code(&self, parts: &Chunks) -> Result<u64, String> {
        match self.unpacked(parts)?.get_next_page().map_err(undecodable)? {
            Some(Page::DictionaryPage { buf, .. }) => Ok(longest_text(&buf)),
            _ => Ok(0),
        }
    }

    /// Unpacks all pages: most values of a row, and bytes of the longest text.
    fn look(&self, parts: &Chunks) -> Result<(u64, u64), String> {
        let descr = self.meta.column_descr();
        let (mut rows, mut longest) = (Rows::default(), 0);
        for page in self.unpacked(parts)? {
            let page = page.map_err(undecodable)?;
            let values = u64::from(page.num_values());
            let (levels, texts, encoding) = match &page {
                Page::DictionaryPage { .. } => continue,
                Page::DataPage { buf, encoding, .. } => {
                    let (levels, rest) = first_levels(buf, !self.is_flat()).map_err(undecodable)?;
                    let (_, texts) = first_levels(rest, descr.max_def_level() > 0).map_err(undecodable)?;
                    (levels, texts, *encoding)
                }
                Page::DataPageV2 { buf, encoding, rep_levels_byte_len, def_levels_byte_len, .. } => {
                    let (levels, rest) = split(buf, *rep_levels_byte_len).map_err(undecodable)?;
                    (levels, split(rest, *def_levels_byte_len).map_err(undecodable)?.1, *encoding)
                }
            };
            if !self.is_flat() {
                rows.add(levels, values).map_err(undecodable)?;
            }
            match encoding {
                Encoding::PLAIN if self.is_text() => longest = longest.max(longest_text(texts)),
                // the decoder makes room for as many lengths as are announced
                Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY
                    if announced(texts).map_err(undecodable)? > values =>
                {
                    return Err(undecodable("a page announces more texts than it has values"));
                }
                _ => (),
            }
        }
        Ok((if self.is_flat() { 1 } else { rows.most.max(rows.now) }, longest))
    }
}

fn split(bytes: &[u8], length: u32) -> Result<(&[u8], &[u8]), Fault> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    bytes.split_at_checked(length).ok_or("its levels end too early")
}

/// The levels at the start of a page of the first version, and what comes after them.
fn first_levels(bytes: &[u8], present: bool) -> Result<(&[u8], &[u8]), Fault> {
    match bytes.split_first_chunk::<4>() {
        Some((length, rest)) if present => split(rest, u32::from_le_bytes(*length)),
        None if present => Err("its levels end too early"),
        _ => Ok((&[], bytes)),
    }
}

/// Bytes of the longest of texts that have their lengths before them.
fn longest_text(mut texts: &[u8]) -> u64 {
    let mut longest = 0;
    while let Some((length, rest)) = texts.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length);
        let Ok((_, rest)) = split(rest, length) else { break };
        longest = longest.max(u64::from(length));
        texts = rest;
    }
    longest
}

/// How many numbers a run of differences announces, in its third number.
fn announced(bytes: &[u8]) -> Result<u64, Fault> {
    let mut input = Input::new(bytes);
    input.varint()?;
    input.varint()?;
    input.varint()
}

/// Values of each row, counted from repetition levels: a level of 0 begins a row.
#[derive(Debug, Default)]
struct Rows {
    now: u64,
    most: u64,
}

impl Rows {
    /// Adds the levels of a page with `values` values: runs of one level, and eights of bits.
    fn add(&mut self, levels: &[u8], values: u64) -> Result<(), Fault> {
        let (mut input, mut left) = (Input::new(levels), values);
        while left > 0 {
            let head = input.varint()?;
            if head & 1 == 0 {
                let length = left.min(head >> 1);
                if length == 0 {
                    return Err("its levels have a run of nothing");
                }
                self.run(input.byte()?, length);
                left -= length;
                continue;
            }
            for _ in 0..head >> 1 {
                let bits = input.byte()?;
                for bit in 0..left.min(8) {
                    self.run((bits >> bit) & 1, 1);
                }
                left -= left.min(8);
                if left == 0 {
                    break;
                }
            }
            if head >> 1 == 0 {
                return Err("its levels have a run of nothing");
            }
        }
        Ok(())
    }

    fn run(&mut self, level: u8, length: u64) {
        if level == 0 {
            self.most = self.most.max(self.now);
            self.now = 1;
        } else {
            self.now = self.now.saturating_add(length);
        }
    }
}

/// Most rows of a batch that takes no more than [`BATCH_BYTES`]; one, if all do.
fn batch_rows(measures: &[Measure]) -> u64 {
    let fits = |rows: &u64| measures.iter().fold(0, |sum: u64, m| sum.saturating_add(m.batch(*rows))) <= BATCH_BYTES;
    std::iter::successors(Some(BATCH_ROWS), |rows| Some(rows / 2)).take_while(|rows| *rows > 1).find(fits).unwrap_or(1)
}

/// The sum over all columns, or which of them takes most when it is too much for `limit`, together
/// with what was fetched.
fn within(columns: &[Chunk<'_>], sizes: &[u64], limit: u64) -> Result<u64, TooMuch> {
    let sum = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
    let fetched: u64 = columns.iter().filter_map(|c| u64::try_from(c.bytes.len()).ok()).sum();
    // columns are unpacked one after another
    let brotli = columns.iter().any(|c| matches!(c.meta.compression(), Compression::BROTLI(_)));
    let sum = sum.saturating_add(if brotli { BROTLI_WINDOW } else { 0 });
    let whole = sum.saturating_add(fetched);
    let largest = columns.iter().zip(sizes).max_by_key(|(_, size)| **size);
    match largest.filter(|_| whole > limit) {
        None => Ok(sum),
        Some((column, size)) => {
            let (own, all) = (size >> 20, whole >> 20);
            let why = format!("it takes {own} MiB of memory, its row group {all} MiB; {}", advice(whole));
            Err(TooMuch { leaf: Some(column.leaf), why })
        }
    }
}

/// Finds out how to decode a row group within `limit` bytes of memory.
///
/// # Errors
/// When it needs more, is damaged, or has a value that no bill has.
pub(crate) fn plan(columns: &[Chunk<'_>], parts: &Chunks, limit: u64) -> Result<Plan, TooMuch> {
    if let Some(rows) = columns.first().map(|c| c.rows).filter(|rows| *rows > MOST_ROWS) {
        let why =
            format!("it has {rows} rows, more than {MOST_ROWS}; have the file written anew in smaller row groups");
        return Err(TooMuch { leaf: None, why });
    }
    let fault = |column: &Chunk<'_>| {
        let leaf = Some(column.leaf);
        move |why| TooMuch { leaf, why }
    };
    let measures = columns.iter().map(|column| measure(column, limit).map_err(fault(column)));
    let mut measures = measures.collect::<Result<Vec<_>, _>>()?;
    // before anything is unpacked
    within(columns, &measures.iter().map(Measure::fixed).collect::<Vec<_>>(), limit)?;
    for (column, found) in columns.iter().zip(&mut measures).filter(|(column, _)| column.is_text()) {
        if found.dictionary > 0 {
            found.longest_code = column.longest_code(parts).map_err(fault(column))?;
        }
        if found.lengths {
            found.exact = Some(column.look(parts).map_err(fault(column))?);
        }
    }
    let mut rows = batch_rows(&measures);
    if rows < FEW_ROWS {
        for (column, found) in columns.iter().zip(&mut measures) {
            if found.exact.is_none() && (found.has_texts || found.repeats) {
                found.exact = Some(column.look(parts).map_err(fault(column))?);
            }
        }
        rows = batch_rows(&measures);
    }
    for (column, found) in columns.iter().zip(&measures) {
        let longest = found.exact.map_or(0, |(_, longest)| longest).max(found.longest_code);
        if longest > LONGEST_VALUE {
            return Err(fault(column)(too_long(longest)));
        }
    }
    let bytes = within(columns, &measures.iter().map(|m| m.whole(rows)).collect::<Vec<_>>(), limit)?;
    let unmeasured = columns.iter().zip(&measures).filter(|(_, m)| m.has_texts && (m.exact.is_none() || m.lengths));
    let unmeasured = unmeasured.map(|(column, _)| column.leaf).collect();
    Ok(Plan { batch_rows: usize::try_from(rows).unwrap_or(1), bytes, unmeasured })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_expected_to_reach_into_the_largest_neighbours() {
        let pages = vec![(10, 100), (10, 200), (10, 50), (1, 400), (10, 1)];
        let found = Measure { pages, has_texts: true, ..Measure::default() };
        let most = [1, 2, 3, 12, 13, 22, 23].map(|values| found.text_of_neighbours(values));
        // alone; two; three around the page of one value; more as whole pages fit between
        assert_eq!(most, [400, 450, 451, 650, 651, 750, 751]);
    }

    #[test]
    fn values_of_a_row_are_counted_over_runs_bits_and_pages() {
        let mut rows = Rows::default();
        // a row of three values, rows of one, and the beginning of one that the next page continues
        rows.add(&[2, 0, 4, 1, 3, 0b0010_0000], 3 + 6).unwrap();
        assert_eq!((rows.most, rows.now), (3, 2));
        rows.add(&[200, 1, 1, 2, 0], 101).unwrap();
        assert_eq!((rows.most, rows.now), (102, 1));
        for broken in [&[][..], &[0, 0], &[1], &[2]] {
            assert!(Rows::default().add(broken, 1).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_longest_text_is_found_as_far_as_texts_are_whole() {
        assert_eq!(longest_text(&[1, 0, 0, 0, b'a', 3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0]), 3);
        assert_eq!(longest_text(&[1, 0, 0, 0, b'a', 9, 0, 0, 0, b'a']), 1);
        assert_eq!(longest_text(&[]), 0);
    }
}
