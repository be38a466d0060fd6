//! How much one transaction writes.
//!
//! A server ends a write transaction after seconds, and other writers wait for it, so large work is
//! cut into transactions by the time that they take.

use std::time::Duration;

use tokio::time::Instant;

/// How long a transaction of large work should take.
const WANTED: Duration = Duration::from_millis(250);

/// The number of rows in the next transaction of large work.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rows: usize,
    least: usize,
    most: usize,
}

impl Pace {
    /// Begins with `least` rows: with fewer, the round trips of a transaction would cost more than
    /// its rows. No transaction has more than `most`.
    pub const fn new(least: usize, most: usize) -> Self {
        Self { rows: least, least, most }
    }

    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The same as a LIMIT of SQL.
    pub fn limit(&self) -> u32 {
        u32::try_from(self.rows).unwrap_or(u32::MAX)
    }

    /// Takes the rows of the next transaction from the front of `rest`.
    pub fn take<'a, T>(&self, rest: &mut &'a [T]) -> &'a [T] {
        let (some, later) = rest.split_at(self.rows.min(rest.len()));
        *rest = later;
        some
    }

    /// Learns from a transaction of `rows` rows that began at `start`. The next one is at most
    /// twice and at least a quarter as large.
    pub fn learn(&mut self, rows: usize, start: Instant) {
        let took = start.elapsed().as_micros().max(1);
        let wanted = WANTED.as_micros().saturating_mul(u128::try_from(rows).unwrap_or(u128::MAX)) / took;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        self.rows = wanted.clamp(rows / 4, rows.saturating_mul(2)).clamp(self.least, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_transaction_is_followed_by_a_smaller_one() {
        let mut pace = Pace::new(200, 5000);
        let ago = |ms| Instant::now().checked_sub(Duration::from_millis(ms)).unwrap();
        for _ in 0..10 {
            pace.learn(pace.rows(), Instant::now());
        }
        assert_eq!(pace.rows(), 5000);
        pace.learn(4000, ago(500));
        assert!((1900..=2000).contains(&pace.rows()), "{pace:?}");
        pace.learn(pace.rows(), ago(60_000));
        assert!((475..=500).contains(&pace.rows()), "{pace:?}");
        pace.learn(pace.rows(), ago(60_000));
        assert_eq!(pace.rows(), 200, "round trips must not eat the time");
        pace.learn(1, Instant::now());
        assert_eq!(pace.rows(), 200);
    }
}
