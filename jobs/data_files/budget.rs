//! What reading data files takes at once: processors, and bytes in memory.
//!
//! What a row group takes is known only when it is fetched. One that takes more than most is
//! decoded while no other such one is.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::{JoinError, spawn_blocking};

use super::column_file::GroupChunks;
use super::memory::Plan;
use super::object_reader::Footer;
use super::read_error::ReadError;
use crate::context::ReadLimits;

/// The memory budget is counted in this unit.
const KIB: u64 = 1024;
/// What decoding a row group takes at most, beside its column chunks, unless it is a large one.
const DECODING_BYTES: u64 = 16 << 20;
/// Memory for decoded footers.
const FOOTERS_BYTES: u64 = 24 << 20;

/// Processors and memory that the readers of one run share.
#[derive(Debug)]
pub(crate) struct Budget {
    processors: Semaphore,
    memory: Arc<Semaphore>,
    memory_kib: u32,
    /// Memory of decoded footers.
    footers: Arc<Semaphore>,
    /// For the one row group that takes much.
    large: Semaphore,
}

fn stopped(_: AcquireError) -> ReadError {
    ReadError::Broken { file: String::new(), place: String::new(), why: "stopped".into() }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes / KIB).unwrap_or(u32::MAX)
}

fn semaphore(kib: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(kib).unwrap_or(1)))
}

impl Budget {
    pub(crate) fn new(limits: &ReadLimits) -> Self {
        let memory_kib = kib(limits.memory_bytes).max(1);
        Self {
            processors: Semaphore::new(limits.parallel.max(1)),
            memory: semaphore(memory_kib),
            memory_kib,
            footers: semaphore(kib(FOOTERS_BYTES)),
            large: Semaphore::new(1),
        }
    }

    /// Waits for memory. What takes more than there is takes all of it.
    pub(crate) async fn memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit, ReadError> {
        Arc::clone(&self.memory).acquire_many_owned(kib(bytes).min(self.memory_kib)).await.map_err(stopped)
    }

    /// Waits for memory for a row group of which so many bytes are fetched.
    pub(crate) async fn group_memory(&self, fetched: u64) -> Result<OwnedSemaphorePermit, ReadError> {
        self.memory(fetched.saturating_add(DECODING_BYTES)).await
    }

    pub(crate) async fn processor(&self) -> Result<SemaphorePermit<'_>, ReadError> {
        self.processors.acquire().await.map_err(stopped)
    }

    /// Waits for memory for the decoded footer of the file `name`.
    ///
    /// # Errors
    /// When no footer may take so much.
    pub(crate) async fn footer(&self, name: &str, footer: &Footer) -> Result<OwnedSemaphorePermit, ReadError> {
        let needed = footer.decoded_bytes;
        if needed > FOOTERS_BYTES {
            let why = format!(
                "it takes {} MiB of memory, more than the {} that a footer may take; it is damaged, or must be written \
                 anew in larger row groups",
                needed >> 20,
                FOOTERS_BYTES >> 20
            );
            return Err(ReadError::Broken { file: name.to_owned(), place: ", footer".into(), why });
        }
        Arc::clone(&self.footers).acquire_many_owned(kib(needed)).await.map_err(stopped)
    }

    /// Plans how a row group is decoded, and runs `work` with it, on a thread that may be busy.
    ///
    /// # Errors
    /// When the row group cannot be decoded, or `work` fails.
    pub(crate) async fn decode<T, F>(&self, chunks: GroupChunks, work: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&GroupChunks, &Plan) -> Result<T, ReadError> + Send + 'static,
    {
        let _processor = self.processor().await?;
        // a panic of the decoder means a damaged file and is no crash of the worker
        let damaged = chunks.damaged();
        let damaged = |e: JoinError| damaged(&e);
        let planning = spawn_blocking(move || chunks.plan().map(|plan| (chunks, plan)));
        let (chunks, plan) = planning.await.unwrap_or_else(|e| Err(damaged(e)))?;
        let Plan { batch_rows, bytes, .. } = plan;
        tracing::debug!(batch_rows, bytes, "{}: {batch_rows} rows at once", chunks.name());
        let _large = if bytes > DECODING_BYTES { Some(self.large.acquire().await.map_err(stopped)?) } else { None };
        spawn_blocking(move || work(&chunks, &plan)).await.unwrap_or_else(|e| Err(damaged(e)))
    }
}
