//! Reading the files of a day: several at once, in chunks, in bounded memory.
//!
//! Chunks are fetched one ahead of the other and cut into blocks of whole lines; blocks of all
//! files are parsed by as many blocking threads as [`ReadLimits::parallel`] says, so that also a
//! single large file keeps all of them busy. Each thread takes a [`Tally`] from a pool; they are
//! added up at the end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::blocks::{Block, Cutter};
use super::line::BadLogLine;
use super::repeats::SIGHTINGS;
use super::sums::{BlockLines, DayFound, DaySums, NAMED_BAD_LINES, SumError, Tally, WantedLines};
use crate::context::{Progress, ReadLimits};
use crate::source::{Object, Source, SourceError};

/// Files that are fetched at once, and chunks of each. S3's logs are many small files.
const FILES_AT_ONCE: usize = 8;
const CHUNKS_AHEAD: usize = 2;
/// Bytes of a chunk: these parts of the memory that a reading may take, within these bounds.
const CHUNK_PART: u64 = 48;
const CHUNK_BYTES: (u64, u64) = (1 << 10, 1 << 20);
/// Bytes of that memory for each sighting in a list, list and sorting included.
const SIGHTING_PART: u64 = 48;

/// Why the files of a day cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DayError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sums(#[from] SumError),
    #[error("reading was broken off: {0}")]
    Stopped(String),
}

/// A bad line, as a person finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// For people.
    pub(super) file: String,
    /// From 1 on.
    pub(super) line: u64,
    pub(super) why: BadLogLine,
}

/// A day's files, read.
#[derive(Debug)]
pub(super) struct DayRead {
    pub(super) sums: DayFound,
    /// In order of files and lines.
    pub(super) first_bad: Vec<BadLine>,
}

/// Where files are read from, and how much at once.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) limits: ReadLimits,
    pub(super) progress: &'a Progress,
}

/// The blocks of a file, in order.
fn blocks(source: Arc<dyn Source>, object: Object, chunk_bytes: u64) -> BoxStream<'static, Result<Block, SourceError>> {
    let chunks = object.size.div_ceil(chunk_bytes);
    let read = move |number: u64| {
        let (source, object) = (Arc::clone(&source), object.clone());
        async move {
            let start = number * chunk_bytes;
            source.read(&object, start..object.size.min(start + chunk_bytes)).await
        }
    };
    let chunks = stream::iter(0..chunks).map(read).buffered(CHUNKS_AHEAD);
    // the end of the file is one more chunk, that has nothing
    let ended = chunks.map_ok(Some).chain(stream::iter([Ok(None)]));
    let cut = ended.scan(Cutter::default(), |cutter, chunk| {
        let block = chunk.map(|chunk| match chunk {
            Some(chunk) => cutter.push(&chunk),
            None => cutter.end(),
        });
        std::future::ready(Some(block.transpose()))
    });
    cut.filter_map(std::future::ready).boxed()
}

/// Bad lines by file and block, and the lines of each block of a file.
#[derive(Debug, Default)]
struct BadLines {
    lines: Vec<Vec<u64>>,
    bad: BTreeMap<(usize, usize), Vec<(u64, BadLogLine)>>,
}

impl BadLines {
    fn add(&mut self, (file, block): (usize, usize), found: BlockLines) {
        let lines = &mut self.lines[file];
        if lines.len() <= block {
            lines.resize(block + 1, 0);
        }
        lines[block] = found.lines;
        if !found.bad.is_empty() {
            self.bad.insert((file, block), found.bad);
            // each has one at least
            if self.bad.len() > NAMED_BAD_LINES {
                self.bad.pop_last();
            }
        }
    }

    fn first_bad(&self, name: impl Fn(usize) -> String) -> Vec<BadLine> {
        let lines = self.bad.iter().flat_map(|((file, block), bad)| {
            let before: u64 = self.lines[*file][..*block].iter().sum();
            bad.iter().map(move |(place, why)| (*file, before + place + 1, *why))
        });
        let lines = lines.take(NAMED_BAD_LINES);
        lines.map(|(file, line, why)| BadLine { file: name(file), line, why }).collect()
    }
}

/// Reads all files and adds up the wanted lines.
pub(super) async fn read_day(reading: Reading<'_>, files: &[Object], wanted: WantedLines) -> Result<DayRead, DayError> {
    let Reading { source, limits, progress } = reading;
    let threads = limits.parallel.max(1);
    let sightings = usize::try_from(limits.memory_bytes / SIGHTING_PART).unwrap_or(SIGHTINGS).min(SIGHTINGS);
    let chunk_bytes = (limits.memory_bytes / CHUNK_PART).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1);
    let sums = DaySums::new(wanted, sightings, threads);
    let pool: Arc<Mutex<Vec<Tally>>> = Arc::default();
    let processors = Arc::new(Semaphore::new(threads));
    progress.start(files.iter().map(|file| file.size).sum());
    let all: Vec<(usize, Object)> = files.iter().cloned().enumerate().collect();
    let source_of = Arc::clone(source);
    let blocks = stream::iter(all).map(move |(file, object)| {
        let numbered = blocks(Arc::clone(&source_of), object, chunk_bytes).enumerate();
        numbered.map(move |(number, block)| block.map(|block| ((file, number), block))).boxed()
    });
    let parsed = blocks.flatten_unordered(FILES_AT_ONCE).map_err(DayError::from).map_ok(|(place, block)| {
        let (sums, pool, processors) = (Arc::clone(&sums), Arc::clone(&pool), Arc::clone(&processors));
        async move {
            let _processor = processors.acquire().await.map_err(|e| DayError::Stopped(e.to_string()))?;
            let parsing = tokio::task::spawn_blocking(move || {
                let pooled = pool.lock().ok().and_then(|mut pool| pool.pop());
                let mut tally = pooled.unwrap_or_else(|| sums.tally());
                let found = tally.read(block.lines())?;
                pool.lock().map_err(|e| DayError::Stopped(e.to_string()))?.push(tally);
                Ok::<_, DayError>((found, block.bytes()))
            });
            let (found, bytes) = parsing.await.map_err(|e| DayError::Stopped(e.to_string()))??;
            Ok((place, found, bytes))
        }
    });
    let mut parsed = std::pin::pin!(parsed.try_buffer_unordered(threads * 2));
    let mut bad_lines = BadLines { lines: vec![vec![]; files.len()], ..BadLines::default() };
    while let Some((place, found, bytes)) = parsed.try_next().await? {
        bad_lines.add(place, found);
        progress.add(u64::try_from(bytes).unwrap_or_default());
    }
    let tallies = pool.lock().map(|mut pool| std::mem::take(&mut *pool)).unwrap_or_default();
    let settled = tallies.into_iter().map(|mut tally| {
        let settle = tokio::task::spawn_blocking(move || {
            tally.settle();
            tally
        });
        async { settle.await.map_err(|e| DayError::Stopped(e.to_string())) }
    });
    let tallies = futures::future::try_join_all(settled).await?;
    let day = Arc::clone(&sums);
    let adding = tokio::task::spawn_blocking(move || day.add_up(tallies));
    let sums = adding.await.map_err(|e| DayError::Stopped(e.to_string()))??;
    let first_bad = bad_lines.first_bad(|file| source.name(&files[file].key));
    Ok(DayRead { sums, first_bad })
}
