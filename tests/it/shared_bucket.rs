//! The days of shared buckets: stored whole, written as little as possible, and shown; and what is
//! wrong with their configuration.

use std::sync::Arc;

use books::shared_bucket::{BucketDay, DayCounts, Measure, ReportSource, Weight};
use books::units::calendar::Day;
use books::{BooksError, Database};
use futures::FutureExt;
use jiff::Timestamp;
use libsql::params;

use crate::support::Workspace;
use crate::support::test_store::TestStore;

suite![
    a_day_is_stored_whole_and_read_as_it_was,
    a_day_with_the_same_digest_writes_nothing,
    a_day_that_changes_writes_only_what_differs,
    a_day_of_many_customers_is_read_in_parts,
    a_day_that_does_not_add_up_leaves_the_stored_one,
    a_run_without_its_lease_stores_nothing,
];

const BUCKET: &str = "my-uploads";

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn weight(measure: Measure, class: &str, customer: &str, amount: u128) -> Weight {
    Weight { measure, class: class.to_owned(), customer: customer.to_owned(), amount }
}

fn stored(customer: &str, amount: u128) -> Weight {
    weight(Measure::ByteSeconds, "STANDARD", customer, amount)
}

/// A day of the inventory with a digest made of one digit.
fn inventory(of: &str, digest: char, weights: Vec<Weight>) -> BucketDay {
    BucketDay {
        bucket: BUCKET.to_owned(),
        source: ReportSource::Inventory,
        day: day(of),
        digest: digest.to_string().repeat(64),
        found: DayCounts { files: 1, counted: 7, repeated: 2, of_nobody: 1, contradictions: 0, bad_lines: 3 },
        weights,
    }
}

async fn store(books: &Database, of: BucketDay) -> bool {
    books.store_bucket_day(of, at("2026-03-20T10:00:00Z")).await.unwrap()
}

/// The stored days of a month.
async fn read(books: &Database) -> Vec<BucketDay> {
    let found = books.bucket_weights(BUCKET, day("2026-03-01"), day("2026-03-31")).await.unwrap();
    assert!(found.iter().all(|of| of.read_at == at("2026-03-20T10:00:00Z")));
    found.into_iter().map(|of| of.day).collect()
}

async fn a_day_is_stored_whole_and_read_as_it_was(store_of: TestStore) {
    let books = store_of.books().await;
    let logs = BucketDay {
        source: ReportSource::AccessLogs,
        digest: "b".repeat(64),
        weights: vec![
            weight(Measure::BytesSent, "", "", 1),
            weight(Measure::BytesSent, "", "zoë \"quoted\"", u128::MAX),
            weight(Measure::Requests1, "", "zoë \"quoted\"", 17),
            weight(Measure::Requests2, "", "..", 4),
        ],
        ..inventory("2026-03-10", 'a', vec![])
    };
    let first = inventory("2026-03-10", 'a', vec![stored("", 5), stored("ann", u128::from(u64::MAX) + 1)]);
    let classes = vec![stored("ann", 1), weight(Measure::ByteSeconds, "STANDARD_IA", "ann", 2)];
    let next = inventory("2026-03-11", 'c', classes);
    let empty = inventory("2026-03-12", 'd', vec![]);
    let all = [first, logs, next, empty];
    for of in &all {
        assert!(store(&books, of.clone()).await);
    }
    assert_eq!(read(&books).await, {
        let mut all = all.clone();
        all[..2].sort_by_key(|of| of.source.name());
        all
    });
    let digests = async |source, from| books.bucket_day_digests(BUCKET, source, day(from)).await.unwrap();
    let of_inventory = digests(ReportSource::Inventory, "2026-03-11").await;
    assert_eq!(of_inventory, [(day("2026-03-11"), "c".repeat(64)), (day("2026-03-12"), "d".repeat(64))].into());
    assert_eq!(digests(ReportSource::AccessLogs, "2026-01-01").await.len(), 1);
    assert_eq!(digests(ReportSource::AccessLogs, "2026-03-11").await, [].into());
    let elsewhere = books.bucket_weights("other", day("2026-03-01"), day("2026-03-31")).await.unwrap();
    assert_eq!(elsewhere, []);
    // what is 0 has no row
    assert!(store(&books, inventory("2026-03-12", 'e', vec![stored("ann", 0), stored("bob", 1)])).await);
    assert_eq!(read(&books).await.pop().unwrap().weights, [stored("bob", 1)]);
}

async fn a_day_with_the_same_digest_writes_nothing(store_of: TestStore) {
    let books = store_of.books().await;
    let of = inventory("2026-03-10", 'a', vec![stored("ann", 1), stored("bob", 2)]);
    assert!(store(&books, of.clone()).await);
    if let Some(server) = store_of.server() {
        server.reset_counts();
    }
    let later = at("2026-03-21T10:00:00Z");
    assert!(!books.store_bucket_day(of.clone(), later).await.unwrap());
    // the digest decides, and not what a run makes of the same files
    let other = BucketDay { weights: vec![], ..of.clone() };
    assert!(!books.store_bucket_day(other, later).await.unwrap());
    if let Some(server) = store_of.server() {
        assert_eq!(server.counts().rows_written, 0);
    }
    assert_eq!(read(&books).await, [of]);
}

async fn a_day_that_changes_writes_only_what_differs(store_of: TestStore) {
    let books = store_of.books().await;
    let customers = |last: u128| (0..300).map(move |n| stored(&format!("c{n:03}"), if n == 299 { last } else { 7 }));
    let other_day = inventory("2026-03-09", 'f', vec![stored("c299", 1)]);
    assert!(store(&books, other_day.clone()).await);
    assert!(store(&books, inventory("2026-03-10", 'a', customers(7).collect())).await);
    if let Some(server) = store_of.server() {
        server.reset_counts();
    }
    // one is new, one is another, two are gone
    let weights: Vec<Weight> = customers(8).skip(2).chain([stored("new", 1)]).collect();
    let changed = inventory("2026-03-10", 'b', weights);
    assert!(store(&books, changed.clone()).await);
    if let Some(server) = store_of.server() {
        let written = server.counts().rows_written;
        assert!((1..=10).contains(&written), "{written} rows written for four that differ and the day itself");
    }
    assert_eq!(read(&books).await, [other_day.clone(), changed]);
    let nothing = inventory("2026-03-10", 'c', vec![]);
    assert!(store(&books, nothing.clone()).await);
    assert_eq!(read(&books).await, [other_day, nothing]);
}

async fn a_day_of_many_customers_is_read_in_parts(store_of: TestStore) {
    let books = store_of.books().await;
    // names as long as they may be: more than a server's answer and parameter may have at once
    let name = |n: u32| format!("{n:0>6}{}", "ü".repeat(250));
    let weights: Vec<Weight> = (0..13_000).map(|n| stored(&name(n), u128::from(n) + 1)).collect();
    let of = inventory("2026-03-10", 'a', weights.clone());
    assert!(store(&books, of.clone()).await);
    assert_eq!(read(&books).await, [of]);
    let fewer = inventory("2026-03-10", 'b', weights.into_iter().step_by(2).collect());
    assert!(store(&books, fewer.clone()).await);
    assert_eq!(read(&books).await, [fewer]);
}

async fn a_day_that_does_not_add_up_leaves_the_stored_one(store_of: TestStore) {
    let books = store_of.books().await;
    let of = inventory("2026-03-10", 'a', vec![stored("ann", 1)]);
    assert!(store(&books, of.clone()).await);
    let twice = vec![stored("bob", 1), stored("ann", 2), stored("bob", 0)];
    let logs_in_inventory = vec![stored("bob", 1), weight(Measure::BytesSent, "", "bob", 1)];
    let huge = DayCounts { counted: u64::MAX, ..DayCounts::default() };
    for (wrong, why) in [
        (inventory("2026-03-10", 'b', twice), "byte_seconds of `STANDARD` and `bob` twice on 2026-03-10"),
        (inventory("2026-03-10", 'b', logs_in_inventory), "an inventory has byte-seconds by storage class"),
        (inventory("2026-03-10", 'b', vec![stored(" bob", 1)]), "bucket_weights.customer"),
        (inventory("2026-03-10", 'b', vec![stored("b\nb", 1)]), "bucket_weights.customer"),
        (BucketDay { found: huge, ..inventory("2026-03-10", 'b', vec![]) }, "is no count of a bucket's day"),
        (BucketDay { digest: "b".into(), ..inventory("2026-03-10", 'b', vec![]) }, "CHECK constraint failed"),
        (BucketDay { bucket: "a/b".into(), ..inventory("2026-03-10", 'b', vec![]) }, "bucket_days.bucket"),
    ] {
        let said = books.store_bucket_day(wrong, Timestamp::UNIX_EPOCH).await.unwrap_err().to_string();
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(read(&books).await, [of]);
}

async fn a_run_without_its_lease_stores_nothing(store_of: TestStore) {
    let books = store_of.books().await;
    let of = inventory("2026-03-10", 'a', vec![stored("ann", 1)]);
    assert!(store(&books, of.clone()).await);
    let fenced = books.fenced(Arc::new(|_| async { Err(BooksError::Fenced) }.boxed_local()));
    let tried = fenced.store_bucket_day(inventory("2026-03-10", 'b', vec![]), Timestamp::UNIX_EPOCH).await;
    assert!(matches!(tried, Err(BooksError::Fenced)), "{tried:?}");
    assert_eq!(read(&books).await, [of]);
}

/// Whoever writes beside the jobs meets the same rules.
#[tokio::test]
async fn every_column_has_its_rule() {
    let books = Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
    books.migrate(Timestamp::now()).await.unwrap();
    let sound = [
        ("bucket", "b", vec!["", "a b", "a/b", "ä"]),
        ("source", "inventory", vec!["", "cloudtrail"]),
        ("day", "2026-03-10", vec!["", "2026-3-10", "20260310", "2026-03-10T00:00"]),
        ("digest", "d", vec!["", "ABC", "xyz"]),
        ("files", "1", vec!["-1", "x"]),
        ("counted", "1", vec!["-1"]),
        ("repeated", "1", vec!["-1"]),
        ("of_nobody", "1", vec!["-1"]),
        ("contradictions", "1", vec!["-1"]),
        ("bad_lines", "1", vec!["-1"]),
        ("read_at", "1", vec!["-1", "1770000000000"]),
    ];
    let digest = "0123456789abcdef".repeat(4);
    let insert = |table: &str, columns: &[(&str, String)]| {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<String> = columns.iter().map(|(_, value)| format!("'{}'", value.replace('\'', "''"))).collect();
        format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
    };
    let run = async |sql: String| {
        books.transaction(async move |c| c.execute(&sql, ()).await).await.map_err(|error| error.to_string())
    };
    let value =
        |column: &str, value: &str| if column == "digest" && value == "d" { digest.clone() } else { value.into() };
    for (column, _, wrong) in &sound {
        for bad in wrong {
            let row: Vec<(&str, String)> = sound
                .iter()
                .map(|(name, good, _)| (*name, value(name, if name == column { bad } else { good })))
                .collect();
            let said = run(insert("bucket_days", &row)).await.unwrap_err();
            assert!(said.contains("constraint failed") || said.contains("cannot store TEXT"), "{column} {bad}: {said}");
        }
    }
    let row: Vec<(&str, String)> = sound.iter().map(|(name, good, _)| (*name, value(name, good))).collect();
    run(insert("bucket_days", &row)).await.unwrap();
    let logs: Vec<(&str, String)> = row
        .iter()
        .map(|(name, good)| (*name, if *name == "source" { "access_logs".into() } else { good.clone() }))
        .collect();
    run(insert("bucket_days", &logs)).await.unwrap();

    let digits = "9".repeat(39);
    let long = format!("1{digits}");
    let names = (format!("{}x", "ë".repeat(256)), "C".repeat(65));
    let sound = [
        ("bucket", "b", vec!["other"]),
        ("source", "inventory", vec!["access_logs", "x"]),
        ("day", "2026-03-10", vec!["2026-03-11"]),
        ("measure", "byte_seconds", vec!["", "bytes_sent", "gb"]),
        ("class", "STANDARD", vec!["standard", "A B", &names.1]),
        ("customer", "ann", vec![" ann", "ann\u{a0}", "a\u{7f}b", "a\u{85}b", &names.0]),
        ("amount", &digits, vec!["", "0", "01", "-1", "+1", "1.5", "1e3", " 1", "١", &long]),
    ];
    for (column, _, wrong) in &sound {
        for bad in wrong {
            let row: Vec<(&str, String)> = sound
                .iter()
                .map(|(name, good, _)| (*name, if name == column { (*bad).to_owned() } else { (*good).to_owned() }))
                .collect();
            let said = run(insert("bucket_weights", &row)).await.unwrap_err();
            assert!(said.contains("constraint failed"), "{column} {bad}: {said}");
        }
    }
    let row: Vec<(&str, String)> = sound.iter().map(|(name, good, _)| (*name, (*good).to_owned())).collect();
    run(insert("bucket_weights", &row)).await.unwrap();
    let class_of_logs = insert(
        "bucket_weights",
        &[("bucket", "b"), ("source", "access_logs"), ("day", "2026-03-10"), ("measure", "bytes_sent")]
            .into_iter()
            .chain([("class", "STANDARD"), ("customer", ""), ("amount", "1")])
            .map(|(name, value)| (name, value.to_owned()))
            .collect::<Vec<_>>(),
    );
    assert!(run(class_of_logs).await.unwrap_err().contains("access logs have bytes and requests without one"));
    // a day goes with its weights
    let tried =
        books.transaction(async |c| c.execute("DELETE FROM bucket_days WHERE source = ?1", params!["inventory"]).await);
    assert!(tried.await.unwrap_err().to_string().contains("FOREIGN KEY"));
}

const CONFIG: &str = "[[shared_buckets]]\nname = \"my-uploads\"\ncustomer_key = \"c/{customer}/\"\nexpire_days = 1\n\
                      [shared_buckets.inventory]\nlocation = \"reports/inventory\"\n\
                      [shared_buckets.access_logs]\nlocation = \"reports/logs\"\nregion = \"eu-central-1\"\n";

#[test]
fn faults_of_the_configuration_are_named_with_their_lines() {
    let place = Workspace::with(CONFIG);
    place.run("config check").ends(0).says(&["1 shared bucket(s)"]);
    place.run("config show").ends(0).says(&[
        "[[shared_buckets]]",
        "customer_key = \"c/{customer}/\"",
        "quiet_hours = 6",
        "[shared_buckets.inventory]",
        "region = \"eu-central-1\"",
    ]);
    let faults = "[[shared_buckets]]\nname = \"a b\"\ncustomer_key = \"c/\"\nexpire_days = 0\nquiet_hours = 500\n\
                  [[shared_buckets]]\nname = \"one\"\ncustomer_key = \"c/{customer}/\"\ncustomer_pattern = \"c\"\n\
                  [shared_buckets.inventory]\nlocation = \"s3://X\"\nendpoint = \"ftp://host\"\n\
                  [[shared_buckets]]\nname = \"one\"\ncustomer_pattern = \"(?<customer>\"\n\
                  [shared_buckets.access_logs]\nlocation = \"\"\n\
                  [[shared_buckets]]\nname = \"two\"\ncustomer_parameter = \"x-amz-cc\"\n\
                  [shared_buckets.inventory]\nlocation = \"a\"\n\
                  [[shared_buckets]]\nname = \"three\"\ncustomer_parameter = \"x-cc\"\n\
                  [shared_buckets.inventory]\nlocation = \"a\"\n\
                  [[shared_buckets]]\nname = \"four\"\n[shared_buckets.access_logs]\nlocation = \"a\"\n\
                  [[shared_buckets]]\nname = \"five\"\ncustomer_uploads = true\n\
                  [shared_buckets.inventory]\nlocation = \"a\"\n[measure]\nkeep_days = 13\n";
    Workspace::with(faults).run("config check").ends(2).says(&[
        "meter.toml:2: shared_buckets[0].name: it is the name of the bucket in the bill",
        "meter.toml:3: shared_buckets[0].customer_key: it must contain `{customer}` once, as in `c/{customer}/`",
        "meter.toml:4: shared_buckets[0].expire_days: it is 1 to 3650 days",
        "meter.toml:5: shared_buckets[0].quiet_hours: it is 0 to 240 hours",
        "meter.toml:2: shared_buckets[0].name: nothing is read about this bucket",
        "meter.toml:9: shared_buckets[1].customer_pattern: `customer_key` is set, too",
        "meter.toml:11: shared_buckets[1].inventory.location: `X` is no bucket name",
        "meter.toml:12: shared_buckets[1].inventory.endpoint: it is no address of a server",
        "meter.toml:14: shared_buckets[2].name: shared_buckets[1] is the same bucket",
        "meter.toml:15: shared_buckets[2].customer_pattern: it is no regular expression: unclosed group",
        "meter.toml:17: shared_buckets[2].access_logs.location: it is empty",
        "meter.toml:20: shared_buckets[3].customer_parameter: S3 ignores only parameters that begin with `x-`",
        "meter.toml:26: shared_buckets[4].inventory: an inventory has keys and no requests",
        "shared_buckets[6].customer_uploads: the last ten days are read, and measure.keep_days = 13 forgets uploads",
        "shared_buckets[5].name: nothing says which customer a file belongs to",
    ]);
    let unknown = "[[shared_buckets]]\nname = \"one\"\nlocation = \"a\"\n";
    Workspace::with(unknown)
        .run("config check")
        .ends(2)
        .says(&["meter.toml:3: shared_buckets[0].location: there is no `location` here"]);
}

/// Stores rows as a job does: customers and nobody on two days, and the logs of one.
fn fill(place: &Workspace, customers: u32) {
    let day = |table: &str, source: &str, back: i32| {
        format!(
            "INSERT INTO {table} (bucket, source, day, digest, files, counted, repeated, of_nobody, contradictions, \
             bad_lines, read_at) VALUES ('my-uploads', '{source}', date('now', '-{back} days'), '{}', 3, 1234567, 12, 34, \
             5, 6, 1770000000);",
            "a".repeat(64)
        )
    };
    let weight = |source: &str, back: i32, measure: &str, customer: &str, amount: &str| {
        let class = if source == "inventory" { "STANDARD" } else { "" };
        format!(
            "INSERT INTO bucket_weights (bucket, source, day, measure, class, customer, amount) VALUES ('my-uploads', \
             '{source}', date('now', '-{back} days'), '{measure}', '{class}', '{customer}', '{amount}');"
        )
    };
    let mut sql = day("bucket_days", "inventory", 1) + &day("bucket_days", "inventory", 2);
    sql += &day("bucket_days", "access_logs", 2);
    // a GB during the whole day
    let gb_day = (1_u64 << 30) * 86_400;
    for (customer, gb) in [("ann", 2), ("bob", 30), ("", 1)] {
        sql += &weight("inventory", 1, "byte_seconds", customer, &(gb * gb_day).to_string());
        sql += &weight("inventory", 2, "byte_seconds", customer, &gb_day.to_string());
    }
    for n in 0..customers {
        sql += &weight("inventory", 1, "byte_seconds", &format!("small{n:03}"), &gb_day.to_string());
    }
    sql += &weight("access_logs", 2, "bytes_sent", "ann", &(3_u64 << 29).to_string());
    sql += &weight("access_logs", 2, "requests_1", "ann", "1200");
    sql += &weight("access_logs", 2, "requests_2", "", "17");
    place.execute(&sql);
}

#[test]
fn who_used_a_shared_bucket_is_shown_by_day() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("shared").ends(0).says(&["no bucket is shared: [[shared_buckets]]", "docs/shared-bucket.md"]);
    place.run("shared --json").ends(0).says(&["[]"]);
    place.run("shared other").ends(2).says(&["there is no shared bucket `other`; none is configured"]);

    let place = Workspace::with(CONFIG);
    place.run("migrate").ends(0);
    place.run("shared other").ends(2).says(&["there is no shared bucket `other`; there are: `my-uploads`"]);
    let nothing = "no day of these has been read; a worker reads inventory and access_logs by its schedule";
    place.run("shared").ends(0).says(&["my-uploads, from 20", nothing]);
    fill(&place, 20);
    let said = place.run("shared my-uploads").ends(0).says(&[
        "inventory      3  1,234,567        12      34           5    6",
        "bob",
        "(12 other customers)",
        "(nobody)",
        "(all)",
        " 1.5       1,200           0",
        "1,200",
        "No booked bill has usage of this bucket on these days",
    ]);
    assert!(said.out.lines().all(|line| line.chars().count() <= 80), "{}", said.out);
    let of_day = said.out.lines().filter(|line| line.contains("small")).count();
    assert_eq!(of_day, 8, "ten customers of the day, with ann and bob: {}", said.out);
    place.run("shared --days 1").ends(0).says(&["bob", "(nobody)"]);
    let json = place.run("shared --json").ends(0).json();
    let days = json[0]["days"].as_array().unwrap();
    assert_eq!((days.len(), &json[0]["bucket"]), (3, &"my-uploads".into()));
    assert_eq!((&days[0]["source"], &days[0]["counted"]), (&"access_logs".into(), &1_234_567.into()));
    let sent = &days[0]["weights"][0];
    assert_eq!((&sent["customer"], &sent["amount"]), (&"ann".into(), &"1610612736".into()));
    assert!(sent.get("gb_months").is_none() && sent.get("class").is_none(), "{sent}");
    let weights = days[2]["weights"].as_array().unwrap();
    assert_eq!((weights.len(), &weights[0]["customer"]), (23, &"".into()));
    let bob = weights.iter().find(|of| of["customer"] == "bob").unwrap();
    assert_eq!((&bob["class"], &bob["amount"]), (&"STANDARD".into(), &"2783138807808000".into()));
    assert!(bob["gb_months"].as_str().unwrap().parse::<rust_decimal::Decimal>().unwrap() > 0.into(), "{bob}");
    // what nobody can read as a number of 64 bits
    place.execute(&format!("UPDATE bucket_weights SET amount = '{}' WHERE customer = 'bob'", u128::MAX));
    place.run("shared").ends(0).says(&["too large"]);
}

#[test]
fn a_generated_bucket_is_in_the_bill_and_read_by_both_jobs() {
    let config = CONFIG
        .replace("reports/inventory", "bucket/inventory/my-uploads/meter")
        .replace("reports/logs", "bucket/access-logs")
        .replace("expire_days", "customer_parameter = \"x-cc\"\nexpire_days");
    let place = Workspace::with(&format!("{config}[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n"));
    place.run("migrate").ends(0);
    let generate = "demo generate bucket --month 2026-03 --rows 2000 --shared-bucket";
    place
        .run(&format!("{generate} My/uploads"))
        .ends(2)
        .says(&["--shared-bucket: `My/uploads` is no name of a bucket"]);
    assert!(place.path("bucket").read_dir().unwrap().next().is_none(), "nothing is written");
    place
        .run(&format!("{generate} my-uploads"))
        .ends(0)
        .says(&["34 Inventories in bucket/inventory/my-uploads/meter", "files of access logs in bucket/access-logs"]);
    let read = || {
        for kind in ["ingest_inventory", "ingest_access_logs"] {
            place.run(&format!("run {kind} bucket=my-uploads --as-of 2026-04-03T12:00:00Z")).ends(0);
        }
        place.query(
            "SELECT source, count(*), sum(bad_lines), sum(counted) FROM bucket_days GROUP BY source ORDER BY source",
        )
    };
    let first = read();
    assert!(first[0].starts_with("access_logs|") && first[1].starts_with("inventory|10|0|"), "{first:?}");
    assert!(place.query("SELECT count(DISTINCT customer) FROM bucket_weights")[0].parse::<u32>().unwrap() > 20);
    // late lines come with the restated bill
    place.run(&format!("{generate} my-uploads --restated 1")).ends(0);
    let second = read();
    assert!(second[0] != first[0] && second[1] == first[1], "{first:?} {second:?}");
    // days that were read are divided, and the others are the house's
    place
        .run("ingest --month 2026-03")
        .ends(0)
        .says(&["shared bucket my-uploads, storage_gb: customers have", "days without a report of S3"]);
    let by_day = "SELECT sum(state = 'apportioned'), sum(state = 'no_report') FROM bucket_shares \
                  WHERE meter = 'storage_gb' AND class = 'STANDARD'";
    // ten days are looked at; two of them are in April, and the bill does not settle one
    assert_eq!(place.query(by_day), ["7|23"]);
    place.run("verify").ends(0);
    place.run("ingest --month 2026-03").ends(0).says(&["is booked already"]);
    let shared = place.run("shared my-uploads --days 400").ends(0).says(&["billed day", "apportioned", "no report"]);
    assert!(shared.out.lines().all(|line| line.chars().count() <= 90), "{}", shared.out);
    let largest = "SELECT customer FROM bucket_weights WHERE day = '2026-03-28' AND measure = 'byte_seconds' AND customer <> '' \
                   AND class = 'STANDARD' ORDER BY length(amount) DESC, amount DESC LIMIT 1";
    let customer = place.query(largest).remove(0);
    let objects =
        place.run(&format!("explain {customer} --meter storage_gb --day 2026-03-28 --items 5")).ends(0).says(&[
            "GB-months booked",
            "apportioned",
            "shared bucket my-uploads, STANDARD",
            " byte-seconds\n",
            "is worth",
            "object made (UTC)",
            "/2026-03-2",
        ]);
    assert!(!objects.out.contains("note:"), "{}", objects.out);
    let lines = place.run(&format!("explain {customer} --meter storage_gb --day 2026-03-28 --items 0 --lines")).ends(0);
    lines.says(&["of shared buckets", " equal"]);
    let requests = place.run(&format!("explain {customer} --meter transfer_gb --day 2026-03-28")).ends(0);
    requests.says(&["shared bucket my-uploads\n", " bytes\n", "REST.GET.OBJECT"]);
    let json = format!("explain {customer} --meter storage_gb --day 2026-03-28 --items 10000 --lines --json");
    let json = place.run(&json).ends(0).json();
    let meter = &json[0]["meters"][0];
    // what the customer has of the bucket, and no line of its own
    let day = &meter["days"][0];
    assert_eq!((&day["difference"], &day["lines"]), (&"0".into(), &0.into()), "{day}");
    assert!(day["apportioned"] == day["booked"] && day["booked"] != "0", "{day}");
    let standard = meter["shares"].as_array().unwrap().iter().find(|share| share["class"] == "STANDARD").unwrap();
    let of = |value: &serde_json::Value| value.as_str().unwrap().parse::<u128>().unwrap();
    let items = standard["items"]["items"].as_array().unwrap();
    let sum: u128 = items.iter().map(|item| of(&item["amount"])).sum();
    assert_eq!(sum, of(&standard["own"]["weight"]), "the objects make the weight");
    assert!(items.windows(2).all(|two| of(&two[0]["amount"]) >= of(&two[1]["amount"])));
    // what is not held cannot be accepted
    let accept = "shared my-uploads --accept 2026-03-28";
    place
        .run(&format!("{accept} --reason x"))
        .ends(1)
        .says(&["2026-03-28 of my-uploads is not held: the booked bill divides it"]);
    place.run(accept).ends(2).says(&["--reason: say why"]);
    place.run("shared --accept 2026-03-28 --reason x").ends(2);
}

/// Guards against: a day with few reports being charged to the few customers in them, without a
/// person.
#[test]
fn a_held_day_is_divided_when_a_person_accepts_it() {
    let config = CONFIG
        .replace("reports/inventory", "bucket/inventory/my-uploads/meter")
        .replace("expire_days", "floor_percent = 100\nband_percent = 0\nexpire_days");
    let place = Workspace::with(&format!("{config}[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n"));
    place.run("migrate").ends(0);
    place.run("demo generate bucket --month 2026-03 --rows 500 --shared-bucket my-uploads").ends(0);
    place.run("run ingest_inventory bucket=my-uploads --as-of 2026-04-03T12:00:00Z").ends(0);
    place.run("ingest --month 2026-03").ends(0).says(&["held, because the reports are far from the bill"]);
    let held = "SELECT day FROM bucket_shares WHERE state = 'held' ORDER BY day LIMIT 1";
    let held = place.query(held).remove(0);
    let shares = format!("SELECT count(*) FROM booked_usage WHERE kind = 'apportioned' AND day = '{held}'");
    // of another storage class, of which the reports have more than the bill
    let before: u32 = place.query(&shares)[0].parse().unwrap();
    let accept = format!("shared my-uploads --accept {held} --reason few-files");
    place.run(&accept).ends(0).says(&[&format!("{held} of my-uploads is accepted"), "meter ingest --month 2026-03"]);
    place.run(&accept).ends(0).says(&["was accepted already"]);
    let kept = place.query("SELECT action || ' ' || target || ' ' || reason FROM audit_log");
    assert_eq!(kept, [format!("shared --accept my-uploads {held} few-files")]);
    place.run("ingest --month 2026-03").ends(0).says(&["booked"]);
    assert!(place.query(&shares)[0].parse::<u32>().unwrap() > before + 5);
    place.run(&accept).ends(1).says(&["is not held: the booked bill divides it"]);
    place.run("verify").ends(0);
}

#[test]
fn a_worker_reads_the_reports_of_each_bucket() {
    let place = Workspace::with(CONFIG);
    for folder in ["reports/inventory", "reports/logs"] {
        std::fs::create_dir_all(place.path(folder)).unwrap();
    }
    place.run("migrate").ends(0);
    place.run("schedule").ends(0).says(&["ingest_inventory", "25 * * * *", "ingest_access_logs", "55 * * * *"]);
    place.run("work --once");
    let done = "SELECT kind, key, state FROM jobs WHERE kind LIKE 'ingest\\_%' ESCAPE '\\' ORDER BY kind";
    assert_eq!(
        place.query(done),
        ["ingest_access_logs|ingest_access_logs/my-uploads|done", "ingest_inventory|ingest_inventory/my-uploads|done"]
    );
    for kind in ["ingest_inventory", "ingest-access-logs"] {
        let unknown = "there is no shared bucket `other`; there are: `my-uploads`";
        place.run(&format!("run {kind} bucket=other")).ends(2).says(&[unknown]);
    }
}

#[test]
fn doctor_looks_for_the_reports() {
    let place = Workspace::with(CONFIG);
    place.run("migrate").ends(0);
    let missing = "WRONG  inventory of my-uploads: reports/inventory/: there is no such folder";
    place.run("doctor").ends(1).says(&[missing, "-> mend `location` in [[shared_buckets]]: docs/shared-bucket.md"]);
    std::fs::create_dir_all(place.path("reports/inventory/data")).unwrap();
    std::fs::create_dir_all(place.path("reports/logs")).unwrap();
    place
        .run("doctor")
        .says(&["warn   inventory of my-uploads: none below", "warn   access_logs of my-uploads: none below"]);
    let folder = |days_ago: i64| {
        let scanned_at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days_ago);
        let folder = scanned_at.strftime("%Y-%m-%dT01-00Z").to_string();
        std::fs::create_dir_all(place.path("reports/inventory").join(&folder)).unwrap();
        folder
    };
    std::fs::create_dir_all(place.path("reports/inventory/hive")).unwrap();
    folder(9);
    let old = folder(8);
    let is_old = format!("warn   inventory of my-uploads: the newest is of {old}, ");
    place.run("doctor").says(&[&is_old, "d ago", "-> look whether the inventory is still configured"]);
    let newest = folder(1);
    std::fs::write(place.path("reports/logs/2026-11-28-10-00-00-0123456789ABCDEF"), "").unwrap();
    let is_new = format!("ok     inventory of my-uploads: the newest is of {newest}");
    place.run("doctor").says(&[&is_new, "there are some below"]);
}
