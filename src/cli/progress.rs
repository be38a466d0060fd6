//! Progress bars, on a terminal only.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jobs::context::{Context, Progress};
use jobs::ingest_cur::{IngestCur, IngestReport};
use jobs::job::{Failure, Job};

use crate::print;

/// Reads a bill with a bar.
pub(super) async fn ingest(job: IngestCur, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
    let title = format!("{} {}", job.export, job.month);
    reading(&title, &context.read_settings.progress, job.run(context, now)).await
}

/// Awaits `work` while a bar shows how much of a bill is read.
pub(super) async fn reading<T>(title: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let read = || {
        let bytes = progress.get();
        (bytes.done, bytes.total)
    };
    shown(title, "{msg} {bar:40} {bytes} of {total_bytes} {elapsed}", read, work).await
}

/// Awaits `work` while a bar shows how many rows of `total` are done.
pub(super) async fn rows<T>(title: &str, done: &AtomicU64, total: u64, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    shown(title, "{msg} {bar:40} {percent} % {elapsed}", || (done.load(Relaxed), total), work).await
}

async fn shown<T>(title: &str, form: &str, read: impl Fn() -> (u64, u64), work: impl Future<Output = T>) -> T {
    print::end_wait();
    let bar = ProgressBar::new(0).with_message(title.to_owned());
    let style = ProgressStyle::with_template(form);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                let (done, total) = read();
                bar.set_length(total);
                bar.set_position(done);
            }
        }
    };
    bar.finish_and_clear();
    result
}
