//! An erasure beside a running ingest, and reports of shared buckets that still name the old id.

use std::sync::Arc;
use std::time::Duration;

use books::Database;
use books::customers::customer::NewCustomer;
use books::customers::erase::Erasure;
use books::shared_bucket::{BucketDay, DayCounts, Measure, ReportSource, Weight};
use books::store::audit_log::AuditEntry;
use books::store::connection::{Connection, params};
use books::store::database::Fence;
use books::store::erased::digest;
use jobs::context::Context;
use jobs::ingest_cur::IngestOutcome;
use jobs::job::Job;
use testkit::ingest_fixture::{IngestFixture, chime, deliver_lines, job};

use crate::lines::every_cell_is_the_sum_of_its_lines;

const V1: &str = "11111111-1111-4111-8111-111111111111";
const V2: &str = "11111112-2222-4222-8222-222222222222";

async fn erase(books: &Database, id: &str) -> Erasure {
    let entry =
        AuditEntry { actor: "a@b".into(), action: "customer erase".into(), target: "x".into(), reason: "asked".into() };
    let after = "2026-12-02T00:00:00Z".parse().unwrap();
    books.erase_customer(id, Duration::from_secs(3600), entry, after).await.unwrap()
}

async fn add(books: &Database, id: &str) {
    let status = Some("canceled".to_owned());
    books.add_customers(vec![NewCustomer { id: id.into(), status, ..NewCustomer::default() }]).await.unwrap();
    // signed up in October, whatever today is
    for sql in ["DELETE FROM turn_periods", "DELETE FROM billing_periods"] {
        books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap();
    }
}

/// A run that compared the bill before an erasure must not bring the id back: it books nothing.
#[tokio::test]
async fn an_erasure_between_reading_and_booking_stops_the_booking() {
    let mut world = IngestFixture::new().await;
    world.now = jiff::Timestamp::now();
    deliver_lines(&world.bucket(), V1, &[chime("ann", 1, 10.0), chime("bob", 1, 5.0)]);
    world.ingest().await.unwrap();
    let booked = world.ledger().await;
    deliver_lines(&world.bucket(), V2, &[chime("ann", 1, 12.0), chime("bob", 1, 5.0)]);
    // the first transaction of the booking finds an erasure that was not there when it compared
    let beside: Fence = Arc::new(|c: Connection| {
        Box::pin(async move {
            let sql =
                "INSERT INTO erased_customers (digest, pseudonym, erased_at) VALUES (?1, 'erased-0123456789abcdef', 0)";
            c.execute(sql, params![digest("key", "ann")]).await.map(drop)
        })
    });
    let context = Context { books: world.context.books.fenced(beside), ..world.context.clone() };
    let raced = job().run(&context, world.now).await.unwrap_err();
    assert!(raced.is_retryable() && format!("{:#}", raced.error()).contains("in the meantime"), "{raced:?}");
    assert_eq!(world.ledger().await, booked);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    world.sound().await;
}

#[tokio::test]
async fn reports_of_a_shared_bucket_go_to_the_pseudonym() {
    let world = IngestFixture::new().await;
    let books = &world.context.books;
    add(books, "ann").await;
    let day = |digest: &str, amount: u128| {
        let weight = |customer: &str, amount| Weight {
            measure: Measure::BytesSent,
            class: String::new(),
            customer: customer.into(),
            amount,
        };
        BucketDay {
            bucket: "shared".into(),
            source: ReportSource::AccessLogs,
            day: "2026-10-05".parse().unwrap(),
            digest: digest.repeat(64),
            found: DayCounts::default(),
            weights: vec![weight("ann", amount), weight("bob", 7), weight("", 1)],
        }
    };
    assert!(books.store_bucket_day(day("a", 10), world.now).await.unwrap());
    let Erasure { pseudonym, rows, .. } = erase(books, "ann").await;
    assert!(rows.iter().any(|changed| changed.table == "bucket_weights" && changed.rows == 1), "{rows:?}");
    let stored = "SELECT customer || ' ' || amount FROM bucket_weights ORDER BY customer";
    assert_eq!(world.dump(stored).await, [" 1", "bob 7", &format!("{pseudonym} 10")]);
    // the same reports write nothing, and others keep the pseudonym
    assert!(!books.store_bucket_day(day("a", 10), world.now).await.unwrap());
    assert!(books.store_bucket_day(day("b", 11), world.now).await.unwrap());
    assert_eq!(world.dump(stored).await, [" 1", "bob 7", &format!("{pseudonym} 11")]);
}

/// Two erased customers share one key, and each keeps its own pseudonym.
#[tokio::test]
async fn each_erased_customer_has_a_pseudonym_of_its_own() {
    let mut world = IngestFixture::new().await;
    world.now = jiff::Timestamp::now();
    let books = &world.context.books;
    deliver_lines(&world.bucket(), V1, &[chime("ann", 1, 10.0), chime("bob", 1, 5.0)]);
    world.ingest().await.unwrap();
    add(books, "ann").await;
    add(books, "bob").await;
    let (ann, bob) = (erase(books, "ann").await.pseudonym, erase(books, "bob").await.pseudonym);
    assert_ne!(ann, bob);
    let erased = books.erased_ids().await.unwrap();
    assert_eq!((erased.pseudonym("ann"), erased.pseudonym("bob")), (Some(ann.as_str()), Some(bob.as_str())));
    assert_eq!((erased.pseudonym("cyd"), erased.pseudonym(&ann), erased.count()), (None, None, 2));
    deliver_lines(&world.bucket(), V2, &[chime("ann", 1, 11.0), chime("bob", 1, 5.0), chime("cyd", 2, 1.0)]);
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied, "{report:?}");
    for (customer, quantity) in [(ann.as_str(), "11"), (&bob, "5"), ("cyd", "1"), ("ann", "0"), ("bob", "0")] {
        assert_eq!(world.usage(customer, "chime_minutes").await.to_string(), quantity, "{customer}");
    }
    // their lines are found again
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (3, 3));
    world.sound().await;
}
