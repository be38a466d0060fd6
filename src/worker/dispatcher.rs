//! The dispatcher: claims jobs for free slots and records how runs ended.
//!
//! No error of the database ends it: an outage is logged at its beginning and its end, and
//! meanwhile each step is retried.

use std::time::{Duration, Instant};

use books::BooksError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::backend::Ack;
use super::outage::OutageLog;
use super::process::{Phase, RunUntil, Shared};
use crate::queue::{Claim, ClaimRequest, DueAt, JobUpdate, PollResult, data_version};

/// With this many jobs running, an acknowledgement waits a moment for others that share its commit,
/// as long as others arrive, for at most `TURNS` turns of the runtime.
const WORTH_LINGERING: usize = 16;
const TURNS: usize = 200;
const IDLE_TURNS: usize = 8;

/// A kind that is due is not started more often.
const DUE_AGAIN: Duration = Duration::from_millis(500);

/// Claims jobs and records outcomes, until the worker is stopped and every outcome is written.
pub(super) struct Dispatcher {
    pub(super) shared: Shared,
    pub(super) acks: UnboundedReceiver<Ack>,
    pub(super) claims: UnboundedSender<Claim>,
    finished: Vec<JobUpdate>,
    /// A claim may return something.
    may_be_due: bool,
    next_due: Option<i64>,
    /// The last answer was unclear: this process may hold jobs that it does not know of.
    unsure: bool,
    version: i64,
    /// The time between two looks at the table, which grows while they find nothing.
    pause: Duration,
    /// The last look found a job that is due.
    found: bool,
    /// When each of the due kinds was last started.
    started_due: Vec<Option<Instant>>,
    phase: watch::Receiver<Phase>,
    /// When the dispatcher noticed that the worker is stopping.
    stopping: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(shared: Shared, acks: UnboundedReceiver<Ack>, claims: UnboundedSender<Claim>) -> Self {
        let phase = shared.phase.subscribe();
        let pause = shared.settings.poll;
        let (finished, next_due, version, stopping) = (vec![], None, -1, None);
        let (may_be_due, unsure, found) = (true, false, false);
        let started_due = vec![None; shared.by.due_kinds.len()];
        Self {
            shared,
            acks,
            claims,
            finished,
            may_be_due,
            next_due,
            unsure,
            version,
            pause,
            found,
            started_due,
            phase,
            stopping,
        }
    }

    pub(super) async fn run(mut self) {
        let mut outage = OutageLog::default();
        loop {
            while let Ok(ack) = self.acks.try_recv() {
                self.take(ack);
            }
            if self.shared.stopping() && self.stopping.is_none() {
                self.stopping = Some(Instant::now());
            }
            if outage.since.is_some() && self.out_of_time() {
                let unwritten = self.finished.len();
                tracing::warn!(
                    unwritten,
                    "stopped without the database: {unwritten} outcomes are not written, their jobs run again"
                );
                return;
            }
            let (requests, total) = self.shared.requests();
            let idle = self.finished.is_empty() && self.shared.in_flight.len() == 0;
            if idle
                && !self.unsure
                && (self.shared.stopping() || (self.shared.settings.until == RunUntil::Idle && !self.may_be_due))
            {
                return;
            }
            if self.finished.is_empty() && !self.unsure && (!self.may_be_due || requests.is_empty()) {
                self.wait(&mut outage).await;
                continue;
            }
            if self.unsure {
                match self.recover_claims().await {
                    // the outage ends when the next step succeeds
                    Ok(()) => self.unsure = false,
                    Err(error) => self.pause(outage.note("reach the queue", &error)).await,
                }
                continue;
            }
            match self.step(requests, total).await {
                Ok(()) => outage.ended("reach the queue"),
                Err(error) => {
                    self.unsure = true;
                    let wait = outage.note("reach the queue", &error);
                    if refuses_the_row(&error) && !self.finished.is_empty() {
                        self.write_one_by_one().await;
                    }
                    self.pause(wait).await;
                }
            }
        }
    }

    /// Waits between two tries; not for long once the worker is stopping.
    async fn pause(&mut self, wait: Duration) {
        if self.shared.stopping() {
            return tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
        }
        // a job counts as lost when its outcome comes long after its lease
        let wait = if self.finished.is_empty() { wait } else { wait.min(self.shared.settings.lease / 4) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = self.phase.changed() => {}
        }
    }

    /// Past the grace time and a little more for the last outcomes.
    fn out_of_time(&self) -> bool {
        let most = self.shared.settings.grace + self.shared.settings.lease / 3;
        self.stopping.is_some_and(|since| since.elapsed() > most)
    }

    fn take(&mut self, ack: Ack) {
        self.shared.in_flight.remove(ack.seq, ack.lease);
        self.finished.extend(ack.finish);
    }

    /// Polls the table once.
    async fn step(&mut self, requests: Vec<ClaimRequest>, total: usize) -> Result<(), BooksError> {
        let Shared { queue, by, .. } = &self.shared;
        let PollResult { claimed, next_due, more, due_at } =
            queue.poll(by, self.finished.clone(), requests, total).await?;
        self.finished.clear();
        if total > 0 {
            self.next_due = next_due;
            self.may_be_due = more;
            // other processes are at work: more of theirs may follow soon
            if std::mem::take(&mut self.found) && !claimed.is_empty() {
                self.pause = self.shared.settings.poll;
            }
        }
        claimed.into_iter().for_each(|claim| self.start(claim));
        self.start_due(due_at).await.map(drop)
    }

    /// Starts kinds that are due, and wakes up for those that will be. True when one was started.
    async fn start_due(&mut self, due_at: DueAt) -> Result<bool, BooksError> {
        let mut started = false;
        let (by, now) = (self.shared.by.clone(), self.shared.queue.clock.millis());
        for (n, (kind, at)) in by.due_kinds.iter().zip(due_at).enumerate() {
            let Some(at) = at else { continue };
            let again = self.started_due[n].map_or(Duration::ZERO, |last| DUE_AGAIN.saturating_sub(last.elapsed()));
            let at = at.max(now.saturating_add(i64::try_from(again.as_millis()).unwrap_or(0)));
            if at > now {
                self.next_due = Some(self.next_due.map_or(at, |next| next.min(at)));
            } else if self.shared.requests().0.iter().any(|request| request.kind == kind.kind) {
                self.started_due[n] = Some(Instant::now());
                match self.shared.queue.start_due(&by, kind).await {
                    Ok(Some(claim)) => {
                        self.start(claim);
                        started = true;
                    }
                    // another worker was quicker, or an earlier reply was lost
                    Ok(None) => self.unsure = true,
                    Err(error) => {
                        self.unsure = true;
                        return Err(error);
                    }
                }
            }
        }
        Ok(started)
    }

    /// Starts jobs of a claim that succeeded although its answer did not arrive.
    async fn recover_claims(&self) -> Result<(), BooksError> {
        let Shared { queue, by, in_flight, .. } = &self.shared;
        for claim in queue.held_by(&by.worker).await? {
            let same = |seq, lease| seq == claim.seq && lease == claim.lease;
            let finished = self.finished.iter().any(|f| same(f.seq, f.lease));
            if !finished && !in_flight.all().iter().any(|c| same(c.seq, c.lease)) {
                self.start(claim);
            }
        }
        Ok(())
    }

    /// Writes each outcome by itself, so that one that the table refuses does not block the others;
    /// its job becomes dead with that reason.
    async fn write_one_by_one(&mut self) {
        let Shared { queue, by, .. } = &self.shared;
        for finish in std::mem::take(&mut self.finished) {
            let Err(error) = queue.poll(by, vec![finish.clone()], vec![], 0).await else { continue };
            if !refuses_the_row(&error) {
                self.finished.push(finish);
                continue;
            }
            tracing::error!(job = finish.seq, %error, "job {}: its outcome cannot be written: {error}", finish.seq);
            let dead = finish.refused(&error.to_string());
            if let Err(error) = queue.poll(by, vec![dead], vec![], 0).await {
                tracing::error!(job = finish.seq, %error, "job {} is left until its lease expires: {error}", finish.seq);
            }
        }
    }

    fn start(&self, claim: Claim) {
        self.shared.in_flight.add(claim.clone());
        // apalis' worker ends only after this sender is gone
        drop(self.claims.send(claim));
    }

    /// Waits until there may be something to do. Jobs that this process enqueues, and those that
    /// wait for their time, wake it at once; for others it looks at the table.
    async fn wait(&mut self, outage: &mut OutageLog) {
        let queue = &self.shared.queue;
        let free = self.shared.requests().1 > 0;
        let until_due = match self.next_due {
            Some(due) if free && !self.may_be_due => {
                let ms = due.saturating_sub(queue.clock.millis()).clamp(0, 60_000);
                Duration::from_millis(u64::try_from(ms).unwrap_or(0))
            }
            _ => Duration::from_secs(60),
        };
        tokio::select! {
            ack = self.acks.recv() => {
                if let Some(ack) = ack {
                    self.take(ack);
                    if self.shared.in_flight.len() >= WORTH_LINGERING {
                        self.linger().await;
                    }
                }
            }
            () = queue.new_work.notified() => self.may_be_due = true,
            _ = self.phase.changed() => {}
            () = tokio::time::sleep(until_due) => self.may_be_due = true,
            () = tokio::time::sleep(self.pause), if free && !self.may_be_due => match self.something_due().await {
                Ok(due) => {
                    (self.may_be_due, self.found) = (due, due);
                    outage.ended("read the queue");
                }
                Err(error) => {
                    // the heartbeat says what is wrong with the database
                    self.shared.others_run.notify_one();
                    let wait = outage.note("read the queue", &error);
                    self.pause(wait).await;
                }
            },
        }
    }

    /// Collects acknowledgements as long as they arrive in quick succession.
    async fn linger(&mut self) {
        let mut idle = 0;
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            idle += 1;
            while let Ok(ack) = self.acks.try_recv() {
                self.take(ack);
                idle = 0;
            }
            if idle > IDLE_TURNS || self.shared.in_flight.len() == 0 {
                return;
            }
        }
    }

    /// Whether a claim may return something. On a local file the table is read only after another
    /// connection has written.
    async fn something_due(&mut self) -> Result<bool, BooksError> {
        let queue = &self.shared.queue;
        if queue.db.is_local() {
            let version = data_version(&queue.db).await?;
            if std::mem::replace(&mut self.version, version) == version {
                return Ok(false);
            }
        }
        let by = &self.shared.by;
        let look = queue.look(&by.worker, &self.shared.kinds.names(), &by.due_kinds).await?;
        self.shared.saw_schema(look.schema);
        if look.others_run {
            self.shared.others_run.notify_one();
        }
        self.next_due = look.next_due;
        let is_due = look.due || look.next_due.is_some_and(|next| next <= queue.clock.millis());
        if !self.start_due(look.due_at).await? {
            self.look_less_often();
        }
        Ok(is_due)
    }

    /// Looking at a local file that did not change costs nothing.
    fn look_less_often(&mut self) {
        let Shared { queue, settings, .. } = &self.shared;
        if !queue.db.is_local() {
            self.pause = (self.pause * 2).min(settings.idle_poll.max(settings.poll));
        }
    }
}

/// Whether the database will never accept these rows.
fn refuses_the_row(error: &BooksError) -> bool {
    let signs = ["constraint", "too big", "datatype mismatch", "malformed JSON", "cannot store"];
    matches!(error, BooksError::Integrity(_))
        || matches!(error, BooksError::Sql(text) if signs.iter().any(|sign| text.contains(sign)))
}
