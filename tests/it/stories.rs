//! Stories through the binary: what a person types, reads and gets back.

use crate::support::served::billed_month;
use crate::support::{LEDGER, Workspace, meter};

const OCTOBER: &str = "--month 2026-10";

#[test]
fn the_demo_shows_the_books_and_their_proof() {
    let folder = tempfile::tempdir().unwrap();
    let ran = crate::support::Ran::from(crate::support::output(meter(folder.path()).arg("demo"))).ends(0);
    let ran = ran.says(&[
        "A made-up AWS bill becomes limits and invoices, with faults made on purpose.",
        "dry run, nothing was written",
        "no customer row yet",
        "chime_minutes: allowed -> BLOCKED: budget_spent",
        "chime_minutes: BLOCKED -> allowed: within_budget",
        "unblocked",
        "3 sent: 1 accepted, 1 unconfirmed, 1 to be sent again",
        "2 sent: 2 accepted, 0 unconfirmed, 0 to be sent again",
        "demo-uploads, storage_gb: customers have",
        "Result: all 10 rules hold",
        "$ meter bill acme",
        "meter demo --keep demo",
        "meter --config demo/meter.toml work      # and open http://127.0.0.1:9464/",
    ]);
    let sentences = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["is booked already; no data file was read", "the books and Stripe agree", "none of them twice"] {
        assert!(sentences.contains(words), "{words}: {}", ran.out);
    }
    assert_eq!(ran.err, "");
    each_step_ends_with_its_result(&ran.out);
    a_measured_meeting_is_blocked_at_its_budget(&ran.out);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the demo leaves nothing behind");
}

/// At 80 columns, with the money in each result, and an invoice that the plan's price makes.
fn each_step_ends_with_its_result(out: &str) {
    let wide: Vec<&str> = out.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{}", wide.join("\n"));
    assert!(!out.contains("no room for"), "{out}");
    let lines = out.lines().count();
    assert!(lines < 200, "{lines} lines are not read:\n{out}");
    let (steps, invoice) = out.split_once("\n16. The invoice of acme\n").unwrap();
    let faults: usize = steps.matches("Made on purpose: ").count();
    assert!(faults >= 5, "{faults} faults:\n{steps}");
    for n in 1..=15 {
        let (_, step) = steps.split_once(&format!("\n{n}. ")).unwrap();
        let step = step.split_once(&format!("\n{}. ", n + 1)).map_or(step, |(step, _)| step);
        let (_, result) = step.rsplit_once("Result: ").unwrap_or_else(|| panic!("{n} has no result:\n{step}"));
        let result = result.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(result.contains(" USD") || result.contains("(USD)"), "{n}: {result}");
    }
    let row = invoice.lines().find(|line| line.starts_with("chime_minutes  ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    let number = |cell: &str| cell.replace(',', "").parse::<rust_decimal::Decimal>().unwrap();
    let [_, included, used, billed, price, amount] = cells.as_slice() else { panic!("{row}") };
    assert_eq!(number(used) - number(included), number(billed), "{row}");
    assert_eq!((number(billed) * number(price)).round_dp(2), number(amount), "{row}");
}

/// The figures that the plan, the budget, the price and the attendees of the demo make.
fn a_measured_meeting_is_blocked_at_its_budget(out: &str) {
    let between = |from: &str, to: &str| {
        let (_, rest) = out.split_once(from).unwrap_or_else(|| panic!("{from} is not in:\n{out}"));
        rest.split_once(to).unwrap().0.to_owned()
    };
    let plan = between("$ meter plan apply plans.toml", "turn_allocations");
    let plan = plan.lines().find(|line| line.starts_with("chime_minutes")).unwrap();
    let (_, plan) = plan.split_once("  ").unwrap();
    let (included, price) = plan.trim().split_once("  ").unwrap();
    let included: i64 = included.replace(',', "").parse().unwrap();
    assert_eq!(price.trim(), "0.01 USD a minute");
    let step = between("\n14. ", "\n15. ");
    let written = |minutes: i64| format!("{},{:03}", minutes / 1000, minutes % 1000);
    let (cents, attendees) = (50, 50);
    for text in [
        format!("{} minutes of the plan. The budget of 0.50 USD pays for {cents} more.", written(included)),
        format!("start_use: {attendees} attendees join"),
        format!("{cents} minutes for 0.50 USD. Measured: {}. On AWS's bill: 0.", written(included + cents)),
    ] {
        assert!(step.contains(&text), "{text} is not in:\n{step}");
    }
    let lines: Vec<&str> = step.lines().collect();
    assert!(lines.len() <= 15 && lines.iter().all(|line| line.len() <= 80), "{step}");
    let second = |text: &str| {
        let time: jiff::civil::Time = text.rsplit(' ').next().unwrap().parse().unwrap();
        i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second())
    };
    // an instant, two blanks, what happens then
    let happens = |what: &str| {
        let line = lines.iter().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}:\n{step}"));
        second(line.trim().split_once("  ").unwrap().0)
    };
    let began = happens("start_use: ");
    let (_, until) = step.split_once("at the present level until ").unwrap();
    let until = second(until.lines().next().unwrap());
    assert_eq!((until - began).rem_euclid(86_400), cents * 60 / attendees);
    assert_eq!(happens("may_use: yes"), began);
    for what in ["enforce_budgets: BLOCKED", "may_use: no, budget_spent", "stop_use: "] {
        assert_eq!(happens(what), until, "{what}");
    }
}

#[test]
fn a_kept_demo_can_be_looked_around_in() {
    let place = Workspace::new();
    place.run("demo --keep here").ends(0).says(&["meter --config here/meter.toml work ", "http://127.0.0.1:9464/"]);
    place.run("demo --keep here").ends(2).says(&["is not empty"]);
    let month = billed_month(&place.path("here/meter.db"));
    place.run(&format!("--config here/meter.toml usage --month {month}")).ends(0).says(&["chime_minutes", "total"]);
    place.run("--config here/meter.toml versions").ends(0).says(&["current"]);
    place
        .run(&format!("--config here/meter.toml discover --month {month}"))
        .ends(0)
        .says(&["USE1-VoiceConnector-OutboundMinutes", "- (unrecognised)"]);
    place.run("--config here/meter.toml verify").ends(0).says(&["ok "]);
    place.run("--config here/meter.toml ingest").ends(0).says(&["is booked already", "no bill yet"]);
}

/// Legacy and CUR 2.0, Parquet and CSV, many files or one: one seed is one bill, and makes one
/// ledger.
#[test]
fn every_form_of_a_bill_makes_the_same_ledger() {
    let mut ledgers = vec![];
    for form in [
        "--format cur2",
        "--format legacy",
        "--format cur2 --files-as csv",
        "--format legacy --files-as csv-gz",
        "--format cur2 --files 1",
        "--format legacy --files 7",
        "--format cur2 --overwrite",
        "--format legacy --overwrite",
        "--format legacy --files-as csv --overwrite",
    ] {
        let place = Workspace::new();
        place.run(&format!("demo generate bucket {OCTOBER} --rows 4000 {form}")).ends(0);
        place.run(&format!("ingest {OCTOBER}")).ends(0).says(&["booked"]);
        let ledger = place.query(LEDGER);
        assert!(ledger.len() > 300, "{form}: {}", ledger.len());
        place.run(&format!("ingest {OCTOBER}")).ends(0).says(&["booked already"]);
        assert_eq!(place.query(LEDGER), ledger, "{form}");
        place.run("verify").ends(0);
        ledgers.push((form, ledger));
    }
    for (form, ledger) in &ledgers {
        assert!(*ledger == ledgers[0].1, "{form} differs from {}", ledgers[0].0);
    }
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_it_would() {
    let place = Workspace::new();
    place.run(&format!("demo generate bucket {OCTOBER} --rows 2000")).ends(0);
    place.run(&format!("ingest {OCTOBER} --dry-run")).ends(0).says(&["would be booked"]);
    assert!(!place.path("meter.db").exists(), "not even an empty database");
    place.run("migrate").ends(0).says(&[&format!("is new, and at schema version {}", books::newest_schema_version())]);
    place.run("migrate").ends(0).says(&["already"]);
    place.run(&format!("ingest {OCTOBER} --dry-run")).ends(0).says(&["would be booked", "largest changes"]);
    assert!(place.query(LEDGER).is_empty());
    let json = place.run(&format!("ingest {OCTOBER} --dry-run --json")).ends(0).json();
    assert_eq!(json[0]["outcome"], "would_apply");
    assert!(json[0]["meters"][0]["attributed"].is_string(), "quantities are exact text");
}

#[test]
fn a_version_that_takes_back_much_waits_for_a_person() {
    let place = Workspace::new();
    place.run(&format!("demo generate bucket {OCTOBER} --rows 4000")).ends(0);
    place.run(&format!("ingest {OCTOBER}")).ends(0);
    let ledger = place.query(LEDGER);
    // another delivery, later by its restatement number, with a tenth of the lines
    place.run(&format!("demo generate bucket {OCTOBER} --rows 400 --restated 2")).ends(0);
    let held = place.run(&format!("ingest {OCTOBER}")).ends(3).says(&[
        "ON HOLD",
        "chime_minutes of the month goes from",
        "(-9",
        "likely causes: a cost allocation tag that was deactivated, an export that was changed, or a restatement by AWS",
        "if it is accepted: the new bill replaces what is booked",
        "largest changes",
    ]);
    assert_eq!(held.out.matches("--accept").count(), 1, "the command is said once:\n{}", held.out);
    let command =
        held.out.lines().find_map(|line| line.trim().strip_prefix("to accept it: meter ")).unwrap().to_owned();
    let versions = place.run("versions").ends(3).says(&["on hold:", "(-9", &command]);
    assert_eq!(versions.out.matches("--accept").count(), 1);
    place.run("status").says(&["MeterVersionOnHold", "chime_minutes of the month goes from", "(-9", "Likely causes"]);
    assert_eq!(place.query(LEDGER), ledger);
    place.run(&command.replace(" --reason \"why\"", "")).ends(2).says(&["--reason"]);
    place.run(&command).ends(0).says(&["booked", "accepted: chime_minutes of the month goes from"]);
    place.run(&command).ends(0).says(&["is booked already"]);
    place.run("versions").ends(0).says(&["released"]);
    place.run("verify").ends(0);
}

#[test]
fn usage_is_shown_by_customer_and_by_day() {
    let place = Workspace::new();
    place.run("usage").ends(1).says(&["no books at meter.db yet", "meter ingest"]);
    assert!(!place.path("meter.db").exists(), "a query makes no database");
    place.run(&format!("demo generate bucket {OCTOBER} --rows 2000 --customers 3")).ends(0);
    place.run(&format!("ingest {OCTOBER}")).ends(0);
    let all = place.run(&format!("usage {OCTOBER} --json")).ends(0).json();
    let first = all.as_array().unwrap().iter().find(|u| u["customer"] != "").unwrap();
    let customer = first["customer"].as_str().unwrap();
    assert_eq!(first["known"], false);
    place.run(&format!("usage {customer} {OCTOBER}")).ends(0).says(&["2026-10-01", "total"]);
    place.run(&format!("usage {customer} --month 2026-09")).ends(0).says(&["nothing is booked in 2026-09"]);
    place.run("usage nobody").ends(2).says(&["there is no customer `nobody`"]);
}

#[test]
fn several_months_are_read_in_one_go() {
    let place = Workspace::new();
    for month in ["2026-08", "2026-10"] {
        place.run(&format!("demo generate bucket --month {month} --rows 1000")).ends(0);
    }
    let ran = place.run("ingest --from 2026-08 --to 2026-10").ends(0);
    assert_eq!(ran.out.matches("ledger entries").count(), 2, "{}", ran.out);
    ran.says(&["2026-09  AWS has delivered no bill yet"]);
    place.run("ingest --from 2026-10 --to 2026-08").ends(2).says(&["is after"]);
    place.run("ingest --month 2026-13").ends(2).says(&["YYYY-MM"]);
    place.run("ingest --to 2026-10").ends(2).says(&["--to needs --from"]);
    place.run("ingest --export other").ends(2).says(&["no export named `other`", "main"]);
}

/// One month's trouble does not keep the others from being booked, and the exit code tells.
#[test]
fn a_broken_month_fails_alone() {
    let place = Workspace::new();
    for month in ["2026-09", "2026-10"] {
        place.run(&format!("demo generate bucket --month {month} --rows 1000 --files 1")).ends(0);
    }
    let data = place.path("bucket/cur/bill/data/BILLING_PERIOD=2026-09");
    let delivery = std::fs::read_dir(data).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::read_dir(delivery).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "no parquet").unwrap();
    let ran = place.run("ingest --from 2026-09 --to 2026-10").ends(1);
    assert!(
        ran.err.contains("2026-09 failed, nothing was booked")
            && ran.err.contains(file.file_name().unwrap().to_str().unwrap()),
        "{}",
        ran.err
    );
    assert_eq!(place.query("SELECT DISTINCT month FROM booked_usage"), ["2026-10"]);
}

#[test]
fn every_fault_of_the_configuration_is_named_with_its_place() {
    let place = Workspace::with(
        "tag_kay = \"x\"\nlookback_months = 99\n\n[database]\nurl = \"meter.db\"\ntoken = \"s3cret\"\n\n[[exports]]\nlocation = \"bucket\"\n\n[[exports]]\nname = \"two\"\nlocation = \"ftp://x\"\nendpoint = \"https://k:s3cret@host\"\n\n[[exports]]\nname = \"three\"\nlocation = \"bills\"\nformat = \"cur3\"\n\n[guard]\nmonth_fall_percent = \"many\"\n",
    );
    let ran = place
        .run_with(
            "config check",
            &[("METER_READ__MEMORY_MIB", "1"), ("METER_GUARD__FLOOOR", "2"), ("METER_LOG__LEVEL", "=x=")],
        )
        .ends(2);
    for fault in [
        "meter.toml:1: tag_kay: there is no `tag_kay` here; did you mean `tag_key` or `tag_keys`?",
        "meter.toml:2: lookback_months: at most 36",
        "meter.toml:6: database.token: secrets come from the environment only: set METER_DATABASE__TOKEN",
        "meter.toml:8: exports[0]: `name` is missing",
        "meter.toml:13: exports[1].location",
        "meter.toml:14: exports[1].endpoint: it is no address of a server; write https://host",
        "meter.toml:19: exports[2].format: it cannot be `cur3`; did you mean `cur2`",
        "meter.toml:22: guard.month_fall_percent: a whole number",
        "variable METER_GUARD__FLOOOR: guard.flooor: there is no `flooor` here; did you mean `floor`?",
        "variable METER_READ__MEMORY_MIB: read.memory_mib: at least 8",
        "variable METER_LOG__LEVEL",
    ] {
        assert!(ran.err.contains(fault), "`{fault}` is not in:\n{}", ran.err);
    }
    assert!(!ran.err.contains("s3cret"), "{}", ran.err);
    Workspace::with("a = [1\n").run("ingest").ends(2).says(&["meter.toml:1"]);
    Workspace::new().run("--config nowhere.toml ingest").ends(2).says(&["nowhere.toml: it cannot be read"]);
}

#[test]
fn two_meters_that_claim_one_line_are_a_fault() {
    let meter = |name: &str, usage_type: &str| {
        format!(
            "[[meters]]\nname = \"{name}\"\nunit = \"GB\"\nproducts = [\"AmazonS3\"]\nusage_types = [\"{usage_type}\"]\n"
        )
    };
    let place = Workspace::with(&format!("{}{}", meter("all", "TimedStorage-*"), meter("cold", "*-GlacierByteHrs")));
    place
        .run("config check")
        .ends(2)
        .says(&["meters `all` and `cold` both claim usage type `TimedStorage-GlacierByteHrs` of product `AmazonS3`"]);
    let place = Workspace::with(&meter("stored", "TimedStorage-ByteHrs"));
    place.run("config check").ends(2).says(&[
        "meter.toml:1: meters[0]: meters `stored` and `storage_gb` both claim usage type `TimedStorage-ByteHrs` of product",
        "`storage_gb` is built in: to change it, name this meter `storage_gb`",
        "set rules.replace_builtin = true",
    ]);
    // what the message says mends it
    for text in [
        meter("storage_gb", "TimedStorage-ByteHrs"),
        meter("stored", "TimedStorage-ByteHrs") + &meter("storage_gb", "TimedStorage-*-ByteHrs"),
        meter("stored", "TimedStorage-ByteHrs") + "[rules]\nreplace_builtin = true\n",
    ] {
        Workspace::with(&text).run("config check").ends(0);
    }
    let place = Workspace::with(&format!("{}{}", meter("a", "X*"), meter("a", "Y")));
    place.run("config check").ends(2).says(&["two meters named `a`"]);
    let same = "[[exports]]\nname = \"a\"\nlocation = \"x\"\n[[exports]]\nname = \"b\"\nlocation = \"y\"\n";
    Workspace::with(same)
        .run("config check")
        .ends(2)
        .says(&["meter.toml:4: exports[1].payer", "would count everything twice"]);
}

/// Books that would be lost, and tokens where they would be shown.
#[test]
fn a_database_must_be_a_file_or_a_server() {
    for (url, why) in [
        ("", "names no file"),
        ("file://", "names no file"),
        (":memory:", "names no file"),
        ("sqlite://x", "neither a path nor"),
        ("libsql://host?authToken=s3cret", "METER_DATABASE__TOKEN"),
        ("https://user:s3cret@host", "METER_DATABASE__TOKEN"),
    ] {
        let ran = Workspace::new()
            .run_with("ingest", &[("METER_DATABASE__URL", url)])
            .ends(2)
            .says(&["METER_DATABASE__URL", why]);
        assert!(!ran.err.contains("s3cret"), "{}", ran.err);
    }
}

#[test]
fn variables_stand_over_the_file_and_secrets_are_masked() {
    let place = Workspace::with("tag_key = \"from-file\"\n");
    place.run("config show").ends(0).says(&["tag_key = \"from-file\""]);
    let variables =
        [("METER_TAG_KEY", "from-variable"), ("METER_DATABASE__TOKEN", "s3cret"), ("METER_LOOKBACK_MONTHS", "3")];
    let ran = place.run_with("config show", &variables).ends(0).says(&[
        "tag_key = \"from-variable\"",
        "lookback_months = 3",
        "********",
    ]);
    assert!(!ran.out.contains("s3cret"));
    // what is shown is a configuration
    std::fs::write(place.path("again.toml"), &ran.out).unwrap();
    place.run("--config again.toml config check").ends(0);
    place.run("ingest").ends(2).says(&["no export is configured", "[[exports]]"]);
}

#[test]
fn a_remote_database_that_does_not_answer_is_named_without_its_token() {
    let place = Workspace::with("[database]\nurl = \"http://127.0.0.1:9\"\n");
    let ran = place.run_with("--log trace versions", &[("METER_DATABASE__TOKEN", "s3cret-token")]).ends(1);
    assert!(!ran.err.contains("s3cret") && !ran.out.contains("s3cret"), "{}", ran.err);
    assert!(ran.err.contains("database"), "{}", ran.err);
}

#[test]
fn help_tells_commands_and_exit_codes() {
    let place = Workspace::new();
    place.run("--help").ends(0).says(&["ingest", "discover", "verify", "Exit codes:", "Set-up:"]);
    place.run("ingest --help").ends(0).says(&["--dry-run", "--accept <VERSION>", "--seen <DIGEST>", "--reason <TEXT>"]);
    for flag in ["--accept-restatement", "--allow-unknown-line-types"] {
        place.run(&format!("ingest {flag}")).ends(2).says(&["unexpected argument"]);
    }
    place.run("nonsense").ends(2);
    place.run("--log =x= versions").ends(2).says(&["--log"]);
    place.run("demo generate bucket --rows 0").ends(2);
    for (options, said) in [
        ("--bucket My_Bucket", "`My_Bucket` is no bucket name"),
        ("--bucket ..", "`..` is no bucket name"),
        ("--bucket my-bucket --prefix ../other", "`../other` is no prefix"),
        ("--months 0", "--months must be 1 to 24, not 0"),
        ("--months 25", "--months must be 1 to 24, not 25"),
        ("--months 2 --shared-bucket uploads", "reports of one month"),
        ("--tag  --months 2", "a value is required"),
        ("--tag=---", "--tag: "),
    ] {
        place.run(&format!("demo generate made {options}")).ends(2).says(&[said]);
    }
    assert!(!place.path("made").exists() && !place.path("other").exists(), "nothing is written");
}

#[test]
fn a_database_that_cannot_be_written_is_said_to_be() {
    let place = Workspace::new();
    place.run(&format!("demo generate bucket {OCTOBER} --rows 500")).ends(0);
    // a folder that is a file in the way stands for every place that cannot be opened
    std::fs::write(place.path("file"), "").unwrap();
    place
        .run_with("migrate", &[("METER_DATABASE__URL", "file/meter.db")])
        .ends(1)
        .says(&["file/meter.db cannot be opened"]);
}

/// The names of somebody's own bucket, export and tag.
#[test]
fn bills_are_made_for_a_bucket_with_its_prefix_tag_and_months() {
    let place = Workspace::with("");
    let line = "demo generate s3 --bucket my-billing-bucket --prefix exports/eu --tag customer --months 3 --rows 900";
    place
        .run(&format!("{line} --month 2026-10"))
        .ends(0)
        .says(&["aws s3 sync s3/my-billing-bucket s3://my-billing-bucket"]);
    let root = place.path("s3/my-billing-bucket/exports/eu/bill/metadata");
    let mut months: Vec<String> =
        std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    months.sort();
    assert_eq!(months, ["BILLING_PERIOD=2026-08", "BILLING_PERIOD=2026-09", "BILLING_PERIOD=2026-10"]);
    let manifest = std::fs::read_to_string(root.join("BILLING_PERIOD=2026-09/bill-Manifest.json")).unwrap();
    assert!(manifest.contains("s3://my-billing-bucket/exports/eu/bill/"), "{manifest}");
    let toml = "tag_key = \"customer\"\n[[exports]]\nname = \"main\"\nlocation = \"s3/my-billing-bucket/exports/eu\"\n";
    std::fs::write(place.path("meter.toml"), toml).unwrap();
    for month in ["2026-08", "2026-09", "2026-10"] {
        place.run(&format!("ingest --month {month}")).ends(0).says(&["booked"]);
        place.run(&format!("usage --month {month}")).ends(0).says(&["acme", "climbing-gym"]);
    }
    place.run("verify").ends(0);
}
