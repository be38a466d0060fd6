//! The drill: a backup is made, the worker is killed, the backup takes the books' place, and
//! Stripe's invoices end up as the books say.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::billing_fixture::{BillingFixture, KEY, OPEN, yesterday};
use crate::support::{LEDGER, Ran, Workspace, query};
use jiff::Timestamp;

const CUSTOMERS: usize = 60;
const STATES: &str = "SELECT state, count(*) FROM meter_events GROUP BY 1 ORDER BY 1";

/// A fixture with bills that the test knows: what was booked so far, as statements, and what each
/// invoice should say.
struct Drill {
    fixture: BillingFixture,
    names: Vec<String>,
    rng: fastrand::Rng,
    bills: Vec<String>,
    targets: BTreeMap<String, i64>,
}

impl Drill {
    fn new(seed: u64) -> Self {
        let names: Vec<String> = (0..CUSTOMERS).map(|n| format!("c{n:03}")).collect();
        let fixture = BillingFixture::open(&names.iter().map(String::as_str).collect::<Vec<_>>());
        // a bill of others, so that there is one to be read
        fixture.place.run("demo generate bucket --rows 50 --customers 2").ends(0);
        Self { fixture, names, rng: fastrand::Rng::with_seed(seed), bills: vec![], targets: BTreeMap::new() }
    }

    /// With totals that are believed at once: the fake's do not lag.
    fn run(&self, line: &str) -> Ran {
        self.fixture.place.run_with(line, &[("METER_STRIPE__KEY", KEY), ("METER_STRIPE__SETTLE_DELAY_HOURS", "0")])
    }

    /// Bills of all customers, some of them less than before.
    fn use_some(&mut self) {
        let mut usage = String::new();
        for name in &self.names {
            let target = self.targets.entry(name.clone()).or_default();
            let milli =
                if *target > 0 && self.rng.u8(0..4) == 0 { -self.rng.i64(1..=*target) } else { self.rng.i64(1..5000) };
            *target += milli;
            usage.push_str(&yesterday(name, milli));
        }
        self.fixture.place.execute(&usage);
        self.bills.push(usage);
    }

    /// `meter push`, killed when it has sent some events and not all.
    fn kill_a_push(&mut self) {
        let sent = self.fixture.stripe.world().events().len();
        let enough = self.rng.usize(3..CUSTOMERS / 2);
        // so that a kill finds requests under way
        self.fixture.stripe.world().set_latency(Duration::from_millis(25));
        let mut command = crate::support::meter(self.fixture.place.folder.path());
        command.arg("push").env("METER_STRIPE__KEY", KEY).env("METER_STRIPE__MAX_CONCURRENT", "4");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.fixture.stripe.world().events().len() < sent + enough && Instant::now() < deadline {
            assert!(child.try_wait().unwrap().is_none(), "it ended before its kill");
            std::thread::sleep(Duration::from_micros(300));
        }
        child.kill().unwrap();
        crate::support::ended(&mut child);
        // the last requests arrive
        std::thread::sleep(Duration::from_millis(300));
        self.fixture.stripe.world().set_latency(Duration::ZERO);
    }

    /// The file takes the books' place; the bills are booked again from `from` on.
    fn restore(&self, file: &str, from: usize) {
        let place = &self.fixture.place;
        for ending in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(place.path(&format!("meter.db{ending}"))));
        }
        std::fs::copy(place.path(file), place.path("meter.db")).unwrap();
        for usage in &self.bills[from..] {
            place.execute(usage);
        }
    }

    /// The command, killed when it has read some totals and not all.
    fn kill_an_import(&self) {
        let totals = || {
            let world = self.fixture.stripe.world();
            world.requests().iter().filter(|r| r.target.contains("event_summaries")).count()
        };
        let (read, enough) = (totals(), 10);
        self.fixture.stripe.world().set_latency(Duration::from_millis(10));
        let mut command = crate::support::meter(self.fixture.place.folder.path());
        command
            .args(["restore", "import-totals"])
            .envs([("METER_STRIPE__KEY", KEY), ("METER_STRIPE__SETTLE_DELAY_HOURS", "0")]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while totals() < read + enough && Instant::now() < deadline {
            assert!(child.try_wait().unwrap().is_none(), "it ended before its kill");
            std::thread::sleep(Duration::from_micros(300));
        }
        child.kill().unwrap();
        crate::support::ended(&mut child);
        self.fixture.stripe.world().set_latency(Duration::ZERO);
    }

    fn imported(&self) -> usize {
        self.fixture.place.query("SELECT count(*) FROM billing_targets WHERE imported_until IS NOT NULL")[0]
            .parse()
            .unwrap()
    }

    /// A person does what the checklist says; then everything is as it should be.
    fn converges(self, prefix: &str) {
        let events = self.fixture.stripe.world().events().len();
        self.run("restore status").ends(3).says(&[
            "on hold",
            "open  begun: not yet",
            "next: meter restore import-totals",
        ]);
        self.run("restore finish").ends(3).says(&["Not finished", "open  begun"]);
        for push in ["push", "push --dry-run"] {
            self.run(push).ends(3).says(&["billing is on hold", "meter restore status"]);
        }
        self.run("status").ends(1).says(&["MeterBillingOnHold", "meter restore status"]);
        assert!(self.run("run reconcile-stripe --json").ends(0).json()["on_hold"].is_string());
        self.run("reconcile").ends(3).says(&["billing is on hold"]);
        // the bucket cannot be read
        let (bucket, away) = (self.fixture.place.path("bucket"), self.fixture.place.path("away"));
        std::fs::rename(&bucket, &away).unwrap();
        let early = self.run("restore import-totals").ends(3).says(&[
            "begun: ",
            "open  bills read again: not yet",
            "NOT READABLE",
        ]);
        assert!(early.out.contains("0 total(s) imported"), "{}", early.out);
        assert_eq!(self.fixture.place.query(OPEN), ["0"]);
        let renamed = self.fixture.place.query("SELECT value FROM settings WHERE name = 'prefix'");
        assert_ne!(renamed, [prefix], "identifiers of the lost books are not used again");
        for bad in ["main", "main/1999-01", "other/2026-01"] {
            let line = format!("restore import-totals --without {bad}");
            self.run(&line).ends(2).says(&[&format!("--without {bad}: no total waits for that bill")]);
        }
        let first = early.out.split("--without main/").nth(1).unwrap()[..7].to_owned();
        for _ in 0..2 {
            let some = self.run(&format!("restore import-totals --without main/{first}")).ends(3);
            some.says(&[&format!("main {first}: left out"), "NOT READABLE", "open  bills read again"]);
        }
        std::fs::rename(&away, &bucket).unwrap();
        assert_eq!(self.imported(), 0);
        self.kill_an_import();
        let some = self.imported();
        assert!((5..CUSTOMERS * 2).contains(&some), "{some}");
        self.run("restore finish").ends(3).says(&["Not finished", "open  totals imported"]);
        let done =
            self.run("restore import-totals").ends(0).says(&["done  totals imported", "next: meter restore finish"]);
        let sums = self.fixture.place.query("SELECT count(*), sum(value) FROM meter_events WHERE imported = 1");
        self.run("restore import-totals").ends(0).says(&["0 total(s) imported"]);
        assert_eq!(self.fixture.place.query("SELECT count(*), sum(value) FROM meter_events WHERE imported = 1"), sums);
        assert!(self.imported() >= CUSTOMERS, "{}", done.out);
        self.run("push").ends(3).says(&["billing is on hold"]);
        assert_eq!(self.fixture.stripe.world().events().len(), events, "nothing is sent on hold");
        self.run("restore finish --without c001").ends(2);
        self.run("restore finish").ends(0).says(&["Finished"]);
        for again in ["restore finish", "restore import-totals", "restore status"] {
            self.run(again).ends(0).says(&["not on hold"]);
        }
        self.run("push").ends(0);
        self.run("push").ends(0).says(&["0 events planned"]);
        assert_eq!(self.fixture.place.query(OPEN), ["0"]);
        for name in &self.names {
            let target = self.targets[name];
            assert_eq!(self.fixture.invoiced(name, "storage_mb_months"), target.to_string(), "{name}");
        }
        {
            let world = self.fixture.stripe.world();
            let identifiers: BTreeSet<&str> = world.events().iter().map(|e| e.identifier.as_str()).collect();
            assert_eq!(identifiers.len(), world.events().len(), "no event was counted twice");
            assert!(world.lost().is_empty());
        }
        self.run("run reconcile-stripe").ends(0);
        // usage of ids that nobody knows waits; nothing else does
        let compared = self.run("reconcile").ends(3).says(&["have no row in `customers`"]);
        assert!(!compared.out.contains("not settled") && !compared.out.contains("on hold"), "{}", compared.out);
        let noted = self
            .fixture
            .place
            .query("SELECT action FROM audit_log WHERE target = 'books' AND action LIKE 'restore %' ORDER BY seq");
        assert_eq!(noted[noted.len() - 2..], ["restore begin", "restore finish"], "{noted:?}");
        self.fixture.judge();
    }
}

#[test]
fn a_worker_that_was_killed_goes_on_from_yesterdays_backup_and_bills_nothing_twice() {
    let mut drill = Drill::new(11);
    drill.use_some();
    drill.run("push").ends(0);
    drill.use_some();
    drill.kill_a_push();
    // a backup with events in every state
    let open = drill.fixture.place.query(STATES);
    assert!(
        open.iter().any(|s| s.starts_with("sending")) && open.iter().any(|s| s.starts_with("accepted")),
        "{open:?}"
    );
    drill.run("backup yesterday.db").ends(0).says(&["yesterday.db", "to restore it: stop every worker"]);
    assert!(!drill.fixture.place.path("yesterday.db-wal").exists());
    assert_eq!(query(&drill.fixture.place.path("yesterday.db"), STATES), open);
    let known = drill.bills.len();
    let prefix = drill.fixture.place.query("SELECT value FROM settings WHERE name = 'prefix'").remove(0);
    assert!(
        drill.fixture.place.query("SELECT 1 FROM settings WHERE name = 'backup_at'").is_empty(),
        "the books have no mark"
    );

    // today: what was under way is taken for dead; more usage, corrections, another kill in the
    // middle
    drill
        .fixture
        .place
        .execute("UPDATE meter_events SET last_attempt_at = last_attempt_at - 100 WHERE state = 'sending'");
    drill.use_some();
    drill.run("push").ends(0);
    drill.use_some();
    drill.kill_a_push();
    let lost = drill.fixture.stripe.world().events().len();
    drill.restore("yesterday.db", known);
    let known = drill.fixture.place.query("SELECT count(*) FROM meter_events WHERE state = 'accepted'");
    assert!(
        known[0].parse::<usize>().unwrap() + 60 < lost,
        "much was sent that the backup does not know: {known:?} of {lost}"
    );
    drill.converges(&prefix);
}

#[test]
fn a_plain_copy_is_restored_when_somebody_says_so() {
    let mut drill = Drill::new(12);
    drill.use_some();
    drill.run("push").ends(0);
    let at = Timestamp::now();
    std::thread::sleep(Duration::from_millis(1100));
    // a snapshot of the disk has the files as they are
    drill.fixture.place.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    std::fs::copy(drill.fixture.place.path("meter.db"), drill.fixture.place.path("snapshot.db")).unwrap();
    let known = drill.bills.len();
    let prefix = drill.fixture.place.query("SELECT value FROM settings WHERE name = 'prefix'").remove(0);
    drill.use_some();
    drill.kill_a_push();
    drill.restore("snapshot.db", known);
    drill.run("restore mark --backup-at 2999-01-01T00:00:00Z").ends(2).says(&["in the future"]);
    drill.run("restore mark --backup-at yesterday").ends(2);
    drill.run(&format!("restore mark --backup-at {at}")).ends(0).says(&["Marked"]);
    let hour_ago = at - jiff::SignedDuration::from_hours(1);
    // without a key nothing is sent anyway
    drill.fixture.place.run("restore status").ends(3).says(&["METER_STRIPE__KEY is not set"]);
    for command in ["restore import-totals", "restore finish"] {
        drill.fixture.place.run(command).ends(2).says(&["METER_STRIPE__KEY is not set"]);
    }
    drill.fixture.place.run("push").ends(0).says(&["would be sent"]);
    // once more, when it is half done: the earlier instant counts, and everything is done anew
    drill.run("restore import-totals").ends(0);
    assert!(drill.imported() > 0);
    drill.run(&format!("restore mark --backup-at {hour_ago}")).ends(0).says(&["Marked"]);
    drill.run("restore status").ends(3).says(&[&format!("a backup of {hour_ago:.0}"), "open  begun"]);
    drill.run("restore mark --backup-at 2998-01-01T00:00:00Z").ends(2);
    drill.converges(&prefix);
}

/// All is gone: books that are made anew for the same account, which bills of open periods were
/// sent to.
#[test]
fn new_books_take_over_what_an_account_has() {
    let mut drill = Drill::new(14);
    drill.use_some();
    drill.use_some();
    drill.run("push").ends(0);
    let prefix = drill.fixture.place.query("SELECT value FROM settings WHERE name = 'prefix'").remove(0);
    for ending in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(drill.fixture.place.path(&format!("meter.db{ending}"))));
    }
    drill.run("migrate").ends(0);
    drill.run("plan apply plans.toml").ends(0);
    for name in &drill.names {
        drill.run(&format!("customer add {name} --plan pro --stripe-customer-id cus_{name}")).ends(0);
    }
    for usage in &drill.bills {
        drill.fixture.place.execute(usage);
    }
    drill.use_some();
    let month_ago = Timestamp::now() - jiff::SignedDuration::from_hours(24 * 30);
    drill.run(&format!("restore mark --backup-at {month_ago}")).ends(0);
    drill.converges(&prefix);
}

#[test]
fn totals_are_not_believed_before_their_time() {
    let mut drill = Drill::new(13);
    drill.use_some();
    drill.run("backup early.db").ends(0);
    drill.run("push").ends(0);
    drill.restore("early.db", 1);
    // with the default of a day
    let asked = |drill: &Drill| {
        let world = drill.fixture.stripe.world();
        world.requests().iter().filter(|r| r.target.contains("event_summaries")).count()
    };
    for _ in 0..2 {
        let early = drill.fixture.run("restore import-totals").ends(3);
        early.says(&["done  bills read again", "open  Stripe's totals are believed: from", "next: wait until then"]);
        drill.fixture.run("restore finish").ends(3).says(&["Not finished: billing stays on hold"]);
    }
    assert_eq!(asked(&drill), 0, "nobody is asked for totals");
    drill.fixture.run("push").ends(3).says(&["billing is on hold"]);
    assert_eq!(drill.fixture.stripe.world().events().len(), CUSTOMERS);
}

/// A bill that waits for a person, and a customer without a total: each is decided by name.
#[test]
fn what_cannot_be_read_is_decided_by_a_person() {
    let mut drill = Drill::new(15);
    drill.run("demo generate bucket --rows 600 --customers 6").ends(0);
    drill.run("ingest").ends(0);
    drill.run("backup early.db").ends(0);
    drill.use_some();
    drill.run("push").ends(0);
    drill.restore("early.db", 0);
    drill.run("demo generate bucket --rows 100 --customers 6 --restated 1").ends(0);
    drill
        .run("restore import-totals")
        .ends(3)
        .says(&["ON HOLD, `meter versions` says what to do", "or leave it out: --without main/"]);
    let accepting = [("METER_GUARD__ACCEPT_RESTATEMENTS", "true")];
    drill.fixture.place.run_with("ingest", &accepting).ends(0).says(&["accepted: "]);
    drill.fixture.stripe.world().set_faults(|seen| {
        let of_one =
            seen.path.ends_with("event_summaries") && seen.form.get("customer").is_some_and(|id| id == "cus_c001");
        of_one.then_some(fake_stripe::Fault::ErrorBefore(404))
    });
    for _ in 0..2 {
        let none = drill.run("restore import-totals").ends(3);
        none.says(&["done  bills read again", "NO TOTAL of cus_c001", "next: meter restore finish --without CUSTOMER"]);
    }
    drill.run("restore finish").ends(3).says(&["Not finished", "NO TOTAL of cus_c001"]);
    drill.run("restore finish --without c002 --reason deleted").ends(3).says(&["Not finished"]);
    drill.run("restore finish --without c001").ends(2).says(&["--reason"]);
    drill.run("restore finish --without c001 --without c002 --reason deleted").ends(0).says(&["Finished"]);
    let noted = drill.fixture.place.query("SELECT action, reason FROM audit_log WHERE target = 'customer c001'");
    assert_eq!(noted, ["restore finish|deleted"]);
    assert!(drill.fixture.place.query("SELECT 1 FROM audit_log WHERE target = 'customer c002'").is_empty());
    drill.fixture.stripe.world().clear_faults();
    drill.run("push").ends(0);
    for name in drill.names.iter().filter(|name| *name != "c001") {
        assert_eq!(drill.fixture.invoiced(name, "storage_mb_months"), drill.targets[name].to_string(), "{name}");
    }
    drill.fixture.judge();
}

#[test]
fn a_backup_takes_no_files_place_and_is_not_made_of_a_server() {
    let place = Workspace::new();
    place.run("backup copy.db").ends(1).says(&["no books at meter.db yet"]);
    assert!(!place.path("meter.db").exists());
    place.run("restore mark --backup-at 2026-01-01T00:00:00Z").ends(1).says(&["no books at meter.db yet"]);
    place.run("restore status").ends(1).says(&["no books at meter.db yet"]);
    place.run("migrate").ends(0);
    std::fs::write(place.path("copy.db"), "mine").unwrap();
    place.run("backup copy.db").ends(2).says(&["copy.db is there already"]);
    assert_eq!(std::fs::read_to_string(place.path("copy.db")).unwrap(), "mine");
    place.run("backup nowhere/copy.db").ends(2).says(&["nowhere/copy.db was not made"]);
    let there = ("METER_DATABASE__URL", "http://127.0.0.1:9");
    place.run_with("backup other.db", &[there]).ends(2).says(&["is on a server", "meter restore mark"]);
    place.run("backup other.db").ends(0);
    // a copy is audited where it lies, and left as it is
    let bytes = std::fs::read(place.path("other.db")).unwrap();
    place.run("verify --database other.db").ends(0).says(&["there is nothing to check yet"]);
    assert_eq!(std::fs::read(place.path("other.db")).unwrap(), bytes);
    place.run("verify --database copy.db").ends(1).says(&["--database copy.db"]);
    place.run("verify --database nowhere.db").ends(2).says(&["nowhere.db: there is no such file"]);
    assert!(!place.path("nowhere.db").exists());
    let mut files: Vec<String> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("meter"))
        .collect();
    files.sort();
    assert_eq!(files, ["bucket", "copy.db", "other.db"], "nothing is left behind");
    // a copy of a copy on which nobody acted tells of the first
    let mark = |file: &str| query(&place.path(file), "SELECT value FROM settings WHERE name = 'backup_at'");
    std::thread::sleep(Duration::from_millis(1100));
    place.run_with("backup third.db", &[("METER_DATABASE__URL", "other.db")]).ends(0);
    assert_eq!(mark("third.db"), mark("other.db"));
    assert_eq!(mark("third.db").len(), 1);
}

/// Copies that are made while bills are booked are the books of before or after a bill, never
/// between.
#[test]
fn a_backup_beside_a_worker_is_whole() {
    let place = Workspace::new();
    let books = |file: &str| query(&place.path(file), LEDGER);
    place.run("demo generate bucket --month 2026-10 --rows 5000 --customers 200").ends(0);
    place.run("ingest --month 2026-10").ends(0);
    let mut states = vec![books("meter.db")];
    let (mut copies, mut between) = (0, 0);
    for round in 1..=5 {
        place
            .run(&format!("demo generate bucket --month 2026-10 --rows 5000 --customers 200 --restated {round}"))
            .ends(0);
        let mut command = crate::support::meter(place.folder.path());
        command.args(["ingest", "--month", "2026-10"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let from = copies;
        while child.try_wait().unwrap().is_none() {
            place.run(&format!("backup copy-{copies}.db")).ends(0);
            copies += 1;
        }
        states.push(books("meter.db"));
        for copy in from..copies {
            let name = format!("copy-{copy}.db");
            place.run_with("verify", &[("METER_DATABASE__URL", &name)]).ends(0);
            let state = books(&name);
            let at = states.iter().position(|s| *s == state);
            assert!(at.is_some_and(|at| at + 2 >= states.len()), "{name} is neither before nor after: {at:?}");
            between += usize::from(at == Some(states.len() - 2));
        }
    }
    assert!(copies >= 5 && between > 0, "{copies} copies, {between} before the booking was done");
}
