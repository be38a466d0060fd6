//! The machine around the work: how jobs are started, watched and stopped. What happens to the
//! books is in `jobs`.
//!
//! In reading order: [`config`] (file and environment → typed values), [`wiring`] (values →
//! database, buckets, `jobs::context::Context`), [`cli`] (one module for each command).

pub mod cli;
pub mod config;
pub mod http;
pub mod metrics;
pub mod page;
pub mod queue;
pub mod schedule;
pub mod standing;
mod tls;
pub mod wiring;
mod words;
