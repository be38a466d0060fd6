//! An account that is set up by requests alone, as docs/stripe-setup.md does it.

use serde_json::Value;

use crate::tests::{EVENTS, at, event, get, november, post};
use crate::{FakeStripe, Options};

const PRICES: &str = "/v1/prices";
const SUBSCRIPTIONS: &str = "/v1/subscriptions";
const ITEMS: &str = "/v1/subscription_items";

/// A form of a metered price of a meter, with more.
fn priced(meter: &str, more: &str) -> String {
    format!(
        "recurring[interval]=month&recurring[usage_type]=metered&recurring[meter]={meter}&product_data[name]=Minutes&{more}"
    )
}

fn meter(fake: &FakeStripe) -> String {
    fake.world().add_meter("minutes")
}

async fn made(fake: &FakeStripe, target: &str, body: &str) -> Value {
    let reply = post(fake, target, body).await;
    assert_eq!(reply.status, 200, "{target} {body}: {}", reply.text);
    reply.json()
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

#[tokio::test]
async fn what_requests_make_is_billed() {
    let (fake, now) = november(Options::default()).await;
    let price = made(&fake, PRICES, &priced(&meter(&fake), "currency=USD&unit_amount_decimal=0.50")).await;
    assert_eq!((&price["currency"], &price["unit_amount_decimal"]), (&"usd".into(), &"0.5".into()));
    assert_eq!(get(&fake, &format!("{PRICES}/{}", id(&price))).await.json(), price);
    let product = get(&fake, &format!("/v1/products/{}", price["product"].as_str().unwrap())).await.json();
    assert_eq!(product["name"], "Minutes");
    let customer = made(&fake, "/v1/customers", "name=Acme&email=a%40example.com&metadata[id]=acme").await;
    assert_eq!(get(&fake, &format!("/v1/customers/{}", id(&customer))).await.json(), customer);
    assert_eq!(get(&fake, "/v1/customers?email=a%40example.com").await.json()["data"][0], customer);

    let start = at("2026-11-01T00:00:00Z");
    let form = format!("customer={}&items[0][price]={}&backdate_start_date={start}", id(&customer), id(&price));
    let subscription = made(&fake, SUBSCRIPTIONS, &form).await;
    assert_eq!(get(&fake, &format!("{SUBSCRIPTIONS}/{}", id(&subscription))).await.json(), subscription);
    let item = &subscription["items"]["data"][0];
    assert_eq!(get(&fake, &format!("{ITEMS}/{}", id(item))).await.json(), *item);
    assert_eq!(item["current_period_start"], start);

    let usage = event("a", "7", now).replace("cus_1", id(&customer));
    assert_eq!(post(&fake, EVENTS, &usage).await.status, 200);
    let lines = fake.world().invoices(id(&customer));
    assert_eq!((lines.len(), lines[0].amount), (1, 4.into()), "7 at half a cent, rounded");
}

#[tokio::test]
async fn an_item_that_a_request_adds_bills_from_then_on() {
    let (fake, now) = november(Options::default()).await;
    let storage = fake.world().add_meter("storage");
    let price = made(&fake, PRICES, &priced(&storage, "currency=usd&unit_amount=3")).await;
    let item = made(&fake, ITEMS, &format!("subscription=sub_1&price={}", id(&price))).await;
    assert_eq!((&item["subscription"], &item["created"]), (&"sub_1".into(), &now.into()));
    assert_eq!(get(&fake, &format!("{ITEMS}?subscription=sub_1")).await.json()["data"].as_array().unwrap().len(), 2);
    let usage = event("a", "2", now).replace("=minutes", "=storage");
    assert_eq!(post(&fake, EVENTS, &usage).await.status, 200);
    let lines = fake.world().invoices("cus_1");
    assert_eq!(
        lines.iter().filter(|line| line.price == id(&price)).map(|line| line.amount).sum::<rust_decimal::Decimal>(),
        6.into()
    );
}

#[tokio::test]
async fn a_price_in_tiers_charges_by_its_tiers() {
    let (fake, now) = november(Options::default()).await;
    let storage = fake.world().add_meter("storage");
    let tiers = "currency=usd&billing_scheme=tiered&tiers_mode=graduated&tiers[0][up_to]=10&tiers[0][unit_amount]=0\
                 &tiers[1][up_to]=inf&tiers[1][unit_amount_decimal]=2";
    let price = made(&fake, PRICES, &priced(&storage, tiers)).await;
    assert_eq!((&price["tiers_mode"], &price["unit_amount_decimal"]), (&"graduated".into(), &Value::Null));
    let whole = get(&fake, &format!("{PRICES}/{}?expand[]=tiers", id(&price))).await.json();
    assert_eq!(whole["tiers"][0]["up_to"], 10);
    made(&fake, ITEMS, &format!("subscription=sub_1&price={}", id(&price))).await;
    let usage = event("a", "15", now).replace("=minutes", "=storage");
    assert_eq!(post(&fake, EVENTS, &usage).await.status, 200);
    let lines = fake.world().invoices("cus_1");
    assert!(lines.iter().any(|line| line.price == id(&price) && line.amount == 10.into()), "{lines:?}");
}

#[tokio::test]
async fn what_stripe_would_refuse_is_refused() {
    let (fake, _) = november(Options::default()).await;
    let meter = meter(&fake);
    let inactive = fake.world().add_meter("gone");
    fake.world().deactivate_meter(&inactive);
    fake.world().add_price("price_eur", "minutes", "eur", "1", None);
    fake.world().add_price("price_off", "minutes", "usd", "1", None);
    fake.world().set_price_active("price_off", false);
    fake.world().add_customer("cus_gone");
    fake.world().delete_customer("cus_gone");
    let before = fake.world().prices.len();
    for (target, body, param, message) in [
        (PRICES, priced(&meter, "unit_amount=1"), "currency", "Missing required param: currency."),
        (PRICES, priced(&meter, "currency=us1&unit_amount=1"), "currency", "Invalid currency: us1."),
        (
            PRICES,
            priced("mtr_none", "currency=usd&unit_amount=1"),
            "recurring[meter]",
            "No such billing meter: 'mtr_none'",
        ),
        (PRICES, priced(&inactive, "currency=usd&unit_amount=1"), "recurring[meter]", "inactive"),
        (PRICES, priced("", "currency=usd&unit_amount=1"), "recurring[meter]", "empty string"),
        (PRICES, priced(&meter, "currency=usd"), "unit_amount", "Missing required param: unit_amount."),
        (PRICES, priced(&meter, "currency=usd&unit_amount=1&unit_amount_decimal=1"), "unit_amount", "only specify one"),
        (PRICES, priced(&meter, "currency=usd&unit_amount_decimal=-1"), "unit_amount_decimal", "Invalid decimal: -1"),
        (
            PRICES,
            priced(&meter, "currency=usd&unit_amount_decimal=0.0000000000001"),
            "unit_amount_decimal",
            "12 decimal",
        ),
        (PRICES, priced(&meter, "currency=usd&unit_amount=1&product=prod_x"), "product", "only specify one"),
        (PRICES, priced(&meter, "currency=usd&unit_amount=1&colour=red"), "colour", "unknown parameter"),
        (PRICES, priced(&meter, "currency=usd&unit_amount=1&lookup_key=minutes_usd"), "lookup_key", "already uses"),
        (
            PRICES,
            "currency=usd&unit_amount=1&recurring[interval]=month&recurring[usage_type]=metered&product_data[name]=x"
                .into(),
            "recurring[meter]",
            "must set",
        ),
        (
            PRICES,
            format!(
                "currency=usd&unit_amount=1&recurring[interval]=month&recurring[meter]={meter}&product_data[name]=x"
            ),
            "recurring[meter]",
            "can only be set",
        ),
        (
            PRICES,
            "currency=usd&unit_amount=1&recurring[interval]=month&product=prod_none".into(),
            "product",
            "No such product",
        ),
        (PRICES, "currency=usd&unit_amount=1&recurring[interval]=month".into(), "product", "either `product` or"),
        (SUBSCRIPTIONS, "items[0][price]=price_minutes".into(), "customer", "Missing required param: customer."),
        (SUBSCRIPTIONS, "customer=cus_1".into(), "items", "Missing required param: items."),
        (SUBSCRIPTIONS, "customer=cus_gone&items[0][price]=price_minutes".into(), "customer", "No such customer"),
        (SUBSCRIPTIONS, "customer=cus_1&items[0][price]=price_none".into(), "items[0][price]", "No such price"),
        (SUBSCRIPTIONS, "customer=cus_1&items[0][price]=price_off".into(), "items[0][price]", "is inactive"),
        (
            SUBSCRIPTIONS,
            "customer=cus_1&items[0][price]=price_minutes&items[1][price]=price_eur".into(),
            "items[1][price]",
            "only supports `eur`. This doesn't match the expected currency: `usd`",
        ),
        (
            SUBSCRIPTIONS,
            "customer=cus_1&currency=usd&items[0][price]=price_eur".into(),
            "items[0][price]",
            "only supports `eur`",
        ),
        (
            SUBSCRIPTIONS,
            "customer=cus_1&items[0][price]=price_minutes&items[0][quantity]=2".into(),
            "items[0][price]",
            "cannot set the quantity",
        ),
        (
            SUBSCRIPTIONS,
            "customer=cus_1&items[0][price]=price_minutes&items[0][colour]=red".into(),
            "items[0][colour]",
            "unknown parameter",
        ),
        (ITEMS, "subscription=sub_none&price=price_minutes".into(), "subscription", "No such subscription"),
        (ITEMS, "subscription=sub_1&price=price_minutes".into(), "price", "same plan"),
        (ITEMS, "subscription=sub_1&price=price_eur".into(), "price", "only supports `eur`"),
    ] {
        let reply = post(&fake, target, &body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
        assert_eq!(reply.error("type"), "invalid_request_error");
        assert_eq!(reply.error("param"), param, "{body}: {}", reply.text);
        assert!(reply.error("message").contains(message), "{body}: {}", reply.text);
    }
    for path in ["/v1/prices/price_none", "/v1/products/prod_none", "/v1/subscription_items/si_none"] {
        assert_eq!(get(&fake, path).await.status, 404, "{path}");
    }
    let world = fake.world();
    assert_eq!(
        (world.prices.len(), world.subscriptions.len(), world.products.len()),
        (before, 1, 0),
        "nothing is half made"
    );
}
