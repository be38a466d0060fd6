//! Sends events: claims some, sends them concurrently (one of each customer and meter), and writes
//! the results. An event is sent only after its claim is committed.

use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use crate::stripe::transport::{CallError, CallFailure};
use crate::stripe::{SendCounters, StripeAccount};
use books::BooksError;
use books::Database;
use books::stripe::meter_event::{AttemptOutcome, EventState, MeterEvent};

/// How many seconds of sending one claim covers, at the account's rate.
const CLAIMED_SECONDS: u32 = 5;
/// A claimed event is not sent after this time. Long after it another run takes the attempt for
/// dead.
const HOLD: Duration = Duration::from_secs(60);
/// The most events of one claim: it holds the write lock while their contents are read.
const CLAIMED_AT_ONCE: u32 = 1000;
/// Results that are written in one transaction, about.
const SETTLED_AT_ONCE: usize = 1000;
/// For how long results are gathered until they are written, unless they are many or the last.
const GATHERED: Duration = Duration::from_millis(500);
/// First wait before another attempt, in seconds; it doubles with each attempt.
const FIRST_WAIT: i64 = 5;
/// Longest wait, in seconds.
const LONGEST_WAIT: i64 = 1800;
/// After so many failed attempts in a row a run stops: Stripe is not available.
const AWAY: u32 = 20;

/// After so many refusals in a row a run stops: the cause is not a single customer.
const REFUSES_ALL: u32 = 50;

/// Seconds after which the process of an attempt counts as dead.
pub(super) fn stale_after(account: &StripeAccount) -> i64 {
    i64::try_from((HOLD + account.timeout * 2).as_secs()).unwrap_or(i64::MAX)
}

/// Counts of attempts by their results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SendTally {
    pub(super) attempts: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unconfirmed: u64,
    pub(super) retried: u64,
    /// Numbers of events that were never sent, although Stripe already has their identifiers.
    pub(super) foreign: Vec<String>,
    pub(super) stopped: Option<SendStop>,
}

/// Why sending stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendStop {
    /// Stripe does not accept the key, or the key lacks the permission.
    Key(String),
    /// Stripe is not available, or refuses every event. With Stripe's `Retry-After`.
    Away(String, Option<Duration>),
}

/// The result of an attempt, with Stripe's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SendAnswer {
    /// Stripe took it; true if Stripe took it in an earlier attempt (`Idempotent-Replayed`).
    Taken(bool),
    /// Stripe already has an event with this identifier.
    Exists(String),
    /// Stripe refused it and would refuse it again.
    Refused(String),
    /// Stripe refused the key.
    Key(String),
    /// Stripe did not take it: try again later, after its `Retry-After` if it sent one.
    Later(String, Option<Duration>),
    /// Stripe began the request and failed: it stores the answer under the Idempotency-Key, so the
    /// next attempt needs another key.
    Broken(String),
    /// No usable answer: Stripe may or may not have taken it.
    Lost(String),
    /// It was not sent: there was no connection, or the run stopped.
    NotSent(String),
}

/// Classifies a failed call. <https://docs.stripe.com/api/idempotent_requests>,
/// <https://docs.stripe.com/error-low-level>
pub(super) fn answer(error: &CallError) -> SendAnswer {
    let said = error.to_string();
    match (error.status, error.kind) {
        (Some(200..=299), _) | (None, CallFailure::Unreadable) => SendAnswer::Taken(error.around.replayed),
        (Some(400), _) if error.message.contains("already exists with identifier") => SendAnswer::Exists(said),
        (Some(401 | 403), CallFailure::Answered) => SendAnswer::Key(said),
        // another request with the same key is in progress: its run was taken for dead
        (Some(409), _) => SendAnswer::Lost(said),
        (Some(408 | 424 | 429), _) | (Some(400..=499), CallFailure::NotStripe) => {
            SendAnswer::Later(said, error.around.retry_after)
        }
        (Some(400..=499), CallFailure::Answered) => SendAnswer::Refused(said),
        (Some(500..), _) => SendAnswer::Broken(said),
        (None, CallFailure::NotSent) => SendAnswer::NotSent(said),
        (Some(_) | None, _) => SendAnswer::Lost(said),
    }
}

/// The next state of an event after an attempt that ended at `now`. Pure.
pub(super) fn settle(event: &MeterEvent, answer: &SendAnswer, request_id: Option<String>, now: i64) -> AttemptOutcome {
    let open = if event.maybe_applied { EventState::Unconfirmed } else { EventState::Pending };
    let wait = |asked: Option<Duration>| {
        let asked = asked.and_then(|d| i64::try_from(d.as_secs()).ok()).unwrap_or(0).clamp(0, LONGEST_WAIT);
        let doublings = u32::try_from(event.attempts.clamp(1, 20) - 1).unwrap_or(0);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
        // up to half as long again, so that events that failed together are not sent together
        // again
        let spread = (event.seq * 7919 + event.attempts * 104_729).rem_euclid(wait / 2 + 1);
        now + wait.max(asked) + spread
    };
    let settled = |state, next_at, error: Option<&String>| AttemptOutcome {
        seq: event.seq,
        attempts: event.attempts,
        state,
        maybe_applied: event.maybe_applied || state == EventState::Unconfirmed,
        key_no: event.key_no,
        next_at,
        request_id: request_id.clone(),
        error: error.map(|e| e.chars().take(500).collect()),
        taken_at: None,
    };
    // an invoice contains the events that Stripe took before it was final
    let first = event.first_attempt_at.map_or(now, |at| at.as_second());
    let taken = |at| AttemptOutcome { taken_at: Some(at), ..settled(EventState::Accepted, None, None) };
    match answer {
        SendAnswer::Taken(false) => taken(now),
        SendAnswer::Taken(true) => taken(first),
        // Stripe has our identifier. An attempt that may have been applied was applied; without
        // such an attempt another program used the identifier
        SendAnswer::Exists(_) if event.maybe_applied => taken(first),
        SendAnswer::Exists(why) => settled(EventState::Refused, None, Some(why)),
        // Stripe may have taken an earlier attempt: only its totals tell
        SendAnswer::Refused(why) if event.maybe_applied => settled(EventState::Unconfirmed, None, Some(why)),
        SendAnswer::Refused(why) => settled(EventState::Refused, None, Some(why)),
        SendAnswer::Key(why) => settled(open, Some(now), Some(why)),
        SendAnswer::Later(why, asked) => settled(open, Some(wait(*asked)), Some(why)),
        SendAnswer::NotSent(why) => settled(open, Some(wait(None)), Some(why)),
        SendAnswer::Broken(why) => {
            AttemptOutcome { key_no: event.key_no + 1, ..settled(EventState::Unconfirmed, Some(wait(None)), Some(why)) }
        }
        SendAnswer::Lost(why) => settled(EventState::Unconfirmed, Some(wait(None)), Some(why)),
    }
}

/// The clock of a run: the instant at which the run began, and the time since.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunClock(Timestamp, Instant);

impl RunClock {
    pub(super) fn starts(now: Timestamp) -> Self {
        Self(now, Instant::now())
    }

    pub(super) fn now(self) -> Timestamp {
        self.0 + self.1.elapsed()
    }
}

/// State that the attempts of a run share.
struct Run {
    account: StripeAccount,
    clock: RunClock,
    refused_in_a_row: AtomicU32,
    in_a_row: AtomicU32,
    stop: Mutex<Option<SendStop>>,
}

impl Run {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn stopped(&self) -> bool {
        self.stop.lock().map_or(true, |stop| stop.is_some())
    }

    fn stop(&self, why: SendStop) {
        if let Ok(mut stop) = self.stop.lock() {
            stop.get_or_insert(why);
        }
    }

    /// Sends one event. There is no answer if the run stopped or the time was up before the event
    /// was sent.
    async fn attempt(&self, event: MeterEvent, claimed: Instant) -> (AttemptOutcome, Option<SendAnswer>) {
        let asked = Instant::now();
        self.account.ready().await;
        let waited = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.account.sends.throttled_ms.fetch_add(waited, Ordering::Relaxed);
        let late = self.now() >= event.send_before || claimed.elapsed() > HOLD;
        if self.stopped() || late {
            let answer = SendAnswer::NotSent("not sent: the run stopped before its turn".into());
            let settled = settle(&event, &answer, None, self.now().as_second());
            return (AttemptOutcome { next_at: settled.next_at.map(|_| self.now().as_second()), ..settled }, None);
        }
        let (answer, request_id) = match self.account.send(&event).await {
            Ok(around) => (SendAnswer::Taken(around.replayed), around.request_id),
            Err(error) => (answer(&error), error.around.request_id),
        };
        match &answer {
            SendAnswer::Key(why) => self.stop(SendStop::Key(why.clone())),
            SendAnswer::Later(why, _) | SendAnswer::Broken(why) | SendAnswer::Lost(why) | SendAnswer::NotSent(why) => {
                let asked = if let SendAnswer::Later(_, asked) = &answer { *asked } else { None };
                if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= AWAY {
                    self.stop(SendStop::Away(why.clone(), asked));
                }
            }
            SendAnswer::Refused(why) | SendAnswer::Exists(why) if !event.maybe_applied => {
                if self.refused_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSES_ALL {
                    self.stop(SendStop::Away(format!("{REFUSES_ALL} events in a row were refused: {why}"), None));
                }
            }
            SendAnswer::Taken(_) | SendAnswer::Exists(_) | SendAnswer::Refused(_) => {
                self.in_a_row.store(0, Ordering::Relaxed);
                self.refused_in_a_row.store(0, Ordering::Relaxed);
            }
        }
        (settle(&event, &answer, request_id, self.now().as_second()), Some(answer))
    }
}

/// Sends all due events. Stops when none is left, or when Stripe is not available or refuses
/// everything.
pub(super) async fn send(books: &Database, account: &StripeAccount, clock: RunClock) -> Result<SendTally, BooksError> {
    let run = Run {
        account: account.clone(),
        clock,
        refused_in_a_row: AtomicU32::new(0),
        in_a_row: AtomicU32::new(0),
        stop: Mutex::new(None),
    };
    let mut tally = SendTally::default();
    // an event that waited for an earlier one of its customer and meter has its turn in a later
    // round
    while !run.stopped() && send_round(books, &run, &mut tally).await? > 0 {}
    tally.stopped = run.stop.into_inner().ok().flatten();
    Ok(tally)
}

/// Claims events until none is left to claim, and returns how many. They are sent while the next
/// ones are claimed and while results are written.
async fn send_round(books: &Database, run: &Run, tally: &mut SendTally) -> Result<usize, BooksError> {
    let max_concurrent = run.account.max_concurrent.max(1);
    let (done, mut outcomes) = tokio::sync::mpsc::channel(SETTLED_AT_ONCE * 2);
    let sending = async move {
        let attempts = claimed(books, run).map(async |next| {
            let (event, at) = next?;
            Ok(run.attempt(event, at).await)
        });
        let mut attempts = pin!(attempts.buffer_unordered(max_concurrent));
        let (mut sent, mut failed) = (0, None);
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(outcome) => match done.send(outcome).await {
                    Ok(()) => sent += 1,
                    Err(_) => break,
                },
                // those that were claimed before are still under way
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(sent), Err)
    };
    // an error here drops the receiver, so that the senders stop too
    let writing = async move {
        let mut some = vec![];
        while gather(&mut outcomes, &mut some).await > 0 {
            let settled =
                some.drain(..).map(|(settled, answer)| count(tally, &run.account.sends, settled, answer)).collect();
            books.settle_events(settled, run.now()).await?;
        }
        Ok(())
    };
    let (sent, written) = futures::join!(sending, writing);
    written.and(sent)
}

/// Events as they are claimed, each with the time of its claim. The next ones are claimed when all
/// have begun to be sent, until fewer are left than one claim takes.
fn claimed<'a>(
    books: &'a Database,
    run: &'a Run,
) -> impl Stream<Item = Result<(MeterEvent, Instant), BooksError>> + 'a {
    let max_concurrent = u32::try_from(run.account.max_concurrent).unwrap_or(u32::MAX).min(CLAIMED_AT_ONCE);
    let limit = run.account.per_second.saturating_mul(CLAIMED_SECONDS).clamp(max_concurrent, CLAIMED_AT_ONCE);
    let claims = stream::try_unfold(true, move |more| async move {
        if !more || run.stopped() {
            return Ok(None);
        }
        let events = books.claim_events(limit, run.now()).await?;
        let more = u32::try_from(events.len()).is_ok_and(|claimed| claimed == limit);
        let at = Instant::now();
        let events = stream::iter(events.into_iter().map(move |event| Ok((event, at))));
        Ok::<_, BooksError>(Some((events, more)))
    });
    claims.try_flatten()
}

/// Adds results to `some`: many, or those of [`GATHERED`], or the last ones. Returns how many.
async fn gather<T>(results: &mut Receiver<T>, some: &mut Vec<T>) -> usize {
    results.recv_many(some, SETTLED_AT_ONCE).await;
    let until = Instant::now() + GATHERED;
    while (1..SETTLED_AT_ONCE).contains(&some.len())
        && let Ok(1..) = timeout_at(until, results.recv_many(some, SETTLED_AT_ONCE)).await
    {}
    some.len()
}

fn count(
    tally: &mut SendTally,
    sends: &SendCounters,
    settled: AttemptOutcome,
    answer: Option<SendAnswer>,
) -> AttemptOutcome {
    let Some(answer) = answer else { return settled };
    tally.attempts += 1;
    let all = match settled.state {
        EventState::Accepted => &sends.accepted,
        EventState::Refused => &sends.refused,
        EventState::Unconfirmed => &sends.unconfirmed,
        EventState::Pending | EventState::Sending | EventState::NotReceived | EventState::Discarded => &sends.retried,
    };
    all.fetch_add(1, Ordering::Relaxed);
    match settled.state {
        EventState::Accepted => tally.accepted += 1,
        EventState::Refused => {
            tally.refused += 1;
            if matches!(answer, SendAnswer::Exists(_)) {
                tally.foreign.push(settled.seq.to_string());
            }
            let why = settled.error.as_deref().unwrap_or_default();
            tracing::warn!(event = settled.seq, "Stripe refused event {}: {why}", settled.seq);
        }
        EventState::Unconfirmed => tally.unconfirmed += 1,
        EventState::Pending | EventState::Sending | EventState::NotReceived | EventState::Discarded => {
            tally.retried += 1
        }
    }
    settled
}

#[cfg(test)]
mod tests;
