//! The rescuer: makes jobs due again when their worker is lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use books::BooksError;

use super::process::Shared;
use crate::queue::{Heartbeat, Lease};

pub(super) async fn rescue_expired(
    shared: &Shared,
    watch: &mut LeaseWatch,
    found: Heartbeat,
) -> Result<(), BooksError> {
    let queue = &shared.queue;
    let held = shared.in_flight.all();
    let expired = watch.expired(&found.leases, shared.by.lease, queue.clock.millis(), Instant::now());
    let expired: Vec<_> =
        expired.into_iter().filter(|l| !held.iter().any(|c| c.seq == l.seq && c.lease == l.lease)).collect();
    let mut due = found.requeued;
    if !expired.is_empty() {
        for lease in &expired {
            tracing::warn!(job = lease.seq, worker = %lease.worker, "job {}: its worker {} is lost", lease.seq, lease.worker);
        }
        let taken = queue.rescue(&expired).await?;
        shared.metrics.leases_expired(taken);
        due |= taken > 0;
    }
    if due {
        queue.notify_new_work();
    }
    Ok(())
}

/// Watches the heartbeats of leases on the monotonic clock of this process.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    /// By job and lease: the heartbeat, and for how long it was watched not to change.
    heartbeats: HashMap<(i64, i64), (i64, Duration)>,
    last_seen: Option<Instant>,
}

impl LeaseWatch {
    /// Expired leases. A lease has expired when its heartbeat was watched not to change for a full
    /// lease length, or for half of it if `lease_until` has passed as well. A long pause between
    /// two looks (the database was away or slow, the process slept) counts little, because the
    /// holder could not renew its lease either. It does count, or jobs on a slow database would
    /// never be rescued.
    fn expired(&mut self, leases: &[Lease], length: Duration, now_ms: i64, seen: Instant) -> Vec<Lease> {
        let pause = self.last_seen.map_or(Duration::ZERO, |last| seen.saturating_duration_since(last));
        let counted = if pause > length / 2 { length / 8 } else { pause };
        self.last_seen = Some(seen);
        let mut known = HashMap::new();
        let mut expired = vec![];
        for lease in leases {
            let key = (lease.seq, lease.lease);
            let still = match self.heartbeats.get(&key) {
                Some((heartbeat, still)) if *heartbeat == lease.heartbeat => *still + counted,
                _ => Duration::ZERO,
            };
            known.insert(key, (lease.heartbeat, still));
            if still >= length || (still >= length / 2 && lease.until < now_ms) {
                expired.push(lease.clone());
            }
        }
        self.heartbeats = known;
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    fn lease(heartbeat: i64, until: i64) -> Lease {
        Lease { seq: 7, lease: 1, heartbeat, until, worker: "w".into() }
    }

    /// Whether the lease has expired after `seconds` of watching a heartbeat that stands still
    /// every 5 s, at a wall clock of `now_ms`.
    fn after(seconds: u64, until: i64, now_ms: i64) -> bool {
        let (mut watch, start) = (LeaseWatch::default(), Instant::now());
        let times = (0..seconds).step_by(5).chain([seconds]);
        let found = times.map(|s| watch.expired(&[lease(3, until)], LENGTH, now_ms, start + Duration::from_secs(s)));
        found.last().is_some_and(|last| !last.is_empty())
    }

    #[test]
    fn a_wall_clock_alone_ends_no_lease() {
        let hour = 3_600_000;
        assert!(!after(0, 1000, 1000 + hour), "an hour forward, at the first reading");
        assert!(
            !after(14, 1000, 1000 + hour),
            "an hour forward, but the heartbeat was watched for less than half a lease"
        );
        assert!(after(15, 1000, 1001), "expired by the clock, and still for half a lease");
        assert!(!after(29, 1000 + hour, 1000), "an hour back: not yet");
        assert!(after(30, 1000 + hour, 1000), "an hour back: still for a whole lease all the same");
    }

    #[test]
    fn a_heartbeat_that_goes_on_never_expires() {
        let (mut watch, start) = (LeaseWatch::default(), Instant::now());
        for heartbeat in 0..20_u32 {
            let at = start + Duration::from_secs(u64::from(heartbeat) * 10);
            let found = watch.expired(&[lease(i64::from(heartbeat), 0)], LENGTH, i64::MAX, at);
            assert!(found.is_empty(), "heartbeat {heartbeat}");
        }
    }

    #[test]
    fn a_heartbeat_that_could_not_be_seen_is_watched_anew() {
        let (mut watch, start) = (LeaseWatch::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        watch.expired(&[lease(3, 0)], LENGTH, 1, at(0));
        assert!(watch.expired(&[lease(3, 0)], LENGTH, 1, at(70)).is_empty(), "the database was away for a minute");
        assert!(watch.expired(&[lease(3, 0)], LENGTH, 1, at(80)).is_empty());
        assert!(!watch.expired(&[lease(3, 0)], LENGTH, 1, at(90)).is_empty());
    }

    /// Guards against: a watch that begins anew at each look, because the database takes longer
    /// than half a lease to answer.
    #[test]
    fn a_slow_database_delays_a_rescue_and_does_not_prevent_it() {
        let (mut watch, start) = (LeaseWatch::default(), Instant::now());
        let looks = (0..20_u64).map(|n| watch.expired(&[lease(3, 0)], LENGTH, 1, start + Duration::from_secs(n * 20)));
        assert_eq!(looks.take_while(Vec::is_empty).count(), 4);
    }
}
