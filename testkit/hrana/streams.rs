//! The streams of a server by their batons (hrana/http/stream.rs in sqld).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::StatusCode;
use tokio::task::spawn_blocking;

use super::connection::{Connection, Site};
use super::request::Stream;
use super::statement::error;

/// The stream and the turn that a baton names. Each baton is valid once.
pub(super) type Ticket = (u64, u64);

pub(super) fn ticket(baton: Option<&String>) -> Option<Ticket> {
    let (id, turn) = baton?.split_once('.')?;
    Some((id.parse().ok()?, turn.parse().ok()?))
}

#[derive(Default)]
pub(super) struct Streams {
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Number of streams so far. After a pause, earlier batons are invalid.
    opened: u64,
    by_id: HashMap<u64, Place>,
}

struct Place {
    turn: u64,
    expired: bool,
    /// None while a request uses the stream. If the client disconnects meanwhile, the stream does
    /// not return.
    stream: Option<Stream>,
    /// Whether the last cursor's answer was sent to its end.
    sent: Arc<AtomicBool>,
}

impl Streams {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap()
    }

    /// Drops the streams that no request uses, and their transactions.
    pub(super) fn clear(&self) {
        let streams = std::mem::take(&mut self.places().by_id);
        drop(streams);
    }

    /// The connection of a stream that no request uses.
    pub(super) fn idle(&self, ticket: Option<Ticket>) -> Option<Arc<Connection>> {
        let places = self.places();
        Some(Arc::clone(&places.by_id.get(&ticket?.0)?.stream.as_ref()?.connection))
    }

    /// The stream of a baton, or the place for a new stream that is still to be opened.
    pub(super) fn acquire(&self, baton: Option<&String>) -> Result<(u64, Option<Stream>), (StatusCode, String)> {
        let mut places = self.places();
        if baton.is_none() {
            let id = places.opened;
            places.opened += 1;
            let sent = Arc::new(AtomicBool::new(true));
            places.by_id.insert(id, Place { turn: 0, expired: false, stream: None, sent });
            return Ok((id, None));
        }
        let refused = |why: &str| Err((StatusCode::BAD_REQUEST, why.to_owned()));
        let found = ticket(baton).and_then(|(id, turn)| Some((id, turn, places.by_id.get_mut(&id)?)));
        let Some((id, turn, place)) = found else { return refused("Received an invalid baton") };
        if place.expired {
            let why = error("STREAM_EXPIRED", "The stream has expired due to inactivity");
            return refused(&serde_json::to_string(&why).unwrap());
        }
        let Some(stream) = place.stream.take_if(|_| place.turn == turn) else {
            return refused("Received a baton that has already been used");
        };
        place.turn += 1;
        if !place.sent.swap(true, SeqCst) {
            stream.connection.interrupt();
        }
        Ok((id, Some(stream)))
    }

    /// The stream of a new place.
    pub(super) fn open(site: &Arc<Site>) -> Stream {
        Stream::new(Connection::open(site))
    }

    /// Puts a stream back unless it was closed. Returns its next baton, and what is to be set when
    /// the answer was sent to its end.
    pub(super) fn release(&self, id: u64, stream: Option<Stream>) -> Option<(Ticket, Arc<AtomicBool>)> {
        let mut places = self.places();
        let Some(stream) = stream else {
            places.by_id.remove(&id);
            return None;
        };
        let place = places.by_id.get_mut(&id)?;
        place.stream = Some(stream);
        Some(((id, place.turn), Arc::clone(&place.sent)))
    }

    /// Drops the stream and its transaction after this time, unless it has had another turn.
    pub(super) async fn expire_after(&self, ticket: Ticket, idle: Duration) {
        tokio::time::sleep(idle).await;
        self.expire(Some(ticket)).await;
    }

    pub(super) async fn expire(&self, ticket: Option<Ticket>) {
        let stream = ticket.and_then(|(id, turn)| {
            let mut places = self.places();
            let place = places.by_id.get_mut(&id).filter(|place| place.turn == turn && place.stream.is_some())?;
            place.expired = true;
            place.stream.take()
        });
        let _ = spawn_blocking(|| drop(stream)).await;
    }
}
