//! Stories of `meter work` and the commands around the queue, through the binary.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{LEDGER, Ran, Workspace, meter};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const USAGE: &str = "SELECT customer, meter, day, sum(quantity) FROM booked_usage GROUP BY 1, 2, 3 HAVING sum(quantity) <> 0 ORDER BY 1, 2, 3";

/// A running worker, which does not outlive its test.
struct Work(Option<Child>);

impl Work {
    fn start(place: &Workspace, line: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = meter(place.folder.path());
        command.arg("work").args(line.split_whitespace()).envs(variables.iter().copied());
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.as_ref().unwrap().id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Stops the process at an instant at which it does not hold the books' write lock, which
    /// nobody could take from it: SQLite's file locks have no lease.
    fn stop_between_writes(&self, place: &Workspace) {
        let start = Instant::now();
        self.signal(Signal::SIGSTOP);
        while place.is_write_locked() {
            assert!(start.elapsed() < Duration::from_secs(30), "the worker always writes");
            self.signal(Signal::SIGCONT);
            std::thread::sleep(Duration::from_millis(5));
            self.signal(Signal::SIGSTOP);
        }
    }

    fn ended(mut self) -> Ran {
        crate::support::ended_with_output(self.0.take().unwrap()).into()
    }

    fn stop(self) -> Ran {
        self.signal(Signal::SIGTERM);
        self.ended()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Waits until a query on the books says so.
#[track_caller]
fn until(place: &Workspace, sql: &str, says: &str) {
    let start = Instant::now();
    while !place.path("meter.db").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // the tables come all at once, some time after the file
    std::thread::sleep(Duration::from_millis(300));
    while place.query("SELECT count(*) FROM sqlite_schema WHERE name = 'jobs'") != ["1"] {
        std::thread::sleep(Duration::from_millis(20));
    }
    loop {
        let found = place.query(sql);
        if found.first().is_some_and(|f| f == says) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{sql}: {found:?}, not {says}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn months() -> [&'static str; 3] {
    ["2026-03", "2026-04", "2026-05"]
}

fn deliver(place: &Workspace) {
    for month in months() {
        place.run(&format!("demo generate bucket --month {month} --rows 4000 --customers 30 --files 6")).ends(0);
    }
}

#[test]
fn the_schedule_runs_and_ctrl_c_is_clean() {
    // a line that fires once a year: no tick falls into the test
    let yearly = ["ingest", "roll_periods", "enforce_budgets", "roll_counters", "verify_books"]
        .map(|kind| format!("{kind} = [\"0 0 1 1 *\"]\n"))
        .concat();
    let never = [
        "check_months",
        "deliver_notifications",
        "sync_stripe",
        "push_stripe",
        "reconcile_stripe",
        "fold_measurements",
        "forecast_usage",
    ]
    .map(|kind| format!("{kind} = []\n"))
    .concat();
    let place =
        Workspace::with(&format!("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n[schedule]\n{yearly}{never}",));
    place.run("demo generate bucket --rows 2000").ends(0);
    let work = Work::start(&place, "", &[]);
    // a schedule that was never seen is due at once: two months, the two jobs of entitlements, the
    // counters, the audit
    until(&place, "SELECT count(*) FROM jobs WHERE state = 'done'", "6");
    let before = place.run("schedule --json").ends(0).json();
    assert!(before.as_array().unwrap().iter().all(|row| row["due"] == false), "{before}");
    place.run("schedule").ends(0).says(&["ingest", "0 0 1 1 *", "job 2: done", "verify_books", "enforce_budgets"]);
    place.run("workers").ends(0).says(&["working", "0 of 4", "ingest_cur"]);
    place.run("jobs list").ends(0).says(&["ingest_cur/main/", "schedule ingest", "done"]);
    work.signal(Signal::SIGINT);
    work.ended().ends(0).says(&["Ctrl-C stops it", "stopped: 6 done"]);
    place.run("workers").ends(0).says(&["no worker is running"]);
    place.run("verify").ends(0);
    // what was enqueued for a tick is not enqueued for it again
    place.run("work --once").ends(0).says(&["stopped: 0 done"]);
}

#[test]
fn a_backfill_gives_the_books_that_ingest_gives() {
    let (one, other) = (Workspace::new(), Workspace::new());
    for place in [&one, &other] {
        deliver(place);
    }
    for month in months() {
        one.run(&format!("ingest --month {month}")).ends(0);
    }
    let dry = "backfill ingest --from 2026-03 --to 2026-05 --dry-run";
    other.run(dry).ends(0).says(&["ingest_cur/main/2026-03/dry enqueued"]);
    other.run(dry).ends(0).says(&["is waiting or running already"]);
    let work = Work::start(&other, "--no-schedule", &[]);
    let ran = other.run("backfill ingest --from 2026-03 --to 2026-05 --wait").ends(0);
    assert_eq!(ran.out.matches("booked the bill of payer default").count(), 3, "{}", ran.out);
    work.stop().ends(0);
    let again = other.query("SELECT count(*) FROM jobs WHERE json_extract(report, '$.outcome') = 'would_apply'");
    assert_eq!(again, ["3"], "the dry run wrote nothing");
    assert_eq!(one.query(LEDGER), other.query(LEDGER));
    assert_eq!(one.query(USAGE), other.query(USAGE));
}

/// Large bills are read in parts by several processes: the same books, however the parts fall.
#[test]
fn a_bill_read_in_parts_gives_the_same_books() {
    let (one, other) = (Workspace::new(), Workspace::new());
    for place in [&one, &other] {
        deliver(place);
    }
    for month in months() {
        one.run(&format!("ingest --month {month}")).ends(0);
    }
    // every bill is large now: this is a limit of 1 MiB, and the bills are made larger than that by
    // a copy of the same size
    let lines = "[read]\nfan_out_mib = 1\n";
    let config = std::fs::read_to_string(other.path("meter.toml")).unwrap() + lines;
    std::fs::write(other.path("meter.toml"), config).unwrap();
    for month in months() {
        let line = format!(
            "demo generate bucket --month {month} --rows 60000 --customers 300 --files 6 --seed 9 --restated 1"
        );
        for place in [&one, &other] {
            place.run(&line).ends(0);
        }
        one.run_with(&format!("ingest --month {month}"), &[("METER_GUARD__ACCEPT_RESTATEMENTS", "true")]).ends(0);
    }
    let accepting = [("METER_GUARD__ACCEPT_RESTATEMENTS", "true")];
    let workers = [(); 3].map(|()| Work::start(&other, "--no-schedule", &accepting));
    other.run("backfill ingest --from 2026-03 --to 2026-05 --wait").ends(0);
    for work in workers {
        work.stop().ends(0);
    }
    let parts =
        other.query("SELECT kind, count(*) FROM jobs WHERE kind = 'ingest_part' AND state = 'done' GROUP BY kind");
    assert!(!parts.is_empty(), "no bill was read in parts: {:?}", other.query("SELECT kind, state, reason FROM jobs"));
    let parents = other.query("SELECT attempts, lease FROM jobs WHERE kind = 'ingest_cur'");
    assert!(parents.iter().all(|p| p == "1|2"), "waiting costs no attempt: {parents:?}");
    assert_eq!(one.query(USAGE), other.query(USAGE));
    assert_eq!(other.query("SELECT count(*) FROM bill_parts"), ["0"], "parts go with the booking");
    let files = "SELECT key, size, rows, counted_rows FROM bill_files ORDER BY 1";
    let totals =
        "SELECT meter, lines, total, attributed, unattributed, excluded, booked FROM bill_totals ORDER BY 1, 3";
    let last = |sql: &str, place: &Workspace| {
        place.query(
            &sql.replace(" ORDER", " WHERE version_id IN (SELECT max(id) FROM bill_versions GROUP BY month) ORDER"),
        )
    };
    assert_eq!(last(files, &one), last(files, &other));
    assert_eq!(last(totals, &one), last(totals, &other));
    other.run("verify").ends(0);
}

/// A worker that is stopped for longer than its lease, and goes on, must not commit what it had
/// begun.
#[test]
fn a_run_that_lost_its_lease_does_not_commit() {
    let place = Workspace::new();
    let short = [("METER_QUEUE__LEASE_SECONDS", "1")];
    place.run("migrate").ends(0);
    let sleeper = Work::start(&place, "--no-schedule --kinds probe", &short);
    place.run("enqueue probe name=once millis=1500").ends(0);
    until(&place, "SELECT state FROM jobs", "running");
    sleeper.stop_between_writes(&place);
    let other = Work::start(&place, "--no-schedule --kinds probe", &short);
    until(&place, "SELECT state || lease FROM jobs", "done2");
    sleeper.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(place.query("SELECT name, effects, repeats FROM probes"), ["once|1|0"], "it did not even repeat it");
    assert_eq!(place.query("SELECT state, lease, attempts FROM jobs"), ["done|2|2"]);
    sleeper.stop().ends(0).says(&["lost its lease"]);
    other.stop().ends(0);
}

#[test]
fn a_second_signal_stops_at_once() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    let work = Work::start(&place, "--no-schedule", &[]);
    place.run("enqueue probe name=long millis=60000").ends(0);
    until(&place, "SELECT state FROM jobs", "running");
    work.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(500));
    work.signal(Signal::SIGTERM);
    let start = Instant::now();
    work.ended().ends(130).says(&["a second signal stops at once", "stopped at once"]);
    assert!(start.elapsed() < Duration::from_secs(20), "the grace time is 30 s");
}

#[test]
fn workers_that_start_together_migrate_once() {
    let kinds = [
        "deliver_notifications",
        "enforce_budgets",
        "fold_measurements",
        "forecast_usage",
        "push_stripe",
        "reconcile_stripe",
        "roll_counters",
        "roll_periods",
        "sync_stripe",
        "verify_books",
    ];
    // A tick that falls into the test would rightly be enqueued as well.
    let once_a_year = kinds.map(|kind| format!("{kind} = [\"0 0 1 1 *\"]\n")).concat();
    let once_a_year = format!("[schedule]\n{once_a_year}");
    for _ in 0..5 {
        let place = Workspace::with(&once_a_year);
        let workers: Vec<Work> = (0..5).map(|_| Work::start(&place, "--once", &[])).collect();
        for work in workers {
            work.ended().ends(0);
        }
        let versions = place.query("SELECT count(*), max(version) FROM schema_versions");
        let newest = books::newest_schema_version();
        assert_eq!(versions, [format!("{newest}|{newest}")]);
        let ticks = place.query("SELECT kind, count(*) FROM jobs GROUP BY kind ORDER BY kind");
        let each = kinds.map(|kind| format!("{kind}|1"));
        assert_eq!(ticks, each, "each tick is enqueued once");
    }
}

/// Two versions on one database: the older one stops in order when the newer one has migrated.
#[test]
fn an_older_worker_stops_when_the_schema_is_newer() {
    let place = Workspace::new();
    let work = Work::start(&place, "--no-schedule", &[("METER_QUEUE__LEASE_SECONDS", "1")]);
    until(&place, "SELECT count(*) FROM workers", "1");
    place.query("INSERT INTO schema_versions VALUES (9999, 'of tomorrow', '', '') RETURNING 1");
    work.ended().ends(1).says(&["schema version 9999", "start the newer one"]);
    place.run("work --once").ends(1).says(&["use the newer meter"]);
}

#[test]
fn dead_jobs_say_why_and_can_be_retried() {
    let place = Workspace::new();
    place.run("demo generate bucket --month 2026-03 --rows 500").ends(0);
    place.run("enqueue ingest_cur export=elsewhere month=2026-03").ends(0);
    let ran = place.run("work --once --no-schedule").ends(1);
    let ran = ran.says(&["failed for good", "no export named `elsewhere`", "1 dead"]);
    // what the line does not say itself of the run
    let line = ran.err.lines().find(|line| line.contains("failed for good")).unwrap();
    assert!(line.ends_with("(month=\"2026-03\")"), "{line}");
    place.run("jobs list --state dead").ends(0).says(&["ingest_cur/elsewhere/2026-03", "no export named"]);
    place.run("jobs show 1").ends(0).says(&["dead", "payload", "\"month\":\"2026-03\""]);
    let more = std::fs::read_to_string(place.path("meter.toml")).unwrap().replace("main", "elsewhere");
    std::fs::write(place.path("meter.toml"), more).unwrap();
    place.run("jobs retry 1").ends(0).says(&["1 job(s) due now"]);
    place.run("work --once --no-schedule").ends(0).says(&["1 done"]);
    place.run("jobs retry 1").ends(1).says(&["nothing was changed"]);
    place.run("jobs cancel 1").ends(1).says(&["finished jobs cannot be cancelled"]);
    place.run("enqueue probe name=waits").ends(0);
    place.run("jobs cancel 1 2 02").ends(1).says(&["1 job(s) cancelled", "1 of 2 jobs stay as they were"]);
    place.run("jobs purge --all").ends(0).says(&["2 job(s) removed"]);
}

#[test]
fn bad_input_says_what_and_where() {
    let place = Workspace::new();
    place.run("jobs list").ends(1).says(&["there are no books", "meter.db"]);
    place.run("migrate").ends(0);
    for (line, words) in [
        ("enqueue nothing", &["no kind of job named `nothing`", "ingest_cur", "probe"][..]),
        ("enqueue probe", &["probe: `name` is missing"]),
        ("enqueue probe name=a nome=b", &["nome"]),
        ("enqueue probe name", &["`name` is not FIELD=VALUE"]),
        ("enqueue probe name=a name=b", &["`name` is given twice"]),
        ("enqueue ingest_cur export=main month=2026-13", &["`month`", "2026-13"]),
        ("enqueue probe --payload {", &["probe"]),
        ("work --kinds probe,nothing", &["no kind of job named `nothing`"]),
        ("work --concurrency 0", &["--concurrency"]),
        ("run nothing", &["no kind of job named"]),
        ("run ingest_cur export=nope month=2026-05", &["there is no export named `nope`"]),
        (
            "run check_months --as-of 2100-01-01T00:00:00Z",
            &["the future can only be shown: check_months has no dry run"],
        ),
        ("run roll_periods --as-of 2100-01-01T00:00:00Z", &["the future can only be shown: add --dry-run"]),
        ("backfill ingest --from 2026-05 --to 2026-03", &["is after"]),
        ("jobs show 77", &["there is no job 77"]),
        ("jobs retry 77", &["there is no job 77"]),
        ("jobs retry", &["say which jobs to retry"]),
        ("jobs cancel", &["say which jobs to cancel"]),
        ("jobs purge", &["say which jobs to purge"]),
        ("jobs purge --state running", &["cancel them first"]),
        ("jobs list --kind nothing", &["no kind of job named `nothing`"]),
        ("jobs list --state asleep", &["no state of a job"]),
    ] {
        place.run(line).ends(2).says(words);
    }
    for (name, value, words) in [
        ("METER_SCHEDULE__INGEST", "['0 0 30 2 *']", &["schedule.ingest", "never fires"][..]),
        ("METER_SCHEDULE__INGEST", "['hourly']", &["no cron line"]),
        ("METER_QUEUE__MAX_CONCURRENT__NOTHING", "3", &["no kind of job `nothing`"]),
        ("METER_QUEUE__LEASE_SECONDS", "0", &["queue.lease_seconds"]),
        ("METER_QUEUE__KEEP_DONE_DAYS", "0", &["queue.keep_done_days", "at least 1"]),
        ("METER_QUEUE__CONCURRENCY", "0", &["queue.concurrency"]),
    ] {
        place.run_with("work --once", &[(name, value)]).ends(2).says(words);
    }
    let numbered = place.run("enqueue probe name=7 millis=5").ends(0);
    assert!(numbered.out.contains("enqueued"));
    place.run("run probe name=here --json").ends(0).says(&["\"repeats\": 0"]);
}
