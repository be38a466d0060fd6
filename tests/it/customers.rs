//! Customers by hand, through the binary: changed, imported again, found.

use crate::support::{Ran, Workspace};

const ROWS: &str = "SELECT id, plan, status, stripe_customer_id, display_name FROM customers ORDER BY id";
const LOG: &str = "SELECT action, target, reason FROM audit_log ORDER BY seq";

const PLANS: &str = "[[plans]]\nname = \"pro\"\ncurrency = \"USD\"\neffective_from = \"1970-01-01T00:00:00Z\"\n\
    [plans.meters.chime_minutes]\nincluded = \"100\"\nprice = \"0.0045\"\nreport = \"overage\"\n";

fn place() -> Workspace {
    let place = Workspace::new();
    std::fs::write(place.path("plans.toml"), PLANS).unwrap();
    place.run("plan apply plans.toml").ends(0);
    place
}

/// Runs a command with arguments that have blanks.
fn run(place: &Workspace, arguments: &[&str]) -> Ran {
    crate::support::output(crate::support::meter(place.folder.path()).args(arguments)).into()
}

#[test]
fn a_customer_is_changed_by_hand_and_the_log_says_who_did_it() {
    let place = place();
    place.run("customer add ann --stripe-customer-id cus_1").ends(0);
    place.run("customer add bob").ends(0);
    let name = ["customer", "set", "ann", "--name", "Ann & Söhne"];
    run(&place, &name).ends(0).says(&["ann: display name none -> Ann & Söhne."]);
    run(&place, &name).ends(0).says(&["nothing changed; it has these values already"]);
    for (line, says) in [
        ("--plan pro", &["ann: plan core -> pro.", "holds from today", "keeps its terms"][..]),
        ("--status past_due --reason unpaid_invoice", &["status active -> past_due", "nothing beyond it"]),
        ("--stripe-id cus_2", &["Stripe customer cus_1 -> cus_2", "Events of a subscription go to"]),
        ("--no-stripe-id --status canceled", &["Stripe customer cus_2 -> none", "status past_due -> canceled"]),
        ("--stripe-id cus_1 --status active", &["Stripe customer none -> cus_1", "status canceled -> active"]),
    ] {
        let line = format!("customer set ann {line}");
        place.run(&line).ends(0).says(says);
        let before = (place.query(ROWS), place.query(LOG), place.query("SELECT * FROM customer_plans"));
        place.run(&line).ends(0).says(&["nothing changed"]);
        let after = (place.query(ROWS), place.query(LOG), place.query("SELECT * FROM customer_plans"));
        assert_eq!(before, after, "{line}: the second run writes nothing");
    }
    assert_eq!(place.query(ROWS), ["ann|pro|active|cus_1|Ann & Söhne", "bob|core|active||"]);
    assert_eq!(
        place.query(LOG),
        [
            "customer set|customer ann|display name changed",
            "customer set|customer ann|plan core to pro",
            "customer set|customer ann|status active to past_due; unpaid_invoice",
            "customer set|customer ann|Stripe customer cus_1 to cus_2",
            "customer set|customer ann|status past_due to canceled, Stripe customer cus_2 to none",
            "customer set|customer ann|status canceled to active, Stripe customer none to cus_1",
        ],
        "a display name is in no log"
    );
    let setters = place.query("SELECT plan, set_by LIKE '%@%' FROM customer_plans WHERE customer = 'ann' ORDER BY seq");
    assert_eq!(setters, ["core|0", "pro|1"]);
    place
        .run("customer show ann")
        .ends(0)
        .says(&["ann (Ann & Söhne): plan pro", "did `customer set`: plan core to pro"]);
    place.run("customer list").ends(0).says(&["Ann & Söhne"]);
    let shown = place.run("customer show ann --json").ends(0).json();
    assert_eq!(shown["customer"]["display_name"], "Ann & Söhne");
    assert_eq!(shown["audit"].as_array().unwrap().len(), 6);
    let changed = place.run("customer set ann --no-name --plan core --json").ends(0).json();
    let both = serde_json::json!([
        { "field": "plan", "from": "pro", "to": "core" },
        { "field": "display_name", "from": "Ann & Söhne", "to": null },
    ]);
    assert_eq!((&changed["customer"], &changed["changes"]), (&"ann".into(), &both));
    let unchanged = place.run("customer set ann --no-name --json").ends(0).json();
    assert_eq!(unchanged["changes"], serde_json::json!([]));
    run(&place, &["customer", "add", "cyd", "--name", "Cyd"]).ends(0);
    assert_eq!(place.query("SELECT display_name FROM customers WHERE id = 'cyd'"), ["Cyd"]);
}

#[test]
fn bad_input_changes_no_customer() {
    let place = place();
    place.run("customer add ann --stripe-customer-id cus_1").ends(0);
    place.run("customer add bob --stripe-customer-id cus_2").ends(0);
    let before = (place.query(ROWS), place.query(LOG));
    let long = "n".repeat(257);
    for (arguments, says) in [
        (&["ann"][..], "required"),
        (&["ann", "--reason", "why"], "required"),
        (&["ann", "--plan", "gold"], "there is no plan `gold`; there are: `core`, `pro`"),
        (&["ann", "--plan", ""], "` is no plan: it has 1 to 64 characters"),
        (&["ann", "--stripe-id", "cus_2"], "customer `bob` has the Stripe id cus_2"),
        (&["ann", "--stripe-id", "cus 3"], "`cus 3` is no id of Stripe"),
        (&["ann", "--stripe-id", ""], "`` is no id of Stripe"),
        (&["ann", "--stripe-id", "cus_3", "--no-stripe-id"], "cannot be used with"),
        (&["ann", "--name", "x", "--no-name"], "cannot be used with"),
        (&["ann", "--status", "asleep"], "active, past_due, canceled"),
        (&["ann", "--name", ""], "` is no display name: it has 1 to 256 characters"),
        (&["ann", "--name", " Ann"], "no blank at the ends"),
        (&["ann", "--name", "An\u{7}n"], "none of them a control character"),
        (&["ann", "--name", &long], "1 to 256 characters"),
        (&["ann", "--plan", "pro", "--reason", " "], "--reason: say why"),
        (&["ann", "--plan", "pro", "--name", ""], "is no display name"),
        (&["anna", "--plan", "pro"], "there is no customer `anna`; did you mean `ann`?"),
    ] {
        run(&place, &[&["customer", "set"], arguments].concat()).ends(2).says(&[says]);
        assert_eq!((place.query(ROWS), place.query(LOG)), before, "{arguments:?}");
    }
    // whoever writes to the table meets the same rule
    for name in ["''", "' Ann'", "'An' || char(7)", "printf('%0257d', 1)"] {
        let sql = format!("UPDATE customers SET display_name = {name} WHERE id = 'ann'");
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.execute(&sql)));
        let error = *refused.unwrap_err().downcast::<String>().unwrap();
        assert!(error.contains("customers.display_name: 1 to 256 characters"), "{name}: {error}");
    }
    place.execute("UPDATE customers SET display_name = printf('%0256d', 1) WHERE id = 'ann'");
}

#[test]
fn a_file_updates_known_customers_whole_or_not_at_all() {
    let place = place();
    let import = |csv: &str, options: &str| {
        std::fs::write(place.path("list.csv"), csv).unwrap();
        place.run(&format!("customer import list.csv {options}"))
    };
    import("id,plan,stripe_customer_id,display_name\nann,pro,cus_1,Ann\nbob,,cus_2,\n", "").ends(0);
    assert_eq!(place.query(ROWS), ["ann|pro|active|cus_1|Ann", "bob|core|active|cus_2|"]);
    // without --update known customers stay as they are
    import("id,display_name\nann,Anna\n", "").ends(0).says(&["0 customer(s) added; 1 existed"]);
    let before = (place.query(ROWS), place.query(LOG));

    // every fault at once, with its line; nothing is written, and a dry run says the same
    let faults =
        "id,plan,stripe_customer_id\nann,gold,\ncyd,core\nbob,,cus 9\n\"d\ne\",core,\ndan,core,cus_1\ndan,core,\n";
    for options in ["--update", "--update --dry-run", ""] {
        let ran = import(faults, options).ends(2);
        let outcome = if options.is_empty() { "nobody was added" } else { "nothing was changed" };
        for says in [
            "list.csv:2: customer `ann`: there is no plan `gold`; there are: `core`, `pro`",
            "list.csv:3: it has 2 fields, and the first line has 3",
            "list.csv:4: customer `bob`: `cus 9` is no id of Stripe",
            "list.csv:5: customer `d\\ne`: that is no id",
            "list.csv:7: customer `dan`: customer `ann` has the Stripe id cus_1",
            "list.csv:8: customer `dan`: it is named twice",
        ] {
            assert!(ran.err.contains(says), "{says} is not in\n{}", ran.err);
        }
        assert!(ran.err.starts_with(&format!("meter: list.csv has 6 faults; {outcome}:")), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 7, "{}", ran.err);
        assert_eq!((place.query(ROWS), place.query(LOG)), before, "{options}");
    }

    // an empty cell and a missing column leave a field as it is
    let file = "id,plan,display_name\nann,core,\nbob,,Bob\ncyd,pro,Cyd\neve,,\n";
    let ran = import(file, "--update --dry-run").ends(0);
    ran.says(&[
        "ann: plan pro -> core",
        "bob: display name none -> Bob",
        "customers: 2 added, 2 changed, 0 unchanged; nothing was written",
    ]);
    assert_eq!((place.query(ROWS), place.query(LOG)), before);
    import(file, "--update").ends(0).says(&["customers: 2 added, 2 changed, 0 unchanged"]);
    let after = ["ann|core|active|cus_1|Ann", "bob|core|active|cus_2|Bob", "cyd|pro|active||Cyd", "eve|core|active||"];
    assert_eq!(place.query(ROWS), after);
    let log = [
        "customer import --update|customer ann|plan pro to core",
        "customer import --update|customer bob|display name changed",
    ];
    assert_eq!(place.query(LOG), log);
    import(file, "--update").ends(0).says(&["customers: 0 added, 0 changed, 4 unchanged"]);
    assert_eq!(place.query(LOG), log, "the second run writes nothing");

    // a file may move Stripe ids between its customers, and the books keep who had which
    import("id,stripe_customer_id\nann,cus_2\nbob,cus_1\n", "--update").ends(0).says(&["0 added, 2 changed"]);
    assert_eq!(place.query(ROWS)[..2], ["ann|core|active|cus_2|Ann", "bob|core|active|cus_1|Bob"]);
    let had = "SELECT customer, stripe_customer, until IS NULL FROM stripe_customers ORDER BY seq";
    assert_eq!(place.query(had), ["ann|cus_1|0", "bob|cus_2|0", "ann|cus_2|1", "bob|cus_1|1"]);
    // but not from a customer who keeps it
    let ran = import("id,stripe_customer_id\nann,cus_1\n", "--update").ends(2);
    ran.says(&["list.csv:2: customer `ann`: customer `bob` has the Stripe id cus_1"]);
    import("id\n", "--update").ends(0).says(&["customers: 0 added, 0 changed, 0 unchanged"]);
}

#[test]
fn customers_are_found_by_a_part_of_id_name_or_stripe_id() {
    let place = place();
    let file = "id,stripe_customer_id,display_name\nann-1,cus_A1,Ann Smith\nbob-2,cus_B2,Söhne 50%\nANNA,,\n";
    std::fs::write(place.path("list.csv"), file).unwrap();
    place.run("customer import list.csv").ends(0);
    let found = |text: &str| {
        let found = run(&place, &["customer", "search", text, "--json"]).ends(0).json();
        let ids = found["customers"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned());
        (ids.collect::<Vec<_>>().join(" "), found["more"].as_u64().unwrap())
    };
    for (text, ids) in [
        ("ann", "ANNA ann-1"),
        ("SMITH", "ann-1"),
        ("cus_", "ann-1 bob-2"),
        ("CUS_b", "bob-2"),
        ("söhne", "bob-2"),
        ("SÖHNE", ""),
        ("%", "bob-2"),
        ("_", "ann-1 bob-2"),
        ("nobody", ""),
    ] {
        assert_eq!(found(text), (ids.to_owned(), 0), "{text}");
    }
    place.run("customer search ann").ends(0).says(&["ann-1", "Ann Smith", "cus_A1"]);
    place.run("customer search n --limit 1").ends(0).says(&["ANNA", "and 2 more; --limit shows them"]);
    place.run("customer search x").ends(0).says(&["no customer has `x`"]);
    run(&place, &["customer", "search", ""]).ends(2).says(&["an empty text is in everything"]);
}
