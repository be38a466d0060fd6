//! Bills and statements through the binary: what they say is what Stripe charges, and nobody reads
//! a statement that nobody signed a link for.

use std::collections::BTreeMap;

use crate::support::Workspace;
use crate::support::billing_fixture::BillingFixture;
use crate::support::served::{Served, request};
use jiff::Timestamp;

const LINK_KEY: &str = "a-key-of-this-test";

/// Ann is beyond the plan, bob is within it, and what cyd owes ends with half a cent.
fn used() -> BillingFixture {
    let fixture = BillingFixture::open(&["ann", "bob", "cyd"]);
    fixture.book("ann", "chime_minutes", "350.1234567");
    fixture.book("ann", "storage_gb", "1.5");
    fixture.used("ann", "chime_minutes", "0.5", 2);
    fixture.book("bob", "chime_minutes", "20");
    fixture.book("cyd", "storage_gb", "0.1");
    fixture.book("cyd", "chime_minutes", "133.3333333");
    fixture
}

/// Amounts in cents by customer and event name, as Stripe charges them.
fn charged(fixture: &BillingFixture) -> BTreeMap<(String, String), i64> {
    let stripe = fixture.stripe.world();
    let mut found = BTreeMap::new();
    for name in ["ann", "bob", "cyd"] {
        for line in stripe.invoices(&format!("cus_{name}")) {
            let amount = i64::try_from(line.amount).unwrap();
            *found.entry((name.to_owned(), line.event_name)).or_default() += amount;
        }
    }
    found
}

/// The same, as `meter bill --json` says.
fn promised(bills: &serde_json::Value) -> BTreeMap<(String, String), i64> {
    let mut found = BTreeMap::new();
    for bill in bills["bills"].as_array().unwrap() {
        for line in bill["lines"].as_array().unwrap() {
            let event_name = match line["meter"].as_str().unwrap() {
                "chime_minutes" => "chime_milliminutes",
                _ => "storage_mb_months",
            };
            let key = (bill["customer"].as_str().unwrap().to_owned(), event_name.to_owned());
            found.insert(key, line["amount"]["minor"].as_i64().unwrap());
        }
    }
    found
}

#[test]
fn a_bill_says_what_stripe_charges() {
    let fixture = used();
    let before = fixture.run("bill --json").ends(0).json();
    fixture.run("push").ends(0);
    let charged = charged(&fixture);
    assert_eq!(promised(&before), charged);
    // 250.623 minutes at 0.0045, 1.5 GB-months at 0.05
    let ann = ["chime_milliminutes", "storage_mb_months"].map(|name| charged[&("ann".to_owned(), name.to_owned())]);
    assert_eq!(ann, [113, 8]);
    let after = fixture.run("bill --json").ends(0).json();
    assert_eq!(promised(&after), charged);
    let sent = |bills: &serde_json::Value| bills["bills"][0]["lines"][0]["sent"].clone();
    assert_eq!((sent(&before), sent(&after)), (0.into(), 250_623.into()));

    // an explained charge has the same parts
    for bill in after["bills"].as_array().unwrap() {
        let explained = fixture.run(&format!("explain {} --json", bill["customer"].as_str().unwrap())).ends(0).json();
        let meters = explained[0]["meters"].as_array().unwrap();
        let lines = bill["lines"].as_array().unwrap().iter().filter(|line| line["booked"] != "0");
        for line in lines {
            let own = meters.iter().find(|of| of["meter"] == line["meter"]).unwrap();
            let parts = own["charge"]["compared"]["conservation"].as_object().unwrap();
            assert_eq!(parts.len(), 6, "{parts:?}");
            parts.iter().for_each(|(part, amount)| assert_eq!(*amount, line[part], "{part} of {line}"));
        }
    }

    let text = fixture.run("bill ann").ends(0).says(&["ann, plan pro", "its invoice takes usage", "1.13", "0.08"]);
    assert!(
        text.out.lines().any(|line| line.trim_start().starts_with("total") && line.ends_with("1.21")),
        "{}",
        text.out
    );
    assert!(text.out.contains("booked 350.6234567 = 100 in the plan + 250.6234567 billed (minutes)"), "{}", text.out);
    assert!(text.out.lines().all(|line| line.chars().count() <= 80), "{}", text.out);
    fixture.run("bill").ends(0).says(&["3 bills in USD: 1.37 billed, 0.00 waiting, 0.00 house"]);
    let csv = fixture.run("bill --csv").ends(0);
    let rows: Vec<&str> = csv.out.lines().collect();
    assert_eq!(rows.len(), 1 + 6, "{}", csv.out);
    assert!(rows[0].starts_with("customer,plan,period_start,period_end,invoice,meter,unit,included,used,within,"));
    assert!(
        rows[1].contains(",open,chime_minutes,minutes,100,350.6234567,100,250.6234567,0,0,0,250623,1000,"),
        "{}",
        rows[1]
    );
    assert!(rows[1].ends_with(",0.0045,USD,1.13,0.00,0.00,"), "{}", rows[1]);

    // what a person must release is said, and by the exit code
    fixture.place.execute("DELETE FROM subscription_items WHERE customer = 'cyd'; UPDATE stripe_due SET due_at = 0");
    fixture.book("cyd", "storage_gb", "0.2");
    fixture.run("bill cyd").ends(3).says(&["waiting: 0.2 (0.01 USD): the subscription has no item for the meter"]);
    fixture.judge();
}

#[test]
fn what_cannot_be_billed_is_said() {
    let fixture = used();
    fixture.run("bill nobody").ends(2).says(&["there is no customer `nobody`"]);
    for period in ["soon", "2026", "2026-13", "2026-02-30", "2026-1-1"] {
        fixture.run(&format!("bill ann --period {period}")).ends(2).says(&["no month like 2026-11 and no day like"]);
    }
    fixture.run("bill ann --period 2999-01").ends(2).says(&["--period has not begun"]);
    fixture.run("bill ann --period 1999-01").ends(0).says(&["no billing period of this customer begins then"]);
    fixture.run("bill ann --json --csv").ends(2);
    fixture.run("statement ann").ends(2).says(&["--html"]);
    fixture.run("statement ann --json --period 1999-01").ends(2).says(&["no billing period of ann begins then"]);
    fixture.run("statement ann --link 24").ends(2).says(&["METER_HTTP__STATEMENT_KEY is not set"]);
    fixture.place.execute("UPDATE customers SET plan = 'gone' WHERE id = 'bob'");
    fixture.run("bill").ends(3).says(&["no bill can be made for bob: no plan has the name of its plan"]);
    let plain = Workspace::new();
    plain.run("migrate").ends(0);
    plain.run("bill").ends(0).says(&["nothing is billed: stripe.meters names no meter"]);
    fixture.judge();
}

#[test]
fn a_statement_has_the_figures_of_the_bill_in_words_for_the_customer() {
    let fixture = used();
    fixture.run("statement ann --html ann.html").ends(0).says(&["ann.html written"]);
    let html = std::fs::read_to_string(fixture.place.path("ann.html")).unwrap();
    let words = ["Call minutes", "1.13\u{a0}USD", "1.21\u{a0}USD", "350.62", "100 minutes are included in the plan"];
    for word in words {
        assert!(html.contains(word), "`{word}` is not in: {html}");
    }
    // nothing that only operators know, and no other customer
    for word in ["chime_minutes", "storage_gb", "sub_", "cus_", "house", "waiting", "bob", "<script", "http://"] {
        assert!(!html.contains(word), "`{word}` is in: {html}");
    }
    let bill = fixture.run("bill ann --json").ends(0).json();
    let found = fixture.run("statement ann --json").ends(0).json();
    let (bill, form) = (&bill["bills"][0], &found["form"]);
    assert_eq!((form, &found["amount"]), (&2.into(), &bill["amount"]));
    for (own, line) in found["meters"].as_array().unwrap().iter().zip(bill["lines"].as_array().unwrap()) {
        for field in ["meter", "included", "booked", "within", "billed", "waiting", "house", "not_priced", "amount"] {
            assert_eq!(own[field], line[field], "{field}");
        }
        let number = |text: &serde_json::Value| text.as_str().unwrap().parse::<rust_decimal::Decimal>().unwrap();
        let days = own["days"].as_array().unwrap().iter();
        assert_eq!(days.map(|day| number(&day["quantity"])).sum::<rust_decimal::Decimal>(), number(&own["booked"]));
    }
    let csv = fixture.run("statement ann --csv").ends(0).out;
    let kinds: Vec<&str> = csv.lines().filter_map(|line| line.split(',').next()).collect();
    assert_eq!(kinds[..4], ["kind", "usage", "usage", "used"], "{csv}");
    assert!(
        csv.lines().any(|line| line.starts_with("charged,") && line.ends_with(",250.623,0.0045,USD,1.13")),
        "{csv}"
    );
    fixture.judge();
}

#[test]
fn a_statement_is_served_to_whoever_has_a_signed_link_alone() {
    let fixture = used();
    let signed = [("METER_HTTP__STATEMENT_KEY", LINK_KEY)];
    let link = fixture.place.run_with("statement ann --link 1", &signed).ends(0).out.trim().to_owned();
    let folder = fixture.place.folder.path();
    let worker = Served::start(folder, "--kinds verify_books --no-schedule", &signed);
    worker.until("/readyz", |answer| answer.status == 200);
    let page = worker.get(&link);
    assert_eq!(page.status, 200, "{link} {}", page.body);
    assert!(page.body.contains("Call minutes") && page.body.contains("1.21\u{a0}USD"), "{}", page.body);
    assert!(page.head.contains("no-store") && page.head.contains("no-referrer"), "{}", page.head);
    let json = worker.get(&format!("{link}&form=json"));
    let found: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((&found["customer"], &found["amount"]["minor"]), (&"ann".into(), &121.into()));
    // from elsewhere, through a proxy
    let from = [("Host", "meter.example.com"), ("X-Forwarded-For", "198.51.100.7")];
    assert_eq!(request(worker.port, "GET", &link, &from, "").unwrap().status, 200);
    assert_eq!(request(worker.port, "GET", "/", &from, "").unwrap().status, 403);
    let expires = link.split("expires=").nth(1).unwrap().split('&').next().unwrap();
    let other = |from: &str, to: &str| link.replacen(from, to, 1);
    let past = (Timestamp::now().as_second() - 1).to_string();
    for wrong in [
        other("customer=ann", "customer=bob"),
        other("customer=ann", "customer=ann%0Abob"),
        other("period=", "period=2"),
        other(expires, &past),
        other("signature=", "signature=0"),
        other("signature=", "sig="),
        other("&form", "&form=xml&form") + "&form=xml",
        "/statement".to_owned(),
        "/statement?customer=ann".to_owned(),
    ] {
        let answer = worker.get(&wrong);
        assert_eq!(answer.status, 403, "{wrong} {}", answer.body);
        assert!(!answer.body.contains("Call minutes") && answer.body.contains("The link is not valid"), "{wrong}");
    }
    let said = worker.said();
    assert!(!said.contains(LINK_KEY), "{said}");
    assert_eq!(worker.stop(), 0);
    // without a key no link is valid, also one that was signed with an empty one
    let worker = Served::start(folder, "--kinds verify_books --no-schedule", &[]);
    worker.until("/readyz", |answer| answer.status == 200);
    assert_eq!(worker.get(&link).status, 403);
    fixture.judge();
}
