//! The lines of a bill that make up a customer's usage: what is listed is what is booked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use books::shared_bucket::Remainder;
use books::shared_bucket::shares::BucketRule;
use books::store::erased::ErasedIds;
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use books::usage::entries::{BookedEntries, BookedVersion, EntriesFilter};
use books::usage::meter::Rules;
use jobs::context::Export;
use jobs::ingest_cur::lines::{FoundLines, WantedLines, lines};
use jobs::ingest_cur::{IngestCur, IngestOutcome};
use jobs::job::Job;
use jobs::source::Folder;
use parquet::arrow::ArrowWriter;
use testkit::ingest_fixture::{self, IngestFixture, Line, TAG, chime, columns, deliver, deliver_lines, meter, rules};

const V1: &str = "2026-10-20T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-10-21T03:00:00.000Z-22222222-2222-4222-8222-222222222222";

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

fn meters(world: &IngestFixture) -> Vec<String> {
    world.context.read_settings.rules.meters.iter().map(|meter| meter.name.clone()).collect()
}

fn wanted(world: &IngestFixture, customer: &str) -> WantedLines {
    let (first, last) = (day("1970-01-01"), day("2099-12-31"));
    let customer = customer.to_owned();
    WantedLines { customer, erased: ErasedIds::default(), meters: meters(world), first, last, most: 1_000_000 }
}

async fn booked(world: &IngestFixture, customer: &str) -> BookedEntries {
    let WantedLines { customer, meters, first, last, .. } = wanted(world, customer);
    world.context.books.booked_entries(EntriesFilter { customer, meters, first, last }).await.unwrap()
}

/// The newest version of the one bill that the customer has usage in.
async fn newest(world: &IngestFixture, customer: &str) -> BookedVersion {
    booked(world, customer).await.versions.into_iter().find(|version| version.is_current).unwrap()
}

async fn read(world: &IngestFixture, customer: &str) -> FoundLines {
    lines(&world.context, &newest(world, customer).await, wanted(world, customer)).await.unwrap()
}

async fn refused(world: &IngestFixture, customer: &str) -> String {
    let version = newest(world, customer).await;
    format!("{:#}", lines(&world.context, &version, wanted(world, customer)).await.unwrap_err().error())
}

/// Reads the lines of every customer again, and adds them up for each bill, meter and day: they
/// must make what is booked, to the last decimal. Returns the number of booked cells and of lines.
pub(crate) async fn every_cell_is_the_sum_of_its_lines(world: &IngestFixture) -> (usize, usize) {
    let rules = &world.context.read_settings.rules;
    let factor = |name: &str| rules.meters.iter().find(|meter| meter.name == name).unwrap().factor;
    let erased = world.context.books.erased_ids().await.unwrap();
    let (mut cells, mut listed) = (0, 0);
    for customer in world.dump("SELECT DISTINCT customer FROM booked_usage WHERE customer <> ''").await {
        let BookedEntries { entries, versions } = booked(world, &customer).await;
        for version in versions.iter().filter(|version| version.is_current) {
            let wanted = WantedLines { erased: erased.clone(), ..wanted(world, &customer) };
            let found = lines(&world.context, version, wanted).await.unwrap();
            let mut sums: BTreeMap<(String, Day), Quantity> = BTreeMap::new();
            for line in &found.lines {
                *sums.entry((line.meter.clone(), line.day)).or_default() += line.amount;
            }
            let of_lines = sums.into_iter().map(|((meter, day), amount)| {
                let quantity = amount.times(factor(&meter)).unwrap().0;
                ((meter, day), quantity)
            });
            let of_lines: BTreeMap<_, _> = of_lines.filter(|(_, quantity)| !quantity.is_zero()).collect();
            let mut of_books: BTreeMap<(String, Day), Quantity> = BTreeMap::new();
            for entry in entries.iter().filter(|e| (&e.payer, e.month) == (&version.bill.payer, version.bill.month)) {
                *of_books.entry((entry.meter.clone(), entry.day)).or_default() += entry.quantity;
            }
            of_books.retain(|_, quantity| !quantity.is_zero());
            assert_eq!(of_lines, of_books, "{customer}, {version:?}");
            let said = found.days.iter().map(|of| ((of.meter.clone(), of.day), of.quantity));
            assert_eq!(said.filter(|(_, quantity)| !quantity.is_zero()).collect::<BTreeMap<_, _>>(), of_books);
            assert_eq!((found.not_listed, &found.notes), (0, &vec![]), "{customer}");
            assert_eq!(found.days.iter().map(|of| of.lines).sum::<u64>(), u64::try_from(found.lines.len()).unwrap());
            cells += of_books.len();
            listed += found.lines.len();
        }
    }
    (cells, listed)
}

/// Columns with a resource for each line.
fn with_resources(lines: &[Line]) -> Vec<(&'static str, ArrayRef)> {
    let resources: Vec<String> = (0..lines.len()).map(|n| format!("arn:aws:chime::1:meeting/{n}")).collect();
    let mut columns = columns(lines);
    columns.push(("line_item_resource_id", Arc::new(StringArray::from(resources))));
    columns
}

/// A Parquet file with row groups of `rows` lines.
fn in_groups(lines: &[Line], rows: usize) -> Vec<u8> {
    let batch = arrow::array::RecordBatch::try_from_iter(with_resources(lines)).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(rows));
    let mut bytes = vec![];
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn csv(lines: &[Line]) -> Vec<u8> {
    let mut text = "lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,lineItem/UsageAmount,\
                    lineItem/UsageStartDate,lineItem/ResourceId,pricing/unit,resourceTags/user:chitchatter-customer-id\n"
        .to_owned();
    for (n, line) in lines.iter().enumerate() {
        let Line { product, usage_type, line_type, customer, amount, day } = line;
        let customer = customer.replace('"', "\"\"");
        text += &format!(
            "{product},{usage_type},{line_type},{amount},2026-10-{day:02}T{:02}:00:00Z,meeting-{n},minutes,\"{customer}\"\n",
            n % 24
        );
    }
    text.into_bytes()
}

/// Lines that count, and lines of every kind that do not.
fn mixed() -> Vec<Line> {
    let line_type = |name: &str, line: Line| Line { line_type: name.into(), ..line };
    vec![
        chime("acme", 1, 0.1),
        chime("acme", 1, 0.2),
        chime("acme", 1, -0.05),
        line_type("Credit", chime("acme", 1, -7.0)),
        line_type("Tax", chime("acme", 1, 9.0)),
        Line { usage_type: "USE1-Meetings-SomethingElse".into(), ..chime("acme", 1, 70.0) },
        Line { product: "AmazonEC2", ..chime("acme", 1, 80.0) },
        chime("", 1, 90.0),
        chime("acme2", 1, 11.0),
        chime("acme", 19, 5.793_75e-5),
        chime("é 'quoted' \"x\" , \\", 2, 3.25),
        Line { product: "AmazonS3", usage_type: "TimedStorage-ByteHrs".into(), ..chime("acme", 2, 0.000_000_000_1) },
        // what was used and taken back leaves no entry, and its lines are listed
        chime("acme", 9, 4.0),
        chime("acme", 9, -4.0),
    ]
}

#[tokio::test]
async fn listed_lines_make_what_is_booked_in_every_form_of_file() {
    let lines = mixed();
    let (first, second) = lines.split_at(6);
    for form in ["parquet", "csv", "two files"] {
        let mut world = IngestFixture::new().await;
        let mut settings = world.context.read_settings.clone();
        // a negative amount is a fault, which a person accepts
        settings.hold.accept_faulty_lines = true;
        world.context.read_settings = settings;
        let files = match form {
            "parquet" => vec![("e-1.parquet", in_groups(&lines, 4))],
            "csv" => vec![("e-1.csv", csv(&lines))],
            _ => vec![("e-1.parquet", in_groups(first, 100)), ("e-2.csv", csv(second))],
        };
        deliver(&world.bucket(), V1, &files);
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied, "{form}");
        assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (5, 9), "{form}");
        let found = read(&world, "acme").await;
        let of_first: Vec<String> =
            found.lines.iter().filter(|line| line.day == day("2026-10-01")).map(|l| l.amount.to_string()).collect();
        assert_eq!(of_first, ["0.1", "0.2", "-0.05"], "{form}: no credit, tax, other usage or other customer");
        let (one, end) = (&found.lines[0], if form == "csv" { "meeting-0" } else { "meeting/0" });
        assert!(one.resource.ends_with(end), "{form}: {one:?}");
        assert!(one.file.ends_with(files[0].0) && one.unit == "minutes", "{one:?}");
        let place = if form == "csv" { (None, 2) } else { (Some(0), 0) };
        assert_eq!(
            (one.row_group, one.row, one.usage_type.as_str()),
            (place.0, place.1, "USE1-Meetings-AttendeeMinutes")
        );
        assert_eq!(one.start.to_string(), "2026-10-01T00:00:00Z");
        assert_eq!(found.files, files.len());
    }
}

/// Where buckets are shared, lines of S3 are counted only when their resource is known: usage of a
/// part of a bucket is not counted, and a customer's tag goes before the bucket.
#[tokio::test]
async fn lines_that_wait_for_their_resource_are_listed_when_they_count() {
    let rule = BucketRule {
        bucket: "my-uploads".into(),
        remainder: Remainder::House,
        floor_percent: 50,
        ceiling_percent: 200,
        settle_hours: 24,
    };
    for form in ["parquet", "csv"] {
        let world = IngestFixture::with(Rules { shared_buckets: vec![rule.clone()], ..rules(TAG) }).await;
        let stored = |customer: &str, amount: f64| Line {
            product: "AmazonS3",
            usage_type: "TimedStorage-ByteHrs".into(),
            ..chime(customer, 1, amount)
        };
        let lines =
            [stored("acme", 1.5), stored("acme", 20.0), stored("", 300.0), stored("acme", 0.25), chime("acme", 1, 7.0)];
        let resources = ["my-uploads", "arn:aws:s3:::my-uploads/c/", "my-uploads", "own-bucket", "meeting"];
        let bytes = match form {
            "parquet" => {
                let mut columns = columns(&lines);
                columns.push(("line_item_resource_id", Arc::new(StringArray::from(resources.to_vec()))));
                ingest_fixture::parquet_bytes(columns)
            }
            _ => {
                let text = String::from_utf8(csv(&lines)).unwrap();
                let named = |(text, (n, resource)): (String, (usize, &&str))| {
                    text.replace(&format!("meeting-{n},"), &format!("{resource},"))
                };
                resources.iter().enumerate().fold(text, |text, of| named((text, of))).into_bytes()
            }
        };
        deliver(&world.bucket(), V1, &[(if form == "csv" { "e-1.csv" } else { "e-1.parquet" }, bytes)]);
        assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied, "{form}");
        assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (2, 3), "{form}");
        let found = read(&world, "acme").await;
        let listed: Vec<_> = found.lines.iter().map(|line| (line.resource.as_str(), line.amount.to_string())).collect();
        let want = [("my-uploads", "1.5"), ("own-bucket", "0.25"), ("meeting", "7")];
        assert_eq!(listed, want.map(|(resource, amount)| (resource, amount.to_owned())), "{form}");
    }
}

/// Guards against: reading a bill of gigabytes for the lines of a customer, where the file says in
/// which row groups they can be.
#[tokio::test]
async fn row_groups_that_cannot_have_the_customer_are_not_read() {
    let world = IngestFixture::new().await;
    let lines: Vec<Line> = (0..40_u8)
        .map(|n| chime(&format!("customer-{:02}", n / 4), 1 + i8::try_from(n % 20).unwrap(), 1.0 + f64::from(n)))
        .collect();
    deliver(&world.bucket(), V1, &[("e-1.parquet", in_groups(&lines, 4)), ("e-2.parquet", in_groups(&lines[..4], 4))]);
    world.ingest().await.unwrap();
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (40, 44));
    for (customer, read_groups) in [("customer-03", 1), ("customer-00", 2)] {
        let found = read(&world, customer).await;
        assert_eq!((found.row_groups_read, found.row_groups), (read_groups, 11), "{customer}");
    }
    // by the day
    let few = WantedLines { last: day("2026-10-02"), ..wanted(&world, "customer-00") };
    let version = newest(&world, "customer-00").await;
    let found = jobs::ingest_cur::lines::lines(&world.context, &version, few).await.unwrap();
    assert_eq!((found.row_groups_read, found.lines.len()), (2, 4));
    let none = WantedLines { first: day("2026-10-21"), ..wanted(&world, "customer-00") };
    let found = jobs::ingest_cur::lines::lines(&world.context, &version, none).await.unwrap();
    assert_eq!((found.row_groups_read, found.row_groups, found.lines.len()), (0, 11, 0));
    // of more lines than are wanted the first ones are listed, and the sums have all
    let two = WantedLines { most: 3, ..wanted(&world, "customer-00") };
    let found = jobs::ingest_cur::lines::lines(&world.context, &version, two).await.unwrap();
    let rows: Vec<_> = found.lines.iter().map(|l| (l.file.ends_with("e-1.parquet"), l.row)).collect();
    assert_eq!((rows, found.not_listed), (vec![(true, 0), (true, 1), (true, 2)], 5));
    let sum: Quantity = found.days.iter().map(|of| of.amount).sum();
    assert_eq!(sum.to_string(), "20");
}

#[tokio::test]
async fn a_factor_is_applied_to_the_exact_sum_of_the_lines() {
    let own = Rules {
        meters: vec![meter("minutes", "AmazonChime", "Meetings-AttendeeMinutes", "0.0166666667")],
        ..rules(TAG)
    };
    let world = IngestFixture::with(own).await;
    let lines: Vec<Line> = (1..=9_u8).map(|n| chime("acme", 1, f64::from(n) / 1000.0)).collect();
    deliver_lines(&world.bucket(), V1, &lines);
    world.ingest().await.unwrap();
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (1, 9));
    let found = read(&world, "acme").await;
    assert_eq!(found.lines[0].quantity, "0.0000166666667", "with all its decimals");
    // 0.045 × 0.0166666667 = 0.0007500000015
    assert_eq!(
        (found.days[0].amount.to_string(), found.days[0].quantity.to_string()),
        ("0.045".into(), "0.00075".into())
    );
}

/// Guards against: lines of another delivery being shown as those of what is booked.
#[tokio::test]
async fn what_cannot_be_read_any_more_is_said() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("acme", 1, 1.0)]);
    world.ingest().await.unwrap();
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (1, 1));
    let data = world.bucket().join("e/data/BILLING_PERIOD=2026-10");
    let file = data.join(V1).join("e-00001.snappy.parquet");

    // AWS has delivered again, and nothing was booked yet: the booked version is still there
    deliver_lines(&world.bucket(), V2, &[chime("acme", 1, 2.0)]);
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (1, 1));
    // a copy has another time
    let bytes = std::fs::read(&file).unwrap();
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let found = read(&world, "acme").await;
    assert!(found.notes[0].contains("1 of the files have another time"), "{:?}", found.notes);
    std::fs::write(&file, [&bytes[..], b"x"].concat()).unwrap();
    let why = refused(&world, "acme").await;
    assert!(why.contains("e-00001.snappy.parquet is not what it was when it was booked"), "{why}");
    std::fs::remove_file(&file).unwrap();
    let why = refused(&world, "acme").await;
    let there = "e-00001.snappy.parquet is gone; AWS's newest version of 2026-10 is 2222";
    assert!(why.contains("is gone; AWS's newest version of 2026-10 is 2026-10-21") || why.contains(there), "{why}");
    assert!(why.contains("`meter ingest --month 2026-10` books it"), "{why}");

    // a superseded version is explained by its entries, and the newest one has the lines
    world.ingest().await.unwrap();
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (1, 1));
    let BookedEntries { entries, versions } = booked(&world, "acme").await;
    assert_eq!((entries.len(), versions.len(), versions[0].is_current), (2, 2, false));
    std::fs::remove_dir_all(data).unwrap();
    let why = refused(&world, "acme").await;
    assert!(why.ends_with("e-00001.snappy.parquet is gone"), "{why}");
}

#[tokio::test]
async fn lines_of_several_payers_are_read_from_the_export_of_each() {
    let mut world = IngestFixture::new().await;
    let other = world.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    deliver_lines(&world.bucket(), V1, &[chime("acme", 1, 1.0), chime("acme", 3, 3.0)]);
    deliver_lines(&other, V2, &[chime("acme", 1, 10.0)]);
    let folder = |path: &Path, payer: &str| Export {
        payer: payer.into(),
        ..ingest_fixture::export(Arc::new(Folder::new(path)))
    };
    let exports = [("main", folder(&world.bucket(), "one")), ("second", folder(&other, "two"))];
    world.context.exports = Arc::new(exports.map(|(name, export)| (name.to_owned(), export)).into());
    for name in ["main", "second"] {
        // the account of both manifests is the same, and payers are kept apart by it
        let path = other.join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("111122223333", "444455556666");
        std::fs::write(path, text).unwrap();
        IngestCur::new(name, ingest_fixture::month()).run(&world.context, world.now).await.unwrap();
    }
    assert_eq!(every_cell_is_the_sum_of_its_lines(&world).await, (3, 3));
    // an export that has another name by now is found by its payer, and none is said
    let renamed = [("new", folder(&world.bucket(), "one"))];
    world.context.exports = Arc::new(renamed.map(|(name, export)| (name.to_owned(), export)).into());
    let versions = booked(&world, "acme").await.versions;
    let of = |payer: &str| versions.iter().find(|version| version.bill.payer == payer).unwrap();
    assert_eq!(lines(&world.context, of("one"), wanted(&world, "acme")).await.unwrap().lines.len(), 2);
    let why = lines(&world.context, of("two"), wanted(&world, "acme")).await.unwrap_err();
    assert!(why.error().to_string().contains("no export of payer `two` is configured any more (it was `second`)"));
}

#[tokio::test]
async fn rules_that_changed_since_are_said() {
    let mut world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("acme", 1, 1.0)]);
    world.ingest().await.unwrap();
    let other =
        Rules { meters: vec![meter("chime_minutes", "AmazonChime", "Meetings-AttendeeMinutes", "2")], ..rules(TAG) };
    world.context.read_settings = ingest_fixture::read_settings(other);
    let found = read(&world, "acme").await;
    assert!(found.notes[0].starts_with("the rules of the configuration have changed"), "{:?}", found.notes);
    assert_eq!(found.days[0].quantity.to_string(), "2");
}
