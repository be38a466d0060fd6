//! Billing through the binary: from an empty account to invoices that equal the books; bad keys,
//! wrong accounts; and what a person can do.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, DAY, KEY, PLANS, config};
use books::stripe::meter_event::{EventState, MeterEvent};
use fake_stripe::{Fault, Subscription};
use jiff::Timestamp;
use jobs::stripe::StripeMode;
use testkit::needs;

#[test]
fn from_an_empty_account_to_invoices_that_equal_the_books() {
    let fixture = BillingFixture::new();
    fixture.run("migrate").ends(0);
    fixture.run("plan apply plans.toml").ends(0);
    fixture.run("stripe check").ends(3).says(&["chime_milliminutes", "missing", "meter stripe setup"]);
    fixture.run("stripe setup --dry-run").ends(3).says(&["would be made as chime_milliminutes"]);
    assert_eq!(fixture.stripe.world().requests().iter().filter(|r| r.method == "POST").count(), 0);
    let made = fixture.run("stripe setup").ends(3).says(&["made as chime_milliminutes", "stripe prices create"]);
    assert!(made.out.contains("unit_amount_decimal=0.00045"), "{}", made.out);
    fixture.run("stripe setup").ends(3);
    {
        let mut world = fixture.stripe.world();
        let meters = world.requests().iter().filter(|r| r.method == "POST").count();
        assert_eq!(meters, 2, "each meter is made once");
        world.add_price("price_chime", "chime_milliminutes", "usd", "0.0005", None);
        world.add_price("price_storage", "storage_mb_months", "usd", "0.005", None);
    }
    fixture.run("stripe check").ends(3).says(&["price of chime_minutes in plan pro", "0.00045"]);
    fixture.stripe.world().add_price("price_chime_2", "chime_milliminutes", "usd", "0.00045", None);
    fixture.run("stripe check").ends(0);

    let began = Timestamp::now().as_second() - 10 * DAY;
    fixture.run("customer add ann --plan pro --stripe-customer-id cus_ann").ends(0);
    fixture.stripe.world().add_customer("cus_ann");
    let subscription = Subscription::monthly("sub_ann", "cus_ann", began, &["price_chime_2", "price_storage"]);
    fixture.stripe.world().add_subscription(subscription);
    fixture.book("ann", "chime_minutes", "350.1234567");
    fixture.book("ann", "storage_gb", "1.5");
    // usage before the first subscription is known: it waits
    fixture.run("push").ends(0).says(&["0 events planned"]);
    let synced = fixture.run("run sync-stripe --json").ends(0).json();
    assert_eq!((&synced["read"], &synced["changed"], &synced["items"]), (&1.into(), &1.into(), &2.into()));
    fixture.run("run roll-periods").ends(0);
    fixture.run("push --dry-run").ends(0).says(&["250123", "1500", "2 events would be sent"]);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "0");
    fixture.run("push").ends(0).says(&["2 events planned", "2 accepted"]);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "250123");
    assert_eq!(fixture.invoiced("ann", "storage_mb_months"), "1500");
    fixture.run("push").ends(0).says(&["0 events planned", "0 sent"]);
    let again = fixture.run("run push-stripe --json").ends(0).json();
    assert_eq!((&again["planned"], &again["attempts"]), (&0.into(), &0.into()), "{again}");

    // AWS restates: up a little, and down to what is included
    fixture.book("ann", "chime_minutes", "0.0005");
    fixture.book("ann", "storage_gb", "-0.5");
    fixture.run("push").ends(0).says(&["2 accepted"]);
    // 250.1239567 minutes: the running total is rounded, not the difference
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "250124");
    assert_eq!(fixture.invoiced("ann", "storage_mb_months"), "1000");
    fixture.book("ann", "chime_minutes", "-300");
    fixture.run("push").ends(0).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "0");

    fixture.run("reconcile ann").ends(0).says(&["every difference is 0", "its invoice has 1000"]);
    fixture.run("reconcile").ends(0).says(&["storage_gb"]);
    let rows = fixture.run("reconcile ann --json").ends(0).json();
    assert!(rows.as_array().unwrap().iter().all(|r| r["difference"] == 0), "{rows}");
    fixture.run("events list").ends(0).says(&["accepted", "-250124"]);
    let shown = fixture.run("events show 1 --json").ends(0).json();
    assert!(shown["invoice"]["subscription"].as_str().unwrap().starts_with("sub_"), "{shown}");
    fixture.run("events show 1").ends(0).says(&["planned for      the invoice of", "on invoice of    sub_"]);
    let shown = fixture.run("customer show ann").ends(0);
    let subscription = shown.out.lines().find(|line| line.starts_with("subscription sub_ann: ")).unwrap();
    assert!(subscription.ends_with(", Stripe customer cus_ann"), "{subscription}");
    fixture.run("events show 99").ends(2).says(&["there is no event `99`"]);
    fixture.run("verify").ends(0);
    let all: String = ["push", "events list", "reconcile ann", "stripe check", "config show"]
        .map(|line| {
            let ran = fixture.place.run_with(line, &[("METER_STRIPE__KEY", KEY), ("METER_LOG", "trace")]);
            ran.out + &ran.err
        })
        .concat();
    assert!(!all.contains(KEY) && !all.contains("NoSuchKey"), "a secret is shown");
    fixture.judge();
}

const WAITS: &str = "deferred since before: 1 amount waits: Stripe refused an event of this customer and meter";

#[test]
fn a_refused_event_is_kept_until_a_person_decides() {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    fixture.book("ann", "storage_gb", "2");
    fixture.book("bob", "storage_gb", "3");
    fixture.stripe.world().delete_customer("cus_bob");
    fixture.run("push").ends(3).says(&["1 accepted, 1 refused"]);
    fixture.run("events list --state refused").ends(3).says(&["bob", "No such customer", "refused"]);
    // more usage of the same customer is not thrown after it
    fixture.book("bob", "storage_gb", "1");
    fixture.run("push").ends(3).says(&["deferred: 1 amount: Stripe refused an event", "0 sent"]);
    // whoever asks again hears of it again
    for line in ["push", "push --dry-run", "run push_stripe"] {
        fixture.run(line).ends(3).says(&[if line == "run push_stripe" { "\"waiting\"" } else { WAITS }]);
    }
    fixture.run("reconcile bob").ends(3).says(&["3000 refused", "deferred 1000: refused"]);
    let id = fixture.place.query("SELECT seq FROM meter_events WHERE customer = 'bob'")[0].clone();
    fixture.run(&format!("events retry {id}")).ends(2);
    fixture.run(&format!("events retry {id} --reason ")).ends(2);
    fixture.run(&format!("events retry {id} --reason id_was_wrong")).ends(0).says(&["3000 will be planned anew"]);
    fixture
        .run(&format!("events retry {id} 99999 --reason x"))
        .ends(2)
        .says(&["no event `99999`", "nothing was changed"]);
    fixture.run(&format!("events retry {id} --reason again")).ends(1).says(&["is not_received"]);
    fixture.run(&format!("events show {id}")).ends(0).says(&["on invoice of    none: Stripe does not have it"]);
    let shown = fixture.run(&format!("events show {id} --json")).ends(0).json();
    assert_eq!(shown["invoice"], serde_json::Value::Null, "{shown}");
    // the customer has another id at Stripe now
    let began = Timestamp::now().as_second() - 10 * DAY;
    fixture.stripe.world().add_customer("cus_bob2");
    fixture.stripe.world().add_subscription(Subscription::monthly(
        "sub_b2",
        "cus_bob2",
        began,
        &["price_chime", "price_storage"],
    ));
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_bob2' WHERE id = 'bob'");
    fixture.run("run sync-stripe --payload {\"full\":true}").ends(0);
    fixture.run("run roll-periods");
    fixture.run("push").says(&["accepted"]);
    assert_eq!(fixture.invoiced("bob2", "storage_mb_months"), "4000");
    let acts = fixture.run(&format!("events show {id}")).ends(0);
    assert!(acts.out.contains("did `events retry`: id_was_wrong"), "{}", acts.out);

    // what is discarded is never sent
    fixture
        .stripe
        .world()
        .deactivate_meter(&fixture.place.query("SELECT stripe_id FROM stripe_meters WHERE meter = 'storage_gb'")[0]);
    fixture.book("ann", "storage_gb", "1");
    fixture.run("push").ends(3).says(&["Stripe has no active meter for storage_gb", "0 sent"]);
    fixture.run("stripe check").ends(3).says(&["inactive"]);
    fixture.judge();
}

#[test]
fn what_a_person_has_dealt_with_calls_for_nobody_until_it_changes() {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    for name in ["ann", "bob"] {
        fixture.book(name, "storage_gb", "3");
    }
    // another currency: deferred until somebody acts, and bob's usage waits for long
    fixture.place.execute("UPDATE subscription_items SET currency = 'eur' WHERE customer = 'bob'");
    fixture.run("push").says(&["1 accepted", "deferred: 1 amount"]);
    fixture
        .place
        .execute("UPDATE billing_targets SET deferred_since = deferred_since - 26 * 86400 WHERE deferred <> 0");
    // and a reading of ann's total that has too much
    fixture.place.execute(
        "UPDATE billing_targets SET alarm_kind = 'stripe_has_more', alarm_shortfall = -5, alarm_total = 3005, alarm_until = 0, shortfall = -5, shortfall_since = 0, seen = 3005, expected = 3000 \
         WHERE customer = 'ann' AND meter = 'storage_gb' AND target <> 0",
    );
    fixture.run("status").ends(1).says(&[
        "MeterStripeAlarm",
        "MeterUsageNearStripeLimit",
        "MeterStripeDeferred",
        "totals are 0.005 off",
    ]);

    // who, of what and why are needed
    for bad in ["reconcile --acknowledge --reason x", "reconcile ann --acknowledge", "reconcile ann --reason x"] {
        fixture.run(bad).ends(2);
    }
    fixture.place.run("reconcile ann --acknowledge --reason ").ends(2);
    fixture.place.run("reconcile nobody --acknowledge --reason x").ends(2).says(&["there is no customer `nobody`"]);
    fixture
        .place
        .run("reconcile ann --month 2020-01 --acknowledge --reason x")
        .ends(2)
        .says(&["no alarm and no deferred amount"]);
    let noted = "SELECT customer, kind, amount, coalesce(stripe_customer, deferred_reason), reason FROM acknowledgements ORDER BY seq";
    assert!(fixture.place.query(noted).is_empty());
    // what is acknowledged is what stood there: nobody is asked anew first
    let asked = fixture.stripe.world().requests().len();
    let seen = fixture.run("reconcile ann --acknowledge --reason credit_note");
    let seen = seen.says(&[
        "acknowledged; these alert again",
        "5 more than was sent",
        "Stripe has 5 more, acknowledged",
        "Stripe has 5 more than was sent (credit_note)",
    ]);
    assert!(!seen.out.contains("ALARM"), "{}", seen.out);
    fixture
        .run("reconcile bob --acknowledge --reason by_hand")
        .ends(3)
        .says(&["storage_gb  deferred 3000: currency", "deferred 3000: currency, acknowledged"]);
    assert_eq!(fixture.stripe.world().requests().len(), asked);
    fixture.place.run("reconcile bob --acknowledge --reason again").ends(2).says(&["that is not acknowledged yet"]);
    assert_eq!(
        fixture.place.query(noted),
        ["ann|difference|-5|cus_ann|credit_note", "bob|deferred|3000|currency|by_hand"]
    );
    let status = fixture.run("status");
    for gone in ["MeterStripeAlarm", "MeterUsageNearStripeLimit", "MeterStripeDeferred", "totals are"] {
        assert!(!status.out.contains(gone), "{gone} in {}", status.out);
    }
    // the books are as they were, and what changes calls again
    fixture.run("reconcile bob").ends(3).says(&["deferred 3000: currency, acknowledged"]);
    fixture.book("bob", "storage_gb", "1");
    fixture.run("push");
    fixture.run("reconcile bob").ends(3).says(&["deferred 4000: currency"]);
    assert!(!fixture.run("reconcile bob").out.contains("currency, acknowledged"));
    fixture.run("status").says(&["MeterUsageNearStripeLimit", "MeterStripeDeferred"]);
    fixture.place.execute("UPDATE billing_targets SET alarm_kind = 'stripe_has_more', alarm_shortfall = -4, alarm_total = 3004, alarm_until = 0, shortfall = -4, shortfall_since = 0 WHERE customer = 'ann' AND target <> 0");
    fixture.run("status").ends(1).says(&["MeterStripeAlarm", "totals are 0.004 off"]);
    // an alarm is about what it said, whatever was read since
    fixture
        .place
        .execute("UPDATE billing_targets SET shortfall = -74 WHERE customer = 'ann' AND alarm_kind IS NOT NULL");
    fixture
        .run("reconcile ann --acknowledge --reason more")
        .says(&["4 more than was sent", "Stripe has 9 more, acknowledged"]);
    let known = "SELECT acknowledged FROM target_totals WHERE acknowledged <> 0";
    assert_eq!(fixture.place.query(known), ["-9"]);
    // another Stripe customer has other totals
    fixture.place.execute("UPDATE subscriptions SET stripe_customer = 'cus_other' WHERE customer = 'ann'");
    assert!(fixture.place.query(known).is_empty());
    // and those of the one before are as they were
    fixture.place.execute("UPDATE subscriptions SET stripe_customer = 'cus_ann' WHERE customer = 'ann'");
    assert_eq!(fixture.place.query(known), ["-9"]);
    fixture.judge();
}

#[test]
fn keys_accounts_and_modes_that_do_not_fit_are_refused_and_lose_nothing() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.book("ann", "storage_gb", "2");
    let with = |line: &str, variables: &[(&str, &str)]| fixture.place.run_with(line, variables);
    // without a key: a dry run
    with("push", &[]).ends(0).says(&["METER_STRIPE__KEY is not set", "1 event would be sent, for 1 customer"]);
    with("stripe check", &[]).ends(2).says(&["METER_STRIPE__KEY is not set"]);
    with("run sync-stripe --json", &[]).ends(0).says(&["without_key"]);
    for (key, live, says) in [
        ("sk_live_abc", "false", "stripe.live is false"),
        (KEY, "true", "stripe.live is true"),
        ("pk_test_abc", "false", "is no secret key"),
        ("wrong_thing", "true", "is no secret key"),
    ] {
        let ran = with("push", &[("METER_STRIPE__KEY", key), ("METER_STRIPE__LIVE", live)]).ends(2).says(&[says]);
        assert!(!ran.err.contains(key), "{}", ran.err);
        with("work --once", &[("METER_STRIPE__KEY", key), ("METER_STRIPE__LIVE", live)]).ends(2).says(&[says]);
    }
    with("push", &[("METER_STRIPE__URL", "http://stripe.example"), ("METER_STRIPE__KEY", KEY)])
        .ends(2)
        .says(&["in clear"]);
    // a key that Stripe does not know; a 403; an outage
    with("push", &[("METER_STRIPE__KEY", "sk_test_other")]).ends(1).says(&["401", "METER_STRIPE__KEY"]);
    fixture.stripe.world().set_faults(|seen| seen.path.ends_with("meter_events").then_some(Fault::Forbidden));
    fixture.run("push").ends(1).says(&["403", "nothing is lost"]);
    fixture.stripe.world().clear_faults();
    fixture.runtime.block_on(fixture.stripe.stop());
    fixture.run("push").ends(1).says(&["no connection", "the next run may succeed"]);
    fixture.runtime.block_on(fixture.stripe.resume()).unwrap();
    // another account has other meters
    let other = BillingFixture::new();
    let elsewhere = other.stripe.url();
    let variables = [("METER_STRIPE__KEY", KEY), ("METER_STRIPE__URL", elsewhere.as_str())];
    with("push", &variables).ends(1).says(&["another account"]);
    with("stripe setup", &variables).ends(1).says(&["another account"]);
    assert_eq!(other.stripe.world().requests().iter().filter(|r| r.method == "POST").count(), 0);
    // a meter that was sent in one unit stays in it
    let changed = [("METER_STRIPE__KEY", KEY), ("METER_STRIPE__METERS__STORAGE_GB__PER_UNIT", "\"1\"")];
    with("push", &changed).ends(1).says(&["stripe.meters.storage_gb", "the mapping of a meter stays"]);
    fixture.run("push").ends(0).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("ann", "storage_mb_months"), "2000");
    fixture.judge();
}

/// Prism, an independent server made of Stripe's description: whatever it answers with 4xx breaks
/// the description.
#[test]
fn an_independent_server_made_of_stripes_description_takes_every_request() {
    let Some(prism) = needs::named("METER_TEST_PRISM", "prism") else { return };
    let Some(description) = needs::shared("data/stripe/stripe-billing-openapi-prism.json") else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(prism);
    command.args(["mock", "-h", "127.0.0.1", "-p", &port.to_string(), "--errors"]).arg(description);
    let server = Server(command.stdout(log.reopen().unwrap()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(120);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "prism does not start");
        std::thread::sleep(Duration::from_millis(200));
    }
    // its answers are examples that fit nothing here; what counts is that no request is refused
    let url = format!("http://127.0.0.1:{port}");
    let place = Workspace::with(&config(&url).replace("timeout_seconds = 1", "timeout_seconds = 30"));
    std::fs::write(place.path("plans.toml"), PLANS).unwrap();
    let run = |line: &str| place.run_with(line, &[("METER_STRIPE__KEY", KEY)]);
    run("migrate").ends(0);
    run("plan apply plans.toml").ends(0);
    let setup = run("stripe setup");
    assert!(!setup.err.contains("Stripe answered 4"), "{}{}", setup.out, setup.err);
    run("run sync-stripe --json").says(&["\"read\""]);
    let variables =
        [("METER_STRIPE__KEY", KEY), ("METER_STRIPE__URL", &url)].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let config = meter::config::Config::load(Some(&place.path("meter.toml")), variables.into_iter()).unwrap();
    let StripeMode::Stripe(account) = meter::wiring::billing(&config.stripe).unwrap().mode else {
        panic!("there is a key")
    };
    let at = Timestamp::from_second(1_795_000_000).unwrap();
    let event = MeterEvent {
        seq: 1,
        identifier: "meter-0a1b2c3d-1".into(),
        customer: "ann".into(),
        meter: "storage_gb".into(),
        period_start: at,
        billed_start: at,
        billed_end: at,
        stripe_customer: "cus_123".into(),
        event_name: "storage_mb_months".into(),
        value: -12,
        timestamp: at,
        send_before: at,
        state: EventState::Sending,
        maybe_applied: false,
        attempts: 1,
        key_no: 0,
        first_attempt_at: None,
        last_attempt_at: None,
        next_at: None,
        created_at: at,
        settled_at: None,
        request_id: None,
        error: None,
        imported: false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(account.send(&event)).unwrap();
    assert_eq!(runtime.block_on(account.total("mtr_1", "cus_123", 1_794_999_960, 1_795_000_020)).unwrap(), 25);
    drop(server);
    let said = std::fs::read_to_string(log.path()).unwrap();
    let refused: Vec<&str> = said
        .lines()
        .filter(|l| l.contains("Violation") || l.contains("responded with 4") || l.contains(" 4xx"))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(said.contains("post /v1/billing/meters") || said.contains("POST /v1/billing/meters"), "{said}");
}
