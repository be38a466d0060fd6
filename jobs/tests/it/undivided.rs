//! Days of a shared bucket that a bill settles and no report divides: the bill has nothing of its
//! customers, so what was measured decides.

use std::collections::{BTreeMap, BTreeSet};

use books::limits::entitlement::Entitlement;
use books::measured::accrual::Accrues;
use books::shared_bucket::{Measure, Remainder};
use jiff::SignedDuration;

use crate::apportion::{DAY, Form, GIGABYTE, World, october, storage};
use crate::enforce::{at, plan};
use crate::settled::measuring;

/// Decides, and returns what counts of ann's storage: used, by the bill, by measurements beyond it.
async fn decide(world: &World) -> [String; 3] {
    world.bill.enforce_at(at("2026-10-31T12:00:00Z")).await;
    let all = world.bill.context.books.entitlements(Some("ann".into())).await.unwrap();
    let Entitlement { used, used_billed, used_measured, .. } =
        all.into_iter().find(|e| e.meter == "storage_gb").unwrap();
    [used, used_billed, used_measured].map(|of| of.to_string())
}

/// The settled days of storage that are compared with what was measured, from the 26th to the 28th.
async fn compared(world: &World) -> Vec<String> {
    let books = &world.bill.context.books;
    let payers = world.bill.context.exports.values().map(|export| export.payer.clone()).collect();
    let settled = books.settled_days(payers, SignedDuration::from_hours(24)).await.unwrap();
    let days = settled.between(october(26), october(28));
    let meters = BTreeMap::from([("storage_gb".to_owned(), Accrues::GbMonths)]);
    let found = books.accuracy(meters, days, settled.undivided(), None).await.unwrap().meters;
    found.iter().flat_map(|of| &of.days).map(|of| of.day.to_string()).collect()
}

/// Guards against: storage that is measured and that nobody is limited by, because a bill settles
/// the day and gives all of it to the house.
#[tokio::test]
async fn what_was_measured_counts_until_the_day_is_divided() {
    let mut world = World::new(Remainder::House).await;
    world.bill.context.measuring = measuring();
    world.bill.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", None))]).await;
    world.bill.sign_up("ann", "pro").await;
    // 31 GB all day are a GB-month; the use of the 26th begins what is compared
    for (day, gigabytes) in [(25, 31), (27, 31), (28, 62)] {
        let from = i64::from(october(day).epoch()) * 86_400;
        let sql = format!(
            "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) \
             VALUES ('ann', 'storage_gb', 'c/ann/{day}', {}, {from}, {})",
            gigabytes * GIGABYTE,
            from + 86_400
        );
        world.bill.execute(sql).await;
    }
    let own = |gigabytes: u128| gigabytes * GIGABYTE * DAY;
    // it settles all of October; the 28th is divided, and the 27th has no report
    world.report(Measure::ByteSeconds, 28, &[("ann", own(93)), ("bob", own(31))]).await;
    world.deliver(2, Form::Parquet, &[storage(27, 2.0), storage(28, 4.0)]);
    world.book().await;
    assert_eq!(decide(&world).await, ["4", "3", "1"]);
    assert_eq!(compared(&world).await, ["2026-10-26", "2026-10-28"]);
    // too little: the day is held
    world.report(Measure::ByteSeconds, 27, &[("ann", own(1))]).await;
    world.book().await;
    assert_eq!(decide(&world).await, ["4", "3", "1"]);
    // a report divides it: the bill has the last word
    world.report(Measure::ByteSeconds, 27, &[("ann", own(31) / 2), ("bob", own(31))]).await;
    world.book().await;
    assert_eq!(decide(&world).await, ["3.5", "3.5", "0"]);
    assert_eq!(compared(&world).await, ["2026-10-26", "2026-10-27", "2026-10-28"]);
    // and it is held again, by another report
    world.report(Measure::ByteSeconds, 28, &[("ann", own(1))]).await;
    world.book().await;
    assert_eq!(decide(&world).await, ["2.5", "0.5", "2"]);
    // of a meter that nobody measures the bill counts alone
    let mut settings = (*measuring()).clone();
    settings.meters.retain(|of| of.meter != "storage_gb");
    world.bill.context.measuring = settings.into();
    assert_eq!(decide(&world).await, ["0.5", "0.5", "0"]);
    assert_eq!(world.bill.context.books.last_enforcement().await.unwrap().unwrap().undivided_days, BTreeSet::new());
}
