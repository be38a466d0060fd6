//! A backup of yesterday takes the place of books whose worker was killed, beside a worker that
//! runs everything by its schedule. In a file of its own, which starts early: it waits for minutes.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, KEY, OPEN};

/// The commands run beside a worker, which does everything else by its schedule, in whatever order.
#[test]
fn a_killed_workers_books_are_restored_beside_its_successor() {
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
    crate::support::ended(&mut worker);
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
    let quick = [("METER_STRIPE__KEY", KEY), ("METER_STRIPE__SETTLE_DELAY_HOURS", "0")];
    let sent = fixture.stripe.world().events().len();
    let attention = "SELECT count(*) FROM jobs WHERE kind = 'push_stripe' AND state = 'done' AND attention = 1";
    until("a push on hold", &|| fixture.place.query(attention)[0] != "0");
    assert_eq!(fixture.stripe.world().events().len(), sent, "nothing is sent on hold");
    fixture.place.run_with("restore import-totals", &quick).ends(0);
    fixture.place.run_with("restore finish", &quick).ends(0).says(&["Finished"]);
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
    assert!(crate::support::ended(&mut worker).success(), "{}", said());
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
