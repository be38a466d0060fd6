//! The job against a real libSQL file and a real folder, each delivery taken in twice.

use std::sync::Arc;

use books::units::calendar::Month;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::ingest_cur::{IngestCur, IngestOutcome};
use jobs::job::{Failure, Job};
use jobs::source::Folder;
use proptest::prelude::*;
use testkit::ingest_fixture::{
    self, IngestFixture, Line, chime, columns, deliver, deliver_lines, job, manifest, now, parquet_bytes,
};
use testkit::suite_database::cases;

const V1: &str = "2026-11-01T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-11-01T05:00:00.000Z-22222222-2222-4222-8222-222222222222";
const V3: &str = "2026-11-01T07:00:00.000Z-33333333-3333-4333-8333-333333333333";

fn some() -> Vec<Line> {
    vec![
        chime("alice", 1, 10.5),
        chime("alice", 1, 0.1),
        chime("alice", 2, 3.0),
        chime("bob", 1, 7.0),
        chime("", 1, 2.0),
        Line { line_type: "Credit".into(), amount: 0.0, ..chime("bob", 1, 0.0) },
        Line { line_type: "Tax".into(), usage_type: String::new(), ..chime("", 1, 1.0) },
        Line { product: "AmazonEC2", usage_type: "BoxUsage:m5.large".into(), ..chime("alice", 1, 99.0) },
    ]
}

#[tokio::test]
async fn replaying_a_report_books_nothing() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied);
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "13.6");
    assert_eq!(world.usage("", "chime_minutes").await.to_string(), "2");
    let ledger = world.ledger().await;
    assert_eq!(ledger.len(), 4);
    let again = world.ingest().await.unwrap();
    assert_eq!((again.outcome, again.entries), (IngestOutcome::Unchanged, 0));
    assert_eq!(again.fetch_requests, 1, "the manifest and no data file");
    // delivered again under another version with the same content: a version more, an entry no more
    deliver_lines(&world.bucket(), V2, &some());
    let same = world.ingest().await.unwrap();
    assert_eq!((same.outcome, same.entries), (IngestOutcome::Applied, 0));
    assert_eq!(world.ledger().await, ledger);
    world.sound().await;
}

#[tokio::test]
async fn a_restated_bill_becomes_adjustments_and_history_stays() {
    let world = IngestFixture::new().await;
    let mut lines = some();
    lines.push(chime("dave", 9, 60.0));
    deliver_lines(&world.bucket(), V1, &lines);
    world.ingest().await.unwrap();
    let first = world.ledger().await;
    lines[2].amount = 2.5; // alice's second day shrinks
    lines[3].customer = String::new(); // bob's line loses its tag
    lines.push(chime("carol", 3, 4.0));
    deliver_lines(&world.bucket(), V2, &lines);
    let dry = IngestCur { dry_run: true, ..job() }.run(&world.context, now()).await.unwrap();
    assert_eq!((dry.outcome, dry.entries), (IngestOutcome::WouldApply, 4));
    assert_eq!(world.ledger().await, first, "a dry run writes nothing");
    let report = world.ingest().await.unwrap();
    assert_eq!((report.outcome, report.entries), (IngestOutcome::Applied, 4));
    let all = world.ledger().await;
    assert_eq!(all[..first.len()], first, "what was booked stands");
    let added: Vec<_> = all[first.len()..].iter().map(|e| e.split('|').skip(3).collect::<Vec<_>>().join("|")).collect();
    assert_eq!(
        added,
        [
            "|chime_minutes|2026-10-01|70000000000|adjustment",
            "alice|chime_minutes|2026-10-02|-5000000000|adjustment",
            "bob|chime_minutes|2026-10-01|-70000000000|adjustment",
            "carol|chime_minutes|2026-10-03|40000000000|usage",
        ]
    );
    assert_eq!(world.usage("bob", "chime_minutes").await.to_string(), "0");
    world.sound().await;
}

#[tokio::test]
async fn an_older_or_superseded_version_is_ignored() {
    let world = IngestFixture::new().await;
    for (version, amount) in [(V2, 5.0), (V3, 6.0)] {
        deliver_lines(&world.bucket(), version, &[chime("alice", 1, amount)]);
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    }
    let books = world.ledger().await;
    for version in [V1, V2] {
        deliver_lines(&world.bucket(), version, &[chime("alice", 1, 5.0)]);
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Older, "{version}");
    }
    assert_eq!(world.ledger().await, books);
}

#[tokio::test]
async fn other_rules_read_the_same_version_anew() {
    let mut world = IngestFixture::new().await;
    let lines = [chime("alice", 1, 5.0), Line { usage_type: "USE1-HD-Minutes".into(), ..chime("alice", 1, 3.0) }];
    deliver_lines(&world.bucket(), V1, &lines);
    let first = world.ingest().await.unwrap();
    assert_eq!(first.unrecognised.len(), 1, "{:?}", first.unrecognised);
    assert_eq!(first.unrecognised[0].usage_type, "USE1-HD-Minutes");
    let mut rules = ingest_fixture::rules(ingest_fixture::TAG);
    rules.meters[0].usage_types.push(books::usage::meter::Pattern::usage_type("HD-Minutes").unwrap());
    world.context.read_settings = ingest_fixture::read_settings(rules);
    let second = world.ingest().await.unwrap();
    assert_eq!((second.outcome, second.entries), (IngestOutcome::Applied, 1));
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "8");
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    world.sound().await;
}

#[tokio::test]
async fn usage_of_an_unknown_customer_is_kept_for_it() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    let usage = world.context.books.usage(ingest_fixture::month(), None).await.unwrap();
    assert!(usage.iter().all(|u| !u.known));
    world.context.books.add_customer("alice").await.unwrap();
    // the next run, though nothing else is new, fills in the counters of the row
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    let row = world.dump("SELECT id || '|' || chime_minutes_used || '|' || counters_period FROM customers").await;
    assert_eq!(row, ["alice|13.6|2026-10"]);
    world.sound().await;
}

#[tokio::test]
async fn counters_hold_the_current_month_and_roll_over() {
    let world = IngestFixture::new().await;
    world.context.books.add_customer("alice").await.unwrap();
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    let counters = "SELECT chime_minutes_used || '|' || counters_period FROM customers";
    assert_eq!(world.dump(counters).await, ["13.6|2026-10"]);
    let november = "2026-11-02T00:00:00Z".parse().unwrap();
    job().run(&world.context, november).await.unwrap();
    assert_eq!(world.dump(counters).await, ["0.0|2026-11"]);
    // a long run that began before midnight books something for the old month: the counters stay in
    // the new one
    deliver_lines(&world.bucket(), V2, &[&some()[..], &[chime("alice", 20, 4.0)]].concat());
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(world.dump(counters).await, ["0.0|2026-11"]);
    world.sound().await;
}

/// The month rolls over whatever becomes of the bills: not delivered yet, on hold, or out of reach.
#[tokio::test]
async fn counters_roll_over_without_a_new_bill() {
    let mut world = IngestFixture::new().await;
    world.context.books.add_customer("alice").await.unwrap();
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    let counters = "SELECT chime_minutes_used || '|' || counters_period FROM customers";
    let mut now: jiff::Timestamp = "2026-11-02T00:00:00Z".parse().unwrap();
    for what in ["no bill", "on_hold", "out of reach"] {
        let month = Month::of(now);
        match what {
            "on_hold" => {
                deliver_lines(&world.bucket(), V2, &[Line { line_type: "?".into(), ..chime("alice", 1, 1.0) }])
            }
            "out of reach" => world.source(Arc::new(Folder::new("/nowhere"))),
            _ => {}
        }
        let asked = if what == "no bill" { month } else { ingest_fixture::month() };
        let result = IngestCur { month: asked, ..job() }.run(&world.context, now).await;
        assert_eq!(result.is_err(), what == "out of reach", "{what}");
        assert_eq!(world.dump(counters).await, [format!("0.0|{month}")], "{what}");
        now = now.checked_add(jiff::SignedDuration::from_hours(31 * 24)).unwrap();
    }
}

/// A meter's factor is applied to exact sums of a day, and the books still add up.
#[tokio::test]
async fn a_factor_is_applied_to_the_days_sum() {
    for (factor, want) in [("60", "6"), ("0.001", "0.0001"), ("0.0000000001", "0")] {
        let mut rules = ingest_fixture::rules(ingest_fixture::TAG);
        rules.meters[0].factor = factor.parse().unwrap();
        let world = IngestFixture::with(rules).await;
        let lines: Vec<Line> = (0..10).map(|_| chime("alice", 1, 0.01)).collect();
        deliver_lines(&world.bucket(), V1, &lines);
        let report = world.ingest().await.unwrap();
        assert_eq!(report.meters[0].totals.total.to_string(), "0.1", "in the unit of the bill");
        assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), want);
        world.sound().await;
    }
}

#[tokio::test]
async fn a_line_type_that_nobody_knows_holds_the_version() {
    let world = IngestFixture::new().await;
    let lines = [chime("alice", 1, 5.0), Line { line_type: "Usagé".into(), ..chime("alice", 1, 3.0) }];
    deliver_lines(&world.bucket(), V1, &lines);
    for _ in 0..2 {
        let on_hold = world.ingest().await.unwrap();
        assert_eq!(on_hold.outcome, IngestOutcome::OnHold);
        assert!(on_hold.hold_reasons[0].text.contains("Usagé"), "{:?}", on_hold.hold_reasons);
    }
    assert!(world.ledger().await.is_empty());
    let states = "SELECT state || '|' || hold_reason FROM bill_versions";
    assert_eq!(world.dump(states).await.len(), 1, "on hold once");
    let accepted = world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(accepted.outcome, IngestOutcome::Applied);
    assert_eq!(accepted.meters[0].totals.excluded.to_string(), "3");
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
    assert_eq!(world.dump("SELECT state FROM bill_versions ORDER BY id").await, ["released", "applied"]);
    world.sound().await;
}

#[tokio::test]
async fn a_version_that_takes_back_much_is_on_hold_until_it_is_accepted() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 100.0)]);
    world.ingest().await.unwrap();
    let books = world.ledger().await;
    deliver_lines(&world.bucket(), V2, &[chime("alice", 1, 70.0)]);
    let on_hold = world.ingest().await.unwrap();
    assert_eq!(on_hold.outcome, IngestOutcome::OnHold);
    assert!(on_hold.hold_reasons[0].text.contains("from 100 to 70 (-30 %)"), "{:?}", on_hold.hold_reasons);
    assert_eq!(world.ledger().await, books);
    let accepted = world.accept(V2).await.run(&world.context, now()).await.unwrap();
    assert_eq!((accepted.outcome, accepted.entries), (IngestOutcome::Applied, 1));
    let reported =
        world.dump("SELECT accepted FROM bill_versions WHERE state = 'applied' AND supersedes IS NOT NULL").await;
    assert_eq!(reported, ["chime_minutes of the month goes from 100 to 70 (-30 %)"]);
    world.sound().await;
}

/// The sums of the month stay, but customers lose what is booked to them: a lost tag, or usage that
/// moves between them.
#[tokio::test]
async fn usage_that_customers_lose_is_on_hold_and_usage_that_finds_its_customer_is_not() {
    let tagged = [chime("alice", 1, 100.0), chime("bob", 1, 20.0)];
    for (others, on_hold) in
        [(["", ""], true), (["bob", "alice"], true), (["alice", ""], false), (["alice", "bob"], false)]
    {
        let world = IngestFixture::new().await;
        deliver_lines(&world.bucket(), V1, &tagged);
        world.ingest().await.unwrap();
        let lines = [chime(others[0], 1, 100.0), chime(others[1], 1, 20.0)];
        deliver_lines(&world.bucket(), V2, &lines);
        let report = world.ingest().await.unwrap();
        assert_eq!(report.outcome == IngestOutcome::OnHold, on_hold, "{others:?}: {:?}", report.hold_reasons);
        assert!(
            !on_hold || report.hold_reasons[0].text.contains("of the customers who have it now goes from 120 to"),
            "{report:?}"
        );
    }
    // the other way round: a tag that was activated later
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("", 1, 100.0)]);
    world.ingest().await.unwrap();
    deliver_lines(&world.bucket(), V2, &[chime("alice", 1, 100.0)]);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "100");
}

#[tokio::test]
async fn a_hold_that_has_lost_its_reason_is_released() {
    let mut world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 100.0)]);
    world.ingest().await.unwrap();
    let mut renamed = ingest_fixture::rules(ingest_fixture::TAG);
    renamed.meters[0].name = "minutes".into();
    let right = std::mem::replace(&mut world.context.read_settings, ingest_fixture::read_settings(renamed));
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::OnHold);
    world.context.read_settings = right;
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    assert_eq!(world.dump("SELECT state FROM bill_versions ORDER BY id").await, ["applied", "released"]);
}

#[tokio::test]
async fn a_manifest_that_is_gone_is_told() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    std::fs::remove_file(world.bucket().join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json")).unwrap();
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::NoBill);
    assert!(report.warnings[0].contains("its manifest is gone"), "{:?}", report.warnings);
}

/// Where only the kept copies of manifests are left, the time in the folder's name decides, not
/// that of the copy.
#[tokio::test]
async fn of_kept_manifests_the_newest_delivery_counts() {
    let world = IngestFixture::new().await;
    let folder = world.bucket().join("e/metadata/BILLING_PERIOD=2026-10");
    for (version, amount) in [(V2, 2.0), (V1, 1.0)] {
        deliver_lines(&world.bucket(), version, &[chime("alice", 1, amount)]);
        std::fs::create_dir_all(folder.join(version)).unwrap();
        std::fs::rename(folder.join("e-Manifest.json"), folder.join(version).join("e-Manifest.json")).unwrap();
    }
    let report = world.ingest().await.unwrap();
    assert_eq!((report.outcome, report.version.as_str()), (IngestOutcome::Applied, V2));
}

/// In overwrite mode the time of the manifest orders versions.
#[tokio::test]
async fn overwritten_deliveries_are_ordered_by_their_manifests_time() {
    let world = IngestFixture::new().await;
    let data = world.bucket().join("e/data/BILLING_PERIOD=2026-10");
    std::fs::create_dir_all(&data).unwrap();
    let keys = ["s3://b/e/data/BILLING_PERIOD=2026-10/e-00001.snappy.parquet".to_owned()];
    let deliver = |version: &str, amount: f64, at: &str| {
        std::fs::write(data.join("e-00001.snappy.parquet"), parquet_bytes(columns(&[chime("alice", 1, amount)])))
            .unwrap();
        manifest(&world.bucket(), version, &keys);
        let at: jiff::Timestamp = at.parse().unwrap();
        let path = world.bucket().join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json");
        std::fs::File::options().append(true).open(path).unwrap().set_modified(at.into()).unwrap();
    };
    for (version, amount, at, outcome) in [
        ("one", 1.0, "2026-10-10T03:00:00Z", IngestOutcome::Applied),
        ("two", 2.0, "2026-10-11T03:00:00Z", IngestOutcome::Applied),
        ("late", 9.0, "2026-10-10T09:00:00Z", IngestOutcome::Older),
        ("three", 3.0, "2026-10-12T03:00:00Z", IngestOutcome::Applied),
    ] {
        deliver(version, amount, at);
        assert_eq!(world.ingest().await.unwrap().outcome, outcome, "{version}");
    }
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "3");
    world.sound().await;
}

#[tokio::test]
async fn one_account_is_not_booked_under_two_payers() {
    let mut world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 100.0)]);
    world.ingest().await.unwrap();
    let mut exports = (*world.context.exports).clone();
    exports.get_mut("main").unwrap().payer = "other".into();
    world.context.exports = Arc::new(exports);
    let failure = world.ingest().await.unwrap_err();
    assert!(matches!(failure, Failure::GiveUp(_)));
    assert!(failure.error().to_string().contains("already booked under payer `default`"), "{}", failure.error());
}

#[tokio::test]
async fn a_month_without_a_bill_is_no_failure() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    let november: Month = "2026-11".parse().unwrap();
    let report = IngestCur { month: november, ..job() }.run(&world.context, now()).await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::NoBill);
}

#[tokio::test]
async fn empty_files_and_files_without_row_groups_are_nothing() {
    let world = IngestFixture::new().await;
    let empty = parquet_bytes(columns(&[]));
    let whole = parquet_bytes(columns(&some()));
    let nothing: arrow::array::ArrayRef = Arc::new(arrow::array::Int32Array::from(Vec::<i32>::new()));
    let unlike = parquet_bytes(vec![("x", nothing)]);
    deliver(&world.bucket(), V1, &[("1.parquet", whole), ("2.parquet", empty), ("3.parquet", unlike)]);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "13.6");
}

#[tokio::test]
async fn two_spellings_that_agree_are_one_and_that_disagree_are_on_hold() {
    for (second, on_hold) in [("alice", false), ("", false), ("mallory", true)] {
        let world = IngestFixture::new().await;
        let mut found = columns(&[chime("alice", 1, 5.0)]);
        let mut map =
            arrow::array::MapBuilder::new(None, arrow::array::StringBuilder::new(), arrow::array::StringBuilder::new());
        map.keys().append_value("resourceTags/user:chitchatter-customer-id");
        map.values().append_value(second);
        map.keys().append_value("accountTag/chitchatter-customer-id");
        map.values().append_value("somebody else");
        map.append(true).unwrap();
        found.push(("tags", Arc::new(map.finish())));
        deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(found))]);
        let report = world.ingest().await.unwrap();
        assert_eq!(report.outcome == IngestOutcome::OnHold, on_hold, "{second}");
        if on_hold {
            let text = &report.hold_reasons[0].text;
            assert!(
                text.contains("row group 0, row 0, column tags") && text.contains("`alice` and `mallory`"),
                "{text}"
            );
            assert!(world.ledger().await.is_empty());
        } else {
            assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
        }
    }
}

#[tokio::test]
async fn a_lost_tag_column_leaves_usage_unattributed_and_says_so() {
    let world = IngestFixture::new().await;
    let mut found = columns(&some());
    found.retain(|(name, _)| !name.starts_with("resource_tags"));
    deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(found))]);
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied);
    assert!(report.notes[0].text.contains("the bill has no tags at all"), "{:?}", report.notes);
    assert_eq!(world.usage("", "chime_minutes").await.to_string(), "22.6");
}

#[tokio::test]
async fn a_listed_file_that_is_missing_can_be_waited_for() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    let keys = ["e-00001.snappy.parquet", "e-00002.snappy.parquet"];
    let keys = keys.map(|k| format!("s3://b/e/data/BILLING_PERIOD=2026-10/{V1}/{k}"));
    manifest(&world.bucket(), V1, &keys);
    let failure = world.ingest().await.unwrap_err();
    assert!(failure.is_retryable());
    assert!(failure.error().to_string().contains("e-00002.snappy.parquet does not exist"), "{}", failure.error());
    assert!(world.ledger().await.is_empty());
}

#[tokio::test]
async fn the_ledger_refuses_to_be_changed() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    for (sql, why) in [
        ("UPDATE ledger_entries SET quantity = 1", "append-only"),
        ("DELETE FROM ledger_entries", "append-only"),
        (
            "REPLACE INTO ledger_entries SELECT booking_id, customer, meter, day, 1, kind FROM ledger_entries",
            "append-only",
        ),
        ("INSERT INTO ledger_entries SELECT booking_id, 'x', meter, day, 1, kind FROM ledger_entries", "append-only"),
        ("UPDATE bookings SET version_id = NULL", "book an adjustment instead"),
        ("UPDATE bookings SET entries = 1", "book an adjustment instead"),
        ("DELETE FROM bookings", "book an adjustment instead"),
    ] {
        let result = world.context.books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await;
        assert!(result.unwrap_err().to_string().contains(why), "{sql}");
    }
    world.sound().await;
}

#[tokio::test]
async fn an_audit_finds_what_was_tampered_with() {
    let world = IngestFixture::new().await;
    world.context.books.add_customer("alice").await.unwrap();
    deliver_lines(&world.bucket(), V1, &some());
    world.ingest().await.unwrap();
    EnforceBudgets::default().run(&world.context, jiff::Timestamp::now()).await.unwrap();
    world.sound().await;
    for sql in [
        "DROP TRIGGER ledger_entries_are_not_deleted",
        "DELETE FROM ledger_entries WHERE customer = 'bob'",
        "UPDATE usage_totals SET rest = rest + 1",
        "UPDATE customers SET chime_minutes_used = 1, turn_allocations_used = 7",
        "UPDATE billing_periods SET ends_at = ends_at - 1",
        "INSERT INTO settings (name, value) VALUES ('planned_for', '{\"meters\": {\"chime_minutes\": \"c*1\"}}')",
        "INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, used) \
         SELECT 'alice', 'chime_minutes', 0, 1, 'core', 0, 7",
        "UPDATE settings SET value = (SELECT max(version_id) FROM bookings) WHERE name = 'planned_version'",
        "UPDATE customers SET periods_until = 1",
        "DELETE FROM stripe_due",
        "UPDATE entitlements SET allowed = 1 - allowed",
        "UPDATE bill_totals SET attributed = '1' WHERE meter = 'chime_minutes'",
    ] {
        world.context.books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap();
    }
    let checks = world.context.books.verify().await.unwrap().checks;
    assert_eq!(checks.iter().filter(|c| c.violations.is_empty()).count(), 0, "{checks:?}");
}

fn line() -> impl Strategy<Value = Line> {
    let kinds = prop::sample::select(vec!["Usage", "Credit"]);
    let meters = prop::sample::select(vec![
        ("AmazonChime", "EUC1-Meetings-AttendeeMinutes"),
        ("AmazonS3", "TimedStorage-SIA-ByteHrs"),
        ("AmazonS3", "USE1-DataTransfer-Out-Bytes"),
        ("AmazonS3", "Requests-Tier1"),
    ]);
    ("[abc]?", 1..=31_i8, 0..50_000_i64, kinds, meters).prop_map(|(customer, day, n, kind, (product, usage_type))| {
        let amount: f64 = format!("{n}e-3").parse().unwrap();
        Line { product, usage_type: usage_type.into(), line_type: kind.into(), ..chime(&customer, day, amount) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]

    /// The same lines in any order, cut into any files, make the same bytes in the ledger; and a
    /// history of versions ends with the usage of its last one.
    #[test]
    fn the_order_of_files_and_rows_does_not_matter(
        (lines, shuffled) in prop::collection::vec(line(), 1..60).prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle())),
        files in 1..6_usize,
        parallel in 1..4_usize,
        earlier in prop::collection::vec(line(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let plain = IngestFixture::new().await;
            deliver_lines(&plain.bucket(), V3, &lines);
            plain.ingest().await.unwrap();

            let mut mixed = IngestFixture::new().await;
            mixed.context.read_settings.limits.parallel = parallel;
            let names = ["e.parquet", "b.parquet", "d.parquet", "a.parquet", "c.parquet"];
            let parts = shuffled.chunks(shuffled.len().div_ceil(files));
            let files: Vec<_> = names.into_iter().zip(parts.map(|part| parquet_bytes(columns(part)))).collect();
            deliver(&mixed.bucket(), V3, &files);
            mixed.ingest().await.unwrap();
            assert_eq!(plain.ledger().await, mixed.ledger().await);

            let mut history = IngestFixture::new().await;
            history.context.read_settings.hold.accept_restatements = true;
            deliver_lines(&history.bucket(), V1, &earlier);
            history.ingest().await.unwrap();
            deliver_lines(&history.bucket(), V3, &lines);
            history.ingest().await.unwrap();
            let usage = "SELECT customer || '|' || meter || '|' || day || '|' || sum(quantity) FROM booked_usage GROUP BY customer, meter, day HAVING sum(quantity) <> 0";
            assert_eq!(plain.dump(usage).await, history.dump(usage).await);
            history.sound().await;
        });
    }
}
