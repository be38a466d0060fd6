//! kill -9 at any moment of a job that reads reports about a shared bucket leaves each day as it
//! was or as it will be; and workers and commands at once store what one alone stores.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake_aws::bucket::{BucketShares, BucketSpec, BucketWorld, LogDelivery, LogForm, WrittenReports};
use fake_aws::inventories::Form;
use jiff::{SignedDuration, Timestamp};
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use testkit::needs::tool;
use testkit::suite_database::cases;

use crate::support::{Workspace, meter};

const CONFIG: &str = "[[shared_buckets]]\nname = \"all-uploads\"\ncustomer_key = \"c/{customer}/\"\n\
                      customer_parameter = \"x-cc\"\nexpire_days = 1\n\
                      [shared_buckets.inventory]\nlocation = \"reports/inventory/all-uploads/meter\"\n\
                      [shared_buckets.access_logs]\nlocation = \"reports/access-logs\"\n";
/// All that is stored of the days, but for the time at which they were read.
const DAYS: &str = "SELECT day, source, digest, files, counted, repeated, of_nobody, contradictions, bad_lines FROM bucket_days \
                    UNION ALL SELECT day, source, measure, class, customer, amount, '', '', '' FROM bucket_weights ORDER BY 1, 2, 3, 4, 5";

fn spec((year, month, days): (i16, u8, u8)) -> BucketSpec {
    BucketSpec {
        bucket: "all-uploads".into(),
        account: "111122223333".into(),
        region: "us-east-1".into(),
        year,
        month,
        days,
        customers: (0..60).map(|number| format!("customer-{number:02}")).collect(),
        uploads_per_day: 200,
        largest_bytes: 64 << 20,
        seed: 18,
        shares: BucketShares { late_lines: 100, doubled_lines: 50, ended_early: 100, ..BucketShares::FAITHFUL },
    }
}

/// Writes what S3 has reported by then.
fn report(place: &Workspace, world: &BucketWorld, until: Timestamp, deliveries: LogDelivery) {
    let written = WrittenReports { until, inventories: Form::Parquet, logs: LogForm::ByEventTime, deliveries };
    let (inventories, files) = world.write_reports(&place.path("reports"), written).unwrap();
    assert!(inventories > 0 && files > 0);
}

/// The rows of each day and source.
type Days = BTreeMap<String, Vec<String>>;

fn days(place: &Workspace) -> Days {
    let mut found = Days::new();
    for row in place.query(DAYS) {
        let day = row.split('|').take(2).collect::<Vec<_>>().join(" ");
        found.entry(day).or_default().push(row);
    }
    found
}

/// Books that have read a first delivery of reports, with a second one of all days beside them.
struct Scene {
    place: Workspace,
    command: String,
    before: Days,
    after: Days,
}

impl Scene {
    fn new(kind: &str) -> Self {
        let place = Workspace::with(CONFIG);
        place.run("migrate").ends(0);
        let world = BucketWorld::new(spec((2026, 3, 9))).unwrap();
        let (soon, late): (Timestamp, Timestamp) =
            ("2026-03-07T12:00:00Z".parse().unwrap(), "2026-03-10T20:00:00Z".parse().unwrap());
        let command = format!("run {kind} bucket=all-uploads --as-of {late}");
        report(&place, &world, soon, LogDelivery::First);
        place.run(&format!("run {kind} bucket=all-uploads --as-of {soon}")).ends(0);
        let before = days(&place);
        // what a round begins with
        place.execute(&format!(
            "ATTACH '{}' AS saved; CREATE TABLE saved.days AS SELECT * FROM bucket_days; \
             CREATE TABLE saved.weights AS SELECT * FROM bucket_weights;",
            place.path("saved.db").display()
        ));
        report(&place, &world, late, LogDelivery::Late);
        place.run(&command).ends(0);
        let after = days(&place);
        let other = before.iter().filter(|(day, rows)| after.get(*day) != Some(rows)).count();
        assert!(other > 0 && after.len() > before.len(), "some days change, and some are new: {:?}", after.keys());
        Self { place, command, before, after }
    }

    fn reset(&self) {
        let saved = self.place.path("saved.db");
        self.place.execute(&format!(
            "ATTACH '{}' AS saved; DELETE FROM bucket_weights; DELETE FROM bucket_days; \
             INSERT INTO bucket_days SELECT * FROM saved.days; INSERT INTO bucket_weights SELECT * FROM saved.weights;",
            saved.display()
        ));
        assert!(days(&self.place) == self.before);
    }

    fn start(&self) -> Child {
        let mut command = meter(self.place.folder.path());
        command.args(self.command.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// How many days are as they will be; each other one is as it was.
    fn check(&self, how: &str) -> usize {
        let now = days(&self.place);
        for (day, rows) in &now {
            let whole = self.before.get(day) == Some(rows) || self.after.get(day) == Some(rows);
            assert!(whole, "{how}: {day} is neither as it was nor as it will be");
        }
        assert!(self.before.keys().all(|day| now.contains_key(day)), "{how}: a day is gone");
        let done = now.iter().filter(|(day, rows)| self.after.get(*day) == Some(rows)).count();
        self.place.run(&self.command).ends(0);
        assert!(days(&self.place) == self.after, "{how}: the next run does not end where it should");
        done
    }
}

fn killed_at_any_moment(kind: &str) {
    let scene = Scene::new(kind);
    scene.reset();
    let start = Instant::now();
    assert!(crate::support::ended(&mut scene.start()).success());
    let whole = start.elapsed();
    let rounds = cases(10).max(3);
    let (mut unfinished, mut parts) = (0, 0);
    for round in 1..=rounds {
        scene.reset();
        let mut child = scene.start();
        std::thread::sleep(whole * round / rounds);
        child.kill().unwrap();
        crate::support::ended(&mut child);
        let done = scene.check(&format!("killed after {round}/{rounds} of the run"));
        unfinished += u32::from(done < scene.after.len());
        parts += u32::from(done > 0 && done < scene.after.len());
    }
    assert!(unfinished > 0, "no kill came before the end of a run of {whole:?}");
    eprintln!(
        "{kind}: of {rounds} kills, {unfinished} came before the last day was stored, {parts} after the first one"
    );
}

#[test]
fn a_kill_at_any_moment_of_ingest_inventory_leaves_whole_days() {
    killed_at_any_moment(IngestInventory::KIND);
}

#[test]
fn a_kill_at_any_moment_of_ingest_access_logs_leaves_whole_days() {
    killed_at_any_moment(IngestAccessLogs::KIND);
}

/// A kill at some writes to the database files: the moments that a clock rarely hits.
fn killed_at_any_write(kind: &str) {
    let scene = Scene::new(kind);
    let strace = |inject: &str| {
        scene.reset();
        let mut command = Command::new("strace");
        command.current_dir(scene.place.folder.path()).args(["-f", "-qq", "-o", "trace"]);
        command.args(["-e", "trace=pwrite64,fdatasync", "-e", inject, env!("CARGO_BIN_EXE_meter")]);
        command.args(scene.command.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        crate::support::ended(&mut command.spawn().unwrap())
    };
    assert!(strace("inject=fdatasync:delay_enter=0:when=1").success(), "strace cannot trace here");
    let trace = std::fs::read_to_string(scene.place.path("trace")).unwrap();
    let writes = trace.lines().filter(|line| line.contains("pwrite64(")).count();
    assert!(writes > 30, "{writes} writes");
    let (mut kills, mut parts) = (0, 0);
    let rounds = 8;
    for round in 0..rounds {
        let write = 1 + (2 * round + 1) * writes / (2 * rounds);
        kills += u32::from(!strace(&format!("inject=pwrite64:signal=KILL:when={write}")).success());
        let done = scene.check(&format!("killed at write {write} of {writes}"));
        parts += u32::from(done > 0 && done < scene.after.len());
    }
    eprintln!("{kind}: {kills} kills of {rounds} at {writes} writes, {parts} between the first day and the last one");
    assert!(kills > 5 && parts > 2, "{kills} kills, {parts} between two days");
}

#[test]
fn a_kill_at_any_write_of_ingest_inventory_leaves_whole_days() {
    if tool("strace") {
        killed_at_any_write(IngestInventory::KIND);
    }
}

#[test]
fn a_kill_at_any_write_of_ingest_access_logs_leaves_whole_days() {
    if tool("strace") {
        killed_at_any_write(IngestAccessLogs::KIND);
    }
}

/// Two workers by their schedule, and two commands for each job, all at once.
#[test]
fn workers_and_commands_at_once_store_what_one_alone_stores() {
    let now = Timestamp::now();
    let yesterday = now.checked_sub(SignedDuration::from_hours(24)).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
    let until = now.checked_sub(SignedDuration::from_hours(8)).unwrap();
    let month = (yesterday.year(), u8::try_from(yesterday.month()).unwrap(), u8::try_from(yesterday.day()).unwrap());
    let world = BucketWorld::new(spec(month)).unwrap();
    let (alone, shared) = (Workspace::with(CONFIG), Workspace::with(CONFIG));
    for place in [&alone, &shared] {
        place.run("migrate").ends(0);
        report(place, &world, until, LogDelivery::Late);
    }
    let command = |place: &Workspace, line: &str| {
        let mut command = meter(place.folder.path());
        command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let runs = [IngestInventory::KIND, IngestAccessLogs::KIND].map(|kind| format!("run {kind} bucket=all-uploads"));
    let lines = ["work --once", "work --once"].into_iter().chain(runs.iter().chain(&runs).map(String::as_str));
    let children: Vec<Child> = lines.map(|line| command(&shared, line)).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    for child in children {
        let ended = crate::support::ended_with_output(child);
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert!(Instant::now() < deadline);
    }
    runs.iter().for_each(|line| drop(alone.run(line).ends(0)));
    let (found, expected) = (days(&shared), days(&alone));
    assert!(!expected.is_empty());
    assert!(found == expected, "{:?} {:?}", found.keys(), expected.keys());
    for kind in [IngestInventory::KIND, IngestAccessLogs::KIND] {
        let done = format!("SELECT DISTINCT state FROM jobs WHERE kind = '{kind}'");
        assert_eq!(shared.query(&done), ["done"]);
    }
}
