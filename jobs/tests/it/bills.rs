//! Bill previews in random histories: a preview is what the next push makes of the invoices, as the
//! fake Stripe has them, and its parts are all of the usage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use books::limits::overage_billing::OverageBilling;
use jobs::job::Mode;
use jobs::push_stripe::bill::{Bills, CustomerBill, InvoiceLine, InvoiceState, WantedBills, WantedPeriods, bills};
use jobs::push_stripe::simulate::{WantedSimulation, simulate};
use jobs::roll_periods::roll;
use jobs::sync_stripe::SyncScope;
use rust_decimal::{Decimal, RoundingStrategy};
use testkit::billing_world::changes::Changes;
use testkit::billing_world::run::{Worlds, each, push, use_some};
use testkit::billing_world::{BillingWorld, CUSTOMERS, DAY, HOUR, Template, at};

async fn preview(world: &BillingWorld, periods: WantedPeriods, now: i64) -> Bills {
    let wanted = WantedBills { customer: None, periods };
    bills(&world.context.books, &world.context.billing, wanted, at(now)).await.unwrap()
}

/// How often each thing was seen.
type Seen = Mutex<BTreeMap<&'static str, u64>>;

fn check_line(bill: &CustomerBill, line: &InvoiceLine, seen: &Seen) {
    let of = line.usage;
    assert_eq!(of.within + of.billed + of.waiting + of.house + of.not_priced, of.booked, "{bill:?}");
    // computed another way: the plan's price for a unit, in cents, rounded once
    if let Some(price) = line.price {
        let price: Decimal = price.to_string().parse().unwrap();
        let cost = Decimal::from(line.charged) / line.per_unit * price * Decimal::ONE_HUNDRED;
        let minor = cost.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero);
        // a quotient that is cut after 28 digits can be on the wrong side of a half
        let difference = (minor - Decimal::from(line.amount.unwrap().minor)).abs();
        let is_half = (cost.fract() - Decimal::new(5, 1)).abs() < Decimal::new(1, 15);
        assert!(difference.is_zero() || is_half && difference == Decimal::ONE, "{cost} {line:?}");
    }
    let mut seen = seen.lock().unwrap();
    for (what, is_seen) in [
        ("charged", line.amount.is_some_and(|of| of.minor > 0)),
        ("corrections", !line.corrections.is_empty()),
        ("credits", line.corrections.iter().any(|of| of.value < 0)),
        ("carried", !line.carried.is_empty()),
        ("waiting", line.waits.is_some()),
        ("house", line.house_worth.minor > 0),
        ("free by tiers", line.charged < line.quantity),
        ("no price", line.amount.is_none()),
        ("not sent", line.sent != line.quantity),
        ("closed", bill.invoice == InvoiceState::Closed),
    ] {
        *seen.entry(what).or_default() += u64::from(is_seen);
    }
}

/// Which quantity of a line is compared.
#[derive(Clone, Copy)]
enum Quantity {
    Promised,
    Sent,
}

/// Each line is what the fake Stripe has on that invoice.
fn compare_with_stripe(world: &BillingWorld, found: &Bills, quantity: Quantity, again: &str) {
    for (who, name) in CUSTOMERS.into_iter().enumerate() {
        let at_stripe = world.facts(who).at_stripe.clone();
        let stripe = world.stripe.world();
        let invoices: Vec<_> = at_stripe.iter().flat_map(|id| stripe.invoices(id)).collect();
        let own = found.bills.iter().filter(|bill| bill.customer == name && bill.invoice != InvoiceState::None);
        for (bill, line) in own.flat_map(|bill| bill.lines.iter().map(move |line| (bill, line))) {
            let event_name = format!("{}_events", line.meter);
            let start = bill.period_start.as_second();
            let on: Vec<_> = invoices.iter().filter(|of| of.start == start && of.event_name == event_name).collect();
            let sum: Decimal = on.iter().map(|of| of.sum).sum();
            let own = match quantity {
                Quantity::Promised => line.quantity,
                Quantity::Sent => line.sent,
            };
            assert!(Decimal::from(own) == sum, "{again}: {name} {bill:?}\n{on:?}");
        }
    }
}

/// With the plans that hold, a simulation is what the periods' own usage is billed.
async fn compare_with_simulation(world: &BillingWorld, bills: &Bills, now: i64, seen: &Seen) {
    let books = &world.context.books;
    let plans = books.plans().await.unwrap();
    // one that has several versions cannot be tried as it stands
    let versions = |name: &str| plans.iter().filter(|plan| plan.name == name).count();
    let tried = plans.iter().filter(|plan| versions(&plan.name) == 1).cloned().collect();
    let wanted = WantedSimulation { customer: None, plans: tried, begin: 0..now };
    let found = simulate(books, &world.context.billing, wanted, at(now)).await.unwrap();
    for period in &found.periods {
        let is_it = |bill: &&CustomerBill| bill.customer == period.customer && bill.period_start == period.period_start;
        let bill = bills.bills.iter().find(is_it).unwrap();
        for line in &period.lines {
            assert_eq!(line.now, line.then, "{period:?}");
            let of = bill.lines.iter().find(|of| of.meter == line.meter).unwrap();
            let own = of.corrections.is_empty() && of.carried.is_empty() && of.waits.is_none();
            if own {
                assert_eq!((line.now.amount, line.now.included), (of.amount, of.included), "{bill:?}");
                *seen.lock().unwrap().entry("simulated").or_default() += 1;
            }
        }
    }
}

async fn history(template: &Template, seed: u64, seen: &Seen) {
    let again = format!("METER_TEST_SEED={seed} cargo test -p jobs --test it bills");
    let mut rng = fastrand::Rng::with_seed(seed);
    let begin = 1_767_225_600 + rng.i64(0..40) * DAY + rng.i64(0..DAY);
    let mut changes = Changes::draw(&mut rng, begin);
    let mut world = BillingWorld::begin(template, &mut rng, begin, changes.starts.clone()).await;
    world.be_patient();
    if rng.u8(0..6) == 0 {
        Arc::make_mut(&mut world.context.billing).overage = OverageBilling::All;
    }
    let mut now = begin + HOUR;
    let end = now + rng.i64(20..60) * DAY;
    while now < end {
        changes.until(&world, now).await;
        for who in 0..CUSTOMERS.len() {
            use_some(&world, &mut rng, who, now).await;
        }
        world.stripe.world().set_now(now);
        world.sync(now, SyncScope::All).await.unwrap();
        roll(&world.context.books, at(now), Mode::Write).await.unwrap();
        let before = preview(&world, WantedPeriods::Begin(0..now), now).await;
        for bill in &before.bills {
            bill.lines.iter().for_each(|line| check_line(bill, line, seen));
            if let Some(amount) = bill.amount {
                assert_eq!(amount.minor, bill.lines.iter().map(|line| line.amount.unwrap().minor).sum::<i64>());
            }
        }
        compare_with_simulation(&world, &before, now, seen).await;
        // the periods of now are among them, and the same
        let current = preview(&world, WantedPeriods::Current, now).await;
        for bill in &current.bills {
            assert!(before.bills.contains(bill), "{again}: {bill:?}");
        }
        if rng.u8(0..3) > 0 {
            push(&world, &mut rng, now, false).await;
            compare_with_stripe(&world, &before, Quantity::Promised, &again);
            let after = preview(&world, WantedPeriods::Begin(0..now), now).await;
            compare_with_stripe(&world, &after, Quantity::Sent, &again);
        }
        now += rng.i64(600..70 * HOUR);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_is_what_the_next_push_makes_of_the_invoices() {
    let (template, seen) = (Arc::new(Template::new().await), Arc::new(Seen::default()));
    let worlds = Worlds::from_environment(20);
    each(worlds.seeds.clone(), |seed| {
        let (template, seen) = (template.clone(), seen.clone());
        async move { history(&template, seed, &seen).await }
    })
    .await;
    for (what, times) in seen.lock().unwrap().iter() {
        worlds.assert_saw(what, *times, 10);
    }
}
