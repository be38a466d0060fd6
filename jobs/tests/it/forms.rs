//! One bill in every form that AWS writes it in makes the same books: tag keys in other capitals,
//! with accents, twice on a line, and several of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, MapBuilder, StringArray, StringBuilder};
use proptest::prelude::*;
use testkit::ingest_fixture::{self, IngestFixture, chime, columns, deliver, parquet_bytes};

const V1: &str = "2026-10-20T03:00:00.000Z-11111111-1111-4111-8111-111111111111";

/// A line of minutes, with its tags as they are on the resource, in order.
#[derive(Clone, Debug)]
struct Tagged {
    day: i8,
    minutes: u32,
    tags: Vec<(&'static str, &'static str)>,
}

fn line(day: i8, minutes: u32, tags: &[(&'static str, &'static str)]) -> Tagged {
    Tagged { day, minutes, tags: tags.to_vec() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    LegacyCsv,
    LegacyParquet,
    NormalisedMap,
    NormalisedJson,
    RawMap,
    RawJson,
}

const FORMS: [Form; 6] =
    [Form::LegacyCsv, Form::LegacyParquet, Form::NormalisedMap, Form::NormalisedJson, Form::RawMap, Form::RawJson];
/// Forms that can have a key twice on a line.
const MAPS: [Form; 4] = [Form::NormalisedMap, Form::NormalisedJson, Form::RawMap, Form::RawJson];

/// AWS's names of the keys in these tests, written down by hand.
const NAMES: [(&str, &str); 10] = [
    ("Customer-Id", "customer_id"),
    ("customer-id", "customer_id"),
    ("customer_id", "customer_id"),
    ("Customer.Id", "customer_id"),
    ("customerid", "customerid"),
    ("Client", "client"),
    ("client", "client"),
    ("código", "código"),
    ("Código", "código"),
    ("codigo", "codigo"),
];

fn normalised(key: &str) -> &'static str {
    NAMES.iter().find(|(raw, _)| *raw == key).unwrap().1
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn json(entries: &[(String, &str)]) -> String {
    let entries = entries.iter().map(|(key, value)| format!("{}:{}", serde_json::json!(key), serde_json::json!(value)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

/// The data file of a bill.
fn file(form: Form, lines: &[Tagged]) -> (&'static str, Vec<u8>) {
    let entries = |line: &Tagged| -> Vec<(String, &str)> {
        let key = |key: &str| match form {
            Form::NormalisedMap | Form::NormalisedJson => format!("user_{}", normalised(key)),
            _ => format!("resourceTags/user:{key}"),
        };
        line.tags.iter().map(|(k, v)| (key(k), *v)).collect()
    };
    // columns by name, and each line's values of it: AWS merges columns whose names become one
    let mut flat: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        for (key, value) in &line.tags {
            let name = match form {
                Form::LegacyParquet => format!("resource_tags_user_{}", normalised(key)),
                _ => format!("resourceTags/user:{key}"),
            };
            let cell = &mut flat.entry(name).or_insert_with(|| vec![""; lines.len()])[at];
            if cell.is_empty() {
                *cell = value;
            }
        }
    }
    let plain: Vec<_> = lines.iter().map(|l| chime("", l.day, f64::from(l.minutes))).collect();
    let mut parquet = columns(&plain);
    parquet.retain(|(name, _)| !name.starts_with("resource_tags"));
    match form {
        Form::LegacyParquet => {
            let texts = |values: &Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values.clone())) };
            parquet.extend(flat.iter().map(|(name, values)| (name.as_str(), texts(values))));
            ("1.parquet", parquet_bytes(parquet))
        }
        Form::NormalisedMap | Form::RawMap => {
            let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            for line in lines {
                for (key, value) in entries(line) {
                    map.keys().append_value(key);
                    map.values().append_value(value);
                }
                map.append(true).unwrap();
            }
            parquet.push((if form == Form::RawMap { "tags" } else { "resource_tags" }, Arc::new(map.finish())));
            ("1.parquet", parquet_bytes(parquet))
        }
        Form::LegacyCsv => {
            let names = "lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,lineItem/UsageAmount,lineItem/UsageStartDate,lineItem/UsageEndDate";
            let names = std::iter::once(names.to_owned()).chain(flat.keys().map(|name| quoted(name)));
            let mut text = names.collect::<Vec<_>>().join(",") + "\n";
            for (at, line) in lines.iter().enumerate() {
                text += &cells(line);
                flat.values().for_each(|values| text += &format!(",{}", quoted(values[at])));
                text.push('\n');
            }
            ("1.csv", text.into_bytes())
        }
        Form::NormalisedJson | Form::RawJson => {
            let tags = if form == Form::RawJson { "tags" } else { "resource_tags" };
            let mut text = format!(
                "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,line_item_usage_end_date,{tags}\n"
            );
            for line in lines {
                text += &format!("{},{}\n", cells(line), quoted(&json(&entries(line))));
            }
            ("1.csv", text.into_bytes())
        }
    }
}

/// Product to end date, as CSV.
fn cells(Tagged { day, minutes, .. }: &Tagged) -> String {
    let next = day + 1;
    format!(
        "AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,{minutes},2026-10-{day:02}T00:00:00.000Z,2026-10-{next:02}T00:00:00.000Z"
    )
}

/// The ledger of a bill: `customer|day|minutes`; nothing when it was not booked.
async fn booked(form: Form, keys: &[&str], lines: &[Tagged]) -> Vec<String> {
    let mut rules = ingest_fixture::rules("");
    rules.tag_keys = keys.iter().map(ToString::to_string).collect();
    let world = IngestFixture::with(rules).await;
    let (name, bytes) = file(form, lines);
    deliver(&world.bucket(), V1, &[(name, bytes)]);
    drop(world.ingest().await);
    let entries = "SELECT customer || '|' || day || '|' || (quantity / 10000000000) FROM ledger_entries";
    let mut entries = world.dump(entries).await;
    entries.sort();
    entries
}

#[tokio::test]
async fn keys_of_one_name_are_one_key_in_every_form() {
    let lines = [
        line(1, 5, &[("Customer-Id", "alice")]),
        line(2, 6, &[("Customer.Id", "bob")]),
        line(3, 7, &[("customer-id", ""), ("Customer.Id", "carol")]),
        line(4, 8, &[("customerid", "nobody")]),
        line(5, 9, &[("customer_id", "dave"), ("customer-id", "dave")]),
    ];
    let want = ["alice|2026-10-01|5", "bob|2026-10-02|6", "carol|2026-10-03|7", "dave|2026-10-05|9", "|2026-10-04|8"];
    for form in FORMS {
        assert_eq!(booked(form, &["customer-id"], &lines).await, want, "{form:?}");
    }
}

#[tokio::test]
async fn a_key_with_letters_outside_of_ascii_is_found_in_every_form() {
    let lines = [line(1, 5, &[("código", "alice")]), line(2, 6, &[("codigo", "bob")])];
    for form in FORMS {
        let found = booked(form, &["código"], &lines).await;
        assert_eq!(found, ["alice|2026-10-01|5", "|2026-10-02|6"], "{form:?}");
    }
    // should AWS replace the letter
    let mut found = columns(&[chime("alice", 1, 5.0)]);
    found.last_mut().unwrap().0 = "resource_tags_user_c_digo";
    let mut rules = ingest_fixture::rules("");
    rules.tag_keys = vec!["código".into()];
    let world = IngestFixture::with(rules).await;
    deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(found))]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
}

#[tokio::test]
async fn a_key_that_comes_twice_means_the_same_in_every_form() {
    for (values, want) in [
        (["bob", ""], Some("bob|2026-10-01|5")),
        (["", "bob"], Some("bob|2026-10-01|5")),
        (["bob", "bob"], Some("bob|2026-10-01|5")),
        (["", ""], Some("|2026-10-01|5")),
        (["bob", "Bob"], None),
    ] {
        for form in MAPS {
            let lines = [line(1, 5, &[("customer-id", values[0]), ("customer-id", values[1])])];
            let found = booked(form, &["customer-id"], &lines).await;
            assert_eq!(found.first().map(String::as_str), want, "{form:?} {values:?}");
        }
    }
}

/// A key that was renamed in the middle of the month: some lines have the old one, some both, some
/// the new one. What contradicts is asked of one key alone.
#[tokio::test]
async fn of_several_keys_the_first_with_a_value_counts_in_every_form() {
    let lines = [
        line(1, 5, &[("client", "alice")]),
        line(2, 6, &[("client", "alice"), ("customer-id", "alice")]),
        line(3, 7, &[("client", "old"), ("customer-id", "bob")]),
        line(4, 8, &[("customer-id", "bob")]),
        line(5, 9, &[("customer-id", ""), ("client", "carol")]),
    ];
    let by_day = |want: [&str; 5]| {
        let mut entries: Vec<String> =
            (1..).zip([5, 6, 7, 8, 9]).zip(want).map(|((day, n), c)| format!("{c}|2026-10-0{day}|{n}")).collect();
        entries.sort();
        entries
    };
    for form in FORMS {
        let new_first = booked(form, &["customer-id", "client"], &lines).await;
        assert_eq!(new_first, by_day(["alice", "alice", "bob", "bob", "carol"]), "{form:?}");
        let old_first = booked(form, &["client", "customer-id"], &lines).await;
        assert_eq!(old_first, by_day(["alice", "alice", "old", "bob", "carol"]), "{form:?}");
    }
    // a contradiction of a key that does not count is none
    for form in MAPS {
        let lines = [line(1, 5, &[("client", "x"), ("client", "y"), ("customer-id", "bob")])];
        assert_eq!(booked(form, &["customer-id", "client"], &lines).await, ["bob|2026-10-01|5"], "{form:?}");
        assert!(booked(form, &["client", "customer-id"], &lines).await.is_empty(), "{form:?}");
    }
}

#[test]
fn other_keys_or_another_order_are_other_rules() {
    let digest = |keys: &[&str]| {
        let mut rules = ingest_fixture::rules("");
        rules.tag_keys = keys.iter().map(ToString::to_string).collect();
        rules.digest()
    };
    let all = [digest(&["a"]), digest(&["a", "b"]), digest(&["b", "a"]), digest(&["b"])];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
    assert_eq!(all[0], digest(&["a"]));
}

/// Tags of a line: for each name a value, and for each key of the name either the value or nothing.
fn tags() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let value = || prop::sample::select(vec!["alice", "bob", "carol d'été"]);
    let keys = prop::sample::subsequence((0..NAMES.len()).collect::<Vec<_>>(), 0..5).prop_shuffle();
    (keys, prop::collection::vec(value(), NAMES.len()), prop::collection::vec(any::<bool>(), NAMES.len())).prop_map(
        |(keys, values, filled)| {
            let of_name = |key: usize| NAMES.iter().position(|(_, name)| *name == NAMES[key].1).unwrap();
            keys.into_iter().map(|k| (NAMES[k].0, if filled[k] { values[of_name(k)] } else { "" })).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// A random bill in every form makes the books that its tags say.
    #[test]
    fn a_bill_makes_the_same_books_in_every_form(
        tagged in prop::collection::vec((1..19_i8, 1..1000_u32, tags()), 1..20),
        keys in prop::sample::subsequence(vec!["customer-id", "client", "código"], 1..=3).prop_shuffle(),
    ) {
        let lines: Vec<Tagged> = tagged.into_iter().map(|(day, minutes, tags)| Tagged { day, minutes, tags }).collect();
        let mut sums: BTreeMap<(&str, i8), u32> = BTreeMap::new();
        for Tagged { day, minutes, tags } in &lines {
            let of_key = |key: &&str| {
                tags.iter().find(|(k, v)| normalised(k) == normalised(key) && !v.is_empty()).map(|(_, v)| *v)
            };
            *sums.entry((keys.iter().find_map(of_key).unwrap_or_default(), *day)).or_default() += minutes;
        }
        let mut want: Vec<String> =
            sums.into_iter().map(|((customer, day), sum)| format!("{customer}|2026-10-{day:02}|{sum}")).collect();
        want.sort();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for form in FORMS {
            let found = runtime.block_on(booked(form, &keys, &lines));
            prop_assert_eq!(&found, &want, "{:?}", form);
        }
    }
}
