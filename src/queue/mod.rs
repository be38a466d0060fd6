//! The durable queue: jobs in a table of the books' own database. The processes that run them are
//! in [`crate::worker`].
//!
//! One file for each table: `jobs_table` (enqueue, list, retry, cancel, purge: what people,
//! schedules and jobs do), `leases` (claim, heartbeat, rescue, finish: what workers do with the
//! same table), `workers_table`, `schedules_table`; `stats` reads all of them for operators.
//! On a remote database each step is one request, and each statement of it commits by itself; after
//! an unclear reply the next step first reads what the last one did.
//!
//! * **A job has one holder.** A claim is one statement under the write lock. It raises the job's
//!   `lease`, the fencing token: a run that lost its lease cannot commit, because every writing
//!   transaction of a job first checks the token inside the transaction ([`Queue::fence`]). A
//!   worker that was wrongly thought dead changes nothing.
//! * **A retry is a row, not a sleep**: it survives the process, holds no slot, and backs off.

mod claim;
mod due_kinds;
mod ingest_runs;
mod jobs_table;
mod leases;
mod schedules_table;
mod stats;
mod types;
mod update;
mod workers_table;

pub use claim::Claim;
pub(crate) use claim::StopReason;
pub(crate) use due_kinds::{DueAt, DueKind};
pub(crate) use ingest_runs::ingest_runs;
pub use ingest_runs::{IngestRuns, LastEnd};
pub use jobs_table::{Queue, count, enqueue_in};
pub(crate) use jobs_table::{data_version, new_id, running_jobs};
pub(crate) use leases::{ClaimRequest, Claimer, Heartbeat, Lease, PollResult};
pub use schedules_table::LastTick;
pub use stats::{KindStats, QueueStats};
pub(crate) use stats::{finished, stats};
pub use types::{
    Clock, Enqueued, FailedRun, JobFilter, JobRow, JobState, NewJob, ParentJob, SEARCHED_JOBS, WorkerRow, WorkerState,
};
pub use update::{Backoff, JobUpdate};
pub use workers_table::Identity;
