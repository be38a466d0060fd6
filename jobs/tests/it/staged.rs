//! Bookings that need several transactions: whole or not at all, whenever they stop.

use jobs::ingest_cur::IngestOutcome;
use testkit::ingest_fixture::{IngestFixture, Line, chime, deliver_lines};

const V1: &str = "2026-11-01T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-11-01T05:00:00.000Z-22222222-2222-4222-8222-222222222222";

const ENTRIES: &str = "SELECT count(*) || '' FROM ledger_entries";

/// More entries than one transaction takes.
fn many(minutes: f64) -> Vec<Line> {
    (0..250).flat_map(|n| (1..=31).map(move |day| chime(&format!("c{n:03}"), day, minutes))).collect()
}

async fn run(world: &IngestFixture, sql: &'static str) {
    world.context.books.transaction(async move |c| Ok(c.execute_batch(sql).await.map(drop)?)).await.unwrap();
}

async fn number(world: &IngestFixture, sql: &'static str) -> String {
    world.dump(sql).await.remove(0)
}

/// A bill that was booked as far as customer `c200`.
async fn stopped() -> IngestFixture {
    let world = IngestFixture::new().await;
    world.context.books.add_customer("c001").await.unwrap();
    deliver_lines(&world.bucket(), V1, &many(2.0));
    let stop = "CREATE TRIGGER stop BEFORE INSERT ON ledger_entries WHEN NEW.customer = 'c200' \
                BEGIN SELECT RAISE(ABORT, 'stopped'); END;";
    run(&world, stop).await;
    assert!(world.ingest().await.unwrap_err().error().to_string().contains("stopped"));
    run(&world, "DROP TRIGGER stop").await;
    world
}

#[tokio::test]
async fn a_booking_that_stops_midway_is_seen_by_nobody_and_goes_on() {
    let world = stopped().await;
    let staged: usize = number(&world, ENTRIES).await.parse().unwrap();
    assert!((4000..6200).contains(&staged), "{staged}");
    let books = &world.context.books;
    assert!(world.ledger().await.is_empty());
    assert!(books.usage("2026-10".parse().unwrap(), None).await.unwrap().is_empty());
    assert_eq!(books.backlog(jiff::Timestamp::now()).await.unwrap().newest_version, 0);
    assert_eq!(books.books_stats(jiff::Timestamp::now()).await.unwrap().entries, 0);
    assert!(books.versions(None).await.unwrap().is_empty());
    world.sound().await;

    // what is there is not appended again
    run(
        &world,
        "CREATE TRIGGER again BEFORE INSERT ON ledger_entries WHEN NEW.customer < 'c100' \
                 BEGIN SELECT RAISE(ABORT, 'appended again'); END;",
    )
    .await;
    let report = world.ingest().await.unwrap();
    assert_eq!((report.outcome, report.entries), (IngestOutcome::Applied, 7750));
    assert_eq!(world.ledger().await.len(), 7750);
    assert_eq!(world.usage("c249", "chime_minutes").await.to_string(), "62");
    assert_eq!(
        number(&world, "SELECT group_concat(id || ' ' || version_id || ' ' || counted) FROM bookings").await,
        "1 1 1"
    );
    assert_eq!(number(&world, "SELECT chime_minutes_used || '' FROM customers").await, "62.0");
    world.sound().await;
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
}

#[tokio::test]
async fn what_nobody_can_finish_any_more_is_removed() {
    let world = stopped().await;
    deliver_lines(&world.bucket(), V2, &many(3.0));
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(number(&world, ENTRIES).await, "7750");
    assert_eq!(number(&world, "SELECT group_concat(id || ' ' || version_id) FROM bookings").await, "2 1");
    assert_eq!(world.usage("c000", "chime_minutes").await.to_string(), "93");
    world.sound().await;

    // or when nothing came for a day
    let world = stopped().await;
    let hours = |hours| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    run(&world, "UPDATE bookings SET started_at = unixepoch()").await;
    let staged = number(&world, ENTRIES).await;
    world.context.books.finish_bookings(hours(23)).await.unwrap();
    assert_eq!(number(&world, ENTRIES).await, staged);
    world.context.books.finish_bookings(hours(25)).await.unwrap();
    assert_eq!(number(&world, ENTRIES).await, "0");
    assert_eq!(number(&world, "SELECT count(*) || '' FROM bookings").await, "0");
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    world.sound().await;
}

#[tokio::test]
async fn counters_that_a_run_did_not_compute_are_computed_by_the_next() {
    let world = IngestFixture::new().await;
    world.context.books.add_customer("c001").await.unwrap();
    world.context.books.roll_counters("2026-10".parse().unwrap()).await.unwrap();
    let stop = "CREATE TRIGGER stop BEFORE UPDATE OF chime_minutes_used ON customers BEGIN SELECT RAISE(ABORT, 'stopped'); END;";
    run(&world, stop).await;
    deliver_lines(&world.bucket(), V1, &many(2.0));
    assert!(world.ingest().await.unwrap_err().error().to_string().contains("stopped"));
    assert_eq!(world.ledger().await.len(), 7750, "it is booked");
    world.sound().await;
    run(&world, "DROP TRIGGER stop").await;
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    assert_eq!(number(&world, "SELECT chime_minutes_used || '' FROM customers").await, "62.0");
    assert_eq!(number(&world, "SELECT counted || '' FROM bookings").await, "1");
    world.sound().await;
}

/// A version that would not add up leaves nothing behind.
#[tokio::test]
async fn a_booking_that_does_not_add_up_is_removed() {
    let world = stopped().await;
    run(
        &world,
        "CREATE TRIGGER wrong AFTER INSERT ON ledger_entries WHEN NEW.customer = 'c249' AND NEW.day = '2026-10-31' \
                 BEGIN DELETE FROM ledger_entries WHERE customer = 'c000'; END;",
    )
    .await;
    let failure = world.ingest().await.unwrap_err();
    assert!(failure.error().to_string().contains("entries of 7750"), "{}", failure.error());
    run(&world, "DROP TRIGGER wrong").await;
    assert_eq!(number(&world, ENTRIES).await, "0");
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    world.sound().await;
}
