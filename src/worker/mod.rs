//! A worker process: the tasks that stand between the queue's tables and the runs of one process.
//!
//! apalis drives the work (its worker polls, runs and drains); everything that must survive a crash is in
//! [`crate::queue`], because no backend that exists fits libSQL and what it has to promise. The tasks, named as in
//! River: [`dispatcher`] claims jobs and records outcomes, [`heartbeat`] renews leases, [`rescuer`] takes jobs from
//! workers that are lost, [`cleaner`] removes what is finished for long, [`schedule`] enqueues ticks, and
//! [`executor`] runs each job in a task of its own.
//!
//! * **Only free slots are claimed.** There is no buffer of claimed jobs that wait and whose leases run out meanwhile.
//! * **Leases are renewed by a task of their own**, not by the loop that runs jobs.
//! * **An expiry is seen, not computed.** A holder raises the job's `heartbeat`; who takes a job away has watched the
//!   heartbeat stand still on its own monotonic clock, as Kubernetes' leader election does. Wall clocks may jump:
//!   nobody's lease ends by that.
//! * **No error of the database ends a worker.** It is logged once, and tried again until it works.
//!
//! [`outcome`] is the one place where the ways in which a job may end become states.

mod backend;
mod cleaner;
mod dispatcher;
mod executor;
mod heartbeat;
mod in_flight;
mod kinds;
mod outage;
mod outcome;
mod process;
mod rescuer;
pub mod schedule;

pub use executor::{NewWorker, Tally, Worker};
pub use kinds::{Kind, Kinds, ValidatedPayload};
pub use outcome::RunOutcome;
pub use process::{Phase, RunUntil, Stopper, WorkerSettings};
