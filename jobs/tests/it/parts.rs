//! Large bills read in parts: the same books as in one go, and parts of different readings never
//! meet.

use std::sync::Arc;

use jobs::context::{Context, ReadLimits, ReadSettings};
use jobs::ingest_cur::{IngestOutcome, IngestPart, IngestReport, PartOutcome};
use jobs::job::{Failure, Job, Request};
use proptest::prelude::*;
use testkit::ingest_fixture::{self, IngestFixture, Line, chime, columns, deliver, job, now, parquet_bytes};
use testkit::suite_database::cases;

const V1: &str = "2026-11-01T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-11-01T05:00:00.000Z-22222222-2222-4222-8222-222222222222";
const NAMES: [&str; 6] = ["1.parquet", "2.parquet", "3.parquet", "4.parquet", "5.parquet", "6.parquet"];

/// Delivers each list of lines as a file.
fn delivered(world: &IngestFixture, version: &str, files: &[Vec<Line>]) {
    let files: Vec<_> = files.iter().zip(NAMES).map(|(lines, name)| (name, parquet_bytes(columns(lines)))).collect();
    deliver(&world.bucket(), version, &files);
}

/// A bill of `limit` bytes or more is read in parts.
fn large_from(world: &IngestFixture, limit: u64) -> Context {
    let limits = ReadLimits { fan_out_bytes: Some(limit), ..ReadLimits::default() };
    let read_settings = ReadSettings { limits, ..world.context.read_settings.clone() };
    Context { read_settings, ..world.context.clone() }
}

/// The parts that an ingest asks for.
async fn asked(context: &Context) -> Vec<IngestPart> {
    match job().run(context, now()).await {
        Err(Failure::WaitFor(requests, _, _)) => {
            let part = |r: &Request| serde_json::from_str::<IngestPart>(&r.payload).unwrap();
            requests.iter().inspect(|r| assert_eq!(r.kind, IngestPart::KIND)).map(part).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn amount(text: &str) -> f64 {
    text.parse().unwrap()
}

fn bill() -> Vec<Vec<Line>> {
    let customer = |i: i8| ["alice", "bob", "", "dave"][usize::try_from(i % 4).unwrap()];
    (0..5)
        .map(|file| {
            let mut lines: Vec<_> =
                (1..20).map(|i| chime(customer(file + i), i, amount(&format!("{i}.125")))).collect();
            lines.push(Line { line_type: "Credit".into(), amount: 0.0, ..chime("bob", 1, 0.0) });
            lines.push(Line { usage_type: format!("USE1-New{file}"), ..chime("bob", 1, 1.5) });
            lines
        })
        .collect()
}

#[tokio::test]
async fn parts_in_any_order_make_the_bill() {
    let (whole, parted) = (IngestFixture::new().await, IngestFixture::new().await);
    for world in [&whole, &parted] {
        delivered(world, V1, &bill());
    }
    whole.ingest().await.unwrap();
    let context = large_from(&parted, 1);
    let mut parts = asked(&context).await;
    assert_eq!(parts.len(), 5, "one for each file, because each is larger than the limit");
    parts.rotate_left(2);
    parts.reverse();
    for part in &parts[..3] {
        assert_eq!(part.clone().run(&context, now()).await.unwrap().outcome, PartOutcome::Stored);
        assert_eq!(part.clone().run(&context, now()).await.unwrap().outcome, PartOutcome::Obsolete, "once is enough");
    }
    // a run in between asks for the rest only, and books nothing
    assert_eq!(asked(&context).await.len(), 2);
    assert!(parted.ledger().await.is_empty());
    for part in asked(&context).await {
        part.run(&context, now()).await.unwrap();
    }
    let report = job().run(&context, now()).await.unwrap();
    assert_eq!((report.outcome, report.rows, report.files), (IngestOutcome::Applied, 105, 5));
    assert_eq!(report.unrecognised.len(), 5);
    assert_eq!(whole.ledger().await, parted.ledger().await);
    parted.sound().await;
    assert_eq!(parted.dump("SELECT identity FROM bill_parts").await, Vec::<String>::new());
    assert_eq!(job().run(&context, now()).await.unwrap().outcome, IngestOutcome::Unchanged);
    for part in parts {
        assert_eq!(part.run(&context, now()).await.unwrap().outcome, PartOutcome::Obsolete, "its bill is decided");
    }
}

/// Guards against: two workers that group the files in another way share a plan, and half a bill is
/// booked.
#[tokio::test]
async fn parts_of_another_grouping_are_another_plan() {
    let (whole, parted) = (IngestFixture::new().await, IngestFixture::new().await);
    for world in [&whole, &parted] {
        delivered(world, V1, &bill());
    }
    whole.ingest().await.unwrap();
    let (fine, coarse) = (large_from(&parted, 1), large_from(&parted, 12_000));
    let fine_parts = asked(&fine).await;
    for part in &fine_parts {
        part.clone().run(&fine, now()).await.unwrap();
    }
    let coarse_parts = asked(&coarse).await;
    assert!(coarse_parts.len() < fine_parts.len() && coarse_parts.len() > 1, "{}", coarse_parts.len());
    for part in coarse_parts {
        assert_eq!(part.run(&coarse, now()).await.unwrap().outcome, PartOutcome::Stored);
    }
    assert_eq!(job().run(&coarse, now()).await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(whole.ledger().await, parted.ledger().await);
}

#[tokio::test]
async fn a_delivery_that_is_replaced_half_way_is_read_anew() {
    let world = IngestFixture::new().await;
    delivered(&world, V1, &bill());
    let context = large_from(&world, 1);
    let old = asked(&context).await;
    old[0].clone().run(&context, now()).await.unwrap();
    // a file is written over: its part is not what was planned
    let path = world.bucket().join("e/data/BILLING_PERIOD=2026-10").join(V1).join(NAMES[1]);
    std::fs::write(&path, parquet_bytes(columns(&[chime("mallory", 1, 1e6)]))).unwrap();
    assert_eq!(old[1].clone().run(&context, now()).await.unwrap().outcome, PartOutcome::Obsolete);
    let mut next = bill();
    next.push(vec![chime("erin", 3, 4.5)]);
    delivered(&world, V2, &next);
    let new = asked(&context).await;
    assert_eq!(new.len(), 6);
    assert_ne!(new[0].identity, old[0].identity);
    for part in new {
        part.run(&context, now()).await.unwrap();
    }
    assert_eq!(job().run(&context, now()).await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(world.usage("erin", "chime_minutes").await.to_string(), "4.5");
    assert_eq!(world.usage("mallory", "chime_minutes").await.to_string(), "0");
    world.sound().await;
}

#[tokio::test]
async fn a_damaged_part_is_read_again() {
    let world = IngestFixture::new().await;
    delivered(&world, V1, &bill());
    let context = large_from(&world, 1);
    for part in asked(&context).await {
        part.run(&context, now()).await.unwrap();
    }
    let damage = "UPDATE bill_parts SET sums = x'00112233' WHERE part = 3";
    world.context.books.transaction(async move |c| Ok(c.execute(damage, ()).await?)).await.unwrap();
    assert!(matches!(job().run(&context, now()).await, Err(Failure::Retry(_))));
    let again = asked(&context).await;
    assert_eq!(again.iter().map(|p| p.part).collect::<Vec<_>>(), [3]);
    again[0].clone().run(&context, now()).await.unwrap();
    assert_eq!(job().run(&context, now()).await.unwrap().outcome, IngestOutcome::Applied);
    world.sound().await;
}

/// Delivers a bill to both worlds, and reads it in one go in the first and in parts in the second,
/// whose context is `in_parts`.
async fn read_both(
    whole: &IngestFixture,
    in_parts: &Context,
    parted: &IngestFixture,
    files: &[Vec<Line>],
) -> [IngestReport; 2] {
    for world in [whole, parted] {
        delivered(world, V1, files);
    }
    let one = whole.ingest().await.unwrap();
    for part in asked(in_parts).await {
        part.run(in_parts, now()).await.unwrap();
    }
    [one, job().run(in_parts, now()).await.unwrap()]
}

/// Faulty lines travel with the stored sums: the same words, and the same books when a person
/// accepts them.
#[tokio::test]
async fn faulty_lines_of_parts_are_those_of_the_bill() {
    let (whole, parted) = (IngestFixture::new().await, IngestFixture::new().await);
    let mut files = bill();
    for (i, file) in files.iter_mut().enumerate().skip(1) {
        file.push(chime("bob", 3, -0.5));
        file.push(chime("a\tb", 3, 2.0));
        file.push(chime(["alice", "bob"][i % 2], 3, f64::NAN));
    }
    let context = large_from(&parted, 1);
    let [one, other] = read_both(&whole, &context, &parted, &files).await;
    assert_eq!((one.outcome, one.hold_reasons.len()), (IngestOutcome::OnHold, 3));
    assert_eq!(one.hold_reasons, other.hold_reasons);
    assert!(one.hold_reasons[0].text.starts_with("4 lines of chime_minutes have a customer tag"), "{one:?}");
    whole.context.books.add_customer("bob").await.unwrap();
    parted.context.books.add_customer("bob").await.unwrap();
    for (world, context) in [(&whole, &whole.context), (&parted, &context)] {
        // the parts are kept for it, and no file is read again
        let report = world.accept(V1).await.run(context, now()).await.unwrap();
        assert_eq!(report.outcome, IngestOutcome::Applied);
        assert_eq!(report.meters[0].totals.unattributed.to_string(), "251");
        world.sound().await;
    }
    assert_eq!(whole.ledger().await, parted.ledger().await);
}

#[tokio::test]
async fn a_worker_with_other_rules_leaves_parts_alone() {
    let world = IngestFixture::new().await;
    delivered(&world, V1, &bill());
    let context = large_from(&world, 1);
    let parts = asked(&context).await;
    let rules = Arc::new(ingest_fixture::rules("another-tag"));
    let other = Context { read_settings: ReadSettings { rules, ..context.read_settings.clone() }, ..context.clone() };
    let refused = parts[0].clone().run(&other, now()).await.unwrap_err();
    assert!(refused.is_retryable() && refused.error().to_string().contains("other rules"), "{:?}", refused.error());
    // a broken file is its part's trouble alone
    let path = world.bucket().join("e/data/BILLING_PERIOD=2026-10").join(V1).join(NAMES[2]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let parts = asked(&context).await;
    assert!(matches!(parts[2].clone().run(&context, now()).await, Err(Failure::GiveUp(_))));
    assert_eq!(parts[3].clone().run(&context, now()).await.unwrap().outcome, PartOutcome::Stored);
}

fn line() -> impl Strategy<Value = Line> {
    let day = 1_i8..=31;
    ("[abc]?", day, "[0-9]{1,6}[.][0-9]{1,12}").prop_map(|(customer, day, text)| chime(&customer, day, amount(&text)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(24)))]

    /// Whatever is in the files, parts give the ledger that one reading gives.
    #[test]
    fn parts_and_whole_agree(files in prop::collection::vec(prop::collection::vec(line(), 1..12), 2..6)) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (whole, parted) = (IngestFixture::new().await, IngestFixture::new().await);
            let [one, other] = read_both(&whole, &large_from(&parted, 1), &parted, &files).await;
            assert_eq!(serde_json::to_value(&one.meters).unwrap(), serde_json::to_value(&other.meters).unwrap());
            assert_eq!(one.rounded_amounts, other.rounded_amounts);
            assert_eq!(whole.ledger().await, parted.ledger().await);
        });
    }
}

/// What a person should know, and why a version is held, does not depend on how it was read.
#[tokio::test]
async fn parts_keep_the_tags_and_the_long_lines() {
    let rules = || ingest_fixture::rules("customer-ids");
    let (whole, parted) = (IngestFixture::with(rules()).await, IngestFixture::with(rules()).await);
    let end = ingest_fixture::instant(1) + 31 * 86_400_000;
    let files: Vec<_> = ["resource_tags_user_customer_id", "resource_tags_user_app"]
        .into_iter()
        .zip(NAMES)
        .map(|(tag, name)| {
            let mut all = columns(&[chime("alice", 1, 5.0)]);
            all.last_mut().unwrap().0 = tag;
            all.push(("line_item_usage_end_date", Arc::new(arrow::array::TimestampMillisecondArray::from(vec![end]))));
            (name, parquet_bytes(all))
        })
        .collect();
    for world in [&whole, &parted] {
        deliver(&world.bucket(), V1, &files);
    }
    let of_whole = whole.ingest().await.unwrap();
    let context = large_from(&parted, 1);
    for part in asked(&context).await {
        part.run(&context, now()).await.unwrap();
    }
    let of_parts = job().run(&context, now()).await.unwrap();
    assert_eq!((of_parts.outcome, of_parts.long_lines), (IngestOutcome::OnHold, 2));
    assert_eq!(of_parts.hold_reasons, of_whole.hold_reasons);
    assert_eq!(of_parts.notes, of_whole.notes);
    assert!(of_parts.notes[0].text.contains("similar `customer_id`"), "{:?}", of_parts.notes);
}
