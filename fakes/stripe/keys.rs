//! Idempotency keys: the first answer of an execution is kept and replayed for a day.

use std::collections::{HashMap, VecDeque};

use crate::DAY;
use crate::answers::{self, Answer};

/// The most characters of a key.
const LONGEST: usize = 255;

/// The stored answer of a key.
struct Kept {
    fingerprint: u64,
    at: i64,
    in_flight: bool,
    answer: Answer,
}

/// All keys that have not expired.
#[derive(Default)]
pub(crate) struct Keys {
    kept: HashMap<String, Kept>,
    oldest_first: VecDeque<(i64, String)>,
}

impl Keys {
    /// The answer that a key already has: the stored one, or a refusal. None if the key is new.
    ///
    /// Returns both kinds of answer alike, with whether it is a replay.
    pub(crate) fn answer(&self, key: &str, fingerprint: u64, now: i64) -> Option<(Answer, bool)> {
        if key.chars().count() > LONGEST {
            let message = format!("Idempotency key may not be longer than {LONGEST} characters");
            return Some((answers::invalid(&message, None), false));
        }
        let kept = self.kept.get(key).filter(|kept| now - kept.at < DAY)?;
        if kept.fingerprint != fingerprint {
            return Some((answers::key_mismatch(key), false));
        }
        if kept.in_flight {
            return Some((answers::key_in_use(key), false));
        }
        Some((kept.answer.clone().with("idempotent-replayed", "true"), true))
    }

    /// Stores the answer of an execution.
    pub(crate) fn keep(&mut self, key: &str, fingerprint: u64, now: i64, in_flight: bool, answer: Answer) {
        while let Some((at, key)) = self.oldest_first.front() {
            if now - at < DAY {
                break;
            }
            if self.kept.get(key).is_some_and(|kept| kept.at == *at) {
                self.kept.remove(key);
            }
            self.oldest_first.pop_front();
        }
        self.oldest_first.push_back((now, key.to_owned()));
        self.kept.insert(key.to_owned(), Kept { fingerprint, at: now, in_flight, answer });
    }

    /// Notes that the first request of a key has been answered.
    pub(crate) fn land(&mut self, key: &str) {
        if let Some(kept) = self.kept.get_mut(key) {
            kept.in_flight = false;
        }
    }
}
