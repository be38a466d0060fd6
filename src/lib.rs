//! The machine around the work: how jobs are started, watched and stopped. What happens to the
//! books is in `jobs`.
//!
//! Each floor uses only those above it in this list, which is the reading order too: amounts and
//! exit codes for people ([`format`], `exit`), `report_sentence`, `visible`, `wording`, `tls`,
//! [`config`] (file and environment → checked values), `price_list` (AWS's), [`queue`] (the tables
//! of jobs), [`wiring`] (values → database, buckets, what jobs are given), [`health`] (what needs
//! attention), [`metrics`], [`worker`] (one process), [`ui`] and [`http`] (what a worker serves),
//! [`print`] (tables in a terminal), the demo, [`cli`] (one file for each command).
//! `tests/it/house.rs` checks it.

mod exit;
mod format;
mod report_sentence;
mod tls;
mod visible;
mod wording;

pub mod config;
pub mod plan_file;
mod price_list;
pub mod queue;
pub mod wiring;

pub mod margin;
pub mod statement;
pub mod statement_link;

pub mod health;
pub mod metrics;
pub mod worker;

pub mod http;
pub mod ui;

mod print;

#[cfg(feature = "demo")]
mod demo;

pub mod cli;
