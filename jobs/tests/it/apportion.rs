//! Usage of shared buckets: what the bill has without a customer becomes that of customers, by
//! S3's own reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use books::shared_bucket::shares::BucketRule;
use books::shared_bucket::stored::AcceptedDay;
use books::shared_bucket::{BucketDay, DayCounts, Measure, Remainder, ReportSource, Weight};
use books::store::audit_log::AuditEntry;
use books::units::calendar::Day;
use books::usage::bill::NoteKind;
use jobs::ingest_cur::{IngestOutcome, IngestReport};
use proptest::prelude::*;
use testkit::ingest_fixture::{IngestFixture, Line, TAG, chime, columns, deliver, month, parquet_bytes, rules};
use testkit::suite_database::cases;

use crate::enforce::BudgetFixture;

const BUCKET: &str = "my-uploads";
/// Seconds in a day; a gigabyte that lies there all day is a 31st of a GB-month in October.
pub(crate) const DAY: u128 = 86_400;
pub(crate) const GIGABYTE: u128 = 1 << 30;

/// A line of S3, and its resource.
#[derive(Clone, Debug)]
pub(crate) struct Billed {
    line: Line,
    resource: String,
}

fn s3(usage_type: &str, resource: &str, day: i8, amount: f64) -> Billed {
    let line = Line { product: "AmazonS3", usage_type: usage_type.into(), ..chime("", day, amount) };
    Billed { line, resource: resource.into() }
}

pub(crate) fn storage(day: i8, amount: f64) -> Billed {
    s3("EUC1-TimedStorage-ByteHrs", BUCKET, day, amount)
}

fn sent(day: i8, amount: f64) -> Billed {
    s3("EUC1-DataTransfer-Out-Bytes", BUCKET, day, amount)
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Parquet,
    Csv,
}

/// The version of a bill that was delivered on a day of November, whole.
fn version(number: u8) -> String {
    format!("2026-11-{number:02}T03:00:00.000Z-{number:08}-1111-4111-8111-111111111111")
}

fn csv(lines: &[Billed]) -> Vec<u8> {
    let mut text = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
                    line_item_usage_start_date,pricing_unit,line_item_resource_id,resourceTags/user:chitchatter-customer-id\n"
        .to_owned();
    for Billed { line, resource } in lines {
        let day = format!("2026-10-{:02}T00:00:00Z", line.day);
        let Line { product, usage_type, line_type, customer, amount, .. } = line;
        text += &format!("{product},{usage_type},{line_type},{amount},{day},u,{resource},{customer}\n");
    }
    text.into_bytes()
}

pub(crate) struct World {
    pub(crate) bill: BudgetFixture,
}

impl World {
    pub(crate) async fn new(remainder: Remainder) -> Self {
        let mut rules = rules(TAG);
        rules.shared_buckets = vec![BucketRule {
            bucket: BUCKET.into(),
            remainder,
            floor_percent: 50,
            ceiling_percent: 250,
            settle_hours: 24,
        }];
        let mut bill = IngestFixture::with(rules).await;
        bill.now = "2026-11-29T12:00:00Z".parse().unwrap();
        Self { bill: BudgetFixture::over(bill) }
    }

    pub(crate) fn deliver(&self, number: u8, form: Form, lines: &[Billed]) {
        let bytes = match form {
            Form::Csv => ("1.csv", csv(lines)),
            Form::Parquet => {
                let plain: Vec<Line> = lines.iter().map(|billed| billed.line.clone()).collect();
                let mut all = columns(&plain);
                let resources = lines.iter().map(|billed| billed.resource.clone()).collect::<Vec<_>>();
                let resources: ArrayRef = Arc::new(StringArray::from(resources));
                all.push(("line_item_resource_id", resources));
                ("1.parquet", parquet_bytes(all))
            }
        };
        deliver(&self.bill.bucket(), &version(number), &[bytes]);
    }

    async fn ingest(&self) -> IngestReport {
        let report = self.bill.ingest().await.unwrap();
        self.bill.sound().await;
        report
    }

    /// Books what is new, and then finds nothing new.
    pub(crate) async fn book(&self) -> IngestReport {
        let report = self.ingest().await;
        assert_eq!(report.outcome, IngestOutcome::Applied, "{report:?}");
        let ledger = self.bill.ledger().await;
        assert_eq!(self.ingest().await.outcome, IngestOutcome::Unchanged, "a repeat");
        assert_eq!(self.bill.ledger().await, ledger);
        report
    }

    /// Stores what the reports say of a day: customers with amounts.
    pub(crate) async fn report(&self, measure: Measure, day: i8, weights: &[(&str, u128)]) {
        let class = if measure == Measure::ByteSeconds { "STANDARD" } else { "" };
        let weights = weights.iter().map(|(customer, amount)| Weight {
            measure,
            class: class.into(),
            customer: (*customer).into(),
            amount: *amount,
        });
        let weights: Vec<Weight> = weights.collect();
        let day = BucketDay {
            bucket: BUCKET.into(),
            source: measure.source(),
            day: october(day),
            digest: digest(&weights),
            found: DayCounts::default(),
            weights,
        };
        self.bill.context.books.store_bucket_day(day, self.bill.now).await.unwrap();
    }

    /// What is booked, as `customer meter day quantity kinds`.
    async fn booked(&self) -> Vec<String> {
        let sql = "SELECT customer || ' ' || meter || ' ' || substr(day, 9) || ' ' || sum(quantity) || ' ' || group_concat(DISTINCT kind) \
                   FROM (SELECT * FROM booked_usage ORDER BY version_id, kind) WHERE meter <> 'chime_minutes' \
                   GROUP BY customer, meter, day HAVING sum(quantity) <> 0 ORDER BY day, meter, customer";
        self.bill.dump(sql).await
    }

    async fn states(&self) -> Vec<String> {
        let days = self.bill.context.books.booked_shares(october(1), october(31)).await.unwrap();
        let of = |day: &books::shared_bucket::stored::BookedShare| {
            format!("{} {} {} {:?}", day.day, day.meter, day.state.name(), day.coverage())
        };
        days.iter().map(of).collect()
    }
}

pub(crate) fn october(day: i8) -> Day {
    format!("2026-10-{day:02}").parse().unwrap()
}

/// Any digest that tells other weights apart.
fn digest(weights: &[Weight]) -> String {
    let mut sum = [1_u128, 7];
    for byte in format!("{weights:?}").bytes() {
        for (place, sum) in sum.iter_mut().enumerate() {
            *sum = sum.wrapping_mul(1_000_003 + 2 * u128::try_from(place).unwrap()).wrapping_add(u128::from(byte));
        }
    }
    format!("{:032x}{:032x}", sum[0], sum[1])
}

/// Guards against: untagged usage that stays without a customer though S3 says whose it is, shares
/// that do not make the bill, and usage that was tagged or of another bucket being divided.
#[tokio::test]
async fn a_billed_day_is_divided_by_the_reports_of_it() {
    for form in [Form::Parquet, Form::Csv] {
        let world = World::new(Remainder::House).await;
        let mut tagged = s3("EUC1-TimedStorage-ByteHrs", "alices-own", 1, 0.5);
        tagged.line.customer = "alice".into();
        let lines = [
            storage(1, 1.0),
            sent(1, 6.0),
            tagged,
            s3("EUC1-TimedStorage-ByteHrs", "logs-of-the-house", 1, 2.0),
            Billed { line: chime("alice", 1, 3.0), resource: "arn:aws:chime:us-east-1:1:meeting/1".into() },
            storage(30, 1.0),
        ];
        world.deliver(1, form, &lines);
        let report = world.book().await;
        let storage = report.meters.iter().find(|m| m.totals.meter == "storage_gb").unwrap();
        assert_eq!((storage.totals.unattributed.to_string(), storage.totals.apportioned.is_zero()), ("4".into(), true));
        let before = [" storage_gb 01 30000000000 usage", "alice storage_gb 01 5000000000 usage"];
        let open = [" transfer_gb 01 60000000000 usage", " storage_gb 30 10000000000 usage"];
        assert_eq!(world.booked().await, [before[0], before[1], open[0], open[1]], "{form:?}");

        // 12.4 gigabytes for a day are 0.4 GB-months in October; 0.1 of nobody
        let tenth = GIGABYTE * DAY * 31 / 10;
        world.report(Measure::ByteSeconds, 1, &[("", tenth), ("alice", 2 * tenth), ("bob", 4 * tenth)]).await;
        let report = world.book().await;
        assert_eq!(report.entries, 3);
        let storage = report.meters.iter().find(|m| m.totals.meter == "storage_gb").unwrap();
        assert_eq!(
            (storage.totals.attributed.to_string(), storage.totals.apportioned.to_string()),
            ("0.5".into(), "0.6".into())
        );
        let divided = [
            " storage_gb 01 24000000000 usage,adjustment",
            "alice storage_gb 01 7000000000 usage,apportioned",
            "bob storage_gb 01 4000000000 apportioned",
            open[0],
            open[1],
        ];
        assert_eq!(world.booked().await, divided, "{form:?}");

        // the reports have more than the bill, so all weigh less
        world.report(Measure::BytesSent, 1, &[("alice", 4 * GIGABYTE), ("bob", 8 * GIGABYTE)]).await;
        world.book().await;
        assert_eq!(
            world.booked().await[3..5],
            [
                "alice transfer_gb 01 20000000000 apportioned".to_owned(),
                "bob transfer_gb 01 40000000000 apportioned".to_owned()
            ]
        );
        assert_eq!(
            world.states().await,
            [
                "2026-10-01 storage_gb apportioned Some(7000)",
                "2026-10-01 transfer_gb apportioned Some(20000)",
                "2026-10-30 storage_gb no_report None",
            ]
        );

        // AWS restates the day, and the reports stay
        let mut restated = lines.to_vec();
        restated[0] = Billed { line: Line { amount: 0.35, ..restated[0].line.clone() }, ..restated[0].clone() };
        world.deliver(2, form, &restated);
        world.book().await;
        assert_eq!(
            world.booked().await[..3],
            [
                " storage_gb 01 20500000000 usage,adjustment".to_owned(),
                "alice storage_gb 01 6000000000 usage,apportioned".to_owned(),
                "bob storage_gb 01 2000000000 apportioned".to_owned(),
            ],
            "{form:?}"
        );
    }
}

#[tokio::test]
async fn spread_gives_customers_what_no_report_accounts_for() {
    let world = World::new(Remainder::Spread).await;
    world.deliver(1, Form::Parquet, &[storage(1, 1.0)]);
    let tenth = GIGABYTE * DAY * 31 / 10;
    world.report(Measure::ByteSeconds, 1, &[("", tenth), ("alice", 2 * tenth), ("bob", 4 * tenth)]).await;
    world.book().await;
    // a seventh has more than ten decimals; the largest remainder goes first
    assert_eq!(
        world.booked().await,
        [
            " storage_gb 01 1428571429 usage",
            "alice storage_gb 01 2857142857 apportioned",
            "bob storage_gb 01 5714285714 apportioned",
        ]
    );
}

/// Guards against: a day whose reports were lost being booked to the few customers that are left in
/// them, and one bad day keeping the rest of the bill out of the books.
#[tokio::test]
async fn a_day_with_too_little_in_its_reports_is_held_for_a_person() {
    let world = World::new(Remainder::Spread).await;
    world.deliver(1, Form::Parquet, &[storage(1, 1.0), storage(2, 1.0)]);
    let tenth = GIGABYTE * DAY * 31 / 10;
    world.report(Measure::ByteSeconds, 1, &[("alice", 4 * tenth)]).await;
    world.report(Measure::ByteSeconds, 2, &[("alice", 5 * tenth)]).await;
    world.book().await;
    let day = |state: &str| format!("2026-10-01 storage_gb {state} Some(4000)");
    assert_eq!(world.states().await[0], day("held"));
    let held = [" storage_gb 01 10000000000 usage", "alice storage_gb 02 10000000000 apportioned"];
    assert_eq!(world.booked().await, held);
    let entry = AuditEntry {
        actor: "ann".into(),
        action: "shared --accept".into(),
        target: "my-uploads 2026-10-01".into(),
        reason: "few files".into(),
    };
    let books = &world.bill.context.books;
    let accept =
        async |entry: AuditEntry| books.accept_bucket_day(BUCKET, october(1), entry, world.bill.now).await.unwrap();
    assert_eq!(accept(entry.clone()).await, AcceptedDay::Accepted);
    assert_eq!(accept(entry.clone()).await, AcceptedDay::Again);
    world.book().await;
    assert_eq!(world.states().await[0], day("apportioned"));
    assert_eq!(world.booked().await[0], "alice storage_gb 01 10000000000 apportioned");
    // so much more than the bill is as odd, but for crumbs
    world.report(Measure::ByteSeconds, 2, &[("alice", 26 * tenth)]).await;
    world.book().await;
    assert_eq!(world.states().await[1], "2026-10-02 storage_gb held Some(26000)");
    world.report(Measure::ByteSeconds, 2, &[("alice", 25 * tenth)]).await;
    world.book().await;
    assert_eq!(world.states().await[1], "2026-10-02 storage_gb apportioned Some(25000)");
    // other reports are not what was accepted
    world.report(Measure::ByteSeconds, 1, &[("alice", 3 * tenth)]).await;
    world.book().await;
    assert_eq!(world.states().await[0], "2026-10-01 storage_gb held Some(3000)");
    assert_eq!(world.booked().await[0], " storage_gb 01 10000000000 usage,adjustment");
}

/// Guards against: a day that becomes held puts the whole bill on hold, because customers lose what
/// they had of it, and then nobody can accept the day.
#[tokio::test]
async fn a_day_that_becomes_held_does_not_hold_the_bill() {
    let world = World::new(Remainder::House).await;
    let month = GIGABYTE * DAY * 31;
    for day in [1, 2] {
        world.report(Measure::ByteSeconds, day, &[("alice", 10 * month)]).await;
    }
    world.deliver(1, Form::Parquet, &[storage(1, 10.0), storage(2, 10.0)]);
    world.book().await;
    world.deliver(2, Form::Parquet, &[storage(1, 25.0), storage(2, 10.0)]);
    world.book().await;
    let held = [" storage_gb 01 250000000000 usage", "alice storage_gb 02 100000000000 apportioned"];
    let booked = world.booked().await;
    assert_eq!((booked.len(), booked[1].as_str()), (2, held[1]), "{booked:?}");
    assert!(booked[0].starts_with(" storage_gb 01 250000000000"), "{booked:?}");
    // what customers lose on days that are not held still holds it
    world.report(Measure::ByteSeconds, 2, &[("bob", 10 * month)]).await;
    assert_eq!(world.bill.ingest().await.unwrap().outcome, IngestOutcome::OnHold);
}

/// Guards against: others paying for a line whose tag cannot be read.
#[tokio::test]
async fn a_line_with_an_unusable_tag_stays_without_a_customer() {
    for form in [Form::Parquet, Form::Csv] {
        let mut world = World::new(Remainder::Spread).await;
        world.bill.context.read_settings.hold.accept_faulty_lines = true;
        let mut faulty = storage(1, 0.5);
        faulty.line.customer = " dave ".into();
        world.deliver(1, form, &[storage(1, 1.0), faulty]);
        world.report(Measure::ByteSeconds, 1, &[("alice", GIGABYTE * DAY * 31)]).await;
        world.book().await;
        let booked = [" storage_gb 01 5000000000 usage", "alice storage_gb 01 10000000000 apportioned"];
        assert_eq!(world.booked().await, booked, "{form:?}");
    }
}

#[tokio::test]
async fn reports_that_nobody_has_judged_are_not_accepted() {
    let world = World::new(Remainder::House).await;
    let tenth = GIGABYTE * DAY * 31 / 10;
    world.deliver(1, Form::Parquet, &[storage(1, 1.0)]);
    world.report(Measure::ByteSeconds, 1, &[("alice", 4 * tenth)]).await;
    let entry = || AuditEntry { actor: "a".into(), action: "b".into(), target: "c".into(), reason: "d".into() };
    let accept = async || {
        let books = &world.bill.context.books;
        books.accept_bucket_day(BUCKET, october(1), entry(), world.bill.now).await.unwrap()
    };
    assert_eq!(accept().await, AcceptedDay::NotHeld, "nothing is booked yet");
    world.book().await;
    world.report(Measure::ByteSeconds, 1, &[("alice", tenth)]).await;
    assert_eq!(accept().await, AcceptedDay::OtherReports);
    world.book().await;
    assert_eq!(accept().await, AcceptedDay::Accepted);
}

#[tokio::test]
async fn a_day_that_the_bill_does_not_settle_waits() {
    let world = World::new(Remainder::House).await;
    world.report(Measure::ByteSeconds, 31, &[("alice", GIGABYTE * DAY)]).await;
    // 3 h after the end of the day
    world.deliver(1, Form::Parquet, &[storage(31, 1.0)]);
    world.book().await;
    assert_eq!(world.states().await, ["2026-10-31 storage_gb open Some(322)"]);
    assert_eq!(world.booked().await, [" storage_gb 31 10000000000 usage"]);
}

/// Guards against: usage of a prefix being added to that of its bucket, and usage without a bucket
/// vanishing without a word.
#[tokio::test]
async fn a_part_of_a_bucket_is_shown_and_not_added() {
    for form in [Form::Parquet, Form::Csv] {
        let world = World::new(Remainder::House).await;
        let lines = [
            storage(1, 1.0),
            s3("EUC1-TimedStorage-ByteHrs", "my-uploads/c/acme/", 1, 0.25),
            s3("EUC1-DataTransfer-Out-Bytes", "", 1, 0.5),
        ];
        world.deliver(1, form, &lines);
        let report = world.book().await;
        let notes: Vec<_> = report.notes.iter().filter(|note| note.kind == NoteKind::SharedBucket).collect();
        assert_eq!(
            notes[0].text,
            "1 usage line of S3 is about a part of a bucket (a prefix, an access point) and not counted, because the \
             bucket's own line has that usage; `meter discover` shows them; 1 usage line of S3 has no resource, so \
             nothing tells whether a shared bucket is meant; let the export include resource IDs"
        );
        let storage = report.meters.iter().find(|m| m.totals.meter == "storage_gb").unwrap();
        assert_eq!(
            (storage.totals.excluded.to_string(), storage.totals.total.to_string()),
            ("0.25".into(), "1.25".into())
        );
        let booked = [" storage_gb 01 10000000000 usage", " transfer_gb 01 5000000000 usage"];
        assert_eq!(world.booked().await, booked, "{form:?}");
    }
}

/// Bills of an export without resources are booked as before, with a word on it.
#[tokio::test]
async fn a_bill_without_resources_is_the_house_s() {
    let world = World::new(Remainder::House).await;
    world.report(Measure::ByteSeconds, 1, &[("alice", GIGABYTE * DAY)]).await;
    let lines = [storage(1, 1.0).line];
    deliver(&world.bill.bucket(), &version(1), &[("1.parquet", parquet_bytes(columns(&lines)))]);
    let report = world.book().await;
    assert!(report.notes.iter().any(|note| note.text.contains("let the export include resource IDs")), "{report:?}");
    assert_eq!(world.booked().await, [" storage_gb 01 10000000000 usage"]);
}

/// A report of one day: its day, whether it is about storage, and weights by customer.
type Report = (i8, bool, Vec<u64>);

fn reports() -> impl Strategy<Value = Vec<Report>> {
    prop::collection::vec((1..4_i8, any::<bool>(), prop::collection::vec(0..3_000_000_000_000_000_u64, 0..4)), 0..6)
}

/// What a customer owes from the reports, without a look at the code: fractions of whole numbers.
fn owed(lines: &[Billed], reports: &[Report], remainder: Remainder) -> BTreeMap<(String, String, i8), i128> {
    let mut found = BTreeMap::new();
    for (meter, storage) in [("storage_gb", true), ("transfer_gb", false)] {
        for day in 1..4_i8 {
            let of_day = lines.iter().filter(|b| b.line.day == day && b.line.usage_type.contains("Storage") == storage);
            let billed: i128 = of_day.map(|b| i128::from(ten_thousandths(b.line.amount)) * 1_000_000).sum();
            let report = reports.iter().rev().find(|(of, kind, _)| (*of, *kind) == (day, storage));
            let weights = report.map(|(.., weights)| weights.clone()).unwrap_or_default();
            let sum: i128 = weights.iter().map(|w| i128::from(*w)).sum();
            let one = i128::try_from(if storage { GIGABYTE * DAY * 31 } else { GIGABYTE }).unwrap();
            let predicted = sum * 10_000_000_000 / one;
            let is_held = predicted * 2 < billed || predicted * 100 > billed * 250 && billed >= 100_000_000;
            let is_divided = report.is_some() && billed > 0 && sum > 0 && !is_held;
            let mut rest = billed;
            let mut shares = vec![0_i128; weights.len()];
            if is_divided && remainder == Remainder::House && sum * 10_000_000_000 <= billed * one {
                shares = weights.iter().map(|w| i128::from(*w) * 10_000_000_000 / one).collect();
            } else if is_divided && remainder == Remainder::House {
                shares = weights.iter().map(|w| billed * i128::from(*w) / sum).collect();
            } else if is_divided {
                shares = weights.iter().map(|w| billed * i128::from(*w) / sum).collect();
                let mut order: Vec<usize> = (0..weights.len()).collect();
                order.sort_by_key(|i| (-(billed * i128::from(weights[*i]) % sum), *i));
                let left = billed - shares.iter().sum::<i128>();
                for i in order.into_iter().take(usize::try_from(left).unwrap()) {
                    shares[i] += 1;
                }
            }
            for (i, share) in shares.into_iter().enumerate().skip(1) {
                rest -= share;
                found.insert((format!("c{i}"), meter.to_owned(), day), share);
            }
            found.insert((String::new(), meter.to_owned(), day), rest);
        }
    }
    found.retain(|_, share| *share != 0);
    found
}

fn ten_thousandths(amount: f64) -> i64 {
    let text = format!("{amount:.4}");
    text.replace('.', "").parse().unwrap()
}

/// Stores reports, as they come one after another.
async fn store(world: &World, reports: &[Report]) {
    for (day, is_storage, weights) in reports {
        let measure = if *is_storage { Measure::ByteSeconds } else { Measure::BytesSent };
        let names: Vec<String> =
            (0..weights.len()).map(|i| if i == 0 { String::new() } else { format!("c{i}") }).collect();
        let weights: Vec<(&str, u128)> =
            names.iter().zip(weights).map(|(name, weight)| (name.as_str(), u128::from(*weight))).collect();
        world.report(measure, *day, &weights).await;
    }
}

async fn ledger(world: &World) -> BTreeMap<(String, String, i8), i128> {
    let mut found = BTreeMap::new();
    for row in world.booked().await {
        let parts: Vec<&str> = row.split(' ').collect();
        found.insert((parts[0].into(), parts[1].into(), parts[2].parse().unwrap()), parts[3].parse().unwrap());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(48)))]

    /// Whatever comes first, the bill or the reports, and however often they are restated: the
    /// ledger is what the newest of both give, and the bill to the last decimal.
    #[test]
    fn the_books_follow_the_newest_bill_and_reports(
        first in prop::collection::vec((1..4_i8, any::<bool>(), 1..30_000_i64), 1..8),
        second in prop::collection::vec((1..4_i8, any::<bool>(), 1..30_000_i64), 1..8),
        early in reports(),
        late in reports(),
        spread in any::<bool>(),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let remainder = if spread { Remainder::Spread } else { Remainder::House };
            let lines = |of: &[(i8, bool, i64)]| -> Vec<Billed> {
                let amount = |n: i64| format!("{}.{:04}", n / 10_000, n % 10_000).parse::<f64>().unwrap();
                of.iter().map(|(day, kind, n)| if *kind { storage(*day, amount(*n)) } else { sent(*day, amount(*n)) }).collect()
            };
            let mut world = World::new(remainder).await;
            world.bill.context.read_settings.hold.accept_restatements = true;
            world.bill.context.read_settings.hold.past_growth_percent = u32::MAX;
            world.bill.context.read_settings.hold.month_fall_percent = u32::MAX;
            let (first, second) = (lines(&first), lines(&second));
            store(&world, &early).await;
            world.deliver(1, Form::Parquet, &first);
            world.book().await;
            prop_assert_eq!(ledger(&world).await, owed(&first, &early, remainder));
            world.deliver(2, Form::Csv, &second);
            world.book().await;
            prop_assert_eq!(ledger(&world).await, owed(&second, &early, remainder));
            store(&world, &late).await;
            world.ingest().await;
            let all: Vec<Report> = early.iter().chain(&late).cloned().collect();
            prop_assert_eq!(ledger(&world).await, owed(&second, &all, remainder));
            // a first complete run gives the same
            let fresh = World::new(remainder).await;
            store(&fresh, &all).await;
            fresh.deliver(2, Form::Parquet, &second);
            fresh.ingest().await;
            prop_assert_eq!(ledger(&fresh).await, owed(&second, &all, remainder));
            Ok(())
        })?;
    }
}

/// Guards against: shares of reports that changed while the bill was read.
#[tokio::test]
async fn reports_that_change_meanwhile_are_not_booked() {
    let world = World::new(Remainder::House).await;
    world.deliver(1, Form::Parquet, &[storage(1, 1.0)]);
    world.report(Measure::ByteSeconds, 1, &[("alice", GIGABYTE * DAY * 31)]).await;
    let books = &world.bill.context.books;
    let buckets = [BUCKET.to_owned()];
    let before = books.reports_digest(&buckets, month()).await.unwrap();
    assert_eq!(books.reports(&buckets, month()).await.unwrap().digest, before);
    world.report(Measure::ByteSeconds, 1, &[("bob", GIGABYTE * DAY * 31)]).await;
    assert_ne!(books.reports_digest(&buckets, month()).await.unwrap(), before);
    let of = books.reports(&buckets, month()).await.unwrap();
    let day = of.of(BUCKET, ReportSource::Inventory, october(1)).unwrap();
    assert_eq!(day.weights.values().next().unwrap(), &[("bob".to_owned(), GIGABYTE * DAY * 31)]);
    world.book().await;
    assert_eq!(world.booked().await, ["bob storage_gb 01 10000000000 apportioned"]);
}
