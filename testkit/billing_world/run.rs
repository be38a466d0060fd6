//! Runs with faults, settles the world afterwards, and proves that invoices equal the books.

use std::collections::BTreeSet;
use std::ops::Range;

use fake_stripe::{Event, Fault, InvoiceLine};
use jobs::job::{Failure, Mode};
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods;
use jobs::sync_stripe::{SyncScope, sync};

use super::scene::{CUSTOMERS, DAY, HOUR, METERS, at};
use super::world::BillingWorld;

/// The bills of a customer's last weeks rise, or fall by no more than was booked.
pub async fn use_some(world: &BillingWorld, rng: &mut fastrand::Rng, who: usize, now: i64) {
    for _ in 0..rng.u8(0..4) {
        let (meter, day) = (METERS[rng.usize(0..2)], now / DAY - 1 - rng.i64(0..40).min(rng.i64(0..40)));
        if day >= world.begins[who] / DAY {
            let there = world.usage(who, meter, day);
            let down = there > 0 && rng.u8(0..3) == 0;
            let amount = if down { -rng.i64(1..=there) } else { rng.i64(1..2_000_000_000_000) };
            world.book(who, meter, day, amount).await;
        }
    }
}

/// A fault for a call, of the network or the server, or none.
fn fault(rng: &mut fastrand::Rng, seen: &fake_stripe::Seen) -> Option<Fault> {
    let is_event = seen.path.ends_with("meter_events");
    let positive = seen.form.get("payload[value]").is_some_and(|v| !v.starts_with('-'));
    Some(match rng.u8(0..16) {
        0 => Fault::RateLimited { retry_after: rng.bool().then_some(7) },
        1 => Fault::LockTimeout,
        2 => Fault::KeyInUse,
        3 => Fault::ErrorBefore(500),
        4 => Fault::ErrorAfter(500),
        5 => Fault::HtmlBefore,
        6 => Fault::HtmlAfter,
        7 if rng.u8(0..4) == 0 => Fault::HangBefore,
        8 if rng.u8(0..4) == 0 => Fault::HangAfter,
        9 => Fault::ResetBefore,
        10 => Fault::ResetAfter,
        11 => Fault::ResetInBody,
        12 => Fault::OddBody,
        13 if rng.u8(0..4) == 0 => Fault::Unauthorized,
        14 => Fault::ErrorBefore(503),
        15 if is_event && positive && rng.u8(0..4) == 0 => Fault::LateReject,
        _ => return None,
    })
}

/// A push. It may be killed at a request.
pub async fn push(world: &BillingWorld, rng: &mut fastrand::Rng, now: i64, faulty: bool) {
    let run = jobs::push_stripe::push(&world.context.books, &world.context.billing, at(now));
    run_with_faults(world, rng, faulty, run).await;
}

/// A run that calls Stripe. It may be killed at a request. Returns whether it ended well.
pub async fn run_with_faults<T>(
    world: &BillingWorld,
    rng: &mut fastrand::Rng,
    faulty: bool,
    run: impl Future<Output = Result<T, Failure>>,
) -> bool {
    let mut dice = rng.fork();
    let share = if faulty { rng.u8(5..60) } else { 0 };
    let kill_at = (faulty && rng.u8(0..4) == 0).then(|| rng.u64(1..8));
    let (killer, killed) = tokio::sync::oneshot::channel::<()>();
    let (mut killer, mut count) = (Some(killer), 0);
    world.stripe.world().set_faults(move |seen| {
        count += 1;
        if kill_at.is_some_and(|n| count >= n) {
            // the run is killed, so it does not receive this answer
            drop(killer.take());
            return Some(if dice.bool() { Fault::HangAfter } else { Fault::HangBefore });
        }
        (dice.u8(0..100) < share).then(|| fault(&mut dice, seen)).flatten()
    });
    let good = tokio::select! {
        biased;
        _ = killed, if kill_at.is_some() => false,
        // it may end in any way: only the final state is checked
        ended = run => {
            let good = ended.is_ok();
            if !faulty {
                well(ended);
            }
            good
        }
    };
    world.stripe.world().clear_faults();
    if faulty {
        // no request of this run may arrive hours later by the clock of the history
        world.stripe.stop().await;
        world.stripe.resume().await.unwrap();
    }
    good
}

/// Checks that a run succeeded, or failed because a busy machine exceeded the short time-out of
/// the tests. The next run repairs that.
pub fn well<T>(ended: Result<T, Failure>) {
    if let Err(failure) = ended {
        assert!(failure.is_retryable(), "{:#}", failure.error());
    }
}

/// Lets time pass without faults until nothing more can happen: twice the day and more that an
/// unconfirmed event takes.
pub async fn settle(world: &BillingWorld, rng: &mut fastrand::Rng, mut now: i64) {
    let until = now + 9 * DAY;
    while now < until {
        world.stripe.world().set_now(now);
        well(world.sync(now, SyncScope::All).await);
        roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await.unwrap();
        push(world, rng, now, false).await;
        well(reconcile(&world.context, at(now), None).await);
        now += 25 * HOUR;
    }
}

impl BillingWorld {
    /// Reads subscriptions, and notes whether all of it was answered.
    pub async fn sync(&self, now: i64, scope: SyncScope) -> Result<(), Failure> {
        sync(&self.context.books, &self.context.billing, at(now), scope).await?;
        self.synced.lock().unwrap().push(now);
        Ok(())
    }

    /// Whether Stripe began the period of an invoice without an announcement, and got a correction
    /// for it before the worker had read of it.
    fn was_corrected_unread(&self, who: usize, stripe_customer: &str, line: &InvoiceLine) -> bool {
        let read = self.synced.lock().unwrap().iter().copied().find(|at| *at >= line.start).unwrap_or(i64::MAX);
        let unread = line.start..line.end.min(read);
        let stripe = self.stripe.world();
        self.facts(who).unannounced.contains(&line.start)
            && stripe.events().iter().any(|e| {
                e.customer == stripe_customer
                    && e.event_name == line.event_name
                    && e.value.is_sign_negative()
                    && unread.contains(&e.timestamp)
            })
    }
}

/// Number of histories of a test if `METER_TEST_HISTORIES` is not set.
const HISTORIES: u64 = 600;

/// The worlds that a test of random histories runs, by their seeds.
///
/// A world has one history for each customer. `METER_TEST_HISTORIES=n` sets the number of
/// histories: 600 by default, and 10,200 before a larger change of billing. `METER_TEST_SEED=n`
/// runs one world again.
pub struct Worlds {
    pub seeds: Range<u64>,
    /// Whether there are enough worlds to expect that everything has happened.
    are_many: bool,
}

impl Worlds {
    /// The number of worlds that the environment asks for; a test of slow worlds runs one in
    /// `one_in` of them.
    pub fn from_environment(one_in: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
        };
        if let Some(seed) = number("METER_TEST_SEED") {
            return Self { seeds: seed..seed + 1, are_many: false };
        }
        let histories = number("METER_TEST_HISTORIES").unwrap_or(HISTORIES);
        let worlds = histories.div_ceil(3 * one_in);
        Self { seeds: 0..worlds, are_many: histories >= HISTORIES }
    }

    /// Checks that `what` happened at least once in `one_in` worlds, with `n` times in all:
    /// histories without faults would prove nothing. A few worlds need not have it.
    pub fn assert_saw(&self, what: &str, n: u64, one_in: u64) {
        let worlds = self.seeds.end - self.seeds.start;
        assert!(!self.are_many || n * one_in >= worlds, "too few are {what}: {n} in {worlds} worlds");
    }
}

/// Runs a history for each seed, eight at a time.
pub async fn each<F: Future<Output = ()> + Send + 'static>(seeds: Range<u64>, history: impl Fn(u64) -> F) {
    let mut running = tokio::task::JoinSet::new();
    for seed in seeds {
        if running.len() >= 8 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(history(seed));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

/// Checks that no event is open, that none was counted twice, and that invoices and deferred
/// amounts add up to the books' targets. Returns the sum of the events that lost books sent too
/// late for their invoice. The new books cannot see that, so this amount is never billed.
pub async fn check(world: &BillingWorld, again: &str) -> i64 {
    let sql = "SELECT seq, customer, meter, period_start, billed_start, timestamp, value, state, maybe_applied, attempts, first_attempt_at, last_attempt_at, \
               settled_at, error FROM meter_events ORDER BY seq";
    let mut stored = world.rows(sql).await;
    stored.extend(
        world
            .rows("SELECT 'subscription', id, status, anchor_at, started_at, ended_at, updated_at FROM subscriptions")
            .await,
    );
    stored
        .extend(world.rows("SELECT 'period', starts_at, ends_at, subscription, closed_at FROM billing_periods").await);
    stored.extend(world.rows("SELECT 'total', * FROM billing_targets").await);
    let stored = stored.join("\n");
    let fail = |what: &str| -> ! {
        let events = world.stripe.world().events().iter().map(|e| format!("{e:?}")).collect::<Vec<_>>().join("\n");
        panic!("{what}\nagain with: {again}\n{stored}\n{events}");
    };
    let open = world.rows("SELECT seq, state, value, error FROM meter_events WHERE state IN ('pending', 'sending', 'unconfirmed', 'refused')").await;
    if !open.is_empty() {
        fail(&format!("not settled: {open:?}"));
    }
    let alarms =
        world.rows("SELECT customer, meter, period_start, alarm_kind, alarm_shortfall FROM billing_targets WHERE alarm_kind IS NOT NULL").await;
    if !alarms.is_empty() {
        fail(&format!("alarms: {alarms:?}"));
    }
    let (lost, counts, invoices) = {
        let stripe = world.stripe.world();
        let mut identifiers = BTreeSet::new();
        for event in stripe.events().to_vec() {
            if !identifiers.insert(event.identifier.clone()) {
                drop(stripe);
                fail(&format!("{} was counted twice", event.identifier));
            }
        }
        let of_customer = |who| {
            let at_stripe = world.facts(who).at_stripe.clone();
            let invoices = |id: String| stripe.invoices(&id).into_iter().map(move |line| (id.clone(), line));
            at_stripe.into_iter().flat_map(invoices).collect::<Vec<_>>()
        };
        (stripe.lost(), stripe.counts(), (0..CUSTOMERS.len()).map(of_customer).collect::<Vec<_>>())
    };
    // events that were sent before the end of their subscription was known are on no invoice, and
    // the books know these events
    let sql = "SELECT identifier FROM meter_events WHERE state = 'accepted' AND seq NOT IN (SELECT seq FROM event_invoices) ORDER BY 1";
    let stray = world.rows(sql).await;
    let known: BTreeSet<String> =
        world.rows("SELECT identifier FROM meter_events WHERE state = 'accepted'").await.into_iter().collect();
    // Events that are on no invoice although Stripe's totals include them, of two kinds. Lost
    // books sent an event to a final invoice, because they did not know that its subscription had
    // ended. Or an event had attempts before and after the end of an invoice, and this end became
    // known only later: the books cannot tell which attempt Stripe took. It counts as billed,
    // because otherwise it could be billed twice.
    let sql = "SELECT i.identifier FROM meter_events i JOIN invoiced_periods p ON p.customer = i.customer AND p.starts_at <= i.timestamp \
               AND p.ends_at > i.timestamp WHERE i.state = 'accepted' AND i.maybe_applied = 1 AND i.attempts > 1 \
               AND i.taken_at < p.ends_at + 3600 AND i.last_attempt_at >= p.ends_at + 3600";
    let either: BTreeSet<String> = world.rows(sql).await.into_iter().collect();
    let unseen = |e: &&Event| !known.contains(&e.identifier) || either.contains(&e.identifier);
    let late: Vec<Event> = lost.iter().filter(unseen).cloned().collect();
    // one that went to a Stripe customer whose subscription had ended is planned again
    let again = world.rows("SELECT identifier FROM meter_events WHERE state = 'not_received' AND attempts > 0").await;
    let mut lost: Vec<String> = lost.into_iter().map(|e| e.identifier).collect();
    lost.retain(|identifier| !either.contains(identifier) && !again.contains(identifier));
    lost.sort();
    // after a restore the books need not know the events that the lost books sent there
    let restored = !world.rows("SELECT 1 FROM audit_log WHERE action = 'restore begin'").await.is_empty();
    if lost != stray && !restored {
        fail(&format!("on no invoice: {lost:?}, the books say {stray:?}"));
    }
    if counts.concurrent_refused > 0 {
        fail("two calls of one customer and meter were under way at once");
    }
    if let Err(what) = world.without_period_differs().await.and(world.figures_differ().await) {
        fail(&what);
    }
    let mut never_billed = 0;
    for (who, name) in CUSTOMERS.into_iter().enumerate() {
        let targets = world.differs(who).await.unwrap_or_else(|what| fail(&what));
        let at_stripe = world.facts(who).at_stripe.clone();
        for (at, meter) in METERS.into_iter().enumerate() {
            let is_own = |e: &&Event| at_stripe.contains(&e.customer) && e.event_name == world.event_name(meter);
            let (mut below, mut unforeseen, mut billed, mut never) = (false, false, 0, 0);
            let lines = invoices[who].iter().filter(|(_, line)| line.event_name == world.event_name(meter));
            // the sum of each invoice is the sum of its events
            for (stripe_customer, line) in lines {
                let sum = i64::try_from(line.sum).unwrap();
                let is_final = world.stripe.world().now() >= line.end + world.context.billing.grace;
                billed += if is_final { i64::try_from(line.quantity).unwrap() } else { sum };
                below |= sum < 0;
                unforeseen |= sum < 0 && world.was_corrected_unread(who, stripe_customer, line);
                let ours = world.accepted_on(meter, line, stripe_customer).await;
                let on_it =
                    |e: &&Event| e.customer == *stripe_customer && (line.start..line.end).contains(&e.timestamp);
                let late: i64 = late.iter().filter(is_own).filter(on_it).map(|e| i64::try_from(e.value).unwrap()).sum();
                if ours != sum + late {
                    fail(&format!("{name} {meter}: {late} came late, events say {ours}, the invoice is {line:?}"));
                }
                never += late;
            }
            let reported = late.iter().filter(is_own).filter(|e| either.contains(&e.identifier));
            let reported: i64 = reported.map(|e| i64::try_from(e.value).unwrap()).sum();
            // an invoice is below zero only if events that Stripe had taken were missing later, or
            // a correction was sent before the worker could read that Stripe had begun a period
            let name_at_stripe = world.event_name(meter);
            let by_stripe = world.stripe.world().late_rejected().iter().any(|e| e.event_name == name_at_stripe);
            if below && !unforeseen && world.rejected(who, meter).await == 0 && !(restored && by_stripe) {
                fail(&format!("{name} {meter}: an invoice is below zero"));
            }
            // the usage of each period is billed or deferred, and all of it is on an invoice
            let (mut all, mut all_deferred) = (0, 0);
            for (period, targets) in &targets {
                let (accepted, deferred) = world.sent_for(who, meter, period).await;
                let target = targets[at];
                if !below && accepted + deferred != target {
                    fail(&format!(
                        "{name} {meter}: {target} for {period:?}, and {accepted} accepted + {deferred} deferred"
                    ));
                }
                all += target;
                all_deferred += deferred;
            }
            // all usage that was ever booked is in one of the four parts
            let (booked, parts) = (world.booked(who, meter), world.parts(who, meter).await);
            if world.facts(who).has_row && booked != parts {
                fail(&format!("{name} {meter}: {booked} was booked, and the parts of the targets are {parts}"));
            }
            never_billed += never - reported;
            if billed + all_deferred + never != all {
                fail(&format!(
                    "{name} {meter}: {all} should be billed, invoices have {billed}, {all_deferred} is deferred, {never} came late"
                ));
            }
        }
    }
    never_billed
}
