//! A subscription gets another anchor, or a customer one of another Stripe customer, and the books
//! learn of it late.

use fake_stripe::Subscription;
use jobs::job::Mode;
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::SyncScope;
use testkit::billing_world::run::{check, push, settle};
use testkit::billing_world::{BillingWorld, DAY, HOUR, Template, at};

/// What went to the Stripe customer of before after its subscription had ended is on no invoice:
/// the next subscription's invoice has it, although its period contains the events' times.
#[tokio::test]
async fn what_the_old_stripe_customer_got_too_late_is_billed_to_the_new_one() {
    let template = Template::new().await;
    let (begin, mut rng) = (1_770_000_000, fastrand::Rng::with_seed(1));
    let mut world = BillingWorld::new(&template, &mut rng, begin).await;
    world.be_patient();
    let run = async |now: i64, rng: &mut fastrand::Rng| {
        world.stripe.world().set_now(now);
        roll(&world.context.books, at(now), Mode::Write).await.unwrap();
        push(&world, rng, now, false).await;
    };
    world.sync(begin, SyncScope::All).await.unwrap();
    world.book(0, "chime_minutes", begin / DAY - 1, 5_000_000_000_000).await;
    run(begin, &mut rng).await;
    // the subscription moves, and two days later the books know neither id
    world.stripe.world().set_now(begin + HOUR);
    assert!(world.move_subscription(0));
    world.book(0, "chime_minutes", begin / DAY + 1, 7_000_000_000_000).await;
    run(begin + 2 * DAY, &mut rng).await;
    assert_eq!(world.rows("SELECT value FROM meter_events WHERE customer = 'ann'").await, ["500000", "700000"]);
    assert_eq!(world.stripe.world().lost().len(), 1);
    world.write_stripe_id(0).await;
    settle(&world, &mut rng, begin + 2 * DAY + HOUR).await;
    assert_eq!(check(&world, "cargo test -p jobs --test it moved").await, 0);
    let newest = world.facts(0).at_stripe.last().unwrap().clone();
    let lines = world.stripe.world().invoices(&newest);
    let chime = lines.iter().find(|line| line.event_name == "chime_minutes_events").unwrap();
    assert_eq!(chime.quantity.to_string(), "700000");
}

/// The subscription of the Stripe customer of before lives on, so its invoice has what went there.
#[tokio::test]
async fn what_a_living_subscription_bills_is_not_sent_to_the_next_one_again() {
    let template = Template::new().await;
    let (begin, mut rng) = (1_770_000_000, fastrand::Rng::with_seed(1));
    let mut world = BillingWorld::new(&template, &mut rng, begin).await;
    world.be_patient();
    world.sync(begin, SyncScope::All).await.unwrap();
    world.stripe.world().set_now(begin + HOUR);
    let prices = ["price_chime_minutes", "price_storage_gb"];
    let next = Subscription::monthly("sub_next", &world.add_stripe_customer(0), begin + HOUR, &prices);
    world.stripe.world().add_subscription(next);
    world.book(0, "chime_minutes", begin / DAY + 1, 7_000_000_000_000).await;
    let now = begin + 2 * DAY;
    world.stripe.world().set_now(now);
    roll(&world.context.books, at(now), Mode::Write).await.unwrap();
    push(&world, &mut rng, now, false).await;
    world.write_stripe_id(0).await;
    settle(&world, &mut rng, now + HOUR).await;
    let periods =
        world.rows("SELECT subscription FROM billing_periods WHERE customer = 'ann' AND subscription = 'sub_next'");
    assert!(!periods.await.is_empty(), "the one that began last decides the periods");
    // the usage is now in the next one's period, and what was sent for the period of before is
    // taken off there
    let at_stripe = world.facts(0).at_stripe.clone();
    let stripe = world.stripe.world();
    let lines = at_stripe.iter().flat_map(|id| stripe.invoices(id));
    let billed: Vec<String> =
        lines.map(|line| line.quantity).filter(|q| *q != 0.into()).map(|q| q.to_string()).collect();
    assert_eq!(billed, ["700000"]);
    assert!(stripe.lost().is_empty());
}

/// A total that was read until another end of the period says nothing of the cut period.
#[tokio::test]
async fn a_total_is_that_of_the_period_as_it_is_now() {
    let template = Template::new().await;
    let (begin, mut rng) = (1_770_000_000, fastrand::Rng::with_seed(1));
    let mut world = BillingWorld::new(&template, &mut rng, begin).await;
    world.be_patient();
    world.sync(begin, SyncScope::All).await.unwrap();
    world.stripe.world().set_now(begin + HOUR);
    world.stripe.world().reset_anchor("sub_0");
    // the event lies behind the new anchor, and the total lags
    let now = begin + 2 * HOUR;
    world.stripe.world().set_now(now);
    world.stripe.world().set_summary_lag(9 * DAY);
    world.book(0, "chime_minutes", begin / DAY - 1, 5_000_000_000_000).await;
    roll(&world.context.books, at(now), Mode::Write).await.unwrap();
    push(&world, &mut rng, now, false).await;
    reconcile(&world.context, at(now), None).await.unwrap();
    let read = "SELECT seen, expected FROM billing_targets WHERE customer = 'ann' AND meter = 'chime_minutes' ORDER BY period_start";
    assert_eq!(world.rows(read).await, ["0|500000"]);
    world.stripe.world().set_summary_lag(0);
    settle(&world, &mut rng, now + HOUR).await;
    assert_eq!(world.rows(read).await, ["|", "500000|500000"], "there is nothing to read of the first");
    assert_eq!(check(&world, "cargo test -p jobs --test it moved").await, 0);
}

/// A correction that was sent before the books could know of the new period is on an invoice that
/// has nothing to take it from. It counts while that invoice may still get usage. Stripe cuts the
/// final invoice off at zero, and then the correction is taken from the next one.
#[tokio::test]
async fn a_correction_on_an_invoice_that_began_unread_is_made_up_for_later() {
    let template = Template::new().await;
    let (begin, mut rng) = (1_770_000_000, fastrand::Rng::with_seed(1));
    let mut world = BillingWorld::new(&template, &mut rng, begin).await;
    world.be_patient();
    world.begins[0] = begin - 20 * DAY;
    let run = async |now: i64, world: &BillingWorld, rng: &mut fastrand::Rng| {
        world.stripe.world().set_now(now);
        roll(&world.context.books, at(now), Mode::Write).await.unwrap();
        push(world, rng, now, false).await;
    };
    world.sync(begin, SyncScope::All).await.unwrap();
    world.book(0, "chime_minutes", begin / DAY - 1, 5_000_000_000_000).await;
    run(begin, &world, &mut rng).await;
    world.stripe.world().set_now(begin + HOUR);
    assert!(world.reset_anchor(0).await);
    world.book(0, "chime_minutes", begin / DAY - 1, -2_000_000_000_000).await;
    run(begin + 2 * DAY, &world, &mut rng).await;
    let sums = |world: &BillingWorld| {
        let lines = world.stripe.world().invoices("cus_0");
        let chime = lines.iter().filter(|line| line.event_name == "chime_minutes_events");
        chime.map(|line| (line.sum.to_string(), line.quantity.to_string())).collect::<Vec<_>>()
    };
    let expected = [("500000", "500000"), ("-200000", "0")].map(|(sum, billed)| (sum.into(), billed.into()));
    assert_eq!(sums(&world), expected);
    settle(&world, &mut rng, begin + 3 * DAY).await;
    assert_eq!(check(&world, "cargo test -p jobs --test it moved").await, 0);
    // the invoice becomes final as it is, and in the next period something is used
    let deferred = "SELECT deferred, deferred_reason FROM billing_targets WHERE deferred <> 0";
    assert!(world.rows(deferred).await.is_empty());
    settle(&world, &mut rng, begin + 35 * DAY).await;
    assert_eq!(world.rows(deferred).await, ["-200000|below_zero"]);
    let now = begin + 46 * DAY;
    world.book(0, "chime_minutes", now / DAY - 1, 3_000_000_000_000).await;
    settle(&world, &mut rng, now).await;
    assert_eq!(check(&world, "cargo test -p jobs --test it moved").await, 0);
    let expected =
        [("500000", "500000"), ("-200000", "0"), ("100000", "100000")].map(|(sum, billed)| (sum.into(), billed.into()));
    assert_eq!(sums(&world), expected);
}
