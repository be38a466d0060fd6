//! Versions on hold: one line never stops the month of everybody. It is named, and a person lets
//! exactly that through. Against real files and books, each run twice.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, NullArray, StringArray, TimestampMillisecondArray};
use jobs::ingest_cur::hold::HoldKind;
use jobs::ingest_cur::{Acceptance, IngestCur, IngestOutcome, IngestReport, discover};
use jobs::job::{Failure, Job};
use testkit::ingest_fixture::{
    self, IngestFixture, Line, accept, chime, columns, deliver, deliver_lines, instant, job, now, parquet_bytes,
};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-10-11T03:00:00.000Z-22222222-2222-4222-8222-222222222222";
const V3: &str = "2026-10-12T03:00:00.000Z-33333333-3333-4333-8333-333333333333";
const KEY: &str =
    "e/data/BILLING_PERIOD=2026-10/2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111/1.parquet";

/// Two good lines of two customers, a third that is carol's, and the columns to be exchanged.
fn bill(exchanged: Vec<(&'static str, ArrayRef)>) -> Vec<u8> {
    let lines = [chime("alice", 1, 1.5), chime("bob", 2, 2.5), chime("carol", 3, 4.0)];
    let mut all = columns(&lines);
    let resources = ["arn:one", "arn:two", "arn:three"];
    all.push(("line_item_resource_id", Arc::new(StringArray::from(resources.to_vec()))));
    for (name, array) in exchanged {
        match all.iter_mut().find(|(n, _)| *n == name) {
            Some(column) => column.1 = array,
            None => all.push((name, array)),
        }
    }
    parquet_bytes(all)
}

fn texts(values: [&str; 3]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn amounts(third: f64) -> ArrayRef {
    Arc::new(Float64Array::from(vec![1.5, 2.5, third]))
}

/// Runs twice; both find the same reasons, and nothing is booked.
async fn held(world: &IngestFixture) -> IngestReport {
    let first = world.ingest().await.unwrap();
    let again = world.ingest().await.unwrap();
    assert_eq!((first.outcome, again.outcome), (IngestOutcome::OnHold, IngestOutcome::OnHold), "{first:?}");
    assert_eq!(first.hold_reasons, again.hold_reasons);
    assert!(world.ledger().await.is_empty());
    assert_eq!(world.dump("SELECT state FROM bill_versions").await, ["on_hold"], "once");
    again
}

/// Accepts twice: the second time changes nothing.
async fn accepted(world: &IngestFixture, version: &str) -> IngestReport {
    let dry = IngestCur { dry_run: true, ..world.accept(version).await }.run(&world.context, now()).await.unwrap();
    assert_eq!(dry.outcome, IngestOutcome::WouldApply, "{dry:?}");
    assert!(world.dump("SELECT reason FROM audit_log").await.is_empty(), "a dry run decides nothing");
    let report = world.accept(version).await.run(&world.context, now()).await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied, "{report:?}");
    let ledger = world.ledger().await;
    let again = world.accept(version).await.run(&world.context, now()).await.unwrap();
    assert_eq!((again.outcome, world.ledger().await), (IngestOutcome::Unchanged, ledger));
    let acts = world.dump("SELECT actor || ' ' || action || ' ' || target || ': ' || reason FROM audit_log").await;
    assert_eq!(acts, [format!("ann@test ingest --accept version {version} of default 2026-10: asked AWS")]);
    let stored =
        world.dump("SELECT accepted FROM bill_versions WHERE state = 'applied' ORDER BY id DESC LIMIT 1").await;
    assert_eq!(stored, std::slice::from_ref(&report.accepted));
    world.sound().await;
    report
}

/// What is exchanged, the reason and its words, and what is booked of carol and of nobody, what is
/// excluded, and the sum of all lines.
type Case<'a> = (Vec<(&'static str, ArrayRef)>, HoldKind, &'a str, [&'a str; 4]);

/// What a faulty third line does: a table of faults, reasons and books.
#[tokio::test]
async fn a_faulty_line_is_named_and_a_person_lets_it_through() {
    let tag = "resource_tags_user_chitchatter_customer_id";
    let period = || {
        let days = vec![instant(1), instant(1), instant(1) - 30 * 86_400_000];
        let days: ArrayRef = Arc::new(TimestampMillisecondArray::from(days));
        ("bill_billing_period_start_date", days)
    };
    let long = "x".repeat(257);
    let table: Vec<Case<'_>> = vec![
        (
            vec![(tag, texts(["alice", "bob", "ca\trol"]))],
            HoldKind::UnusableTag,
            "a tag value has the control character '\\t'",
            ["0", "4", "0", "8"],
        ),
        (vec![(tag, texts(["alice", "bob", &long]))], HoldKind::UnusableTag, "257 characters", ["0", "4", "0", "8"]),
        (
            vec![("resourceTags/user:chitchatter-customer-id", texts(["", "bob", "Carol"]))],
            HoldKind::UnusableTag,
            "two spellings of the customer tag disagree: `carol` and `Carol`",
            ["0", "4", "0", "8"],
        ),
        (
            vec![("line_item_usage_amount", amounts(f64::NAN))],
            HoldKind::UnreadableAmount,
            "the amount is NaN",
            ["0", "0", "0", "4"],
        ),
        (
            vec![("line_item_usage_amount", amounts(f64::INFINITY))],
            HoldKind::UnreadableAmount,
            "inf",
            ["0", "0", "0", "4"],
        ),
        (
            vec![("line_item_usage_amount", Arc::new(Float64Array::from(vec![Some(1.5), Some(2.5), None])))],
            HoldKind::UnreadableAmount,
            "it has no amount",
            ["0", "0", "0", "4"],
        ),
        (
            vec![("line_item_usage_amount", texts(["1.5", "2.5", " "]))],
            HoldKind::UnreadableAmount,
            "it has no amount",
            ["0", "0", "0", "4"],
        ),
        (vec![("line_item_usage_amount", amounts(1e300))], HoldKind::TooLargeAmount, "too large", ["0", "0", "0", "4"]),
        (
            vec![("line_item_usage_amount", amounts(2e9))],
            HoldKind::TooLargeAmount,
            "2000000000 is too large",
            ["0", "0", "2000000000", "2000000004"],
        ),
        (
            vec![("line_item_usage_amount", texts(["1.5", "2.5", "many"]))],
            HoldKind::UnreadableAmount,
            "`many` is not a decimal number",
            ["0", "0", "0", "4"],
        ),
        (
            vec![("line_item_usage_amount", amounts(-0.5))],
            HoldKind::NegativeAmount,
            "(amount -0.5)",
            ["-0.5", "0", "0", "3.5"],
        ),
        (
            vec![("line_item_usage_start_date", texts(["2026-10-01", "2026-10-02", "soon"]))],
            HoldKind::UnreadableDay,
            "no readable day (amount 4)",
            ["0", "0", "4", "8"],
        ),
        (
            vec![period()],
            HoldKind::OtherPeriod,
            "starts 2026-09-01, but the bill is that of 2026-10",
            ["0", "0", "4", "8"],
        ),
    ];
    for (exchanged, kind, words, [carol, nobody, excluded, total]) in table {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", bill(exchanged))]);
        let report = held(&world).await;
        let [reason] = report.hold_reasons.as_slice() else { panic!("{words}: {:?}", report.hold_reasons) };
        let place = format!("{KEY}, row group 0, row 2, column ");
        assert_eq!(reason.kind, kind, "{reason:?}");
        for part in ["1 line of chime_minutes has ", &place, ", resource arn:three: ", words] {
            assert!(reason.text.contains(part), "`{part}` is not in {}", reason.text);
        }
        // `meter discover` reads the same
        let export = &world.context.exports["main"];
        let found = discover(export, &world.context.read_settings, ingest_fixture::month()).await.unwrap().unwrap();
        assert_eq!(found.faults[0].to_string(), reason.text);
        let report = accepted(&world, V1).await;
        assert_eq!(report.accepted, reason.text);
        for (customer, amount) in [("alice", "1.5"), ("bob", "2.5"), ("carol", carol), ("", nobody)] {
            assert_eq!(world.usage(customer, "chime_minutes").await.to_string(), amount, "{words}: `{customer}`");
        }
        let totals = &report.meters[0].totals;
        assert_eq!((totals.excluded.to_string(), totals.total.to_string()), (excluded.into(), total.into()), "{words}");
        assert!(totals.is_conserved(), "{totals:?}");
    }
}

/// A column without any amount, of whatever type a program gives it.
#[tokio::test]
async fn a_bill_without_amounts_is_on_hold_unless_nothing_of_it_is_counted() {
    let empty: [ArrayRef; 3] =
        [Arc::new(NullArray::new(3)), Arc::new(Float64Array::new_null(3)), Arc::new(StringArray::new_null(3))];
    for amounts in empty {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", bill(vec![("line_item_usage_amount", Arc::clone(&amounts))]))]);
        let report = held(&world).await;
        assert!(report.hold_reasons[0].text.starts_with("3 lines of chime_minutes have an amount that cannot be read"));
        assert!(report.hold_reasons[0].text.contains("it has no amount"), "{:?}", report.hold_reasons);
        let tax = vec![("line_item_usage_amount", amounts), ("line_item_line_item_type", texts(["Tax", "Tax", "Tax"]))];
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", bill(tax))]);
        let report = world.ingest().await.unwrap();
        assert_eq!((report.outcome, report.warnings.len()), (IngestOutcome::Applied, 0), "{report:?}");
    }
}

/// The same faults in lines that nobody counts stop nothing.
#[tokio::test]
async fn a_line_that_no_meter_counts_never_holds_a_bill() {
    let good = [chime("alice", 1, 1.5), chime("bob", 2, 2.5)];
    let requests = |customer: &str, amount: f64| Line {
        product: "AmazonS3",
        usage_type: "Requests-Tier1".into(),
        ..chime(customer, 3, amount)
    };
    let credit = |amount: f64| Line { line_type: "Credit".into(), ..chime("carol", 3, amount) };
    let long = "x".repeat(257);
    for bad in [
        requests("a\tb", 1.0),
        requests(&long, 1.0),
        requests("bob", f64::NAN),
        requests("bob", f64::NEG_INFINITY),
        requests("bob", -1.0),
        requests("bob", 1e300),
        credit(f64::NAN),
        credit(-3.0),
        Line { usage_type: "New".into(), ..chime("a\u{0}b", 1, f64::NAN) },
    ] {
        let world = IngestFixture::new().await;
        deliver_lines(&world.bucket(), V1, &[&good[..], std::slice::from_ref(&bad)].concat());
        let report = world.ingest().await.unwrap();
        assert_eq!(report.outcome, IngestOutcome::Applied, "{bad:?}: {:?}", report.hold_reasons);
        let unread = !bad.amount.is_finite() || bad.amount == 1e300;
        assert_eq!(report.warnings.iter().any(|w| w.contains("1 line has an amount that cannot be read")), unread);
        assert_eq!(world.usage("bob", "chime_minutes").await.to_string(), "2.5");
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
        world.sound().await;
    }
}

/// CSV says line and resource, and a map that cannot be read is an unusable tag.
#[tokio::test]
async fn csv_names_the_line_of_a_fault() {
    let csv = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,line_item_resource_id,resource_tags\n\
        AmazonChime,Meetings-AttendeeMinutes,Usage,1.5,2026-10-01T00:00:00Z,arn:one,\"{\"\"user_chitchatter_customer_id\"\":\"\"alice\"\"}\"\n\
        AmazonChime,Meetings-AttendeeMinutes,Usage,2,2026-10-01T00:00:00Z,arn:two,\"{\"\"user_chitchatter_customer_id\"\":\"\"bob\"\",\"\"user:chitchatter-customer-id\"\":\"\"Bob\"\"}\"\n\
        AmazonS3,Requests-Tier1,Usage,2,2026-10-01T00:00:00Z,arn:three,no map\n\
        AmazonChime,Meetings-AttendeeMinutes,Usage,4,2026-10-01T00:00:00Z,,no map\n";
    for name in ["1.csv", "1.csv.gz"] {
        let mut bytes = csv.as_bytes().to_vec();
        if name.ends_with(".gz") {
            let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            gzip.write_all(&bytes).unwrap();
            bytes = gzip.finish().unwrap();
        }
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[(name, bytes)]);
        let report = held(&world).await;
        let text = &report.hold_reasons[0].text;
        for part in [
            "2 lines of chime_minutes have a customer tag that cannot be used (amount 6): ",
            &format!("/{name}, line 3, column resource_tags, resource arn:two: "),
            "line 5, column resource_tags, no resource: this is no JSON object of texts",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        accepted(&world, V1).await;
        assert_eq!(world.usage("", "chime_minutes").await.to_string(), "6");
        assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "1.5");
    }
}

/// A bill whose third line is negative.
fn negative(third: f64) -> Vec<u8> {
    bill(vec![("line_item_usage_amount", amounts(third))])
}

async fn refused(world: &IngestFixture, asked: IngestCur, words: &str) {
    match asked.run(&world.context, now()).await {
        Err(Failure::GiveUp(error)) => assert!(error.to_string().contains(words), "{error}"),
        other => panic!("{words}: {other:?}"),
    }
    assert!(world.ledger().await.is_empty());
}

#[tokio::test]
async fn an_acceptance_of_another_version_books_nothing() {
    let world = IngestFixture::new().await;
    refused(&world, world.accept(V1).await, "no legacy or CUR 2.0 export").await;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1.0))]);
    // nobody has looked at it yet: it is put on hold
    let early = world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(early.outcome, IngestOutcome::OnHold);
    assert!(early.warnings[0].contains("was not on hold, so nobody has looked"), "{:?}", early.warnings);
    refused(
        &world,
        world.accept("33333333").await,
        "no version that begins with `33333333` is on hold; on hold: 2026-10-10T03",
    )
    .await;
    refused(&world, world.accept("2026").await, "`2026` is too short: give at least 8 characters").await;
    let silent = Acceptance { version: V1.into(), seen: None, actor: "ann".into(), reason: String::new() };
    refused(&world, IngestCur { accept: Some(silent), ..job() }, "why (`reason`)").await;
    // the next delivery came meanwhile
    deliver(&world.bucket(), V2, &[("1.parquet", negative(-2.0))]);
    let late = world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(late.outcome, IngestOutcome::OnHold);
    assert!(late.warnings[0].contains("but AWS has delivered version 2026-10-11T03"), "{:?}", late.warnings);
    refused(&world, world.accept("2026-10-1").await, "2 versions on hold begin with `2026-10-1`").await;
    // not even a good one that came since
    deliver(&world.bucket(), V3, &[("1.parquet", bill(vec![]))]);
    refused(&world, world.accept(V1).await, "`meter ingest --month 2026-10` books it; nothing was booked").await;
    deliver(&world.bucket(), V2, &[("1.parquet", negative(-2.0))]);
    assert!(world.dump("SELECT reason FROM audit_log").await.is_empty());
    accepted(&world, V2).await;
    assert_eq!(world.usage("carol", "chime_minutes").await.to_string(), "-2");
    let states = world.dump("SELECT state FROM bill_versions ORDER BY id").await;
    assert_eq!(states, ["released", "released", "applied"]);
}

/// Files that were replaced under the same version are another thing to look at.
#[tokio::test]
async fn an_acceptance_is_about_what_was_looked_at() {
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1.0))]);
    held(&world).await;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1000.0))]);
    let replaced = world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(replaced.outcome, IngestOutcome::OnHold);
    assert!(replaced.warnings[0].contains("something else was found now"), "{:?}", replaced.warnings);
    assert!(world.ledger().await.is_empty() && world.dump("SELECT reason FROM audit_log").await.is_empty());
    let words = world.dump("SELECT hold_reason FROM bill_versions").await;
    assert!(words.len() == 1 && words[0].contains("(amount -1000)"), "{words:?}");
    // another manifest of that name
    let manifest = world.bucket().join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, format!("{text}\n")).unwrap();
    let other = world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(other.outcome, IngestOutcome::OnHold);
    assert!(other.warnings[0].contains("with another manifest or by other rules"), "{:?}", other.warnings);
    world.accept(V1).await.run(&world.context, now()).await.unwrap();
    assert_eq!(world.usage("carol", "chime_minutes").await.to_string(), "-1000");
    world.sound().await;
}

/// A tick of the schedule writes the words anew, between the look of a person and the acceptance.
#[tokio::test]
async fn a_person_accepts_only_the_words_that_were_seen() {
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1.0))]);
    let looked_at = held(&world).await.hold_digest;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1000.0))]);
    let now_there = held(&world).await.hold_digest;
    assert_ne!(looked_at, now_there);
    let stored = world.context.books.versions(None).await.unwrap();
    assert_eq!(stored[0].hold_digest, now_there);
    let unseen = Acceptance { seen: None, ..accept(V1, "").accept.unwrap() };
    let command =
        format!("To accept that: meter ingest --month 2026-10 --accept {V1} --seen {now_there} --reason \"why\"");
    for (asked, why) in [
        (accept(V1, &looked_at), format!("for other reasons by now than those that were seen ({looked_at})")),
        (accept(V1, ""), "than those that were seen ()".to_owned()),
        (IngestCur { accept: Some(unseen), ..job() }, "is not said (`seen`)".to_owned()),
    ] {
        for dry_run in [true, false] {
            for words in [why.as_str(), "; nothing was booked. On hold is: 1 line", "(amount -1000)", &command] {
                refused(&world, IngestCur { dry_run, ..asked.clone() }, words).await;
            }
        }
    }
    assert!(world.dump("SELECT reason FROM audit_log").await.is_empty());
    let words = world.dump("SELECT hold_reason FROM bill_versions WHERE state = 'on_hold'").await;
    assert!(words.len() == 1 && words[0].contains("(amount -1000)"), "{words:?}");
    let report = accept(V1, &now_there).run(&world.context, now()).await.unwrap();
    assert_eq!((report.outcome, report.hold_digest.as_str()), (IngestOutcome::Applied, ""));
    assert_eq!(world.usage("carol", "chime_minutes").await.to_string(), "-1000");
    world.sound().await;
}

/// A readable amount that the books cannot hold is usage of somebody: no key leaves it out.
#[tokio::test]
async fn no_key_accepts_an_amount_that_is_too_large() {
    let mut world = IngestFixture::new().await;
    let hold = &mut world.context.read_settings.hold;
    hold.allow_unknown_line_types = true;
    hold.accept_restatements = true;
    hold.accept_faulty_lines = true;
    hold.accept_long_lines = true;
    deliver(&world.bucket(), V1, &[("1.parquet", bill(vec![("line_item_usage_amount", amounts(900_000_000.5))]))]);
    let report = held(&world).await;
    let [reason] = report.hold_reasons.as_slice() else { panic!("{:?}", report.hold_reasons) };
    assert_eq!(reason.kind, HoldKind::TooLargeAmount);
    let said = "1 line of chime_minutes has an amount that is too large to be booked: ";
    assert!(reason.text.starts_with(said) && reason.text.contains(": 900000000.5 is too large"), "{}", reason.text);
    let stored = world.dump("SELECT hold_reason FROM bill_versions").await;
    assert!(stored[0].contains("lines with too large an amount are left out, so nobody pays"), "{stored:?}");
    let report = accepted(&world, V1).await;
    assert_eq!(report.meters[0].totals.excluded.to_string(), "900000000.5");
    let lines = world.dump("SELECT line_type || '|' || claim || '|' || lines FROM bill_lines ORDER BY 1").await;
    assert_eq!(lines, ["Usage (amount too large)|excluded|1", "Usage|counted|2"]);
    // what is no amount at all is left to the key
    deliver(&world.bucket(), V2, &[("1.parquet", bill(vec![("line_item_usage_amount", amounts(f64::NAN))]))]);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied);
}

/// A decision of the configuration needs no person, and what it lets through is stored.
#[tokio::test]
async fn the_configuration_may_let_faulty_lines_through() {
    let mut world = IngestFixture::new().await;
    world.context.read_settings.hold.accept_faulty_lines = true;
    deliver(&world.bucket(), V1, &[("1.parquet", negative(-1.0))]);
    let report = world.ingest().await.unwrap();
    assert_eq!((report.outcome, report.hold_reasons.len()), (IngestOutcome::Applied, 0));
    assert!(report.accepted.contains("a negative amount (amount -1)"), "{}", report.accepted);
    assert_eq!(world.dump("SELECT accepted FROM bill_versions").await, [report.accepted]);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    world.sound().await;
}
