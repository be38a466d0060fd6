//! The one door to libSQL, for a local file and for a remote server alike.
//!
//! libSQL's local calls are synchronous C code behind `async fn`, and all clones of a connection
//! share one transaction. So a thread of its own holds the connection and runs one piece of work
//! after another: the async runtime is never blocked, and no statement of one piece can get into
//! the transaction of another. A remote database works the same way, with requests in place of
//! calls.
//!
//! Durability: in WAL mode readers never wait for the writer, and with `synchronous = FULL` a
//! reported commit survives a power cut (with NORMAL the last commits could be lost:
//! <https://www.sqlite.org/pragma.html#pragma_synchronous>). Books are written a few times an hour,
//! so an fsync a commit costs little.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use futures::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::connection::Connection;
use super::error::{BUSY_WAIT, BooksError};
use super::remote::http::HttpClient;
use super::remote::stream::{Server, Stream};
use super::rows::{clock, first_row};
use super::traffic::{BusyWaits, Counters, Traffic};

/// How long a piece of work on a remote database may take.
pub const REMOTE_WAIT: Duration = Duration::from_secs(300);

type Piece = Box<dyn FnOnce(Connection) -> LocalBoxFuture<'static, ()> + Send>;
/// A piece of work, and what its requests are added to.
type Work = (Arc<Counters>, Piece);

/// Checks inside a writing transaction, before its first statement, whether this handle may still
/// write ([`Database::fenced`]).
pub type Fence = Arc<dyn Fn(Connection) -> LocalBoxFuture<'static, Result<(), BooksError>> + Send + Sync>;

/// When a commit to a local file counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk.
    #[default]
    Full,
    /// When the operating system has it: a power cut may lose the last commits, a crash of the
    /// process cannot.
    Normal,
}

/// A longer wait for the write lock is counted.
const NOTED_WAIT: Duration = Duration::from_millis(10);

/// A handle to the books' database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    /// Path or address.
    name: Arc<str>,
    counters: Arc<Counters>,
    /// True once the schema was seen to be this build's. A worker's heartbeat sees a newer one.
    pub(super) migrated: Arc<AtomicBool>,
    work: mpsc::Sender<Work>,
    local: bool,
    wait: Duration,
    fence: Option<Fence>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Database")
    }
}

impl Database {
    /// Opens a local file, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`BooksError::Open`] when the folder is missing or not permitted, [`BooksError::ReadOnly`]
    /// when it cannot be written.
    pub async fn open_local(path: &Path) -> Result<Self, BooksError> {
        Self::open_local_with(path, Durability::Full).await
    }

    /// As [`Database::open_local`], with a choice of durability.
    pub async fn open_local_with(path: &Path, durability: Durability) -> Result<Self, BooksError> {
        let path = path.to_owned();
        let name = path.display().to_string();
        let opened = Self::start(name.clone(), Duration::MAX, async move || {
            let database = libsql::Builder::new_local(&path).build().await?;
            let connection = database.connect()?;
            connection.busy_timeout(BUSY_WAIT)?;
            let synchronous = match durability {
                Durability::Full => "synchronous = FULL",
                Durability::Normal => "synchronous = NORMAL",
            };
            let pragmas = ["journal_mode = WAL", synchronous, "foreign_keys = ON"];
            for pragma in pragmas {
                // SQLite calls no busy handler while it turns a new file to WAL, so processes that
                // start at once wait here
                let set = || set_pragma(&connection, pragma);
                let waits =
                    ConstantBuilder::new().with_delay(Duration::from_millis(20)).with_jitter().with_max_times(200);
                set.retry(waits).when(|e| matches!(e, libsql::Error::SqliteFailure(5 | 261 | 517, _))).await?;
            }
            Ok(kept(connection, database))
        });
        opened.await.map_err(|e| match e {
            BooksError::Open(_, text) => {
                let why = in_the_way(std::path::Path::new(&name)).unwrap_or(text);
                BooksError::Open(name, why)
            }
            other => other,
        })
    }

    /// Opens a file, such as a backup, only to read it. Its folder need not be writable. The file
    /// must not be in use.
    pub async fn open_read_only(path: &Path) -> Result<Self, BooksError> {
        let path = path.to_owned();
        let name = path.display().to_string();
        let opened = Self::start(name.clone(), Duration::MAX, async move || {
            let database =
                libsql::Builder::new_local(&path).flags(libsql::OpenFlags::SQLITE_OPEN_READ_ONLY).build().await?;
            let connection = database.connect()?;
            connection.busy_timeout(BUSY_WAIT)?;
            Ok(kept(connection, database))
        });
        opened.await.map_err(|e| match e {
            BooksError::Open(_, text) => {
                let why = in_the_way(std::path::Path::new(&name)).unwrap_or(text);
                BooksError::Open(name, why)
            }
            other => other,
        })
    }

    /// Uses a remote database at `url` (`http(s)://`, `libsql://`); its server sets the pragmas. A
    /// piece of work that takes longer than `wait` is given up. Nothing is sent yet.
    ///
    /// # Errors
    /// [`BooksError::Open`].
    pub async fn open_remote(http: HttpClient, url: &str, token: &str, wait: Duration) -> Result<Self, BooksError> {
        let counters = http.counters().below();
        let server = Arc::new(Server::new(http, url, token)?);
        let opened = Self::start(url.to_owned(), wait, async move || {
            Ok(move |counters| Connection::remote(Stream::new(Arc::clone(&server), counters)))
        });
        Ok(Self { counters, ..opened.await? })
    }

    /// True for a local file, where a statement costs no round trip.
    pub fn is_local(&self) -> bool {
        self.local
    }

    /// A handle with a fence: every [`Database::transaction`] of it first checks `fence`, inside
    /// the transaction and under the write lock.
    #[must_use]
    pub fn fenced(&self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// A handle with counts of its own: its [`Database::traffic`] is what it and its clones cost,
    /// whatever else runs at the same time. This handle counts that too.
    #[must_use]
    pub fn counted(&self) -> Self {
        Self { counters: self.counters.below(), ..self.clone() }
    }

    /// `open` returns what makes the connection of each piece of work.
    async fn start<F, C>(name: String, wait: Duration, open: F) -> Result<Self, BooksError>
    where
        F: AsyncFnOnce() -> Result<C, libsql::Error> + Send + 'static,
        C: Fn(Arc<Counters>) -> Connection + 'static,
    {
        let (work, mut inbox) = mpsc::channel::<Work>(64);
        let (opened, is_open) = oneshot::channel();
        let spawned = std::thread::Builder::new().name("books".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(e) => return drop(opened.send(Err(BooksError::Sql(e.to_string())))),
            };
            runtime.block_on(async move {
                let connection = match open().await {
                    Ok(connection) => connection,
                    Err(e) => return drop(opened.send(Err(e.into()))),
                };
                if opened.send(Ok(())).is_err() {
                    return;
                }
                while let Some((counters, piece)) = inbox.recv().await {
                    // work that takes too long is dropped with its answer channel, which the caller
                    // sees as an error
                    drop(tokio::time::timeout(wait, piece(connection(counters))).await);
                }
            });
        });
        spawned.map_err(|e| BooksError::Open(name.clone(), e.to_string()))?;
        is_open.await.unwrap_or_else(|_| Err(BooksError::Sql("the database thread ended".into())))?;
        let (counters, migrated) = (Arc::default(), Arc::default());
        Ok(Self { name: name.into(), counters, migrated, work, local: wait == Duration::MAX, wait, fence: None })
    }

    /// The database's own clock, to the second.
    pub async fn clock(&self) -> Result<jiff::Timestamp, BooksError> {
        self.with_connection(async |c| Ok(crate::units::calendar::instant(clock(c).await?))).await
    }

    /// Runs a transaction that changes nothing: the file, its folder or the token may forbid to
    /// write.
    pub async fn try_to_write(&self) -> Result<(), BooksError> {
        self.transaction(async |c| Ok(c.execute("DELETE FROM probes WHERE false", ()).await.map(drop)?)).await
    }

    /// Writes the write-ahead log of a local file into the file, as far as no reader uses it. After
    /// a large change the next process would have to read the whole log before its first statement.
    pub async fn checkpoint(&self) -> Result<(), BooksError> {
        if self.local {
            self.with_connection(async |c| first_row(c, "PRAGMA wal_checkpoint(TRUNCATE)", ()).await.map(drop)).await?;
        }
        Ok(())
    }

    /// Writing transactions of this handle and its clones that gave up waiting for the write lock,
    /// and on a local file those that waited more than 10 ms for it.
    pub fn busy_waits(&self) -> BusyWaits {
        self.counters.busy_waits()
    }

    /// What this handle and its clones have cost on a remote database.
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// True when a remote database has answered this handle or a clone within the last `time`.
    pub fn answered_within(&self, time: Duration) -> bool {
        self.counters.answered_within(time)
    }

    /// Runs `f` on the connection without a transaction: each statement commits by itself.
    pub async fn with_connection<T, F>(&self, f: F) -> Result<T, BooksError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Connection) -> Result<T, BooksError> + Send + 'static,
    {
        let gone = || BooksError::Network(format!("nothing from {} within {} s", self.name, self.wait.as_secs()));
        let (answer, answered) = oneshot::channel();
        // what is logged meanwhile names the job
        let span = Span::current();
        let piece: Piece = Box::new(move |connection| {
            Box::pin(async move {
                // the caller may be gone
                drop(answer.send(f(&connection).instrument(span).await));
            })
        });
        self.work.send((Arc::clone(&self.counters), piece)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Runs `f` in one transaction that holds the write lock from its start: committed when `f`
    /// succeeds, else undone.
    pub async fn transaction<T, F>(&self, f: F) -> Result<T, BooksError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&Connection) -> Result<T, BooksError> + Send + 'static,
    {
        self.transaction_with(f).await
    }

    /// As [`Database::transaction`], for work with an error type of its own.
    pub async fn transaction_with<T, E, F>(&self, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<BooksError> + Send + 'static,
        F: AsyncFnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let (fence, counters, local) = (self.fence.clone(), self.counters.clone(), self.local);
        let done = self.with_connection(async move |connection| {
            let asked = Instant::now();
            let begun = connection.begin().await;
            let waited = asked.elapsed();
            if local && (waited > NOTED_WAIT || matches!(begun, Err(BooksError::Locked(_)))) {
                counters.busy(waited);
            }
            begun?;
            let may_write = match fence {
                Some(fence) => fence(connection.clone()).await,
                None => Ok(()),
            };
            let result = match may_write {
                Ok(()) => f(connection).await,
                Err(error) => Err(error.into()),
            };
            match &result {
                Ok(_) => connection.commit().await?,
                Err(_) => connection.rollback().await,
            }
            Ok(result)
        });
        done.await?
    }
}

/// Makes all pieces of work share one connection.
fn kept(connection: libsql::Connection, database: libsql::Database) -> impl Fn(Arc<Counters>) -> Connection + 'static {
    let connection = Connection::local(connection);
    move |_| {
        let _open = &database;
        connection.clone()
    }
}

/// A pragma may return a row or none, so it is run as a query that is read to its end.
async fn set_pragma(connection: &libsql::Connection, pragma: &str) -> Result<(), libsql::Error> {
    let mut rows = connection.query(&format!("PRAGMA {pragma}"), ()).await?;
    while rows.next().await?.is_some() {}
    Ok(())
}

/// What a person sees of a path at which no database can be; SQLite says only that it cannot.
fn in_the_way(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some("it is a folder; name a file in it".to_owned());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    match folder.metadata() {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some(format!("{} is no folder", folder.display())),
        Err(_) => Some(format!("there is no folder {}", folder.display())),
    }
}
