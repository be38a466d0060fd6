//! An erased customer: no table names it, no sum changes, and a bill that is read again brings
//! nothing back.

use crate::support::billing_fixture::{BillingFixture, DAY, KEY};
use crate::support::{LEDGER, Ran};
use testkit::ingest_fixture::{chime, deliver_lines};

const V1: &str = "11111111-1111-4111-8111-111111111111";
const V2: &str = "11111112-2222-4222-8222-222222222222";
const V3: &str = "11111113-3333-4333-8333-333333333333";
/// The tag value of the customer, and its display name. Neither is a part of anything else.
const ID: &str = "zoe.quark@example.com";
const NAME: &str = "Zoe Quark";
const STRIPE: &str = "cus_zoe";

const VARIABLES: [(&str, &str); 2] =
    [("METER_STRIPE__KEY", KEY), ("METER_NOTIFICATIONS__SECRET", crate::notifications::SECRET)];

/// Sums that must not change, without the names of customers.
const SUMS: [&str; 8] = [
    "SELECT payer, month, meter, day, sum(quantity), count(*) FROM booked_usage GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
    "SELECT meter, day, attributed, units, rest FROM usage_totals ORDER BY 1, 2, 3",
    "SELECT meter, period_start, target, used, within, billable, house, deferred FROM billing_targets ORDER BY 1, 2, 3, 4",
    "SELECT seq, identifier, meter, value, timestamp, state, stripe_customer FROM meter_events ORDER BY 1",
    "SELECT seq, meter, allowed, reason, used, decided_at FROM entitlement_changes ORDER BY 1",
    "SELECT seq, plan, from_at FROM customer_plans ORDER BY 1",
    "SELECT seq, meter, amount_minor, currency, set_at FROM overage_budget_changes ORDER BY 1",
    "SELECT seq, item, subscription, price, from_at, known_at, until FROM subscription_item_history ORDER BY 1",
];

struct World {
    fixture: BillingFixture,
}

impl World {
    /// A customer with a bill, events, budgets, notifications and measurements, which are all over.
    fn new() -> Self {
        let fixture = BillingFixture::new();
        let config = std::fs::read_to_string(fixture.place.path("meter.toml")).unwrap();
        let hook = "[notifications]\nurl = \"http://127.0.0.1:9/\"\n";
        std::fs::write(fixture.place.path("meter.toml"), config + hook).unwrap();
        let world = Self { fixture };
        world.run("migrate").ends(0);
        world.run("plan apply plans.toml").ends(0);
        world.run("stripe setup").ends(3);
        world.run(&format!("customer add {ID} --plan pro --stripe-customer-id {STRIPE}")).ends(0);
        world.run("customer add ann --plan pro").ends(0);
        world.exec(&["customer", "set", ID, "--name", NAME, "--reason", "Zoe Quark asked; see zoe.quark@example.com."]);
        world.run(&format!("budget set {ID} 5 --by {ID}")).ends(0);
        // before the bill, whose run computes the counters
        world.fixture.used(ID, "chime_minutes", "350", 4);
        world.fixture.used("ann", "chime_minutes", "3", 4);
        world.deliver(V1, 100.0);
        world.run("ingest --month 2026-10").ends(0);
        world.bill();
        world
    }

    fn run(&self, line: &str) -> Ran {
        self.fixture.place.run_with(line, &VARIABLES)
    }

    fn exec(&self, arguments: &[&str]) {
        let mut command = crate::support::meter(self.fixture.place.folder.path());
        Ran::from(crate::support::output(command.args(arguments).envs(VARIABLES))).ends(0);
    }

    fn deliver(&self, version: &str, minutes: f64) {
        let lines = [chime(ID, 3, minutes), chime(ID, 4, 7.0), chime("ann", 3, 20.0), chime("", 5, 1.0)];
        deliver_lines(&self.fixture.place.path("bucket"), version, &lines);
    }

    /// Sends usage of a subscription to Stripe, which ends two days ago by the books.
    fn bill(&self) {
        let Self { fixture } = self;
        let began = jiff::Timestamp::now().as_second() - 10 * DAY;
        {
            let mut account = fixture.stripe.world();
            account.add_price("price_chime", "chime_milliminutes", "usd", "0.00045", None);
            account.add_price("price_storage", "storage_mb_months", "usd", "0.005", None);
            account.add_customer(STRIPE);
            let prices = ["price_chime", "price_storage"];
            account.add_subscription(fake_stripe::Subscription::monthly("sub_zoe", STRIPE, began, &prices));
        }
        self.run("run sync-stripe").ends(0);
        self.run("run roll-periods").ends(0);
        let measure = |id: &str, at: &str| {
            format!(
                "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
                 VALUES ('{ID}', 'transfer_gb', '{id}', 5, unixepoch('now', '{at}'))"
            )
        };
        fixture.place.execute(&measure("u/zoe.quark@example.com/holiday.jpg", "-5 days"));
        self.run("push").says(&["accepted"]);
        self.run("run enforce-budgets");
        self.run(&format!("customer set {ID} --status canceled")).ends(0);
    }

    /// Lets all be over that is in the way.
    fn end(&self) {
        self.fixture.stripe.world().cancel_subscription("sub_zoe");
        self.run("run sync-stripe --payload {\"full\":true}").ends(0);
        let end = "UPDATE subscriptions SET ended_at = unixepoch() - 2 * 86400";
        self.fixture.place.execute(end);
        self.run("run roll-periods").ends(0);
        self.run("push");
        self.run("run enforce-budgets");
        self.fixture.place.execute("UPDATE notifications SET state = 'dead', next_at = NULL, error = 'gone: zoe.quark@example.com' WHERE state = 'pending'");
    }

    fn query(&self, sql: &str) -> Vec<String> {
        self.fixture.place.query(sql)
    }

    fn sums(&self) -> Vec<Vec<String>> {
        SUMS.iter().map(|sql| self.query(sql)).collect()
    }

    /// Every table and column that has a text with one of the words: all columns of all tables that
    /// there are, so that a table of a later migration is seen, too.
    fn places(&self, words: &[&str]) -> Vec<String> {
        let columns = "SELECT t.name || '.' || c.name FROM pragma_table_list t JOIN pragma_table_xinfo(t.name) c \
                       WHERE t.schema = 'main' AND t.type = 'table' ORDER BY 1";
        let searches = |name: &String| {
            let (table, column) = name.split_once('.').unwrap();
            let of_word = |word: &&str| {
                format!(
                    "SELECT '{name} has {word}' FROM \"{table}\" \
                     WHERE instr(CAST(\"{column}\" AS BLOB), CAST('{word}' AS BLOB)) > 0"
                )
            };
            words.iter().map(of_word).collect::<Vec<_>>()
        };
        let searches: Vec<String> = self.query(columns).iter().flat_map(searches).collect();
        // SQLite takes 500 of them in one statement
        let found = searches.chunks(400).flat_map(|some| self.query(&some.join(" UNION ")));
        found.collect()
    }

    /// Whether a backup that is made now has a word anywhere, in a row or between rows; a server
    /// makes none, and `expected` is the answer.
    fn backup_has(&self, word: &str, expected: bool) -> bool {
        if std::env::var_os("METER_TEST_DATABASE").is_some() {
            return expected;
        }
        drop(std::fs::remove_file(self.fixture.place.path("copy.db")));
        self.run("backup copy.db").ends(0);
        let bytes = std::fs::read(self.fixture.place.path("copy.db")).unwrap();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    }
}

#[test]
fn an_erased_customer_is_in_no_table_and_no_sum_changes() {
    let world = World::new();
    // what goes on is said, all of it, and nothing is written
    let erase = format!("customer erase {ID} --reason asked:zoe.quark@example.com --yes");
    let before = world.query("SELECT * FROM customers");
    let ran = world.run(&format!("customer erase {ID} --reason asked --yes")).ends(1);
    ran.says(&[
        "it has a subscription: sub_zoe (active); end it at Stripe",
        "was not erased, because something of it goes on",
    ]);
    assert_eq!(world.query("SELECT * FROM customers"), before);
    world.end();
    world.run("verify").ends(0);

    let held = world.places(&[ID]);
    for place in [
        "audit_log.reason",
        "audit_log.target",
        "billing_periods.customer",
        "billing_targets.customer",
        "customer_plans.customer",
        "customers.id",
        "entitlement_changes.customer",
        "entitlements.customer",
        "ledger_entries.customer",
        "measurements.customer",
        "measurements.id",
        "meter_events.customer",
        "notifications.body",
        "notifications.customer",
        "notifications.error",
        "overage_budget_changes.customer",
        "overage_budget_changes.set_by",
        "overage_budgets.customer",
        "stripe_customers.customer",
        "subscription_item_history.customer",
        "subscription_items.customer",
        "subscriptions.customer",
        "turn_periods.customer",
    ] {
        assert!(held.contains(&format!("{place} has {ID}")), "the world has no {place}: {held:?}");
    }
    assert!(world.backup_has(ID, true) && world.backup_has(NAME, true));
    let (sums, ledger) = (world.sums(), world.query(LEDGER));
    let own = "SELECT meter, sum(quantity) FROM booked_usage WHERE customer LIKE '%zoe%' OR customer LIKE 'erased-%' GROUP BY 1";
    let owned = world.query(own);

    world
        .run(&format!("customer erase {ID} --reason asked"))
        .ends(2)
        .says(&["ledger_entries: 3 row(s)", "--yes erases it"]);
    assert_eq!(world.places(&[ID]), held);
    let said = world.run(&erase).ends(0);
    said.says(&["the history is under erased-", "Stripe has the customer and the invoices of cus_zoe", "AWS's bills"]);
    assert_eq!(world.places(&[ID, NAME, "zoe.quark", "Quark"]), Vec::<String>::new());
    assert!(!world.backup_has(ID, false) && !world.backup_has(NAME, false), "a copy still has the words");
    assert_eq!(world.sums(), sums);
    assert_eq!(world.query(own), owned);
    assert_eq!(world.query(LEDGER).len(), ledger.len());
    world.run("verify").ends(0);
    let row = "SELECT id GLOB 'erased-????????????????', plan, status, stripe_customer_id, display_name FROM customers WHERE id <> 'ann'";
    assert_eq!(world.query(row), ["1|pro|canceled||"]);
    assert_eq!(world.query("SELECT count(*) FROM erasing"), ["0"]);
    // the invoice is found by its Stripe id, and what was done says why
    let billed = "SELECT DISTINCT stripe_customer FROM meter_events";
    assert_eq!(world.query(billed), [STRIPE]);
    let acts = world.query("SELECT action, target GLOB 'customer erased-*', reason FROM audit_log WHERE action LIKE 'customer %' ORDER BY seq");
    assert!(acts[0].starts_with("customer set|1|display name changed; (erased) asked; see erased-"), "{acts:?}");

    // again: it is done
    let state = world.query("SELECT * FROM audit_log");
    world
        .run(&erase)
        .ends(0)
        .says(&["it was erased already, and its history is under erased-", "nothing is left to do"]);
    world.run(&format!("customer erase {ID} --reason asked")).ends(0).says(&["it was erased already"]);
    assert_eq!(world.query("SELECT * FROM audit_log"), state);
    // the id is not given again
    world.run(&format!("customer add {ID}")).ends(2).says(&["this id was erased, and its usage is booked to erased-"]);
    std::fs::write(world.fixture.place.path("list.csv"), format!("id\n{ID}\n")).unwrap();
    world.run("customer import list.csv").ends(2).says(&["nobody was added", "list.csv:2: ", "this id was erased"]);
    world.run("customer import list.csv --update").ends(2).says(&["nothing was changed", "list.csv:2: "]);

    // AWS's files still have the tag: another delivery of the same bill books nothing, and one that
    // says more books the difference to the pseudonym
    let booked = world.query(LEDGER);
    world.deliver(V2, 100.0);
    world.run("ingest --month 2026-10").ends(0).says(&["booked"]);
    assert_eq!(world.query(LEDGER), booked, "nothing is booked twice, and nothing is taken back");
    world.deliver(V3, 130.0);
    world.run("ingest --month 2026-10 --dry-run").ends(0);
    world.run("ingest --month 2026-10").ends(0);
    let added = "SELECT customer GLOB 'erased-*', quantity / 10000000000, kind FROM booked_usage ORDER BY version_id DESC LIMIT 1";
    assert_eq!(world.query(added), ["1|30|adjustment"]);
    for line in ["run roll-periods", "run enforce-budgets", "run verify_books", "run fold-measurements"] {
        // old bills need attention; nothing fails
        assert!(matches!(world.run(line).code, 0 | 3), "{line}");
    }
    world.run("push");
    assert_eq!(world.places(&[ID, NAME]), Vec::<String>::new(), "no job brings the id back");
    world.run("verify").ends(0);
}

#[test]
fn a_killed_erasure_is_whole_or_did_nothing() {
    let world = World::new();
    world.end();
    let folder = world.fixture.place.folder.path();
    let copy = |from: &str, to: &str| {
        for ending in ["", "-wal", "-shm"] {
            drop(std::fs::remove_file(folder.join(format!("{to}{ending}"))));
            drop(std::fs::copy(folder.join(format!("{from}{ending}")), folder.join(format!("{to}{ending}"))));
        }
    };
    copy("meter.db", "first.db");
    let held = world.places(&[ID]);
    let start = std::time::Instant::now();
    world.run(&format!("customer erase {ID} --reason asked --yes")).ends(0);
    let whole = start.elapsed();
    let (mut nothing, mut all) = (0, 0);
    for n in 1..=8 {
        copy("first.db", "meter.db");
        let mut command = crate::support::meter(folder);
        let mut child = command
            .args(["customer", "erase", ID, "--reason", "asked", "--yes"])
            .envs(VARIABLES)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * n / 8);
        drop(child.kill());
        crate::support::ended(&mut child);
        let found = world.places(&[ID]);
        if found == held {
            nothing += 1
        } else {
            all += 1
        }
        assert!(found.is_empty() || found == held, "{found:?}");
        world.run("verify").ends(0);
    }
    assert!(nothing > 0, "no kill came before the commit; {all} after it");
    world.run(&format!("customer erase {ID} --reason asked --yes")).ends(0);
    assert!(world.places(&[ID]).is_empty());
}

#[test]
fn an_erasure_waits_for_running_jobs_and_says_what_is_in_the_way() {
    let place = crate::support::Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    for (arguments, code, says) in [
        ("customer erase ann", 2, "--reason"),
        ("customer erase bob --reason gone --yes", 2, "there is no customer `bob`"),
        (
            "customer erase ann --reason gone --yes",
            1,
            "its status is active; `meter customer set ann --status canceled`",
        ),
        ("customer erase ann --reason gone", 1, "its status is active"),
    ] {
        place.run(arguments).ends(code).says(&[says]);
    }
    place.run("customer set ann --status canceled --stripe-id cus_never").ends(0);
    let usage = testkit::usage::booking("ann", "chime_minutes", "date('now')", "10000000000");
    place.execute(&usage.join(";"));
    place.run("customer erase ann --reason gone --yes").ends(1).says(&["usage in the open billing period up to"]);
    place.execute(&testkit::usage::booking("bob", "chime_minutes", "date('now')", "10000000000").join(";"));
    place.run("customer add cyd --stripe-customer-id cus_cyd").ends(0);
    place.run("customer set cyd --status canceled --reason cus_cyd/left").ends(0);
    let job = "INSERT INTO jobs (id, kind, payload, state, origin, attempts, max_attempts, lease, worker, lease_until, enqueued_at) \
               VALUES ('01ARZ3NDEKTSV4RRFFQ69G5FAV', 'push_stripe', '{}', 'running', 'x', 1, 1, 1, 'w', 99999999999999, 0)";
    place.execute(job);
    let ran = place.run("customer erase cyd --reason gone --yes").ends(1);
    ran.says(&["jobs run, and may have read its id: push_stripe 1", "meter jobs list --state running"]);
    assert_eq!(place.query("SELECT id FROM customers ORDER BY id"), ["ann", "cyd"]);
    place.execute("DELETE FROM jobs");
    place.run("customer erase cyd --reason gone --yes").ends(0).says(&["Stripe has the customer"]);
    // nothing was billed to it, so the books forget the Stripe id
    assert_eq!(place.query("SELECT count(*) FROM stripe_customers WHERE stripe_customer = 'cus_cyd'"), ["0"]);
    let reasons = place.query("SELECT reason FROM audit_log WHERE target LIKE 'customer erased-%' ORDER BY seq");
    assert_eq!(reasons, ["status active to canceled; (erased)/left", "gone"]);
    // the history of an erased customer is as fixed as any other
    for (table, column) in [
        ("ledger_entries", "customer"),
        ("customer_plans", "customer"),
        ("audit_log", "target"),
        ("stripe_customers", "customer"),
    ] {
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            place.execute(&format!("UPDATE {table} SET {column} = 'x'"));
        }));
        assert!(refused.is_err(), "{table}");
    }
}
