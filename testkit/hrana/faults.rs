//! What can go wrong on the way, by order.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use libsql_hrana::proto::{PipelineReqBody, StreamRequest};

/// The faults to be ordered. All of them are thread-safe and off at first. A reply is lost whether
/// its statements succeeded or failed.
#[derive(Default)]
pub struct Faults {
    commits: AtomicU32,
    later_commit: AtomicU32,
    writes: AtomicU32,
    expiries: AtomicU32,
    drops: AtomicU32,
    slow: Mutex<Duration>,
    per_mille: AtomicU32,
    state: Mutex<u64>,
    dealt: AtomicU64,
}

/// What happens to a request.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fate {
    Served,
    Dropped,
    Expired,
    Unanswered,
}

impl Faults {
    /// The next `n` requests with a COMMIT (also as a transactional batch) are executed. Then
    /// their TCP connection is closed without a reply.
    pub fn lose_commit_replies(&self, n: u32) {
        self.commits.store(n, SeqCst);
        self.later_commit.store(0, SeqCst);
    }

    /// Like [`Self::lose_commit_replies`], which ends it, for one request: the one after `passed`
    /// requests with a COMMIT.
    pub fn lose_commit_reply_after(&self, passed: u32) {
        self.later_commit.store(passed + 1, SeqCst);
    }

    /// Like [`Self::lose_commit_replies`], for the next `n` requests with an INSERT, UPDATE or
    /// DELETE outside of a transaction.
    pub fn lose_write_replies(&self, n: u32) {
        self.writes.store(n, SeqCst);
    }

    /// For the next `n` requests with a baton the stream has expired, and its transaction is
    /// rolled back.
    pub fn expire_streams(&self, n: u32) {
        self.expiries.store(n, SeqCst);
    }

    /// The TCP connection of the next `n` requests is closed before anything is executed.
    pub fn drop_requests(&self, n: u32) {
        self.drops.store(n, SeqCst);
    }

    /// Each round trip takes this long: a request waits before it is executed, and a new TCP
    /// connection before its first request.
    pub fn slow(&self, each: Duration) {
        *self.slow.lock().unwrap() = each;
    }

    /// From now on each request gets one of the faults above that can apply to it (never slowness)
    /// with this probability in per mille (0 = off). A seeded generator chooses.
    pub fn at_random(&self, per_mille: u32, seed: u64) {
        *self.state.lock().unwrap() = seed;
        self.per_mille.store(per_mille, SeqCst);
    }

    /// Number of faults so far, without slowness.
    pub fn dealt(&self) -> u64 {
        self.dealt.load(SeqCst)
    }

    /// Waits for the ordered time, and returns it.
    pub(super) async fn delay(&self) -> Duration {
        let each = *self.slow.lock().unwrap();
        if !each.is_zero() {
            tokio::time::sleep(each).await;
        }
        each
    }

    /// What happens to a request. `inside` a transaction only its COMMIT changes anything.
    pub(super) fn fate(&self, work: &PipelineReqBody, inside: bool) -> Fate {
        let stmts = work.requests.iter().flat_map(|request| match request {
            StreamRequest::Execute(r) => vec![&r.stmt],
            StreamRequest::Batch(r) => r.batch.steps.iter().map(|s| &s.stmt).collect(),
            _ => vec![],
        });
        let verbs: Vec<String> = stmts.filter_map(|s| s.sql.as_deref()).map(verb).collect();
        let any = |of: &[&str]| verbs.iter().any(|v| of.contains(&v.as_str()));
        let writes = !inside && !any(&["BEGIN"]) && any(&WRITES);
        self.choose(work.baton.is_some(), any(&["COMMIT", "END"]), writes)
    }

    fn choose(&self, baton: bool, commits: bool, writes: bool) -> Fate {
        let take = |left: &AtomicU32| left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok();
        let is_later = commits && take(&self.later_commit) && self.later_commit.load(SeqCst) == 0;
        let fate = if take(&self.drops) {
            Fate::Dropped
        } else if baton && take(&self.expiries) {
            Fate::Expired
        } else if is_later || commits && take(&self.commits) || writes && take(&self.writes) {
            Fate::Unanswered
        } else {
            let mut possible = vec![Fate::Dropped];
            possible.extend(baton.then_some(Fate::Expired));
            possible.extend((commits || writes).then_some(Fate::Unanswered));
            let chosen = self.draw(1000) < u64::from(self.per_mille.load(SeqCst));
            if chosen { possible[usize::try_from(self.draw(possible.len())).unwrap()] } else { Fate::Served }
        };
        self.dealt.fetch_add(u64::from(fate != Fate::Served), SeqCst);
        fate
    }

    /// The next number of a linear congruential generator. Its high bits are the better ones.
    fn draw(&self, below: usize) -> u64 {
        let mut state = self.state.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % u64::try_from(below).unwrap()
    }
}

const WRITES: [&str; 4] = ["INSERT", "REPLACE", "UPDATE", "DELETE"];
/// The verb of a statement. A WITH statement that contains the verb of a write counts as that
/// write.
fn verb(sql: &str) -> String {
    let words = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty());
    let mut words = words.map(str::to_ascii_uppercase);
    let first = words.next().unwrap_or_default();
    if first == "WITH" { words.find(|w| w != "REPLACE" && WRITES.contains(&&**w)).unwrap_or(first) } else { first }
}
