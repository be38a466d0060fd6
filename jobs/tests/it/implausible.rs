//! What is held because it cannot be the truth: months of one line, days that cannot be, and
//! settled usage that grows. And what is booked, but said.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, TimestampMillisecondArray};
use books::audit::stats::MonthNote;
use books::usage::bill::{BillNote, NoteKind};
use jobs::ingest_cur::{IngestOutcome, IngestReport, discover};
use testkit::ingest_fixture::{
    self, IngestFixture, Line, chime, columns, deliver, deliver_lines, instant, parquet_bytes,
};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-10-11T03:00:00.000Z-22222222-2222-4222-8222-222222222222";
const CLOSED: &str = "2026-11-05T03:00:00.000Z-33333333-3333-4333-8333-333333333333";
const AFTER: &str = "2026-11-20T03:00:00.000Z-44444444-4444-4444-8444-444444444444";
const DAY: i64 = 86_400_000;

fn instants(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC"))
}

fn texts(values: Vec<&str>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

/// On hold with these words, and nothing more is booked than before.
async fn held(world: &IngestFixture, words: &[&str]) -> IngestReport {
    let before = world.ledger().await;
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::OnHold, "{report:?}");
    let stored = world.dump("SELECT hold_reason FROM bill_versions WHERE state = 'on_hold' ORDER BY id DESC").await;
    for word in words {
        assert!(stored[0].contains(word), "`{word}` is not in: {}", stored[0]);
    }
    assert_eq!(world.ledger().await, before);
    report
}

async fn applied(world: &IngestFixture) -> IngestReport {
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied, "{report:?}");
    world.sound().await;
    report
}

/// A bill of one counted line and one credit, with an end date and an interval.
fn spans(end: Option<i64>, interval: Option<&str>) -> Vec<u8> {
    let month = instant(1) + 31 * DAY;
    let credit = Line { line_type: "Credit".into(), ..chime("alice", 1, 0.0) };
    let mut all = columns(&[chime("alice", 1, 3000.0), credit]);
    if let Some(end) = end {
        all.push(("line_item_usage_end_date", instants(vec![end, month])));
    }
    if let Some(interval) = interval {
        let long = "2026-10-01T00:00:00Z/2026-11-01T00:00:00Z";
        all.push(("identity_time_interval", texts(vec![interval, long])));
    }
    parquet_bytes(all)
}

#[tokio::test]
async fn an_export_of_monthly_granularity_is_on_hold() {
    let month = "2026-10-01T00:00:00Z/2026-11-01T00:00:00Z";
    for (end, interval) in [
        (Some(instant(1) + 31 * DAY), None),
        (Some(instant(1) + DAY + 1000), None),
        (None, Some(month)),
        (Some(instant(1) + DAY / 24), Some(month)),
    ] {
        let mut world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", spans(end, interval))]);
        held(&world, &["1 counted line is of usage during more than a day", "monthly granularity", "daily or hourly"])
            .await;
        world.context.read_settings.hold.accept_long_lines = true;
        applied(&world).await;
        assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "3000");
    }
}

#[tokio::test]
async fn lines_of_a_day_and_lines_that_do_not_count_are_no_months() {
    let hour = "2026-10-01T00:00:00Z/2026-10-01T01:00:00Z";
    let day = "2026-10-01T00:00:00.000Z/2026-10-02T00:00:00.000Z";
    for (end, interval) in [
        (Some(instant(1) + DAY), Some(day)),
        (Some(instant(1) + 31 * DAY), Some(hour)),
        (Some(instant(1) + DAY), None),
        (Some(instant(1) + DAY / 24), Some(hour)),
        (None, None),
    ] {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", spans(end, interval))]);
        applied(&world).await;
    }
}

/// As above, in CSV.
#[tokio::test]
async fn a_monthly_export_as_csv_is_on_hold() {
    for (end, long) in [("2026-11-01T00:00:00.000Z", true), ("2026-10-02T00:00:00.000Z", false)] {
        let world = IngestFixture::new().await;
        let text = format!(
            "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,line_item_usage_end_date\n\
             AmazonChime,Meetings-AttendeeMinutes,Usage,5,2026-10-01T00:00:00.000Z,{end}\n"
        );
        deliver(&world.bucket(), V1, &[("1.csv", text.into_bytes())]);
        assert_eq!(world.ingest().await.unwrap().outcome == IngestOutcome::OnHold, long, "{end}");
    }
}

#[tokio::test]
async fn days_that_cannot_be_are_on_hold() {
    for (day, name) in [
        (0, "1970-01-01"),
        (253_402_214_400_000, "9999-12-31"),
        (instant(1) - 31 * DAY, "2026-08-31"),
        (instant(31) + DAY, "2026-11-01"),
        (instant(11), "2026-10-11"),
    ] {
        let world = IngestFixture::new().await;
        let mut all = columns(&[chime("alice", 1, 5.0), chime("bob", 2, 6.0)]);
        all.iter_mut().find(|(n, _)| *n == "line_item_usage_start_date").unwrap().1 = instants(vec![instant(1), day]);
        deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
        held(&world, &["usage on 1 day that the bill of 2026-10", "delivered 2026-10-10 03:00 UTC", name]).await;
    }
    let world = IngestFixture::new().await;
    let mut all = columns(&[chime("alice", 1, 5.0), chime("bob", 2, 6.0)]);
    all.iter_mut().find(|(n, _)| *n == "line_item_usage_start_date").unwrap().1 =
        instants(vec![instant(1) - 30 * DAY, instant(10)]);
    deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
    let report = applied(&world).await;
    assert!(report.warnings.iter().any(|w| w.contains("outside the month")), "late usage of the month before");
    let days = world.dump("SELECT day FROM ledger_entries ORDER BY day").await;
    assert_eq!(days, ["2026-09-01", "2026-10-10"]);
}

/// Only usage that would be booked on such a day is a reason.
#[tokio::test]
async fn a_line_without_usage_or_meter_has_any_day() {
    let other = |line_type: &str, usage_type: &str, amount: f64| Line {
        line_type: line_type.into(),
        usage_type: usage_type.into(),
        ..chime("bob", 1, amount)
    };
    for third in [
        chime("bob", 1, 0.0),
        other("Credit", "Meetings-AttendeeMinutes", -5.0),
        other("Tax", "", 5.0),
        other("Usage", "New", 5.0),
        Line { product: "AmazonS3", ..other("Usage", "Requests-Tier1", 5.0) },
        Line { product: "AmazonEC2", ..other("Usage", "BoxUsage", 5.0) },
    ] {
        for day in [0, 253_402_214_400_000, instant(11)] {
            let world = IngestFixture::new().await;
            let mut all = columns(&[chime("alice", 1, 5.0), third.clone()]);
            let days = instants(vec![instant(1), day]);
            all.iter_mut().find(|(n, _)| *n == "line_item_usage_start_date").unwrap().1 = days;
            deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
            let report = applied(&world).await;
            assert_eq!(report.impossible_days, None, "{third:?}");
            assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
        }
    }
}

#[tokio::test]
async fn a_settled_day_that_became_sixtyfold_is_on_hold_and_a_new_day_is_not() {
    let mut world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 100.0), chime("alice", 9, 10.0)]);
    applied(&world).await;
    deliver_lines(&world.bucket(), V2, &[chime("alice", 1, 6000.0), chime("alice", 9, 600.0)]);
    let report =
        held(&world, &["chime_minutes of the settled days through 2026-10-06 grows from 100 to 6000 (+5900 %)"]).await;
    assert_eq!(report.growths.len(), 1);
    world.context.read_settings.hold.accept_restatements = true;
    applied(&world).await;
    let accepted = world.dump("SELECT accepted FROM bill_versions WHERE state = 'applied' ORDER BY id DESC").await;
    assert!(accepted[0].contains("from 100 to 6000"), "{accepted:?}");

    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 100.0), chime("alice", 9, 10.0)]);
    applied(&world).await;
    let grown = [chime("alice", 1, 150.0), chime("alice", 9, 600.0), chime("bob", 10, 5000.0)];
    deliver_lines(&world.bucket(), V2, &grown);
    applied(&world).await;
}

/// AWS applies a tag to closed months when somebody asks for it.
#[tokio::test]
async fn a_tag_that_is_applied_to_a_closed_month_is_on_hold_and_to_an_open_one_is_not() {
    for (first, second, on_hold) in [(V1, V2, false), (V2, CLOSED, false), (CLOSED, AFTER, true)] {
        let mut world = IngestFixture::new().await;
        world.now = "2026-11-20T12:00:00Z".parse().unwrap();
        deliver_lines(&world.bucket(), first, &[chime("", 1, 500.0), chime("bob", 2, 100.0)]);
        applied(&world).await;
        deliver_lines(&world.bucket(), second, &[chime("alice", 1, 500.0), chime("bob", 2, 100.0)]);
        if on_hold {
            held(
                &world,
                &["chime_minutes of customers in the closed month grows from 100 to 600", "without a customer"],
            )
            .await;
        } else {
            applied(&world).await;
            assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "500");
        }
    }
}

async fn months_and_notes(world: &IngestFixture) -> Vec<MonthNote> {
    let bills = world.context.books.bills_of_payers().await.unwrap();
    bills.into_iter().flat_map(|bill| bill.notes).collect()
}

async fn notes(world: &IngestFixture) -> Vec<BillNote> {
    months_and_notes(world).await.into_iter().map(|of| of.note).collect()
}

/// The notes stand in the books, and other rules make new ones.
#[tokio::test]
async fn a_bill_without_the_tag_names_the_similar_one_until_it_is_right() {
    let mut world = IngestFixture::with(ingest_fixture::rules("customer-ids")).await;
    let mut all = columns(&[chime("alice", 1, 5.0)]);
    all.last_mut().unwrap().0 = "resource_tags_user_customer_id";
    all.push(("resource_tags_user_app", texts(vec!["x"])));
    deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
    let report = applied(&world).await;
    let want =
        "no usage (1 counted line) has a value of the tag `customer-ids`; the bill has the similar `customer_id`";
    assert_eq!((report.notes.len(), report.notes[0].text.as_str()), (1, want));
    assert_eq!(notes(&world).await, report.notes);
    world.context.read_settings = ingest_fixture::read_settings(ingest_fixture::rules("customer-id"));
    assert!(applied(&world).await.notes.is_empty());
    assert!(notes(&world).await.is_empty());
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
}

const OWN: &str = "resource_tags_user_chitchatter_customer_id";

/// A bill of lines of which some have the tag in a column, and some a similar one in another.
fn with_two_tags(own: Vec<&str>, similar: Vec<&str>) -> Vec<u8> {
    let mut all = columns(&vec![chime("", 1, 5.0); own.len()]);
    all.retain(|(name, _)| *name != OWN);
    all.push((OWN, texts(own)));
    all.push(("resource_tags_user_chitchatter_customerid", texts(similar)));
    parquet_bytes(all)
}

/// The same in a map.
fn with_two_keys(own: Vec<&str>, similar: Vec<&str>) -> Vec<u8> {
    let head = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,tags\n";
    let line = |(own, similar): (&str, &str)| {
        format!(
            "AmazonChime,Meetings-AttendeeMinutes,Usage,5,2026-10-01T00:00:00Z,\
             \"{{\"\"user:chitchatter-customer-id\"\":\"\"{own}\"\",\"\"user:chitchatter-customerid\"\":\"\"{similar}\"\"}}\"\n"
        )
    };
    let lines: String = own.into_iter().zip(similar).map(line).collect();
    format!("{head}{lines}").into_bytes()
}

/// One line with the right tag does not hide that most have a similar one.
#[tokio::test]
async fn a_similar_tag_on_most_lines_is_noted_though_one_line_has_the_right_one() {
    for (own, similar, noted) in [
        (vec!["alice", "", "", ""], vec!["", "bob", "bob", ""], true),
        (vec!["alice", "", "", ""], vec!["alice", "bob", "", ""], false),
        (vec!["alice", "bob", "", ""], vec!["alice", "bob", "", ""], false),
        (vec!["alice", "", "", ""], vec!["", "", "", ""], false),
    ] {
        for (name, bytes) in [
            ("1.parquet", with_two_tags(own.clone(), similar.clone())),
            ("1.csv", with_two_keys(own.clone(), similar.clone())),
        ] {
            let world = IngestFixture::new().await;
            deliver(&world.bucket(), V1, &[(name, bytes)]);
            let report = applied(&world).await;
            let words = "only 1 of 4 counted lines has a value of the tag `chitchatter-customer-id`, and 2 have one of the similar `chitchatter_customerid`";
            let found: Vec<_> = report.notes.iter().map(|note| (note.kind, note.text.as_str())).collect();
            assert_eq!(
                found,
                if noted { vec![(NoteKind::Untagged, words)] } else { vec![] },
                "{name} {own:?} {similar:?}"
            );
            assert_eq!(notes(&world).await, report.notes);
        }
    }
}

#[tokio::test]
async fn a_file_without_the_tag_column_is_noted_if_a_line_of_it_counts() {
    let without = |line: Line| {
        let mut all = columns(&[line]);
        all.retain(|(name, _)| *name != OWN);
        parquet_bytes(all)
    };
    let good = || parquet_bytes(columns(&[chime("alice", 1, 5.0)]));
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[("1.parquet", good()), ("2.parquet", without(chime("", 1, 9.0)))]);
    let report = applied(&world).await;
    let words = "1 of 2 files has no column for the customer tag, so its usage is without a customer";
    assert_eq!(report.notes, [BillNote { kind: NoteKind::Untagged, text: words.into() }]);
    assert_eq!(notes(&world).await, report.notes);
    let world = IngestFixture::new().await;
    let credit = Line { line_type: "Credit".into(), ..chime("", 1, 0.0) };
    deliver(&world.bucket(), V1, &[("1.parquet", good()), ("2.parquet", without(credit))]);
    assert!(applied(&world).await.notes.is_empty(), "no usage of that file is lost");
}

/// A note of the month before stays until a version of that month has none. Of older months, and of
/// the books' first one, nothing is said.
#[tokio::test]
async fn notes_of_the_month_before_stay() {
    let world = IngestFixture::new().await;
    let lost = || with_two_tags(vec![""], vec!["bob"]);
    deliver(&world.bucket(), V1, &[("1.parquet", lost())]);
    applied(&world).await;
    let stored = |month: &str, notes: &str| {
        let sql = format!(
            "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, \
             delivered_at, state, hold_reason, rows, counted_rows, rounded_amounts, decided_at, notes) \
             VALUES ('default', '{month}', 'main', 'cur2', 'v {month}', 'k', 'd', 'r', '', '{month}-20T12:00:00.000000000Z', 'applied', '', \
             1, 1, 0, '{month}-20T12:00:00.000000000Z', '{notes}')"
        );
        world.context.books.transaction(async move |c| c.execute(&sql, ()).await.map(drop))
    };
    let untagged = r#"[{"kind":"untagged","text":"old"},{"kind":"meter_counts_nothing","text":"old"}]"#;
    let said = async || {
        let found = months_and_notes(&world).await;
        found.iter().map(|note| note.months().to_string()).collect::<Vec<_>>()
    };
    stored("2026-09", untagged).await.unwrap();
    assert_eq!(said().await, ["2026-10"], "the first month of the books");
    stored("2026-08", untagged).await.unwrap();
    assert_eq!(said().await, ["2026-10", "2026-09"]);
    // the newest month is mended, and the older one is still said
    deliver(&world.bucket(), V2, &[("1.parquet", with_two_tags(vec!["bob"], vec![""]))]);
    assert_eq!(world.ingest().await.unwrap().notes, []);
    let found = months_and_notes(&world).await;
    assert_eq!((found.len(), found[0].months().as_str(), found[0].note.text.as_str()), (1, "2026-09", "old"));
}

/// Nothing of such a bill is counted, and nothing else would say so.
#[tokio::test]
async fn a_bill_without_a_line_of_a_watched_product_is_noted() {
    let named = "none of 2 rows is of a watched product (watched_products); the bill has the product codes `amazonchime`, `other\\u{1b}`";
    let none: ArrayRef = Arc::new(StringArray::new_null(2));
    let blank = "none of 2 rows is of a watched product (watched_products); its rows have no product code";
    for (products, words) in [(texts(vec!["amazonchime", "other\u{1b}"]), named), (none, blank)] {
        let world = IngestFixture::new().await;
        let mut all = columns(&[chime("alice", 1, 5.0), chime("bob", 1, 5.0)]);
        all.iter_mut().find(|(name, _)| *name == "line_item_product_code").unwrap().1 = products;
        deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
        let report = applied(&world).await;
        assert_eq!(report.notes, [BillNote { kind: NoteKind::ProductNotCounted, text: words.into() }]);
        assert_eq!(notes(&world).await, report.notes);
        let export = &world.context.exports["main"];
        let found = discover(export, &world.context.read_settings, ingest_fixture::month()).await.unwrap().unwrap();
        assert_eq!((found.lines.len(), found.nothing_watched.as_deref()), (0, Some(words)));
    }
    // AWS delivers such bills on the first day of a month
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[]);
    assert!(applied(&world).await.notes.is_empty());
}

#[tokio::test]
async fn a_meter_that_counts_nothing_of_a_product_in_the_bill_is_noted() {
    let world = IngestFixture::new().await;
    let s3 = |usage_type: &str| Line { product: "AmazonS3", usage_type: usage_type.into(), ..chime("alice", 1, 5.0) };
    let lines = [
        Line { usage_type: "USE1-Minutes".into(), ..chime("alice", 1, 5.0) },
        s3("TimedStorage-ByteHrs"),
        s3("Requests-Tier1"),
    ];
    deliver_lines(&world.bucket(), V1, &lines);
    let report = applied(&world).await;
    let found: Vec<_> = report.notes.iter().map(|note| (note.kind, note.text.as_str())).collect();
    let calls =
        "meter chime_minutes counts nothing of AmazonChime, of which the bill has 1 usage line; no other meter does";
    let transfer = "meter transfer_gb counts nothing of AmazonS3, of which the bill has 2 usage lines";
    assert_eq!(found, [(NoteKind::ProductNotCounted, calls), (NoteKind::MeterCountsNothing, transfer)]);
    assert_eq!(notes(&world).await, report.notes);
}
