//! A worker process: the tasks between the queue's tables and the runs of one process.
//!
//! apalis drives the work: its worker polls, runs and drains. Everything that must survive a crash
//! is in [`crate::queue`], because no existing backend fits libSQL and these promises. The tasks,
//! named as in River: `dispatcher` claims jobs and records outcomes, `heartbeat` renews leases,
//! `rescuer` takes jobs from lost workers, `cleaner` removes old finished jobs, [`schedule`]
//! enqueues ticks, [`findings`] notes what the operator gets messages about, and `executor` runs
//! each job in a task of its own.
//!
//! * **Only free slots are claimed.** No buffer holds claimed jobs while their leases run out.
//! * **Leases are renewed by a task of their own**, not by the loop that runs jobs.
//! * **An expiry is observed, not computed.** A holder raises the job's `heartbeat`. The rescuer
//!   takes a job only after it has watched the heartbeat stand still on its own monotonic clock, as
//!   Kubernetes' leader election does. A wall clock that jumps ends no lease.
//! * **No error of the database ends a worker.** It is logged once, and retried until it works.
//!
//! `outcome` is the one place where outcomes of runs become states of jobs.

mod backend;
mod cleaner;
mod dispatcher;
mod executor;
pub mod findings;
mod heartbeat;
mod in_flight;
mod kinds;
mod outage;
mod outcome;
mod process;
mod rescuer;
mod row_counts;
pub mod schedule;

pub use executor::{NewWorker, Tally, Worker};
pub use kinds::{Kind, Kinds, ValidatedPayload};
pub use outcome::RunOutcome;
pub use process::{Phase, RunUntil, Stopper, WorkerSettings};
