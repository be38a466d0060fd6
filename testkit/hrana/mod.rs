//! A database server for the tests: libSQL's remote protocol (Hrana 3 over HTTP, in JSON) over a
//! local libSQL file, with the limits and manners of libSQL's own server (sqld 0.24.33).
//!
//! Books on a server fail in ways in which a file never fails: a COMMIT is executed and its reply
//! is lost, a transaction that takes too long is rolled back for another writer, an idle stream
//! expires, a connection ends before a request. No money may be lost in these cases, and a real
//! server does not produce them on demand. This one does. Otherwise it answers like sqld, with the
//! same codes and texts, because the tests also cover how the client reads them. It counts what a
//! paid server counts, and fails a test in which a transaction was too long for a real one.
//!
//! Not as in sqld: a checkpoint never makes a writer wait, a client that leaves does not interrupt
//! its statement, and there is no limit of connections. Neither has a limit for a request; a single
//! value may have 5 MB.

mod connection;
mod counts;
mod cursor;
mod faults;
mod request;
mod statement;
mod streams;
mod write_lock;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use libsql_hrana::proto::{CursorReqBody, CursorRespBody, PipelineReqBody, PipelineRespBody, StreamRequest};
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

pub use counts::{Counts, StatementCounts};
pub use faults::Faults;

use connection::{Blocked, Connection, Site, Sizes};
use counts::{Counted, Counters};
use cursor::CursorBody;
use faults::Fate;
use request::{Refusal, Stream};
use streams::{Streams, ticket};
use write_lock::WriteLock;

/// A transaction that can write for longer than this fails the test, unless it orders otherwise: a
/// real server ends it. On a quiet machine a twentieth of it is much.
const LONG: Duration = Duration::from_secs(5);

/// A delay of a request that counts in the time of its transaction: a round trip of a real server.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// The server. It stops when dropped.
pub struct HranaServer {
    shared: Arc<Shared>,
    /// A socket that is bound and never listens: it keeps the port while the server is paused.
    port: TcpSocket,
    /// From start to pause: a thread with a runtime. Its end drops all connections and streams.
    session: Mutex<Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>>,
}

struct Shared {
    site: Arc<Site>,
    faults: Faults,
    /// Requests with an answer for which the client waits.
    awaited: AtomicU64,
    idle: Mutex<Duration>,
    /// The only token that is accepted.
    token: Mutex<Option<String>>,
    /// How long the end of a cursor's answer is held back.
    held: Mutex<Duration>,
    streams: Streams,
}

impl HranaServer {
    /// Serves `file` on a free port of 127.0.0.1.
    pub fn start(file: &Path) -> HranaServer {
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let sizes = Sizes { one: 10_000_000.into(), all: 10_000_000.into(), now: 0.into() };
        let site = Site {
            file: file.to_owned(),
            lock: WriteLock::new(Duration::from_secs(5)),
            counters: Arc::new(Counters::default()),
            blocked: Mutex::default(),
            sizes,
        };
        site.lock.set_limit(Some(LONG));
        let shared = Shared {
            site: Arc::new(site),
            faults: Faults::default(),
            awaited: AtomicU64::new(0),
            idle: Mutex::new(Duration::from_secs(10)),
            token: Mutex::default(),
            held: Mutex::default(),
            streams: Streams::default(),
        };
        let server = HranaServer { shared: Arc::new(shared), port, session: Mutex::new(None) };
        server.resume();
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.local_addr().unwrap())
    }

    /// The faults, to order some.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Stops listening and drops all connections and streams; open transactions are rolled back.
    /// The port stays reserved. A running statement is completed, and its reply is lost.
    pub fn pause(&self) {
        if let Some((stop, thread)) = self.session.lock().unwrap().take() {
            drop(stop);
            thread.join().unwrap();
        }
    }

    /// Listens again. Does nothing if it already listens.
    pub fn resume(&self) {
        self.session.lock().unwrap().get_or_insert_with(|| {
            let (stop, stopped) = oneshot::channel();
            let (ready, listening) = mpsc::channel();
            let (shared, address) = (Arc::clone(&self.shared), self.port.local_addr().unwrap());
            let thread = thread::spawn(move || run(&shared, address, &ready, stopped));
            listening.recv().unwrap();
            (stop, thread)
        });
    }

    /// Number of requests received so far, for tests that count round trips. The request that
    /// closes a dropped stream is not counted and gets no fault, because the client does not wait
    /// for its answer.
    pub fn requests(&self) -> u64 {
        self.shared.awaited.load(SeqCst)
    }

    /// The `n` statements that read and wrote most since the counts began, the dearest first: a
    /// row that is written costs as much as a thousand that are read.
    pub fn dearest(&self, n: usize) -> Vec<StatementCounts> {
        let mut all = self.shared.site.counters.by_statement();
        all.sort_by_key(|of| std::cmp::Reverse(of.rows_written * 1000 + of.rows_read));
        all.truncate(n);
        all
    }

    /// What the server has done since its start, or since [`Self::reset_counts`].
    pub fn counts(&self) -> Counts {
        let site = &self.shared.site;
        site.counters.read(site.lock.longest())
    }

    /// Begins to count from zero.
    pub fn reset_counts(&self) {
        self.shared.site.counters.reset();
        self.shared.site.lock.reset();
    }

    /// From now on streams expire after this idle time (10 seconds at first).
    pub fn expire_after(&self, idle: Duration) {
        *self.shared.idle.lock().unwrap() = idle;
    }

    /// From now on a writer that waits ends the transaction of another after this time (5 seconds
    /// at first).
    pub fn transaction_timeout(&self, timeout: Duration) {
        self.shared.site.lock.set_timeout(timeout);
    }

    /// From now on a transaction that can write for longer than this (5 seconds at first) is
    /// recorded, and the test fails at its end. Of a delay by [`Faults::slow`] 20 ms count.
    pub fn fail_transactions_longer_than(&self, limit: Duration) {
        self.shared.site.lock.set_limit(Some(limit));
    }

    /// For a test that holds the write lock on purpose: no transaction is recorded from now on.
    pub fn allow_long_transactions(&self) {
        self.shared.site.lock.set_limit(None);
    }

    /// The recorded transactions since the last call, each with its time and its first statement
    /// that writes. A test that has asked for them judges them itself.
    pub fn long_transactions(&self) -> Vec<String> {
        self.shared.site.lock.take_long()
    }

    /// From now on one answer may have so many bytes, and all answers that are made at the same
    /// time so many (10 MB each at first). A cursor has no limit.
    pub fn max_response_bytes(&self, one: u64, all: u64) {
        let sizes = &self.shared.site.sizes;
        sizes.one.store(one, SeqCst);
        sizes.all.store(all, SeqCst);
    }

    /// From now on writes are refused (`BLOCKED`), as when the quota of the plan is used up.
    pub fn block_writes(&self, reason: Option<&str>) {
        *self.shared.site.blocked.lock().unwrap() =
            Blocked { reads: false, writes: true, reason: reason.map(str::to_owned) };
    }

    /// From now on nothing is executed but the end of a transaction (`BLOCKED`).
    pub fn block_all(&self, reason: Option<&str>) {
        *self.shared.site.blocked.lock().unwrap() =
            Blocked { reads: true, writes: true, reason: reason.map(str::to_owned) };
    }

    /// From now on requests need this token.
    pub fn require_token(&self, token: &str) {
        *self.shared.token.lock().unwrap() = Some(token.to_owned());
    }

    /// From now on everything is executed.
    pub fn unblock(&self) {
        *self.shared.site.blocked.lock().unwrap() = Blocked::default();
    }

    /// From now on the end of a cursor's answer comes so much later than its rows. When the client
    /// does not wait for it, the next statement of the stream is interrupted (SQLITE_INTERRUPT). On
    /// sqld this is a race that a client seldom loses; here it loses always.
    pub fn hold_cursor_ends(&self, held: Duration) {
        *self.shared.held.lock().unwrap() = held;
    }
}

impl Drop for HranaServer {
    fn drop(&mut self) {
        self.pause();
        let long = self.long_transactions();
        assert!(long.is_empty() || thread::panicking(), "transactions of more than {LONG:?}: {long:#?}");
    }
}

/// Several sockets may share the port. At most one of them listens.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

fn run(shared: &Arc<Shared>, address: SocketAddr, ready: &mpsc::Sender<()>, stopped: oneshot::Receiver<()>) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // libsql insists on configuring SQLite before anybody has opened a database
        libsql::Builder::new_local(":memory:").build().await.unwrap();
        // one connection stays open, so that the write-ahead log is not removed and recreated with
        // each stream
        let _watcher = Connection::open(&shared.site);
        let listener = socket(address).listen(1024).unwrap();
        ready.send(()).unwrap();
        tokio::spawn(Arc::clone(shared).listen(listener));
        let _ = stopped.await;
        // nobody waits any more for a transaction that is open
        shared.streams.clear();
    });
    drop(runtime);
    shared.streams.clear();
}

type Reply = Response<Either<Full<Bytes>, CursorBody>>;

fn reply(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    Response::builder().status(status).body(Either::Left(Full::new(body.into()))).unwrap()
}

fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let mut reply = reply(status, serde_json::to_vec(body).unwrap());
    reply.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap());
    reply
}

fn line(item: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(item).unwrap();
    line.push(b'\n');
    line
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        while let Ok((tcp, _)) = listener.accept().await {
            let shared = Arc::clone(&self);
            let counters = Arc::clone(&shared.site.counters);
            counters.connections.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                shared.faults.delay().await;
                let service = hyper::service::service_fn(|request| shared.serve(request));
                let io = TokioIo::new(Counted { tcp, counters });
                // an error here means that the client left, or that a fault was ordered
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    }

    /// Executes a request. An error ends the TCP connection.
    async fn serve(self: &Arc<Self>, request: Request<Incoming>) -> Result<Reply, &'static str> {
        self.site.counters.requests.fetch_add(1, SeqCst);
        let cursor = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v2/pipeline" | "/v3/pipeline") => false,
            (&Method::POST, "/v3/cursor") => true,
            (&Method::GET, "/v2" | "/v3") => {
                return Ok(reply(StatusCode::OK, "Hello, this is HTTP API v2 (Hrana over HTTP)"));
            }
            _ => return Ok(reply(StatusCode::NOT_FOUND, "")),
        };
        let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if self.token.lock().unwrap().as_ref().is_some_and(|token| sent != Some(&format!("Bearer {token}"))) {
            let why = serde_json::json!({ "error": "Unauthorized: `The JWT is invalid`" });
            return Ok(json(StatusCode::UNAUTHORIZED, &why));
        }
        let body = request.into_body().collect().await.map_err(|_| "request cut short")?.to_bytes();
        let parsed = if cursor {
            serde_json::from_slice(&body).map(|CursorReqBody { baton, batch }| {
                // a pipeline of one batch, with another form of answer
                let batch = StreamRequest::Batch(libsql_hrana::proto::BatchStreamReq { batch });
                PipelineReqBody { baton, requests: vec![batch] }
            })
        } else {
            serde_json::from_slice(&body)
        };
        let work = match parsed {
            Ok(work) => work,
            Err(e) => {
                let why = format!("Cannot deserialize client message from JSON: {e}");
                return Ok(reply(StatusCode::BAD_REQUEST, why));
            }
        };
        if matches!(work.requests[..], [StreamRequest::Close(_)]) {
            return Ok(self.answer(work, cursor).await);
        }
        self.awaited.fetch_add(1, SeqCst);
        let delay = self.faults.delay().await;
        let ticket = ticket(work.baton.as_ref());
        let inside = self.streams.idle(ticket).is_some_and(|connection| !connection.is_autocommit());
        if inside {
            self.site.lock.delayed(delay.saturating_sub(ROUND_TRIP));
        }
        let fate = self.faults.fate(&work, inside);
        match fate {
            Fate::Dropped => return Err("request lost"),
            Fate::Expired => self.streams.expire(ticket).await,
            Fate::Served | Fate::Unanswered => {}
        }
        let reply = self.answer(work, cursor).await;
        if fate == Fate::Unanswered { Err("reply lost") } else { Ok(reply) }
    }

    async fn answer(self: &Arc<Self>, work: PipelineReqBody, cursor: bool) -> Reply {
        let (id, stream) = match self.streams.acquire(work.baton.as_ref()) {
            Ok(acquired) => acquired,
            Err((status, why)) => return reply(status, why),
        };
        let shared = Arc::clone(self);
        let done = spawn_blocking(move || {
            let stream = stream.unwrap_or_else(|| Streams::open(&shared.site));
            if cursor { shared.cursor(id, stream, work) } else { shared.pipeline(id, stream, work) }
        });
        let Ok((reply, ticket)) = done.await else {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, "");
        };
        if let Some(ticket) = ticket {
            let (shared, idle) = (Arc::clone(self), *self.idle.lock().unwrap());
            tokio::spawn(async move { shared.streams.expire_after(ticket, idle).await });
        }
        reply
    }

    fn pipeline(&self, id: u64, stream: Stream, work: PipelineReqBody) -> (Reply, Option<streams::Ticket>) {
        let (mut place, mut results) = (Some(stream), vec![]);
        for request in work.requests {
            match request::answer(&mut place, request) {
                Ok(result) => results.push(result),
                Err(why) => {
                    self.streams.release(id, None);
                    return (reply(StatusCode::BAD_REQUEST, why), None);
                }
            }
        }
        let ticket = self.streams.release(id, place).map(|(ticket, _)| ticket);
        let baton = ticket.map(|(id, turn)| format!("{id}.{turn}"));
        (json(StatusCode::OK, &PipelineRespBody { baton, base_url: None, results }), ticket)
    }

    fn cursor(&self, id: u64, stream: Stream, work: PipelineReqBody) -> (Reply, Option<streams::Ticket>) {
        let batch = work.requests.into_iter().find_map(|request| match request {
            StreamRequest::Batch(request) => Some(request.batch),
            _ => None,
        });
        let entries = match stream.cursor(batch.expect("it was made of one")) {
            Ok(entries) => entries,
            Err(refusal) => {
                self.streams.release(id, None);
                return match refusal {
                    Refusal::Protocol(why) => (reply(StatusCode::BAD_REQUEST, why), None),
                    Refusal::Failed(error) => {
                        let why = serde_json::json!({ "error": format!("Internal Error: `{}`", error.message) });
                        (json(StatusCode::INTERNAL_SERVER_ERROR, &why), None)
                    }
                };
            }
        };
        let Some((ticket, sent)) = self.streams.release(id, Some(stream)) else {
            return (reply(StatusCode::INTERNAL_SERVER_ERROR, ""), None);
        };
        let baton = Some(format!("{}.{}", ticket.0, ticket.1));
        let mut lines = vec![line(&CursorRespBody { baton, base_url: None })];
        lines.extend(entries.iter().map(line));
        let held = *self.held.lock().unwrap();
        let body = Either::Right(CursorBody::new(lines, held, sent));
        (Response::builder().header(CONTENT_TYPE, "text/plain").body(body).unwrap(), Some(ticket))
    }
}
