//! apalis' traits: a source of claimed jobs, and a layer that collects the outcomes.
//!
//! The source never fails: the dispatcher deals with the database, and passes on only jobs for
//! which this process has a free slot. When the dispatcher ends, the source is exhausted, and
//! apalis' worker drains and ends by itself.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::error::BoxDynError;
use apalis_core::task::Task;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tower_layer::Layer;
use tower_service::Service;

use crate::queue::{Claim, JobUpdate};

/// The end of a run. `finish` is `None` when this process no longer holds the job.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    pub(super) seq: i64,
    pub(super) lease: i64,
    pub(super) finish: Option<JobUpdate>,
}

/// The source of claimed jobs.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) claims: UnboundedReceiver<Claim>,
    pub(super) acks: UnboundedSender<Ack>,
}

impl Backend for Claims {
    type Task = Task<Claim>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.claims.poll_recv(cx).map(|claim| claim.map(|claim| Ok(task(claim))))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

/// The job as apalis' layers see it.
fn task(claim: Claim) -> Task<Claim> {
    let id = TaskId::from_string(claim.id.clone());
    let past = usize::try_from(claim.attempt.saturating_sub(1)).unwrap_or(0);
    let most = usize::try_from(claim.max_attempts).unwrap_or(usize::MAX);
    TaskBuilder::new(claim).task_id(id).attempt(past).max_attempts(most).build()
}

impl BackendConfig for Claims {
    type Args = Claim;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = AckLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> AckLayer {
        AckLayer(self.acks.clone())
    }
}

/// Sends each acknowledgement to the dispatcher.
#[derive(Clone, Debug)]
pub(super) struct AckLayer(UnboundedSender<Ack>);

impl<S> Layer<S> for AckLayer {
    type Service = AckService<S>;

    fn layer(&self, inner: S) -> AckService<S> {
        AckService { inner, acks: self.0.clone() }
    }
}

/// See [`AckLayer`].
#[derive(Clone, Debug)]
pub(super) struct AckService<S> {
    inner: S,
    acks: UnboundedSender<Ack>,
}

impl<S> Service<Task<Claim>> for AckService<S>
where
    S: Service<Task<Claim>, Response = Ack>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxDynError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Claim>) -> Self::Future {
        let acks = self.acks.clone();
        let running = self.inner.call(task);
        Box::pin(async move {
            let ack = running.await.map_err(Into::into)?;
            // the dispatcher ends last; without it the lease would expire and the job run again
            drop(acks.send(ack));
            Ok(())
        })
    }
}
