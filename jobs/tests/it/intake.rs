//! Deliveries that cannot be, files that are empty, and bills with more kinds of a thing than
//! anybody reads.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jobs::ingest_cur::{IngestOutcome, IngestReport, look};
use jobs::job::Job;
use testkit::ingest_fixture::{IngestFixture, Line, chime, columns, deliver, deliver_lines, month, now, parquet_bytes};

const GOOD: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const LATER: &str = "2026-10-11T03:00:00.000Z-22222222-2222-4222-8222-222222222222";
const FUTURE: &str = "2096-11-28T06:00:00.000Z-33333333-3333-4333-8333-333333333333";
const BEFORE: &str = "2026-09-30T23:00:00.000Z-44444444-4444-4444-8444-444444444444";
const NEGATIVE: &str = "-009999-01-02T01:59:59Z-55555555-5555-4555-8555-555555555555";

/// A failure that names all of `words`, after which nothing is booked or on hold.
async fn refused(world: &IngestFixture, words: &[&str]) {
    let failure = world.ingest().await.expect_err(&format!("{words:?}"));
    let text = format!("{:#}", failure.error());
    assert!(!failure.is_retryable(), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(world.ledger().await.is_empty());
    assert!(world.context.books.versions(None).await.unwrap().is_empty());
}

async fn ingested(world: &IngestFixture, outcome: IngestOutcome, minutes: &str) -> IngestReport {
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, outcome, "{report:?}");
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), minutes);
    world.sound().await;
    report
}

#[tokio::test]
async fn a_delivery_at_a_time_that_cannot_be_is_refused_and_hides_no_later_one() {
    for (version, at, why) in [
        (FUTURE, "2096-11-28T06:00:00Z", "it is 2026-10-31 23:59 UTC now"),
        (BEFORE, "2026-09-30T23:00:00Z", "2026-10 had not begun then"),
        (NEGATIVE, "-009999-01-02T01:59:59Z", "2026-10 had not begun then"),
    ] {
        let world = IngestFixture::new().await;
        deliver_lines(&world.bucket(), version, &[chime("alice", 1, 9.0)]);
        refused(&world, &["e-Manifest.json", at, "by the name of its folder", why, "Check this machine's clock"]).await;
        deliver_lines(&world.bucket(), GOOD, &[chime("alice", 1, 2.0)]);
        ingested(&world, IngestOutcome::Applied, "2").await;
        deliver_lines(&world.bucket(), version, &[chime("alice", 1, 9.0)]);
        let text = format!("{:#}", world.ingest().await.unwrap_err().error());
        assert!(text.contains(at), "{text}");
        deliver_lines(&world.bucket(), LATER, &[chime("alice", 1, 3.0)]);
        assert!(ingested(&world, IngestOutcome::Applied, "3").await.warnings.is_empty());
    }
}

fn set_time(path: &Path, at: &str) {
    let at: Timestamp = at.parse().unwrap();
    std::fs::File::options().append(true).open(path).unwrap().set_modified(at.into()).unwrap();
}

#[tokio::test]
async fn the_time_of_a_manifest_cannot_be_of_the_future_either() {
    let world = IngestFixture::new().await;
    let period = world.bucket().join("bill/20261001-20261101");
    std::fs::create_dir_all(&period).unwrap();
    let name = "bill/20261001-20261101/bill-1.snappy.parquet";
    std::fs::write(world.bucket().join(name), parquet_bytes(columns(&[chime("alice", 1, 2.0)]))).unwrap();
    let json = serde_json::json!({ "assemblyId": "a1", "account": "1", "reportKeys": [name],
        "billingPeriod": { "start": "20261001T000000.000Z", "end": "20261101T000000.000Z" } });
    let manifest = period.join("bill-Manifest.json");
    std::fs::write(&manifest, json.to_string()).unwrap();
    set_time(&manifest, "2036-11-28T06:00:00Z");
    refused(&world, &["bill-Manifest.json", "2036-11-28T06:00:00Z", "by the time of that file", "it is 2026-10-31"])
        .await;
    // clocks differ
    set_time(&manifest, "2026-11-01T23:59:59Z");
    ingested(&world, IngestOutcome::Applied, "2").await;
}

/// The copies of manifests that an export keeps beside the newest one.
#[tokio::test]
async fn a_good_version_beside_an_impossible_one_is_read() {
    for top in [true, false] {
        let world = IngestFixture::new().await;
        let folder = world.bucket().join("e/metadata/BILLING_PERIOD=2026-10");
        for (version, amount) in [(GOOD, 1.0), (LATER, 2.0), (FUTURE, 9.0)] {
            deliver_lines(&world.bucket(), version, &[chime("alice", 1, amount)]);
            std::fs::create_dir_all(folder.join(version)).unwrap();
            std::fs::copy(folder.join("e-Manifest.json"), folder.join(version).join("e-Manifest.json")).unwrap();
        }
        if !top {
            std::fs::remove_file(folder.join("e-Manifest.json")).unwrap();
        }
        for outcome in [IngestOutcome::Applied, IngestOutcome::Unchanged] {
            let report = ingested(&world, outcome, "2").await;
            let [note] = report.warnings.as_slice() else { panic!("{:?}", report.warnings) };
            assert!(note.contains("2096-11-28T06:00:00Z") && note.contains("it is not read"), "{note}");
        }
        let months = world.context.books.months(now()).await.unwrap();
        let export = &world.context.exports["main"];
        let looks = look("main", export, &months["default"], vec![month()], now()).await.unwrap();
        let found = format!("{:?}", looks[0].found);
        assert!(found.starts_with("Unreadable") && found.contains("2096-11-28T06:00:00Z"), "{found}");
    }
}

/// Earlier builds booked such versions.
#[tokio::test]
async fn books_with_an_impossible_time_go_on() {
    for at in ["2096-11-28T06:00:00.000000000Z", "-9999-01-02T01:59:59.000000000Z"] {
        let world = IngestFixture::new().await;
        deliver_lines(&world.bucket(), GOOD, &[chime("alice", 8, 10.0)]);
        ingested(&world, IngestOutcome::Applied, "10").await;
        let booked = "2026-10-10T04:00:00.000000000Z";
        let sql = format!("UPDATE bill_versions SET delivered_at = '{at}', decided_at = '{booked}'");
        world.context.books.with_connection(async move |c| c.execute(&sql, ()).await.map(drop)).await.unwrap();
        assert_eq!(world.context.books.versions(None).await.unwrap().len(), 1);
        world.context.books.usage_through().await.unwrap();
        ingested(&world, IngestOutcome::Unchanged, "10").await;
        // no day was settled then that grows now
        deliver_lines(&world.bucket(), LATER, &[chime("alice", 8, 10.0), chime("alice", 9, 30.0)]);
        let report = ingested(&world, IngestOutcome::Applied, "40").await;
        let said = format!("the booked version {GOOD} says that it was delivered 2096");
        assert_eq!(report.warnings.iter().any(|w| w.starts_with(&said)), at.starts_with('2'), "{:?}", report.warnings);
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
        // the version before is superseded, whatever its time
        deliver_lines(&world.bucket(), GOOD, &[chime("alice", 8, 10.0)]);
        ingested(&world, IngestOutcome::Older, "40").await;
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(vec![], Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn an_empty_csv_file_is_no_part_of_a_bill() {
    let header = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
                  line_item_usage_start_date\n";
    let line = "AmazonChime,Meetings-AttendeeMinutes,Usage,5,2026-10-01T00:00:00.000Z\n";
    let good = format!("{header}{line}").into_bytes();
    for (name, empty) in
        [("2.csv", vec![]), ("2.csv", b"\n".to_vec()), ("2.csv.gz", vec![]), ("2.csv.gz", gzipped(b""))]
    {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), GOOD, &[("1.csv", good.clone()), (name, empty)]);
        refused(&world, &[name, "it is empty", "half delivered?"]).await;
        // a file without lines is complete
        let bytes = if name.ends_with("gz") { gzipped(header.as_bytes()) } else { header.into() };
        deliver(&world.bucket(), GOOD, &[("1.csv", good.clone()), (name, bytes)]);
        assert_eq!(world.ingest().await.unwrap().counted_rows, 1);
    }
}

/// Lines with as many line types, or usage types; the first has the most lines.
fn kinds(count: usize, of: impl Fn(String) -> Line) -> Vec<Line> {
    let kind = |n: usize| format!("Type{n:05}{}", "x".repeat(300));
    let one = (0..count).map(|n| of(kind(n)));
    one.chain((0..3).map(|_| of(kind(count - 1)))).chain([chime("alice", 1, 2.0)]).collect()
}

#[tokio::test]
async fn of_many_unknown_line_types_the_largest_are_named() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), GOOD, &kinds(500, |line_type| Line { line_type, ..chime("alice", 1, 1.0) }));
    let report = world.ingest().await.unwrap();
    assert_eq!((report.outcome, report.hold_reasons.len()), (IngestOutcome::OnHold, 21));
    assert!(report.hold_reasons[0].text.starts_with("4 lines have the unknown line type `Type00499xxx"), "{report:?}");
    assert_eq!(report.hold_reasons[20].text, "and 480 unknown line types more; `meter discover` lists all");
    assert_eq!(report.unknown_line_types.len(), 20);
    let stored = world.dump("SELECT hold_reason FROM bill_versions").await;
    assert!(stored[0].len() < 6_000, "{}", stored[0].len());
    let report = world.accept(GOOD).await.run(&world.context, now()).await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied);
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "2");
    assert_eq!(world.dump("SELECT count(*) || '' FROM bill_lines").await, ["501"]);
}

#[tokio::test]
async fn an_unknown_line_type_of_lines_that_no_meter_claims_holds_nothing() {
    let world = IngestFixture::new().await;
    let of = |usage_type| Line { usage_type, line_type: "NewFee".into(), ..chime("alice", 1, 1.0) };
    deliver_lines(&world.bucket(), GOOD, &kinds(500, of));
    let report = ingested(&world, IngestOutcome::Applied, "2").await;
    assert_eq!((report.unrecognised.len(), report.unrecognised_kinds), (20, 500));
    let first = &report.unrecognised[0];
    assert!(first.lines == 4 && first.usage_type.starts_with("Type00499x") && first.usage_type.ends_with("x…"));
}

/// In several files, so that no reader alone sees too many of them.
#[tokio::test]
async fn a_bill_with_more_customers_than_any_is_refused() {
    let world = IngestFixture::new().await;
    let lines = |file: usize| -> Vec<Line> {
        (0..11_000).map(|n| chime(&format!("{:0>256}", file * 100_000 + n).replace('0', "é"), 1, 1.0)).collect()
    };
    let names: Vec<String> = (1..=7).map(|n| format!("{n}.parquet")).collect();
    let files: Vec<_> = (1..=7).map(|n| (names[n - 1].as_str(), parquet_bytes(columns(&lines(n))))).collect();
    deliver(&world.bucket(), GOOD, &files);
    refused(&world, &["values of the customer tag so far", "32 MiB are read at most", "check that `tag_key`"]).await;
}
