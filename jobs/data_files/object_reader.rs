//! Reading a Parquet file over the network: footer and column chunks of one unchanging object, in
//! few requests.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader, ParquetStatisticsPolicy,
};
use parquet::file::reader::{ChunkReader, Length};

use super::decoder_guard::guarded;
use super::footer;
use crate::source::{Object, Source, SourceError};

/// Largest footer. A file with 200 columns and 100 row groups has one of about 3 MB.
const FOOTER_LIMIT: u64 = 8 << 20;
/// Length word and magic at the end of a Parquet file.
const TAIL: u64 = 8;

/// An object that is a Parquet file.
#[derive(Debug)]
pub(crate) struct ObjectReader {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) object: Object,
}

fn outside(error: SourceError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// A footer as it is in the file.
#[derive(Clone, Debug)]
pub(crate) struct Footer {
    bytes: Bytes,
    /// Memory that it takes once it is decoded.
    pub(crate) decoded_bytes: u64,
}

impl Footer {
    /// Decodes it, without the statistics.
    pub(crate) fn decode(&self) -> parquet::errors::Result<Arc<ParquetMetaData>> {
        self.decode_with(&[])
    }

    /// Decodes it, with the statistics of some leaf columns only.
    pub(crate) fn decode_with(&self, leaves: &[usize]) -> parquet::errors::Result<Arc<ParquetMetaData>> {
        let skip = || ParquetStatisticsPolicy::SkipAll;
        let options = ParquetMetaDataOptions::new()
            .with_column_stats_policy(ParquetStatisticsPolicy::skip_except(leaves))
            .with_encoding_stats_policy(skip())
            .with_size_stats_policy(skip());
        guarded(|| ParquetMetaDataReader::decode_metadata_with_options(&self.bytes, Some(&options))).map(Arc::new)
    }
}

impl ObjectReader {
    async fn bytes(&self, range: Range<u64>) -> parquet::errors::Result<Bytes> {
        self.source.read(&self.object, range).await.map_err(outside)
    }

    pub(crate) async fn byte_ranges(&self, ranges: &[Range<u64>]) -> parquet::errors::Result<Vec<Bytes>> {
        let spans = coalesce(ranges);
        let reads = spans.iter().map(|span| self.source.read(&self.object, span.clone()));
        let spans: Vec<_> = spans.iter().zip(futures::future::try_join_all(reads).await.map_err(outside)?).collect();
        let part = |range: &Range<u64>| {
            let (span, bytes) = spans.iter().find(|(s, _)| s.start <= range.start && range.end <= s.end)?;
            let from = usize::try_from(range.start - span.start).ok()?;
            Some(bytes.slice(from..from + usize::try_from(range.end - range.start).ok()?))
        };
        let missing = || ParquetError::General("a byte range got lost".into());
        ranges.iter().map(|r| part(r).ok_or_else(missing)).collect()
    }

    pub(crate) async fn footer(&self) -> parquet::errors::Result<Footer> {
        let size = self.object.size;
        let bad = |why: String| Err(ParquetError::General(why));
        if size < 2 * TAIL {
            return bad(format!("it has {size} bytes, too few for a Parquet file"));
        }
        // a little more than the tail, in proportion to the file, includes most footers
        let guess = (size / 512).clamp(TAIL, 64 << 10);
        let tail = self.bytes(size - guess..size).await?;
        let Some((rest, [l0, l1, l2, l3, b'P', b'A', b'R', b'1'])) = tail.split_last_chunk::<8>() else {
            return bad(
                "it does not end as a Parquet file does (magic PAR1); it is truncated or no Parquet file".into()
            );
        };
        let length = u64::from(u32::from_le_bytes([*l0, *l1, *l2, *l3]));
        if length + TAIL > size {
            return bad(format!("its footer claims {length} bytes in a file of {size}; it is damaged"));
        }
        if length > FOOTER_LIMIT {
            return bad(format!(
                "its footer claims {length} bytes, more than the {FOOTER_LIMIT} that are read; \
                 it is damaged, or must be written anew in larger row groups"
            ));
        }
        let had = u64::try_from(rest.len()).unwrap_or(0);
        let bytes = if length <= had {
            tail.slice(usize::try_from(guess - TAIL - length).unwrap_or(0)..rest.len())
        } else {
            let start = self.bytes(size - TAIL - length..size - guess).await?;
            Bytes::from([&start[..], rest].concat())
        };
        match footer::decoded_bytes(&bytes) {
            Ok(decoded_bytes) => Ok(Footer { bytes, decoded_bytes }),
            Err(why) => bad(format!("{why}; it is damaged")),
        }
    }
}

/// Joins neighbouring ranges into fewer, larger reads, the smallest gaps first. All gaps together
/// are at most a twentieth of the wanted bytes.
fn coalesce(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_by_key(|r| r.start);
    let mut spans: Vec<Range<u64>> = vec![];
    for range in sorted {
        match spans.last_mut().filter(|last| range.start <= last.end) {
            Some(last) => last.end = last.end.max(range.end),
            None => spans.push(range),
        }
    }
    let mut budget = spans.iter().map(|s| s.end - s.start).sum::<u64>() / 20;
    let mut gaps: Vec<_> = spans.windows(2).map(|w| w[1].start - w[0].end).enumerate().collect();
    gaps.sort_by_key(|g| g.1);
    let mut joined = vec![false; spans.len()];
    for (i, gap) in gaps {
        if gap > budget {
            break;
        }
        budget -= gap;
        joined[i + 1] = true;
    }
    let mut out: Vec<Range<u64>> = vec![];
    for (span, join) in spans.into_iter().zip(joined) {
        match out.last_mut().filter(|_| join) {
            Some(last) => last.end = span.end,
            None => out.push(span),
        }
    }
    out
}

/// Column chunks of one row group, in memory.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    pub(crate) size: u64,
    pub(crate) parts: Arc<Vec<(u64, Bytes)>>,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.size
    }
}

impl Chunks {
    /// Those bytes, when they are in memory.
    pub(crate) fn slice(&self, range: &Range<u64>) -> Option<Bytes> {
        let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        self.get_bytes(range.start, length).ok()
    }

    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let inside = |(at, bytes): &&(u64, Bytes)| {
            start.checked_sub(*at).and_then(|o| usize::try_from(o).ok()).is_some_and(|o| o < bytes.len())
        };
        let (at, bytes) = self
            .parts
            .iter()
            .find(inside)
            .ok_or_else(|| ParquetError::EOF(format!("byte {start} is in no needed column")))?;
        Ok(bytes.slice(usize::try_from(start - at).unwrap_or(0)..))
    }
}

impl ChunkReader for Chunks {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(Box::new(Cursor::new(self.from(start)?)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} reach out of their column")));
        }
        Ok(bytes.slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_reads_hold_all_that_is_wanted_and_little_more(parts in prop::collection::vec((0_u64..10_000, 0_u64..500), 0..30)) {
            let mut at = 0;
            let ranges: Vec<_> = parts.iter().map(|(gap, length)| {
                let start = at + gap;
                at = start + length;
                start..at
            }).collect();
            let spans = coalesce(&ranges);
            for range in ranges.iter().filter(|r| !r.is_empty()) {
                prop_assert!(spans.iter().any(|s| s.start <= range.start && range.end <= s.end));
            }
            let wanted: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            let read: u64 = spans.iter().map(|r| r.end - r.start).sum();
            prop_assert!(read <= wanted + wanted / 20);
            prop_assert!(spans.windows(2).all(|w| w[0].end < w[1].start));
        }
    }
}
