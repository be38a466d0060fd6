//! A stream: what Hrana calls a connection with its transaction. Over HTTP it exists only between
//! the requests of one transaction; the baton of an answer names it in the next request.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use libsql_hrana::proto::{
    Batch, BatchCond, BatchStep, BatchStreamReq, CloseStreamReq, ExecuteStreamReq, PipelineReqBody, PipelineRespBody,
    Stmt, StmtResult, StreamRequest, StreamResponse, StreamResult,
};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::http::{HttpClient, origin};
use super::server_error::{ends_transaction, of_answer, of_statement};
use crate::store::error::BooksError;
use crate::store::traffic::Counters;

/// A longer transaction is close to the server's limit of 5 s and is warned of.
const LONG: Duration = Duration::from_secs(2);

/// The server, and how it is asked.
#[derive(Debug)]
pub(in crate::store) struct Server {
    http: HttpClient,
    url: Url,
    authorization: HeaderValue,
}

impl Server {
    /// The server at `http(s)://` or `libsql://`.
    pub(in crate::store) fn new(http: HttpClient, url: &str, token: &str) -> Result<Self, BooksError> {
        let failed = |why: String| BooksError::Open(url.to_owned(), why);
        let parsed = pipeline(&url.replacen("libsql://", "https://", 1)).map_err(failed)?;
        let authorization = HeaderValue::try_from(format!("Bearer {token}"));
        let mut authorization =
            authorization.map_err(|_| failed("its token has characters that no token has".into()))?;
        authorization.set_sensitive(true);
        Ok(Self { http, url: parsed, authorization })
    }
}

fn pipeline(base: &str) -> Result<Url, String> {
    Url::parse(&format!("{}/v3/pipeline", base.trim_end_matches('/'))).map_err(|e| e.to_string())
}

/// A connection to the server, for one piece of work.
#[derive(Debug)]
pub(in crate::store) struct Stream {
    server: Arc<Server>,
    /// What its requests are added to.
    counters: Arc<Counters>,
    /// Locked while a request is under way.
    state: Mutex<State>,
    /// Statements outside of a transaction that go with the next request.
    waiting: std::sync::Mutex<Vec<Waiting>>,
}

/// Statements of one call, and who waits for what comes of them.
#[derive(Debug)]
struct Waiting {
    statements: Vec<Stmt>,
    answer: oneshot::Sender<Result<Vec<StmtResult>, BooksError>>,
}

#[derive(Debug)]
enum State {
    /// Each statement commits by itself, and there is no stream between requests.
    Autocommit,
    /// A transaction whose BEGIN goes with its first statement.
    Begun,
    Open(Open),
    /// The transaction is over before its COMMIT. A stream that may still be there is closed by the
    /// rollback.
    Ended(Option<Open>),
}

/// A transaction on the server.
#[derive(Debug)]
struct Open {
    baton: String,
    /// Where the server wants the next request.
    at: Option<Url>,
    since: Instant,
    /// The statement that took longest, and how long.
    slowest: (String, Duration),
}

/// The results of the statements before the first one that failed, and its error.
struct Done {
    results: Vec<StmtResult>,
    failed: Option<libsql_hrana::proto::Error>,
}

impl Stream {
    pub(in crate::store) fn new(server: Arc<Server>, counters: Arc<Counters>) -> Self {
        Self { server, counters, state: Mutex::new(State::Autocommit), waiting: std::sync::Mutex::default() }
    }

    /// Begins a transaction, without a request.
    pub(in crate::store) async fn begin(&self) {
        *self.state.lock().await = State::Begun;
    }

    /// Runs statements in one request, each one only if the one before succeeded.
    pub(in crate::store) async fn run(&self, statements: Vec<Stmt>) -> Result<Vec<StmtResult>, BooksError> {
        let mut state = self.state.lock().await;
        if matches!(*state, State::Autocommit) {
            drop(state);
            return self.run_with_others(statements).await;
        }
        // a call that is dropped half way leaves a transaction that has ended
        let before = std::mem::replace(&mut *state, State::Ended(None));
        let (baton, at, known) = match before {
            State::Open(open) => (Some(open.baton.clone()), open.at.clone(), Some(open)),
            ended @ State::Ended(_) => {
                *state = ended;
                return Err(BooksError::StreamLost("an earlier statement ended the transaction".into()));
            }
            State::Begun | State::Autocommit => (None, None, None),
        };
        let begins = known.is_none();
        let heading: String = statements.iter().filter_map(|s| s.sql.as_deref()).next().unwrap_or_default().into();
        let asked = Instant::now();
        let body = PipelineReqBody { baton, requests: vec![work(begins, statements)] };
        let answer = match self.ask(at.as_ref(), &body).await {
            Ok(answer) => answer,
            Err(error) => {
                // a request that did not arrive left the stream as it was, with the write lock
                *state = State::Ended(known);
                return Err(error);
            }
        };
        let waited = asked.elapsed();
        let mut done = done(answer.results.into_iter().next().unwrap_or_default())?;
        // BEGIN has no result that anybody asked for
        let not_begun = begins && done.results.is_empty();
        if begins && !not_begun {
            done.results.remove(0);
        }
        let took = self.count(&done.results);
        let at = answer.base_url.as_deref().map(pipeline).transpose().map_err(BooksError::Network)?.or(at);
        let (since, slowest) = match known {
            Some(open) => (open.since, open.slowest),
            None => (Instant::now().checked_sub(took.min(waited)).unwrap_or(asked), Default::default()),
        };
        // before BEGIN was answered it waited for others
        let spent = if begins { took.min(waited) } else { waited };
        let slowest = if spent > slowest.1 { (heading, spent) } else { slowest };
        let over = not_begun || done.failed.as_ref().is_some_and(|e| ends_transaction(&e.code));
        *state = match answer.baton.map(|baton| Open { baton, at, since, slowest }) {
            Some(open) if !over => State::Open(open),
            other => State::Ended(other),
        };
        self.outcome(done, waited)
    }

    /// Runs statements outside of a transaction. Calls that are made at the same time, as by
    /// `join!`, share a request, and each one has its own result.
    async fn run_with_others(&self, statements: Vec<Stmt>) -> Result<Vec<StmtResult>, BooksError> {
        let (answer, answered) = oneshot::channel();
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().push(Waiting { statements, answer });
        // the other ones of a `join!` have their turn
        tokio::task::yield_now().await;
        let one_at_a_time = self.state.lock().await;
        let all = std::mem::take(&mut *waiting());
        if !all.is_empty() {
            self.run_alone(all).await;
        }
        drop(one_at_a_time);
        answered.await.map_err(|_| BooksError::Network("the request was given up".into()))?
    }

    /// Commits, in one request if any statement was made.
    pub(in crate::store) async fn commit(&self) -> Result<(), BooksError> {
        let mut state = self.state.lock().await;
        match std::mem::replace(&mut *state, State::Autocommit) {
            State::Autocommit | State::Begun => Ok(()),
            State::Open(open) => self.end(open, "COMMIT").await,
            State::Ended(stream) => {
                if let Some(open) = stream {
                    drop(self.end(open, "ROLLBACK").await);
                }
                Err(BooksError::StreamLost("a statement ended the transaction before its COMMIT".into()))
            }
        }
    }

    /// Undoes the transaction, as far as there is still one.
    pub(in crate::store) async fn rollback(&self) -> Result<(), BooksError> {
        let mut state = self.state.lock().await;
        match std::mem::replace(&mut *state, State::Autocommit) {
            State::Autocommit | State::Begun | State::Ended(None) => Ok(()),
            State::Open(open) | State::Ended(Some(open)) => self.end(open, "ROLLBACK").await,
        }
    }

    async fn end(&self, open: Open, how: &str) -> Result<(), BooksError> {
        let requests = vec![work(false, vec![Stmt::new(how, false)]), StreamRequest::Close(CloseStreamReq {})];
        let asked = Instant::now();
        let body = PipelineReqBody { baton: Some(open.baton), requests };
        let answered = self.ask(open.at.as_ref(), &body).await;
        let lasted = open.since.elapsed();
        self.counters.transaction(lasted, lasted > LONG);
        if lasted > LONG {
            let (ms, slowest_ms) = (lasted.as_millis(), open.slowest.1.as_millis());
            let slowest: String = open.slowest.0.chars().take(120).collect();
            tracing::warn!(
                ms,
                slowest_ms,
                slowest,
                "a transaction on the database's server lasted {ms} ms, and the server ends one after 5 s; \
                 its slowest request took {slowest_ms} ms: {slowest}"
            );
        }
        let done = done(answered?.results.into_iter().next().unwrap_or_default())?;
        done.failed.map_or(Ok(()), |error| Err(of_statement(error, asked.elapsed())))
    }

    async fn ask(&self, at: Option<&Url>, work: &PipelineReqBody) -> Result<PipelineRespBody, BooksError> {
        let server = &self.server;
        let body = serde_json::to_vec(work).map_err(|e| BooksError::Integrity(e.to_string()))?;
        self.counters.request(body.len());
        let mut request = Request::new(Method::POST, at.unwrap_or(&server.url).clone());
        request.headers_mut().insert(AUTHORIZATION, server.authorization.clone());
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.into());
        let asked = Instant::now();
        let (status, body) = server.http.send(request, &self.counters).await?;
        self.counters.received(body.len());
        if status.is_redirection() {
            let at = origin(at.unwrap_or(&server.url));
            return Err(BooksError::Sql(format!("{at} answers with a redirect ({status}); check database.url")));
        }
        if status != StatusCode::OK {
            // another server may say back what it was sent
            let mut text = String::from_utf8_lossy(&body).into_owned();
            let sent = server.authorization.to_str().unwrap_or_default();
            if let Some(token) = sent.strip_prefix("Bearer ").filter(|token| !token.is_empty()) {
                text = text.replace(token, "(the token)");
            }
            return Err(of_answer(status, text.as_bytes(), asked.elapsed()));
        }
        self.counters.answered();
        serde_json::from_slice(&body).map_err(|e| BooksError::Network(format!("its answer is no Hrana: {e}")))
    }

    /// Sends calls in one request, with a stream that ends with it.
    async fn run_alone(&self, calls: Vec<Waiting>) {
        let (statements, answers): (Vec<_>, Vec<_>) = calls.into_iter().map(|w| (w.statements, w.answer)).unzip();
        let close = StreamRequest::Close(CloseStreamReq {});
        let requests = statements.into_iter().map(|s| work(false, s)).chain([close]).collect();
        let asked = Instant::now();
        let answered = self.ask(None, &PipelineReqBody { baton: None, requests }).await;
        let waited = asked.elapsed();
        let mut results = answered.map(|body| body.results.into_iter());
        for answer in answers {
            let result = match &mut results {
                Ok(results) => done(results.next().unwrap_or_default()),
                Err(error) => Err(error.clone()),
            };
            let outcome = result.and_then(|done| {
                self.count(&done.results);
                self.outcome(done, waited)
            });
            // the caller may be gone
            drop(answer.send(outcome));
        }
    }

    /// Counts what statements cost. Returns how long they took on the server.
    fn count(&self, results: &[StmtResult]) -> Duration {
        let mut took = Duration::ZERO;
        for result in results {
            let query = Duration::try_from_secs_f64(result.query_duration_ms).unwrap_or_default() / 1000;
            self.counters.statement(result.rows_read, result.rows_written, query);
            took += query;
        }
        took
    }

    fn outcome(&self, done: Done, waited: Duration) -> Result<Vec<StmtResult>, BooksError> {
        let Some(error) = done.failed else { return Ok(done.results) };
        let error = of_statement(error, waited);
        if matches!(error, BooksError::Locked(_)) {
            self.counters.busy(waited);
        }
        Err(error)
    }
}

/// Statements as one request of a pipeline: each runs only if the one before succeeded.
fn work(begins: bool, statements: Vec<Stmt>) -> StreamRequest {
    let begin = begins.then(|| Stmt::new("BEGIN IMMEDIATE", false));
    let mut all: Vec<Stmt> = begin.into_iter().chain(statements).collect();
    if all.len() == 1
        && let Some(stmt) = all.pop()
    {
        return StreamRequest::Execute(ExecuteStreamReq { stmt });
    }
    let before = std::iter::once(None).chain((0..).map(Some));
    let condition = |step: Option<u32>| step.map(|step| BatchCond::Ok { step });
    let steps = all.into_iter().zip(before).map(|(stmt, b)| BatchStep { condition: condition(b), stmt }).collect();
    StreamRequest::Batch(BatchStreamReq { batch: Batch { steps, replication_index: None } })
}

/// Reads what came of [`work`].
fn done(result: StreamResult) -> Result<Done, BooksError> {
    let odd = || BooksError::Network("it answered another question than was asked".into());
    match result {
        StreamResult::Error { error } => Ok(Done { results: vec![], failed: Some(error) }),
        StreamResult::Ok { response: StreamResponse::Execute(r) } => Ok(Done { results: vec![r.result], failed: None }),
        StreamResult::Ok { response: StreamResponse::Batch(r) } => {
            let failed = r.result.step_errors.into_iter().flatten().next();
            let steps = r.result.step_results.len();
            let results: Vec<_> = r.result.step_results.into_iter().map_while(|r| r).collect();
            if failed.is_none() && results.len() < steps { Err(odd()) } else { Ok(Done { results, failed }) }
        }
        StreamResult::Ok { .. } | StreamResult::None => Err(odd()),
    }
}
