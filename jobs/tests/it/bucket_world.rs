//! A made-up bucket of all customers, its reports and its bill: what both jobs store of the reports
//! is what the world says of each customer, and what they predict is what AWS bills, but for what
//! the fake was asked to lose.
//!
//! The world is the judge: its truth and its bill come from objects and requests themselves
//! (`fakes/aws/bucket`), and DuckDB reads the same reports by AWS's rules as a second one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use books::shared_bucket::{Measure, ReportSource};
use books::units::calendar::Day;
use fake_aws::bucket::{
    BillState, BucketShares, BucketSpec, BucketStorage, BucketTraffic, BucketWorld, LogDelivery, LogFile, LogForm,
    LogView,
};
use fake_aws::inventories::{FORMS, Form, NewInventory};
use jiff::Timestamp;
use jobs::context::{ReportPlace, SharedBucket};
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use jobs::shared_bucket::customer::{CustomerRule, key_beginning};
use jobs::source::Folder;
use testkit::ingest_fixture::IngestFixture;
use testkit::needs::python;

pub(crate) const BUCKET: &str = "all-uploads";
pub(crate) const GB: u128 = 1 << 30;
const DAY_SECONDS: i64 = 86_400;
const LOG_FORMS: [LogForm; 2] = [LogForm::ByEventTime, LogForm::Simple];

/// Weights by day, measure, class and customer.
type Weights = BTreeMap<(String, &'static str, String, String), u128>;

/// Everything is odd.
const ODD: BucketShares = BucketShares {
    ended_early: 150,
    unfinished: 50,
    contradicting: 50,
    lost_objects: 50,
    lost_lines: 50,
    doubled_lines: 100,
    late_lines: 100,
    ..BucketShares::FAITHFUL
};

pub(crate) fn spec((year, month, days): (i16, u8, u8), shares: BucketShares) -> BucketSpec {
    BucketSpec {
        bucket: BUCKET.into(),
        account: "111122223333".into(),
        region: "us-east-1".into(),
        year,
        month,
        days,
        customers: ["ann", "bob", "z\u{f6}e & co", "2f9c"].map(Into::into).into(),
        uploads_per_day: 40,
        largest_bytes: 300 << 20,
        seed: 18,
        shares,
    }
}

/// Six days at the end of which a run still looks at all of them.
const SIX_DAYS: (i16, u8, u8) = (2026, 10, 6);
const AFTER_SIX_DAYS: &str = "2026-10-10T23:00:00Z";

/// How reports are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    inventories: Form,
    logs: LogForm,
}

pub(crate) const USUAL: Style = Style { inventories: Form::Parquet, logs: LogForm::ByEventTime };

/// A world, its reports that are to be delivered, and books.
pub(crate) struct Fixture {
    pub(crate) books: IngestFixture,
    pub(crate) world: BucketWorld,
    inventories: Vec<NewInventory>,
    logs: Vec<LogFile>,
}

impl Fixture {
    pub(crate) async fn new(spec: BucketSpec, style: Style) -> Self {
        let mut books = IngestFixture::new().await;
        for folder in ["inventory", "logs"] {
            std::fs::create_dir(books.bucket().join(folder)).unwrap();
        }
        let place = |name: &str| {
            let source = Arc::new(Folder::new(books.bucket().join(name)));
            Some(ReportPlace { source, prefix: String::new() })
        };
        let bucket = SharedBucket {
            name: BUCKET.into(),
            customers: CustomerRule::new(Some(key_beginning("c/{customer}/").unwrap()), Some("x-cc".into())),
            uses_uploads: false,
            expire_days: Some(1),
            inventory: place("inventory"),
            access_logs: place("logs"),
            quiet_hours: 6,
        };
        books.context.shared_buckets = Arc::new(BTreeMap::from([(BUCKET.to_owned(), bucket)]));
        let world = BucketWorld::new(spec).unwrap();
        let (mut inventories, logs) = (world.inventories(style.inventories), world.logs(style.logs));
        if style.inventories == Form::Csv {
            // then only the rule of a day tells the end
            inventories.iter_mut().for_each(|one| one.without.push("LifecycleExpirationDate"));
        }
        Self { books, world, inventories, logs }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.books.bucket().join(name)
    }

    fn write_inventory(&self, inventory: &NewInventory) {
        inventory.write(&self.place("inventory")).unwrap();
    }

    fn write_log(&self, file: &LogFile) {
        file.write(&self.place("logs")).unwrap();
    }

    /// Delivers all reports.
    fn deliver(&self) {
        self.inventories.iter().for_each(|inventory| self.write_inventory(inventory));
        self.logs.iter().for_each(|file| self.write_log(file));
    }

    /// Runs both jobs, and tells how many days they have read.
    async fn run(&self, now: Timestamp) -> usize {
        let context = &self.books.context;
        let inventory = IngestInventory { bucket: BUCKET.into() }.run(context, now).await.unwrap();
        let logs = IngestAccessLogs { bucket: BUCKET.into() }.run(context, now).await.unwrap();
        assert_eq!((inventory.bad_lines, logs.bad_lines), (0, 0));
        assert!(logs.not_read.is_empty(), "{:?}", logs.not_read);
        inventory.days_read.len() + logs.days_read.len()
    }

    /// The clock moves from noon to noon. S3 delivers what it has by then, and both jobs run.
    pub(crate) async fn day_by_day(&self) {
        let spec = self.world.spec();
        let first = jiff::civil::date(spec.year, i8::try_from(spec.month).unwrap(), 1).at(12, 0, 0, 0);
        let first = first.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp();
        let mut before = Timestamp::MIN;
        for day in 0..i64::from(spec.days) + 5 {
            let now = Timestamp::from_second(first.as_second() + day * DAY_SECONDS).unwrap();
            let is_new = |time: Timestamp| before < time && time <= now;
            self.inventories
                .iter()
                .filter(|one| is_new(one.began.parse().unwrap()))
                .for_each(|one| self.write_inventory(one));
            self.logs.iter().filter(|file| is_new(file.delivered)).for_each(|file| self.write_log(file));
            self.run(now).await;
            before = now;
        }
    }

    async fn weights(&self) -> Weights {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let stored =
            self.books.context.books.bucket_weights(BUCKET, day("2026-01-01"), day("2029-01-01")).await.unwrap();
        let mut found = Weights::new();
        for stored in stored {
            let of_storage = stored.day.source == ReportSource::Inventory;
            for weight in stored.day.weights {
                assert_eq!(weight.measure == Measure::ByteSeconds, of_storage);
                let key = (stored.day.day.to_string(), weight.measure.name(), weight.class, weight.customer);
                assert!(found.insert(key, weight.amount).is_none());
            }
        }
        found
    }

    /// What the world says that a reader of its reports finds.
    fn truth(&self, view: LogView) -> Weights {
        let mut found = Weights::new();
        for ((day, class, customer), storage) in self.world.storage() {
            found.insert((day.to_string(), "byte_seconds", class.into(), customer), storage.in_inventories());
        }
        for ((day, customer), BucketTraffic { bytes_sent, requests_1, requests_2 }) in self.world.traffic(view) {
            for (measure, amount) in
                [("bytes_sent", bytes_sent), ("requests_1", requests_1.into()), ("requests_2", requests_2.into())]
            {
                found.insert((day.to_string(), measure, String::new(), customer.clone()), amount);
            }
        }
        found.retain(|_, amount| *amount > 0);
        found
    }

    /// What is billed, scaled by 10¹⁰, by day and the measure and class that it is billed for.
    pub(crate) fn billed(&self) -> BTreeMap<(String, &'static str, &'static str), i64> {
        let spec = self.world.spec();
        let mut found = BTreeMap::new();
        for line in self.world.bill(BillState::Restated).unwrap().lines {
            let day = format!("{}-{:02}-{:02}", spec.year, spec.month, line.day + 1);
            let of = match line.usage_type() {
                "TimedStorage-ByteHrs" => ("byte_seconds", "STANDARD"),
                "TimedStorage-SIA-ByteHrs" => ("byte_seconds", "STANDARD_IA"),
                "DataTransfer-Out-Bytes" => ("bytes_sent", ""),
                "Requests-Tier1" => ("requests_1", ""),
                "Requests-Tier2" => ("requests_2", ""),
                other => panic!("{other} is billed"),
            };
            *found.entry((day, of.0, of.1)).or_default() += line.amount;
        }
        found
    }

    /// A weight of this measure as AWS bills it, scaled by 10¹⁰ and rounded.
    fn as_billed(&self, measure: &str, weight: u128) -> i64 {
        let spec = self.world.spec();
        let days = jiff::civil::date(spec.year, i8::try_from(spec.month).unwrap(), 1).days_in_month();
        let unit = match measure {
            "byte_seconds" => GB * 3600 * 24 * u128::try_from(days).unwrap(),
            "bytes_sent" => GB,
            _ => 1,
        };
        i64::try_from((weight * 20_000_000_000 + unit) / (2 * unit)).unwrap()
    }
}

/// The sum of all customers on a day.
fn sum_of(weights: &Weights, (day, measure, class): &(String, &str, &str)) -> u128 {
    let own = weights.iter().filter(|((of, what, kind, _), _)| (of, *what, kind.as_str()) == (day, *measure, *class));
    own.map(|(_, amount)| amount).sum()
}

fn assert_same(found: &Weights, expected: &Weights, why: &str) {
    for (key, amount) in expected {
        assert_eq!(found.get(key), Some(amount), "{why}: {key:?}");
    }
    assert_eq!(found.len(), expected.len(), "{why}: {:?}", found.keys().find(|key| !expected.contains_key(*key)));
}

#[tokio::test]
async fn a_faithful_month_is_weighed_and_predicted_to_the_last_byte() {
    let world = Fixture::new(spec((2026, 10, 31), BucketShares::FAITHFUL), USUAL).await;
    world.day_by_day().await;
    let found = world.weights().await;
    assert_same(&found, &world.truth(LogView::Everything), "nothing is lost");
    assert!(found.len() > 31 * 5 * 4, "{}", found.len());
    let billed = world.billed();
    assert_eq!(billed.len(), 31 * 5, "two classes, bytes and two tiers on each day");
    for (of, amount) in &billed {
        assert_eq!(world.as_billed(of.1, sum_of(&found, of)), *amount, "{of:?}");
    }
}

/// A share of a whole in parts of ten thousand.
fn share(part: u128, whole: u128) -> u128 {
    part * 10_000 / whole
}

#[tokio::test]
async fn what_is_predicted_covers_the_bill_but_for_what_the_fake_was_asked_to_lose() {
    let shares = BucketShares { unfinished: 30, lost_objects: 50, lost_lines: 80, ..BucketShares::FAITHFUL };
    let busy = BucketSpec { uploads_per_day: 120, ..spec((2027, 2, 28), shares) };
    let world = Fixture::new(busy, USUAL).await;
    world.day_by_day().await;
    let found = world.weights().await;
    assert_same(&found, &world.truth(LogView::AllDelivered), "lost objects and lines are in no report");
    let (mut predicted, mut whole) = (BTreeMap::new(), BTreeMap::new());
    for (of, amount) in &world.billed() {
        let sum = world.as_billed(of.1, sum_of(&found, of));
        assert!(sum <= *amount, "no more is predicted than is billed: {of:?}");
        *predicted.entry(of.1).or_default() += u128::try_from(sum).unwrap();
        *whole.entry(of.1).or_default() += u128::try_from(*amount).unwrap();
    }
    // of a thousand, 30 are unfinished, and 50 of the others are lost: 970 × 0.95 = 921.5
    let covered = share(predicted["byte_seconds"], whole["byte_seconds"]);
    assert!((9215 - 150..=9215 + 150).contains(&covered), "{covered}");
    for measure in ["bytes_sent", "requests_1", "requests_2"] {
        let covered = share(predicted[measure], whole[measure]);
        assert!((9200 - 150..=9200 + 150).contains(&covered), "{measure} {covered}");
    }
    // and what is missing is what the world says that it lost, to the byte-second
    for (of, amount) in world.billed().iter().filter(|(of, _)| of.1 == "byte_seconds") {
        let storage = world.world.storage().into_iter();
        let own = storage.filter(|((day, class, _), _)| (day.to_string().as_str(), *class) == (of.0.as_str(), of.2));
        let missing: u128 = own.map(|(_, sum)| sum.lost + sum.unfinished).sum();
        assert_eq!(world.as_billed(of.1, sum_of(&found, of) + missing), *amount, "{of:?}");
    }
}

/// Deleted and overwritten objects count up to their lifecycle's end, and what no night has listed
/// does not count: the world tells both.
#[tokio::test]
async fn early_ends_are_off_by_what_the_world_says() {
    for inventories in FORMS {
        let world = Fixture::new(spec((2028, 2, 29), ODD), Style { inventories, ..USUAL }).await;
        world.day_by_day().await;
        let found = world.weights().await;
        assert_same(&found, &world.truth(LogView::AllDelivered), &format!("{inventories:?}"));
        let mut of_month = BucketStorage::default();
        for ((day, class, _), sum) in world.world.storage() {
            of_month.billed += sum.billed;
            of_month.beyond_end += sum.beyond_end;
            of_month.unseen += sum.unseen;
            assert!(sum.billed >= sum.lost + sum.unseen + sum.unfinished, "{day} {class}");
        }
        // an early end is at half the life, in the mean: 150 of a thousand give some 75 too much,
        // or are seen by no night
        let off = share(of_month.beyond_end + of_month.unseen, of_month.billed);
        assert!((300..1500).contains(&off) && of_month.beyond_end > 0 && of_month.unseen > 0, "{of_month:?}");
    }
}

#[tokio::test]
async fn order_and_repetition_of_files_change_nothing() {
    let now: Timestamp = AFTER_SIX_DAYS.parse().unwrap();
    for (seed, (inventories, logs)) in (0..).zip(FORMS.into_iter().flat_map(|form| LOG_FORMS.map(|logs| (form, logs))))
    {
        let style = Style { inventories, logs };
        let (whole, piecemeal) =
            (Fixture::new(spec(SIX_DAYS, ODD), style).await, Fixture::new(spec(SIX_DAYS, ODD), style).await);
        whole.deliver();
        whole.run(now).await;
        let expected = whole.weights().await;
        assert_same(&expected, &whole.truth(LogView::AllDelivered), &format!("{style:?}"));
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut nights, mut files) = (piecemeal.inventories.clone(), piecemeal.logs.clone());
        random.shuffle(&mut nights);
        random.shuffle(&mut files);
        let (nights_at_once, files_at_once) = (nights.len().div_ceil(3), files.len().div_ceil(3));
        for (nights, files) in nights.chunks(nights_at_once).zip(files.chunks(files_at_once)) {
            nights.iter().for_each(|night| piecemeal.write_inventory(night));
            files.iter().for_each(|file| piecemeal.write_log(file));
            piecemeal.run(now).await;
            assert_eq!(piecemeal.run(now).await, 0, "a repeat reads nothing");
        }
        assert_same(&piecemeal.weights().await, &expected, &format!("{style:?}"));
        // all lines of a file once more, under another name
        let copy = LogFile { key: format!("{}0", files[0].key), ..files[0].clone() };
        piecemeal.write_log(&copy);
        assert!(piecemeal.run(now).await > 0, "the day is read again");
        assert_same(&piecemeal.weights().await, &expected, &format!("{style:?}, a file twice"));
    }
}

#[tokio::test]
async fn late_lines_give_what_a_first_complete_run_would_have_given() {
    let now: Timestamp = AFTER_SIX_DAYS.parse().unwrap();
    for logs in LOG_FORMS {
        let style = Style { logs, ..USUAL };
        let world = Fixture::new(spec(SIX_DAYS, ODD), style).await;
        let (early, late): (Vec<_>, Vec<_>) = world.logs.iter().partition(|file| file.delivery == LogDelivery::First);
        world.inventories.iter().for_each(|inventory| world.write_inventory(inventory));
        early.iter().for_each(|file| world.write_log(file));
        world.run(now).await;
        let (first, all) = (world.truth(LogView::FirstDelivery), world.truth(LogView::AllDelivered));
        assert_ne!(first, all);
        assert_same(&world.weights().await, &first, &format!("{logs:?}, without the late ones"));
        late.iter().for_each(|file| world.write_log(file));
        world.run(now).await;
        assert_same(&world.weights().await, &all, &format!("{logs:?}, with them"));
        // as they come, one day after the other
        let world = Fixture::new(spec(SIX_DAYS, ODD), style).await;
        world.day_by_day().await;
        assert_same(&world.weights().await, &all, &format!("{logs:?}, day by day"));
    }
}

/// Prints `day|measure|class|customer|amount`. The SQL follows AWS's pages: what an Inventory and a
/// log line say, when a lifecycle rule of a day ends an object, which requests are billed.
const ORACLE: &str = include_str!("bucket_world.py");

#[tokio::test]
async fn duckdb_finds_the_same_weights_in_the_reports() {
    let Some(python) = python() else { return };
    let now: Timestamp = AFTER_SIX_DAYS.parse().unwrap();
    for (inventories, logs) in [(Form::Csv, LogForm::ByEventTime), (Form::Parquet, LogForm::Simple)] {
        let world = Fixture::new(spec(SIX_DAYS, ODD), Style { inventories, logs }).await;
        world.deliver();
        world.run(now).await;
        let asked = Command::new(&python)
            .args(["-c", ORACLE, BUCKET])
            .args([world.place("inventory"), world.place("logs")])
            .env("TZ", "UTC")
            .output()
            .unwrap();
        assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
        let mut oracle: Vec<String> = String::from_utf8(asked.stdout).unwrap().lines().map(str::to_owned).collect();
        let found = world.weights().await.into_iter();
        let mut found: Vec<String> = found
            .map(|((day, measure, class, customer), amount)| format!("{day}|{measure}|{class}|{customer}|{amount}"))
            .collect();
        oracle.sort();
        found.sort();
        assert!(found.len() > 100, "{}", found.len());
        for (ours, theirs) in found.iter().zip(&oracle) {
            assert_eq!(ours, theirs, "{inventories:?} {logs:?}");
        }
        assert_eq!(found.len(), oracle.len(), "{inventories:?} {logs:?}");
    }
}
