//! One rule for all commands that take a customer's id: an unknown one is bad usage (2), and the
//! message names similar ids.

use std::collections::BTreeSet;

use crate::support::Workspace;

/// Every command that takes a customer's id, with one that is unknown.
const LINES: [&str; 24] = [
    "customer show bob",
    "customer set bob --plan core",
    "customer erase bob --reason gone",
    "budget set bob 5",
    "budget remove bob",
    "budget show bob",
    "budget history bob",
    "entitlements bob",
    "explain-entitlement bob chime_minutes",
    "explain bob --meter storage_gb --day 2026-11-03",
    "bill bob",
    "forecast bob",
    "margin bob --period 2026-10",
    "statement bob --json",
    "turn bob",
    "usage bob",
    "measured bob",
    "accuracy --customer bob",
    "report bob --html x.html",
    "reconcile bob",
    "events list --customer bob",
    "notifications list --customer bob",
    "restore finish --without bob --reason gone",
    "plan simulate plans.toml --customer bob",
];

/// The commands that have an argument for a customer, by their names.
fn commands(of: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
    let takes_customer = of.get_arguments().any(|arg| {
        let names = arg.get_value_names().unwrap_or_default();
        arg.get_id() == "customer" || names.iter().any(|name| *name == "CUSTOMER")
    });
    if takes_customer {
        found.insert(path.trim().to_owned());
    }
    of.get_subcommands().for_each(|below| commands(below, &format!("{path} {}", below.get_name()), found));
}

#[test]
fn an_unknown_customer_is_bad_usage_for_every_command() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add bobby").ends(0);
    place.run("restore mark --backup-at 2026-01-01T00:00:00Z");
    let (mut takers, mut tried) = (BTreeSet::new(), BTreeSet::new());
    let mut cli = meter::cli::command();
    cli.build();
    commands(&cli, "", &mut takers);
    for line in LINES {
        let says = "there is no customer `bob`; did you mean `bobby`? `meter customer list` shows all";
        let ran = place.run(line).ends(2).says(&[says]);
        assert!(ran.out.is_empty() || line.contains("--json"), "{line}: {}", ran.out);
        tried.extend(takers.iter().filter(|taker| line.starts_with(*taker)).cloned());
    }
    takers.remove("customer add");
    assert_eq!(tried, takers, "commands that take a customer, and those that are tried here");
    assert!(!place.path("x.html").exists());
    for line in ["usage bob --json", "turn bob --json", "entitlements bob --json", "events list --customer bob --json"]
    {
        place.run(line).ends(2).says(&["there is no customer `bob`"]);
    }
    assert_eq!(place.query("SELECT id FROM customers"), ["bobby"]);

    // usage that nobody has a row for is shown, and is no customer
    for sql in
        testkit::usage::bookings("'2026-01'", "SELECT 'bab', 'chime_minutes', '2026-01-02', 10000000000, 'usage'")
    {
        place.execute(&sql);
    }
    place.run("usage bab --month 2026-01").ends(0).says(&["unknown: the books have no customer with this id"]);
    place.run("usage bab --month 2026-02").ends(0).says(&["nothing is booked in 2026-02"]);
    place.run("entitlements bab").ends(2).says(&["usage under that id is kept", "meter customer add bab"]);
}
