//! What `meter work` serves: `/metrics`, `/healthz`, `/readyz`, the status page, the jobs, and the
//! runbook.
//!
//! Nothing here waits for a query over all customers: figures come from the last snapshot
//! ([`crate::health::StatsCollector`]). Whoever reaches the port may read metrics and health, which
//! name no customer; pages are for this machine alone unless `http.pages` says otherwise; and
//! can_act needs the token, each time, so that no other site can act through somebody's browser.

mod health;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::extract::rejection::FormRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Form, Path, Query, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

pub use self::health::{ReadinessProbe, ask};
use crate::config::{Config, HttpConfig, Pages};
use crate::format::report_summary;
use crate::health::{Overview, StatsCollector};
use crate::metrics::{Metrics, Sources};
use crate::queue::{JobFilter, JobRow, JobState, Queue};
use crate::ui::{self, JobList, JobsFilter, RUNS, RunRow, StatusView};
use crate::wiring;
use crate::worker::{Kinds, Phase};

/// A page waits so long for the jobs that it lists.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// When another process has the port, it is asked for again so often: that process may end.
const BIND_AGAIN: Duration = Duration::from_secs(10);
/// Requests under way have so long to finish when the worker has stopped.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Connections at once; more wait to be accepted. Prometheus and a few people need few, and none
/// may take the process's file descriptors.
const CONNECTIONS: usize = 64;
/// How long a request's head may take to come, and its answer to be made.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Jobs on one page.
const LISTED: u32 = 100;
/// Among how many jobs the newest of each kind are looked for first.
const LOOKED_AT: u32 = 300;
/// What a wrong token costs, so that nobody tries many.
const WRONG_TOKEN: Duration = Duration::from_millis(500);
/// A form has a token and nothing else.
const FORM_BYTES: usize = 4096;
/// Characters of a report or a reason that a list shows.
const SAID: usize = 240;

/// What there is only once the database was there.
#[derive(Debug)]
pub struct Running {
    /// The queue, on the worker's own connection.
    pub queue: Queue,
    /// Who counts beside the metrics.
    pub sources: Sources,
    /// Whether the worker was told to stop.
    pub phase: watch::Receiver<Phase>,
}

/// Everything that is served.
#[derive(Debug)]
pub struct Server {
    pub collector: StatsCollector,
    pub metrics: Metrics,
    /// The worker, once it has begun.
    pub running: Arc<OnceLock<Running>>,
    /// The database, for whoever asks whether it is there.
    pub readiness: ReadinessProbe,
    /// Whether this process keeps the schedule.
    pub keeps_schedule: bool,
    pub units: BTreeMap<String, String>,
    /// Meters that have gauges even when nothing is known of them.
    pub meters: Vec<String>,
    /// The section of the configuration.
    pub config: HttpConfig,
}

/// A short name for the place where books are, which tells nothing of it.
pub fn books_id(config: &Config) -> String {
    let url = &config.database.url;
    let place = wiring::local_path(config).and_then(|path| path.canonicalize().ok());
    let place = place.map_or_else(|| url.clone(), |path| path.display().to_string());
    Sha256::digest(place).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    fn can_act(&self) -> bool {
        !self.config.token.expose().is_empty()
    }
}

type Shared = State<Arc<Server>>;

/// Takes the port. `None` when another process has it: it is asked for again by [`serve`].
///
/// # Errors
/// When nobody could ever listen there.
pub async fn bind(address: SocketAddr) -> anyhow::Result<Option<TcpListener>> {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            tracing::info!("status page, /metrics, /healthz and /readyz at http://{}/", listener.local_addr()?);
            Ok(Some(listener))
        }
        Err(e) if e.kind() == ErrorKind::AddrInUse => {
            tracing::warn!(
                "another process listens on {address}: this worker serves no metrics until that ends; give it `--listen` and another port"
            );
            Ok(None)
        }
        Err(e) => Err(e).with_context(|| format!("cannot listen on {address} (`http.listen`, `--listen`)")),
    }
}

/// Serves until `stop` says so; requests under way are finished.
pub async fn serve(listener: Option<TcpListener>, address: SocketAddr, server: Server, stop: watch::Receiver<bool>) {
    let mut stopped = stop.clone();
    let listener = match listener {
        Some(listener) => listener,
        None => loop {
            tokio::select! {
                () = tokio::time::sleep(BIND_AGAIN) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            if let Ok(listener) = TcpListener::bind(address).await {
                tracing::info!("status page, /metrics, /healthz and /readyz at http://{address}/");
                break listener;
            }
        },
    };
    let app = router(server);
    let mut connections = auto::Builder::new(TokioExecutor::new()).http1_only();
    connections.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_WAIT);
    let (open, graceful) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = async { (open.clone().acquire_owned().await, listener.accept().await) } => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let (Ok(permit), Ok((stream, peer))) = accepted else {
            // no file descriptor is left, for one: others may be given back
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let service = TowerToHyperService::new(app.clone().layer(Extension(ConnectInfo(peer))));
        let connection = connections.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            drop(connection.await);
            drop(permit);
        });
    }
    drop(tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await);
}

/// A request that takes longer is given up: whoever sends slowly keeps no connection.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_WAIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn router(server: Server) -> Router {
    let server = Arc::new(server);
    let pages = Router::new()
        .route("/", get(status))
        .route("/jobs", get(jobs))
        .route("/jobs/{seq}", get(job))
        .route("/jobs/{seq}/retry", post(retry))
        .route("/jobs/{seq}/cancel", post(cancel))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .layer(from_fn_with_state(server.clone(), only_for_readers));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(health::ready))
        .route("/runbook", get(async || Page(StatusCode::OK, ui::runbook(include_str!("../docs/operations.md")))))
        .route("/runbook/{page}", get(document))
        .merge(pages)
        .fallback(async || Page(StatusCode::NOT_FOUND, ui::not_found()))
        .layer(from_fn(in_time))
        .with_state(server)
}

/// Pages that the runbook leads to.
const DOCUMENTS: [(&str, &str); 4] = [
    ("configuration", include_str!("../docs/configuration.md")),
    ("enforcement", include_str!("../docs/enforcement.md")),
    ("metrics", include_str!("../docs/metrics.md")),
    ("stripe", include_str!("../docs/stripe.md")),
];

async fn document(Path(name): Path<String>) -> Page {
    match DOCUMENTS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Page(StatusCode::OK, ui::runbook(text)),
        None => Page(StatusCode::NOT_FOUND, ui::not_found()),
    }
}

/// A page, with what a browser may do with it.
struct Page(StatusCode, String);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let headers = [
            ("content-security-policy", ui::CONTENT_SECURITY_POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ];
        (self.0, headers, Html(self.1)).into_response()
    }
}

fn went_wrong(error: &dyn std::fmt::Display) -> Page {
    Page(StatusCode::SERVICE_UNAVAILABLE, ui::refused(&format!("The database does not answer: {error}")))
}

/// Pages name customers. They are for this machine alone, unless the configuration says that
/// something in front of the port knows who asks; and always by a name that is known, so that no
/// name that a stranger owns can be pointed at the port (DNS rebinding).
async fn only_for_readers(
    State(server): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // what a proxy on this machine hands on comes from elsewhere
    let handed_on =
        ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| request.headers().contains_key(*name));
    let near = server.config.pages == Pages::Anyone || (peer.ip().to_canonical().is_loopback() && !handed_on);
    let named = is_local(host)
        || server.config.hosts.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(&host_name(host)));
    let why = match (near, named) {
        (true, true) => return next.run(request).await,
        (false, _) => {
            format!("Pages are for this machine alone (http.pages), and you are at {}, or behind a proxy.", peer.ip())
        }
        (true, false) => format!("You asked for the host {host}, which is not among http.hosts."),
    };
    Page(StatusCode::FORBIDDEN, ui::refused(&format!("{why} Metrics are at /metrics."))).into_response()
}

/// The name in a Host header, without its port; empty for what is none.
fn host_name(host: &str) -> String {
    let Ok(authority) = host.parse::<Authority>() else { return String::new() };
    let rest = host.strip_prefix(authority.host()).unwrap_or(host);
    let whole = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if whole { authority.host().trim_matches(['[', ']']).to_owned() } else { String::new() }
}

/// Whether a Host header names this machine.
fn is_local(host: &str) -> bool {
    let name = host_name(host);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn metrics(State(server): Shared) -> Response {
    let overview = server.collector.last();
    // a worker that waits for its database does not work: MeterDown is about that
    let Some(Running { sources, .. }) = server.running.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the worker is starting: it waits for the database\n")
            .into_response();
    };
    match server.metrics.text(sources, overview.as_deref(), &server.meters) {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Jobs, read on the collector's connection: whoever looks never stands before the leases. A
/// database that hangs is given up soon.
async fn list(server: &Server, filter: JobFilter, limit: u32) -> anyhow::Result<Vec<JobRow>> {
    let asked = async { anyhow::Ok(server.collector.queue().await?.list(&filter, limit).await?) };
    tokio::time::timeout(PAGE_WAIT, asked).await.unwrap_or_else(|_| bail!("nothing within {} s", PAGE_WAIT.as_secs()))
}

/// The newest job of each kind, and some more of those that run often: what runs every minute must
/// not push out what runs once a day.
async fn newest(server: &Server, overview: &Overview) -> anyhow::Result<Vec<JobRow>> {
    let mut rows = list(server, JobFilter::default(), LOOKED_AT).await?;
    let known: BTreeSet<String> = rows.iter().map(|row| row.kind.clone()).collect();
    let rare = overview.queue.kinds.iter().filter(|(kind, _)| !known.contains(*kind));
    let ids: Vec<String> = rare.filter_map(|(_, of)| of.last_done_job).map(|seq| seq.to_string()).collect();
    if !ids.is_empty() {
        rows.extend(list(server, JobFilter { ids, ..JobFilter::default() }, LISTED).await?);
    }
    let mut of_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut placed: Vec<(usize, JobRow)> = vec![];
    for row in rows {
        let seen = of_kind.entry(row.kind.clone()).or_default();
        *seen += 1;
        placed.push((*seen, row));
    }
    // the first of each kind before the second ones
    placed.sort_by_key(|(place, _)| *place);
    let mut few: Vec<JobRow> =
        placed.into_iter().filter(|(place, _)| *place <= 2).map(|(_, row)| row).take(RUNS).collect();
    few.sort_by_key(|row| std::cmp::Reverse(row.seq));
    Ok(few)
}

#[derive(Debug, Deserialize)]
struct StatusQuery {
    refresh: Option<u32>,
}

async fn status(State(server): Shared, Query(query): Query<StatusQuery>) -> Page {
    let Some(overview) = server.collector.last() else {
        let why = "The figures are being read for the first time. Reload in a moment.";
        return Page(StatusCode::SERVICE_UNAVAILABLE, ui::refused(why));
    };
    // the figures are there without them, and who looks because the database is away wants those
    let rows = newest(&server, &overview).await;
    let no_runs = rows.as_ref().err().map(|error| format!("{error:#}"));
    let runs: Vec<RunRow> = rows.unwrap_or_default().iter().map(run).collect();
    let view = StatusView {
        overview: &overview,
        units: &server.units,
        runs: &runs,
        no_runs: no_runs.as_deref(),
        version: env!("CARGO_PKG_VERSION"),
        billing: overview.billing.words(),
        refresh_seconds: query.refresh.unwrap_or(60).min(3600),
    };
    Page(StatusCode::OK, ui::status(&view, Timestamp::now()))
}

#[derive(Debug, Deserialize)]
struct JobsQuery {
    kind: Option<String>,
    state: Option<String>,
    /// What was done last, to which job.
    did: Option<String>,
    job: Option<i64>,
}

async fn jobs(State(server): Shared, Query(query): Query<JobsQuery>) -> Page {
    let some = |text: Option<String>| text.filter(|t| !t.is_empty());
    let filter = JobsFilter { kind: some(query.kind), state: some(query.state) };
    let states: Vec<JobState> = filter.state.iter().filter_map(|s| s.parse().ok()).collect();
    if filter.state.is_some() && states.is_empty() {
        return Page(StatusCode::BAD_REQUEST, ui::refused("There is no such state of a job."));
    }
    let wanted = JobFilter { kinds: filter.kind.iter().cloned().collect(), states, ..JobFilter::default() };
    let rows = match list(&server, wanted, LISTED).await {
        Ok(rows) => rows,
        Err(error) => return went_wrong(&error),
    };
    let said = match (query.did.as_deref(), query.job) {
        (Some("retry"), Some(seq)) => Some(format!("Job {seq} is due now.")),
        (Some("cancel"), Some(seq)) => {
            Some(format!("Job {seq} is cancelled, or will be as soon as its worker hears of it."))
        }
        _ => None,
    };
    let runs: Vec<RunRow> = rows.iter().map(run).collect();
    let kinds: Vec<String> = Kinds::all().names().into_iter().map(str::to_owned).collect();
    let list =
        JobList { runs: &runs, filter: &filter, kinds: &kinds, can_act: server.can_act(), said: said.as_deref() };
    Page(StatusCode::OK, ui::jobs(&list, Timestamp::now()))
}

async fn job(State(server): Shared, Path(seq): Path<i64>) -> Page {
    let wanted = JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() };
    match list(&server, wanted, 1).await.map(|mut rows| rows.pop()) {
        Ok(Some(row)) => Page(StatusCode::OK, ui::job(&run(&row), &details(&row), server.can_act(), Timestamp::now())),
        Ok(None) => Page(StatusCode::NOT_FOUND, ui::not_found()),
        Err(error) => went_wrong(&error),
    }
}

#[derive(Debug, Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
}

/// The form, if there is one: a token may come in a header instead.
type Sent = Result<Form<Token>, FormRejection>;

async fn retry(state: Shared, path: Path<i64>, headers: HeaderMap, form: Sent) -> Response {
    act(state, path, &headers, form, "retry").await
}

async fn cancel(state: Shared, path: Path<i64>, headers: HeaderMap, form: Sent) -> Response {
    act(state, path, &headers, form, "cancel").await
}

async fn act(
    State(server): Shared,
    Path(seq): Path<i64>,
    headers: &HeaderMap,
    form: Sent,
    what: &'static str,
) -> Response {
    let refused = |status, why: &str| Page(status, ui::refused(why)).into_response();
    if !server.can_act() {
        return refused(StatusCode::FORBIDDEN, "Acting is switched off: the worker has no METER_HTTP__TOKEN.");
    }
    let bearer = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
    let given = bearer.map(str::to_owned).or(form.ok().map(|Form(form)| form.token)).unwrap_or_default();
    // digests are compared, so that the time it takes says nothing of the token
    if Sha256::digest(&given) != Sha256::digest(server.config.token.expose()) {
        tokio::time::sleep(WRONG_TOKEN).await;
        tracing::warn!(job = seq, "somebody tried to {what} job {seq} over HTTP with a wrong token");
        return refused(StatusCode::UNAUTHORIZED, "The token is not the worker's METER_HTTP__TOKEN. Nothing was done.");
    }
    let filter = JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() };
    let Some(Running { queue, .. }) = server.running.get() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "The worker is starting: it waits for the database.");
    };
    let done = match what {
        "retry" => queue.retry(&filter).await,
        _ => queue.cancel(&filter).await,
    };
    match done {
        Ok(0) => refused(StatusCode::CONFLICT, "The job is no longer in a state in which that can be done."),
        Ok(_) => {
            tracing::info!(job = seq, "job {seq}: {what} over HTTP");
            queue.wake();
            Redirect::to(&format!("/jobs?did={what}&job={seq}")).into_response()
        }
        Err(error) => went_wrong(&error).into_response(),
    }
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SAID) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What of a summary says something: a page is no place for everything that did not happen.
fn telling(summary: &str) -> String {
    let parts = summary.split(", ").filter(|part| !part.ends_with(" 0") && !part.ends_with(" false"));
    let told = parts.collect::<Vec<_>>().join(", ");
    if told.is_empty() && !summary.is_empty() { "nothing to do".to_owned() } else { told }
}

/// A job as the pages tell it.
fn run(row: &JobRow) -> RunRow {
    let report = row.report.as_ref().map(|report| telling(&report_summary(&report.to_string())));
    let took = row.finished_at.zip(row.started_at).map(|(end, start)| end.duration_since(start));
    RunRow {
        seq: row.seq,
        kind: row.kind.clone(),
        state: row.state.as_str().to_owned(),
        what: report_summary(&row.payload.to_string())
            .split(", ")
            .filter(|part| !part.ends_with(" false"))
            .collect::<Vec<_>>()
            .join(", "),
        attempts: row.attempts,
        at: row.finished_at.or(row.run_at).or(row.started_at).unwrap_or(row.enqueued_at),
        took: took.map(|took| took.max(SignedDuration::ZERO)),
        said: short(&report.or_else(|| row.reason.clone()).unwrap_or_default()),
        attention: row.attention,
        can_retry: matches!(row.state, JobState::Dead | JobState::Cancelled | JobState::Scheduled | JobState::Retrying),
        can_cancel: !row.state.is_final(),
    }
}

/// What a list has no room for.
fn details(row: &JobRow) -> Vec<(String, String)> {
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let mut found = vec![("Id".to_owned(), row.id.clone()), ("Enqueued by".to_owned(), row.origin.clone())];
    let mut add = |name: &str, value: Option<String>| found.extend(value.map(|value| (name.to_owned(), value)));
    add("Unique key", row.key.clone());
    add("Lane", row.lane.clone());
    add("Waited for by job", row.parent.map(|seq| seq.to_string()));
    add("Worker", row.worker.clone());
    add("Enqueued", Some(row.enqueued_at.to_string()));
    add("Started", row.started_at.map(|at| at.to_string()));
    add("Payload", Some(pretty(&row.payload)));
    add("Reason", row.reason.clone());
    add("Report", row.report.as_ref().map(pretty));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "127.1.2.3", "[::1]:9464", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "meter.example.com",
            "localhost.example.com",
            "10.0.0.1:9464",
            "[fe80::1]:1",
            "evil:localhost",
            "localhost:evil",
            "[::1]evil",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        assert_eq!(short("ä"), "ä");
        let long = "ä".repeat(SAID + 5);
        assert_eq!(short(&long).chars().count(), SAID + 1);
    }
}
