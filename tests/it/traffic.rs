//! What work costs on a remote database: in the report of each run, for the month, and beside the
//! plan's quota.

use std::time::Duration;

use serde_json::Value as Json;
use testkit::hrana::HranaServer;

use crate::support::served::Served;
use crate::support::{Ran, Workspace, query};

const SAID: &str = "requests to the database";

/// A folder with books on a server.
struct Remote {
    place: Workspace,
    server: HranaServer,
    url: String,
}

impl Remote {
    fn new() -> Self {
        let place = Workspace::new();
        let server = HranaServer::start(&place.path("served.db"));
        let url = server.url();
        let remote = Self { place, server, url };
        remote.run("migrate").ends(0);
        remote
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        self.place.run_with(line, &[&[("METER_DATABASE__URL", self.url.as_str())], variables].concat())
    }

    /// The only job of a kind, and of a name if it has one.
    fn job(&self, kind: &str, name: &str) -> Json {
        let jobs = self.run(&format!("jobs list --json --kind {kind}")).ends(0).json();
        let of = |job: &&Json| name.is_empty() || job["payload"]["name"] == name;
        jobs.as_array().unwrap().iter().find(of).unwrap().clone()
    }

    fn sum_of_days(&self, of: usize) -> i64 {
        let sql = format!(
            "SELECT coalesce(sum(d.value ->> '$[{of}]'), 0) FROM settings, json_each(settings.value) d WHERE name GLOB 'rows *'"
        );
        query(&self.place.path("served.db"), &sql)[0].parse().unwrap()
    }
}

#[test]
fn each_run_says_what_it_cost_and_two_at_once_do_not_mix() {
    let remote = Remote::new();
    remote.run("enqueue probe name=alone").ends(0);
    let ran = remote.run("work --once --no-schedule --log info").ends(0);
    let line = ran.err.lines().find(|l| l.contains("done; ")).unwrap();
    assert!(line.contains(SAID) && line.contains(" rows read, "), "{line}");
    let cost = |job: &Json| {
        let of = &job["report"]["database"];
        ["requests", "rows_read", "rows_written"].map(|name| of[name].as_u64().unwrap())
    };
    let alone = cost(&remote.job("probe", "alone"));
    // the lease is checked, the row is written, and that is committed
    assert_eq!((alone[0], alone[2] > 0), (3, true), "{alone:?}");

    let before = remote.server.counts();
    remote.run("enqueue probe name=beside millis=2000").ends(0);
    remote.run("enqueue verify_books").ends(0);
    remote.run("work --once --no-schedule").ends(0);
    let after = remote.server.counts();
    let (probe, audit) = (remote.job("probe", "beside"), remote.job("verify_books", ""));
    let at = |job: &Json, name: &str| job[name].as_str().unwrap().to_owned();
    assert!(at(&audit, "started_at") < at(&probe, "finished_at"), "they did not run at once");
    assert_eq!(cost(&probe), alone);
    let (audit, all) = (cost(&audit), after.rows_read - before.rows_read);
    assert!(audit[0] > 3 && audit[1] > alone[1] && audit[1] + alone[1] < all, "{audit:?} of {all}");

    let listen = [("METER_DATABASE__URL", remote.url.as_str())];
    let worker = Served::start(remote.place.folder.path(), "--no-schedule", &listen);
    let page = worker.until("/jobs/1", |a| a.status == 200).body;
    assert!(page.contains(SAID), "{page}");
    remote.run("enqueue probe name=waited --wait").ends(0).says(&["probe", SAID]);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn commands_say_what_their_work_cost_and_a_local_file_costs_nothing() {
    let (remote, local) = (Remote::new(), Workspace::new());
    for place in [&remote.place, &local] {
        place.run("demo generate bucket --month 2026-10 --rows 3000 --customers 40").ends(0);
    }
    let booked = remote.run("ingest --month 2026-10 --json").ends(0).json();
    assert!(booked[0]["database"]["rows_written"].as_u64().unwrap() > 1000, "{booked}");
    assert!(booked[0]["entries"].as_u64().unwrap() > 300, "{booked}");
    remote.run("ingest --month 2026-10").ends(0).says(&[SAID]);
    let booked = local.run("ingest --month 2026-10 --json").ends(0).json();
    assert!(booked[0]["entries"].as_u64().unwrap() > 300 && booked[0].get("database").is_none(), "{booked}");
    for line in ["verify", "run roll-periods", "run enforce-budgets"] {
        remote.run(line).says(&[SAID]);
        let ran = local.run(line);
        assert!(!ran.out.contains(SAID) && !ran.err.contains(SAID), "{}\n{}", ran.out, ran.err);
    }
    assert!(remote.run("verify --json").json()["database"]["rows_read"].as_u64().unwrap() > 1000);
    assert!(local.run("verify --json").json().get("database").is_none());
    assert!(remote.run("run verify-books --json").json()["database"]["rows_read"].as_u64().unwrap() > 1000);
    local.run("enqueue probe name=near").ends(0);
    let ran = local.run("work --once --no-schedule --log info").ends(0);
    assert!(ran.err.contains("done; ") && !ran.err.contains(SAID), "{}", ran.err);
    assert_eq!(local.query("SELECT count(*) FROM settings WHERE name GLOB 'rows *'"), ["0"]);
    let status = local.run("status --json").json();
    assert!(status["rows"].is_null(), "{status}");
}

#[test]
fn the_rows_of_a_month_stand_beside_the_quota() {
    let remote = Remote::new();
    let written = remote.sum_of_days(1);
    assert!(written > 100, "the migration: {written}");
    remote.place.run("demo generate bucket --month 2026-10 --rows 3000 --customers 40").ends(0);
    remote.run("ingest --month 2026-10").ends(0);
    remote.run("enqueue verify_books").ends(0);
    remote.run("work --once --no-schedule").ends(0);
    let counts = remote.server.counts();
    // each process leaves out its last statement, and one that cost little is left out as a whole
    for (of, all, left_out) in [(0, counts.rows_read, 2000), (1, counts.rows_written, 200)] {
        let (sum, all) = (remote.sum_of_days(of), i64::try_from(all).unwrap());
        assert!(sum <= all && sum > all - left_out, "{sum} of {all}");
    }
    let sum = remote.sum_of_days(0);
    let most = [("METER_DATABASE__ROWS_QUOTA__READ", "100_000_000_000")];
    let json = remote.run_with("status --json", &most).json();
    assert_eq!(json["rows_quota"]["read"], 100_000_000_000_u64);
    assert!(json["rows"]["by_end"]["read"].as_i64() >= json["rows"]["so_far"]["read"].as_i64());
    assert_eq!(json["rows"]["so_far"]["read"], sum);
    let text = remote.run_with("status", &most);
    assert!(!text.out.contains("MeterDatabaseQuota"), "{}", text.out);
    text.says(&["rows read: ", "; the plan has 100,000,000,000", "rows written: ", "about "]);
    let least = [("METER_DATABASE__ROWS_QUOTA__WRITTEN", "1000")];
    let over = ["MeterDatabaseQuota", "rows of the database will be written this month, and its plan has 1,000"];
    remote.run_with("status", &least).says(&over);
    let variables = [("METER_DATABASE__URL", remote.url.as_str()), least[0]];
    let worker = Served::start(remote.place.folder.path(), "--no-schedule", &variables);
    let page = worker.until("/", |a| a.status == 200).body;
    for words in ["rows written: ", " by its end, of 1,000", "MeterDatabaseQuota", over[1]] {
        assert!(page.contains(words), "{words} is not in {page}");
    }
    let scrape = worker.get("/metrics").body;
    assert!(scrape.contains("meter_database_quota_ratio{rows=\"read\"} 0\n"), "{scrape}");
    let ratio = scrape.lines().find_map(|l| l.strip_prefix("meter_database_quota_ratio{rows=\"written\"} ")).unwrap();
    assert!(ratio.parse::<f64>().unwrap() > 1.0, "{ratio}");
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_quota_is_a_number_of_rows_of_a_remote_database() {
    let place = Workspace::new();
    for (name, value, why) in [
        ("READ", "0", "database.rows_quota.read: a plan includes some rows"),
        ("WRITTEN", "-1", "database.rows_quota.written: a whole number, 0 or more, is expected, and this is -1"),
        ("WRITTEN", "10M", "database.rows_quota.written: a whole number, 0 or more, is expected"),
        ("ROWS", "1", "database.rows_quota.rows: there is no `rows` here"),
    ] {
        let name = format!("METER_DATABASE__ROWS_QUOTA__{name}");
        place.run_with("config check", &[(&name, value)]).ends(2).says(&[name.as_str(), why]);
    }
    let quota = [("METER_DATABASE__ROWS_QUOTA__READ", "500_000_000")];
    place.run_with("config check", &quota).ends(0).says(&["note: database.rows_quota is of no use"]);
    place.run_with("config show", &quota).ends(0).says(&["[database.rows_quota]", "read = 500000000"]);
}

/// In production nothing fails: the log says which job keeps others from writing.
#[test]
fn a_transaction_of_seconds_is_a_warning() {
    let remote = Remote::new();
    remote.run("enqueue probe name=far").ends(0);
    remote.server.faults().slow(Duration::from_millis(1100));
    let ran = remote.run("work --once --no-schedule --log info").ends(0);
    let warned = ran.err.lines().find(|l| l.contains("WARN") && l.contains("a transaction on the database's server"));
    let warned = warned.unwrap_or_else(|| panic!("no warning in:\n{}", ran.err));
    assert!(warned.contains("kind=\"probe\"") && warned.contains("INSERT INTO probes"), "{warned}");
    remote.server.faults().slow(Duration::ZERO);
    let cost = &remote.job("probe", "far")["report"]["database"];
    assert_eq!(cost["long_transactions"], 1, "{cost}");
    assert!(cost["longest_transaction_ms"].as_u64().unwrap() > 2000, "{cost}");
}
