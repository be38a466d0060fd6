//! Random histories of metering and billing, with everything going wrong that can: after the dust
//! has settled, Stripe's invoices add up to what the books say, plus what is visibly deferred;
//! nothing twice, nothing lost.
//!
//! A history is a customer's usage on two meters over weeks, restated up and down, while periods
//! roll over, subscriptions end, begin again and get other anchors, plans and budgets change, rows
//! and Stripe ids become known late, runs are killed in the middle, answers are lost, broken or
//! late, and workers are away for a week. Three customers share a world, which is made from its
//! seed. The fake at the other end keeps Stripe's own books, and `billing_world::model` knows what
//! is owed. `billing_world::run::Worlds` says how many worlds there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use books::limits::overage_billing::OverageBilling;
use fake_stripe::{InvoiceLine, Recorded};
use jobs::job::Mode;
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::SyncScope;
use testkit::billing_world::changes::Changes;
use testkit::billing_world::model::{Owed, Parts, Span};
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
    /// Deferred amounts by reason.
    deferred: BTreeMap<String, u64>,
    /// What customers did, and what became of it.
    happened: BTreeMap<&'static str, u64>,
}

/// What happened to a customer, of which each kind must be seen.
async fn happened(world: &BillingWorld, changes: &Changes, who: usize) -> Vec<&'static str> {
    let (owed, facts, start) = (world.owed(who), world.facts(who).clone(), &changes.starts[who]);
    let did = |what: &str| changes.done[who].contains_key(what);
    let is_used = |period: &Owed| period.meters.iter().any(|parts| parts.used > 0);
    let has = |what: &dyn Fn(&Owed, &Parts) -> bool| {
        facts.has_row && owed.iter().any(|period| period.meters.iter().any(|parts| what(period, parts)))
    };
    let billed_at = |by: fn(&str, &InvoiceLine) -> String| {
        let stripe = world.stripe.world();
        let lines = facts.at_stripe.iter().flat_map(|id| stripe.invoices(id).into_iter().map(move |line| (id, line)));
        let billed = lines.filter(|(_, line)| line.quantity > 0.into());
        billed.map(|(id, line)| by(id, &line)).collect::<BTreeSet<_>>().len()
    };
    let (subscriptions, customers) = (billed_at(|_, line| line.subscription.clone()), billed_at(|id, _| id.to_owned()));
    let is_cut = |span: &Span| span.subscription.is_some() && (span.start, span.end) != span.month;
    let all = world.context.billing.overage == OverageBilling::All;
    let limited = facts.budgets.iter().any(|b| b.amount.is_some());
    let found = [
        (
            "plan changed in a billed period",
            has(&|p, parts| p.changes_plan && p.span.subscription.is_some() && parts.used > 0),
        ),
        ("beyond the budget is house", has(&|_, parts| parts.house > 0)),
        ("all is billed in spite of a budget", all && limited && has(&|_, parts| parts.priced > 0)),
        ("used in advance, and taken off", has(&|_, parts| parts.advance.0 > 0 && parts.used > 0)),
        ("not priced", has(&|_, parts| parts.not_priced > 0)),
        (
            "tiers and other days in one period",
            has(&|_, parts| 0 < parts.free_at_stripe && parts.free_at_stripe < parts.within),
        ),
        ("cut month", owed.iter().any(|p| is_cut(&p.span) && is_used(p))),
        ("new anchor", did("new anchor") && subscriptions > 0),
        ("row known late, and billed", !start.row && did("row late") && subscriptions > 0),
        ("Stripe id known late, and billed", !start.stripe_id && did("Stripe id late") && subscriptions > 0),
        ("subscribed late, and billed", !start.subscribed && did("subscribed") && subscriptions > 0),
        ("cancelled and returned, and billed for both", did("cancelled") && did("subscribed") && subscriptions > 1),
        ("moved, and billed at both Stripe customers", did("moved") && customers > 1),
        ("another Stripe id", did("other Stripe customer") && customers == 1),
        ("id without a row", !facts.has_row && owed.iter().any(is_used)),
    ];
    found.into_iter().filter(|(_, is_true)| *is_true).map(|(what, _)| what).collect()
}

/// Each kind of [`happened`], and in how many worlds one is expected.
const HAPPENS: [(&str, u64); 15] = [
    ("plan changed in a billed period", 3),
    ("beyond the budget is house", 4),
    ("all is billed in spite of a budget", 20),
    ("used in advance, and taken off", 5),
    ("not priced", 5),
    ("tiers and other days in one period", 20),
    ("cut month", 4),
    ("new anchor", 10),
    ("row known late, and billed", 20),
    ("Stripe id known late, and billed", 20),
    ("subscribed late, and billed", 10),
    ("cancelled and returned, and billed for both", 30),
    ("moved, and billed at both Stripe customers", 40),
    ("another Stripe id", 20),
    ("id without a row", 50),
];

async fn history(template: &Template, seed: u64, seen: &Mutex<Seen>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let begin = 1_767_225_600 + rng.i64(0..40) * DAY + rng.i64(0..DAY);
    let mut changes = Changes::draw(&mut rng, begin);
    let mut world = BillingWorld::begin(template, &mut rng, begin, changes.starts.clone()).await;
    if rng.u8(0..6) == 0 {
        Arc::make_mut(&mut world.context.billing).overage = OverageBilling::All;
    }
    let mut now = begin + HOUR;
    let end = now + rng.i64(7..36) * DAY;
    while now < end {
        changes.until(&world, now).await;
        for who in 0..CUSTOMERS.len() {
            use_some(&world, &mut rng, who, now).await;
        }
        if now >= changes.synced_from && rng.u8(0..3) > 0 {
            let scope = if rng.bool() { SyncScope::All } else { SyncScope::Changed };
            drop(world.sync(now, scope).await);
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
    let events = world.rows(sql).await;
    let deferred = world.rows("SELECT deferred_reason FROM billing_targets WHERE deferred <> 0").await;
    let mut all = vec![];
    for who in 0..CUSTOMERS.len() {
        all.extend(happened(&world, &changes, who).await);
    }
    let requests = world.stripe.world().take_requests();
    let mut seen = seen.lock().unwrap();
    seen.requests += requests.len();
    for why in deferred {
        *seen.deferred.entry(why).or_default() += 1;
    }
    for what in all {
        *seen.happened.entry(what).or_default() += 1;
    }
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
            "{} requests, deferred: {:#?}, events: {:#?}, and {:#?}",
            seen.requests, seen.deferred, seen.events, seen.happened
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
        for (why, one_in) in [("below_zero", 200), ("no_subscription", 20), ("no_stripe_customer", 100)] {
            worlds.assert_saw(why, seen.deferred.get(why).copied().unwrap_or(0), one_in);
        }
        for (what, one_in) in HAPPENS {
            worlds.assert_saw(what, seen.happened.get(what).copied().unwrap_or(0), one_in);
        }
    });
}
