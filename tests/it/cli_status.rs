//! Stories of an operator's day: status, doctor, report, and the files that containers and systemd
//! are given.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::served::{Served, billed_month, demo, free_port};
use crate::support::{Ran, Workspace, meter, query};
use meter::config::Config;
use testkit::needs::{python, tool};

fn run(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Ran {
    let mut command = meter(folder);
    crate::support::output(command.args(line.split_whitespace()).envs(variables.iter().copied())).into()
}

#[test]
fn status_says_what_needs_a_person_and_ends_so() {
    let (_folder, kept) = demo();
    // the demo's bill has lines that nobody knows, and nobody has run a worker yet
    let status = run(&kept, "status", &[]).ends(3).says(&[
        "ledger entries; not audited yet",
        "MeterUnrecognisedLines",
        "meter discover",
    ]);
    assert!(status.out.lines().count() < 40, "it is no screen:\n{}", status.out);
    run(&kept, "enqueue verify_books", &[]).ends(0);
    run(&kept, "work --once --no-schedule", &[]).ends(0);
    let entries = query(&kept.join("meter.db"), "SELECT count(*) FROM ledger_entries").remove(0);
    let json = run(&kept, "status --json", &[]).ends(3).json();
    assert_eq!(json["books"]["entries"].to_string(), entries);
    assert_eq!(json["audit"]["violations"]["conservation"], 0);

    // books that do not add up are the worst that there is
    let books = Workspace { folder: tempfile::TempDir::new().unwrap() };
    std::fs::copy(kept.join("meter.db"), books.path("meter.db")).unwrap();
    books.execute("UPDATE usage_totals SET rest = rest + 1; UPDATE bill_totals SET attributed = '1'");
    books.run("enqueue verify_books").ends(0);
    books.run("work --once --no-schedule --kinds verify_books").ends(0);
    books.run("status").ends(1).says(&["WRONG", "MeterBooksViolated", "the books break the rule `conservation`"]);

    // a schedule that was kept, and is not any more
    run(&kept, "work --once", &[]).ends(0);
    run(&kept, "status", &[]).ends(1).says(&["MeterDown", "no worker is running"]);

    let calm = Workspace::with("");
    calm.run("migrate").ends(0);
    calm.run("status").ends(0).says(&["No bill is booked yet", "nothing needs attention"]);
    Workspace::with("").run("status").ends(1).says(&["there are no books at meter.db yet"]);
}

#[test]
fn doctor_names_what_is_wrong_and_what_to_do() {
    let (_folder, kept) = demo();
    let worker = Served::start(&kept, "", &[]);
    worker.until("/readyz", |a| a.status == 200);
    let listen = format!("127.0.0.1:{}", worker.port);
    let well = run(&kept, "doctor", &[("METER_HTTP__LISTEN", &listen)]).ends(0);
    for line in [
        "ok     database",
        "ok     writing",
        "ok     clock",
        "ok     export demo: cur2",
        "tag on chime_minutes",
        "is ready",
    ] {
        assert!(well.out.contains(line), "{line} is not in:\n{}", well.out);
    }
    let other = Workspace::with("");
    other.run("migrate").ends(0);
    other.run_with("doctor", &[("METER_HTTP__LISTEN", &listen)]).says(&["works on other books"]);
    assert_eq!(worker.stop(), 0);
    run(&kept, "doctor", &[("METER_HTTP__LISTEN", &listen)]).ends(3).says(&["none answers at", "-> meter work"]);

    let place = Workspace::with("[[exports]]\nname = \"main\"\nlocation = \"nowhere\"\n");
    place.run("doctor").ends(1).says(&["warn   database: there is none at meter.db yet", "`meter migrate` makes it"]);
    place.run("migrate").ends(0);
    place.run("doctor").ends(1).says(&["WRONG  export main", "there is no such folder", "-> check exports[].location"]);
    let json = place.run("doctor --json").ends(1).json();
    let export = json.as_array().unwrap().iter().find(|c| c["what"] == "export main").unwrap();
    assert_eq!(
        (export["verdict"].as_str(), export["act"].as_str().is_some_and(|a| !a.is_empty())),
        (Some("wrong"), true)
    );

    // a bill without the tag is what most often goes wrong at the beginning
    let untagged = Workspace::new();
    untagged.run_with("demo generate bucket --rows 500", &[("METER_TAG_KEY", "another-tag")]).ends(0);
    untagged.run("ingest").ends(0);
    untagged.run("doctor").says(&["warn   tag on chime_minutes: 0 of", "activate the tag"]);

    let port = free_port();
    let stripe = format!("http://127.0.0.1:{port}/");
    let toml = "[stripe.meters.chime_minutes]\nevent_name = \"demo_chime_milliminutes\"\nper_unit = \"1000\"\n";
    let billed = Workspace::with(toml);
    billed.run("migrate").ends(0);
    billed.run("doctor").ends(1).says(&["warn   Stripe: there is no key", "WRONG  bills: no export is configured"]);
    let secret = [("METER_STRIPE__KEY", "sk_test_demo"), ("METER_STRIPE__URL", stripe.as_str())];
    let away = billed
        .run_with("doctor", &secret)
        .ends(1)
        .says(&["WRONG  Stripe", "see whether this machine reaches that address"]);
    assert!(!away.out.contains("sk_test_demo"), "{}", away.out);
    let mut account =
        meter(billed.folder.path()).args(["demo", "stripe", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
    let start = std::time::Instant::now();
    let there = loop {
        let ran = billed.run_with("doctor", &secret);
        if ran.out.contains("ok     Stripe: the test account answers") || start.elapsed().as_secs() > 30 {
            break ran;
        }
    };
    there.says(&["ok     Stripe's clock", "ok     meter chime_minutes = demo_chime_milliminutes"]);
    account.kill().unwrap();
    crate::support::ended(&mut account);
}

#[test]
fn a_report_is_a_whole_document() {
    let (_folder, kept) = demo();
    let month = billed_month(&kept.join("meter.db"));
    let says = ["all.html written: 3 meter(s)"];
    run(&kept, &format!("report --month {month} --html all.html"), &[]).ends(0).says(&says);
    let all = std::fs::read_to_string(kept.join("all.html")).unwrap();
    let who = "SELECT customer FROM booked_usage WHERE customer <> '' AND meter = 'chime_minutes' GROUP BY 1 ORDER BY sum(quantity) DESC LIMIT 1";
    let who = query(&kept.join("meter.db"), who).remove(0);
    assert!(all.contains(&who) && all.contains("<svg") && !all.contains("<script"), "{} bytes", all.len());
    run(&kept, &format!("report {who} --month {month} --html one.html"), &[]).ends(0);
    let one = std::fs::read_to_string(kept.join("one.html")).unwrap();
    let used = format!(
        "SELECT rtrim(rtrim(printf('%.10f', sum(quantity) / 1e10), '0'), '.') FROM booked_usage WHERE customer = '{who}' AND meter = 'chime_minutes'"
    );
    let used = query(&kept.join("meter.db"), &used).remove(0);
    assert!(one.replace(',', "").contains(&used), "{used} is not in the report of {who}");
    let other = "SELECT customer FROM booked_usage WHERE customer NOT IN ('', '{who}') LIMIT 1".replace("{who}", &who);
    assert!(!one.contains(&query(&kept.join("meter.db"), &other).remove(0)), "it names another customer");
    run(&kept, "report nobody --html x.html", &[]).ends(2).says(&["there is no customer `nobody`"]);
    run(&kept, "report --month 2999-01 --html x.html", &[]).ends(2).says(&["has not begun"]);
    run(&kept, "report --html no/such/folder/x.html", &[]).ends(2).says(&["cannot be written"]);
    // where nothing can be written, it can be piped
    let piped = run(&kept, "report --html -", &[]).ends(0);
    assert!(piped.out.starts_with("<!DOCTYPE html>") && piped.out.trim_end().ends_with("</html>"), "{}", piped.out);
    assert!(!kept.join("-").exists());
    assert!(!kept.join("x.html").exists());
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The demo of the containers, without containers: its configuration, plans and customers on the
/// bill and the account that it describes.
#[test]
fn the_demo_of_the_containers_bills_somebody() {
    let demo = root().join("deploy/demo");
    for file in ["deploy/demo/meter.toml", "deploy/meter.toml.example"] {
        Config::load(Some(&root().join(file)), std::iter::empty()).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    let place = Workspace::with("");
    place.run("demo generate bucket").ends(0);
    let port = free_port();
    let mut account =
        meter(place.folder.path()).args(["demo", "stripe", "--listen", &format!("127.0.0.1:{port}")]).spawn().unwrap();
    let toml = std::fs::read_to_string(demo.join("meter.toml")).unwrap();
    // the bucket is a folder here, and not behind a server
    let mut table: toml::Table = toml::from_str(&toml).unwrap();
    for export in table["exports"].as_array_mut().unwrap() {
        let export = export.as_table_mut().unwrap();
        export.insert("location".into(), "bucket".into());
        export.remove("endpoint");
    }
    table.remove("database");
    std::fs::write(place.path("meter.toml"), toml::to_string(&table).unwrap()).unwrap();
    for file in ["plans.toml", "customers.csv"] {
        std::fs::copy(demo.join(file), place.path(file)).unwrap();
    }
    let url = format!("http://127.0.0.1:{port}/");
    let secret = [("METER_STRIPE__KEY", "sk_test_demo"), ("METER_STRIPE__URL", url.as_str())];
    let run = |line: &str| place.run_with(line, &secret);
    run("migrate").ends(0);
    run("plan apply plans.toml").ends(0);
    run("customer import customers.csv").ends(0);
    run("stripe check").ends(0);
    run("ingest").ends(0);
    run("run sync-stripe").ends(0);
    run("run roll-periods").ends(0);
    run("push").ends(0);
    let accepted = place.query("SELECT count(*), count(DISTINCT customer) FROM meter_events WHERE state = 'accepted'");
    let counts: Vec<u32> = accepted[0].split('|').map(|n| n.parse().unwrap()).collect();
    assert!(counts[0] > 10 && counts[1] > 5, "{accepted:?}");
    let unknown_customers =
        "SELECT count(*) FROM booked_usage WHERE customer <> '' AND customer NOT IN (SELECT id FROM customers)";
    assert_ne!(
        place.query(unknown_customers),
        ["0"],
        "the demo has customers without a row, to show what becomes of them"
    );
    account.kill().unwrap();
    crate::support::ended(&mut account);
}

/// A program of the Python environment.
pub(crate) fn beside(python: &Path, name: &str) -> PathBuf {
    python.parent().unwrap().join(name)
}

#[test]
fn container_files_are_sound() {
    let Some(python) = python() else { return };
    let check = |program: &str, arguments: &[&str]| {
        let ran: Ran =
            crate::support::output(Command::new(beside(&python, program)).current_dir(root()).args(arguments)).into();
        ran.ends(0);
    };
    check("hadolint", &["Dockerfile"]);
    check("check-jsonschema", &["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]);
    // what compose mounts is there
    let compose = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    let mounted = compose.split(['"', ' ', '\n', '-', ':']).filter(|w| w.starts_with("./") && w.len() > 2);
    let mounted: BTreeSet<&str> =
        mounted.filter(|w| !w.ends_with("meter.env") && *w != "./deploy/meter.toml").collect();
    assert!(mounted.len() > 3, "{mounted:?}");
    for path in mounted {
        assert!(root().join(path).exists(), "docker-compose.yml mounts {path}, which there is not");
    }
}

#[test]
fn the_systemd_unit_is_sound() {
    if !tool("systemd-analyze") {
        return;
    }
    // verify looks for the program: one that is on every machine stands for it
    let unit = std::fs::read_to_string(root().join("deploy/meter.service")).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("meter.service");
    assert!(unit.contains("ExecStart=/usr/local/bin/meter work"), "{unit}");
    std::fs::write(&path, unit.replace("ExecStart=/usr/local/bin/meter work", "ExecStart=/bin/true")).unwrap();
    let ran: Ran = crate::support::output(Command::new("systemd-analyze").arg("verify").arg(&path)).into();
    ran.ends(0);
    let mut command = Command::new("systemd-analyze");
    command.args(["security", "--offline=true", "--threshold=20"]).arg(&path);
    Ran::from(crate::support::output(&mut command)).ends(0);
}

/// Guards against: a bill of which nothing is counted looks like one that is well, or like none.
#[test]
fn a_bill_of_products_that_nobody_watches_is_no_good_news() {
    let place = Workspace::with(
        "watched_products = [\"Nothing\"]\n[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n\
         [[meters]]\nname = \"m\"\nunit = \"units\"\nproducts = [\"Nothing\"]\nusage_types = [\"x\"]\n\
         [rules]\nreplace_builtin = true\n",
    );
    let month = books::units::calendar::Month::of(jiff::Timestamp::now());
    place.run(&format!("demo generate bucket --month {month} --rows 300 --customers 3")).ends(0);
    let words = "rows is of a watched product (watched_products); the bill has the product codes `AWS";
    place.run("migrate").ends(0);
    place.run("doctor").says(&["nothing is booked yet"]);
    place.run(&format!("ingest --month {month}")).ends(0).says(&[words]);
    place.run(&format!("discover --month {month}")).ends(0).says(&[words]);
    place.run("status").ends(3).says(&["MeterCountsNothing", words]);
    let doctor = place.run("doctor").says(&[words, "no line of the newest bill is counted"]);
    assert!(!doctor.out.contains("nothing is booked yet"), "{}", doctor.out);
}
