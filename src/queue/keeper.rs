//! The tasks that stand between the table and the runs of one process: one claims and acknowledges,
//! one keeps leases.
//!
//! They are apart because they must not wait for each other: leases are kept while claims are slow,
//! and neither waits for a run. Neither ever ends because of the database: outage is logged when
//! it begins and when it is over, and in between it is tried again.

use std::time::{Duration, Instant};

use books::{BooksError, newest_schema_version};
use libsql::params;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

use super::backend::Ack;
use super::claim::{Claim, InFlight, StopReason};
use super::kinds::Kinds;
use super::lease::{Claimer, PollResult, ClaimRequest, LeaseWatch, data_version};
use super::outcome::JobUpdate;
use super::row::{Filter, State};
use super::store::Queue;
use super::worker::{Identity, WorkerSettings};
use crate::metrics::Metrics;

/// With so many jobs running, one acknowledgement is worth waiting a moment for others that share
/// its commit: as long as others come, and at most so many turns of the runtime.
const WORTH_LINGERING: usize = 16;
const TURNS: usize = 200;
const IDLE_TURNS: usize = 8;
/// Waits between tries while the database does not work.
const OUTAGE_WAITS: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];
/// How often finished rows are looked through.
const UPKEEP: Duration = Duration::from_secs(60);
/// Rows of workers that have not spoken for so long are removed.
const WORKERS_KEPT_MS: i64 = 86_400_000;

/// What a worker process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Working,
    /// Running what it has, claiming nothing.
    Stopping,
    /// Told to stop because the database belongs to a newer build now.
    Outdated(i64),
}

/// What all tasks of a worker process share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) by: Claimer,
    pub(super) kinds: Kinds,
    pub(super) policy: WorkerSettings,
    pub(super) in_flight: InFlight,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) who: Identity,
    pub(super) metrics: Metrics,
    /// End as soon as nothing is due.
    pub(super) once: bool,
}

impl Shared {
    fn stopping(&self) -> bool {
        *self.phase.borrow() != Phase::Working
    }

    /// What may be claimed now, by kind and in all.
    fn requests(&self) -> (Vec<ClaimRequest>, usize) {
        let free = self.policy.concurrency.saturating_sub(self.in_flight.len());
        if self.stopping() || free == 0 {
            return (vec![], 0);
        }
        let slots = |k: &super::Kind| k.max_concurrent.saturating_sub(self.in_flight.of_kind(k.name));
        let requests = self.kinds.iter().map(|k| ClaimRequest { kind: k.name.to_owned(), slots: slots(k) });
        (requests.filter(|w| w.slots > 0).collect(), free)
    }
}

/// Says once that the database does not work, and once that it works again.
#[derive(Debug, Default)]
struct OutageLog {
    since: Option<Instant>,
    tries: usize,
}

impl OutageLog {
    /// Notes a failure; returns how long to wait before the next try.
    fn note(&mut self, what: &str, error: &BooksError) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!(%error, "cannot {what}, trying until it works: {error}");
        }
        let wait = OUTAGE_WAITS[self.tries.min(OUTAGE_WAITS.len() - 1)];
        self.tries += 1;
        let permille = fastrand::u32(500..1000);
        wait * permille / 1000
    }

    fn over(&mut self, what: &str) {
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, tries = self.tries, "can {what} again, after {seconds} s and {} tries", self.tries);
            self.tries = 0;
        }
    }
}

/// Claims jobs for free slots and writes down how runs ended, until it is told to stop and all is
/// written.
pub(super) struct Dispatcher {
    pub(super) shared: Shared,
    pub(super) acks: UnboundedReceiver<Ack>,
    pub(super) claims: UnboundedSender<Claim>,
    finished: Vec<JobUpdate>,
    look: bool,
    next_due: Option<i64>,
    /// The last answer was unclear: jobs may be ours without our knowing.
    unsure: bool,
    version: i64,
    phase: watch::Receiver<Phase>,
    /// When it was noticed that the worker is to stop.
    stopping: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(shared: Shared, acks: UnboundedReceiver<Ack>, claims: UnboundedSender<Claim>) -> Self {
        let phase = shared.phase.subscribe();
        let (finished, look, next_due, unsure, version, stopping) = (vec![], true, None, false, -1, None);
        Self { shared, acks, claims, finished, look, next_due, unsure, version, phase, stopping }
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
            if idle && !self.unsure && (self.shared.stopping() || (self.shared.once && !self.look)) {
                return;
            }
            if self.finished.is_empty() && !self.unsure && (!self.look || requests.is_empty()) {
                self.wait(&mut outage).await;
                continue;
            }
            if self.unsure {
                match self.ask_what_became().await {
                    // not yet out of outage: that shows when the next round goes through
                    Ok(()) => self.unsure = false,
                    Err(error) => tokio::time::sleep(outage.note("reach the queue", &error)).await,
                }
                continue;
            }
            match self.step(requests, total).await {
                Ok(()) => outage.over("reach the queue"),
                Err(error) => {
                    self.unsure = true;
                    let wait = outage.note("reach the queue", &error);
                    if refuses_the_row(&error) && !self.finished.is_empty() {
                        self.write_one_by_one().await;
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Past the grace time, and a little more for the last word.
    fn out_of_time(&self) -> bool {
        let most = self.shared.policy.grace + self.shared.policy.lease / 3;
        self.stopping.is_some_and(|since| since.elapsed() > most)
    }

    fn take(&mut self, ack: Ack) {
        self.shared.in_flight.remove(ack.seq, ack.lease);
        self.finished.extend(ack.finish);
    }

    /// One round with the table.
    async fn step(&mut self, requests: Vec<ClaimRequest>, total: usize) -> Result<(), BooksError> {
        let Shared { queue, by, .. } = &self.shared;
        let PollResult { claimed, next_due, more } = queue.poll(by, self.finished.clone(), requests, total).await?;
        self.finished.clear();
        if total > 0 {
            self.next_due = next_due;
            self.look = more;
        }
        claimed.into_iter().for_each(|claim| self.start(claim));
        Ok(())
    }

    /// After an unclear answer: a claim may have gone through though its answer did not arrive.
    async fn ask_what_became(&self) -> Result<(), BooksError> {
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

    /// One outcome that the table refuses must not keep back the others: it becomes a dead job that
    /// says so.
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
                tracing::error!(job = finish.seq, %error, "job {} is left to lapse: {error}", finish.seq);
            }
        }
    }

    fn start(&self, claim: Claim) {
        self.shared.in_flight.add(claim.clone());
        // apalis' worker ends only after this sender is gone
        drop(self.claims.send(claim));
    }

    /// Waits until there may be something to do. Nothing here looks at the table more often than
    /// the poll interval.
    async fn wait(&mut self, outage: &mut OutageLog) {
        let Shared { queue, policy, in_flight, .. } = &self.shared;
        let free = in_flight.len() < policy.concurrency;
        let until_due = match self.next_due {
            Some(due) if free && !self.look => {
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
            () = queue.wake.notified() => self.look = true,
            _ = self.phase.changed() => {}
            () = tokio::time::sleep(until_due) => self.look = true,
            () = tokio::time::sleep(policy.poll), if free && !self.look => match self.something_due().await {
                Ok(look) => {
                    self.look = look;
                    outage.over("look into the queue");
                }
                Err(error) => {
                    let wait = outage.note("look into the queue", &error);
                    tokio::time::sleep(wait).await;
                }
            },
        }
    }

    /// Takes in acknowledgements for as long as they come one upon the other.
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

    /// Whether a claim could bring something: on a local file, only asked when another connection
    /// has written.
    async fn something_due(&mut self) -> Result<bool, BooksError> {
        let queue = &self.shared.queue;
        if queue.db.is_local() {
            let version = data_version(&queue.db).await?;
            if std::mem::replace(&mut self.version, version) == version {
                return Ok(false);
            }
        }
        let (due, next) = queue.peek(&self.shared.kinds.names()).await?;
        self.next_due = next;
        Ok(due || next.is_some_and(|next| next <= queue.clock.millis()))
    }
}

/// Whether the database will never take these very rows, whatever else is right with it.
fn refuses_the_row(error: &BooksError) -> bool {
    let signs = ["constraint", "too big", "datatype mismatch", "malformed JSON", "cannot store"];
    matches!(error, BooksError::Integrity(_))
        || matches!(error, BooksError::Sql(text) if signs.iter().any(|sign| text.contains(sign)))
}

/// Keeps the leases of this process, and takes over the jobs of processes that no longer keep
/// theirs.
pub(super) async fn keep_heartbeat(shared: Shared) {
    let (mut watch, mut outage) = (LeaseWatch::default(), OutageLog::default());
    let length = shared.by.lease;
    loop {
        let kept = async {
            keep_own(&shared).await?;
            rescue_expired(&shared, &mut watch).await
        };
        let wait = match kept.await {
            Ok(()) => {
                outage.over("keep leases");
                length / 4
            }
            Err(error) => outage.note("keep leases", &error).min(length / 8),
        };
        tokio::time::sleep(wait).await;
    }
}

async fn keep_own(shared: &Shared) -> Result<(), BooksError> {
    let Shared { queue, by, in_flight, phase, .. } = shared;
    let held = in_flight.all();
    if !held.is_empty() {
        let own = queue.heartbeat(by, &held).await?;
        for claim in &held {
            match own.get(&claim.seq) {
                Some(false) => {}
                Some(true) => claim.stop.tell(StopReason::Cancelled),
                None => claim.stop.tell(StopReason::Lost),
            }
        }
    }
    let Some(found) = queue.report_alive(shared).await? else {
        // another host, whose clock runs ahead, took the row for an old one
        return queue.register(shared).await;
    };
    if found > newest_schema_version() && !shared.stopping() {
        tracing::error!(found, "the database was migrated by a newer meter: this worker stops");
        phase.send_replace(Phase::Outdated(found));
    }
    Ok(())
}

async fn rescue_expired(shared: &Shared, watch: &mut LeaseWatch) -> Result<(), BooksError> {
    let queue = &shared.queue;
    let leases = queue.leases().await?;
    let held = shared.in_flight.all();
    let expired = watch.expired(&leases, shared.by.lease, queue.clock.millis(), Instant::now());
    let expired: Vec<_> =
        expired.into_iter().filter(|l| !held.iter().any(|c| c.seq == l.seq && c.lease == l.lease)).collect();
    let mut due = queue.requeue_stuck().await?;
    if !expired.is_empty() {
        for lease in &expired {
            tracing::warn!(job = lease.seq, worker = %lease.worker, "job {}: its worker {} is lost", lease.seq, lease.worker);
        }
        let taken = queue.rescue(&expired).await?;
        shared.metrics.leases_expired(taken);
        due += taken;
    }
    if due > 0 {
        queue.wake();
    }
    Ok(())
}

/// Removes what is finished for long, now and then.
pub(super) async fn clean(shared: Shared) {
    let mut outage = OutageLog::default();
    loop {
        tokio::time::sleep(UPKEEP * fastrand::u32(500..1500) / 1000).await;
        let Shared { queue, policy, .. } = &shared;
        let before = |kept: Duration| queue.now().checked_sub(kept).ok();
        let filter = |states: &[State], kept| Filter {
            states: states.to_vec(),
            finished_before: before(kept),
            ..Filter::default()
        };
        let tidied = async {
            queue.purge(&filter(&[State::Done, State::Cancelled], policy.keep_done)).await?;
            queue.purge(&filter(&[State::Dead], policy.keep_dead)).await?;
            queue.forget_workers(WORKERS_KEPT_MS).await
        };
        match tidied.await {
            Ok(()) => outage.over("remove finished jobs"),
            Err(error) => drop(outage.note("remove finished jobs", &error)),
        }
    }
}

impl Queue {
    /// Whether a job of these kinds is due, and when the next waiting one is.
    async fn peek(&self, kinds: &[&str]) -> Result<(bool, Option<i64>), BooksError> {
        let kinds = serde_json::to_string(kinds).map_err(|e| BooksError::Integrity(e.to_string()))?;
        self.db
            .with_connection(async move |c| {
                let sql = "SELECT EXISTS (SELECT 1 FROM json_each(?1) k JOIN jobs j ON j.kind = k.value AND j.state = 'pending'), \
                           (SELECT min(run_at) FROM jobs WHERE state IN ('scheduled', 'retrying'))";
                let mut rows = c.query(sql, params![kinds]).await?;
                let Some(row) = rows.next().await? else { return Ok((false, None)) };
                Ok((row.get::<i64>(0)? == 1, row.get(1)?))
            })
            .await
    }

    /// Says that this process is alive and what it does; returns the schema version of the
    /// database, or nothing when its row is gone.
    async fn report_alive(&self, shared: &Shared) -> Result<Option<i64>, BooksError> {
        let state = if shared.stopping() { "stopping" } else { "working" };
        let running = i64::try_from(shared.in_flight.len()).unwrap_or(i64::MAX);
        let (worker, now) = (shared.by.worker.clone(), self.clock.millis());
        self.db
            .with_connection(async move |c| {
                let sql = "UPDATE workers SET seen_at = ?2, running = ?3, state = ?4 WHERE id = ?1 \
                           RETURNING (SELECT max(version) FROM schema_versions)";
                let mut rows = c.query(sql, params![worker, now, running, state]).await?;
                Ok(rows.next().await?.map(|row| row.get(0)).transpose()?)
            })
            .await
    }

    /// Writes down that this process is there; safe to repeat.
    pub(super) async fn register(&self, shared: &Shared) -> Result<(), BooksError> {
        let names = serde_json::to_string(&shared.kinds.names()).map_err(|e| BooksError::Integrity(e.to_string()))?;
        let slots = i64::try_from(shared.policy.concurrency).unwrap_or(i64::MAX);
        let (id, now, who) = (shared.by.worker.clone(), self.clock.millis(), shared.who.clone());
        self.db
            .with_connection(async move |c| {
                let sql = "INSERT INTO workers (id, host, pid, version, kinds, concurrency, state, started_at, seen_at) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'working', ?7, ?7) ON CONFLICT DO NOTHING";
                c.execute(sql, params![id, who.host, who.pid, who.version, names, slots, now]).await?;
                Ok(())
            })
            .await
    }

    async fn forget_workers(&self, kept_ms: i64) -> Result<(), BooksError> {
        let before = self.clock.millis() - kept_ms;
        self.db
            .with_connection(async move |c| {
                c.execute("DELETE FROM workers WHERE seen_at < ?1", params![before]).await?;
                Ok(())
            })
            .await
    }
}
