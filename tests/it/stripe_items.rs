//! What subscriptions have at Stripe, through the binary: pages of items, each customer's own items
//! beside the plan, what is not billed rightly, and what customers had before.

use std::collections::BTreeMap;

use fake_stripe::{PriceTerms, Subscription, Tier, Transform};
use jiff::Timestamp;

use crate::support::billing_fixture::{BillingFixture, DAY};

const FULL: &str = "run sync-stripe --payload {\"full\":true} --json";

/// Ten days ago, when the subscriptions of the fixture began.
fn began() -> i64 {
    Timestamp::now().as_second() - 10 * DAY
}

impl BillingFixture {
    /// A price of calls, with terms of its own.
    fn price(&self, id: &str, amount: &str, terms: PriceTerms) {
        let mut world = self.stripe.world();
        world.add_price(id, "chime_milliminutes", "usd", amount, None);
        world.set_price_terms(id, terms);
    }

    /// Gives a customer's subscription these prices, and makes it if there is none.
    fn subscribe(&self, name: &str, prices: &[&str], change: impl FnOnce(&mut Subscription)) {
        let (id, customer) = (format!("sub_{name}"), format!("cus_{name}"));
        let mut world = self.stripe.world();
        let started = world.subscription_mut(&id).map_or_else(began, |subscription| subscription.started);
        let mut subscription = Subscription::monthly(&id, &customer, started, prices);
        change(&mut subscription);
        world.add_subscription(subscription);
    }
}

#[test]
fn a_subscription_that_is_older_than_the_customers_stripe_id_is_found() {
    let fixture = BillingFixture::open(&["ann"]);
    let began = jiff::Timestamp::now().as_second() - 9 * 86_400;
    {
        let mut world = fixture.stripe.world();
        for name in ["eve", "fay"] {
            world.add_customer(&format!("cus_{name}"));
        }
        world.add_subscription(Subscription::monthly("sub_eve", "cus_eve", began, &["price_chime", "price_storage"]));
    }
    fixture.run("run sync-stripe full=true").ends(0);
    fixture.run("customer add eve --plan pro").ends(0);
    fixture.run("customer set eve --stripe-id cus_eve").ends(0);
    // one without a subscription, and one that Stripe does not have
    fixture.run("customer add fay --plan pro --stripe-customer-id cus_fay").ends(0);
    fixture.run("customer add gil --plan pro --stripe-customer-id cus_gil").ends(0);
    let asked = || {
        let requests = fixture.stripe.world().requests().len();
        let report = fixture.run("run sync-stripe --json").ends(0).json();
        (report["full"].clone(), report["changed"].clone(), fixture.stripe.world().requests().len() - requests)
    };
    assert_eq!(asked(), (false.into(), 1.into(), 4), "the new ones, and three customers");
    assert_eq!(fixture.place.query("SELECT id FROM subscriptions WHERE customer = 'eve'"), ["sub_eve"]);
    assert_eq!(asked(), (false.into(), 0.into(), 1), "each Stripe id is asked for once");
    // very many are read with all others
    let many: String = (0..101).map(|n| format!("m{n},pro,cus_m{n}\n")).collect();
    std::fs::write(fixture.place.path("many.csv"), format!("id,plan,stripe_customer_id\n{many}")).unwrap();
    fixture.run("customer import many.csv").ends(0);
    assert_eq!(asked().0, true);
    fixture.judge();
}

#[test]
fn each_customers_own_items_are_checked() {
    let fixture = BillingFixture::open(&["ann", "bob", "cyd", "dan", "eve", "fay"]);
    fixture.run("stripe check").ends(0).says(&["every customer's items bill what the plan says"]);

    fixture.price("price_dear", "0.45", PriceTerms::default());
    fixture.price("price_again", "0.00045", PriceTerms::default());
    let euro = BTreeMap::from([("eur".to_owned(), "0.0004".to_owned())]);
    fixture.price("price_multi", "0.00045", PriceTerms { currency_options: euro, ..PriceTerms::default() });
    {
        let mut world = fixture.stripe.world();
        world.add_price("price_storage_eur", "storage_mb_months", "eur", "0.005", None);
        // bob has a second subscription with both meters
        let second = Subscription::monthly("sub_b2", "cus_bob", began() + 60, &["price_chime", "price_storage"]);
        world.add_subscription(second);
    }
    fixture.subscribe("ann", &["price_chime", "price_again", "price_storage"], |_| {});
    fixture.subscribe("cyd", &["price_dear", "price_storage"], |_| {});
    fixture.subscribe("dan", &["price_storage"], |_| {});
    fixture.subscribe("eve", &["price_storage_eur", "price_multi"], |s| s.currency = Some("eur".into()));
    let before = fixture.run("stripe check").ends(0);
    assert!(before.out.contains("every customer's items bill"), "the rows are older than the change");
    fixture.run(FULL).ends(3).says(&["sub_eve"]);

    let found =
        fixture.run("stripe check").ends(3).says(&["5 customer(s) have items", "as sync_stripe read them: all"]);
    // lines are wrapped: what belongs together stands in one text
    let text = found.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "ann chime_minutes: 2 items carry it under cus_ann, and Stripe bills its usage for each of them: \
         si_ann_again of sub_ann, si_ann_chime of sub_ann",
        "bob chime_minutes: 2 items carry it under cus_bob, and Stripe bills its usage for each of them: \
         si_bob_chime of sub_bob, si_b2_chime of sub_b2 storage_gb: 2 items carry it under cus_bob",
        "cyd chime_minutes: si_cyd_dear of sub_cyd has price_dear at 0.45, the plan's price makes 0.00045",
        "dan chime_minutes: no item in sub_dan, so nothing bills it",
        "eve chime_minutes: si_eve_multi of sub_eve is charged in EUR, the plan is in USD storage_gb: \
         si_eve_storage_eur of sub_eve is charged in EUR, the plan is in USD si_eve_multi of sub_eve: multi-currency price",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in {text}");
    }
    assert!(!text.contains("fay "), "{text}");
    let part = found.out.split("\nitems of").nth(1).unwrap();
    assert!(part.lines().all(|line| line.chars().count() <= 80), "{part}");

    // it is true: the fake bills two items twice
    fixture.book("ann", "chime_minutes", "300");
    fixture.stripe.world().remove_item("sub_ann", "price_again");
    fixture.run(FULL).ends(3);
    fixture.run("push").says(&["accepted"]);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "200000");
    fixture.subscribe("ann", &["price_chime", "price_again", "price_storage"], |_| {});
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "400000");
    fixture.judge();
}

#[test]
fn twenty_customers_are_named_and_the_others_counted() {
    let names: Vec<String> = (10..34).map(|n| format!("cust{n}")).collect();
    let fixture = BillingFixture::open(&[]);
    fixture.stripe.world().add_price("price_dear", "chime_milliminutes", "usd", "0.45", None);
    let rows: String = names.iter().map(|name| format!("{name},pro,cus_{name}\n")).collect();
    std::fs::write(fixture.place.path("customers.csv"), format!("id,plan,stripe_customer_id\n{rows}")).unwrap();
    fixture.run("customer import customers.csv").ends(0);
    fixture.place.execute(
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('sub_unread', 'cust10', 'active', 1700000000, 1700000000)",
    );
    fixture.place.execute("DELETE FROM settings WHERE name IN ('synced', 'synced_full')");
    fixture.run("stripe check").ends(3).says(&["not every subscription was read", "`meter run sync-stripe full=true`"]);
    fixture.place.execute("DELETE FROM subscriptions");
    for name in &names {
        fixture.subscribe(name, &["price_dear", "price_storage"], |_| {});
    }
    fixture.run(FULL).ends(0);
    let found = fixture.run("stripe check").ends(3).says(&["24 customer(s) have items", "and 4 more"]);
    assert_eq!(found.out.lines().filter(|line| line.starts_with("cust")).count(), 20, "{}", found.out);
    assert_eq!(found.out.matches("another price: give the item").count(), 1, "{}", found.out);
    fixture.judge();
}

#[test]
fn items_beyond_the_first_ten_are_read() {
    let fixture = BillingFixture::open(&["ann"]);
    let more: Vec<String> = (0..130).map(|n| format!("price_more_{n}")).collect();
    for id in &more {
        fixture.stripe.world().add_price(id, &format!("other_{id}"), "usd", "1", None);
    }
    let mut prices: Vec<&str> = more.iter().map(String::as_str).collect();
    prices.extend(["price_chime", "price_storage"]);
    fixture.subscribe("ann", &prices, |_| {});
    fixture.run(FULL).ends(0);
    assert_eq!(fixture.place.query("SELECT count(*) FROM subscription_items"), ["132"]);
    let pages = |fixture: &BillingFixture| {
        let world = fixture.stripe.world();
        world.requests().iter().filter(|r| r.target.starts_with("/v1/subscription_items?")).count()
    };
    assert_eq!(pages(&fixture), 2, "ten come with the subscription, 122 in two pages");
    fixture.run("stripe check").ends(0);
    fixture.book("ann", "chime_minutes", "300");
    fixture.run("push").ends(0).says(&["1 accepted"]);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "200000");
    fixture.judge();
}

#[test]
fn what_is_not_billed_rightly_is_named() {
    let fixture = BillingFixture::open(&["ann", "bob", "cyd", "dan", "eve"]);
    let thousands = Some(Transform { divide_by: 1000, round: "up" });
    fixture.price("price_packs", "0.45", PriceTerms { transform: thousands, ..PriceTerms::default() });
    fixture.price("price_week", "0.00045", PriceTerms { interval: Some("week".into()), ..PriceTerms::default() });
    fixture.price("price_base", "900", PriceTerms { licensed: true, ..PriceTerms::default() });
    let tiers = vec![Tier { up_to: None, unit_amount_decimal: "0.00045".into() }];
    fixture.price("price_tiers", "0", PriceTerms { tiers, ..PriceTerms::default() });
    fixture.subscribe("ann", &["price_packs", "price_storage"], |s| s.test_clock = Some("clock_1".into()));
    fixture.subscribe("bob", &["price_week", "price_storage"], |_| {});
    fixture.subscribe("cyd", &["price_chime", "price_storage"], |s| {
        (s.status, s.trial_end) = ("trialing".into(), Some(began() + 30 * DAY));
        s.schedule = Some("sub_sched_1".into());
    });
    // a base fee and a price in tiers are right
    fixture.subscribe("dan", &["price_tiers", "price_storage", "price_base"], |s| {
        s.quantities.insert("price_base".into(), 2);
        s.flexible = true;
    });
    let report = fixture.run(FULL).ends(3).json();
    let expected = serde_json::json!({
        "not monthly": 1, "schedule": 1, "test clock": 1, "transform_quantity": 1, "trial": 1
    });
    assert_eq!(report["unsupported"], expected);
    assert_eq!((&report["billed_wrongly"], &report["flexible"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(report["names"].as_array().unwrap().len(), 2, "{report}");
    let items = "SELECT price, unit_amount, tiered FROM subscription_items WHERE customer = 'dan' ORDER BY price";
    assert_eq!(fixture.place.query(items), ["price_storage|0.005|0", "price_tiers||1"]);
    let found = fixture.run("stripe check").ends(3);
    let text = found.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "ann sub_ann: test clock si_ann_packs of sub_ann: transform_quantity",
        "bob si_bob_week of sub_bob: not monthly",
        "cyd sub_cyd: trial, schedule",
        "3 customer(s) have items",
    ] {
        assert!(text.contains(expected), "`{expected}` is not in {text}");
    }
    // a trial and a schedule alone call nobody
    fixture.subscribe("ann", &["price_chime", "price_storage"], |_| {});
    fixture.subscribe("bob", &["price_chime", "price_storage"], |_| {});
    let report = fixture.run(FULL).ends(0).json();
    assert_eq!(report["billed_wrongly"], 0, "{report}");
    fixture.judge();
}

#[test]
fn a_subscription_of_an_earlier_stripe_id_is_still_read() {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    let row = "SELECT id, status, stripe_customer, currency FROM subscriptions WHERE customer = 'ann' ORDER BY id";
    assert_eq!(fixture.place.query(row), ["sub_ann|active|cus_ann|USD"]);
    // the backend sets the new id before anything happens at Stripe
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_new' WHERE id = 'ann'");
    fixture.stripe.world().move_subscription("sub_ann", "sub_new", "cus_new");
    let report = fixture.run(FULL).ends(0).json();
    assert_eq!((&report["changed"], &report["unknown_customers"]), (&2.into(), &0.into()), "{report}");
    assert_eq!(fixture.place.query(row), ["sub_ann|canceled|cus_ann|USD", "sub_new|active|cus_new|USD"]);
    let ids = "SELECT customer, stripe_customer, until IS NULL FROM stripe_customers ORDER BY customer, seq";
    assert_eq!(fixture.place.query(ids), ["ann|cus_ann|0", "ann|cus_new|1", "bob|cus_bob|1"]);
    let living =
        "SELECT customer, stripe_customer, subscription, count(*) FROM living_items GROUP BY 1, 2, 3 ORDER BY 1";
    assert_eq!(fixture.place.query(living), ["ann|cus_new|sub_new|2", "bob|cus_bob|sub_bob|2"]);
    fixture.run("stripe check").ends(0);

    // both live: usage goes to one of them
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_third' WHERE id = 'bob'");
    let third = Subscription::monthly("sub_third", "cus_third", began(), &["price_chime", "price_storage"]);
    fixture.stripe.world().add_subscription(third);
    fixture.run(FULL).ends(0);
    let found = fixture.run("stripe check").ends(3);
    let text = found.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("items of several Stripe customers carry it (cus_bob, cus_third)"), "{text}");

    // an id that goes to another customer is the other's from then on
    fixture.run("customer add cyd --plan pro").ends(0);
    fixture.place.execute("UPDATE customers SET stripe_customer_id = 'cus_ann' WHERE id = 'cyd'");
    let again = Subscription::monthly("sub_cyd", "cus_ann", began(), &["price_chime", "price_storage"]);
    fixture.stripe.world().add_subscription(again);
    fixture.run(FULL).ends(0);
    assert_eq!(fixture.place.query("SELECT customer FROM subscriptions WHERE id = 'sub_cyd'"), ["cyd"]);
    fixture.judge();
}

#[test]
fn anchors_and_items_keep_their_history() {
    let fixture = BillingFixture::open(&["ann"]);
    let anchors = "SELECT count(*), count(DISTINCT anchor_at) FROM subscription_anchors WHERE subscription = 'sub_ann'";
    assert_eq!(fixture.place.query(anchors), ["1|1"]);
    fixture.stripe.world().reset_anchor("sub_ann");
    fixture.run(FULL);
    assert_eq!(fixture.place.query(anchors), ["2|2"]);
    let newest = "SELECT a.anchor_at = s.anchor_at AND a.known_at BETWEEN a.anchor_at AND a.anchor_at + 60 FROM subscription_anchors a \
                  JOIN subscriptions s ON s.id = a.subscription ORDER BY a.seq DESC LIMIT 1";
    assert_eq!(fixture.place.query(newest), ["1"]);
    fixture.run(FULL);
    assert_eq!(fixture.place.query(anchors), ["2|2"], "an anchor that stays adds nothing");

    let history = "SELECT price, unit_amount, currency, until IS NULL FROM subscription_item_history ORDER BY seq";
    let (chime, storage) = ("price_chime|0.00045|USD|1", "price_storage|0.005|USD|1");
    let mut first = fixture.place.query(history);
    first.sort();
    assert_eq!(first, [chime, storage]);
    fixture.stripe.world().add_price("price_new", "chime_milliminutes", "usd", "0.0009", None);
    fixture.stripe.world().add_item("sub_ann", "price_new");
    fixture.stripe.world().remove_item("sub_ann", "price_chime");
    fixture.run(FULL);
    let rows = fixture.place.query(history);
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows.contains(&"price_chime|0.00045|USD|0".to_owned()), "{rows:?}");
    assert!(rows.contains(&"price_new|0.0009|USD|1".to_owned()), "{rows:?}");
    // the item bills from its creation on, and the one that is gone until it was found gone
    let times = "SELECT from_at > unixepoch() - 60, known_at >= from_at, until >= known_at FROM subscription_item_history \
                 WHERE price IN ('price_chime', 'price_new') ORDER BY price";
    assert_eq!(fixture.place.query(times), ["0|1|1", "1|1|"]);
    // history cannot be written anew
    for sql in [
        "UPDATE subscription_item_history SET price = 'x' WHERE until IS NULL",
        "UPDATE subscription_item_history SET until = NULL WHERE until IS NOT NULL",
        "DELETE FROM subscription_item_history",
        "UPDATE subscription_anchors SET anchor_at = 0",
        "DELETE FROM subscription_anchors",
        "UPDATE stripe_customers SET stripe_customer = 'x'",
        "DELETE FROM stripe_customers",
    ] {
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fixture.place.execute(sql)));
        assert!(refused.is_err(), "{sql}");
    }
    fixture.judge();
}

#[test]
fn rows_from_before_the_history_are_completed_by_the_next_run() {
    let fixture = BillingFixture::open(&[]);
    fixture.subscribe("ann", &["price_chime", "price_storage"], |_| {});
    fixture.run("customer add ann --plan pro --stripe-customer-id cus_ann").ends(0);
    let meter = fixture.place.query("SELECT stripe_id FROM stripe_meters WHERE meter = 'chime_minutes'")[0].clone();
    let start = began();
    // as the web backend and an earlier build wrote them
    fixture.place.execute(&format!(
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('sub_ann', 'ann', 'active', {start}, {start}); \
         INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) \
         VALUES ('si_ann_chime', 'sub_ann', 'ann', '{meter}', 'price_chime', 'USD', {}, {})",
        start + DAY,
        start + 31 * DAY
    ));
    let living = || {
        fixture.runtime.block_on(async {
            let books = books::Database::open_local(&fixture.place.path("meter.db")).await.unwrap();
            books.living_items("ann").await.unwrap()
        })
    };
    let item = living()[&meter][0].clone();
    assert_eq!((item.stripe_customer.as_deref(), item.unit_amount), (Some("cus_ann"), None), "it stands in");
    fixture.run("stripe check").ends(3);
    fixture.run(FULL).ends(0);
    let history = "SELECT item, unit_amount, until IS NULL, from_at < starts FROM subscription_item_history, \
                   (SELECT unixepoch() - 9 * 86400 AS starts) ORDER BY item";
    let expected = ["si_ann_chime|0.00045|1|1", "si_ann_storage|0.005|1|1"];
    assert_eq!(fixture.place.query(history), expected, "what becomes known is no change");
    let items = living();
    assert_eq!((items.len(), items[&meter].len()), (2, 1));
    let item = &items[&meter][0];
    assert_eq!((item.price.as_str(), item.currency.as_str(), item.tiered), ("price_chime", "USD", false));
    assert_eq!(item.unit_amount.map(|amount| amount.to_string()).as_deref(), Some("0.00045"));
    fixture.stripe.world().cancel_subscription("sub_ann");
    fixture.run(FULL).ends(0);
    assert!(living().is_empty());
    fixture.judge();
}
