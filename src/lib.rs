//! The machine around the work: how jobs are started, watched and stopped. What happens to the
//! books is in `jobs`.
//!
//! Each floor uses only those above it in this list, which is the reading order too: [`config`] (file and
//! environment → typed values), [`queue`] (the tables of jobs), [`wiring`] (values → database, buckets, what jobs
//! are given), [`health`] (what needs a person), [`metrics`], [`worker`] (one process), [`ui`] and [`http`] (what a
//! worker serves), the demo, [`cli`] (one module for each command). `tests/it/tidy.rs` checks it.

mod format;
mod tls;

pub mod config;
pub mod queue;
pub mod wiring;

pub mod health;
pub mod metrics;
pub mod worker;

pub mod http;
pub mod ui;

pub mod cli;
