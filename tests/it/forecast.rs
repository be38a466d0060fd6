//! Forecasts through the binary: the bill that comes, the pages, and what is no forecast.

use std::ops::RangeInclusive;

use books::forecast::model::MonthEnd;
use books::forecast::stored::UsageForecast;
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use testkit::usage::bookings;

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, config};
use crate::support::test_store::TestStore;

/// The same quantity of a customer's meter, in thousandths, on each of the days before today (or
/// after it).
fn book(place: &Workspace, (customer, meter): (&str, &str), milli: i64, days: RangeInclusive<i64>) {
    let (first, last) = (days.start(), days.end());
    let entries = format!(
        "WITH RECURSIVE d (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM d WHERE n < {last}) \
         SELECT '{customer}', '{meter}', date('now', (-n) || ' days'), {milli} * 10000000, 'usage' FROM d"
    );
    place.execute(&bookings("strftime('%Y-%m', 'now', '-2 days')", &entries).join(";"));
}

/// Ann and bob have subscriptions since ten days ago, and use the same each day, as others have for
/// months. The bill settles all but the newest day.
fn fixture() -> BillingFixture {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    let config = config(&fixture.stripe.url()).replace("location", "payer = \"p\"\nlocation");
    std::fs::write(fixture.place.path("meter.toml"), config).unwrap();
    for n in 1..=8 {
        let old = format!("old-{n}");
        book(&fixture.place, (&old, "chime_minutes"), 900 * n, 2..=150);
        book(&fixture.place, (&old, "storage_gb"), 100 * n, 2..=150);
    }
    book(&fixture.place, ("ann", "chime_minutes"), 20_000, 2..=9);
    book(&fixture.place, ("ann", "storage_gb"), 250, 2..=9);
    book(&fixture.place, ("bob", "chime_minutes"), 1_000, 2..=9);
    fixture.run("run roll-periods").ends(0);
    fixture.run("run enforce-budgets").ends(0);
    fixture
}

#[test]
fn the_forecast_bill_is_the_bill_when_the_usage_has_come() {
    let fixture = fixture();
    let found = fixture.run("forecast --json").ends(0).json();
    let is_ours = |of: &&serde_json::Value| !of["customer"].as_str().unwrap().starts_with("old-");
    let customers: Vec<&serde_json::Value> = found["customers"].as_array().unwrap().iter().filter(is_ours).collect();
    assert_eq!(customers.len(), 3, "{found:#}");
    // the days up to the end of any billing period
    book(&fixture.place, ("ann", "chime_minutes"), 20_000, -31..=1);
    book(&fixture.place, ("ann", "storage_gb"), 250, -31..=1);
    book(&fixture.place, ("bob", "chime_minutes"), 1_000, -31..=1);
    let bills = fixture.run("bill --json").ends(0).json();
    let mut charged = 0;
    for of in customers {
        let is_it = |bill: &&serde_json::Value| bill["customer"] == of["customer"];
        let bill = bills["bills"].as_array().unwrap().iter().find(is_it).unwrap();
        let line = bill["lines"].as_array().unwrap().iter().find(|line| line["meter"] == of["meter"]).unwrap();
        assert_eq!(of["bill"]["p50"], line["amount"], "{of} {line}");
        assert_eq!((&of["bill"]["p90"], &of["p90"]), (&of["bill"]["p50"], &of["p50"]), "{of}");
        assert_eq!(of["bill"]["last_day"], bill["last_day"]);
        charged += line["amount"]["minor"].as_i64().unwrap();
    }
    assert!(charged > 100, "{charged}");
    // the sums are those of the customers
    let sum: i64 = found["meters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["forecast"]["bill"]["p50"]["minor"].as_i64().unwrap())
        .sum();
    assert_eq!(sum, charged);
    fixture.judge();
}

#[test]
fn a_forecast_is_printed_stored_and_shown() {
    let fixture = fixture();
    let text = fixture.run("forecast").ends(0);
    for words in
        ["all customers", "included until", "weekday pattern", "ann", "bob", "storage_gb", "USD", "P90: one of ten"]
    {
        assert!(text.out.contains(words), "{words}: {}", text.out);
    }
    let one = fixture.run("forecast bob").ends(0);
    assert!(one.out.contains("bob") && !one.out.contains("ann"), "{}", one.out);
    let meter = fixture.run("forecast --meter storage_gb --json").ends(0).json();
    assert_eq!((meter["meters"].as_array().unwrap().len(), meter["customers"].as_array().unwrap().len()), (1, 9));
    fixture.run("forecast --backtest").ends(0).says(&[
        "P90 holds",
        "same as last week",
        "weekday pattern",
        "used",
        "0 %",
        "tried on 20",
    ]);
    fixture.run("forecast --backtest bob").ends(2).says(&["cannot be used with"]);
    let said = fixture.run("forecast --meter minutes").ends(2);
    assert!(said.err.contains("there is no meter `minutes`; did you mean `chime_minutes`?"), "{}", said.err);

    // a job stores it for what is read often
    let status = |has: bool| {
        let ran = fixture.run("status");
        assert_eq!(ran.out.contains("in nine of ten months at most"), has, "{}", ran.out);
    };
    let storage = "SELECT count(*) FROM forecasts WHERE customer = 'ann'";
    status(false);
    let ran = fixture.run("run forecast_usage").ends(0);
    assert!(ran.out.contains("for 10 customers from usage through"), "{}", ran.out);
    assert_eq!(fixture.place.query(storage), ["2"]);
    // on the first days of a month nothing is booked of it
    if fixture.place.query("SELECT strftime('%d') > '02'") == ["1"] {
        status(true);
    }
    fixture.judge();
}

#[test]
fn without_settled_usage_nothing_is_forecast() {
    let place = Workspace::with("[[exports]]\nname = \"main\"\npayer = \"p\"\nlocation = \"bucket\"\n");
    place.run("migrate").ends(0);
    place.run("forecast").ends(0).says(&["nothing can be forecast", "measure.settle_hours is 24"]);
    let json = place.run("forecast --json").ends(0).json();
    assert_eq!((json["settled_through"].is_null(), json["customers"].as_array().unwrap().len()), (true, 0));
    place.run("run forecast_usage").ends(0).says(&["nothing was forecast"]);
    // two days of one customer: there is a forecast, no bound, and no past month
    book(&place, ("ann", "chime_minutes"), 7_000, 2..=3);
    place.run("customer add bob").ends(0);
    let found = place.run("forecast ann --json").ends(0).json();
    assert_eq!(
        (&found["customers"][0]["p90"], &found["customers"][0]["bill"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    place.run("forecast ann").ends(0).says(&["no past month could be tried yet"]);
    place.run("forecast --backtest").ends(0).says(&["no past month could be tried"]);
    place.run("forecast bob").ends(0).says(&["bob used nothing in the last six weeks"]);
    // no bill came for long
    place.execute("UPDATE bill_versions SET delivered_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-90 days')");
    place.run("forecast").ends(0).says(&["nothing can be forecast"]);
}

/// A written row costs as much as a thousand read ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_forecasts_are_read_with_few_rows_and_written_when_they_change() {
    let store = TestStore::remote("rows of forecasts").await;
    let books = store.books().await;
    let Some(server) = store.server() else { return };
    let month: Month = "2026-11".parse().unwrap();
    let customers: Vec<String> = (0..300).map(|n| format!("c{n:03}")).collect();
    let forecast = |customer: &String, units: i64| {
        let of = Quantity::from_parts(units, 0);
        let end = MonthEnd { p50: of, p90: Some(of) };
        ["chime_minutes", "storage_gb"].map(|meter| UsageForecast::new(customer, meter, month, (of, end)))
    };
    let all: Vec<UsageForecast> = customers.iter().flat_map(|customer| forecast(customer, 7)).collect();
    let keep = async |found: &[UsageForecast]| {
        server.reset_counts();
        books.keep_forecasts(&customers, found).await.unwrap();
        server.counts().rows_written
    };
    assert!(keep(&all).await >= 600);
    assert_eq!(keep(&all).await, 0, "nothing has changed");
    let mut other = all.clone();
    other.splice(0..2, forecast(&customers[0], 8));
    assert_eq!(keep(&other).await, 2);
    server.reset_counts();
    let found = books.customer_forecasts("c007", month).await.unwrap();
    assert_eq!((found.len(), books.meter_forecasts(month).await.unwrap().len()), (2, 0));
    assert!(server.counts().rows_read <= 8, "{} rows", server.counts().rows_read);
    // what is not forecast any more goes
    keep(&all[..10]).await;
    assert_eq!(books.customer_forecasts("c007", month).await.unwrap(), []);
}
