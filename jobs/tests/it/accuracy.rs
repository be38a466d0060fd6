//! The second witness on real books: what `fold_measurements` finds of settled days, and that it
//! changes nothing else. Each run is done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use books::measured::accrual::Accrues;
use books::measured::accuracy::{Excess, MeterAccuracy, kept_accuracy};
use books::store::connection::Connection;
use books::units::calendar::Day;
use books::units::quantity::{Quantity, UNIT};
use jobs::context::Export;
use jobs::fold_measurements::FoldMeasurements;
use jobs::job::Job;
use jobs::source::Folder;
use testkit::ingest_fixture::export;
use testkit::usage::bookings;

use crate::enforce::{BudgetFixture, at};
use crate::settled::{Case, case, measuring};

const DAY: i64 = 86_400;

/// Books of one payer, of which the bill of October came at the end of the 29th.
async fn world(entries: &str) -> BudgetFixture {
    let mut world = BudgetFixture::new().await;
    world.context.measuring = measuring();
    let own = export(Arc::new(Folder::new(PathBuf::new())));
    world.context.exports = Arc::new([("main".to_owned(), Export { payer: "p".into(), ..own })].into());
    for sql in bookings("'2026-10'", &format!("SELECT * FROM (VALUES {entries})")) {
        world.execute(sql).await;
    }
    world.execute("UPDATE bill_versions SET delivered_at = '2026-10-30T00:00:00Z'".into()).await;
    world
}

/// A ledger entry of some minutes on a day of October.
fn entry(customer: &str, day: i64, minutes: i64) -> String {
    format!("('{customer}', 'chime_minutes', '2026-10-{day:02}', {minutes}0000000000, 'usage')")
}

/// A report of some minutes on a day of October.
async fn measure(world: &BudgetFixture, customer: &str, day: i64, minutes: i64) {
    let instant = at("2026-10-01T09:00:00Z").as_second() + (day - 1) * DAY;
    let id = format!("{day}-{minutes}-{}", fastrand::u64(..));
    world
        .execute(format!(
            "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
             VALUES ('{customer}', 'chime_minutes', '{id}', {}, {instant})",
            minutes * 60
        ))
        .await;
}

/// Runs the job twice, and returns what is kept of a meter.
async fn run(world: &BudgetFixture) -> (Vec<String>, Option<MeterAccuracy>) {
    let now = at("2026-10-31T03:10:00Z");
    let report = FoldMeasurements::default().run(&world.context, now).await.unwrap();
    let kept = async || world.context.books.with_connection(async |c| kept_accuracy(c).await).await.unwrap();
    let found = kept().await;
    let again = FoldMeasurements::default().run(&world.context, now).await.unwrap();
    assert_eq!((again.differing, kept().await), (report.differing.clone(), found.clone()), "a second run");
    (report.differing, found.into_iter().find(|of| of.meter == "chime_minutes"))
}

fn minutes(n: i64) -> Quantity {
    Quantity::from_scaled(i128::from(n) * UNIT)
}

#[tokio::test]
async fn what_a_backend_forgets_is_found_until_it_is_reported() {
    let days = 15..=30_i64;
    let entries: Vec<String> = days.clone().flat_map(|day| [entry("ann", day, 900), entry("bob", day, 40)]).collect();
    let world = world(&entries.join(",")).await;
    let ledger = "SELECT customer || day || quantity FROM booked_usage ORDER BY 1";
    let booked = world.dump(ledger).await;
    // nobody reports measurements
    assert_eq!(run(&world).await, (vec![], None));
    assert_eq!(world.dump("SELECT meter FROM measured_accuracy").await, Vec::<String>::new());
    for day in days.clone() {
        measure(&world, "ann", day, 900).await;
        measure(&world, "bob", day, 20).await;
    }
    let (differing, found) = run(&world).await;
    let found = found.unwrap();
    assert_eq!(differing, ["chime_minutes"]);
    // the 28th had ended 24 hours before the delivery
    let compared: Vec<String> = found.days.iter().map(|of| of.day.to_string()).collect();
    assert_eq!((compared.len(), compared[0].as_str(), compared[6].as_str()), (7, "2026-10-22", "2026-10-28"));
    assert_eq!((found.since.to_string().as_str(), found.finding, found.differing_customers), ("2026-10-15", None, 1));
    assert_eq!((found.usage.measured, found.usage.billed), (minutes(7 * 920), minutes(7 * 940)));
    let bob = &found.customers[0];
    assert_eq!((bob.customer.as_str(), bob.differing_days, bob.finding), ("bob", 7, Some(Excess::BilledMore)));
    // late reports mend it
    for day in days {
        measure(&world, "bob", day, 20).await;
    }
    let (differing, found) = run(&world).await;
    assert!(differing.is_empty() && !found.unwrap().has_finding());
    assert_eq!(world.dump(ledger).await, booked, "the ledger is the bill's");
    world.sound().await;
    // a meter that is measured no more is no finding, and begins where it began
    let mut world = world;
    world.execute("UPDATE measured_accuracy SET found = json_set(found, '$.finding', 'billed_more')".into()).await;
    let mut other = (*measuring()).clone();
    other.meters.retain(|of| of.accrues == Accrues::Gb);
    world.context.measuring = Arc::new(other);
    assert_eq!(run(&world).await, (vec![], None));
    assert_eq!(world.dump("SELECT since FROM measured_accuracy").await, ["2026-10-15"]);
}

/// A backend that has stopped is a finding as long as a report of it is not folded. Then nobody
/// measures any more.
#[tokio::test]
async fn a_backend_that_stopped_long_ago_is_none() {
    let lines: Vec<String> = (1..=28).map(|day| entry("ann", day, 40)).collect();
    let world = world(&lines.join(",")).await;
    world.execute("INSERT INTO measured_days VALUES ('ann', 'chime_minutes', '2026-08-01', 0, 2400)".into()).await;
    assert_eq!(run(&world).await, (vec![], None));
    measure(&world, "ann", -5, 40).await;
    let (differing, found) = run(&world).await;
    assert_eq!((differing, found.unwrap().finding), (vec!["chime_minutes".to_owned()], Some(Excess::BilledMore)));
    world.execute("DELETE FROM measurements".into()).await;
    assert_eq!(run(&world).await, (vec![], None));
}

#[tokio::test]
async fn usage_without_a_tag_is_shown_beside_who_lacks_it() {
    let lines: Vec<String> = (20..=28).flat_map(|day| [entry("ann", day, 40), entry("", day, 60)]).collect();
    let world = world(&lines.join(",")).await;
    for day in 20..=28 {
        measure(&world, "ann", day, 100).await;
    }
    let found = run(&world).await.1.unwrap();
    assert_eq!((found.finding, found.differing_customers, found.untagged), (None, 1, minutes(420)));
    assert_eq!(found.customers[0].finding, Some(Excess::MeasuredMore));
}

/// Enough customers for several pages, of which the first and the last are in other tables.
#[tokio::test]
async fn all_pages_count_once() {
    let world = world(&entry("zoe", 25, 7)).await;
    let from = at("2026-10-01T00:00:00Z").as_second();
    let many = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4499)";
    let days = "json_each('[20,22,23,24,25,26,27,28]') d";
    for sql in [
        format!(
            "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) {many} \
             SELECT format('c%05d', i), 'chime_minutes', 'd' || d.value, 1, {from} + (d.value - 1) * 86400, \
                    {from} + (d.value - 1) * 86400 + 600 FROM n, {days} WHERE i % 2 = 0"
        ),
        format!(
            "INSERT INTO measured_days (customer, meter, day, units, rest) {many} \
             SELECT format('c%05d', i), 'chime_minutes', '2026-10-' || d.value, 0, 600 FROM n, {days} WHERE i % 2 = 1"
        ),
        "INSERT INTO measured_days VALUES ('aaa', 'chime_minutes', '2026-10-26', 0, 60)".into(),
    ] {
        world.execute(sql).await;
    }
    let entries = format!(
        "{many} SELECT format('c%05d', i), 'chime_minutes', '2026-10-' || d.value, \
                           iif(i % 500 = 3, 20, 10) * 10000000000, 'adjustment' FROM n, {days}"
    );
    for sql in bookings("'2026-10'", &format!("SELECT * FROM ({entries})")) {
        world.execute(sql).await;
    }
    world.execute("UPDATE bill_versions SET delivered_at = '2026-10-30T00:00:00Z'".into()).await;
    let (differing, found) = run(&world).await;
    let found = found.unwrap();
    assert_eq!((differing, found.differing_customers), (vec!["chime_minutes".to_owned()], 9));
    assert_eq!(found.usage.measured, minutes(4500 * 7 * 10 + 1));
    assert_eq!(found.usage.billed, minutes(4500 * 7 * 10 + 9 * 7 * 10 + 7));
    let named: Vec<&str> = found.customers.iter().map(|own| own.customer.as_str()).collect();
    let expected =
        ["c00003", "c00503", "c01003", "c01503", "c02003", "c02503", "c03003", "c03503", "c04003", "zoe", "aaa"];
    assert_eq!(named, expected);
}

/// The statement sums what a naive model of every minute does.
#[tokio::test]
async fn both_witnesses_are_what_a_naive_model_has() {
    let (begin, now) = (at("2026-10-01T00:00:00Z").as_second(), at("2026-10-31T00:00:00Z"));
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut entries, mut statements) = (entry("zoe", 31, 1), vec![]);
        let mut expected: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for n in 0..10 {
            let name = format!("m{n}");
            let Case { billed, measured, sql } = case(&mut rng, &name, begin, now.as_second());
            for (day, minutes) in billed.iter().filter(|(_, minutes)| **minutes != 0) {
                write!(entries, ", {}", entry(&name, day + 1, *minutes)).unwrap();
            }
            billed.iter().for_each(|(day, minutes)| expected.entry(*day).or_default().1 += minutes);
            measured.iter().for_each(|(day, minutes)| expected.entry(*day).or_default().0 += minutes);
            statements.extend(sql);
        }
        let world = world(&entries).await;
        let all = async move |c: &Connection| {
            c.batch(statements.iter().map(|sql| (sql.as_str(), vec![])).collect()).await.map(drop)
        };
        world.context.books.transaction(all).await.unwrap();
        let days: Vec<Day> =
            (1..=30).filter(|n| n % 7 != 3).map(|n| format!("2026-10-{n:02}").parse().unwrap()).collect();
        let meters = BTreeMap::from([("chime_minutes".to_owned(), Accrues::AttendeeMinutes)]);
        let found =
            world.context.books.accuracy(meters, days.clone(), BTreeSet::new(), None).await.unwrap().meters.remove(0);
        let first = expected.iter().find(|(_, of)| of.0 != 0).map(|(day, _)| begin / DAY + day).unwrap();
        assert!(i64::from(found.since.epoch()) <= first, "seed {seed}: {}", found.since);
        let wanted = days.iter().filter(|day| **day > found.since).map(|day| {
            let (measured, billed) = expected.get(&(i64::from(day.epoch()) - begin / DAY)).copied().unwrap_or_default();
            (*day, minutes(measured), minutes(billed))
        });
        let read = found.days.iter().map(|of| (of.day, of.usage.measured, of.usage.billed));
        assert_eq!(read.collect::<Vec<_>>(), wanted.collect::<Vec<_>>(), "seed {seed}");
    }
}
