//! The durable queue: jobs in a table of the books' own database, and the workers that run them.
//!
//! apalis drives the work (its worker polls, runs and drains); everything that must survive a crash
//! is here, because no backend that exists fits libSQL and what it has to promise:
//!
//! * **A job has one holder.** A claim is one statement under the write lock. It raises the job's
//!   `lease`, the fencing token: a run that lost its lease cannot commit, because every writing
//!   transaction of a job first checks the token inside the transaction ([`Queue::fence`]). So a
//!   worker that was thought dead and was not changes nothing.
//! * **Only free slots are claimed.** There is no buffer of claimed jobs that wait and whose leases
//!   run out meanwhile.
//! * **Leases are kept by a task of their own**, not by the loop that runs jobs ([`keeper`]).
//! * **A lapse is seen, not computed.** A holder raises the job's `heartbeat`; who takes a job away
//!   has watched the heartbeat stand still on its own monotonic clock, as Kubernetes' leader
//!   election does. Wall clocks may jump: nobody's lease ends by that.
//! * **No error of the database ends a worker.** It is logged once, and tried again until it works.
//! * **A retry is a row, not a sleep**: it survives the process, holds no slot, and backs off.
//!
//! [`outcome`] is the one place where the ways in which a job may end become states. The SQL is in
//! [`store`] (what people and schedules do) and [`lease`] (what workers do). Over a remote database
//! each step is one statement that commits by itself; after an unclear reply the next step first
//! asks what became of the last one.

mod backend;
mod claim;
pub mod keeper;
pub mod kinds;
pub mod lease;
pub mod outcome;
mod row;
mod standing;
pub mod store;
pub mod worker;

pub use kinds::{Kind, Kinds};
pub use outcome::Backoff;
pub use row::{Clock, Enqueued, Filter, JobRow, NewJob, State, WorkerRow};
pub(crate) use standing::Counts;
pub use store::{Queue, enqueue_in};
