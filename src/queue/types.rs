//! The rows of the queue, and a job to be enqueued.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use books::store::connection::Value;
use jiff::Timestamp;
use jobs::job::{Job, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// The states in which a job is not finished, as the partial indexes spell them.
pub(super) const OPEN: &str = "state IN ('pending', 'scheduled', 'running', 'retrying')";

/// A statement and its parameters.
pub(super) type Step = (String, Vec<Value>);

/// The source of the time; tests let it jump.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock for tests.
    pub fn of(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// Now, in milliseconds since 1970.
    pub(crate) fn millis(&self) -> i64 {
        self.now().as_millisecond()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// The states of a job; the database has the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It may run now.
    Pending,
    /// It may not run before its time, or before what it waits for is done.
    Scheduled,
    /// A worker has it.
    Running,
    /// It failed and will be tried again.
    Retrying,
    /// It ended with a report.
    Done,
    /// It was given up and needs attention.
    Dead,
    /// A person cancelled it.
    Cancelled,
}

impl JobState {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 7] =
        [Self::Pending, Self::Scheduled, Self::Running, Self::Retrying, Self::Done, Self::Dead, Self::Cancelled];

    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Scheduled => "scheduled",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// True when nothing more will happen to the job by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|s| s.as_str() == text);
        known.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|s| s.as_str()).collect();
            format!("`{text}` is no state of a job: {}", names.join(", "))
        })
    }
}

/// A job that waits for others, and the lease of its run that asked for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentJob {
    pub seq: i64,
    pub lease: i64,
}

/// A job to be enqueued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id, made before it is first sent, so that a repeated send is noticed.
    pub id: Ulid,
    pub kind: String,
    pub payload: String,
    /// The higher, the sooner; −100 to 100.
    pub priority: i64,
    /// Unique among unfinished jobs: enqueueing a second job with it returns the first.
    pub key: Option<String>,
    /// Jobs of one lane run one after another.
    pub lane: Option<String>,
    /// The job that waits for this one.
    pub parent: Option<ParentJob>,
    pub origin: String,
    pub run_at: Option<Timestamp>,
    /// Runs before it is given up.
    pub max_attempts: u32,
}

impl NewJob {
    /// A job that may run at once.
    pub fn new(kind: &str, payload: String, max_attempts: u32, origin: &str) -> Self {
        Self {
            id: Ulid::generate(),
            kind: kind.to_owned(),
            payload,
            priority: 0,
            key: None,
            lane: None,
            parent: None,
            origin: origin.to_owned(),
            run_at: None,
            max_attempts,
        }
    }

    /// The job that `job` describes, under its own key.
    pub fn of<J: Job>(job: &J, origin: &str) -> Result<Self, serde_json::Error> {
        let Request { kind, payload, key } = Request::of(job)?;
        Ok(Self { key, ..Self::new(kind, payload, J::MAX_ATTEMPTS, origin) })
    }
}

/// The answer to an enqueue.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Enqueued {
    /// Of the new job, or of the unfinished one that has its key.
    pub id: String,
    pub new: bool,
}

/// A row of the table `jobs`.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct JobRow {
    /// Its number, in the order of enqueueing.
    pub seq: i64,
    pub id: String,
    pub kind: String,
    pub payload: serde_json::Value,
    pub state: JobState,
    pub priority: i64,
    pub key: Option<String>,
    pub lane: Option<String>,
    /// The job that waits for it.
    pub parent: Option<i64>,
    pub origin: String,
    /// When it is due, while it waits for its time.
    pub run_at: Option<Timestamp>,
    pub attempts: i64,
    /// Runs before it is given up.
    pub max_attempts: i64,
    pub lease: i64,
    pub worker: Option<String>,
    /// True while it waits for its children.
    pub awaits: bool,
    /// Why the last run did not end with a report.
    pub reason: Option<String>,
    /// The report of the successful run.
    pub report: Option<serde_json::Value>,
    /// True when the report needs attention.
    pub attention: bool,
    pub enqueued_at: Timestamp,
    /// When its last run began.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Selects jobs.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of these ids or numbers; empty = any.
    pub ids: Vec<String>,
    /// Of these kinds; empty = any.
    pub kinds: Vec<String>,
    /// In these states; empty = any.
    pub states: Vec<JobState>,
    pub finished_before: Option<Timestamp>,
    pub origin: Option<String>,
    /// Only jobs with a report that needs attention.
    pub attention: bool,
    /// Only jobs that were enqueued before the job of this number.
    pub below: Option<i64>,
    /// Only jobs that contain this text, among the newest [`SEARCHED_JOBS`].
    pub text: Option<String>,
}

/// A text is searched in so many of the newest jobs: a search reads each of them.
pub const SEARCHED_JOBS: i64 = 10_000;

/// A run that failed, or that was lost with its worker.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct FailedRun {
    pub attempt: i64,
    pub worker: String,
    pub started_at: Option<Timestamp>,
    pub failed_at: Timestamp,
    pub reason: String,
}

/// A worker process, as of its last heartbeat.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct WorkerRow {
    pub id: String,
    pub host: String,
    pub pid: i64,
    pub version: String,
    /// The kinds that it runs.
    pub kinds: Vec<String>,
    /// Jobs that it runs at once.
    pub concurrency: i64,
    /// `working`, `stopping` or `stopped`.
    pub state: String,
    /// Jobs that it ran at its last heartbeat.
    pub running: i64,
    pub started_at: Timestamp,
    pub seen_at: Timestamp,
}

impl WorkerRow {
    /// None when it stopped. A worker is silent when `seen_at` is further from `now` than
    /// `silent_after`, in either direction.
    pub fn state_at(&self, now: Timestamp, silent_after: Duration) -> Option<WorkerState> {
        match self.state.as_str() {
            "stopped" => None,
            _ if now.duration_since(self.seen_at).unsigned_abs() > silent_after => Some(WorkerState::Silent),
            "stopping" => Some(WorkerState::Stopping),
            _ => Some(WorkerState::Working),
        }
    }

    /// Whether it neither stopped nor is silent.
    pub fn runs_at(&self, now: Timestamp, silent_after: Duration) -> bool {
        self.state_at(now, silent_after).is_some_and(|state| state != WorkerState::Silent)
    }
}

/// What a worker process is doing, as its row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    Working,
    Stopping,
    /// Without a heartbeat for longer than a worker that runs ever is.
    Silent,
}

impl WorkerState {
    pub const ALL: [Self; 3] = [Self::Working, Self::Stopping, Self::Silent];

    pub fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Stopping => "stopping",
            Self::Silent => "silent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_silent_after_the_bound_by_either_clock() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let seen = |state: &str, seconds: i64| {
            let worker = WorkerRow {
                id: "h:1:a".into(),
                host: "h".into(),
                pid: 1,
                version: "0".into(),
                kinds: vec![],
                concurrency: 1,
                state: state.into(),
                running: 0,
                started_at: now,
                seen_at: Timestamp::from_second(now.as_second() - seconds).unwrap(),
            };
            worker.state_at(now, Duration::from_secs(60))
        };
        for (state, seconds, is) in [
            ("working", 60, Some(WorkerState::Working)),
            ("working", 61, Some(WorkerState::Silent)),
            ("working", -60, Some(WorkerState::Working)),
            ("working", -61, Some(WorkerState::Silent)),
            ("stopping", 0, Some(WorkerState::Stopping)),
            ("stopping", 61, Some(WorkerState::Silent)),
            ("stopped", 0, None),
            ("stopped", 61, None),
        ] {
            assert_eq!(seen(state, seconds), is, "{state}, {seconds} s ago");
        }
    }
}
