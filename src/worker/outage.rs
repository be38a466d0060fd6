//! One log line when the database stops working, one when it works again, and the waits between
//! tries.

use std::time::{Duration, Instant};

use books::BooksError;

/// Waits between tries while the database does not work.
const OUTAGE_WAITS: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400), Duration::from_secs(1)];

/// Waits while the database refuses everything, which only a person can end.
const QUOTA_WAITS: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(30), Duration::from_secs(60)];

/// Logs the beginning and the end of an outage, once each.
#[derive(Debug, Default)]
pub(super) struct OutageLog {
    pub(super) since: Option<Instant>,
    blocked: bool,
    tries: usize,
}

impl OutageLog {
    /// Notes a failure; returns how long to wait before the next try.
    pub(super) fn note(&mut self, what: &str, error: &BooksError) -> Duration {
        let blocked = matches!(error, BooksError::Quota(_));
        // another reason is another log line
        if self.since.is_none() || self.blocked != blocked {
            self.since.get_or_insert_with(Instant::now);
            (self.blocked, self.tries) = (blocked, 0);
            // the heartbeat alone logs that everything is refused
            if !blocked {
                tracing::warn!(%error, "cannot {what}, trying until it works: {error}");
            }
        }
        let waits = if blocked { QUOTA_WAITS } else { OUTAGE_WAITS };
        let wait = waits[self.tries.min(waits.len() - 1)];
        self.tries += 1;
        let permille = fastrand::u32(500..1000);
        wait * permille / 1000
    }

    pub(super) fn ended(&mut self, what: &str) {
        if let Some(since) = self.since.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, tries = self.tries, "can {what} again, after {seconds} s and {} tries", self.tries);
            self.tries = 0;
        }
    }
}
