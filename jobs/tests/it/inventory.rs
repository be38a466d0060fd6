//! S3 Inventories of a shared bucket: whose are its byte-seconds, day by day.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use books::shared_bucket::{DayCounts, Measure};
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::{ReportPlace, SharedBucket};
use jobs::ingest_inventory::IngestInventory;
use jobs::job::{Failure, Job};
use jobs::shared_bucket::BucketReport;
use jobs::shared_bucket::customer::{CustomerRule, key_beginning};
use jobs::source::Folder;
use proptest::prelude::*;
use testkit::ingest_fixture::IngestFixture;
use testkit::inventories::{BUCKET, FORMS, Form, NewInventory, StoredObject, inventory, object};

pub(crate) const HOUR: u128 = 3600;
const DAY: u128 = 24 * HOUR;

/// Weights by day, class and customer.
type Found = BTreeMap<(String, String, String), u128>;

/// Books, and the folder of an Inventory's configuration.
pub(crate) struct InventoryFixture {
    pub(crate) world: IngestFixture,
    pub(crate) now: Timestamp,
}

impl InventoryFixture {
    pub(crate) async fn new(expire_days: Option<u16>) -> Self {
        let mut world = IngestFixture::new().await;
        let place = world.folder.path().join("daily");
        std::fs::create_dir(&place).unwrap();
        let inventory = ReportPlace { source: Arc::new(Folder::new(place)), prefix: String::new() };
        let bucket = SharedBucket {
            name: BUCKET.into(),
            customers: rule("c/{customer}/"),
            uses_uploads: false,
            expire_days,
            inventory: Some(inventory),
            access_logs: None,
            quiet_hours: 6,
        };
        world.context.shared_buckets = Arc::new(BTreeMap::from([(BUCKET.to_owned(), bucket)]));
        Self { world, now: "2026-11-24T12:00:00Z".parse().unwrap() }
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.world.folder.path().join("daily")
    }

    pub(crate) fn change(&mut self, change: impl Fn(&mut SharedBucket)) {
        let mut bucket = self.world.context.shared_buckets[BUCKET].clone();
        change(&mut bucket);
        self.world.context.shared_buckets = Arc::new(BTreeMap::from([(BUCKET.to_owned(), bucket)]));
    }

    pub(crate) async fn try_run(&self) -> Result<BucketReport, Failure> {
        IngestInventory { bucket: BUCKET.into() }.run(&self.world.context, self.now).await
    }

    /// Runs twice: the second run finds nothing new.
    pub(crate) async fn run(&self) -> BucketReport {
        let report = self.try_run().await.unwrap();
        let before = self.days().await;
        let again = self.try_run().await.unwrap();
        assert_eq!((again.days_read, again.counted), (vec![], 0), "a repeat reads nothing");
        assert_eq!((again.days_waiting, again.not_read), (report.days_waiting, report.not_read.clone()));
        assert_eq!(self.days().await, before);
        report
    }

    /// As [`InventoryFixture::run`], when nothing is wrong.
    pub(crate) async fn run_well(&self) -> BucketReport {
        let report = self.run().await;
        assert!(report.not_read.is_empty(), "{:?}", report.not_read);
        report
    }

    pub(crate) async fn days(&self) -> BTreeMap<String, (DayCounts, Found)> {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let stored = self.world.context.books.bucket_weights(BUCKET, day("2026-01-01"), day("2027-01-01")).await;
        let mut found = BTreeMap::new();
        for one in stored.unwrap() {
            let mut weights = Found::new();
            let day = one.day.day.to_string();
            for weight in one.day.weights {
                assert_eq!(weight.measure, Measure::ByteSeconds);
                weights.insert((day.clone(), weight.class, weight.customer), weight.amount);
            }
            found.insert(day, (one.day.found, weights));
        }
        found
    }

    pub(crate) async fn weights(&self) -> Found {
        self.days().await.into_values().flat_map(|(_, weights)| weights).collect()
    }

    /// The weights of a day, as `customer amount`, of the class STANDARD.
    pub(crate) async fn standard(&self, day: &str) -> Vec<(String, u128)> {
        let own = |((of, class, customer), amount): ((String, String, String), u128)| {
            (of == day && class == "STANDARD").then_some((customer, amount))
        };
        self.weights().await.into_iter().filter_map(own).collect()
    }

    pub(crate) fn write(&self, inventory: &NewInventory) -> PathBuf {
        inventory.write(&self.place()).unwrap()
    }
}

fn rule(beginning: &str) -> CustomerRule {
    CustomerRule::new(Some(key_beginning(beginning).unwrap()), None)
}

fn owned(weights: &[(&str, u128)]) -> Vec<(String, u128)> {
    weights.iter().map(|(customer, amount)| ((*customer).to_owned(), *amount)).collect()
}

/// An Inventory of each night at 01:00, of what lay there.
pub(crate) fn nightly(form: Form, day: u8, objects: &[StoredObject]) -> NewInventory {
    inventory(form, &format!("2026-11-{day:02}T01:00:00Z"), objects)
}

/// Keys with everything in them.
fn awkward() -> Vec<StoredObject> {
    let keys = [
        "c/ann/plain.png",
        "c/ann/a b+c%2Bd%",
        "c/ann/..//./x",
        "c/ann/\u{202e}\u{1f600}e\u{301}\u{feff}",
        "c/ann/ends with a blank ",
        "c/ann/\"quoted\",\nand, more",
        "c/bob/%63%2fann%2F",
        "c/b\u{fc}rgel/x",
        "c//x",
        "c/\u{a0}blank\u{a0}/x",
        "C/ann/x",
        "elsewhere",
    ];
    let mut objects: Vec<_> =
        keys.iter().zip(1..).map(|(key, size)| object(key, 1 << size, "2026-11-20T10:00:00Z")).collect();
    objects.push(object(&format!("c/{}/{}", "n".repeat(256), "x".repeat(765)), 1 << 20, "2026-11-20T10:00:00Z"));
    objects
}

#[tokio::test]
async fn both_forms_give_the_same_and_every_key_is_somebodys_or_nobodys() {
    let mut answers = vec![];
    for form in FORMS {
        let world = InventoryFixture::new(Some(1)).await;
        world.write(&nightly(form, 20, &[]));
        world.write(&nightly(form, 21, &awkward()));
        let report = world.run_well().await;
        assert_eq!((report.counted, report.of_nobody, report.bad_lines), (13, 4, 0), "{form:?}");
        let long = "n".repeat(256);
        let sizes = [
            ("", (1 << 9) + (1 << 10) + (1 << 11) + (1 << 12)),
            ("ann", (1 << 1) + (1 << 2) + (1 << 3) + (1 << 4) + (1 << 5) + (1 << 6)),
            ("bob", 1 << 7),
            ("b\u{fc}rgel", 1 << 8),
            (&long, 1 << 20),
        ];
        let mut first: Vec<_> = sizes.iter().map(|(name, bytes)| ((*name).to_owned(), bytes * 14 * HOUR)).collect();
        let mut second: Vec<_> = sizes.iter().map(|(name, bytes)| ((*name).to_owned(), bytes * DAY)).collect();
        first.sort();
        second.sort();
        assert_eq!(world.standard("2026-11-20").await, first);
        assert_eq!(world.standard("2026-11-21").await, vec![], "the day waits for an Inventory after it");
        world.write(&nightly(form, 22, &[]));
        world.run_well().await;
        assert_eq!(world.standard("2026-11-21").await, second);
        assert_eq!(world.standard("2026-11-22").await, vec![]);
        answers.push(world.days().await);
    }
    assert_eq!(answers[0], answers[1]);
}

/// Five objects with all ends, and what the Inventories of four nights list of them.
fn nights(form: Form) -> Vec<NewInventory> {
    let expiring = |key: &str, created: &str, expires: &str| StoredObject {
        expires: Some(expires.into()),
        ..object(key, 1000, created)
    };
    let old = expiring("c/ann/old", "2026-11-18T12:00:00Z", "2026-11-21T00:00:00Z");
    let young = expiring("c/ann/young", "2026-11-20T12:00:00Z", "2026-11-22T00:00:00Z");
    let kept = object("c/bob/kept", 10, "2026-11-01T00:00:00Z");
    let removed = object("c/bob/removed", 100, "2026-11-19T00:00:00Z");
    let short = expiring("c/cid/short", "2026-11-21T02:00:00Z", "2026-11-23T00:00:00Z");
    vec![
        nightly(form, 19, &[old.clone(), kept.clone(), removed.clone()]),
        nightly(form, 20, &[old.clone(), kept.clone(), removed]),
        // what has expired is still listed
        nightly(form, 21, &[old, young.clone(), kept.clone()]),
        nightly(form, 22, &[young, kept, short]),
    ]
}

fn of_nights() -> [(&'static str, Vec<(String, u128)>); 4] {
    [
        ("2026-11-18", owned(&[("ann", 1000 * 12 * HOUR), ("bob", 10 * DAY)])),
        ("2026-11-19", owned(&[("ann", 1000 * DAY), ("bob", 110 * DAY)])),
        // the removed one was seen until 01:00
        ("2026-11-20", owned(&[("ann", 1000 * DAY + 1000 * 12 * HOUR), ("bob", 10 * DAY + 100 * HOUR)])),
        ("2026-11-21", owned(&[("ann", 1000 * DAY), ("bob", 10 * DAY), ("cid", 1000 * 22 * HOUR)])),
    ]
}

#[tokio::test]
async fn order_and_repetition_change_nothing() {
    for form in FORMS {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let world = InventoryFixture::new(None).await;
            let nights = nights(form);
            for at in order {
                world.write(&nights[at]);
                world.run().await;
            }
            for (day, weights) in of_nights() {
                assert_eq!(world.standard(day).await, weights, "{form:?} {order:?} {day}");
            }
            let before = world.days().await;
            // a copy under another name is the same Inventory
            let copy = world.place().join("2026-11-21T01-07Z");
            std::fs::create_dir(&copy).unwrap();
            for name in ["manifest.json", "manifest.checksum"] {
                std::fs::copy(world.place().join("2026-11-21T01-00Z").join(name), copy.join(name)).unwrap();
            }
            assert_eq!(world.run_well().await.days_read, vec![]);
            assert_eq!(world.days().await, before);
        }
    }
}

#[tokio::test]
async fn a_late_inventory_gives_what_a_first_complete_run_would_have_given() {
    for late in 0..4 {
        let (whole, piecemeal) = (InventoryFixture::new(None).await, InventoryFixture::new(None).await);
        let nights = nights(Form::Parquet);
        for (at, night) in nights.iter().enumerate() {
            whole.write(night);
            if at != late {
                piecemeal.write(night);
            }
        }
        piecemeal.run().await;
        piecemeal.write(&nights[late]);
        let report = piecemeal.run_well().await;
        assert!(!report.days_read.is_empty(), "night {late}");
        whole.run_well().await;
        assert_eq!(piecemeal.days().await, whole.days().await, "night {late}");
    }
}

#[tokio::test]
async fn an_object_without_an_end_lives_on_while_it_is_listed() {
    let world = InventoryFixture::new(None).await;
    let kept = object("c/ann/kept", 3, "2020-01-01T00:00:00Z");
    for night in 15..=24 {
        world.write(&nightly(Form::Csv, night, std::slice::from_ref(&kept)));
    }
    let report = world.run_well().await;
    assert_eq!(report.days_read.len(), 10);
    for day in 14..=23 {
        assert_eq!(world.standard(&format!("2026-11-{day}")).await, owned(&[("ann", 3 * DAY)]), "{day}");
    }
    assert_eq!(report.repeated, 2 * 8 + 1 + 1, "three Inventories of each day, but at the ends");
}

#[tokio::test]
async fn versions_are_objects_and_delete_markers_weigh_nothing() {
    for form in FORMS {
        let world = InventoryFixture::new(Some(1)).await;
        let version = |version: &str, size, created: &str, is_latest| StoredObject {
            version: Some(version.into()),
            is_latest,
            etag: "the same".into(),
            ..object("c/ann/file", size, created)
        };
        let marker = StoredObject {
            is_delete_marker: true,
            size: None,
            etag: String::new(),
            ..version("v3", 0, "2026-11-20T08:00:00Z", true)
        };
        let all = [
            marker,
            // the rule of a day is of current versions: this one lives on
            version("v2", 5, "2026-11-10T00:00:00Z", false),
            version("v1", 5, "2026-11-10T00:00:00Z", false),
            StoredObject {
                expires: Some("2026-11-20T00:00:00Z".into()),
                ..version("v0", 7, "2026-11-09T00:00:00Z", false)
            },
            StoredObject { key: "c/bob/file".into(), ..version("null", 2, "2026-11-20T12:00:00Z", true) },
        ];
        world.write(&nightly(form, 20, &[]).with_versions());
        world.write(&nightly(form, 21, &all).with_versions());
        let report = world.run_well().await;
        assert_eq!(report.bad_lines, 0);
        assert_eq!(world.standard("2026-11-20").await, owned(&[("ann", 10 * DAY), ("bob", 2 * 12 * HOUR)]), "{form:?}");
        // the day after lists current versions alone: versions are no longer kept apart, and the
        // current one is the same object
        world.write(&nightly(form, 22, &[StoredObject { key: "c/bob/file".into(), ..all[4].clone() }]));
        world.run_well().await;
        assert_eq!(
            world.standard("2026-11-21").await,
            owned(&[("ann", 5 * HOUR), ("bob", 2 * DAY)]),
            "{form:?}: noncurrent ones were seen until 01:00, and two alike are one"
        );
    }
}

#[tokio::test]
async fn storage_classes_are_kept_apart_and_the_newest_counts() {
    for form in FORMS {
        let world = InventoryFixture::new(None).await;
        let of =
            |class: &str, key: &str| StoredObject { class: class.into(), ..object(key, 1, "2026-11-01T00:00:00Z") };
        let night = |day, first: &str| {
            nightly(form, day, &[of(first, "c/ann/moves"), of("STANDARD", "c/ann/stays"), of("", "c/bob/untold")])
        };
        world.write(&night(20, "STANDARD"));
        world.write(&night(21, "GLACIER_IR"));
        world.run_well().await;
        let key = |class: &str, customer: &str| ("2026-11-20".to_owned(), class.to_owned(), customer.to_owned());
        let of_the_20th: Found =
            world.weights().await.into_iter().filter(|((day, ..), _)| day == "2026-11-20").collect();
        let expected = [(key("", "bob"), DAY), (key("GLACIER_IR", "ann"), DAY), (key("STANDARD", "ann"), DAY)]
            .into_iter()
            .collect();
        assert_eq!(of_the_20th, expected, "{form:?}");
    }
}

#[tokio::test]
async fn what_expired_before_or_has_no_bytes_weighs_nothing() {
    for form in FORMS {
        let world = InventoryFixture::new(None).await;
        let of = |key: &str, created: &str, expires: &str| StoredObject {
            expires: Some(expires.into()),
            ..object(key, 1, created)
        };
        world.write(&nightly(
            form,
            21,
            &[
                of("c/ann/before", "2026-11-18T12:00:00Z", "2026-11-20T00:00:00Z"),
                of("c/ann/backwards", "2026-11-20T12:00:00Z", "2026-11-20T11:00:00Z"),
                of("c/ann/after", "2026-11-21T00:00:00Z", "2026-11-23T00:00:00Z"),
                of("c/ann/ages", "1969-12-31T23:59:59.999Z", "9999-12-30T00:00:00Z"),
                object("c/bob/empty", 0, "2026-11-20T12:00:00Z"),
                StoredObject { size: None, ..object("c/bob/no size", 0, "2026-11-20T12:00:00Z") },
                StoredObject { created: None, ..object("c/bob/no time", 9, "2026-11-20T12:00:00Z") },
                object("c/bob/negative", -1, "2026-11-20T12:00:00Z"),
                object("c/bob/huge", i64::MAX, "2026-11-20T12:00:00Z"),
            ],
        ));
        let report = world.run_well().await;
        let days = world.days().await;
        let (found, weights) = &days["2026-11-20"];
        let expected = DayCounts { files: 1, counted: 2, bad_lines: 4, ..DayCounts::default() };
        assert_eq!(*found, expected, "{form:?}");
        assert_eq!(weights.values().copied().collect::<Vec<_>>(), [DAY], "{weights:?}");
        assert!(report.bad_lines > 0 && IngestInventory::needs_attention(&report));
    }
}

#[tokio::test]
async fn other_rules_read_the_days_again() {
    let mut world = InventoryFixture::new(Some(1)).await;
    world.write(&nightly(Form::Parquet, 21, &[object("c/ann/team/x", 1, "2026-11-18T12:00:00Z")]));
    world.run_well().await;
    assert_eq!(world.standard("2026-11-20").await, vec![]);
    world.change(|bucket| bucket.expire_days = Some(7));
    world.run_well().await;
    assert_eq!(world.standard("2026-11-20").await, owned(&[("ann", DAY)]));
    world.change(|bucket| bucket.customers = rule("c/*/{customer}"));
    world.run_well().await;
    assert_eq!(world.standard("2026-11-20").await, owned(&[("team", DAY)]));
    world.change(|bucket| bucket.customers = rule("d/{customer}/"));
    let report = world.run_well().await;
    assert_eq!(world.standard("2026-11-20").await, owned(&[("", DAY)]));
    assert!(IngestInventory::needs_attention(&report), "a rule that fits no key");
}

#[tokio::test]
async fn a_day_stays_as_it_is_when_its_inventories_are_removed() {
    let mut world = InventoryFixture::new(None).await;
    let nights = nights(Form::Csv);
    let folders: Vec<PathBuf> = nights.iter().map(|night| world.write(night)).collect();
    world.run_well().await;
    let before = world.days().await;
    world.now = "2026-11-27T12:00:00Z".parse().unwrap();
    // a rule removes them after six days
    folders[..3].iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
    world.run().await;
    assert_eq!(world.days().await, before);
}

#[tokio::test]
async fn missing_nights_are_named_when_no_inventory_can_come() {
    let mut world = InventoryFixture::new(None).await;
    let report = world.run().await;
    assert_eq!(report.not_read.len(), 1);
    assert!(report.not_read[0].contains("there is no Inventory yet"), "{:?}", report.not_read);
    let kept = [object("c/ann/kept", 1, "2020-01-01T00:00:00Z")];
    world.write(&nightly(Form::Csv, 14, &kept));
    world.write(&nightly(Form::Csv, 21, &kept));
    let report = world.run().await;
    let missed: Vec<&str> = report.not_read.iter().filter_map(|why| why.split(':').next()).collect();
    assert_eq!(missed, ["2026-11-14", "2026-11-15", "2026-11-16", "2026-11-17", "2026-11-18"]);
    assert_eq!(report.days_read.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2026-11-19", "2026-11-20"]);
    assert_eq!(report.days_waiting, 3);
    world.now = "2026-11-26T12:00:00Z".parse().unwrap();
    let report = world.run().await;
    assert_eq!(report.days_waiting, 4);
    assert!(report.not_read.last().unwrap().starts_with("2026-11-21: "), "{:?}", report.not_read);
}

/// An object of a random history, in hours from the 18th on.
#[derive(Clone, Debug)]
struct Past {
    customer: u8,
    size: i64,
    created: i64,
    /// The date that Inventories state.
    expires: Option<i64>,
    /// When it was removed.
    removed: i64,
    class: bool,
}

fn past() -> impl Strategy<Value = Past> {
    (0_u8..4, 0_i64..5000, 0_i64..130, prop::option::of(0_i64..200), 1_i64..150, any::<bool>()).prop_map(
        |(customer, size, created, expires, lived, class)| Past {
            customer,
            size,
            created,
            expires,
            removed: created + lived,
            class,
        },
    )
}

fn hour(of: i64) -> String {
    let first: Timestamp = "2026-11-18T00:00:00Z".parse().unwrap();
    (first + jiff::SignedDuration::from_hours(of)).to_string()
}

/// Weights of the day `day` (from the 18th on), hour by hour, from the Inventories that began at
/// these hours.
fn expected(pasts: &[Past], scans: &[i64], day: i64, expire_days: Option<u16>) -> Option<Found> {
    let (from, until) = (day * 24, day * 24 + 24);
    let window: Vec<i64> = scans.iter().copied().filter(|scan| (from..from + 72).contains(scan)).collect();
    if !window.iter().any(|scan| *scan >= until) {
        return None;
    }
    let mut found = Found::new();
    for past in pasts {
        let listed = window.iter().filter(|scan| past.created <= **scan && **scan < past.removed).max();
        let Some(listed) = listed else { continue };
        let by_rule = expire_days.map(|days| (past.created + i64::from(days) * 24 + 23).div_euclid(24) * 24);
        let end = past.expires.or(by_rule).unwrap_or(if *listed >= until { until } else { *listed });
        let hours = (from..until).filter(|hour| past.created <= *hour && *hour < end).count();
        let weight = u128::try_from(past.size).unwrap() * u128::try_from(hours).unwrap() * HOUR;
        if weight > 0 {
            let class = if past.class { "STANDARD" } else { "STANDARD_IA" };
            let customer = if past.customer == 0 { String::new() } else { format!("c{}", past.customer) };
            let day = hour(from)[..10].to_owned();
            *found.entry((day, class.to_owned(), customer)).or_default() += weight;
        }
    }
    Some(found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(testkit::suite_database::cases(24)))]
    /// Whatever Inventories there are, in whatever files and forms, the days are those of a model
    /// that counts hours.
    #[test]
    fn days_are_those_of_a_naive_model(
        pasts in prop::collection::vec(past(), 0..40),
        scans in prop::collection::btree_set(0_i64..150, 0..7),
        expire_days in prop::option::of(0_u16..4),
        shuffle in any::<u64>(),
    ) {
        let scans: Vec<i64> = scans.into_iter().collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = InventoryFixture::new(expire_days).await;
            let mut random = fastrand::Rng::with_seed(shuffle);
            let mut order = scans.clone();
            random.shuffle(&mut order);
            for scan in order {
                let is_listed = |past: &&Past| past.created <= scan && scan < past.removed;
                let mut listed: Vec<StoredObject> = pasts.iter().enumerate().filter(|(_, past)| is_listed(past)).map(|(n, past)| {
                    let key = if past.customer == 0 { format!("x/{n}") } else { format!("c/c{}/{n}", past.customer) };
                    let class = if past.class { "STANDARD" } else { "STANDARD_IA" };
                    StoredObject {
                        class: class.into(),
                        expires: past.expires.map(hour),
                        ..object(&key, past.size, &hour(past.created))
                    }
                }).collect();
                random.shuffle(&mut listed);
                let form = if random.bool() { Form::Csv } else { Form::Parquet };
                let mut inventory = inventory(form, &hour(scan), &[]);
                inventory.files = listed.chunks(1 + random.usize(..12)).map(<[_]>::to_vec).collect();
                world.write(&inventory);
                if random.bool() {
                    world.run().await;
                }
            }
            world.run().await;
            let days = world.days().await;
            for day in 0..6 {
                let name = hour(day * 24)[..10].to_owned();
                let found = days.get(&name).map(|(_, weights)| weights.clone());
                assert_eq!(found, expected(&pasts, &scans, day, expire_days), "{name}");
            }
        });
    }
}
