//! The bytes of an object in order, for code that reads and waits: they are fetched one chunk
//! ahead of it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::source::{Object, Source, SourceError};

/// Bytes that are fetched at once.
pub(crate) const READ_BYTES: u64 = 2 << 20;

/// The object's bytes in order, fetched one chunk ahead of the reader.
pub(crate) struct Streamed {
    chunks: mpsc::Receiver<Result<Bytes, SourceError>>,
    current: Bytes,
}

impl Streamed {
    /// Starts to fetch the object. The task ends with the object, an error or the reader.
    pub(crate) fn of(source: &Arc<dyn Source>, object: &Object) -> (Self, JoinHandle<()>) {
        let (sender, chunks) = mpsc::channel(1);
        let (reader, read) = (Arc::clone(source), object.clone());
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
        (Self { chunks, current: Bytes::new() }, fetching)
    }
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
