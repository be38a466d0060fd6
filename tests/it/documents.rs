//! The documents that commands print with `--json`: each is as its schema says, each command has
//! one, and a change of their fields is seen in `documents.txt`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command as Process;

use books::units::quantity::Quantity;
use clap::Command;
use jiff::Timestamp;
use serde_json::Value;
use testkit::needs::python;

use crate::notifications::Receiver;
use crate::support::billing_fixture::{BillingFixture, KEY};
use crate::support::schema::{SCHEMAS, name_of};
use crate::support::served::Served;
use crate::support::{Ran, Workspace};
use crate::tidy::{read, root};

/// Set, the test writes the list instead of comparing it.
const WRITE: &str = "METER_TEST_WRITE_DOCS";

/// Commands without `--json`, and why.
const WITHOUT: [(&str, &str); 8] = [
    ("completions", "a script for a shell"),
    ("demo", "a story for people"),
    ("demo generate", "a bill for the demo"),
    ("demo stripe", "a server"),
    ("man", "pages for people"),
    ("report", "a page for people; `usage --json` has its figures"),
    ("schema", "it prints JSON anyway"),
    ("work", "its log is JSON with log.format"),
];

fn leaves(command: &Command, name: &str, flag: &str, found: &mut BTreeMap<String, bool>) {
    let below: Vec<&Command> = command.get_subcommands().filter(|of| of.get_name() != "help").collect();
    if below.is_empty() || name == "demo" {
        let has_flag = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
        found.insert(name.to_owned(), has_flag);
    }
    for of in below {
        leaves(of, format!("{name} {}", of.get_name()).trim(), flag, found);
    }
}

#[test]
fn each_command_prints_json_or_says_why_not() {
    let mut commands = BTreeMap::new();
    leaves(&meter::cli::command(), "", "json", &mut commands);
    let without: BTreeSet<&str> = WITHOUT.iter().map(|(name, _)| *name).collect();
    for (name, has_json) in &commands {
        assert_ne!(*has_json, without.contains(name.as_str()), "{name}");
        let is_own = |of: &&String| of.as_str() == name || of.starts_with(&format!("{name} "));
        assert_eq!(SCHEMAS.keys().any(|of| is_own(&of)), *has_json, "{name}: its document");
    }
    for name in SCHEMAS.keys().filter(|name| *name != "error") {
        assert!(commands.keys().any(|command| name.starts_with(command.as_str())), "{name}: its command");
    }
}

#[test]
fn no_csv_has_a_cell_that_a_spreadsheet_takes_for_a_formula() {
    let mut commands = BTreeMap::new();
    leaves(&meter::cli::command(), "", "csv", &mut commands);
    let commands: BTreeSet<String> = commands.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
    let lines = [
        ("bill", ""),
        ("customer list", ""),
        ("events list", ""),
        ("explain", "=1+1"),
        ("margin", ""),
        ("measured", ""),
        ("plan simulate", "plans.toml"),
        ("statement", "=1+1"),
        ("usage", ""),
    ];
    assert_eq!(commands.iter().map(String::as_str).collect::<Vec<_>>(), lines.map(|(name, _)| name));
    let fixture = BillingFixture::open(&["ann"]);
    fixture.run("customer add =1+1 --plan pro --name @sum").ends(0);
    fixture.run("run roll-periods").ends(0);
    for (customer, quantity) in [("=1+1", "350"), ("ann", "350"), ("ann", "-0.5")] {
        // who has no subscription has the month as period, and yesterday may be in the last one
        fixture.used(customer, "chime_minutes", quantity, 0);
    }
    fixture.run("push").ends(0);
    fixture.place.execute("UPDATE meter_events SET error = '=error'");
    for (name, args) in lines {
        let text = fixture.run(&format!("{name} {args} --csv")).ends(0).out;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        for row in reader.records() {
            for cell in row.unwrap().iter().filter(|cell| cell.parse::<Quantity>().is_err()) {
                assert!(!cell.starts_with(['=', '+', '-', '@']), "{name}: {cell}");
            }
        }
        let mark = if name == "events list" { ",'=error" } else { "'=1+1" };
        // two have nothing to list here, and a statement does not name its customer
        let names_none = ["margin", "measured", "statement"].contains(&name);
        assert!(names_none || text.contains(mark), "{name}: {text}");
    }
    fixture.judge();
}

/// The type of a field in a few words: `text`, `[Customer]`, `Quantity or null`.
fn words(schema: &Value) -> String {
    let Value::Object(of) = schema else { return "any".to_owned() };
    if let Some(name) = of.get("$ref").and_then(Value::as_str) {
        return name.trim_start_matches("#/$defs/").to_owned();
    }
    if let Some(branches) = of.get("anyOf").or(of.get("oneOf")).and_then(Value::as_array) {
        let mut words: Vec<String> = branches.iter().map(words).collect();
        words.dedup();
        return words.join(" or ");
    }
    if let Some(value) = of.get("const") {
        return value.to_string();
    }
    if let Some(values) = of.get("enum").and_then(Value::as_array) {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    if let Some(properties) = of.get("properties").and_then(Value::as_object) {
        let required: Vec<&str> =
            of.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let field = |(name, schema): (&String, &Value)| {
            let optional = if required.contains(&name.as_str()) { "" } else { "?" };
            format!("{name}{optional}: {}", words(schema))
        };
        return format!("{{ {} }}", properties.iter().map(field).collect::<Vec<_>>().join(", "));
    }
    if let Some(schema) = of.get("additionalProperties").filter(|of| of.is_object()) {
        return format!("by name {}", words(schema));
    }
    if let Some(schema) = of.get("items") {
        return format!("[{}]", words(schema));
    }
    let name = |of: &Value| match (of.as_str().unwrap(), schema.get("format").and_then(Value::as_str)) {
        ("string", Some("date-time")) => "instant".to_owned(),
        ("string", _) => "text".to_owned(),
        (other, _) => other.to_owned(),
    };
    match of.get("type") {
        Some(Value::Array(names)) => names.iter().map(name).collect::<Vec<_>>().join(" or "),
        Some(one) => name(one),
        None => "any".to_owned(),
    }
}

/// Every document and every type in one of them, each on a line.
fn list() -> String {
    let mut page = String::from(
        "The documents that commands print with `--json`, each with its version, and the types in\n\
         them. `METER_TEST_WRITE_DOCS=1 cargo test -p meter --test it documents` writes this list. When\n\
         a field is renamed or removed, or means another thing, the version in src/cli/schema.rs grows.\n\n",
    );
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for of in meter::cli::documents() {
        let schema = &SCHEMAS[&of.name];
        page.push_str(&format!("{} {}: {}\n", of.name, of.version, words(schema)));
        for (name, schema) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
            types.entry(name.clone()).or_default().insert(words(schema));
        }
    }
    page.push('\n');
    for (name, all) in types {
        all.into_iter().for_each(|one| page.push_str(&format!("{name} = {one}\n")));
    }
    page
}

#[test]
fn the_list_of_documents_is_the_one_that_was_looked_at() {
    let file = root().join("tests/it/documents.txt");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, list()).unwrap();
    }
    assert_eq!(list(), read(&file), "look at what changed, then write the list with {WRITE}=1");
}

/// Money, quantities and instants have one form in every document.
#[test]
fn money_and_instants_have_one_form() {
    let seconds = |name: &str| name.ends_with("_at") || name == "at";
    fn fields<'a>(schema: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            found.extend(properties.iter().map(|(name, of)| (name.as_str(), of)));
        }
        match schema {
            Value::Object(of) => of.values().for_each(|of| fields(of, found)),
            Value::Array(of) => of.iter().for_each(|of| fields(of, found)),
            _ => {}
        }
    }
    // what is stored with a job or in a plan's file is printed as it is stored
    for (name, schema) in SCHEMAS.iter().filter(|(name, _)| !name.starts_with("run ") && *name != "ingest --plan") {
        let mut all = vec![];
        fields(schema, &mut all);
        for (field, of) in all {
            let of = words(of);
            assert!(!field.ends_with("_minor"), "{name}: {field} is money");
            assert!(!seconds(field) || !of.contains("integer"), "{name}: {field} is {of}");
        }
    }
}

/// Runs commands with `--json`, and keeps what they print.
struct Story {
    fixture: BillingFixture,
    documents: Vec<(String, Value)>,
}

impl Story {
    /// The command must end with 0, or with 3, which asks for a look.
    fn run(&mut self, line: &str) -> Value {
        let ran = self.fixture.place.run_with(
            &format!("{line} --json"),
            &[("METER_STRIPE__KEY", KEY), ("METER_STRIPE__SETTLE_DELAY_HOURS", "0")],
        );
        assert!([0, 3].contains(&ran.code), "{line}: {}\n{}\n{}", ran.code, ran.out, ran.err);
        self.keep(line, &ran)
    }

    fn fails(&mut self, line: &str) {
        let ran = self.fixture.run(&format!("{line} --json"));
        assert!([1, 2].contains(&ran.code), "{line}: {}", ran.code);
        self.keep(line, &ran);
    }

    fn keep(&mut self, line: &str, ran: &Ran) -> Value {
        let document = ran.json();
        self.documents.push((name_of(line, &document), document.clone()));
        document
    }
}

/// Documents that this story does not print; other tests do, and each of their documents is
/// compared with its schema, too.
const ELSEWHERE: [&str; 1] = ["discover --price-list"];
/// Kinds that read S3's reports, or a part of a bill for another job.
const OF_REPORTS: [&str; 3] = ["ingest_access_logs", "ingest_inventory", "ingest_part"];

#[test]
fn every_document_is_as_its_schema_says() {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    fixture.place.run("demo generate bucket --rows 200 --customers 3").ends(0);
    let mut story = Story { fixture, documents: vec![] };
    for line in [
        "migrate",
        "config check",
        "config show",
        "ingest --dry-run",
        "ingest",
        "versions",
        "discover",
        "verify",
        "copy --to copy.db",
    ] {
        story.run(line);
    }
    story.fixture.book("ann", "chime_minutes", "350.1234567");
    story.fixture.book("bob", "storage_gb", "1.5");
    for line in [
        "customer add eve --plan pro --name Eve",
        "customer list",
        "customer search an",
        "customer set bob --name Bob",
        "budget set ann 2.50",
        "budget set ann 1 --meter chime_minutes",
        "budget remove ann --meter chime_minutes",
        "budget show ann",
        "budget history ann",
        "plan list",
        "plan apply plans.toml",
        "plan apply plans.toml --dry-run",
        "plan simulate plans.toml",
        "run enforce-budgets",
        "entitlements",
        "explain-entitlement ann chime_minutes",
        "customer show ann",
        "usage",
        "usage ann",
        "measured",
        "accuracy",
        "shared",
        "bill",
        "margin",
        "forecast",
        "turn",
        "status",
        "doctor",
        "schedule",
        "workers --all",
        "statement ann",
        "explain ann",
        "push",
        "events list",
        "events show 1",
        "reconcile",
        "stripe setup",
        "stripe check",
        "notifications list",
        "changes",
        "backup books.backup",
    ] {
        story.run(line);
    }
    // what is listed as CSV is read as it was
    story.run("customer add @at --plan pro --name =sum");
    story.run("customer add =same --plan pro --name 👨\u{200d}👩\u{200d}👧");
    story.run("customer add '=same --plan pro --name ''-5");
    let listed = story.fixture.run("customer list --csv").ends(0).out;
    std::fs::write(story.fixture.place.path("listed.csv"), &listed).unwrap();
    let again = story.run("customer import listed.csv --update");
    assert_eq!((&again["added"], &again["changed"]), (&0.into(), &serde_json::json!([])), "{listed}");
    std::fs::write(story.fixture.place.path("more.csv"), "id,plan\nann,pro\nfay,pro\n").unwrap();
    for line in ["--dry-run", "", "--update --dry-run", "--update"] {
        story.run(&format!("customer import more.csv {line}"));
    }
    // an event that Stripe refuses, and what people do about it
    story
        .fixture
        .place
        .execute("UPDATE meter_events SET state = 'refused', error = 'no', next_at = NULL WHERE seq = 1");
    story.run("events retry 1 --reason repaired");
    story
        .fixture
        .place
        .execute("UPDATE meter_events SET state = 'refused', error = 'no', next_at = NULL WHERE seq = 2");
    story.run("events discard 2 --reason given");
    // a plan of another bill, applied and taken back
    story.fixture.place.run("demo generate bucket --rows 260 --customers 3").ends(0);
    let month = Timestamp::now().strftime("%Y-%m");
    let file = story.run(&format!("ingest --plan change.json --month {month}"));
    assert_eq!(file["bills"].as_array().map(Vec::len), Some(1), "{file:#}");
    story.run("apply change.json --reason looked --yes");
    story.run("changes 1");
    story.run("revert 1 --reason wrong --yes");
    // jobs, of which one waits for nobody
    let enqueued = story.run("enqueue probe name=a");
    let id = enqueued[0]["id"].as_str().unwrap().to_owned();
    story.run("backfill ingest --from 2026-01 --to 2026-01");
    for line in ["jobs list", "jobs list --count", &format!("jobs show {id}"), &format!("jobs cancel {id}")] {
        story.run(line);
    }
    story.run(&format!("jobs retry {id}"));
    story.fixture.run("work --once");
    story.run("notifications retry --dead");
    let receiver = Receiver::start();
    let url = format!("http://127.0.0.1:{}/services/x", receiver.port);
    let ran = story.fixture.place.run_with("notifications test --json", &[("METER_OPERATOR__SLACK_URL", &url)]).ends(0);
    story.keep("notifications test", &ran);
    {
        let worker = Served::start(story.fixture.place.folder.path(), "", &[("METER_STRIPE__KEY", KEY)]);
        worker.until("/readyz", |answer| answer.status == 200);
        story.run("enqueue probe name=b --wait");
        story.run("backfill ingest --from 2026-02 --to 2026-02 --wait");
        story.run(&format!("health --listen 127.0.0.1:{}", worker.port));
        assert_eq!(worker.stop(), 0);
    }
    story.run("jobs purge --all");
    for kind in SCHEMAS.keys().filter_map(|name| name.strip_prefix("run ")).filter(|kind| !OF_REPORTS.contains(kind)) {
        let payload = match kind {
            "ingest_cur" => " export=main month=2026-01",
            "probe" => " name=c",
            _ => "",
        };
        if kind == "operator_digest" {
            let url = [("METER_OPERATOR__SLACK_URL", url.as_str())];
            let ran = story.fixture.place.run_with("run operator_digest --json", &url).ends(0);
            story.keep("run operator_digest", &ran);
        } else {
            story.run(&format!("run {kind}{payload}"));
        }
    }
    story.fails("run operator_digest");
    story.fails("usage nobody");
    story.run("customer set fay --status canceled");
    story.run("customer erase fay --reason asked --yes");
    story.run("customer erase fay --reason asked --yes");
    story.run(&format!("restore mark --backup-at {:.0}", Timestamp::now()));
    for line in ["restore status", "restore import-totals", "restore finish", "restore status"] {
        story.run(line);
    }
    std::fs::create_dir(story.fixture.place.path("new")).unwrap();
    story.run("init --bucket bucket --output new");
    let Story { fixture, documents } = story;
    let printed: BTreeSet<&str> = documents.iter().map(|(name, _)| name.as_str()).collect();
    let is_elsewhere = |name: &str| {
        ELSEWHERE.contains(&name) || name.strip_prefix("run ").is_some_and(|kind| OF_REPORTS.contains(&kind))
    };
    let missing: Vec<&String> =
        SCHEMAS.keys().filter(|name| !printed.contains(name.as_str()) && !is_elsewhere(name)).collect();
    assert!(missing.is_empty(), "no command printed {missing:?}");
    judged_by_another(&fixture.place, &documents);
    fixture.judge();
}

/// The same documents, by the usual implementation of JSON Schema.
fn judged_by_another(place: &Workspace, documents: &[(String, Value)]) {
    const JUDGE: &str = "import json, sys\n\
        from jsonschema import Draft202012Validator as V\n\
        schemas, documents = json.load(open(sys.argv[1]))\n\
        for s in schemas.values(): V.check_schema(s)\n\
        bad = [(n, e.json_path, e.message) for n, d in documents for e in V(schemas[n]).iter_errors(d)]\n\
        sys.exit('\\n'.join(map(str, bad)) or 0)\n";
    let Some(python) = python() else { return };
    let file = place.path("documents.json");
    std::fs::write(&file, serde_json::to_string(&(&*SCHEMAS, documents)).unwrap()).unwrap();
    let ran: Ran = crate::support::output(Process::new(python).args(["-c", JUDGE]).arg(&file)).into();
    ran.ends(0);
}
