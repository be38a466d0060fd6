//! The answer to a cursor, in which the rows come before the end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame};
use tokio::time::Sleep;

/// The body of an answer.
pub(super) struct CursorBody {
    /// The last part comes first.
    parts: Vec<Bytes>,
    held: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    /// Set when the end is sent.
    sent: Arc<AtomicBool>,
}

impl CursorBody {
    /// Holds the last two lines back, if they are to be held: the end of the last step, and what
    /// comes after all steps.
    pub(super) fn new(mut lines: Vec<Vec<u8>>, held: Duration, sent: Arc<AtomicBool>) -> Self {
        let end = if held.is_zero() { vec![] } else { lines.split_off(lines.len().saturating_sub(2).max(1)) };
        sent.store(held.is_zero(), SeqCst);
        Self { parts: vec![end.concat().into(), lines.concat().into()], held, wait: None, sent }
    }
}

impl Body for CursorBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let me = &mut *self;
        if me.parts.len() == 1 && !me.held.is_zero() {
            let wait = me.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(me.held)));
            ready!(wait.as_mut().poll(cx));
        }
        let part = me.parts.pop();
        if me.parts.is_empty() {
            me.sent.store(true, SeqCst);
        }
        Poll::Ready(part.filter(|part| !part.is_empty()).map(|part| Ok(Frame::data(part))))
    }
}
