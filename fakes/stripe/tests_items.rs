//! Items, prices and anchors: what is billed twice, in which currency, and in which period.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::tests::{EVENTS, at, event, get, november, post};
use crate::{FakeStripe, InvoiceLine, Options, PriceTerms, Subscription, Tier, Transform};

const OCTOBER: &str = "2026-10-01T00:00:00Z";

/// The lines of the running periods of cus_1.
fn running(fake: &FakeStripe) -> Vec<InvoiceLine> {
    let world = fake.world();
    world.invoices("cus_1").into_iter().filter(|line| line.end > world.now()).collect()
}

fn quantities(lines: &[InvoiceLine]) -> Vec<(&str, Decimal)> {
    lines.iter().map(|line| (line.price.as_str(), line.quantity)).collect()
}

#[tokio::test]
async fn two_items_of_one_meter_bill_its_usage_twice() {
    let (fake, now) = november(Options::default()).await;
    post(&fake, EVENTS, &event("a", "7", now)).await;
    assert_eq!(quantities(&running(&fake)), [("price_minutes", Decimal::from(7))]);
    fake.world().add_price("price_again", "minutes", "usd", "0.2", None);
    let both = Subscription::monthly("sub_1", "cus_1", at(OCTOBER), &["price_minutes", "price_again"]);
    fake.world().add_subscription(both);
    let seven = Decimal::from(7);
    assert_eq!(quantities(&running(&fake)), [("price_again", seven), ("price_minutes", seven)]);

    let one = |id: &str| Subscription::monthly(id, "cus_1", at(OCTOBER), &["price_minutes"]);
    fake.world().add_subscription(one("sub_1"));
    fake.world().add_subscription(one("sub_2"));
    let lines = running(&fake);
    assert_eq!(quantities(&lines), [("price_minutes", seven), ("price_minutes", seven)]);
    assert_eq!([&lines[0].subscription, &lines[1].subscription], ["sub_1", "sub_2"]);
    assert!(fake.world().lost().is_empty());
    // it is lost only when the last of them is gone
    fake.world().remove_item("sub_1", "price_minutes");
    assert!(fake.world().lost().is_empty());
    fake.world().remove_item("sub_2", "price_minutes");
    assert_eq!(fake.world().lost().len(), 1);
}

#[tokio::test]
async fn an_item_bills_usage_from_when_it_was_added() {
    let (fake, now) = november(Options::default()).await;
    for (name, time) in [("october", at("2026-10-20T00:00:00Z")), ("before", now - 60), ("after", now)] {
        fake.world().set_now(time);
        post(&fake, EVENTS, &event(name, "1", time)).await;
    }
    fake.world().add_price("price_new", "minutes", "usd", "0.3", None);
    fake.world().add_item("sub_1", "price_new");
    fake.world().remove_item("sub_1", "price_minutes");
    assert_eq!(quantities(&running(&fake)), [("price_new", Decimal::ONE)]);
    let first = fake.world().invoices("cus_1").remove(0);
    assert_eq!((first.price.as_str(), first.quantity), ("price_minutes", Decimal::ONE), "October stays as it was");
    assert_eq!(fake.world().lost()[0].identifier, "before");
    assert_eq!(fake.world().lost().len(), 1);
    let object = get(&fake, "/v1/subscriptions/sub_1").await.json();
    assert_eq!(object["items"]["data"][0]["created"], now);
}

#[tokio::test]
async fn a_subscription_has_one_currency_and_a_price_may_have_several() {
    let (fake, now) = november(Options::default()).await;
    post(&fake, EVENTS, &event("a", "1000", now)).await;
    let options = BTreeMap::from([("eur".to_owned(), "0.15".to_owned())]);
    {
        let mut world = fake.world();
        world.add_price("price_jpy", "minutes", "jpy", "25", None);
        world.add_price("price_multi", "minutes", "usd", "0.17", None);
        world.set_price_terms("price_multi", PriceTerms { currency_options: options, ..PriceTerms::default() });
        let mut euro = Subscription::monthly("sub_eur", "cus_1", at(OCTOBER), &["price_multi"]);
        euro.currency = Some("eur".to_owned());
        world.add_subscription(euro);
        world.add_subscription(Subscription::monthly("sub_jpy", "cus_1", at(OCTOBER), &["price_jpy"]));
    }
    let found: Vec<_> = running(&fake).into_iter().map(|line| (line.currency, line.amount)).collect();
    let expected = [("usd", 170), ("eur", 150), ("jpy", 25_000)];
    for (currency, amount) in expected {
        assert!(found.contains(&(currency.to_owned(), Decimal::from(amount))), "{found:?}");
    }
    assert_eq!(found.len(), 3);
    let euro = get(&fake, "/v1/subscriptions/sub_eur").await.json();
    assert_eq!((&euro["currency"], &euro["items"]["data"][0]["price"]["currency"]), (&"eur".into(), &"usd".into()));
    // the other currencies are shown only when they are asked for
    let plain = get(&fake, "/v1/prices").await.json();
    assert!(plain["data"].as_array().unwrap().iter().all(|price| price.get("currency_options").is_none()));
    let expanded = get(&fake, "/v1/prices?expand[]=data.currency_options&currency=usd&limit=1").await.json();
    let options = &expanded["data"][0]["currency_options"];
    assert_eq!(
        (&options["eur"]["unit_amount_decimal"], &options["usd"]["unit_amount_decimal"]),
        (&"0.15".into(), &"0.17".into())
    );
    assert_eq!(get(&fake, "/v1/prices?expand[]=data.product").await.status, 400);
}

#[tokio::test]
#[should_panic(expected = "sub_eur is in eur, and price_minutes cannot charge in it")]
async fn a_price_without_the_currency_is_refused() {
    let (fake, _) = november(Options::default()).await;
    let mut euro = Subscription::monthly("sub_eur", "cus_1", at(OCTOBER), &["price_minutes"]);
    euro.currency = Some("eur".to_owned());
    fake.world().add_subscription(euro);
}

#[tokio::test]
async fn a_subscription_shows_ten_items_and_lists_all() {
    let (fake, _) = november(Options::default()).await;
    let names: Vec<String> = (0..25).map(|nth| format!("price_{nth}")).collect();
    {
        let mut world = fake.world();
        for name in &names {
            world.add_price(name, &format!("meter_{name}"), "usd", "1", None);
        }
        let prices: Vec<&str> = names.iter().map(String::as_str).collect();
        world.add_subscription(Subscription::monthly("sub_many", "cus_1", at(OCTOBER), &prices));
    }
    let shown = get(&fake, "/v1/subscriptions/sub_many").await.json()["items"].clone();
    assert_eq!((shown["data"].as_array().unwrap().len(), &shown["has_more"]), (10, &Value::from(true)));
    assert_eq!(shown["url"], "/v1/subscription_items?subscription=sub_many");
    let listed = get(&fake, "/v1/subscriptions?customer=cus_1&limit=1").await.json();
    assert_eq!(listed["data"][0]["items"]["data"].as_array().unwrap().len(), 10);
    let price = |item: &Value| item["price"]["id"].as_str().unwrap().to_owned();
    let mut found: Vec<String> = shown["data"].as_array().unwrap().iter().map(price).collect();
    let mut last = shown["data"][9]["id"].as_str().unwrap().to_owned();
    for (length, more) in [(12, true), (3, false)] {
        let target = format!("/v1/subscription_items?subscription=sub_many&limit=12&starting_after={last}");
        let page = get(&fake, &target).await.json();
        let items = page["data"].as_array().unwrap();
        assert_eq!((items.len(), &page["has_more"]), (length, &Value::from(more)));
        found.extend(items.iter().map(price));
        last = items[length - 1]["id"].as_str().unwrap().to_owned();
    }
    assert_eq!(found, names);
    let few = get(&fake, "/v1/subscriptions/sub_1").await.json();
    assert_eq!(few["items"]["has_more"], false);
}

#[tokio::test]
async fn packages_tiers_and_fixed_quantities_are_shown_and_charged() {
    let (fake, now) = november(Options::default()).await;
    post(&fake, EVENTS, &event("a", "2501", now)).await;
    let tier = |up_to, amount: &str| Tier { up_to, unit_amount_decimal: amount.to_owned() };
    {
        let mut world = fake.world();
        for name in ["price_up", "price_down", "price_tiers", "price_weekly", "price_base"] {
            world.add_price(name, "minutes", "usd", "10", None);
        }
        let thousands =
            |round| PriceTerms { transform: Some(Transform { divide_by: 1000, round }), ..PriceTerms::default() };
        world.set_price_terms("price_up", thousands("up"));
        world.set_price_terms("price_down", thousands("down"));
        let tiers = vec![tier(Some(1000), "0"), tier(Some(2000), "0.5"), tier(None, "0.1")];
        world.set_price_terms("price_tiers", PriceTerms { tiers, ..PriceTerms::default() });
        world.set_price_terms("price_weekly", PriceTerms { interval: Some("week".into()), ..PriceTerms::default() });
        world.set_price_terms("price_base", PriceTerms { licensed: true, ..PriceTerms::default() });
        let prices = ["price_up", "price_down", "price_tiers", "price_base"];
        let mut all = Subscription::monthly("sub_all", "cus_1", at(OCTOBER), &prices);
        all.quantities.insert("price_base".into(), 3);
        (all.schedule, all.test_clock) = (Some("sub_sched_1".into()), Some("clock_1".into()));
        (all.status, all.trial_end) = ("trialing".into(), Some(now + 60));
        world.add_subscription(all);
    }
    let amounts: BTreeMap<String, Decimal> = running(&fake).into_iter().map(|line| (line.price, line.amount)).collect();
    // 3 and 2 packages; 1,000 units at half a cent and 501 at a tenth: 550.1
    let expected = [("price_down", 20), ("price_minutes", 425), ("price_tiers", 550), ("price_up", 30)];
    let expected = expected.map(|(price, amount)| (price.to_owned(), Decimal::from(amount)));
    assert_eq!(amounts, BTreeMap::from(expected), "a fixed quantity has no line of usage");

    let object = get(&fake, "/v1/subscriptions/sub_all").await.json();
    let items = &object["items"]["data"];
    assert_eq!(items[0]["price"]["transform_quantity"], serde_json::json!({ "divide_by": 1000, "round": "up" }));
    let tiered = &items[2]["price"];
    assert_eq!((&tiered["billing_scheme"], &tiered["unit_amount_decimal"]), (&"tiered".into(), &Value::Null));
    assert!(tiered.get("tiers").is_none());
    let base = &items[3];
    assert_eq!((&base["quantity"], &base["price"]["recurring"]["usage_type"]), (&3.into(), &"licensed".into()));
    assert_eq!(base["price"]["recurring"]["meter"], Value::Null);
    assert!(items[0].get("quantity").is_none());
    let fields = ["schedule", "test_clock", "status"].map(|field| object[field].as_str().unwrap().to_owned());
    assert_eq!(fields, ["sub_sched_1", "clock_1", "trialing"]);
    assert_eq!((&object["trial_end"], &object["billing_mode"]["type"]), (&(now + 60).into(), &"classic".into()));
    let expanded = get(&fake, "/v1/prices?expand[]=data.tiers").await.json();
    let with_tiers = |one: &&Value| one.get("tiers").is_some();
    let tiered: Vec<&Value> = expanded["data"].as_array().unwrap().iter().filter(with_tiers).collect();
    assert_eq!((tiered.len(), &tiered[0]["tiers"][1]["up_to"]), (1, &Value::from(2000)));
    let weekly = get(&fake, "/v1/prices?recurring[interval]=week").await.json();
    assert_eq!(weekly["data"][0]["id"], "price_weekly");
}

#[tokio::test]
async fn a_reset_anchor_cuts_the_running_period_and_no_other() {
    let (fake, now) = november(Options::default()).await;
    for (name, time) in [("october", at("2026-10-20T00:00:00Z")), ("before", now - 1), ("after", now)] {
        post(&fake, EVENTS, &event(name, "1", time)).await;
    }
    fake.world().reset_anchor("sub_1");
    let bounds = |fake: &FakeStripe| -> Vec<(i64, i64, Decimal)> {
        fake.world().invoices("cus_1").iter().map(|line| (line.start, line.end, line.sum)).collect()
    };
    let november = at("2026-11-01T00:00:00Z");
    let mut expected = vec![
        (at(OCTOBER), november, Decimal::ZERO),
        (november, now, Decimal::ONE),
        (now, at("2026-12-15T12:00:00Z"), Decimal::ONE),
    ];
    assert_eq!(bounds(&fake), expected, "October was final when its usage came");
    let object = get(&fake, "/v1/subscriptions/sub_1").await.json();
    assert_eq!((&object["billing_cycle_anchor"], &object["start_date"]), (&now.into(), &at(OCTOBER).into()));
    assert_eq!(object["items"]["data"][0]["current_period_start"], now);

    // again, a week later: what was cut before stays
    let again = now + 7 * crate::DAY;
    fake.world().set_now(again);
    fake.world().reset_anchor("sub_1");
    expected[2].1 = again;
    expected.push((again, at("2026-12-22T12:00:00Z"), Decimal::ZERO));
    assert_eq!(bounds(&fake), expected);
    fake.world().set_now(at("2026-12-25T00:00:00Z"));
    assert_eq!(bounds(&fake)[..4], expected);
}

#[tokio::test]
async fn a_customer_gets_another_stripe_customer() {
    let (fake, now) = november(Options::default()).await;
    post(&fake, EVENTS, &event("old", "1", now - 1)).await;
    fake.world().move_subscription("sub_1", "sub_2", "cus_2");
    let old = get(&fake, "/v1/subscriptions/sub_1").await.json();
    assert_eq!(
        (&old["status"], &old["ended_at"], &old["customer"]),
        (&"canceled".into(), &now.into(), &"cus_1".into())
    );
    let new = get(&fake, "/v1/subscriptions/sub_2").await.json();
    assert_eq!(
        (&new["status"], &new["start_date"], &new["customer"]),
        (&"active".into(), &now.into(), &"cus_2".into())
    );
    // an event for the old customer is on no invoice any more, one for the new customer is
    post(&fake, EVENTS, &event("late", "1", now + 60)).await;
    post(&fake, EVENTS, &event("new", "1", now + 60).replace("cus_1", "cus_2")).await;
    let world = fake.world();
    assert_eq!(world.lost().iter().map(|event| event.identifier.as_str()).collect::<Vec<_>>(), ["late"]);
    let sums = |customer: &str| world.invoices(customer).iter().map(|line| line.sum).sum::<Decimal>();
    assert_eq!((sums("cus_1"), sums("cus_2")), (Decimal::ONE, Decimal::ONE));
}
