//! Stories through the binary: plans, customers, budgets, the two jobs, and what is printed.
//! And kill -9 in the midst of both jobs.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Workspace, meter};
use testkit::usage::booking;

fn write(place: &Workspace, name: &str, text: &str) {
    std::fs::write(place.path(name), text).unwrap();
}

const PRO: &str = "[[plans]]\nname = \"pro\"\ncurrency = \"EUR\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
    [plans.meters]\nturn_allocations = { included = \"2\" }\n\
    chime_minutes = { included = \"100\", price = \"0.01\", report = \"overage\" }\n";

#[test]
fn a_customer_from_sign_up_to_block_and_back() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("plan list").ends(0).says(&["core", "turn_allocations", "500", "no more"]);
    write(&place, "plans.toml", PRO);
    place.run("plan apply plans.toml --dry-run").ends(0).says(&["pro from 2020-01-01T00:00:00Z: would be added"]);
    place.run("plan apply plans.toml").ends(0).says(&["added"]);
    place.run("plan apply plans.toml").ends(0).says(&["is there already"]);
    place.run("customer add ann --plan pro").ends(0).says(&["1 customer(s) added"]);
    place.run("customer add ann --plan pro").ends(0).says(&["0 customer(s) added; 1 existed"]);
    place.run("entitlements ann").ends(0).says(&["no such decision was made"]);
    place.run("explain-entitlement ann chime_minutes").ends(1).says(&["nothing was decided for ann yet"]);
    place.run("run roll-periods").ends(0).says(&["0 opened or given other bounds"]);
    place.run("run roll-periods").ends(0).says(&["0 TURN count(s) closed, 0 opened"]);
    place.run("run enforce-budgets --dry-run").ends(0).says(&["new -> allowed", "not_in_plan", "would be changed"]);
    assert!(place.query("SELECT * FROM entitlements").is_empty());
    let said = [
        "new -> allowed",
        "no bill with usage is booked",
        "0 meter(s) newly blocked",
        "blocked now: 0 meter(s); 2 more",
    ];
    place.run("run enforce-budgets").ends(0).says(&said);
    place.execute("UPDATE turn_periods SET used = 2");
    place.run("run enforce-budgets").ends(0).says(&["allowed -> BLOCKED", "included_used"]);
    place.run("entitlements --blocked").ends(0).says(&["BLOCKED", "turn_allocations"]);
    place.run("turn ann").ends(0).says(&["current", "2"]);
    place.execute(&booking("ann", "chime_minutes", "date('now')", "1200000000000").join(";"));
    place.run("run enforce-budgets").ends(0).says(&["allowed -> BLOCKED", "no_budget"]);
    place.run("explain-entitlement ann chime_minutes").ends(0).says(&[
        "may not be used by ann: what the plan includes is used up, and no overage budget is set",
        "120 of 100 minutes",
        "meter budget set ann AMOUNT",
    ]);
    place.run("entitlements ann").ends(0).says(&["nothing has changed since"]);
    let counts = "That counts from the next run of enforce_budgets, due ";
    place.run("budget set ann 0.90 --by tess").ends(0).says(&["all overage may cost 0.90 EUR", counts]);
    // what was decided, what was set, and when that counts
    place.run("explain-entitlement ann chime_minutes").ends(0).says(&[
        "chime_minutes may not be used by ann: what the plan includes is used up, and no overage budget is set, as was decided ",
        "Something has changed since. It may be used: what the plan includes is used up, and the overage budget is not spent.",
        counts,
        "set to 0.90 EUR since; it counts from the next run",
    ]);
    place.run("entitlements ann").ends(0).says(&["1 answer(s) will be others", "BLOCKED -> allowed", "within_budget"]);
    place.run("entitlements --blocked").ends(0).says(&["BLOCKED -> allowed"]);
    place.run("budget show ann").ends(0).says(&["counts from the next run of enforce_budgets"]);
    place.run("turn ann").ends(0).says(&["limits are as last decided", "and the answers stay", counts]);
    place.run("run enforce-budgets").ends(0).says(&["BLOCKED -> allowed", "within_budget", "0.20 EUR of 0.90 EUR"]);
    place.run("budget set ann 0.60 --meter chime_minutes --by tess").ends(0);
    place.run("run enforce-budgets").ends(0);
    let limit = "SELECT effective_limit / 10000000000 FROM entitlements WHERE meter = 'chime_minutes'";
    assert_eq!(place.query(limit), ["160"]);
    place.run("budget show ann").ends(0).says(&["all meters", "0.90 EUR", "tess", "chime_minutes", "0.60 EUR"]);
    place.run("budget remove ann --meter chime_minutes --by tess").ends(0);
    place.run("budget history ann").ends(0).says(&["0.60 EUR", "taken away"]);
    place.run("customer show ann").ends(0).says(&["plan pro", "calendar month", "current", "to come", "0.90 EUR"]);
    let json = place.run("entitlements ann --json").ends(0).json();
    assert_eq!((&json[0]["meter"], &json[0]["used"]), (&"chime_minutes".into(), &"120".into()));
    place.run("verify").ends(0).says(&["ok      allowed means used < effective limit"]);
    // nobody decides any more
    place.execute("UPDATE enforcement SET enforced_at = enforced_at - 22 * 86400");
    place.run("entitlements ann").ends(0).says(&["enforce_budgets last ran 22 d ago", "stale"]);
    assert_eq!(place.run("entitlements ann --json").ends(0).json()[0]["freshness"], "stale");
    place.run("explain-entitlement ann chime_minutes").ends(0).says(&["nobody decides any more (stale)", "22 d ago"]);
    place
        .run("budget set ann 1 --by tess")
        .ends(0)
        .says(&["The last was 22 d ago: start a worker (`meter work`), or `meter run"]);
    assert!(place.run("status").out.contains("decided 22 d ago; nobody decides now"));
    // the same jobs through the queue
    place.run("enqueue enforce-budgets").ends(0).says(&["enqueued as job"]);
    place.run("work --once --no-schedule").ends(0);
    place.run("jobs list").ends(0).says(&["enforce_budgets", "done"]);
}

#[test]
fn wrong_input_is_refused_with_what_where_and_why() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    for (text, why) in [
        (
            PRO.replace("\"2\"", "\"2\", price = \"0.30\""),
            "plan `pro`: meter `turn_allocations`: it cannot have a price, because the web backend counts TURN credentials",
        ),
        (PRO.replace("\"2\"", "\"2\", report = \"total\""), "it cannot be reported, because the web backend counts"),
        (PRO.replace("\"pro\"", "\" pro\""), "plan ` pro`: that is no name: it has 1 to 64 characters"),
        (PRO.replace("EUR", "EURO"), "plans.toml:3: plans[0].currency: `EURO` is no currency"),
        (PRO.replace("\"0.01\"", "\"-1\""), "`-1` is no price"),
        (PRO.replace("\"100\"", "\"a lot\""), "not a decimal number"),
        (PRO.replace("\"100\"", "\"-5\""), "plan `pro`: meter `chime_minutes`: the included amount is negative"),
        (PRO.replace("chime_minutes", "chime_hours"), "there is no such meter; "),
        (PRO.replace("overage", "some"), "it cannot be `some`"),
        (PRO.replace("currency", "curency"), "there is no `curency` here; did you mean `currency`?"),
        (format!("{PRO}\n{PRO}"), "two versions hold from"),
        ("plans = 3".to_owned(), "a list is expected, and this is 3"),
        (PRO.replace("name = \"pro\"", "name = \"core\""), "it is in USD already"),
        (
            PRO.replace("\"pro\"", "\"core\"").replace("EUR", "USD").replace("2020", "1970"),
            "holds already and cannot be edited",
        ),
    ] {
        write(&place, "plans.toml", &text);
        place.run("plan apply plans.toml").ends(2).says(&[why]);
    }
    place.run("plan apply nowhere.toml").ends(2).says(&["nowhere.toml: it cannot be read"]);
    assert_eq!(place.query("SELECT name FROM plans"), ["core"]);
    for (line, code, why) in [
        ("budget set bob 5", 2, "there is no customer `bob`"),
        ("budget set ann -5", 2, "unexpected argument"),
        ("budget set ann 5.001", 2, "`5.001` is no amount in USD"),
        ("budget set ann lots", 2, "no amount"),
        ("budget set ann 1000000001", 2, "more than a budget may be (1000000000.00 USD)"),
        ("budget set ann 5 --currency EUR", 2, "the plan `core` is in USD"),
        ("budget set ann 5 --currency dollars", 2, "no currency"),
        ("budget set ann 5 --meter minutes", 2, "there is no meter `minutes`; did you mean `chime_minutes`?"),
        ("budget remove ann", 1, "has no such budget"),
        ("budget show bob", 2, "there is no customer"),
        ("budget history bob", 2, "there is no customer `bob`"),
        ("usage bob", 2, "there is no customer `bob`"),
        ("usage bob --json", 2, "there is no customer `bob`"),
        ("turn bob", 2, "there is no customer `bob`"),
        ("entitlements bob", 2, "there is no customer `bob`"),
        ("reconcile bob", 2, "there is no customer `bob`"),
        ("customer show bob", 2, "there is no customer `bob`"),
        ("customer add bob --plan gold", 2, "there is no plan `gold`; there are: `core`"),
        ("plan list gold", 2, "there is no plan `gold`"),
        ("explain-entitlement bob chime_minutes", 2, "there is no customer `bob`"),
        ("run roll-periods --as-of 2099-01-01T00:00:00Z", 2, "add --dry-run"),
        ("run enforce-budgets --as-of 2020-01-01T00:00:00Z", 2, "add --dry-run"),
        ("run probe name=x --dry-run", 2, "there is no"),
        ("run nothing", 2, "there is no kind of job"),
    ] {
        place.run(line).ends(code).says(&[why]);
    }
    assert!(place.query("SELECT * FROM overage_budgets").is_empty());
    place.run("customer add bob --stripe-customer-id cus_1").ends(0);
    for (csv, why) in [
        ("id,plan\ncyd,core\ncyd,core\n", "list.csv:3: customer `cyd`: it is named twice"),
        ("id,plan\ncyd,core\ndan,gold\n", "list.csv:3: customer `dan`: there is no plan `gold`"),
        ("id,plan\ncyd,core\n,core\n", "1 to 256 characters"),
        ("id\n\" cyd\"\n", "list.csv:2: customer ` cyd`: that is no id"),
        ("id,plan\ncyd,\"core \"\n", "`core ` is no plan: it has 1 to 64 characters"),
        ("id,stripe_customer_id\ncyd,cus 9\n", "`cus 9` is no id of Stripe"),
        ("id,status\ncyd,asleep\n", "active, past_due or canceled"),
        ("id,stripe_customer_id\ncyd,cus_1\n", "customer `bob` has the Stripe id cus_1"),
        ("id,stripe_customer_id\ncyd,cus_2\ndan,cus_2\n", "customer `cyd` has the same Stripe id"),
        ("id,colour\ncyd,red\n", "list.csv:1: there is no column `colour`"),
        ("plan\ncore\n", "the column `id` is missing"),
        ("id,plan\ncyd\n", "nobody was added"),
    ] {
        write(&place, "list.csv", csv);
        place.run("customer import list.csv").ends(2).says(&[why]);
    }
    assert_eq!(place.query("SELECT id FROM customers ORDER BY id"), ["ann", "bob"], "all or none");
    write(&place, "list.csv", "id,plan,stripe_customer_id,status\nann,,,\ncyd,core,cus_9,past_due\n\"d, an\",,,\n");
    place.run("customer import list.csv --dry-run").ends(0).says(&["3 customers could be read"]);
    place.run("customer import list.csv").ends(0).says(&["2 customer(s) added; 1 existed"]);
    place.run("customer list").ends(0).says(&["d, an", "past_due", "cus_9"]);
    for (key, value, why) in [
        ("METER_ENFORCE__ON_STALE", "panic", "it cannot be `panic`; there are: "),
        ("METER_ENFORCE__STALE_AFTER_HOURS", "3", "at least 24"),
        ("METER_ENFORCE__THRESHOLDS", "[50, 0]", "1 to 1000 percent"),
        ("METER_ENFORCE__THRESHOLDS", "[50, 50]", "stands there twice"),
    ] {
        place.run_with("config check", &[(key, value)]).ends(2).says(&[why]);
    }
    write(
        &place,
        "meter.toml",
        "[[meters]]\nname = \"turn_allocations\"\nunit = \"x\"\nproducts = [\"AmazonS3\"]\nusage_types = [\"Y\"]\n",
    );
    place.run("config check").ends(2).says(&["meter.toml:2", "counter of the web backend"]);
}

#[test]
fn as_of_looks_into_the_future_without_touching_it() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    place.execute("UPDATE turn_periods SET used = 499");
    place.run("run roll-periods").ends(0);
    let before = place.query("SELECT * FROM turn_periods");
    place.run("run roll-periods --dry-run --as-of 2099-01-01T00:00:00Z").ends(0).says(&["499", "would be closed"]);
    assert_eq!(place.query("SELECT * FROM turn_periods"), before);
    // a worker whose clock is ahead closes nothing: the database's own clock is asked, too
    place.run("run roll-periods --as-of 2020-01-01T00:00:00Z").ends(0).says(&["0 TURN count(s) closed"]);
    assert_eq!(place.query("SELECT * FROM turn_periods"), before);
}

const KILLS: u32 = 16;

/// Kills a command at moments spread over its whole run, on a fresh copy of the books each time;
/// afterwards they must verify, and the next run must end with what an undisturbed one gives.
fn kill_everywhere(place: &Workspace, line: &str, state: &str) {
    let copy = |from: &str, to: &str| {
        for ending in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(place.path(&format!("{to}{ending}"))));
            drop(std::fs::copy(place.path(&format!("{from}{ending}")), place.path(&format!("{to}{ending}"))));
        }
    };
    copy("meter.db", "first.db");
    let start = Instant::now();
    place.run(line).ends(0);
    // the shortest whole run so far: the first one is cold and may have run beside other tests
    let (mut whole, end) = (start.elapsed(), place.query(state));
    let mut killed = 0;
    for round in 0..KILLS {
        copy("first.db", "meter.db");
        let mut command = meter(place.folder.path());
        command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        let after = whole * round / KILLS;
        let start = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut ended = None;
        while start.elapsed() < after && ended.is_none() {
            std::thread::sleep(Duration::from_millis(1));
            ended = child.try_wait().unwrap();
        }
        match ended {
            Some(_) => whole = start.elapsed(),
            None => killed += 1,
        }
        child.kill().unwrap();
        crate::support::ended(&mut child);
        place.run("verify").ends(0);
        place.run(line).ends(0);
        assert!(place.query(state) == end, "{line}, killed after {after:?}: it does not end where it should");
        place.run("verify").ends(0);
    }
    assert!(killed > KILLS / 2, "{killed} of {KILLS} were killed in time");
}

#[test]
fn kill_9_at_any_moment_of_both_jobs_loses_and_doubles_nothing() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(
        "INSERT INTO customers (id) WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1999) \
         SELECT printf('c%05d', i) FROM n; \
         UPDATE turn_periods SET used = 1 + abs(random() % 600);",
    );
    kill_everywhere(
        &place,
        "run enforce-budgets",
        "SELECT customer, meter, allowed, reason, used, effective_limit FROM entitlements \
         UNION ALL SELECT customer, meter, kind, percent, base > 0, '' FROM notifications \
         UNION ALL SELECT customer, meter, allowed, reason, count(*), '' FROM entitlement_changes GROUP BY 1, 2, 3, 4 \
         UNION ALL SELECT customer, starts_at, used, allowed_until, reason, '' FROM turn_periods ORDER BY 1, 2, 3, 4",
    );
    // everybody's period is over since a month ago
    place.execute("UPDATE turn_periods SET starts_at = unixepoch(starts_at, 'unixepoch', '-1 month'), ends_at = unixepoch(ends_at, 'unixepoch', '-1 month'); \
         UPDATE billing_periods SET starts_at = unixepoch(starts_at, 'unixepoch', '-1 month'), ends_at = unixepoch(ends_at, 'unixepoch', '-1 month'), \
                first_day = date(first_day, '-1 month'), last_day = date(last_day, '+1 day', '-1 month', '-1 day');",
    );
    std::thread::sleep(Duration::from_millis(10));
    let total = place.query("SELECT sum(used) FROM turn_periods");
    kill_everywhere(
        &place,
        "run roll-periods",
        "SELECT customer, starts_at, ends_at, used, closed_at IS NULL FROM turn_periods \
         UNION ALL SELECT customer, starts_at, ends_at, first_day || last_day, closed_at IS NULL FROM billing_periods \
         UNION ALL SELECT id, turn_allocations_used, periods_until, '', '' FROM customers ORDER BY 1, 2, 3, 4",
    );
    assert_eq!(place.query("SELECT sum(used) FROM turn_periods"), total);
    assert_eq!(place.query("SELECT count(*) FROM turn_periods WHERE closed_at IS NOT NULL"), ["2000"]);
}
