//! Access logs of a shared bucket, from a folder into a database: in any order, repeated, late,
//! spilled to a file, and damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use books::shared_bucket::ReportSource;
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::{ReportPlace, SharedBucket};
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_access_logs::line::{LINE_BYTES, LogLine};
use jobs::job::{Failure, Job};
use jobs::shared_bucket::BucketReport;
use jobs::shared_bucket::customer::{CustomerRule, key_beginning};
use jobs::source::Folder;
use proptest::prelude::*;
use testkit::ingest_fixture::IngestFixture;
use testkit::suite_database::cases;

const NOW: &str = "2026-11-25T12:00:00Z";
const ROOT: &str = "logs/111122223333/eu-west-1/files/";

fn day(text: &str) -> Day {
    text.parse().unwrap()
}

/// Books, and a bucket `files` with its logs in a folder.
pub(crate) struct World {
    pub(crate) books: IngestFixture,
    now: Timestamp,
}

impl World {
    pub(crate) async fn new() -> Self {
        let mut books = IngestFixture::new().await;
        std::fs::create_dir(books.bucket().join("logs")).unwrap();
        let bucket = SharedBucket {
            name: "files".into(),
            customers: CustomerRule::new(Some(key_beginning("c/{customer}/").unwrap()), Some("x-cc".into())),
            uses_uploads: false,
            expire_days: None,
            inventory: None,
            access_logs: Some(place(&books.bucket(), "logs/")),
            quiet_hours: 6,
        };
        books.context.shared_buckets = Arc::new(BTreeMap::from([("files".into(), bucket)]));
        Self { books, now: NOW.parse().unwrap() }
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut SharedBucket)) {
        let buckets = Arc::make_mut(&mut self.books.context.shared_buckets);
        change(buckets.get_mut("files").unwrap());
    }

    /// Writes a file that S3 delivered at `delivered`.
    fn write_at(&self, key: &str, bytes: &[u8], delivered: &str) -> PathBuf {
        let path = self.books.bucket().join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(delivered.parse::<Timestamp>().unwrap().into()).unwrap();
        path
    }

    /// Writes a file of the 18th, by event time.
    pub(crate) fn write(&self, unique: &str, lines: &[String]) -> PathBuf {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write_at(&of_18(unique), text.as_bytes(), "2026-11-19T02:00:00Z")
    }

    async fn run(&self) -> Result<BucketReport, Failure> {
        IngestAccessLogs { bucket: "files".into() }.run(&self.books.context, self.now).await
    }

    /// Runs, and once more: that changes nothing.
    pub(crate) async fn read(&self) -> BucketReport {
        let report = self.run().await.unwrap();
        let before = self.stored().await;
        let again = self.run().await.unwrap();
        assert_eq!((again.days_read, again.counted), (vec![], 0), "a repeat reads what it has not stored only");
        assert_eq!(self.stored().await, before);
        report
    }

    /// Days with their counts and weights.
    async fn stored(&self) -> Vec<String> {
        let (from, to) = (day("2026-11-01"), day("2026-12-31"));
        let mut found = vec![];
        for stored in self.books.context.books.bucket_weights("files", from, to).await.unwrap() {
            let day = stored.day;
            assert_eq!(day.source, ReportSource::AccessLogs);
            found.push(format!("{} {:?}", day.day, day.found));
            found.extend(
                day.weights.iter().map(|w| format!("{} {} {} {}", day.day, w.measure.name(), w.customer, w.amount)),
            );
        }
        found
    }

    pub(crate) async fn weights(&self) -> Vec<String> {
        self.stored().await.into_iter().filter(|row| !row.contains("DayCounts")).collect()
    }

    /// Expects a failure that names all of `words`; nothing is stored.
    async fn refused(&self, words: &[&str]) -> Failure {
        let failure = self.run().await.expect_err(&format!("{words:?}"));
        let text = format!("{:#}", failure.error());
        words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is not in: {text}"));
        assert!(self.stored().await.is_empty());
        failure
    }
}

fn place(bucket: &Path, prefix: &str) -> ReportPlace {
    ReportPlace { source: Arc::new(Folder::new(bucket)), prefix: prefix.into() }
}

fn of_18(unique: &str) -> String {
    format!("{ROOT}2026/11/18/2026-11-18-00-00-00-{unique}")
}

/// A line of `files` at noon of the 18th.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    bucket: &'static str,
    time: String,
    id: String,
    operation: &'static str,
    pub(crate) key: String,
    query: &'static str,
    status: &'static str,
    bytes: String,
}

/// A download of 100 bytes of a file of acme.
pub(crate) fn get(id: &str) -> Written {
    Written {
        bucket: "files",
        time: "18/Nov/2026:12:00:00 +0000".into(),
        id: id.into(),
        operation: "REST.GET.OBJECT",
        key: "c/acme/a".into(),
        query: "",
        status: "200",
        bytes: "100".into(),
    }
}

impl Written {
    pub(crate) fn text(&self) -> String {
        let Self { bucket, time, id, operation, key, query, status, bytes } = self;
        format!(
            "79a59df9 {bucket} [{time}] 192.0.2.3 arn:aws:iam::111122223333:user/web {id} {operation} {key} \
             \"GET /{key}{query} HTTP/1.1\" {status} - {bytes} 4096 7 6 \"-\" \"curl/8 (a; \"b\")\" - host= SigV4 \
             ECDHE-RSA-AES128-GCM-SHA256 QueryString files.s3.amazonaws.com TLSv1.3 - - eu-west-1"
        )
    }
}

#[tokio::test]
async fn a_day_of_logs_becomes_weights_of_customers() {
    let world = World::new().await;
    let ivy = |id| Written { key: "c/ivy/b%2520c".into(), ..get(id) };
    let lines = [
        get("1"),
        Written { status: "206", bytes: "7".into(), ..get("2") },
        Written { status: "304", bytes: "-".into(), ..get("3") },
        Written { status: "404", bytes: "300".into(), ..get("4") },
        Written { operation: "REST.PUT.OBJECT", bytes: "-".into(), ..ivy("5") },
        Written { operation: "REST.HEAD.OBJECT", bytes: "-".into(), ..ivy("6") },
        Written { operation: "REST.DELETE.OBJECT", status: "204", bytes: "-".into(), ..ivy("7") },
        Written { operation: "S3.EXPIRE.OBJECT", status: "-", bytes: "-".into(), ..ivy("8") },
        Written { key: "x/y".into(), query: "?a=1&x-cc=zoe&X-Amz-Expires=60", bytes: "9".into(), ..get("9") },
        Written { operation: "REST.GET.BUCKET", key: "-".into(), bytes: "5000".into(), ..get("10") },
        // two customers, an id that is none, another bucket, another day
        Written { query: "?x-cc=ivy", bytes: "11".into(), ..get("11") },
        Written { key: "x/y".into(), query: "?x-cc=%20", bytes: "12".into(), ..get("12") },
        Written { bucket: "other", ..get("13") },
        Written { time: "18/Nov/2026:00:30:00 +0100".into(), ..get("14") },
    ];
    world.write("A", &lines.map(|line| line.text()));
    let report = world.read().await;
    assert_eq!(report.days_read, [day("2026-11-18")]);
    assert_eq!((report.files, report.counted, report.repeated), (1, 12, 0));
    assert_eq!((report.of_nobody, report.contradictions, report.bad_lines), (2, 1, 0));
    let notes = report.notes.join("\n");
    for words in
        ["1 lines are of other buckets", "`other` (1)", "of other days", "in a form that is no id", "another by"]
    {
        assert!(notes.contains(words), "`{words}` is not in: {notes}");
    }
    assert_eq!(report.not_read, [""; 0]);
    let of = |rest: &[&str]| rest.iter().map(|rest| format!("2026-11-18 {rest}")).collect::<Vec<_>>();
    assert_eq!(
        world.weights().await,
        of(&[
            "bytes_sent  23",
            "bytes_sent acme 107",
            "bytes_sent zoe 9",
            "requests_1  1",
            "requests_1 ivy 1",
            "requests_2  2",
            "requests_2 acme 4",
            "requests_2 ivy 1",
            "requests_2 zoe 1",
        ])
    );
}

/// Random lines of three days with repeats, as the sums that a naive model has of them.
fn random_lines(random: &mut fastrand::Rng, count: usize) -> (Vec<(u8, String)>, BTreeMap<String, u128>) {
    let (mut lines, mut sums, mut seen) = (vec![], BTreeMap::new(), BTreeSet::new());
    for _ in 0..count {
        // an id decides about everything, so that the same id is the same line
        let id = random.u32(..u32::try_from(count).unwrap());
        let mut of_id = fastrand::Rng::with_seed(id.into());
        let date = of_id.u8(17..20);
        let customer = ["acme", "ivy", "zoe", ""][of_id.usize(..4)];
        let operation = ["REST.GET.OBJECT", "REST.PUT.OBJECT", "REST.HEAD.OBJECT"][of_id.usize(..3)];
        let bytes = of_id.u64(..1 << 40);
        let written = Written {
            time: format!("{date}/Nov/2026:{:02}:59:59 +0000", of_id.u8(..24)),
            key: if customer.is_empty() { "x".into() } else { format!("c/{customer}/{id}") },
            operation,
            bytes: bytes.to_string(),
            ..get(&format!("ID{id}"))
        };
        lines.push((date, written.text()));
        if seen.insert(id) {
            let mut add = |measure: &str, amount: u64| {
                *sums.entry(format!("2026-11-{date} {measure} {customer}")).or_default() += u128::from(amount);
            };
            match operation {
                "REST.PUT.OBJECT" => add("requests_1", 1),
                "REST.GET.OBJECT" => {
                    add("requests_2", 1);
                    add("bytes_sent", bytes);
                }
                _ => add("requests_2", 1),
            }
        }
    }
    sums.retain(|_, amount| *amount > 0);
    (lines, sums)
}

/// Puts lines into files of a form, in random order.
fn deliver(world: &World, random: &mut fastrand::Rng, form: &str, lines: &[(u8, String)]) {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut lines = lines.to_vec();
    random.shuffle(&mut lines);
    for (date, line) in lines {
        let unique = random.u8(..4);
        let late = random.u8(..3);
        let key = match form {
            "event" => format!("{ROOT}2026/11/{date}/2026-11-{date}-00-00-00-{unique:016X}"),
            "delivery" => format!("{ROOT}2026/11/{0}/2026-11-{0}-23-{unique:02}-59-AB", date + late),
            _ => format!("logs/2026-11-{}-23-{unique:02}-59-AB", date + late),
        };
        let text = files.entry(key).or_default();
        text.push_str(&line);
        text.push('\n');
    }
    for (key, text) in files {
        world.write_at(&key, text.as_bytes(), "2026-11-24T00:00:00Z");
    }
}

#[tokio::test]
async fn order_repetition_and_the_form_of_files_change_nothing() {
    for (seed, form) in ["event", "delivery", "simple"].iter().cycle().take(6).enumerate() {
        let mut random = fastrand::Rng::with_seed(u64::try_from(seed).unwrap());
        let (lines, sums) = random_lines(&mut random, 600);
        let world = World::new().await;
        deliver(&world, &mut random, form, &lines);
        let report = world.read().await;
        // by delivery, lines of the days around can be in these files, too
        assert_eq!(report.days_read.len(), if *form == "event" { 3 } else { 7 }, "{form} {seed}");
        assert!(report.repeated > 100 && report.counted + report.repeated == 600, "{report:?}");
        let mut want: Vec<String> = sums.iter().map(|(row, amount)| format!("{row} {amount}")).collect();
        let mut found = world.weights().await;
        want.sort();
        found.sort();
        assert_eq!(found, want, "{form} {seed}");
    }
}

/// Lists of some sightings and chunks of 1 KiB give what one list and one chunk give.
#[tokio::test]
async fn what_is_spilled_gives_what_is_kept_in_memory() {
    let mut random = fastrand::Rng::with_seed(7);
    let (lines, _) = random_lines(&mut random, 3_000);
    let mut found = vec![];
    for (memory_bytes, parallel) in [(48 << 20, 2), (48 * 40, 1), (48 * 200, 3), (1, 2)] {
        let mut world = World::new().await;
        world.books.context.read_settings.limits.memory_bytes = memory_bytes;
        world.books.context.read_settings.limits.parallel = parallel;
        deliver(&world, &mut fastrand::Rng::with_seed(8), "event", &lines);
        world.read().await;
        found.push(world.stored().await);
    }
    assert!(found[0].len() > 20, "{found:?}");
    for other in &found[1..] {
        assert_eq!(*other, found[0]);
    }
}

#[tokio::test]
async fn late_lines_give_what_a_first_complete_run_gives() {
    let (first, late) = (vec![get("1").text(), get("2").text()], vec![get("2").text(), get("3").text()]);
    let (complete, world) = (World::new().await, World::new().await);
    complete.write("A", &first);
    complete.write("B", &late);
    complete.read().await;
    world.write("A", &first);
    world.read().await;
    assert_eq!(world.weights().await[0], "2026-11-18 bytes_sent acme 200");
    world.write("B", &late);
    let report = world.read().await;
    assert_eq!((report.days_read, report.counted, report.repeated), (vec![day("2026-11-18")], 3, 1));
    assert_eq!(world.stored().await, complete.stored().await);
    // a file that was replaced, and another rule, are another day, too
    world.write("B", &[get("3").text()]);
    assert_eq!(world.read().await.days_read.len(), 1);
    assert_eq!(world.weights().await, complete.weights().await);
    let mut world = world;
    world.change(|bucket| bucket.customers = CustomerRule::new(Some(key_beginning("{customer}/").unwrap()), None));
    assert_eq!(world.read().await.days_read.len(), 1);
    assert_eq!(world.weights().await[0], "2026-11-18 bytes_sent c 300");
}

#[tokio::test]
async fn a_day_waits_until_no_file_came_for_the_quiet_hours() {
    let mut world = World::new().await;
    world.write("A", &[get("1").text()]);
    world.write_at(&of_18("B"), format!("{}\n", get("2").text()).as_bytes(), "2026-11-19T08:00:00Z");
    for (now, waits) in [("2026-11-18T23:59:59Z", 1), ("2026-11-19T13:59:59Z", 1), ("2026-11-19T14:00:00Z", 0)] {
        world.now = now.parse().unwrap();
        let report = world.run().await.unwrap();
        // of a day that is not over nobody asks
        let waiting = if now.starts_with("2026-11-18") { 0 } else { waits };
        assert_eq!((report.days_waiting, report.days_read.len()), (waiting, 1 - usize::from(waits == 1)), "{now}");
    }
    assert_eq!(world.weights().await[0], "2026-11-18 bytes_sent acme 200");
    // eleven days later nobody looks at it
    world.write("C", &[get("3").text()]);
    world.now = "2026-11-29T00:00:00Z".parse().unwrap();
    let report = world.read().await;
    assert!(report.notes[0].contains("there is no log of 2026-11-19 to 2026-11-28"), "{report:?}");
    assert_eq!(BucketReport { notes: vec![], ..report }, BucketReport::default());
}

#[tokio::test]
async fn bad_lines_are_named_and_too_many_store_nothing() {
    let world = World::new().await;
    let good: Vec<String> = (0..40).map(|id| get(&id.to_string()).text()).collect();
    let mut lines = good.clone();
    lines.insert(2, "2026-11-18 12:00:00 FRA56 100 192.0.2.3 GET d111.cloudfront.net /a 200 - curl - -".into());
    lines.insert(3, String::new());
    lines.insert(10, format!("{}{}", get("99").text(), "x".repeat(LINE_BYTES)));
    let text = lines.join("\n");
    // the last line is cut off
    let path = world.write_at(&of_18("A"), &text.as_bytes()[..text.len() - 110], "2026-11-19T02:00:00Z");
    let report = world.read().await;
    assert_eq!((report.counted, report.bad_lines), (39, 3));
    let notes = report.notes.join("\n");
    let name = path.display();
    for words in [
        "3 of 42 lines cannot be read. ".to_owned(),
        format!("{name}, line 3: its third field is no time"),
        format!("{name}, line 11: it is longer than 64 KiB"),
        format!("{name}, line 43: it has fewer"),
    ] {
        assert!(notes.contains(&words), "`{words}` is not in: {notes}");
    }
    assert_eq!(report.not_read, [""; 0]);
    // binary garbage, and what was stored stays
    let before = world.stored().await;
    let garbage: Vec<u8> =
        (0..200_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    world.write_at(&of_18("B"), &garbage, "2026-11-19T02:00:00Z");
    let report = world.read().await;
    assert_eq!((report.days_read.len(), report.not_read.len()), (0, 1));
    for words in ["2026-11-18: ", "the day was not stored", "00-B, line 1: "] {
        assert!(report.not_read[0].contains(words), "`{words}` is not in: {:?}", report.not_read);
    }
    assert!(IngestAccessLogs::needs_attention(&report));
    assert_eq!(world.stored().await, before);
}

#[tokio::test]
async fn files_without_an_end_or_lines_do_no_harm() {
    let mut world = World::new().await;
    world.books.context.read_settings.limits.memory_bytes = 1 << 20;
    let line = get("1").text();
    for (unique, bytes) in [
        ("A", Vec::new()),
        ("B", b"\n\n\r\n".to_vec()),
        ("C", format!("{line}\r\n{}", get("2").text()).into_bytes()),
        // a mebibyte without a line feed
        ("D", vec![b'x'; 1 << 20]),
        ("E", (0..20).map(|id| get(&format!("E{id}")).text() + "\n").collect::<String>().into_bytes()),
    ] {
        world.write_at(&of_18(unique), &bytes, "2026-11-19T02:00:00Z");
    }
    let report = world.read().await;
    assert_eq!((report.files, report.counted, report.bad_lines), (5, 22, 1), "{report:?}");
}

/// Keys with all that Unicode and S3 allow: each is the customer's whose id it has, or nobody's.
#[tokio::test]
async fn every_key_is_a_customers_or_nobodys() {
    let world = World::new().await;
    let long = "k".repeat(1_017);
    let (long_key, long_id) = (format!("c/acme/{long}"), format!("c/{long}/x"));
    let encoded = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.-_".contains(&byte);
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%25{b:02X}") }).collect()
    };
    let keys = [
        ("c/acme/../ivy/a", "acme"),
        ("c/../a", ".."),
        ("c/a\u{308}/x", "a\u{308}"),
        ("c/\u{e4}/x", "\u{e4}"),
        ("c/\u{202e}emca/x", "\u{202e}emca"),
        ("c/100%/x", "100%"),
        ("c/a%2Fb/x", "a%2Fb"),
        ("c/a b/x", "a b"),
        ("c/a\"b/x", "a\"b"),
        ("c/ a/x", ""),
        ("c/a\nb/x", ""),
        ("c//x", ""),
        ("C/acme/x", ""),
        ("/c/acme/x", ""),
        (long_key.as_str(), "acme"),
        (long_id.as_str(), ""),
    ];
    let lines: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(id, (key, _))| {
            Written { key: encoded(key), bytes: (1_u64 << id).to_string(), ..get(&id.to_string()) }.text()
        })
        .collect();
    world.write("A", &lines);
    let report = world.read().await;
    assert_eq!((report.counted, report.bad_lines), (16, 0), "{report:?}");
    let mut want: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, (_, customer)) in keys.iter().enumerate() {
        *want.entry(*customer).or_default() += 1 << id;
    }
    let rows = world.weights().await;
    let found: BTreeSet<&String> = rows.iter().filter(|row| row.contains("bytes_sent")).collect();
    let want: Vec<String> = want.iter().map(|(who, bytes)| format!("2026-11-18 bytes_sent {who} {bytes}")).collect();
    assert_eq!(found, want.iter().collect());
}

#[tokio::test]
async fn a_pattern_that_matches_nothing_or_everything_is_reported() {
    let mut world = World::new().await;
    world.write("A", &[Written { key: "uploads/a".into(), ..get("1") }.text()]);
    let report = world.read().await;
    assert!(report.not_read[0].contains("none of 1 lines names a customer; check"), "{report:?}");
    assert_eq!(report.days_read.len(), 1, "it is nobody's");
    // each key is a customer of its own
    let lines: Vec<String> =
        (0..100_001).map(|id| Written { key: format!("f{id}"), ..get(&id.to_string()) }.text()).collect();
    world.write("B", &lines);
    world.change(|bucket| bucket.customers = CustomerRule::new(Some(key_beginning("{customer}").unwrap()), None));
    let before = world.stored().await;
    let report = world.run().await.unwrap();
    assert!(report.not_read[0].contains("more than 100000 customers"), "{report:?}");
    assert!(report.not_read[0].contains("`customer_key`") && report.days_read.is_empty(), "{report:?}");
    assert_eq!(world.stored().await, before);
}

#[tokio::test]
async fn lines_of_other_buckets_alone_are_a_finding() {
    let world = World::new().await;
    world.write("A", &[Written { bucket: "uploads", ..get("1") }.text()]);
    let report = world.read().await;
    let [finding] = &report.not_read[..] else { panic!("{report:?}") };
    assert!(finding.contains("`uploads` (1)"), "{finding}");
}

#[tokio::test]
async fn files_that_are_gone_take_nothing_back() {
    let world = World::new().await;
    let gone = world.write("A", &[get("1").text()]);
    world.write("B", &[get("2").text()]);
    world.read().await;
    let before = world.stored().await;
    std::fs::remove_file(gone).unwrap();
    let report = world.read().await;
    assert!(report.not_read[0].contains("1 of the 2 files that it was read from are gone"), "{report:?}");
    assert_eq!(world.stored().await, before);
}

#[tokio::test]
async fn a_wrong_place_is_named_and_a_folder_of_other_files_is_noted() {
    let mut world = World::new().await;
    let other = IngestAccessLogs { bucket: "other".into() };
    let failure = other.run(&world.books.context, world.now).await.unwrap_err();
    assert!(format!("{:#}", failure.error()).contains("other: there is no such shared bucket"));
    world.write_at("logs/README", b"read me", NOW);
    let report = world.read().await;
    assert!(report.notes[0].contains("1 files or folders are no logs") && report.notes[0].contains("`logs/README`"));
    assert!(report.notes[1].contains("there is no log of") && report.notes[1].contains("its logging is off"));
    let nowhere = world.books.bucket().join("nowhere");
    world.change(|bucket| bucket.access_logs = Some(place(&nowhere, "")));
    world.refused(&["nowhere", "there is no such folder"]).await;
    world.change(|bucket| bucket.access_logs = None);
    world.refused(&["files: it has no [shared_buckets.access_logs]"]).await;
}

/// A quoted text of pieces that look like the end of one.
fn quoted() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("\"".to_owned()),
        Just("\" ".to_owned()),
        Just("\\\"".to_owned()),
        Just("\" 200 - ".to_owned()),
        Just(" - 7 ".to_owned()),
        Just("[06/Feb/2019:00:00:38 +0000]".to_owned()),
        "[^\n\r]{0,12}",
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Whether S3's own form leaves open where a Request-URI ends: status, error code and four numbers
/// stand in it behind a quote.
fn is_ambiguous(uri: &str) -> bool {
    uri.match_indices("\" ").any(|(at, _)| {
        let fields: Vec<&str> = uri[at + 2..].split(' ').take(7).collect();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| text == "-" || digits(text);
        let [status, code, numbers @ .., _] = &fields[..] else { return false };
        let is_status = *status == "-" || (status.len() == 3 && digits(status));
        fields.len() == 7 && is_status && !code.is_empty() && numbers.iter().all(|text| number(text))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(2_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_line_is_taken_apart_as_it_was_written(
        (uri, referer, agent) in (quoted(), quoted(), quoted()),
        (words, numbers) in (
            proptest::collection::vec("[!#-Z^-~]{1,20}", 8),
            proptest::collection::vec(proptest::option::of(any::<u64>()), 4),
        ),
        status in proptest::option::of(100_u16..600),
        later in proptest::collection::vec("[!#-~]{1,9}", 0..12),
        second in 0_i64..4_102_444_800,
    ) {
        prop_assume!(!is_ambiguous(&uri));
        let time = Timestamp::from_second(second).unwrap().strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
        let number = |at: usize| numbers[at].map_or("-".to_owned(), |number: u64| number.to_string());
        let status_text = status.map_or("-".to_owned(), |status| status.to_string());
        let tail: String = later.iter().map(|field| format!(" {field}")).collect();
        let [w0, w1, w2, w3, w4, w5, w6, w7] = &words[..] else { unreachable!() };
        let line = format!(
            "{w0} {w1} [{time}] {w2} {w3} {w4} {w5} {w6} \"{uri}\" {status_text} {w7} {} {} {} {} \"{referer}\" \"{agent}\" v{tail}",
            number(0), number(1), number(2), number(3)
        );
        let found = LogLine::parse(line.as_bytes());
        let found = found.unwrap_or_else(|why| panic!("{why}: {line}"));
        let plain = [found.bucket_owner, found.bucket, found.remote_ip, found.requester, found.request_id,
            found.operation, found.key, found.error_code];
        for (field, word) in plain.into_iter().zip(&words) {
            prop_assert_eq!(field, word.as_bytes());
        }
        prop_assert_eq!(found.time, second);
        prop_assert_eq!(found.request_uri, uri.as_bytes());
        prop_assert_eq!(found.status, status);
        let found_numbers = [found.bytes_sent, found.object_size, found.total_ms, found.turn_around_ms];
        prop_assert_eq!(&found_numbers[..], &numbers[..]);
        prop_assert_eq!(found.version_id, b"v");
        let later = later.join(" ");
        prop_assert_eq!(found.later, later.as_bytes());
        if !format!("{referer}\"").contains("\" \"") {
            prop_assert_eq!(found.referer, referer.as_bytes());
            prop_assert_eq!(found.user_agent, agent.as_bytes());
        }
    }

    #[test]
    fn random_bytes_are_no_line(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(LogLine::parse(&bytes).is_err());
    }
}
