//! The HTTP client that all databases of a process share.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use reqwest::{Client, ClientBuilder, Request, StatusCode, Url};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tower_layer::layer_fn;
use tower_service::Service;

use crate::store::error::BooksError;
use crate::store::traffic::Counters;

tokio::task_local! {
    /// The counters of the request that a task carries out.
    static COUNTERS: Arc<Counters>;
}

/// An HTTP client with a thread of its own; cheap to clone.
///
/// A kept connection lives on the runtime that opened it. Each [`Database`] has a runtime of its
/// own, so connections that several of them share need one that outlives them all and never blocks.
///
/// [`Database`]: crate::Database
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client,
    runtime: Handle,
    /// What all its databases cost together.
    counters: Arc<Counters>,
    /// The thread ends when the last clone is dropped.
    _stop: Arc<oneshot::Sender<()>>,
}

impl HttpClient {
    /// The client of `settings`, which say how TLS is spoken.
    ///
    /// # Errors
    /// [`BooksError::Open`].
    pub fn new(settings: ClientBuilder) -> Result<Self, BooksError> {
        let failed = |why: String| BooksError::Open("over HTTP".into(), why);
        let client = settings.connector_layer(layer_fn(Counted)).build().map_err(|e| failed(cause(&e)))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| failed(e.to_string()))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("books-http".into());
        thread.spawn(move || runtime.block_on(async { drop(stopped.await) })).map_err(|e| failed(e.to_string()))?;
        Ok(Self { client, runtime: handle, counters: Arc::default(), _stop: Arc::new(stop) })
    }

    pub(in crate::store) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The status and the body of the answer. A dropped call ends its TCP connection.
    pub(super) async fn send(
        &self,
        request: Request,
        counters: &Arc<Counters>,
    ) -> Result<(StatusCode, Bytes), BooksError> {
        let (client, to) = (self.client.clone(), origin(request.url()));
        let sent = async move {
            let answer = client.execute(request).await?;
            Ok((answer.status(), answer.bytes().await?))
        };
        let mut task = AbortedOnDrop(self.runtime.spawn(COUNTERS.scope(Arc::clone(counters), sent)));
        let done: Result<_, reqwest::Error> = (&mut task.0).await.map_err(|e| BooksError::Network(e.to_string()))?;
        done.map_err(|e| match (e.is_connect(), cause(&e)) {
            (true, cause) if e.is_timeout() => {
                BooksError::NoConnection(format!("no connection to {to} in time ({cause})"))
            }
            (true, cause) => BooksError::NoConnection(format!("no connection to {to} ({cause})")),
            (false, cause) => BooksError::Network(format!("{to}: {cause}")),
        })
    }
}

struct AbortedOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortedOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The innermost cause of an error, which the others only introduce, without the system's number.
pub fn cause(error: &dyn std::error::Error) -> String {
    let cause = std::iter::successors(Some(error), |e| e.source()).last();
    let cause = cause.map_or(String::new(), ToString::to_string);
    cause.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Scheme, host and port of an address: the rest may contain a secret.
pub fn origin(address: &Url) -> String {
    address.origin().ascii_serialization()
}

/// A connector that counts.
#[derive(Clone)]
struct Counted<S>(S);

impl<S: Service<R>, R> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        // a connection that is opened ahead belongs to no request
        let _counted = COUNTERS.try_with(|c| c.connection());
        self.0.call(request)
    }
}
