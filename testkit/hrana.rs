//! A database server for the tests: libSQL's remote protocol (Hrana 3 over HTTP, in JSON) over a
//! local libSQL file.
//!
//! Books on a server fail in ways in which a file never fails: a COMMIT is executed and its reply
//! is lost, an idle stream expires and rolls back its transaction, a connection ends before a
//! request. No money may be lost in these cases, and a real server does not produce them on
//! demand. This one does. Otherwise it answers like sqld, with the same codes and texts, because
//! the tests also cover how the client reads them. It implements only the requests that libSQL's
//! client sends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use libsql::params::Params;
use libsql_hrana::proto::{BatchCond, BatchStreamReq, CursorReqBody, PipelineReqBody, Stmt, StreamRequest, Value};
use serde_json::{Value as Json, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// The server. It stops when dropped.
pub struct HranaServer {
    shared: Arc<Shared>,
    /// A socket that is bound and never listens: it keeps the port while the server is paused.
    port: TcpSocket,
    /// From start to pause: a thread with a runtime. Its end drops all connections and streams.
    session: Mutex<Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>>,
}

#[derive(Default)]
struct Shared {
    file: PathBuf,
    faults: Faults,
    requests: AtomicU64,
    idle: Mutex<Duration>,
    /// Number of streams so far. After a pause, earlier batons are invalid.
    opened: AtomicU64,
    streams: Mutex<HashMap<u64, Slot>>,
}

impl HranaServer {
    /// Serves `file` on a free port of 127.0.0.1.
    pub fn start(file: &Path) -> HranaServer {
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let idle = Mutex::new(Duration::from_secs(10));
        let shared = Shared { file: file.to_owned(), idle, ..Shared::default() };
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
        self.shared.requests.load(SeqCst)
    }

    /// From now on streams expire after this idle time (10 seconds at first).
    pub fn expire_after(&self, idle: Duration) {
        *self.shared.idle.lock().unwrap() = idle;
    }
}

impl Drop for HranaServer {
    fn drop(&mut self) {
        self.pause();
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
        // one connection stays open, so that the write-ahead log is not removed and recreated with
        // each stream
        let watcher = Stream::open(&shared.file).await;
        watcher.0.execute_batch("PRAGMA journal_mode=WAL").await.unwrap();
        let listener = socket(address).listen(1024).unwrap();
        ready.send(()).unwrap();
        tokio::spawn(Arc::clone(shared).listen(listener));
        let _ = stopped.await;
    });
    drop(runtime);
    shared.streams.lock().unwrap().clear();
}

/// The faults to be ordered. All of them are thread-safe and off at first. A reply is lost whether
/// its statements succeeded or failed.
#[derive(Default)]
pub struct Faults {
    commits: AtomicU32,
    writes: AtomicU32,
    expiries: AtomicU32,
    drops: AtomicU32,
    slow: Mutex<Duration>,
    per_mille: AtomicU32,
    state: Mutex<u64>,
    dealt: AtomicU64,
}

/// What happens to a request.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Served,
    Dropped,
    Expired,
    Unanswered,
}

impl Faults {
    /// The next `n` requests with a COMMIT (also as a transactional batch) are executed. Then
    /// their TCP connection is closed without a reply.
    pub fn lose_commit_replies(&self, n: u32) {
        self.commits.store(n, SeqCst);
    }

    /// Like [`Self::lose_commit_replies`], for the next `n` requests with an INSERT, UPDATE or
    /// DELETE outside of a transaction.
    pub fn lose_write_replies(&self, n: u32) {
        self.writes.store(n, SeqCst);
    }

    /// For the next `n` requests with a baton the stream has expired, and its transaction is
    /// rolled back.
    pub fn expire_streams(&self, n: u32) {
        self.expiries.store(n, SeqCst);
    }

    /// The TCP connection of the next `n` requests is closed before anything is executed.
    pub fn drop_requests(&self, n: u32) {
        self.drops.store(n, SeqCst);
    }

    /// Each request waits this long before it is executed.
    pub fn slow(&self, each: Duration) {
        *self.slow.lock().unwrap() = each;
    }

    /// From now on each request gets one of the faults above that can apply to it (never slowness)
    /// with this probability in per mille (0 = off). A seeded generator chooses.
    pub fn at_random(&self, per_mille: u32, seed: u64) {
        *self.state.lock().unwrap() = seed;
        self.per_mille.store(per_mille, SeqCst);
    }

    /// Number of faults so far, without slowness.
    pub fn dealt(&self) -> u64 {
        self.dealt.load(SeqCst)
    }

    fn fate(&self, baton: bool, commits: bool, writes: bool) -> Fate {
        let take = |left: &AtomicU32| left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let fate = if take(&self.drops) {
            Fate::Dropped
        } else if baton && take(&self.expiries) {
            Fate::Expired
        } else if commits && take(&self.commits) || writes && take(&self.writes) {
            Fate::Unanswered
        } else {
            let mut possible = vec![Fate::Dropped];
            possible.extend(baton.then_some(Fate::Expired));
            possible.extend((commits || writes).then_some(Fate::Unanswered));
            let chosen = self.draw(1000) < u64::from(self.per_mille.load(SeqCst));
            if chosen { possible[usize::try_from(self.draw(possible.len())).unwrap()] } else { Fate::Served }
        };
        self.dealt.fetch_add(u64::from(fate != Fate::Served), SeqCst);
        fate
    }

    /// The next number of a linear congruential generator. Its high bits are the better ones.
    fn draw(&self, below: usize) -> u64 {
        let mut state = self.state.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % u64::try_from(below).unwrap()
    }
}

type Reply = Response<Full<Bytes>>;
fn reply(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

/// Reads a request. A request for a cursor is treated as a pipeline of one batch with another form
/// of answer.
fn parse(cursor: bool, body: &[u8]) -> serde_json::Result<PipelineReqBody> {
    if !cursor {
        return serde_json::from_slice(body);
    }
    let CursorReqBody { baton, batch } = serde_json::from_slice(body)?;
    Ok(PipelineReqBody { baton, requests: vec![StreamRequest::Batch(BatchStreamReq { batch })] })
}

/// The stream and the turn that a baton names.
fn ticket(baton: Option<&String>) -> Option<(u64, u64)> {
    let (id, turn) = baton?.split_once('.')?;
    Some((id.parse().ok()?, turn.parse().ok()?))
}

const WRITES: [&str; 4] = ["INSERT", "REPLACE", "UPDATE", "DELETE"];
/// The verb of a statement. A WITH statement that contains the verb of a write counts as that
/// write.
fn verb(sql: &str) -> String {
    let words = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty());
    let mut words = words.map(str::to_ascii_uppercase);
    let first = words.next().unwrap_or_default();
    if first == "WITH" { words.find(|w| w != "REPLACE" && WRITES.contains(&&**w)).unwrap_or(first) } else { first }
}

/// The place of a stream. A baton names the place and the turn, so each baton is valid once.
struct Slot {
    turn: u64,
    expired: bool,
    /// None while a request uses the stream. If the client disconnects meanwhile, the stream does
    /// not return.
    stream: Option<Stream>,
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        while let Ok((tcp, _)) = listener.accept().await {
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                let _ = tcp.set_nodelay(true);
                let service = hyper::service::service_fn(|request| shared.serve(request));
                // an error here means that the client left, or that a fault was ordered
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    }

    /// Executes a request. An error ends the TCP connection.
    async fn serve(self: &Arc<Self>, request: Request<Incoming>) -> Result<Reply, &'static str> {
        let cursor = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v2/pipeline" | "/v3/pipeline") => false,
            (&Method::POST, "/v3/cursor") => true,
            (&Method::GET, "/v2" | "/v3") => return Ok(reply(StatusCode::OK, "Hello, this is Hrana over HTTP")),
            _ => return Ok(reply(StatusCode::NOT_FOUND, "not found")),
        };
        let body = request.into_body().collect().await.map_err(|_| "request cut short")?.to_bytes();
        let work = match parse(cursor, &body) {
            Ok(work) => work,
            Err(e) => return Ok(reply(StatusCode::BAD_REQUEST, format!("Cannot deserialize client message: {e}"))),
        };
        if matches!(work.requests[..], [StreamRequest::Close(_)]) {
            return Ok(self.answer(work, cursor).await);
        }
        self.requests.fetch_add(1, SeqCst);
        let slow = *self.faults.slow.lock().unwrap();
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let fate = self.fate(&work);
        match fate {
            Fate::Dropped => return Err("request lost"),
            Fate::Expired => self.expire(ticket(work.baton.as_ref())).await,
            Fate::Served | Fate::Unanswered => {}
        }
        let reply = self.answer(work, cursor).await;
        if fate == Fate::Unanswered { Err("reply lost") } else { Ok(reply) }
    }

    fn fate(&self, work: &PipelineReqBody) -> Fate {
        let streams = self.streams.lock().unwrap();
        let stream = ticket(work.baton.as_ref()).and_then(|(id, _)| streams.get(&id)?.stream.as_ref());
        let stmts = work.requests.iter().flat_map(|request| match request {
            StreamRequest::Execute(r) => vec![&r.stmt],
            StreamRequest::Batch(r) => r.batch.steps.iter().map(|s| &s.stmt).collect(),
            _ => vec![],
        });
        let verbs: Vec<String> = stmts.filter_map(|s| s.sql.as_deref()).map(verb).collect();
        let any = |of: &[&str]| verbs.iter().any(|v| of.contains(&v.as_str()));
        let inside = stream.is_some_and(|s| !s.0.is_autocommit()) || any(&["BEGIN"]);
        self.faults.fate(work.baton.is_some(), any(&["COMMIT", "END"]), !inside && any(&WRITES))
    }

    async fn answer(self: &Arc<Self>, work: PipelineReqBody, cursor: bool) -> Reply {
        let (id, mut stream) = match self.acquire(&work) {
            Ok(acquired) => acquired,
            Err((status, why)) => return reply(status, why),
        };
        let shared = Arc::clone(self);
        let done = spawn_blocking(move || {
            Handle::current().block_on(async {
                if stream.is_none() {
                    stream = Some(Stream::open(&shared.file).await);
                }
                let mut results = Vec::new();
                for request in work.requests {
                    results.push(match handle(&mut stream, request).await {
                        Ok(response) => json!({ "type": "ok", "response": response }),
                        Err(error) => json!({ "type": "error", "error": error }),
                    });
                }
                (stream, results)
            })
        });
        let Ok((stream, results)) = done.await else {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, "Internal error");
        };
        let baton = self.release(id, stream);
        if !cursor {
            let body = json!({ "baton": baton, "base_url": null, "results": results });
            return reply(StatusCode::OK, body.to_string());
        }
        let mut lines = vec![json!({ "baton": baton, "base_url": null })];
        lines.extend(entries(&results[0]["response"]["result"]));
        reply(StatusCode::OK, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
    }

    /// The stream of a baton, or the place for a new stream that is still to be opened.
    fn acquire(&self, work: &PipelineReqBody) -> Result<(u64, Option<Stream>), (StatusCode, String)> {
        let mut streams = self.streams.lock().unwrap();
        if work.baton.is_none() {
            let id = self.opened.fetch_add(1, SeqCst);
            streams.insert(id, Slot { turn: 0, expired: false, stream: None });
            return Ok((id, None));
        }
        let found = ticket(work.baton.as_ref()).and_then(|(id, turn)| Some((id, turn, streams.get_mut(&id)?)));
        let Some((id, turn, slot)) = found else {
            return Err((StatusCode::BAD_REQUEST, "Received an invalid baton".into()));
        };
        if slot.expired {
            let why = error("STREAM_EXPIRED", "The stream has expired due to inactivity");
            return Err((StatusCode::INTERNAL_SERVER_ERROR, why.to_string()));
        }
        let Some(stream) = slot.stream.take_if(|_| slot.turn == turn) else {
            return Err((StatusCode::BAD_REQUEST, "Received a baton that has already been used".into()));
        };
        slot.turn += 1;
        Ok((id, Some(stream)))
    }

    /// Puts a stream back unless it was closed. Returns its next baton.
    fn release(self: &Arc<Self>, id: u64, stream: Option<Stream>) -> Option<String> {
        let mut streams = self.streams.lock().unwrap();
        if stream.is_none() {
            streams.remove(&id);
        }
        let (slot, stream) = (streams.get_mut(&id)?, stream?);
        slot.stream = Some(stream);
        let (shared, turn, idle) = (Arc::clone(self), slot.turn, *self.idle.lock().unwrap());
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            shared.expire(Some((id, turn))).await;
        });
        Some(format!("{id}.{turn}"))
    }

    /// Drops the stream and its transaction, unless it has had another turn.
    async fn expire(&self, ticket: Option<(u64, u64)>) {
        let stream = ticket.and_then(|(id, turn)| {
            let mut streams = self.streams.lock().unwrap();
            let slot = streams.get_mut(&id).filter(|s| s.turn == turn && s.stream.is_some())?;
            slot.expired = true;
            slot.stream.take()
        });
        let _ = spawn_blocking(|| drop(stream)).await;
    }
}

fn error(code: &str, message: impl Into<String>) -> Json {
    json!({ "message": message.into(), "code": code })
}

/// SQLite's result codes by number; sqld calls a plain error unknown.
const CODES: &str = "OK UNKNOWN INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL \
    CANTOPEN PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE NOTADB";

fn failure(e: libsql::Error) -> Json {
    let (code, message) = match e {
        libsql::Error::SqliteFailure(extended, message) => (extended & 0xff, message),
        other => (1, other.to_string()),
    };
    let name = usize::try_from(code).ok().and_then(|code| CODES.split(' ').nth(code)).unwrap_or("UNKNOWN");
    error(&format!("SQLITE_{name}"), format!("SQLite error: {message}"))
}

async fn handle(place: &mut Option<Stream>, request: StreamRequest) -> Result<Json, Json> {
    let stream = place.as_ref().ok_or_else(|| error("STREAM_CLOSED", "Stream for this baton was closed"))?;
    Ok(match request {
        StreamRequest::Execute(r) => json!({ "type": "execute", "result": stream.execute(&r.stmt).await? }),
        StreamRequest::Batch(r) => json!({ "type": "batch", "result": stream.batch(&r).await }),
        StreamRequest::Describe(r) => {
            // the client reads only the columns
            let (_, cols) = stream.prepare(&r.sql.unwrap_or_default()).await?;
            let result = json!({ "params": [], "cols": cols, "is_explain": false, "is_readonly": false });
            json!({ "type": "describe", "result": result })
        }
        StreamRequest::GetAutocommit(_) => {
            json!({ "type": "get_autocommit", "is_autocommit": stream.0.is_autocommit() })
        }
        StreamRequest::Close(_) => {
            *place = None;
            json!({ "type": "close" })
        }
        other => return Err(error("NOT_SUPPORTED", format!("not understood: {other:?}"))),
    })
}

/// A connection to the file, with blocking calls.
struct Stream(libsql::Connection);

impl Stream {
    async fn open(file: &Path) -> Self {
        let connection = libsql::Builder::new_local(file).build().await.unwrap().connect().unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=NORMAL").await.unwrap();
        Self(connection)
    }

    async fn prepare(&self, sql: &str) -> Result<(libsql::Statement, Vec<Json>), Json> {
        let misput = |why| error("SQL_INPUT_ERROR", format!("SQL input error: {why} (at offset 0)"));
        let prepared = self.0.prepare(sql).await.map_err(|e| match e {
            libsql::Error::SqliteFailure(1, why) => misput(why),
            other => failure(other),
        })?;
        let cols = prepared.columns().iter().map(|c| json!({ "name": c.name(), "decltype": c.decl_type() })).collect();
        Ok((prepared, cols))
    }

    async fn batch(&self, request: &BatchStreamReq) -> Json {
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for step in &request.batch.steps {
            let wanted = step.condition.as_ref().is_none_or(|c| holds(c, &results));
            let done = if wanted { self.execute(&step.stmt).await.map(Some) } else { Ok(None) };
            errors.push(done.as_ref().err().cloned());
            results.push(done.ok().flatten());
        }
        json!({ "step_results": results, "step_errors": errors })
    }

    async fn execute(&self, stmt: &Stmt) -> Result<Json, Json> {
        let text = stmt.sql.as_deref().unwrap_or_default();
        let (prepared, cols) = self.prepare(text).await?;
        let mut rows = Vec::new();
        let mut found = prepared.query(Params::Positional(arguments(&prepared, stmt)?)).await.map_err(failure)?;
        while let Some(row) = found.next().await.map_err(failure)? {
            let values: libsql::Result<Vec<_>> = (0..row.column_count()).map(|i| row.get_value(i).map(sent)).collect();
            rows.push(values.map_err(failure)?);
        }
        let verb = verb(text);
        Ok(json!({
            "cols": cols,
            "rows": rows,
            "affected_row_count": if WRITES.contains(&&*verb) { self.0.changes() } else { 0 },
            "last_insert_rowid": WRITES[..2].contains(&&*verb).then(|| self.0.last_insert_rowid().to_string()),
        }))
    }
}

/// Whether the condition of a step holds. sqld treats a skipped step as a failed one.
fn holds(condition: &BatchCond, results: &[Option<Json>]) -> bool {
    let ok = |step: u32| usize::try_from(step).is_ok_and(|s| results.get(s).is_some_and(Option::is_some));
    match condition {
        BatchCond::Ok { step } => ok(*step),
        BatchCond::Not { cond } => !holds(cond, results),
        other => panic!("not understood: {other:?}"),
    }
}

/// The arguments in the order of the statement's parameters. A name may be sent without its first
/// character.
fn arguments(prepared: &libsql::Statement, stmt: &Stmt) -> Result<Vec<libsql::Value>, Json> {
    let (count, sent) = (prepared.parameter_count(), stmt.args.len() + stmt.named_args.len());
    let invalid = |why: String| error("ARGS_INVALID", format!("Arguments do not match SQL parameters: {why}"));
    if sent > count {
        return Err(invalid(format!("too many parameters, expected {count} found {sent}")));
    }
    let named = |name: &str| stmt.named_args.iter().find(|a| a.name == name).map(|a| &a.value);
    let argument = |index: usize| {
        let name = prepared.parameter_name(i32::try_from(index).unwrap()).unwrap_or_default();
        let value = match name.strip_prefix('?') {
            Some(position) => stmt.args.get(position.parse::<usize>().unwrap_or(index) - 1),
            None if name.is_empty() => stmt.args.get(index - 1),
            None => named(name).or_else(|| named(&name[1..])),
        };
        let name = if name.is_empty() { &index.to_string() } else { name };
        value.map(received).ok_or_else(|| invalid(format!("value for parameter {name} not found")))
    };
    (1..=count).map(argument).collect()
}

fn received(value: &Value) -> libsql::Value {
    match value {
        Value::None | Value::Null => libsql::Value::Null,
        Value::Integer { value } => libsql::Value::Integer(*value),
        Value::Float { value } => libsql::Value::Real(*value),
        Value::Text { value } => libsql::Value::Text(value.to_string()),
        Value::Blob { value } => libsql::Value::Blob(value.to_vec()),
    }
}

fn sent(value: libsql::Value) -> Value {
    match value {
        libsql::Value::Null => Value::Null,
        libsql::Value::Integer(value) => Value::Integer { value },
        libsql::Value::Real(value) => Value::Float { value },
        libsql::Value::Text(value) => Value::Text { value: value.into() },
        libsql::Value::Blob(value) => Value::Blob { value: value.into() },
    }
}

/// The entries of a cursor's answer for a batch.
fn entries(batch: &Json) -> Vec<Json> {
    let list = |of: &Json| of.as_array().cloned().unwrap_or_default();
    let mut entries = Vec::new();
    let steps = list(&batch["step_results"]).into_iter().zip(list(&batch["step_errors"]));
    for (step, (result, error)) in steps.enumerate() {
        if error.is_object() {
            entries.push(json!({ "type": "step_error", "step": step, "error": error }));
        } else if result.is_object() {
            let (count, id) = (&result["affected_row_count"], &result["last_insert_rowid"]);
            entries.push(json!({ "type": "step_begin", "step": step, "cols": result["cols"] }));
            entries.extend(list(&result["rows"]).into_iter().map(|row| json!({ "type": "row", "row": row })));
            entries.push(json!({ "type": "step_end", "affected_row_count": count, "last_insert_rowid": id }));
        }
    }
    entries
}
