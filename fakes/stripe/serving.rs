//! The server: connections, outages, and the faults of a connection.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request as HttpRequest, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Sleep, sleep};

use crate::answers::Answer;
use crate::handling::{Ending, Flight, Handled, Request};
use crate::{Options, World};

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long a port is waited for that was given to another.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the first part of a cut answer has to leave before the connection is closed.
const CUT_AFTER: Duration = Duration::from_millis(10);

/// The world, shared by the tasks of the server.
type Shared = Arc<Mutex<World>>;

/// A running fake of Stripe on its own port. It stops when its last clone is dropped.
#[derive(Clone)]
pub struct FakeStripe {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    world: Shared,
    state: Mutex<State>,
}

/// Whether the server runs. In an outage the port stays reserved, so that no other program gets
/// it.
enum State {
    Running { stop: watch::Sender<()>, accepting: JoinHandle<()> },
    Stopped { port: Option<TcpSocket> },
}

impl FakeStripe {
    /// Starts a fake on a free port of 127.0.0.1.
    pub async fn start(options: Options) -> io::Result<Self> {
        Self::start_at(options, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a fake at an address.
    pub async fn start_at(options: Options, address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let world = Arc::new(Mutex::new(World::new(options)));
        let state = Mutex::new(running(listener, &world));
        Ok(Self { inner: Arc::new(Inner { address, world, state }) })
    }

    /// The base address. It never changes.
    pub fn url(&self) -> String {
        format!("http://{}/", self.inner.address)
    }

    /// The whole state of the fake. Requests wait while this is held.
    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.inner.world)
    }

    /// Begins an outage: all connections are dropped and new ones are refused. Applied requests
    /// stay applied.
    pub async fn stop(&self) {
        let before = std::mem::replace(&mut *lock(&self.inner.state), State::Stopped { port: None });
        let port = match before {
            State::Running { stop, accepting } => {
                drop(stop);
                // It only ends early if its runtime did, and then nothing is left to wait for.
                let _ended = accepting.await;
                hold(self.inner.address).ok()
            }
            State::Stopped { port } => port,
        };
        *lock(&self.inner.state) = State::Stopped { port };
    }

    /// Ends an outage.
    ///
    /// # Errors
    /// When the port stays taken for twenty seconds: while nobody held it, a connection of another
    /// process may have been given it.
    pub async fn resume(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match self.try_to_resume() {
                Err(taken) if taken.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                    sleep(Duration::from_millis(50)).await;
                }
                resumed => return resumed,
            }
        }
    }

    fn try_to_resume(&self) -> io::Result<()> {
        let mut state = lock(&self.inner.state);
        if let State::Stopped { port } = &mut *state {
            let port = port.take().map_or_else(|| hold(self.inner.address), Ok)?;
            *state = running(port.listen(BACKLOG)?, &self.inner.world);
        }
        Ok(())
    }
}

/// The state after a panic in another thread is still good enough to read.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket on the port that does not listen, so that connections to it are refused.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn running(listener: TcpListener, world: &Shared) -> State {
    let (stop, stopped) = watch::channel(());
    let accepting = tokio::spawn(accept(listener, Arc::clone(world), stopped));
    State::Running { stop, accepting }
}

/// Accepts connections until the sender of `stopped` is dropped, then drops all of them.
async fn accept(listener: TcpListener, world: Shared, mut stopped: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    lock(&world).counts.connections += 1;
                    connections.spawn(connection(stream, Arc::clone(&world)));
                }
                // Out of files, most likely: wait for some to be closed.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, world: Shared) {
    // Without it answers are only slower.
    let _slower = stream.set_nodelay(true);
    let service = service_fn(|request| serve(Arc::clone(&world), request));
    // It ends with an error when the client leaves or a fault closes it. Both are expected.
    let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Ends the flight of a meter event when it is answered, or when its client leaves.
struct Landing {
    world: Shared,
    flight: Flight,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.world).land(&self.flight);
    }
}

async fn serve(world: Shared, request: HttpRequest<Incoming>) -> Result<Response<Outgoing>, Closed> {
    let request = whole(request).await?;
    let Handled { ending, flight } = lock(&world).handle(&request);
    if let Some((flight, latency)) = flight {
        let landing = Landing { world, flight };
        sleep(latency).await;
        drop(landing);
    }
    match ending {
        Ending::Answer(answer) => respond(answer, false),
        Ending::Cut(answer) => respond(answer, true),
        Ending::Reset => Err(Closed),
        Ending::Hang => match std::future::pending::<Infallible>().await {},
    }
}

async fn whole(request: HttpRequest<Incoming>) -> Result<Request, Closed> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes())));
    Ok(Request {
        method: head.method.as_str().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: headers.collect(),
        body,
    })
}

fn respond(answer: Answer, cut: bool) -> Result<Response<Outgoing>, Closed> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let mut part = answer.body;
    let mut closing = None;
    if cut {
        response = response.header("content-length", part.len());
        part.truncate(part.len() / 2);
        closing = Some(Box::pin(sleep(CUT_AFTER)));
    }
    response.body(Outgoing { part: Some(part), closing }).map_err(|_| Closed)
}

/// The body of an answer: whole, or a part of it before the connection ends.
struct Outgoing {
    part: Option<Bytes>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Closed;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Closed>>> {
        if let Some(part) = self.part.take() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        match &mut self.closing {
            None => Poll::Ready(None),
            Some(closing) => closing.as_mut().poll(context).map(|()| Some(Err(Closed))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_none() && self.closing.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.closing {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.part.as_ref().map_or(Ok(0), |part| part.len().try_into()).unwrap_or(0)),
        }
    }
}

/// The connection is closed on purpose, or by the client.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the connection was closed")
    }
}

impl Error for Closed {}

impl From<Infallible> for Closed {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
