//! Cost and margin through the binary: the revenue is that of the bill, the cost that of the days
//! of its period, and no customer, plan or limit sees a cost.

use books::units::calendar::Month;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::support::Workspace;
use crate::support::billing_fixture::BillingFixture;
use crate::support::served::Served;

const COST_METERS: &str = "[[cost_meters]]\nname = \"chime_cost\"\ncost_of = \"chime_minutes\"\n\
                           [[cost_meters]]\nname = \"speech\"\nproducts = [\"AmazonPolly\"]\n";

/// Ann and bob are billed and cost something; zed has no bill, and one cost is nobody's.
fn charged() -> BillingFixture {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    let file = fixture.place.path("meter.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}{COST_METERS}")).unwrap();
    fixture.book("ann", "chime_minutes", "350.1234567");
    fixture.book("ann", "storage_gb", "1.5");
    fixture.book("ann", "chime_cost(USD)", "0.6123456789");
    fixture.used("ann", "chime_cost(USD)", "-0.1", 2);
    fixture.used("ann", "speech(USD)", "0.25", 3);
    // before the first period, and never in this month
    fixture.used("ann", "chime_cost(USD)", "77", 40);
    fixture.book("bob", "chime_minutes", "20");
    fixture.book("bob", "chime_cost(USD)", "0.034");
    fixture.used("zed", "chime_cost(USD)", "0.5", 0);
    fixture.used("", "chime_cost(USD)", "0.2", 0);
    fixture
}

fn number(text: &Value) -> Decimal {
    text.as_str().unwrap_or_else(|| panic!("{text} is no text")).parse().unwrap()
}

#[test]
fn a_margin_is_the_bill_less_the_cost_of_its_days() {
    let fixture = charged();
    fixture.run("push").ends(0);
    let bills = fixture.run("bill --json").ends(0).json();
    let found = fixture.run("margin --json").ends(0).json();
    let costs = ["0.7623456789", "0.034"].map(|text| text.parse::<Decimal>().unwrap());
    for (at, bill) in bills["bills"].as_array().unwrap().iter().enumerate() {
        let own = &found["customers"][at];
        let revenue = Decimal::new(bill["amount"]["minor"].as_i64().unwrap(), 2);
        assert_eq!((&own["customer"], number(&own["revenue"])), (&bill["customer"], revenue));
        assert_eq!(number(&own["costs"]["USD"]), costs[at]);
        assert_eq!(number(&own["margin"]), revenue - costs[at]);
        for line in bill["lines"].as_array().unwrap() {
            let own = own["lines"].as_array().unwrap().iter().find(|own| own["meter"] == line["meter"]).unwrap();
            assert_eq!(number(&own["revenue"]), Decimal::new(line["amount"]["minor"].as_i64().unwrap(), 2));
        }
    }
    let total = &found["totals"]["USD"];
    let parts = ["cost", "without_bill", "unattributed"].map(|part| number(&total[part]));
    assert_eq!(parts.map(|part| part.normalize().to_string()), ["0.7963456789", "0.5", "0.2"]);
    assert_eq!(number(&total["margin"]), number(&total["revenue"]) - parts.iter().sum::<Decimal>());

    let ann = fixture.run("margin ann").ends(0).says(&["ann, plan pro", "chime_minutes", "0.51", "speech", "-0.25"]);
    let total = ann.out.lines().find(|line| line.trim_start().starts_with("total")).unwrap_or_default();
    assert_eq!(total.split_whitespace().collect::<Vec<_>>(), ["total", "1.21", "0.76", "0.45", "USD"], "{}", ann.out);
    let all = fixture.run("margin").ends(0).says(&["(no customer tag)", "zed", "no bill", "0.20 without a customer"]);
    assert!(all.out.lines().all(|line| line.chars().count() <= 80), "{}", all.out);
    let csv = fixture.run("margin --csv").ends(0).out;
    let rows: Vec<&str> = csv.lines().collect();
    assert!(rows[0].starts_with("customer,plan,period_start,period_end,first_day,last_day,meter,currency,revenue,"));
    assert!(
        rows.iter().any(|row| row.starts_with("ann,pro,") && row.contains(",chime_minutes,USD,1.13,0.5123456789,"))
    );
    assert!(rows.iter().any(|row| row.starts_with("zed,,,,") && row.ends_with(",chime_cost,USD,0,0.5,-0.5")), "{csv}");
    fixture.run("verify").ends(0);
    // days in no period are beside the bills of their own month
    let before = Month::of(Timestamp::now() - SignedDuration::from_hours(40 * 24));
    let found = fixture.run(&format!("margin --period {before} --json")).ends(0).json();
    let without = found["without_bill"].as_array().unwrap();
    assert_eq!(
        (without.len(), &without[0]["customer"], &without[0]["cost"]),
        (1, &"ann".into(), &"77".into()),
        "{found}"
    );
    assert_eq!(number(&found["totals"]["USD"]["margin"]), Decimal::from(-77));

    // another currency is not converted
    fixture.book("bob", "chime_cost(EUR)", "0.01");
    let bob = fixture.run("margin bob").ends(0).says(&["EUR", "different currencies: nothing is converted"]);
    assert!(bob.out.lines().any(|line| line.contains("total") && line.contains(" -  ")), "{}", bob.out);
    let found = fixture.run("margin --json").ends(0).json();
    assert_eq!((&found["customers"][1]["margin"], &found["totals"]["USD"]["margin"]), (&Value::Null, &Value::Null));
    assert_ne!(found["customers"][0]["margin"], Value::Null);
    fixture.run("margin ann --period 2999-01").ends(2).says(&["--period has not begun"]);
    fixture.run("margin ann --period 1999-01").ends(0).says(&["no billing period begins then; AWS charges nothing"]);
    fixture.judge();
}

#[test]
fn a_cost_is_no_usage_and_no_customer_sees_it() {
    let fixture = charged();
    let worker = Served::start(fixture.place.folder.path(), "--kinds verify_books --no-schedule", &[]);
    worker.until("/readyz", |answer| answer.status == 200);
    let page = worker.get("/customers?id=ann");
    assert_eq!(page.status, 200);
    for text in
        ["What AWS charges, and what is left", "1.13\u{a0}USD", "0.51\u{a0}USD", "0.45\u{a0}USD", "0.4476543211"]
    {
        assert!(page.body.contains(text), "{text} is not in: {}", page.body);
    }
    assert_eq!(worker.stop(), 0);
    fixture.run("statement ann --html ann.html").ends(0);
    let statement = std::fs::read_to_string(fixture.place.path("ann.html")).unwrap();
    let seen = [
        statement,
        fixture.run("statement ann --json").ends(0).out,
        fixture.run("usage").ends(0).out,
        fixture.run("usage ann --json").ends(0).out,
        fixture.run("explain ann --json").ends(0).out,
        fixture.run("entitlements ann").out,
        fixture.run("reconcile --json").out,
    ];
    for text in seen {
        assert!(!text.contains("cost(") && !text.contains("chime_cost"), "{text}");
    }
    let plan = "[[plans]]\nname = \"p\"\ncurrency = \"USD\"\neffective_from = \"2030-01-01T00:00:00Z\"\n\
                [plans.meters.chime_cost]\nincluded = \"1\"\n";
    std::fs::write(fixture.place.path("cost.toml"), plan).unwrap();
    fixture.run("plan apply cost.toml").ends(2).says(&["plan `p`", "chime_cost", "nothing was applied"]);
    fixture.run("budget set ann 5 --meter chime_cost").ends(2).says(&["chime_cost"]);
    fixture.run("explain ann --meter chime_cost").ends(2).says(&["chime_cost"]);
    fixture.judge();
}

#[test]
fn costs_of_a_bill_are_shown_where_the_bill_is() {
    let config = format!("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n{COST_METERS}");
    let place = Workspace::with(&config.replace("AmazonPolly", "AWSLambda"));
    place.run("demo generate bucket --month 2026-10 --rows 3000 --customers 5").ends(0);
    place.run("migrate").ends(0);
    let ingested = place.run("ingest --month 2026-10").ends(0).says(&["chime_cost(USD)", "speech(USD)", "USD"]);
    assert!(!ingested.out.contains("unrecognised: AWSLambda"), "{}", ingested.out);
    let found = place.run("margin --period 2026-10 --json").ends(0).json();
    let bills = found["bills"].as_array().unwrap();
    assert_eq!(bills.len(), 2, "{found}");
    let sum = |list: &str| found[list].as_array().unwrap().iter().map(|of| number(&of["cost"])).sum::<Decimal>();
    let of_bills = |part: &str| bills.iter().map(|of| number(&of[part])).sum::<Decimal>();
    assert_eq!(sum("unattributed"), of_bills("unattributed"));
    assert_eq!(sum("without_bill"), of_bills("attributed"), "nobody has a billing period yet");
    place.run("margin --period 2026-10").ends(0).says(&["cost without a bill", "of credits, taxes, fees"]);
    place.run("verify").ends(0);
    let status = place.run("status");
    let of_calls = status.out.lines().find(|line| line.contains("default 2026-10, chime_cost: ")).unwrap_or_default();
    assert!(of_calls.contains(" USD, without a customer ") && of_calls.contains(", excluded -"), "{}", status.out);
    let worker = Served::start(place.folder.path(), "--kinds verify_books --no-schedule", &[]);
    worker.until("/readyz", |answer| answer.status == 200);
    let has =
        |body: &str| body.contains("meter_aws_cost_money{currency=\"USD\",meter=\"chime_cost\",part=\"unattributed\"}");
    let metrics = worker.until("/metrics", |answer| answer.status == 200 && has(&answer.body));
    for (of, part) in [(0, "attributed"), (0, "excluded"), (1, "unattributed")] {
        let meter = bills[of]["meter"].as_str().unwrap();
        let series = format!("meter_aws_cost_money{{currency=\"USD\",meter=\"{meter}\",part=\"{part}\"}} ");
        let value = metrics.body.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
        assert_eq!(value.parse::<f64>().unwrap().to_string(), number(&bills[of][part]).normalize().to_string());
    }
    let page = worker.until("/", |answer| answer.body.contains("cost in the newest bill"));
    assert!(page.body.contains("of it without a customer"), "{}", page.body);
    assert_eq!(worker.stop(), 0);
    let plain = Workspace::new();
    plain.run("migrate").ends(0);
    plain.run("margin").ends(0).says(&["no cost is known: the configuration has no [[cost_meters]]"]);
}
