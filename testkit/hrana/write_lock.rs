//! Who may write: one connection at a time, in the order in which they asked.
//!
//! As sqld does it (connection/connection_manager.rs there): a connection that waits takes the
//! lock from one that has held it for five seconds, and rolls back its transaction. Nobody waits,
//! nothing happens. A statement that runs is not interrupted for that.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

/// A connection that can lose the lock.
pub(super) trait Writer: Send + Sync {
    /// Rolls back and releases the lock. False if it executes a statement now.
    fn try_roll_back(&self) -> bool;
}

/// The lock of a database.
pub(super) struct WriteLock {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tickets: u64,
    queue: VecDeque<u64>,
    holder: Option<Holder>,
    timeout: Duration,
    /// A transaction is recorded when it lasts longer.
    limit: Option<Duration>,
    long: Vec<String>,
    longest: Duration,
}

struct Holder {
    since: Instant,
    /// When its last statement ended.
    seen: Instant,
    /// Delays since that do not count.
    delayed: Duration,
    /// The first statement that writes, or the one that began the transaction.
    statement: String,
    writes: bool,
    writer: Weak<dyn Writer>,
}

impl Holder {
    /// Up to `end`, without the delays that do not count.
    fn over(&self, limit: Option<Duration>, end: Instant) -> Option<String> {
        let lasted = end.saturating_duration_since(self.since).saturating_sub(self.delayed);
        (limit? < lasted).then(|| format!("{} ms: {}", lasted.as_millis(), self.statement))
    }
}

/// A place in the queue. A thread that panics while it waits leaves none behind: all others would
/// wait for it for ever.
struct Place<'a> {
    lock: &'a WriteLock,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.lock.state();
        let before = state.queue.len();
        state.queue.retain(|ticket| *ticket != self.ticket);
        if state.queue.len() < before {
            self.lock.changed.notify_all();
        }
    }
}

impl WriteLock {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { state: Mutex::new(State { timeout, ..State::default() }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn queue(&self) -> u64 {
        let mut state = self.state();
        let ticket = state.tickets;
        state.tickets += 1;
        state.queue.push_back(ticket);
        ticket
    }

    /// Waits for its turn. The caller must not hold the lock.
    pub(super) fn acquire(&self, writer: &Weak<dyn Writer>) {
        let place = Place { lock: self, ticket: self.queue() };
        let ticket = place.ticket;
        let mut state = self.state();
        loop {
            let Some(holder) = &state.holder else {
                if state.queue.front() == Some(&ticket) {
                    break;
                }
                state = self.changed.wait(state).unwrap();
                continue;
            };
            let left = state.timeout.saturating_sub(holder.since.elapsed());
            if left.is_zero() {
                let holder = holder.writer.upgrade();
                drop(state);
                let done = holder.is_some_and(|holder| holder.try_roll_back());
                state = self.state();
                if !done {
                    state = self.changed.wait_timeout(state, Duration::from_millis(2)).unwrap().0;
                }
            } else {
                state = self.changed.wait_timeout(state, left).unwrap().0;
            }
        }
        state.queue.pop_front();
        let (since, writer) = (Instant::now(), writer.clone());
        let (statement, writes) = (String::new(), false);
        state.holder = Some(Holder { since, seen: since, delayed: Duration::ZERO, statement, writes, writer });
    }

    /// Notes a delay of a request of the holder that does not count.
    pub(super) fn delayed(&self, by: Duration) {
        if let Some(holder) = &mut self.state().holder {
            holder.delayed += by;
        }
    }

    /// Notes that a statement of the holder has ended.
    pub(super) fn executed(&self) {
        if let Some(holder) = &mut self.state().holder {
            holder.seen = Instant::now();
        }
    }

    /// Notes a statement of the holder, for the list of long transactions.
    pub(super) fn executes(&self, statement: &str, writes: bool) {
        let mut state = self.state();
        let Some(holder) = &mut state.holder else { return };
        if !holder.writes {
            statement.clone_into(&mut holder.statement);
            holder.writes = writes;
        }
    }

    /// Only the holder may call it. A client that ended its transaction held it until now; one that
    /// has gone, or lost it, until its last statement.
    pub(super) fn release(&self, ended: bool) {
        let mut state = self.state();
        let Some(holder) = state.holder.take() else { return };
        state.longest = state.longest.max(holder.since.elapsed());
        let over = holder.over(state.limit, if ended { Instant::now() } else { holder.seen });
        state.long.extend(over);
        self.changed.notify_all();
    }

    pub(super) fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
        self.changed.notify_all();
    }

    pub(super) fn set_limit(&self, limit: Option<Duration>) {
        self.state().limit = limit;
    }

    /// The transactions over the limit since the last call, with one that is still open.
    pub(super) fn take_long(&self) -> Vec<String> {
        let mut state = self.state();
        let open = state.holder.as_ref().and_then(|holder| holder.over(state.limit, Instant::now()));
        std::mem::take(&mut state.long).into_iter().chain(open).collect()
    }

    pub(super) fn longest(&self) -> Duration {
        let state = self.state();
        state.longest.max(state.holder.as_ref().map_or(Duration::ZERO, |holder| holder.since.elapsed()))
    }

    pub(super) fn reset(&self) {
        self.state().longest = Duration::ZERO;
    }
}
