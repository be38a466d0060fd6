//! Random histories of metering and billing, with everything going wrong that can: after the dust
//! has settled, Stripe's invoices add up to what the books say, plus what is visibly deferred;
//! nothing twice, nothing lost.
//!
//! A history is a customer's usage on two meters over weeks, restated up and down, while periods
//! roll over, subscriptions end, runs are killed in the middle, answers are lost, broken or late,
//! and workers are away for a week. Three customers share a world, which is made from its seed; the
//! fake at the other end keeps Stripe's own books. `billing_world::run::Worlds` says how many there
//! are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fake_stripe::Recorded;
use jobs::job::Mode;
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::{SyncScope, sync};
use testkit::billing_world::run::{Worlds, check, each, push, settle, use_some};
use testkit::billing_world::{BillingWorld, CUSTOMERS, DAY, HOUR, Template, at};
use testkit::judge::{judge, shape};

/// What happened over all worlds.
#[derive(Debug, Default)]
struct Seen {
    /// Requests that look different: the judge would say the same of the others.
    shapes: BTreeMap<String, Recorded>,
    requests: usize,
    /// Meter events by state, whether Stripe may have them, and whether they were carried forward.
    events: BTreeMap<String, u64>,
    deferred: u64,
}

async fn history(template: &Template, seed: u64, seen: &Mutex<Seen>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let begin = 1_767_225_600 + rng.i64(0..40) * DAY + rng.i64(0..DAY);
    let world = BillingWorld::new(template, &mut rng, begin).await;
    let mut now = begin + HOUR;
    let end = now + rng.i64(7..36) * DAY;
    let mut cancels = CUSTOMERS.map(|_| (rng.u8(0..7) == 0).then(|| now + rng.i64(2..30) * DAY));
    while now < end {
        world.stripe.world().set_now(now);
        for (who, cancel) in cancels.iter_mut().enumerate() {
            use_some(&world, &mut rng, who, now).await;
            if cancel.is_some_and(|t| t <= now) {
                *cancel = None;
                world.stripe.world().cancel_subscription(&format!("sub_{who}"));
            }
        }
        if rng.u8(0..3) > 0 {
            let scope = if rng.bool() { SyncScope::All } else { SyncScope::Changed };
            drop(sync(&world.context.books, &world.context.billing, at(now), scope).await);
        }
        drop(roll(&world.context.books, at(now), Mode::Write).await);
        push(&world, &mut rng, now, true).await;
        if rng.u8(0..3) == 0 {
            drop(reconcile(&world.context, at(now), None).await);
        }
        // hours mostly, now and then an outage of a week
        now += if rng.u8(0..25) == 0 { rng.i64(5..9) * DAY } else { rng.i64(600..70 * HOUR) };
    }
    settle(&world, &mut rng, now).await;
    let late = check(&world, &format!("METER_TEST_SEED={seed} cargo test -p jobs --test it histories")).await;
    assert_eq!(late, 0, "these books know what they sent");
    let sql = "SELECT state || iif(maybe_applied, ' after maybe applied', '') || iif(value < 0, ' negative', '') || iif(billed_start > period_start, ' carried', '') FROM meter_events";
    let (events, deferred) =
        (world.rows(sql).await, world.rows("SELECT 1 FROM billing_targets WHERE deferred_reason = 'below_zero'").await);
    let requests = world.stripe.world().take_requests();
    let mut seen = seen.lock().unwrap();
    seen.requests += requests.len();
    seen.deferred += u64::try_from(deferred.len()).unwrap();
    for kind in events {
        *seen.events.entry(kind).or_default() += 1;
    }
    for request in requests {
        seen.shapes.entry(shape(&request)).or_insert(request);
    }
}

#[test]
fn whatever_goes_wrong_invoices_equal_the_books() {
    let worlds = Worlds::from_environment(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (template, seen) = (Arc::new(Template::new().await), Arc::new(Mutex::new(Seen::default())));
        each(worlds.seeds.clone(), |seed| {
            let (template, seen) = (Arc::clone(&template), Arc::clone(&seen));
            async move { history(&template, seed, &seen).await }
        })
        .await;
        let seen = seen.lock().unwrap();
        println!(
            "{} requests, {} amounts below zero deferred, events: {:#?}",
            seen.requests, seen.deferred, seen.events
        );
        judge(&seen.shapes.values().cloned().collect::<Vec<_>>());
        for kind in [
            "not_received after maybe applied",
            "accepted after maybe applied",
            "not_received",
            "accepted carried",
            "accepted negative carried",
        ] {
            worlds.assert_saw(kind, seen.events.get(kind).copied().unwrap_or(0), 10);
        }
        worlds.assert_saw("deferred below zero", seen.deferred, 200);
    });
}
