//! Plans that cannot be billed as they stand: what `plan apply`, `stripe check`, `doctor` and
//! `config check` say, and what a customer feels. Also meters whose mapping changes, and what a dry
//! run of a push says.

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, DAY, KEY, PLANS, config};
use fake_stripe::{Fault, Subscription};
use jiff::Timestamp;
use testkit::usage::booking;

/// A plan whose calls have a price that is reported to nobody, and whose storage is billed.
const SILENT: &str = "[[plans]]\nname = \"silent\"\ncurrency = \"USD\"\neffective_from = \"1970-01-01T00:00:00Z\"\n\
    [plans.meters]\nchime_minutes = { included = \"100\", price = \"0.01\" }\n\
    storage_gb = { included = \"1\", price = \"0.05\", report = \"overage\" }\n";

fn write(place: &Workspace, name: &str, text: &str) {
    std::fs::write(place.path(name), text).unwrap();
}

#[test]
fn a_price_that_is_reported_to_nobody_is_named_and_opens_no_overage() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("config check").ends(0);
    assert!(!place.run("config check").out.contains("warning"));
    write(&place, "plans.toml", SILENT);
    let why = "price of chime_minutes in plan silent: billed nowhere: the price of 0.01 USD is reported to nobody";
    for line in ["plan apply plans.toml --dry-run", "plan apply plans.toml", "plan apply plans.toml"] {
        let ran = place.run(line).ends(0).says(&[why, "write report = \"overage\" or \"total\""]);
        assert!(!ran.out.contains("storage_gb in plan"), "{}", ran.out);
    }
    place.run("config check").ends(0).says(&["the configuration is sound", why]);
    place.run("plan list silent").ends(0).says(&["no more (0.01 USD is billed nowhere)", "0.05 USD"]);
    let doctor = place.run("doctor");
    assert!(doctor.out.contains("warn   price of chime_minutes in plan silent: billed nowhere"), "{}", doctor.out);

    // 900 minutes beyond the plan: they take nothing from the budget, which storage may spend
    place.run("customer add ann --plan silent").ends(0);
    place.run("budget set ann 1.00").ends(0);
    place.run("run roll-periods").ends(0);
    for (meter, units) in [("chime_minutes", 1000), ("storage_gb", 2)] {
        place.execute(&booking("ann", meter, "date('now')", &format!("{units} * 10000000000")).join(";"));
    }
    place.run("run enforce-budgets").ends(0);
    let decided = "SELECT meter, allowed, reason, effective_limit / 10000000000, meter_cost_minor, overage_cost_minor \
                   FROM entitlements WHERE meter IN ('chime_minutes', 'storage_gb') ORDER BY meter";
    assert_eq!(place.query(decided), ["chime_minutes|0|included_used|100|0|5", "storage_gb|1|within_budget|21|5|5"]);
    let explained = place.run("explain-entitlement ann chime_minutes").ends(0);
    assert!(explained.out.contains("a price for more that is billed nowhere"), "{}", explained.out);

    // a later version that reports it
    let next = SILENT.replace("1970", "2099").replace("\"0.01\" }", "\"0.01\", report = \"overage\" }");
    write(&place, "plans.toml", &next);
    let ran = place.run("plan apply plans.toml").ends(0).says(&["added"]);
    assert!(ran.out.contains(why), "the version that holds is as it was: {}", ran.out);
}

/// Plans of older builds may have a price of TURN.
#[test]
fn a_stored_price_of_turn_counts_as_none() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute("UPDATE plan_meters SET price = '0.30', report = 'overage' WHERE meter = 'turn_allocations'");
    place.run("customer add ann").ends(0);
    let limits = "SELECT DISTINCT allowed_until, reason FROM turn_periods";
    assert_eq!(place.query(limits), ["500|included_used"], "by the trigger at sign-up");
    place.run("budget set ann 9.00").ends(0);
    place.run("run roll-periods").ends(0);
    place.execute("UPDATE turn_periods SET used = 500");
    place.run("run enforce-budgets").ends(0).says(&["included_used"]);
    assert_eq!(place.query(limits), ["500|included_used"], "by the enforcement");
    assert_eq!(place.query("SELECT max(overage_cost_minor) FROM entitlements"), ["0"]);
    place
        .run("config check")
        .ends(0)
        .says(&["price of turn_allocations in plan core", "a version of the plan without it"]);
    place.run("verify").ends(0);
}

#[test]
fn versions_to_come_are_compared_with_stripe_by_plan_apply_stripe_check_and_doctor() {
    let fixture = BillingFixture::open(&[]);
    fixture.run("stripe check").ends(0);
    let to_come = PLANS.replace("1970", "2098").replace("\"0.0045\"", "\"0.009\"");
    let silent = PLANS.replace("1970", "2099").replace("report = \"overage\"", "");
    write(&fixture.place, "next.toml", &format!("{to_come}{silent}"));
    let differs = "price of chime_minutes in plan pro from 2098-01-01T00:00:00Z: price_chime at 0.00045";
    let unbilled = "price of chime_minutes in plan pro from 2099-01-01T00:00:00Z: billed nowhere";
    for line in ["plan apply next.toml --dry-run", "plan apply next.toml"] {
        fixture.run(line).ends(0).says(&[differs, "the plan's price makes 0.0009", unbilled]);
    }
    fixture.run("stripe check").ends(3).says(&[
        "from 2098-01-01T00:00:00Z",
        "makes 0.0009",
        "from 2099-01-01T00:00:00Z",
    ]);
    let doctor = fixture.run("doctor").out;
    assert!(doctor.contains(differs) && doctor.contains(unbilled), "{doctor}");
    fixture.stripe.world().add_price("price_2098", "chime_milliminutes", "usd", "0.0009", None);
    let checked = fixture.run("stripe check").ends(3);
    assert!(!checked.out.contains("makes 0.0009"), "{}", checked.out);

    // an included amount and all usage: without a key nobody knows whether the price has tiers
    let total = PLANS.replace("report = \"overage\"", "report = \"total\"").replace("\"pro\"", "\"team\"");
    write(&fixture.place, "team.toml", &total);
    let tiers = "chime_minutes in plan team: 100 of it are included and all usage is reported";
    fixture.place.run("plan apply team.toml --dry-run").ends(0).says(&[tiers]);
    let ran = fixture.run("plan apply team.toml").ends(0).says(&["which a price for each unit would charge"]);
    assert!(!ran.out.contains(tiers), "{}", ran.out);
    fixture.run("stripe check").ends(3).says(&["price of chime_minutes in plan team: the plan reports all usage"]);

    // when Stripe does not answer, plans are applied all the same
    fixture.stripe.world().set_key("sk_test_51Another");
    fixture.run("plan apply team.toml").ends(0).says(&["is there already", "the prices at Stripe were not compared"]);
    fixture.judge();
}

#[test]
fn amounts_are_in_stripes_minor_units() {
    let fixture = BillingFixture::new();
    fixture.run("migrate").ends(0);
    for (code, amount) in [("ISK", "0.05"), ("UGX", "0.05"), ("MGA", "0.0005"), ("KWD", "0.5"), ("JPY", "0.0005")] {
        let name = code.to_lowercase();
        let plan = format!(
            "[[plans]]\nname = \"{name}\"\ncurrency = \"{code}\"\neffective_from = \"1970-01-01T00:00:00Z\"\n\
             [plans.meters]\nchime_minutes = {{ included = \"10\", price = \"0.5\", report = \"overage\" }}\n"
        );
        write(&fixture.place, "plans.toml", &plan);
        fixture.run("plan apply plans.toml").ends(0);
        fixture.run("stripe setup").ends(3).says(&[&format!("--currency {name} -d unit_amount_decimal={amount} ")]);
        fixture.stripe.world().add_price(&format!("price_{name}"), "chime_milliminutes", &name, amount, None);
    }
    fixture.run("stripe check").ends(0);
    let place = &fixture.place;
    for (name, set, minor) in [("isk", "50", 5000), ("ugx", "50", 5000), ("mga", "50", 50), ("kwd", "0.05", 50)] {
        place.run(&format!("customer add {name} --plan {name}")).ends(0);
        place.run(&format!("budget set {name} {set}")).ends(0);
        let stored = place.query(&format!("SELECT amount_minor FROM overage_budgets WHERE customer = '{name}'"));
        assert_eq!(stored, [minor.to_string()], "{name}");
    }
    place.run("budget set isk 50.5").ends(2).says(&["`50.5` ISK is no whole amount", "write it without decimals"]);
    place
        .run("budget set mga 50.2")
        .ends(2)
        .says(&["no amount in MGA: a decimal of at least 0 with at most 0 decimals"]);
    place.run("budget show isk").ends(0).says(&["50.00 ISK"]);
    fixture.judge();
}

#[test]
fn a_mapping_is_fixed_by_the_first_event_and_not_by_the_setup() {
    let fixture = BillingFixture::open(&["ann"]);
    let remap = |event: &str, per_unit: &str| {
        let text = config(&fixture.stripe.url());
        let text =
            text.replace("chime_milliminutes\"\nper_unit = \"1000\"", &format!("{event}\"\nper_unit = \"{per_unit}\""));
        write(&fixture.place, "meter.toml", &text);
    };
    let stored = || fixture.place.query("SELECT event_name, per_unit FROM stripe_meters WHERE meter = 'chime_minutes'");
    assert_eq!(stored(), ["chime_milliminutes|1000"]);
    // a typing mistake that was set up is corrected, as long as nothing was planned
    remap("chime_seconds", "60");
    fixture.run("stripe setup").ends(3).says(&["made as chime_seconds", "unit_amount_decimal=0.0075"]);
    assert_eq!(stored(), ["chime_seconds|60"]);
    {
        let mut world = fixture.stripe.world();
        world.add_price("price_seconds", "chime_seconds", "usd", "0.0075", None);
        world.add_customer("cus_bob");
        let began = Timestamp::now().as_second() - 10 * DAY;
        world.add_subscription(Subscription::monthly("sub_bob", "cus_bob", began, &["price_seconds"]));
    }
    fixture.run("stripe check").ends(3).says(&["no item in sub_ann"]);
    fixture.run("customer add bob --plan pro --stripe-customer-id cus_bob").ends(0);
    fixture.run("run sync-stripe full=true").ends(0);
    fixture.run("run roll-periods").ends(0);
    fixture.book("bob", "chime_minutes", "350");
    fixture.run("push").ends(0).says(&["1 event planned", "1 accepted"]);
    assert_eq!(fixture.invoiced("bob", "chime_seconds"), "15000", "250 minutes in seconds");
    // from now on it stays, as for storage it does not
    remap("chime_milliminutes", "1000");
    for line in ["push", "push --dry-run", "stripe setup"] {
        fixture.run(line).ends(1).says(&["these books have its events as `chime_seconds` with 60 units for each"]);
    }
    fixture
        .run("stripe check")
        .ends(3)
        .says(&["the account: stripe.meters.chime_minutes: these books have its events as"]);
    // nor can another meter take the event name
    let swapped = config(&fixture.stripe.url())
        .replace("chime_minutes]", "transfer_gb]")
        .replace("chime_milliminutes\"\nper_unit = \"1000\"", "chime_seconds\"\nper_unit = \"60\"");
    write(&fixture.place, "meter.toml", &swapped);
    fixture
        .run("push")
        .ends(1)
        .says(&["these books have events of `chime_minutes` as `chime_seconds`", "another event_name"]);
    fixture.run("verify").ends(0);
    fixture.judge();
}

#[test]
fn meters_that_swap_their_event_names_before_the_first_event_are_found_anew() {
    let fixture = BillingFixture::open(&[]);
    let text = config(&fixture.stripe.url());
    let text = text.replace("\"chime_milliminutes\"", "\"x\"").replace("storage_mb_months", "chime_milliminutes");
    write(&fixture.place, "meter.toml", &text.replace("\"x\"", "\"storage_mb_months\""));
    fixture.run("stripe setup").ends(3);
    let stored = fixture.place.query("SELECT meter, event_name FROM stripe_meters ORDER BY meter");
    assert_eq!(stored, ["chime_minutes|storage_mb_months", "storage_gb|chime_milliminutes"]);
    fixture.judge();
}

#[test]
fn a_dry_run_of_a_push_ends_as_the_push_would_and_says_who_has_no_invoice() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.run("push --dry-run").ends(0);
    // dan, nobody's customer at Stripe; eve, without a subscription; fay, within the plan
    for (name, options) in [("dan", ""), ("eve", " --stripe-customer-id cus_eve"), ("fay", "")] {
        fixture.run(&format!("customer add {name} --plan pro{options}")).ends(0);
    }
    fixture.stripe.world().add_customer("cus_eve");
    fixture.run("run roll-periods").ends(0);
    // of calendar months, whatever day it is
    fixture.place.execute("UPDATE billing_periods SET first_day = '2020-01-01' WHERE customer IN ('dan', 'eve', 'fay') AND starts_at <= unixepoch()");
    for (name, minutes) in [("ann", "350"), ("dan", "350"), ("eve", "100.5"), ("fay", "100")] {
        fixture.book(name, "chime_minutes", minutes);
    }
    let ran = fixture.run("push --dry-run").ends(0).says(&[
        "1 event would be sent, for 1 customer",
        "no invoice can take what the plan bills, for 2 customers:",
        "dan       no Stripe id",
        "eve       no subscription",
        "`meter customer set CUSTOMER --stripe-id ID`",
    ]);
    let list: Vec<&str> = ran.out.lines().skip_while(|line| !line.contains("no invoice can take")).collect();
    assert!(
        list.iter().all(|line| line.chars().count() <= 80 && !line.contains("fay") && !line.contains("ann")),
        "{list:?}"
    );
    let json = fixture.run("push --dry-run --json").ends(0).json();
    assert_eq!(json["customers_without_invoice"][0], serde_json::json!({ "customer": "dan", "lacks": "stripe_id" }));
    assert_eq!(fixture.place.query("SELECT count(*) FROM meter_events"), ["0"], "nothing was written");
    fixture.run("push").ends(0).says(&["1 accepted"]);

    // each state of the world in which a push needs a person, or fails
    let both = |code: i32, words: &[&str]| {
        fixture.run("push --dry-run").ends(code).says(words);
        fixture.run("push").ends(code).says(words);
    };
    let without = config(&fixture.stripe.url()).split("[stripe.meters.storage_gb]").next().unwrap().to_owned();
    write(&fixture.place, "meter.toml", &without);
    both(3, &["attention: plans report storage_gb, and stripe.meters does not say where to"]);
    let nothing = without.split("[stripe.meters").next().unwrap();
    write(&fixture.place, "meter.toml", nothing);
    both(3, &["plans report chime_minutes, storage_gb"]);
    write(&fixture.place, "meter.toml", &config(&fixture.stripe.url()));
    both(0, &[]);
    let id = fixture.place.query("SELECT stripe_id FROM stripe_meters WHERE meter = 'storage_gb'")[0].clone();
    fixture.stripe.world().deactivate_meter(&id);
    fixture.book("ann", "storage_gb", "1");
    both(3, &["Stripe has no active meter for storage_gb"]);
    fixture.stripe.world().set_key("sk_test_51Another");
    both(3, &["deferred since before: 1 amount waits: Stripe has no active meter for it"]);
    fixture.book("ann", "chime_minutes", "1");
    both(1, &["METER_STRIPE__KEY"]);
    fixture.stripe.world().set_key(KEY);
    // an event that was refused defers what follows it
    fixture.stripe.world().delete_customer("cus_ann");
    fixture.book("ann", "chime_minutes", "1");
    fixture.run("push").ends(3).says(&["1 refused"]);
    fixture.book("ann", "chime_minutes", "1");
    both(3, &["deferred: 1 amount: Stripe refused an event"]);
    fixture.place.execute("UPDATE customers SET plan = 'gone' WHERE id = 'ann'");
    both(3, &["an unknown plan, for 1 customer"]);
    fixture.judge();
}

/// The period of a subscription that ended goes on until `roll_periods` ends it, too.
#[test]
fn a_dry_run_names_who_used_on_after_a_subscription_ended() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.book("ann", "chime_minutes", "350");
    fixture.place.execute(
        "UPDATE subscriptions SET status = 'canceled', ended_at = unixepoch() - 4 * 86400, updated_at = unixepoch()",
    );
    let pending = fixture.run("push --dry-run").ends(0);
    assert!(pending.out.contains("a push first opens or moves billing periods, for 1 customer"), "{}", pending.out);
    fixture.run("run roll-periods").ends(0);
    fixture
        .run("push --dry-run")
        .ends(0)
        .says(&["no invoice can take what the plan bills, for 1 customer:", "no subscription"]);
    fixture.judge();
}

/// Usage under an id that no customer has makes nobody count.
#[test]
fn a_push_counts_customers_for_whom_something_is_planned() {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    fixture.book("nobody", "storage_gb", "1");
    let dry = || fixture.run("push --dry-run").ends(0).out;
    assert!(dry().lines().any(|line| line == "0 events would be sent"), "{}", dry());
    fixture.book("ann", "storage_gb", "1");
    assert!(dry().lines().any(|line| line == "1 event would be sent, for 1 customer"), "{}", dry());
    fixture.run("push").ends(0).says(&["2 customers checked, 1 event planned; 1 sent: 1 accepted"]);
    fixture.judge();
}

/// What was planned and never taken is an event of the books, and nothing that was sent.
#[test]
fn a_changed_mapping_is_not_said_to_be_that_of_what_was_sent() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.book("ann", "storage_gb", "1");
    fixture.stripe.world().set_faults(|seen| seen.path.ends_with("meter_events").then_some(Fault::Forbidden));
    fixture.run("push").ends(1).says(&["nothing is lost"]);
    fixture.stripe.world().clear_faults();
    let other =
        config(&fixture.stripe.url()).replace("storage_mb_months\"\nper_unit = \"1000\"", "storage_mb_months\"");
    write(&fixture.place, "meter.toml", &other);
    let ran = fixture.run("stripe check").ends(3).says(&["these books have its events as `storage_mb_months`"]);
    assert!(!ran.out.contains("was sent"), "{}", ran.out);
}
