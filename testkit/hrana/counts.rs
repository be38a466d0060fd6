//! What the server counts, as the operator of a paid one does.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the server has done since its start, or since [`super::HranaServer::reset_counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// HTTP requests, with those that only close a stream.
    pub requests: u64,
    /// TCP connections that were accepted.
    pub connections: u64,
    /// Bytes received, with the heads of the requests.
    pub bytes_up: u64,
    /// Bytes sent, with the heads of the replies.
    pub bytes_down: u64,
    /// Statements that were executed.
    pub statements: u64,
    /// Rows read as libSQL counts them for the invoice, index entries included.
    pub rows_read: u64,
    /// Rows written as libSQL counts them for the invoice, index entries included.
    pub rows_written: u64,
    /// The longest time for which one connection alone could write.
    pub longest_write: Duration,
}

/// What one statement did, however often it was executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatementCounts {
    pub sql: String,
    pub executed: u64,
    pub rows_read: u64,
    pub rows_written: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) bytes_up: AtomicU64,
    pub(super) bytes_down: AtomicU64,
    pub(super) statements: AtomicU64,
    pub(super) rows_read: AtomicU64,
    pub(super) rows_written: AtomicU64,
    by_statement: Mutex<HashMap<String, StatementCounts>>,
}

impl Counters {
    pub(super) fn executed(&self, sql: &str, rows_read: u64, rows_written: u64) {
        self.statements.fetch_add(1, SeqCst);
        self.rows_read.fetch_add(rows_read, SeqCst);
        self.rows_written.fetch_add(rows_written, SeqCst);
        let mut all = self.by_statement.lock().unwrap();
        let of = match all.get_mut(sql) {
            Some(of) => of,
            None => all
                .entry(sql.to_owned())
                .or_insert_with(|| StatementCounts { sql: sql.to_owned(), ..Default::default() }),
        };
        of.executed += 1;
        of.rows_read += rows_read;
        of.rows_written += rows_written;
    }

    pub(super) fn by_statement(&self) -> Vec<StatementCounts> {
        self.by_statement.lock().unwrap().values().cloned().collect()
    }

    pub(super) fn read(&self, longest_write: Duration) -> Counts {
        Counts {
            requests: self.requests.load(SeqCst),
            connections: self.connections.load(SeqCst),
            bytes_up: self.bytes_up.load(SeqCst),
            bytes_down: self.bytes_down.load(SeqCst),
            statements: self.statements.load(SeqCst),
            rows_read: self.rows_read.load(SeqCst),
            rows_written: self.rows_written.load(SeqCst),
            longest_write,
        }
    }

    pub(super) fn reset(&self) {
        let all = [
            &self.requests,
            &self.connections,
            &self.bytes_up,
            &self.bytes_down,
            &self.statements,
            &self.rows_read,
            &self.rows_written,
        ];
        for counter in all {
            counter.store(0, SeqCst);
        }
        self.by_statement.lock().unwrap().clear();
    }
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(u64::try_from(n).unwrap(), SeqCst);
}

/// A TCP connection that counts its bytes.
pub(super) struct Counted {
    pub(super) tcp: TcpStream,
    pub(super) counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, to);
        add(&self.counters.bytes_up, to.filled().len() - before);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, from);
        if let Poll::Ready(Ok(n)) = written {
            add(&self.counters.bytes_down, n);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
