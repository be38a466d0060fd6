//! A month of a shared bucket, from S3's reports and AWS's bill to booked usage: the house has what
//! the reports lost, and nobody has more than what the world says is theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use books::shared_bucket::Remainder;
use books::shared_bucket::shares::{BucketRule, ShareState};
use fake_aws::bucket::{BillState, BucketShares, LogView};
use fake_aws::{FileKind, Layout, Spec};
use jobs::ingest_cur::IngestOutcome;
use jobs::source::Folder;
use testkit::ingest_fixture::{self, TAG};

use crate::bucket_world::{BUCKET, Fixture, GB, USUAL, spec};

/// By meter, day and customer, scaled by 10¹⁰.
type Amounts = BTreeMap<(&'static str, String, String), i128>;

/// Books that know the bucket, its reports of a whole month, and the bill in this form.
async fn booked(shares: BucketShares, remainder: Remainder, (layout, kind): (Layout, FileKind)) -> Fixture {
    let mut world = Fixture::new(spec((2026, 10, 31), shares), USUAL).await;
    let mut rules = ingest_fixture::rules(TAG);
    rules.shared_buckets = vec![BucketRule {
        bucket: BUCKET.into(),
        remainder,
        floor_percent: 50,
        ceiling_percent: 1000,
        settle_hours: 24,
    }];
    world.books.context.read_settings = ingest_fixture::read_settings(rules);
    let folder = world.books.folder.path().join("bill");
    world.books.source(Arc::new(Folder::new(folder.clone())));
    let bill = world.world.bill(BillState::Restated).unwrap();
    let spec = Spec { layout, kind, rows: 600, late_days: 3, shared_bucket: Some(bill), ..Spec::default() };
    fake_aws::write(&folder, &spec).unwrap();
    world.books.now = "2026-11-20T12:00:00Z".parse().unwrap();
    // the bill comes before the last reports, and then once more
    assert_eq!(world.books.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    world.day_by_day().await;
    world.books.context.read_settings.hold.month_fall_percent = u32::MAX;
    assert_eq!(world.books.ingest().await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(world.books.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    world.books.sound().await;
    world
}

/// What customers of the bucket have.
async fn shares(world: &Fixture) -> Amounts {
    let sql = "SELECT meter || '|' || day || '|' || customer || '|' || sum(quantity) FROM booked_usage \
               WHERE kind = 'apportioned' GROUP BY meter, day, customer";
    let mut found = Amounts::new();
    for row in world.books.dump(sql).await {
        let [meter, day, customer, amount] = row.split('|').collect::<Vec<_>>().try_into().unwrap();
        let meter = if meter == "storage_gb" { "storage_gb" } else { "transfer_gb" };
        found.insert((meter, day.to_owned(), customer.to_owned()), amount.parse().unwrap());
    }
    found
}

/// What is theirs by the world, as AWS bills it, in fractions of 10⁻¹⁰ units: numerator, and one
/// denominator for each meter.
fn theirs(world: &Fixture) -> (Amounts, BTreeMap<&'static str, i128>) {
    let mut found = Amounts::new();
    let whole = |n: u128| i128::try_from(n * 10_000_000_000).unwrap();
    for ((day, _, customer), storage) in world.world.storage() {
        *found.entry(("storage_gb", day.to_string(), customer)).or_default() += whole(storage.billed);
    }
    for ((day, customer), traffic) in world.world.traffic(LogView::Everything) {
        *found.entry(("transfer_gb", day.to_string(), customer)).or_default() += whole(traffic.bytes_sent);
    }
    let gb = i128::try_from(GB).unwrap();
    (found, BTreeMap::from([("storage_gb", gb * 86_400 * 31), ("transfer_gb", gb)]))
}

/// What AWS bills of the bucket, by meter and day.
fn billed(world: &Fixture) -> BTreeMap<(&'static str, String), i128> {
    let mut found = BTreeMap::new();
    for ((day, measure, _), amount) in world.billed() {
        let meter = match measure {
            "byte_seconds" => "storage_gb",
            "bytes_sent" => "transfer_gb",
            _ => continue,
        };
        *found.entry((meter, day)).or_default() += i128::from(amount);
    }
    found
}

/// Guards against: a customer who pays for what others stored, or for what was lost; and a share
/// that goes missing between AWS and the ledger.
#[tokio::test]
async fn a_month_is_divided_and_nobody_has_more_than_is_theirs() {
    let lossy = BucketShares { unfinished: 30, lost_objects: 50, lost_lines: 80, ..BucketShares::FAITHFUL };
    for (losses, form) in [(lossy, (Layout::Cur2, FileKind::Parquet)), (lossy, (Layout::Cur2, FileKind::CsvGz))] {
        let world = booked(losses, Remainder::House, form).await;
        let (shares, (theirs, one)) = (shares(&world).await, theirs(&world));
        assert!(shares.len() > 4 * 31, "{}", shares.len());
        for ((meter, day, customer), share) in &shares {
            let own = theirs.get(&(*meter, day.clone(), customer.clone())).copied().unwrap_or_default();
            assert!(
                share * one[meter] <= own,
                "{customer} has more {meter} on {day} than is theirs: {share} of {}",
                own / one[meter]
            );
        }
        let stored = world.books.context.books.booked_shares(day("2026-10-01"), day("2026-10-31")).await.unwrap();
        let mut of_days: BTreeMap<(&'static str, String), i128> = BTreeMap::new();
        for share in &stored {
            assert_eq!(share.state, ShareState::Apportioned, "{share:?}");
            let meter = if share.meter == "storage_gb" { "storage_gb" } else { "transfer_gb" };
            *of_days.entry((meter, share.day.to_string())).or_default() += share.billed.scaled();
        }
        assert_eq!(of_days, billed(&world), "all of the bucket's lines, and no other");
        // what customers have is what the fake was asked not to lose
        for (meter, kept) in [("storage_gb", 9215), ("transfer_gb", 9200)] {
            let of = |amounts: &Amounts| -> i128 {
                let own = amounts.iter().filter(|((name, _, customer), _)| *name == meter && !customer.is_empty());
                own.map(|(_, amount)| amount).sum()
            };
            let covered = of(&shares) * one[meter] * 10_000 / of(&theirs);
            assert!((kept - 200..=kept + 200).contains(&covered), "{meter} {covered}");
        }
    }
}

/// With early deletions the reports have more than the bill: all weigh less, to the bill's amount.
#[tokio::test]
async fn no_day_has_more_than_aws_billed() {
    let early = BucketShares { ended_early: 300, ..BucketShares::FAITHFUL };
    for remainder in [Remainder::House, Remainder::Spread] {
        let world = booked(early, remainder, (Layout::Cur2, FileKind::Csv)).await;
        let stored = world.books.context.books.booked_shares(day("2026-10-01"), day("2026-10-31")).await.unwrap();
        let over = stored.iter().filter(|share| share.coverage().is_some_and(|of| of > 10_000)).count();
        assert!(over > 20, "{over} days are over the bill");
        for share in &stored {
            assert!(share.apportioned <= share.billed, "{share:?}");
        }
        let (shares, (theirs, one)) = (shares(&world).await, theirs(&world));
        let sent = shares.iter().filter(|((meter, ..), _)| *meter == "transfer_gb");
        for ((meter, day, customer), share) in sent {
            // nothing of the logs is lost, so it is theirs but for the last decimal
            let own = theirs[&(*meter, day.clone(), customer.clone())];
            assert!((share * one[meter] - own).abs() < one[meter] + own / 1_000_000, "{customer} {day} {share}");
        }
    }
}

fn day(text: &str) -> books::units::calendar::Day {
    text.parse().unwrap()
}
