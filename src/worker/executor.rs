//! A worker process: it registers itself, runs jobs until it is stopped, and hands back what it
//! cannot finish.

use std::any::Any;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use apalis_core::error::{BoxDynError, WorkerError};
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use books::BooksError;
use books::store::traffic::Traffic;
use jobs::context::Context;
use jobs::job::{Failure, Job as _, Request};
use jobs::probe::Probe;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument;

use super::backend::{Ack, Claims};
use super::cleaner::clean;
use super::dispatcher::Dispatcher;
use super::heartbeat;
use super::kinds::{Kind, Kinds};
use super::outcome::{RunOutcome, transition};
use super::process::{Phase, Shared, Stopper, WorkerSettings};
use super::row_counts;
use crate::format::{cost, report_lists, report_summary};
use crate::metrics::Metrics;
use crate::queue::{Backoff, Claim, Claimer, Identity, NewJob, ParentJob, Queue, StopReason, new_id};

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs that ended with a report.
    pub done: u64,
    /// Runs that will be tried again.
    pub retried: u64,
    /// Jobs that were given up.
    pub dead: u64,
    /// Jobs that were handed back.
    pub handed_back: u64,
}

/// What apalis hands to each run.
#[derive(Clone)]
struct Runner {
    shared: Shared,
    context: Context,
    tally: watch::Sender<Tally>,
}

/// What a worker is made of.
pub struct NewWorker {
    pub queue: Queue,
    /// What its jobs are given.
    pub context: Context,
    pub kinds: Kinds,
    pub settings: WorkerSettings,
    pub identity: Identity,
    pub metrics: Metrics,
}

/// A worker, ready to run.
pub struct Worker {
    shared: Shared,
    context: Context,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Worker").field(&self.shared.by.worker).finish()
    }
}

impl Worker {
    pub fn new(new: NewWorker) -> Self {
        let NewWorker { queue, context, kinds, settings, identity, metrics } = new;
        let worker = format!("{}:{}:{}", identity.host, identity.pid, new_id().split_off(18));
        let by = Claimer { worker, lease: settings.lease, due_kinds: kinds.due_kinds().into() };
        let (phase, _) = watch::channel(Phase::Working);
        let (in_flight, others_run) = Default::default();
        let shared = Shared { queue, by, kinds, settings, in_flight, others_run, phase, identity, metrics };
        Self { shared, context }
    }

    /// Registers this worker; safe to repeat.
    pub async fn register(&self) -> Result<(), BooksError> {
        self.shared.register().await
    }

    pub fn id(&self) -> &str {
        &self.shared.by.worker
    }

    pub fn stopper(&self) -> Stopper {
        self_stopper(&self.shared)
    }

    /// Whether this worker is stopping.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Runs jobs until it is stopped, or until nothing is due ([`RunUntil`](super::RunUntil)).
    ///
    /// # Errors
    /// When the database was migrated by a newer build meanwhile.
    pub async fn run(self) -> anyhow::Result<Tally> {
        let Self { shared, context } = self;
        let (ack, acks) = mpsc::unbounded_channel();
        let (claim, claims) = mpsc::unbounded_channel();
        let (tally, tallied) = watch::channel(Tally::default());
        let mut dispatcher = tokio::spawn(Dispatcher::new(shared.clone(), acks, claim).run());
        let heart = tokio::spawn(heartbeat::run(shared.clone()));
        let leases = heart.abort_handle();
        let stopper = self_stopper(&shared);
        tokio::spawn(async move {
            // without heartbeats this worker would lose its jobs one after another
            if heart.await.is_err_and(|e| e.is_panic()) {
                tracing::error!("the heartbeat task panicked: this worker stops");
                stopper.stop();
            }
        });
        let cleaner = tokio::spawn(clean(shared.clone())).abort_handle();
        let counts = tokio::spawn(row_counts::keep(shared.clone())).abort_handle();
        let grace = tokio::spawn(hand_back_after_grace(shared.clone())).abort_handle();
        let runner = Runner { shared: shared.clone(), context, tally };
        let worker = WorkerBuilder::new(shared.by.worker.as_str())
            .backend(Claims { claims, acks: ack })
            .data(runner)
            .build(handle);
        // the dispatcher ends when every outcome is written; then apalis' worker has nothing left
        // to drain
        let (gone, dispatched) = oneshot::channel();
        let ran = worker.run_until(async move {
            drop(gone.send((&mut dispatcher).await));
            Ok::<(), WorkerError>(())
        });
        let ran = ran.await;
        let dispatched = dispatched.await.context("apalis' worker ended before the dispatcher")?;
        for task in [leases, cleaner, counts, grace] {
            task.abort();
        }
        if let Err(error) = shared.queue.mark_stopped(&shared.by.worker).await {
            tracing::debug!(%error, "the worker's row stays as it is");
        }
        ran.map_err(|e| anyhow!("apalis' worker ended: {e}"))?;
        dispatched.context("the dispatcher ended")?;
        if let Phase::Outdated(found) = *shared.phase.borrow() {
            let known = books::newest_schema_version();
            bail!(
                "the database was migrated to schema version {found} by a newer meter, this one knows up to {known}; start the newer one"
            );
        }
        Ok(*tallied.borrow())
    }
}

fn self_stopper(shared: &Shared) -> Stopper {
    Stopper(shared.phase.clone())
}

/// Hands back the jobs that are not finished in the grace time after the stop.
async fn hand_back_after_grace(shared: Shared) {
    let mut phase = shared.phase.subscribe();
    if phase.wait_for(|p| *p != Phase::Working).await.is_ok() {
        tokio::time::sleep(shared.settings.grace).await;
        loop {
            shared.in_flight.stop_all(StopReason::HandBack);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The longest wait after a failure of a kind with something due.
const DUE_RETRY: Duration = Duration::from_secs(10);

/// Runs one claimed job. This is the function that apalis calls.
async fn handle(claim: Claim, runner: Data<Runner>) -> Result<Ack, BoxDynError> {
    let Runner { shared, context, tally } = &*runner;
    let (began, span) = (Instant::now(), span_of(&claim));
    let context = Context { books: context.books.counted(), ..context.clone() };
    let ended = match shared.kinds.get(&claim.kind) {
        Some(kind) => run(kind, &claim, shared, &context, &span).await,
        None => RunOutcome::Failed(Failure::GiveUp(anyhow!("this worker knows no kind `{}`", claim.kind))),
    };
    let (took, traffic) = (began.elapsed(), context.books.traffic());
    span.in_scope(|| log(&claim, &ended, took, traffic));
    let ended = ended.counted(traffic);
    let waited = Duration::from_millis(u64::try_from(claim.waited_ms).unwrap_or(0));
    let label = ended.label(&claim);
    shared.metrics.ran(&claim.kind, label, took, waited);
    let (finish, first) = transition(&claim, ended, backoff(shared, &claim.kind), fastrand::u32(0..=1000));
    if let Some(finish) = &finish {
        use crate::queue::JobState;
        tally.send_modify(|t| match finish.state {
            JobState::Done => t.done += 1,
            JobState::Dead | JobState::Cancelled => t.dead += 1,
            JobState::Pending => t.handed_back += 1,
            JobState::Scheduled | JobState::Running | JobState::Retrying => t.retried += 1,
        });
    }
    // a parent without enqueued children runs again by itself
    if !first.is_empty() {
        enqueue_children(shared, &claim, first).await;
    }
    Ok(Ack { seq: claim.seq, lease: claim.lease, finish })
}

/// Runs a job in a task of its own, so that a panic is caught, a time-out and a stop reach it, and
/// other jobs go on.
async fn run(kind: &Kind, claim: &Claim, shared: &Shared, context: &Context, span: &tracing::Span) -> RunOutcome {
    let fence = shared.queue.fence(claim, &shared.by.worker);
    let context = Context { books: context.books.fenced(fence), ..context.clone() };
    let job = kind.run(claim.payload.clone(), context, shared.queue.now(), shared.metrics.clone());
    let mut task = tokio::spawn(job.instrument(span.clone()));
    tokio::select! {
        ended = &mut task => ended.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => RunOutcome::Failed(Failure::Retry(anyhow!("it panicked: {}", panic_message(panic.as_ref())))),
            Err(error) => RunOutcome::Failed(Failure::Retry(error.into())),
        }),
        () = tokio::time::sleep(kind.timeout) => {
            task.abort();
            RunOutcome::Failed(Failure::Retry(anyhow!("it took longer than {} s", kind.timeout.as_secs())))
        }
        why = claim.stop.wait() => {
            task.abort();
            match why {
                StopReason::Lost => RunOutcome::Lost,
                StopReason::Cancelled => RunOutcome::Cancelled,
                StopReason::HandBack => RunOutcome::HandedBack,
            }
        }
    }
}

/// The span of a run's log lines: job and kind, and of a bill the export and the month.
fn span_of(claim: &Claim) -> tracing::Span {
    let payload: Value = serde_json::from_str(&claim.payload).unwrap_or_default();
    let (export, month) = (payload["export"].as_str(), payload["month"].as_str());
    // of the level error, so that every log level includes it
    tracing::error_span!("run", job = claim.seq, kind = claim.kind, export, month)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Enqueues the children of a job before its own outcome is recorded; the other order would lose
/// them in a crash.
async fn enqueue_children(shared: &Shared, claim: &Claim, first: Vec<Request>) {
    let jobs: Vec<NewJob> = first
        .into_iter()
        .map(|request| {
            let max_attempts = shared.kinds.get(request.kind).map_or(20, |k| k.max_attempts);
            let origin = format!("job {}", claim.seq);
            let job = NewJob::new(request.kind, request.payload, max_attempts, &origin);
            let parent = Some(ParentJob { seq: claim.seq, lease: claim.lease });
            NewJob { key: request.key, priority: claim.priority, parent, ..job }
        })
        .collect();
    if let Err(error) = shared.queue.enqueue(&jobs).await {
        tracing::warn!(job = claim.seq, %error, "job {}: what it waits for could not be enqueued: {error}", claim.seq);
    }
}

/// Whether a run found nothing to do: all that its report counts is nothing.
fn is_idle(report: &str) -> bool {
    let Ok(Value::Object(fields)) = serde_json::from_str(report) else { return false };
    let counts: Vec<bool> = fields
        .values()
        .filter_map(|value| match value {
            Value::Number(number) => Some(number.as_u64() == Some(0)),
            Value::Array(list) => Some(list.is_empty()),
            _ => None,
        })
        .collect();
    !counts.is_empty() && counts.into_iter().all(|is_zero| is_zero)
}

/// One line for each run.
fn log(claim: &Claim, ended: &RunOutcome, took: Duration, traffic: Traffic) {
    let Claim { seq: job, kind, attempt, max_attempts, waited_ms, .. } = claim;
    let ms = took.as_millis();
    let cost = cost(traffic).map_or(String::new(), |cost| format!(", {cost}"));
    let failed = matches!(ended, RunOutcome::Failed(_));
    let tries = if failed || *attempt > 1 { format!(", attempt {attempt} of {max_attempts}") } else { String::new() };
    let line = format!("job {job} {kind}, {ms} ms{cost}{tries}");
    match ended {
        RunOutcome::Report { attention: false, report } if kind != Probe::KIND && is_idle(report) => {
            tracing::debug!(job, kind, attempt, ms, waited_ms, "{line}: done; {}", report_summary(report));
        }
        RunOutcome::Report { attention: false, report } => {
            tracing::info!(job, kind, attempt, ms, waited_ms, "{line}: done; {}", report_summary(report));
        }
        RunOutcome::Report { attention: true, report } => {
            let (found, named) = (report_summary(report), report_lists(report));
            tracing::warn!(
                job,
                kind,
                attempt,
                ms,
                waited_ms,
                "{line}: done, and needs attention (`meter jobs show {job}`); {found}{named}"
            );
        }
        RunOutcome::Failed(failure @ Failure::WaitFor(..)) => {
            tracing::info!(job, kind, attempt, ms, "{line}: {:#}", failure.error());
        }
        RunOutcome::Failed(failure) => {
            let again = failure.is_retryable() && attempt < max_attempts;
            let what = if again { "failed, will be tried again" } else { "failed for good" };
            tracing::warn!(job, kind, attempt, ms, "{line}: {what}: {:#}", failure.error());
        }
        RunOutcome::HandedBack => tracing::info!(job, kind, attempt, ms, "{line}: handed back"),
        RunOutcome::Cancelled => tracing::info!(job, kind, attempt, ms, "{line}: cancelled"),
        RunOutcome::Lost => {
            tracing::warn!(job, kind, attempt, ms, "{line}: it lost its lease, another worker has the job")
        }
    }
}

/// The waits after failures. While a kind with something due is retried, nothing else does it.
fn backoff(shared: &Shared, kind: &str) -> Backoff {
    let Backoff { base, cap } = shared.settings.backoff;
    let is_due_kind = shared.by.due_kinds.iter().any(|due| due.kind == kind);
    Backoff { base, cap: if is_due_kind { cap.min(DUE_RETRY) } else { cap } }
}
