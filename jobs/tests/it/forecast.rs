//! Forecasts on real books: what the daily job stores, from which days, and that it changes nothing
//! else. Each run is done twice.

use std::path::PathBuf;
use std::sync::Arc;

use books::forecast::rule::ForecastRule;
use books::forecast::stored::{MeterForecast, UsageForecast, unusual_days};
use books::forecast::unusual::UnusualDay;
use books::units::quantity::{Quantity, UNIT};
use jobs::context::Export;
use jobs::fold_measurements::FoldMeasurements;
use jobs::forecast_usage::{ForecastUsage, ForecastUsageReport};
use jobs::job::Job;
use jobs::source::Folder;
use rust_decimal::Decimal;
use testkit::ingest_fixture::export;
use testkit::usage::bookings;

use crate::enforce::{BudgetFixture, at, plan};
use crate::settled::measuring;

const NOW: &str = "2026-10-30T05:20:00Z";

/// Books of one payer, whose bill of October came at the end of the 29th: it settles the 28th.
async fn world(entries: &str) -> BudgetFixture {
    let mut world = BudgetFixture::new().await;
    let own = export(Arc::new(Folder::new(PathBuf::new())));
    world.context.exports = Arc::new([("main".to_owned(), Export { payer: "p".into(), ..own })].into());
    for sql in bookings("'2026-10'", entries) {
        world.execute(sql).await;
    }
    world.execute("UPDATE bill_versions SET delivered_at = '2026-10-30T00:00:00Z'".into()).await;
    world
}

/// Daily usage in thousandths of a unit, from the 1st of May on, as the rows of a query.
fn daily(customers: &[(&str, i64)]) -> String {
    let rows: Vec<String> = customers.iter().map(|(customer, milli)| format!("('{customer}', {milli})")).collect();
    format!(
        "WITH RECURSIVE d (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM d WHERE n < 181), c (id, milli) AS (VALUES {}) \
         SELECT id AS customer, 'chime_minutes' AS meter, date('2026-05-01', '+' || n || ' days') AS day, \
         milli * 10000000 AS quantity, 'usage' AS kind FROM c CROSS JOIN d",
        rows.join(",")
    )
}

async fn once(world: &BudgetFixture) -> ForecastUsageReport {
    ForecastUsage::default().run(&world.context, at(NOW)).await.unwrap()
}

/// Runs the job twice.
async fn run(world: &BudgetFixture) -> ForecastUsageReport {
    let stored = "SELECT json_array(customer, meter, month, booked, p50, p90, included_on, limit_on, bill_p50) FROM forecasts \
                  ORDER BY 1";
    let report = once(world).await;
    let found = world.dump(stored).await;
    assert_eq!((once(world).await, world.dump(stored).await), (report.clone(), found), "a second run");
    report
}

async fn of_customer(world: &BudgetFixture, customer: &str) -> Vec<UsageForecast> {
    world.context.books.customer_forecasts(customer, "2026-10".parse().unwrap()).await.unwrap()
}

async fn of_meters(world: &BudgetFixture) -> Vec<MeterForecast> {
    world.context.books.meter_forecasts("2026-10".parse().unwrap()).await.unwrap()
}

fn milli(n: i128) -> Quantity {
    Quantity::from_scaled(n * UNIT / 1000)
}

#[tokio::test]
async fn month_ends_and_days_of_limits_are_stored() {
    let customers = [("ann", 3_250), ("bob", 10_000), ("cyd", 20), ("", 1_000)];
    let world = world(&daily(&customers)).await;
    world.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", Some("0.01")))]).await;
    for id in ["ann", "bob", "cyd"] {
        world.sign_up(id, "pro").await;
    }
    world.enforce_at(at(NOW)).await;
    let ledger = world.dump("SELECT customer || day || quantity FROM booked_usage ORDER BY 1").await;
    let report = run(&world).await;
    assert_eq!((report.customers, report.month.to_string().as_str()), (3, "2026-10"));
    assert_eq!(report.settled_through.unwrap().to_string(), "2026-10-28");
    assert_eq!(report.meters[0].rule, ForecastRule::WeekdayPattern);
    assert_eq!(report.meters[0].error, Some(Decimal::new(0, 4)));
    for (customer, daily, included_on) in
        // ann's 100 minutes last through the 30th, bob has used them up, cyd never will
        [("ann", 3_250, Some("2026-10-31")), ("bob", 10_000, Some("2026-10-29")), ("cyd", 20, None)]
    {
        let found = of_customer(&world, customer).await;
        let [of] = &found[..] else { panic!("{found:?}") };
        assert_eq!((of.meter.as_str(), of.booked), ("chime_minutes", milli(29 * daily)));
        assert_eq!((of.p50, of.p90), (milli(31 * daily), Some(milli(31 * daily))), "{customer}");
        let on = |day: Option<books::units::calendar::Day>| day.map(|day| day.to_string());
        assert_eq!((on(of.included_on).as_deref(), on(of.limit_on).as_deref()), (included_on, included_on));
        assert_eq!(of.bill, None, "nothing is billed");
    }
    // all usage, with that of nobody
    let [of] = &of_meters(&world).await[..] else { panic!() };
    assert_eq!((of.forecast.p50, of.forecast.p90), (milli(31 * 14_270), Some(milli(31 * 14_270))));
    assert_eq!((of.accuracy.sampled, of.accuracy.customers), (3, 3));
    assert_eq!(of.accuracy.by_customer.months.len(), 3);
    assert_eq!(world.dump("SELECT customer || day || quantity FROM booked_usage ORDER BY 1").await, ledger);
}

/// The day after the newest settled one has a bill that is not complete.
#[tokio::test]
async fn a_forecast_knows_no_day_that_is_not_settled() {
    let mut stories = vec![];
    for is_booked in ["day < '2026-10-29'", "true"] {
        let entries = format!(
            "SELECT customer, meter, day, iif(day = '2026-10-29', 1, quantity), kind FROM ({}) WHERE {is_booked}",
            daily(&[("ann", 7_000)])
        );
        let world = world(&entries).await;
        run(&world).await;
        let [of] = &of_customer(&world, "ann").await[..] else { panic!() };
        stories.push((of.p50, of.p90));
    }
    assert_eq!(stories, [(milli(31 * 7_000), Some(milli(31 * 7_000))); 2]);
}

#[tokio::test]
async fn without_a_settled_day_nothing_is_forecast_and_the_last_forecast_stays() {
    let world = world(&daily(&[("ann", 1_000)])).await;
    run(&world).await;
    let stored = of_customer(&world, "ann").await;
    assert_eq!(stored.len(), 1);
    world.execute("UPDATE bill_versions SET delivered_at = '2026-08-01T00:00:00Z'".into()).await;
    let report = run(&world).await;
    assert_eq!((report.settled_through, report.customers, report.meters.len()), (None, 0, 0));
    assert_eq!(of_customer(&world, "ann").await, stored);
    // of another month nobody has a forecast
    let november = "2026-11".parse().unwrap();
    assert_eq!(world.context.books.customer_forecasts("ann", november).await.unwrap(), []);
}

/// Who stopped is expected to use nothing more, and after six weeks has no forecast.
#[tokio::test]
async fn who_stopped_is_forecast_no_more() {
    let until = "CASE customer WHEN 'ann' THEN '2026-10-15' WHEN 'bob' THEN '2026-09-10' ELSE '2026-12-31' END";
    let entries = daily(&[("ann", 1_000), ("bob", 2_000), ("cyd", 3_000)]);
    let world = world(&format!("SELECT * FROM ({entries}) WHERE day <= {until}")).await;
    let old = "INSERT INTO forecasts (customer, meter, month, booked, p50) VALUES ('bob', 'chime_minutes', '2026-10', '9', '9')";
    world.execute(old.into()).await;
    let report = run(&world).await;
    assert_eq!(report.customers, 2);
    let [of] = &of_customer(&world, "ann").await[..] else { panic!() };
    assert_eq!((of.booked, of.p50), (milli(15 * 1_000), milli(15 * 1_000)));
    assert_eq!(of_customer(&world, "bob").await, []);
}

/// Thirty customers with 100 units a day, and days that something happened to. Fay and cyd measure.
async fn eventful() -> BudgetFixture {
    let ids: Vec<String> = (1..=24).map(|n| format!("calm-{n}")).collect();
    let named = ["ann", "bob", "cyd", "dan", "eve", "fay"].into_iter();
    let customers: Vec<(&str, i64)> = ids.iter().map(String::as_str).chain(named).map(|id| (id, 100_000)).collect();
    let entries = format!(
        "SELECT customer, meter, day, quantity * CASE WHEN day <> '2026-10-28' THEN 1 WHEN customer IN ('ann', 'cyd', 'fay') THEN 10 \
           WHEN customer = 'dan' THEN 9 ELSE 1 END, kind FROM ({}) \
         WHERE NOT (customer = 'bob' AND day = '2026-10-28') AND NOT (customer = 'dan' AND day < '2026-10-28') \
         UNION ALL SELECT '', 'chime_minutes', '2026-10-28', 1000000000000, 'usage'",
        daily(&customers)
    );
    let mut world = world(&entries).await;
    world.context.measuring = measuring();
    // the next version changes the 27th, which the first one had settled
    let later = "SELECT 'eve', 'chime_minutes', '2026-10-27', 9000000000000, 'adjustment'";
    for sql in bookings("'2026-10'", later) {
        world.execute(sql).await;
    }
    world
        .execute("UPDATE bill_versions SET delivered_at = '2026-10-30T03:00:00Z' WHERE id = (SELECT max(id) FROM bill_versions)".into())
        .await;
    world
}

async fn causes(world: &BudgetFixture) -> Vec<String> {
    let found = world.context.books.with_connection(async |c| unusual_days(c).await).await.unwrap();
    let words =
        |day: &UnusualDay| format!("{} {} {:?}", day.customer.as_deref().unwrap_or("(all)"), day.day, day.cause);
    let mut found: Vec<String> = found.iter().flat_map(|of| &of.days).map(words).collect();
    found.sort();
    found
}

#[tokio::test]
async fn each_unusual_day_is_found_with_its_likely_cause() {
    let world = eventful().await;
    let report = run(&world).await;
    let expected = [
        "ann 2026-10-28 Unknown",
        "bob 2026-10-28 TagChange",
        "cyd 2026-10-28 Unknown",
        "dan 2026-10-28 NewCustomer",
        "eve 2026-10-27 Restatement",
        "fay 2026-10-28 Unknown",
    ];
    assert_eq!((causes(&world).await, report.unusual_days), (expected.map(str::to_owned).to_vec(), 6));
    // somebody measures since the middle of the month
    for (customer, minutes) in [("cyd", 100), ("fay", 1_000)] {
        for day in ["15", "28"] {
            let instant = at(&format!("2026-10-{day}T09:00:00Z")).as_second();
            let sql = format!(
                "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
                 VALUES ('{customer}', 'chime_minutes', '{day}', {minutes} * 60, {instant})"
            );
            world.execute(sql).await;
        }
    }
    FoldMeasurements::default().run(&world.context, at(NOW)).await.unwrap();
    run(&world).await;
    let found = causes(&world).await;
    for is_there in ["cyd 2026-10-28 MeasuredDiffers", "fay 2026-10-28 MeasuredAgrees", "eve 2026-10-27 Restatement"] {
        assert!(found.contains(&is_there.to_owned()), "{found:?}");
    }
    // two days later the days have been as usual since
    world.execute("UPDATE bill_versions SET delivered_at = '2026-11-02T00:00:00Z'".into()).await;
    let now = at("2026-11-02T05:20:00Z");
    let ids: Vec<String> = (1..=24).map(|n| format!("calm-{n}")).collect();
    let customers: Vec<&str> =
        ids.iter().map(String::as_str).chain(["ann", "bob", "cyd", "dan", "eve", "fay"]).collect();
    let rows = |day: &str| {
        customers
            .iter()
            .map(|id| format!("('{id}', 'chime_minutes', '2026-10-{day}', 1000000000000, 'usage')"))
            .collect::<Vec<_>>()
    };
    let entries = [rows("30"), rows("31")].concat();
    for sql in bookings("'2026-10'", &format!("SELECT * FROM (VALUES {})", entries.join(","))) {
        world.execute(sql).await;
    }
    world.execute("UPDATE bill_versions SET delivered_at = '2026-11-02T00:00:00Z'".into()).await;
    let report = ForecastUsage::default().run(&world.context, now).await.unwrap();
    assert_eq!((causes(&world).await, report.unusual_days), (vec![], 0));
}

/// A day of a shared bucket without a report is one of nobody.
#[tokio::test]
async fn a_day_that_the_bill_does_not_divide_is_unusual_for_no_customer() {
    let world = eventful().await;
    let share = "INSERT INTO bucket_shares (version_id, bucket, meter, measure, class, day, state, billed, apportioned, digest) \
         SELECT max(id), 'b', 'chime_minutes', 'byte_seconds', '', '2026-10-28', 'no_report', '1', '0', '' FROM bill_versions";
    world.execute(share.into()).await;
    run(&world).await;
    assert_eq!(causes(&world).await, ["eve 2026-10-27 Restatement"]);
}
