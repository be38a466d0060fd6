//! From ledger to invoice nothing vanishes: each way in which money was lost or invented, through
//! the binary and against the fake Stripe.

use fake_stripe::Subscription;
use jiff::Timestamp;

use crate::support::billing_fixture::{BillingFixture, DAY};

/// Everything that follows a change at Stripe, and the push.
fn sync_and_push(fixture: &BillingFixture) -> crate::support::Ran {
    fixture.run("run sync-stripe --payload {\"full\":true}");
    fixture.run("push")
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

impl BillingFixture {
    fn subscribe_since(&self, name: &str, days: i64) {
        let (cus, sub) = (format!("cus_{name}"), format!("sub_{name}"));
        let mut world = self.stripe.world();
        world.add_customer(&cus);
        let prices = ["price_chime", "price_storage"];
        world.add_subscription(Subscription::monthly(&sub, &cus, now() - days * DAY, &prices));
    }
}

#[test]
fn usage_without_stripe_id_or_subscription_waits_with_its_reason() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.run("customer add bob --plan pro").ends(0);
    fixture.run("customer add cyd --plan pro --stripe-customer-id cus_cyd").ends(0);
    fixture.stripe.world().add_customer("cus_cyd");
    for customer in ["bob", "cyd"] {
        fixture.used(customer, "chime_minutes", "26100", 1);
    }
    fixture.used("nobody", "chime_minutes", "5", 1);
    fixture.run("push").says(&["0 accepted", "no subscription's invoice", "the customer has no Stripe id"]);
    let bob = fixture.run("reconcile bob").ends(3);
    bob.says(&[
        "booked 26,100 = 100 in the plan + 26,000 waiting",
        "0.00 USD billed, 117.00 USD waiting",
        "deferred 26000000: no_stripe_customer",
        "waiting: not everything is at Stripe",
    ]);
    fixture.run("reconcile cyd").ends(3).says(&["26,000 waiting", "no_subscription"]);
    fixture.run("reconcile").ends(3).says(&["1 id(s) have no row in `customers`"]);
    let why = ["MeterStripeDeferred", "the customer has no Stripe id", "no subscription's invoice can take it"];
    fixture.run("status").says(&why);
    fixture.run("verify").ends(0).says(&[
        "chime_minutes: booked 52,205 = 200 in the plan + 52,000 waiting + 5 of unknown customers",
        "at the plans' prices: 0.00 USD billed, 234.00 USD waiting, 0.00 USD house",
    ]);
    // and it goes out when an invoice can take it
    fixture.subscribe_since("bob", 10);
    fixture.subscribe_since("cyd", 10);
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_bob' WHERE id = 'bob'");
    sync_and_push(&fixture).says(&["2 accepted"]);
    for name in ["bob", "cyd"] {
        assert_eq!(fixture.invoiced(name, "chime_milliminutes"), "26000000", "{name}");
        fixture.run(&format!("reconcile {name}")).ends(0).says(&["26,000 billed", "every difference is 0"]);
    }
    fixture.run("enqueue verify_books").ends(0);
    fixture.run("work --once --no-schedule --kinds verify_books").ends(0);
    fixture.run("status").says(&[
        "billing     chime_minutes: booked 52,205 = 200 in the plan + 52,000 billed + 5 of unknown customers",
        "at the plans' prices: 234.00 USD billed, 0.00 USD waiting, 0.00 USD house",
    ]);
    fixture.judge();
}

#[test]
fn who_becomes_known_late_is_billed_on_the_open_invoice() {
    let fixture = BillingFixture::open(&["ann"]);
    // the subscription is three months old; usage of the month before last was booked under the id
    fixture.subscribe_since("bob", 95);
    fixture.used("bob", "chime_minutes", "1100", 80);
    fixture.used("bob", "chime_minutes", "300", 1);
    fixture.run("push").says(&["0 sent"]);
    fixture.run("customer add bob --plan pro --stripe-customer-id cus_bob").ends(0);
    sync_and_push(&fixture).says(&["2 events planned", "carried forward", "2 accepted"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "1200000", "1,000 of then and 200 of now");
    // usage of before the first known period turns up: older periods are made
    fixture.used("bob", "chime_minutes", "150", 92);
    fixture.run("push");
    fixture.run("push");
    fixture.place.execute("UPDATE stripe_due SET due_at = 0");
    fixture.run("push");
    let booked = fixture.place.query("SELECT sum(used) / 10000000000 FROM billing_targets WHERE customer = 'bob'");
    assert_eq!(booked, ["1550"], "every day lies in a period");
    fixture.run("verify").ends(0);
    fixture.judge();
}

#[test]
fn events_go_to_the_stripe_customer_of_the_subscription() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.used("bob", "chime_minutes", "300", 1);
    // another Stripe id, while the subscription of the old one lives
    fixture.stripe.world().add_customer("cus_new");
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_new' WHERE id = 'bob'");
    sync_and_push(&fixture).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "200000");
    fixture.run("reconcile bob").ends(0).says(&["its invoice has 200000"]);
    // the old subscription ends at Stripe and nobody says so: it is read all the same
    fixture.stripe.world().cancel_subscription("sub_bob");
    fixture.used("bob", "chime_minutes", "50", 1);
    fixture.run("run sync-stripe --payload {\"full\":true}").ends(0);
    assert_eq!(fixture.place.query("SELECT status FROM subscriptions WHERE id = 'sub_bob'"), ["canceled"]);
    fixture.run("run enforce-budgets").ends(0);
    assert_eq!(
        fixture.place.query("SELECT DISTINCT reason FROM entitlements WHERE customer = 'bob'"),
        ["canceled"],
        "a subscription that is over entitles to nothing"
    );
    fixture.judge();
}

#[test]
fn a_meter_on_two_items_is_not_billed_twice() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.used("bob", "chime_minutes", "300", 1);
    let second = Subscription::monthly("sub_two", "cus_bob", now() - 5 * DAY, &["price_chime"]);
    fixture.stripe.world().add_subscription(second);
    sync_and_push(&fixture).ends(3).says(&["0 accepted", "several items of the Stripe customer"]);
    fixture.run("reconcile bob").ends(3).says(&["several_items", "200 waiting"]);
    fixture.stripe.world().cancel_subscription("sub_two");
    sync_and_push(&fixture).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "200000");
    fixture.judge();
}

/// Plans of a customer whose month began 21 days ago: the n-th day is n - 21 days ago.
const PLANS: &str = r#"
[[plans]]
name = "small"
currency = "USD"
effective_from = "1970-01-01T00:00:00Z"
[plans.meters.chime_minutes]
included = "1000"
price = "0.0045"
report = "overage"
[plans.meters.turn_allocations]
included = "300"
[[plans]]
name = "big"
currency = "USD"
effective_from = "1970-01-01T00:00:00Z"
[plans.meters.chime_minutes]
included = "100000"
price = "0.0045"
report = "overage"
"#;

fn with_plans(plan: &str) -> BillingFixture {
    let fixture = BillingFixture::open(&["ann"]);
    std::fs::write(fixture.place.path("more.toml"), PLANS).unwrap();
    fixture.run("plan apply more.toml").ends(0);
    fixture.subscribe_since("bob", 21);
    fixture.run(&format!("customer add bob --plan {plan} --stripe-customer-id cus_bob")).ends(0);
    fixture
}

#[test]
fn an_upgrade_gives_no_overage_back_and_a_downgrade_bills_nothing_that_was_included() {
    let up = with_plans("small");
    up.used("bob", "chime_minutes", "1500", 15);
    sync_and_push(&up).says(&["1 accepted"]);
    up.place.execute("UPDATE customers SET plan = 'big', plan_set_by = 'support' WHERE id = 'bob'");
    up.used("bob", "chime_minutes", "2000", 0);
    up.run("push").says(&["0 sent"]);
    assert_eq!(up.invoiced("bob", "chime_milliminutes"), "500000", "500 were beyond the small plan, and stay so");
    up.run("reconcile bob").says(&["booked 3,500 = 3,000 in the plan + 500 billed"]);
    let kept = "SELECT plan, set_by FROM customer_plans WHERE customer = 'bob' ORDER BY seq";
    assert_eq!(up.place.query(kept), ["small|backend", "big|support"]);
    // enforcement says the same
    up.run("run enforce-budgets").ends(0);
    let decided = "SELECT reason FROM entitlements WHERE customer = 'bob' AND meter = 'chime_minutes'";
    assert_eq!(up.place.query(decided), ["within_included"]);
    up.judge();

    let down = with_plans("big");
    down.used("bob", "chime_minutes", "90000", 15);
    sync_and_push(&down).says(&["0 sent"]);
    down.place.execute("UPDATE customers SET plan = 'small' WHERE id = 'bob'");
    down.run("push").says(&["0 sent"]);
    down.run("reconcile bob").ends(0).says(&["booked 90,000 = 90,000 in the plan"]);
    let advance = "SELECT max(advance) > 0 FROM billing_targets WHERE customer = 'bob' AND meter = 'chime_minutes'";
    assert_eq!(down.place.query(advance), ["1"], "it is taken off the next month");
    down.judge();
}

#[test]
fn a_closed_period_keeps_its_terms_though_it_was_never_planned() {
    let fixture = with_plans("small");
    fixture.place.execute("DELETE FROM stripe_due");
    fixture.used("bob", "chime_minutes", "1500", 40);
    // the plan changes before anybody looked at that month
    fixture.place.execute("UPDATE customers SET plan = 'big' WHERE id = 'bob'");
    sync_and_push(&fixture);
    fixture.place.execute("UPDATE stripe_due SET due_at = 0");
    fixture.run("push");
    let beyond =
        "SELECT sum(billable) / 10000000000 FROM billing_targets WHERE customer = 'bob' AND meter = 'chime_minutes'";
    assert_eq!(fixture.place.query(beyond), ["500"], "by the small plan of then");
    fixture.judge();
}

#[test]
fn a_new_subscription_each_day_includes_no_more() {
    let fixture = with_plans("small");
    {
        let mut world = fixture.stripe.world();
        world.cancel_subscription("sub_bob");
        for day in 1..6 {
            let (id, started) = (format!("sub_{day}"), now() - day * DAY);
            let mut subscription = Subscription::monthly(&id, "cus_bob", started, &["price_chime", "price_storage"]);
            if day > 1 {
                subscription.status = "canceled".into();
                subscription.ended = Some(started + DAY - 60);
            }
            world.add_subscription(subscription);
        }
    }
    for day in 1..6 {
        fixture.used("bob", "chime_minutes", "1000", day);
    }
    sync_and_push(&fixture);
    let sums = "SELECT sum(within) / 10000000000 < 1400, sum(used) / 10000000000 FROM billing_targets \
                WHERE customer = 'bob' AND meter = 'chime_minutes'";
    assert_eq!(fixture.place.query(sums), ["1|5000"], "a month's amount, and a few days' share");
    fixture.judge();
}

#[test]
fn no_more_than_the_budget_is_billed_and_the_rest_is_the_companys() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.run("budget set bob 0").ends(0);
    // set before the usage
    fixture.place.execute(
        "INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at) \
         VALUES ('bob', '', 45, 'USD', 'bob', unixepoch() - 864000), ('bob', '', 0, 'USD', 'bob', unixepoch() - 432000)",
    );
    fixture.used("bob", "chime_minutes", "400", 8);
    fixture.used("bob", "chime_minutes", "1000", 1);
    fixture.run("push").says(&["1 accepted"]);
    // 45 cents are 100 minutes at 0.0045
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "100000");
    fixture.run("reconcile bob").ends(0).says(&[
        "booked 1,400 = 100 in the plan + 100 billed + 1,200 house",
        "0.45 USD billed, 0.00 USD waiting, 5.40 USD house",
    ]);
    fixture.run("verify").ends(0);
    // the other setting holds for periods that begin after it
    fixture.place.execute(DUE);
    fixture.place.run_with("push", &BILL_ALL).says(&["0 sent"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "100000");
    assert_eq!(
        fixture.place.query("SELECT mode FROM overage_billing_changes ORDER BY from_at"),
        ["up-to-budget", "all"]
    );
    fixture.judge();
}

#[test]
fn a_new_subscription_includes_no_second_month_of_turn_credentials() {
    let fixture = with_plans("small");
    sync_and_push(&fixture);
    fixture.run("run enforce-budgets").ends(0);
    let current = "SELECT allowed_until FROM turn_periods WHERE customer = 'bob' AND starts_at <= unixepoch() \
                   ORDER BY starts_at DESC LIMIT 1";
    assert_eq!(fixture.place.query(current), ["300"]);
    fixture.place.execute(
        "UPDATE turn_periods SET used = 300 WHERE customer = 'bob' AND closed_at IS NULL AND starts_at <= unixepoch()",
    );
    // the month is cut after 21 days, and another begins
    {
        let mut world = fixture.stripe.world();
        world.cancel_subscription("sub_bob");
        world.add_subscription(Subscription::monthly("sub_new", "cus_bob", now() - 30, &["price_chime"]));
    }
    sync_and_push(&fixture);
    fixture.run("run enforce-budgets").ends(0);
    let granted: f64 = fixture.place.query(current)[0].parse().unwrap();
    // 21 days of a month of 28 to 31 days were granted; what was used beyond is taken off
    assert!((203.0..=226.0).contains(&granted), "{granted}");
    fixture.judge();
}

#[test]
fn a_meter_that_is_no_longer_billed_breaks_no_rule() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.used("bob", "storage_gb", "2", 1);
    fixture.run("push").says(&["1 accepted"]);
    let config = crate::support::billing_fixture::config(&fixture.stripe.url());
    let without = config.split("[stripe.meters.storage_gb]").next().unwrap();
    std::fs::write(fixture.place.path("meter.toml"), without).unwrap();
    fixture.used("bob", "storage_gb", "3", 0);
    fixture.run("push").ends(3).says(&["storage_gb"]);
    fixture.run("verify").ends(0).says(&["storage_gb: booked 5 = 2 billed + 3 waiting"]);
    fixture.judge();
}

const BILL_ALL: [(&str, &str); 2] =
    [("METER_STRIPE__OVERAGE_BILLING", "all"), ("METER_STRIPE__KEY", crate::support::billing_fixture::KEY)];
const DUE: &str = "INSERT OR REPLACE INTO stripe_due (customer, due_at) VALUES ('bob', 0)";

#[test]
fn everything_beyond_the_plan_is_billed_when_the_configuration_says_so() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.run("budget set bob 0").ends(0);
    fixture.place.execute(
        "INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at) \
         VALUES ('bob', '', 45, 'USD', 'bob', unixepoch() - 864000)",
    );
    fixture.used("bob", "chime_minutes", "1400", 1);
    fixture.place.run_with("push", &BILL_ALL).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "1300000");
    // nor does the default change it, in the period that began before
    fixture.place.execute(DUE);
    fixture.run("push").says(&["0 sent"]);
    assert_eq!(fixture.invoiced("bob", "chime_milliminutes"), "1300000");
    fixture.judge();
}

#[test]
fn twice_the_usage_at_stripe_is_not_called_agreement() {
    let fixture = BillingFixture::open(&["bob"]);
    fixture.used("bob", "chime_minutes", "300", 1);
    fixture.run("push").says(&["1 accepted"]);
    // before any reading nothing is judged
    fixture.run("reconcile").ends(3).says(&["not judged yet"]);
    // another set of books sends the same
    let place = crate::support::Workspace::with(&crate::support::billing_fixture::config(&fixture.stripe.url()));
    let other = |line: &str| place.run_with(line, &[("METER_STRIPE__KEY", crate::support::billing_fixture::KEY)]);
    std::fs::write(place.path("plans.toml"), crate::support::billing_fixture::PLANS).unwrap();
    other("migrate").ends(0);
    other("plan apply plans.toml").ends(0);
    other("customer add bob --plan pro --stripe-customer-id cus_bob").ends(0);
    other("run sync-stripe").ends(0);
    for sql in fixture.place.query("SELECT quote(day) FROM booked_usage") {
        place.execute(&testkit::usage::booking("bob", "chime_minutes", &sql, "3000000000000").join(";"));
    }
    other("push").says(&["1 accepted"]);
    let seen = fixture.run("reconcile bob").ends(3);
    let seen = seen.says(&["its invoice had 400000 of 200000", "not judged yet"]);
    assert!(!seen.out.contains("every difference is 0"), "{}", seen.out);
    fixture.judge();
}

#[test]
fn the_anchor_that_was_reset_leaves_past_invoices_where_they_were() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.subscribe_since("bob", 50);
    fixture.run("customer add bob --plan pro --stripe-customer-id cus_bob").ends(0);
    fixture.used("bob", "chime_minutes", "600", 45);
    sync_and_push(&fixture);
    let periods =
        "SELECT starts_at FROM billing_periods WHERE customer = 'bob' AND subscription IS NOT NULL ORDER BY 1";
    let before = fixture.place.query(periods);
    fixture.stripe.world().reset_anchor("sub_bob");
    sync_and_push(&fixture);
    let after = fixture.place.query(periods);
    assert_eq!(before[..2], after[..2], "what was invoiced stays");
    let is_now = |t: &String| (now() - t.parse::<i64>().unwrap()).abs() < 120;
    assert!(after.iter().any(is_now), "{after:?} is not cut at {}", now());
    fixture.run("verify").ends(0);
    fixture.judge();
}
