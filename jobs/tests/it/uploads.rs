//! What the web backend recorded of uploads names the customers of their keys, and what it deleted
//! weighs nothing from then on.

use books::shared_bucket::Measure;
use jiff::Timestamp;
use jobs::ingest_inventory::items;
use jobs::shared_bucket::items::WantedItems;
use testkit::ingest_fixture::IngestFixture;
use testkit::inventories::{BUCKET, FORMS, object};

use crate::access_logs::{World, get};
use crate::inventory::{HOUR, InventoryFixture, nightly};

fn second(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_second()
}

/// As `record_upload` and `record_delete` store it, with a rule of one day.
async fn record(books: &IngestFixture, (customer, key): (&str, &str), created: &str, deleted: Option<&str>) {
    let created = second(created);
    let ends = (created + 86_400 + 86_399) / 86_400 * 86_400;
    let ends = deleted.map_or(ends, |at| ends.min(second(at)));
    let sql = format!(
        "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) \
         VALUES ('{customer}', 'storage_gb', '{key}', 1000, {created}, {ends})"
    );
    books.context.books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
}

const MADE: &str = "2026-11-20T10:00:00Z";

/// Guards against: an object of a key that names nobody staying the house's although the backend
/// knows its customer, one that two sources name differently being somebody's, and bytes being
/// billed after their deletion.
#[tokio::test]
async fn an_object_is_of_who_uploaded_it_until_it_is_deleted() {
    for form in FORMS {
        let mut fixture = InventoryFixture::new(Some(1)).await;
        fixture.change(|bucket| bucket.uses_uploads = true);
        let books = &fixture.world;
        record(books, ("bob", "f/1"), MADE, None).await;
        record(books, ("bob", "c/ann/2"), MADE, None).await;
        record(books, ("ann", "f/3"), MADE, None).await;
        record(books, ("bob", "f/3"), MADE, None).await;
        record(books, ("bob", "f/4"), MADE, Some("2026-11-20T12:00:00Z")).await;
        // the object before it
        record(books, ("bob", "f/5"), "2026-11-20T08:00:00Z", Some("2026-11-20T09:00:00Z")).await;
        let keys = ["c/ann/1", "f/1", "f/2", "c/ann/2", "f/3", "f/4", "f/5"];
        fixture.write(&nightly(form, 20, &[]));
        fixture.write(&nightly(form, 21, &keys.map(|key| object(key, 1000, MADE))));
        let report = fixture.run_well().await;
        assert_eq!((report.counted, report.of_nobody, report.contradictions), (7, 1, 2), "{form:?}");
        assert!(report.notes[0].starts_with("2026-11-20: 2 objects name one customer by their key"), "{report:?}");
        let owned = |weights: [(&str, u128); 3]| weights.map(|(of, hours)| (of.to_owned(), hours * 1000 * HOUR));
        assert_eq!(fixture.standard("2026-11-20").await, owned([("", 3 * 14), ("ann", 14), ("bob", 14 + 2 + 14)]));
        // the list of a customer has the same
        let wanted =
            WantedItems { customer: "bob".into(), measure: Measure::ByteSeconds, class: "STANDARD".into(), most: 10 };
        let day = "2026-11-20".parse().unwrap();
        let found = items(&fixture.world.context, BUCKET, day, wanted, fixture.now).await.unwrap().unwrap();
        let listed: Vec<_> = found.items.iter().map(|item| (item.key.as_str(), item.seconds)).collect();
        let hours = |n: u64| n * 3600;
        let mut listed = listed;
        listed.sort_unstable();
        assert_eq!(listed, [("f/1", hours(14)), ("f/4", hours(2)), ("f/5", hours(14))]);
        // a row that comes late reads the day again
        record(&fixture.world, ("ann", "f/2"), MADE, None).await;
        fixture.run_well().await;
        assert_eq!(fixture.standard("2026-11-20").await, owned([("", 2 * 14), ("ann", 28), ("bob", 30)]));
        // without the rule none of it counts
        fixture.change(|bucket| bucket.uses_uploads = false);
        fixture.run_well().await;
        let plain = [("".to_owned(), 5 * 14 * 1000 * HOUR), ("ann".to_owned(), 28 * 1000 * HOUR)];
        assert_eq!(fixture.standard("2026-11-20").await, plain);
    }
}

#[tokio::test]
async fn a_request_is_of_who_uploaded_the_object() {
    let mut world = World::new().await;
    world.change(|bucket| bucket.uses_uploads = true);
    let of = |id: &str, key: &str| {
        let mut line = get(id);
        line.key = key.into();
        line.text()
    };
    record(&world.books, ("bob", "f/1 ü"), "2026-11-17T10:00:00Z", None).await;
    record(&world.books, ("bob", "c/acme/b"), "2026-11-18T10:00:00Z", None).await;
    // ended the day before
    record(&world.books, ("bob", "f/2"), "2026-11-16T00:00:00Z", None).await;
    world.write("A", &[of("1", "f/1%2520%25C3%25BC"), of("2", "c/acme/b"), of("3", "c/acme/a"), of("4", "f/2")]);
    let report = world.read().await;
    assert_eq!((report.counted, report.of_nobody, report.contradictions), (4, 1, 1));
    let sent: Vec<String> = world.weights().await.into_iter().filter(|row| row.contains("bytes_sent")).collect();
    assert_eq!(sent, ["2026-11-18 bytes_sent  200", "2026-11-18 bytes_sent acme 100", "2026-11-18 bytes_sent bob 100"]);
}

/// More rows than are read at once.
#[tokio::test]
async fn every_recorded_object_is_read_once() {
    let books = IngestFixture::new().await;
    let sql = format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10001) \
         INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) \
         SELECT 'c' || n % 7, 'storage_gb', 'f/' || n, n, {0}, {0} + 86400 FROM n",
        second("2026-11-20T00:00:00Z")
    );
    books.context.books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    let of = async |day: &str| {
        let day = day.parse().unwrap();
        books.context.books.recorded_uploads(day, day).await.unwrap()
    };
    let found = of("2026-11-20").await;
    let keys: std::collections::BTreeSet<&str> = found.iter().map(|row| row.key.as_str()).collect();
    assert_eq!((found.len(), keys.len()), (10_001, 10_001));
    assert!(found.iter().all(|row| row.deleted_at.is_none()));
    assert_eq!((of("2026-11-19").await.len(), of("2026-11-21").await.len()), (0, 0));
}
