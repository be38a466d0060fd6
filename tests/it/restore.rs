//! The drill: a backup is made, the worker is killed, the backup takes the books' place, and
//! Stripe's invoices end up as the books say.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::billing_fixture::{BillingFixture, KEY};
use crate::support::{LEDGER, Ran, Workspace, query};
use jiff::Timestamp;

const CUSTOMERS: usize = 60;
const OPEN: &str = "SELECT count(*) FROM meter_events WHERE state IN ('pending', 'sending', 'unconfirmed')";
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
        fixture.book_nothing();
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
            usage.push_str(&format!(
                "INSERT INTO ledger_entries (version_id, payer, month, customer, meter, day, quantity, kind, booked_at) \
                 VALUES (1, 'p', '2026-01', '{name}', 'storage_gb', date('now', '-1 day'), {milli} * 10000000, 'usage', '');"
            ));
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
        child.wait().unwrap();
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

    /// Pushes and takes over until there is nothing more to be done; then everything is as it
    /// should be.
    fn converges(self, prefix: &str) {
        let events = self.fixture.stripe.world().events().len();
        let first = self.run("push").ends(0).says(&["these books were restored from a backup of", "amount(s) wait"]);
        assert_eq!(
            self.fixture.stripe.world().events().len(),
            events,
            "nothing is sent before totals are read: {}",
            first.out
        );
        assert_eq!(self.fixture.place.query(OPEN), ["0"]);
        let renamed = self.fixture.place.query("SELECT value FROM settings WHERE name = 'prefix'");
        assert_ne!(renamed, [prefix], "identifiers of the lost books are not used again");
        let early = self.run("run reconcile-stripe").ends(0).json();
        assert!(early["not_yet"].as_str().unwrap().contains("sync_stripe"), "{early}");
        assert_eq!(self.run("run sync-stripe").ends(0).json()["full"], true);
        self.run("run roll-periods").ends(0);
        let early = self.run("run reconcile-stripe").ends(3).json();
        let why = early["not_yet"].as_str().unwrap();
        let from = why.split("meter backfill ingest --from ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
        for (bad, why) in
            [("main", "write EXPORT/YYYY-MM"), ("main/1999-01", "no total waits"), ("other/2026-01", "no total waits")]
        {
            self.run(&format!("restore mark --without {bad}")).ends(2).says(&[why]);
        }
        self.run(&format!("restore mark --without main/{from}")).ends(0).says(&["Marked"]);
        self.run(&format!("restore mark --without main/{from}")).ends(2).says(&["no total waits"]);
        let less = self.run("run reconcile-stripe").ends(3).json();
        let count = |report: &serde_json::Value| report["bills_missing"].as_array().unwrap().len();
        assert_eq!(count(&less) + 1, count(&early));
        self.run(&format!("ingest --from {from}")).ends(0);
        let taken = self.run("run reconcile-stripe").ends(0).json();
        assert!(taken["imported"].as_u64().unwrap() >= u64::try_from(CUSTOMERS).unwrap(), "{taken}");
        self.run("push").ends(0);
        let last = self.run("push").ends(0).says(&["0 event(s) planned"]);
        assert!(!last.out.contains("restored"), "{}", last.out);
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
        assert!(!compared.out.contains("not settled"), "{}", compared.out);
        let noted = self.fixture.place.query(
            "SELECT actor, action FROM audit_log WHERE target = 'books' AND action IN ('restore mark', 'restored') ORDER BY seq",
        );
        assert_eq!(noted.last().map(String::as_str), Some("meter|restored"), "{noted:?}");
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
    drill.run("push --dry-run").ends(0).says(&["0 event(s) would be sent", "restored"]);
    let early = drill.run("run reconcile-stripe").ends(0).json();
    assert!(early["not_yet"].as_str().unwrap().contains("push_stripe"), "{early}");
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
    drill.fixture.book_nothing();
    for usage in &drill.bills {
        drill.fixture.place.execute(usage);
    }
    drill.use_some();
    let month_ago = Timestamp::now() - jiff::SignedDuration::from_hours(24 * 30);
    drill.run(&format!("restore mark --backup-at {month_ago}")).ends(0);
    drill.run("run sync-stripe").ends(0);
    drill.run("run roll-periods").ends(0);
    drill.converges(&prefix);
}

/// Nobody types anything but what a restoration needs: bills, subscriptions, periods, totals and
/// pushes come by the schedule, in whatever order.
#[test]
fn a_killed_worker_is_restored_from_yesterdays_backup_and_does_the_rest_by_itself() {
    const RATE: &str = "SELECT count(*) FROM meter_events WHERE state = 'accepted'";
    let place = Workspace::new();
    place.run("demo generate bucket --rows 3000 --customers 30 --seed 3").ends(0);
    place.run("ingest").ends(0);
    let ids = "SELECT DISTINCT customer FROM ledger_entries WHERE customer <> '' ORDER BY 1";
    let names = place.query(ids);
    assert!(names.len() > 20, "{names:?}");
    let fixture = BillingFixture::open(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let each_minute = ["ingest", "roll_periods", "sync_stripe", "push_stripe", "reconcile_stripe"]
        .map(|name| format!("{name} = [\"* * * * *\"]\n"))
        .concat();
    let config = std::fs::read_to_string(fixture.place.path("meter.toml")).unwrap();
    std::fs::write(fixture.place.path("meter.toml"), format!("{config}[schedule]\n{each_minute}")).unwrap();
    // it grows, too: in the first days of a month nothing is restated
    let bill = |restated: u32| {
        let rows = 3000 + 300 * restated;
        let line = format!("demo generate bucket --rows {rows} --customers 30 --seed 3 --restated {restated}");
        fixture.place.run(&line).ends(0)
    };
    let start = || {
        let mut command = crate::support::meter(fixture.place.folder.path());
        let log = std::fs::File::options().create(true).append(true).open(fixture.place.path("worker.log")).unwrap();
        let variables = [
            ("METER_STRIPE__KEY", KEY),
            ("METER_STRIPE__SETTLE_DELAY_HOURS", "0"),
            ("METER_STRIPE__MAX_CONCURRENT", "4"),
        ];
        command.arg("work").envs(variables).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    let said = || std::fs::read_to_string(fixture.place.path("worker.log")).unwrap();
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(400);
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not come to pass:\n{}", said());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let accepted = || fixture.place.query(RATE)[0].parse::<usize>().unwrap();
    bill(0);
    let mut worker = start();
    until("the first push", &|| accepted() >= names.len());
    // yesterday's, made beside the worker
    fixture.run("backup yesterday.db").ends(0);
    let known = accepted();
    // today AWS restates its bill, and the worker dies while it sends the difference
    bill(1);
    fixture.stripe.world().set_latency(Duration::from_millis(60));
    let before = fixture.stripe.world().events().len();
    until("the restated bill at Stripe", &|| fixture.stripe.world().events().len() > before + 5);
    worker.kill().unwrap();
    worker.wait().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    fixture.stripe.world().set_latency(Duration::ZERO);
    assert!(fixture.stripe.world().events().len() > known);
    for ending in ["", "-wal", "-shm"] {
        let old = fixture.place.path(&format!("meter.db{ending}"));
        if old.exists() {
            std::fs::rename(old, fixture.place.path(&format!("meter.db.damaged{ending}"))).unwrap();
        }
    }
    std::fs::copy(fixture.place.path("yesterday.db"), fixture.place.path("meter.db")).unwrap();
    // and once more, while nobody ran
    bill(2);
    let mut worker = start();
    let unsettled = "SELECT count(*) FROM billing_targets t WHERE deferred <> 0 OR target <> (SELECT coalesce(sum(i.value), 0) FROM meter_events i \
        WHERE i.customer = t.customer AND i.meter = t.meter AND i.period_start = t.period_start AND i.state = 'accepted')";
    let version = "SELECT count(*) FROM bill_versions WHERE state = 'applied'";
    until("an agreement", &|| {
        let taken =
            fixture.place.query("SELECT count(*) FROM billing_targets WHERE imported_until IS NOT NULL")[0] != "0";
        taken
            && fixture.place.query(version)[0] == "2"
            && fixture.place.query(OPEN) == ["0"]
            && fixture.place.query(unsettled) == ["0"]
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(worker.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(worker.wait().unwrap().success(), "{}", said());
    fixture.run("verify").ends(0);
    fixture.run("verify --database meter.db.damaged").ends(0);
    // what is on the invoices is what the newest bill says, of each customer and meter, computed
    // from the bill anew
    let fresh = Workspace::new();
    std::fs::remove_dir_all(fresh.path("bucket")).unwrap();
    std::os::unix::fs::symlink(fixture.place.path("bucket"), fresh.path("bucket")).unwrap();
    fresh.run("ingest").ends(0);
    let began =
        fixture.place.query("SELECT min(first_day) FROM billing_periods WHERE subscription IS NOT NULL").remove(0);
    let first: jiff::civil::Date = began.parse().unwrap();
    let (before_days, month_days) = (i128::from(first.day()) - 1, i128::from(first.days_in_month()));
    let mut billed = 0;
    for name in &names {
        let sum = |meter: &str, days: &str| {
            let sql = format!(
                "SELECT coalesce(sum(quantity), 0) FROM ledger_entries WHERE customer = '{name}' AND meter = '{meter}' AND day {days} '{began}'"
            );
            fresh.query(&sql)[0].parse::<i128>().unwrap()
        };
        // thousandths, half-even, and of minutes what is beyond 100
        let thousandths = |scaled: i128| {
            let (whole, rest) = (scaled / 10_000_000, scaled % 10_000_000);
            whole + i128::from(rest > 5_000_000 || (rest == 5_000_000 && whole % 2 == 1))
        };
        // the days of the month before the subscription are a period, too: what it used in advance
        // of these days' share of the 100 is taken off the next 100
        let included = 100 * 10_000_000_000;
        let (before, after) = (sum("chime_minutes", "<"), sum("chime_minutes", ">="));
        let within = before.min(included);
        let share = included * before_days / month_days;
        let beyond = (after - (included - (within - share).max(0)).max(0)).max(0);
        let minutes = [before - within, beyond];
        let storage = ["<", ">="].map(|days| sum("storage_gb", days).max(0));
        for (event, parts) in [("chime_milliminutes", minutes), ("storage_mb_months", storage)] {
            let expected: i128 = parts.into_iter().map(thousandths).sum();
            assert_eq!(fixture.invoiced(name, event), expected.to_string(), "{name} {event}\n{}", said());
            billed += u32::from(expected > 0);
        }
    }
    assert!(billed > 20, "{billed} lines");
    {
        let world = fixture.stripe.world();
        let identifiers: BTreeSet<&str> = world.events().iter().map(|e| e.identifier.as_str()).collect();
        assert_eq!(identifiers.len(), world.events().len(), "no event was counted twice");
        assert!(world.lost().is_empty());
    }
    fixture.judge();
}

#[test]
fn totals_are_not_believed_before_their_time() {
    let mut drill = Drill::new(13);
    drill.use_some();
    drill.run("backup early.db").ends(0);
    drill.run("push").ends(0);
    drill.restore("early.db", 1);
    // with the default of a day
    drill
        .fixture
        .run("push")
        .ends(0)
        .says(&["these books were restored", "60 amount(s) wait until `reconcile_stripe` has imported"]);
    drill.fixture.run("run sync-stripe").ends(0);
    let sent = drill.fixture.stripe.world().requests().len();
    let early = drill.fixture.run("run reconcile-stripe").ends(0).json();
    assert!(early["not_yet"].as_str().unwrap().contains("believed from"), "{early}");
    assert_eq!(early["read"], 0);
    assert_eq!(drill.fixture.stripe.world().requests().len(), sent, "nobody is asked");
    drill.fixture.run("push").ends(0).says(&["60 amount(s) wait"]);
    assert_eq!(drill.fixture.stripe.world().events().len(), CUSTOMERS);
}

#[test]
fn a_backup_takes_no_files_place_and_is_not_made_of_a_server() {
    let place = Workspace::new();
    place.run("backup copy.db").ends(1).says(&["no books at meter.db yet"]);
    assert!(!place.path("meter.db").exists());
    place.run("restore mark --backup-at 2026-01-01T00:00:00Z").ends(1).says(&["no books at meter.db yet"]);
    place.run("migrate").ends(0);
    std::fs::write(place.path("copy.db"), "mine").unwrap();
    place.run("backup copy.db").ends(1).says(&["copy.db is there already"]);
    assert_eq!(std::fs::read_to_string(place.path("copy.db")).unwrap(), "mine");
    place.run("backup nowhere/copy.db").ends(1).says(&["nowhere/copy.db was not made"]);
    let there = ("METER_DATABASE__URL", "http://127.0.0.1:9");
    place.run_with("backup other.db", &[there]).ends(2).says(&["is on a server", "meter restore mark"]);
    place.run("backup other.db").ends(0);
    // a copy is audited where it lies, and left as it is
    let bytes = std::fs::read(place.path("other.db")).unwrap();
    place.run("verify --database other.db").ends(0).says(&["ok "]);
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
