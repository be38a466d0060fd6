//! What `meter work` serves: `/metrics`, `/healthz`, `/readyz`, the status page, the jobs, the
//! runbook, and statements by signed links.
//!
//! No request waits for a query over all customers: figures come from the last snapshot
//! ([`crate::health::StatsCollector`]). Metrics and health name no customer, so whoever reaches the
//! port may read them. Pages are for this machine alone unless `http.pages` opens them, and each
//! action needs the token, so that no other site can act through a user's browser (`guard`).

mod customers;
mod guard;
mod health;
mod jobs;
mod page;
mod pages;
mod readiness;
mod server;
mod statements;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::health::ask;
use self::page::Page;
pub use self::readiness::{ReadinessProbe, books_id};
use self::server::Shared;
pub use self::server::{Running, Server};
use crate::ui;

/// While another process has the port, binding is retried this often.
const BIND_AGAIN: Duration = Duration::from_secs(10);
/// Open requests have this long to finish after the worker has stopped.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The most connections at once, so that file descriptors remain for the work. One more ends the
/// oldest, so that those who send or read slowly keep nobody else waiting.
const CONNECTIONS: usize = 64;
/// The most time for a request's head, and for its answer.
const REQUEST_WAIT: Duration = Duration::from_secs(15);
/// The most time for a connection: until then its answer must be read, too.
const CONNECTION_LIFE: Duration = Duration::from_secs(45);
/// A form has a token and nothing else.
const FORM_BYTES: usize = 4096;

/// Binds the port. `None` while another process has it: [`serve`] retries.
///
/// # Errors
/// When nothing could ever listen there.
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
        Err(e) => Err(e).with_context(|| {
            format!("cannot listen on {address} (`http.listen`, `--listen`); name an address of this machine, and a port that is free")
        }),
    }
}

/// Serves until `stop` is true, and finishes open requests.
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
    // a connection has one request: what is sent after it is not read
    connections.http1().timer(TokioTimer::new()).header_read_timeout(REQUEST_WAIT).keep_alive(false);
    let (mut open, graceful) = (VecDeque::<AbortHandle>::new(), GracefulShutdown::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, peer)) = accepted else {
            // for example no file descriptor is left; some may be closed soon
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let service = TowerToHyperService::new(app.clone().layer(Extension(ConnectInfo(peer))));
        let connection = connections.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(tokio::time::timeout(CONNECTION_LIFE, connection)).abort_handle());
    }
    drop(tokio::time::timeout(LAST_WORDS, graceful.shutdown()).await);
}

/// Gives up a request that takes too long, so that a slow sender keeps no connection.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_WAIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn router(server: Server) -> Router {
    let server = Arc::new(server);
    let for_readers = Router::new()
        .route("/", get(pages::status))
        .route("/customers", get(customers::show))
        .route("/jobs", get(jobs::jobs))
        .route("/jobs/retry", post(jobs::retry_dead))
        .route("/jobs/{seq}", get(jobs::job))
        .route("/jobs/{seq}/retry", post(jobs::retry))
        .route("/jobs/{seq}/cancel", post(jobs::cancel))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .layer(from_fn_with_state(server.clone(), guard::only_for_readers));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(health::ready))
        .route("/statement", get(statements::show))
        .route("/runbook", get(async || Page(StatusCode::OK, ui::runbook(include_str!("../../docs/operations.md")))))
        .route("/runbook/{page}", get(document))
        .merge(for_readers)
        .fallback(async || Page(StatusCode::NOT_FOUND, ui::not_found()))
        .layer(from_fn(in_time))
        .with_state(server)
}

async fn metrics(State(server): Shared) -> Response {
    let overview = server.collector.last();
    // a worker that waits for its database counts as down: MeterDown
    let Some(Running { sources, .. }) = server.running.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the worker is starting: it waits for the database\n")
            .into_response();
    };
    match server.metrics.text(sources, overview.as_deref(), &server.meters) {
        Ok(text) => ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Documents that the runbook links to.
const DOCUMENTS: [(&str, &str); 6] = [
    ("configuration", include_str!("../../docs/configuration.md")),
    ("enforcement", include_str!("../../docs/enforcement.md")),
    ("metrics", include_str!("../../docs/metrics.md")),
    ("shared-bucket", include_str!("../../docs/shared-bucket.md")),
    ("stripe", include_str!("../../docs/stripe.md")),
    ("turso", include_str!("../../docs/turso.md")),
];

async fn document(Path(name): Path<String>) -> Page {
    match DOCUMENTS.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => Page(StatusCode::OK, ui::runbook(text)),
        None => Page(StatusCode::NOT_FOUND, ui::not_found()),
    }
}
