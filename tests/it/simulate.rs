//! Other prices on past billing periods, through the binary: the plans that hold make what was
//! billed, and others what a sheet of paper says.

use crate::support::billing_fixture::{BillingFixture, PLANS};

/// The plan of the fixture from an instant to come, with other terms of a minute.
fn plans(included: &str, price: &str) -> String {
    PLANS
        .replace("1970-01-01", "2099-01-01")
        .replace("included = \"100\"", &format!("included = \"{included}\""))
        .replace("0.0045", price)
}

/// Ann is far beyond the plan, bob within it, and cyd beyond 100 minutes and not beyond 200.
fn used() -> BillingFixture {
    let fixture = BillingFixture::open(&["ann", "bob", "cyd"]);
    fixture.book("ann", "chime_minutes", "350.1234567");
    fixture.used("ann", "chime_minutes", "0.5", 2);
    fixture.book("ann", "storage_gb", "1.5");
    fixture.book("bob", "chime_minutes", "20");
    fixture.book("cyd", "chime_minutes", "133.3333333");
    fixture
}

#[test]
fn the_plans_that_hold_make_what_is_billed() {
    let fixture = used();
    let bills = fixture.run("bill --json").ends(0).json();
    let found = fixture.run("plan simulate plans.toml --json").ends(0).json();
    let bills = bills["bills"].as_array().unwrap();
    let mut compared = 0;
    for period in found["periods"].as_array().unwrap() {
        let is_it = |bill: &&serde_json::Value| {
            bill["customer"] == period["customer"] && bill["period_start"] == period["period_start"]
        };
        let bill = bills.iter().find(is_it);
        compared += usize::from(bill.is_some());
        for line in period["lines"].as_array().unwrap() {
            assert_eq!(line["now"], line["then"], "{line}");
            // before the subscription there is no bill, and nothing was used
            let Some(bill) = bill else { continue };
            let of = bill["lines"].as_array().unwrap().iter().find(|of| of["meter"] == line["meter"]).unwrap();
            assert_eq!(line["now"]["amount"], of["amount"], "{line} {of}");
        }
    }
    assert_eq!((compared, bills.len()), (3, 3));
    let text = fixture.run("plan simulate plans.toml").ends(0);
    assert!(!text.out.contains("who would pay"), "{}", text.out);
    fixture.judge();
}

#[test]
fn another_price_is_looked_at_and_wants_a_yes() {
    let fixture = used();
    std::fs::write(fixture.place.path("next.toml"), plans("200", "0.009")).unwrap();
    // ann: 250.623 × 0.0045 = 1.13, then 150.623 × 0.009 = 1.36, and 0.08 of storage; cyd: 33.333 ×
    // 0.0045 = 0.15, then nothing
    let text = fixture.run("plan simulate next.toml").ends(0);
    for words in ["1.36", "1.44", "+0.08 USD", "3 -> 2", "who would pay more", "who would pay less"] {
        assert!(text.out.contains(words), "{words}: {}", text.out);
    }
    let of = |name: &str| {
        text.out
            .lines()
            .find(|line| line.trim().starts_with(name))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(of("ann") == "ann 1.21 USD 1.44 USD +0.23 USD", "{}", text.out);
    assert!(of("cyd") == "cyd 0.15 USD 0.00 USD -0.15 USD", "{}", text.out);
    assert!(text.out.lines().all(|line| line.chars().count() <= 80), "{}", text.out);
    assert!(!text.out.contains("AWS charges"), "{}", text.out);
    // of several versions of a file the newest one is tried, wherever it stands
    std::fs::write(fixture.place.path("both.toml"), plans("200", "0.009") + PLANS).unwrap();
    assert_eq!(fixture.run("plan simulate both.toml").ends(0).out, text.out);
    // 1.36 and 1.44 less what AWS charges; 140 days ago is before the three months
    fixture.book("ann", "chime_cost(USD)", "0.5");
    fixture.used("ann", "chime_cost(USD)", "-0.1", 2);
    fixture.used("ann", "chime_cost(USD)", "77", 140);
    let text = fixture.run("plan simulate next.toml").ends(0);
    for words in ["AWS charges 0.40 USD for this use", "margin: 0.96 USD now, 1.04 USD then"] {
        assert!(text.out.contains(words), "{words}: {}", text.out);
    }
    let json = fixture.run("plan simulate next.toml --json").ends(0).json();
    let costs: Vec<&serde_json::Value> = json["periods"].as_array().unwrap().iter().map(|of| &of["costs"]).collect();
    assert!(costs.iter().any(|of| of["USD"] == "0.4"), "{costs:?}");
    let cyd = fixture.run("plan simulate next.toml --customer cyd").ends(0);
    assert!(cyd.out.contains("0.15 USD now, 0.00 USD then"), "{}", cyd.out);
    let csv = fixture.run("plan simulate next.toml --csv").ends(0).out;
    assert!(csv.lines().any(|row| row.starts_with("ann,pro,")
        && row.contains(",chime_minutes,minutes,USD,350.6234567,100,250.623,0.0045,1.13,0.00,")));

    let dry = fixture.run("plan apply next.toml --dry-run").ends(0);
    assert!(dry.out.contains("the last month's bills of 2 customers would have been others"), "{}", dry.out);
    assert!(dry.out.contains("would be added"), "{}", dry.out);
    let asked = fixture.run("plan apply next.toml").ends(2);
    assert!(asked.err.contains("apply with --yes"), "{}", asked.err);
    let versions = || fixture.place.query("SELECT count(*) FROM plans WHERE name = 'pro'").remove(0);
    assert_eq!(versions(), "1");
    fixture.run("plan apply next.toml --yes").ends(0).says(&["pro from 2099-01-01T00:00:00Z: added"]);
    assert_eq!(versions(), "2");
    // again changes nothing, and asks nobody
    fixture.run("plan apply next.toml").ends(0).says(&["is there already"]);
    // a change that changes nobody's bill asks nobody
    std::fs::write(fixture.place.path("same.toml"), plans("100", "0.0045").replace("2099", "2098")).unwrap();
    fixture.run("plan apply same.toml").ends(0).says(&["added"]);
    fixture.judge();
}

#[test]
fn what_cannot_be_tried_is_said() {
    let fixture = used();
    for (text, why) in [
        (plans("-1", "0.1"), "the included amount is negative"),
        (plans("1", "0.1").replace("USD", "EUR"), "it is in USD already"),
        (plans("1", "0.1").replace("chime_minutes", "minutes"), "there is no such meter"),
    ] {
        std::fs::write(fixture.place.path("next.toml"), text).unwrap();
        let ran = fixture.run("plan simulate next.toml").ends(2);
        assert!(ran.err.contains(why) && ran.err.contains("plan `pro`") && !ran.err.contains("applied"), "{}", ran.err);
    }
    std::fs::write(fixture.place.path("next.toml"), plans("1", "0.1")).unwrap();
    fixture.run("plan simulate next.toml --customer nobody").ends(2);
    fixture.run("plan simulate next.toml --months 0").ends(2);
    fixture.judge();
}
