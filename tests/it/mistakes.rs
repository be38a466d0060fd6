//! Each mistake of a person has a message that says what, where and what to do. All of them are in
//! `tests/it/mistakes.txt`, to be read as a whole; `METER_TEST_WRITE_DOCS=1` writes it.

use std::fmt::Write;

use crate::support::{Ran, Workspace, meter, output};
use crate::tidy::{read, root};

/// Where a mistake is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A folder with one export and nothing in it.
    Empty,
    /// Books with a customer, and no bill.
    Books,
    /// The same, and a newer meter has been here.
    Newer,
    /// The same, and another process writes for long.
    Locked,
}

/// A command line, in a place, with files and variables.
struct Mistake {
    place: Place,
    /// The words of the command line; one with blanks is quoted.
    line: &'static str,
    files: &'static [(&'static str, &'static str)],
    variables: &'static [(&'static str, &'static str)],
}

const fn mistake(place: Place, line: &'static str) -> Mistake {
    Mistake { place, line, files: &[], variables: &[] }
}

const fn file(line: &'static str, files: &'static [(&'static str, &'static str)]) -> Mistake {
    Mistake { place: Place::Books, line, files, variables: &[] }
}

const fn config(files: &'static [(&'static str, &'static str)]) -> Mistake {
    Mistake { place: Place::Empty, line: "config check", files, variables: &[] }
}

const fn variable(line: &'static str, variables: &'static [(&'static str, &'static str)]) -> Mistake {
    Mistake { place: Place::Empty, line, files: &[], variables }
}

use Place::{Books, Empty, Locked, Newer};

const TITLES: [(&str, &[Mistake]); 10] = [
    (
        "Keys of the configuration",
        &[
            config(&[("meter.toml", "tag_kay = \"customer\"\n")]),
            config(&[("meter.toml", "[databse]\nurl = \"books.db\"\n")]),
            config(&[("meter.toml", "lookback_months = \"two\"\n")]),
            config(&[("meter.toml", "lookback_months = 99\n")]),
            config(&[("meter.toml", "[[exports]]\nlocation = \"bucket\"\n")]),
            config(&[("meter.toml", "[[exports]]\nname = \"main\"\nlocation = \"ftp://bills\"\n")]),
            config(&[("meter.toml", "[[exports]]\nname = \"main\"\nlocation = \"s3://My_Bucket/x\"\n")]),
            config(&[(
                "meter.toml",
                "[[exports]]\nname = \"a\"\nlocation = \"x\"\n\n[[exports]]\nname = \"a\"\nlocation = \"y\"\n",
            )]),
            config(&[("meter.toml", "[log]\nformat = \"xml\"\n")]),
            config(&[("meter.toml", "[queue]\nlease_seconds = 99999999\n")]),
            config(&[("meter.toml", "[stripe.meters.minutes]\nevent_name = \"minutes\"\n")]),
            config(&[("meter.toml", "[stripe]\nkey = \"sk_test_1\"\n")]),
            config(&[("meter.toml", "tag_key = \"a\"\ntag_key = \"b\"\n")]),
            config(&[("meter.toml", "[[exports]\n")]),
            config(&[(
                "meter.toml",
                "[[meters]]\nname = \"fine\"\nunit = \"x\"\nproducts = [\"A\"]\nusage_types = [\"*\"]\nfactor = \"1\"\n\n\
                 [[meters]]\nname = \"Bad Name\"\nproducts = []\nusage_types = [\"*\"]\nfactor = \"0\"\n",
            )]),
            variable("config check", &[("METER_STRIPE", "sk_test_1")]),
            variable("config check", &[("METER_STRIPE__KEY", "sk_test_1\n")]),
            config(&[("meter.toml", "log.level = \"inf\"\n[guard]\nallow_unknown_line_types = \"yes\"\nfloor = -1\n")]),
        ],
    ),
    (
        "Variables",
        &[
            variable("config check", &[("METER_DATABSE__URL", "books.db")]),
            variable("config check", &[("METER_QUEUE__LEASE_SECONDS", "soon")]),
            variable("config check", &[("METER_HTTP__LISTEN", "9464")]),
            variable("config check", &[("METER_HTTP__TOKEN", "short")]),
            variable("config check", &[("METER_STRIPE__KEY", "sk_live_1")]),
            variable("config check", &[("METER_EXPORTS__0__NAME", "main")]),
            variable("config check", &[("METER_CONFIG", "nowhere.toml")]),
            variable("usage", &[("METER_LOG", "loud")]),
        ],
    ),
    (
        "The command line",
        &[
            mistake(Books, "usag"),
            mistake(Books, "usage --mnth 2026-10"),
            mistake(Books, "usage ann bob"),
            mistake(Books, "completions tcsh"),
            mistake(Books, "--color sometimes usage"),
            mistake(Books, "ingest --from 2026-10 --to 2026-01"),
            mistake(Books, "work --listen 9464"),
            mistake(Books, "work --kinds ingest"),
            mistake(Books, "budget set ann 5,00"),
            mistake(Books, "budget set ann 5.001"),
            mistake(Books, "budget set ann 5 --currency EURO"),
            mistake(Books, "jobs list --state ded"),
            mistake(Books, "jobs list --kind ingest_curr"),
            mistake(Books, "jobs cancel"),
            mistake(Books, "customer set ann --status gone"),
        ],
    ),
    (
        "Months, days and instants",
        &[
            mistake(Books, "usage --month october"),
            mistake(Books, "usage --month 2026-13"),
            mistake(Books, "bill --period 2026"),
            mistake(Books, "explain ann --day 7.10.2026"),
            mistake(Books, "enqueue verify_books --at tomorrow"),
            mistake(Books, "restore mark --backup-at noon"),
            mistake(Books, "jobs purge --older-than 3"),
            mistake(Books, "run roll-periods --as-of yesterday --dry-run"),
        ],
    ),
    (
        "Jobs and their payloads",
        &[
            mistake(Books, "enqueue prob name=a"),
            mistake(Books, "enqueue probe"),
            mistake(Books, "enqueue probe nme=a"),
            mistake(Books, "enqueue probe name=a millis=soon"),
            mistake(Books, "enqueue probe name=a name=b"),
            mistake(Books, "enqueue probe name"),
            mistake(Books, "enqueue probe --payload {"),
            mistake(Books, "enqueue probe --payload []"),
            mistake(Books, "run verify-books deep=1"),
        ],
    ),
    (
        "Ids and names",
        &[
            mistake(Books, "usage anne"),
            mistake(Books, "explain ann --meter minutes"),
            mistake(Books, "budget set ann 5 --meter storage"),
            mistake(Books, "statement bob"),
            mistake(Books, "customer add bob --plan gold"),
            mistake(Books, "customer add 'a b '"),
            mistake(Books, "plan list cor"),
            mistake(Books, "events show 999"),
            mistake(Books, "jobs show 999"),
            mistake(Books, "notifications retry abc"),
            mistake(Books, "changes 7"),
            mistake(Books, "revert 7 --reason x --yes"),
            mistake(Books, "ingest --accept 12345678 --seen 1234 --reason x"),
            mistake(Books, "ingest --export second"),
            mistake(Books, "shared other"),
        ],
    ),
    (
        "Files",
        &[
            mistake(Books, "--config nowhere.toml usage"),
            mistake(Books, "--config bucket usage"),
            mistake(Books, "plan apply nowhere.toml"),
            file("plan apply meter.toml", &[]),
            file(
                "plan apply plans.toml",
                &[(
                    "plans.toml",
                    "[[plans]]\nname = \" pro\"\ncurrency = \"EURO\"\neffective_from = \"soon\"\n\n[[plans]]\nname = \"pro\"\ncurrency = \"EUR\"\neffective_from = \"2026-10-01T00:00:00Z\"\nmeters.storage = { included = \"lots\" }\n",
                )],
            ),
            mistake(Books, "customer import nowhere.csv"),
            file("customer import list.csv", &[("list.csv", "name;plan\nann;core\n")]),
            file("customer import list.csv", &[("list.csv", "id,plan\ncy,gold\n dee,core\ncy,core\n")]),
            mistake(Books, "apply nowhere.json --reason x --yes"),
            file("apply plan.json --reason x --yes", &[("plan.json", "{}")]),
            file("apply plan.json --reason x --yes", &[("plan.json", "not json")]),
            mistake(Books, "report --html nowhere/october.html"),
            mistake(Books, "statement ann --csv"),
            mistake(Books, "man meter.toml"),
            mistake(Books, "demo --keep ."),
            mistake(Books, "demo generate meter.toml --month 2025-03"),
        ],
    ),
    (
        "Books and copies of them",
        &[
            mistake(Empty, "usage"),
            mistake(Empty, "status"),
            mistake(Newer, "migrate"),
            mistake(Newer, "usage"),
            mistake(Newer, "work --once"),
            mistake(Locked, "customer add bob"),
            mistake(Books, "verify --database nowhere.db"),
            mistake(Books, "verify --database meter.toml"),
            mistake(Books, "backup meter.toml"),
            mistake(Books, "backup nowhere/copy.db"),
            mistake(Books, "copy --to copy.sqlite/x"),
            variable("migrate", &[("METER_DATABASE__URL", "bucket")]),
            variable("migrate", &[("METER_DATABASE__URL", "meter.toml")]),
            variable("migrate", &[("METER_DATABASE__URL", "nowhere/meter.db")]),
        ],
    ),
    (
        "Bills",
        &[
            mistake(Empty, "ingest --month 2025-03"),
            mistake(Empty, "discover --month 2025-03"),
            file("ingest --month 2025-03", &[("meter.toml", "")]),
            file("ingest --month 2025-03", &[("meter.toml", "[[exports]]\nname = \"main\"\nlocation = \"nowhere\"\n")]),
            file(
                "ingest --month 2025-03",
                &[("meter.toml", "[[exports]]\nname = \"main\"\nlocation = \"meter.toml\"\n")],
            ),
        ],
    ),
    (
        "Networks",
        &[
            variable("usage", &[("METER_DATABASE__URL", "http://127.0.0.1:1")]),
            variable("usage", &[("METER_DATABASE__URL", "postgres://127.0.0.1")]),
            file(
                "ingest --month 2025-03",
                &[(
                    "meter.toml",
                    "[[exports]]\nname = \"main\"\nlocation = \"s3://bills/x\"\nendpoint = \"http://127.0.0.1:1\"\nregion = \"eu-central-1\"\n",
                )],
            ),
            variable("health --listen 127.0.0.1:1", &[]),
            variable("work --listen 192.0.2.1:9464", &[]),
        ],
    ),
];

fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    for (i, part) in line.split('\'').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

impl Mistake {
    /// What is printed, without what differs from run to run.
    fn makes(&self) -> (i32, String) {
        let place = Workspace::new();
        if self.place != Empty {
            place.run("migrate").ends(0);
            place.run("customer add ann").ends(0);
        }
        if self.place == Newer {
            place.execute("INSERT INTO schema_versions VALUES (9999, 'future', '', '')");
        }
        let _writes = (self.place == Locked).then(|| place.locked());
        for (name, text) in self.files {
            std::fs::write(place.path(name), text).unwrap();
        }
        let mut command = meter(place.folder.path());
        command.env("COLUMNS", "100").env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        let ran = Ran::from(output(command.args(words(self.line)).envs(self.variables.iter().copied())));
        let mut said = String::new();
        for line in ran.out.lines().chain(ran.err.lines()) {
            let line = line.replace(&place.folder.path().display().to_string(), "FOLDER");
            let line = line.replace(&format!("knows up to {};", books::newest_schema_version()), "knows up to N;");
            // a log line is for a log
            if !line.contains(" WARN ") && !line.contains(" INFO ") {
                let _ = writeln!(said, "  {line}");
            }
        }
        (ran.code, said.replace("\n  \n", "\n\n").trim_end().to_owned())
    }
}

fn page() -> String {
    let mut page = String::from("Mistakes, and what meter says of them. tests/it/mistakes.rs makes this page.\n");
    for (title, mistakes) in &TITLES {
        let _ = write!(page, "\n{title}\n{}\n", "=".repeat(title.len()));
        for mistake in *mistakes {
            let (code, said) = mistake.makes();
            page.push('\n');
            for (name, text) in mistake.files {
                let _ = writeln!(page, "{name}:\n    | {}", text.trim_end().replace('\n', "\n    | "));
            }
            let set: String = mistake.variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
            let _ = writeln!(page, "$ {set}meter {}\n{said}\n  (exit code {code})", mistake.line);
        }
    }
    page
}

#[test]
fn each_mistake_is_said_with_what_where_and_what_to_do() {
    let path = root().join("tests/it/mistakes.txt");
    let page = page();
    if std::env::var_os("METER_TEST_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
        return;
    }
    let kept = read(&path);
    let differs: Vec<(&str, &str)> = page.lines().zip(kept.lines()).filter(|(now, then)| now != then).take(5).collect();
    assert!(page == kept, "tests/it/mistakes.txt says otherwise (METER_TEST_WRITE_DOCS=1 writes it): {differs:#?}");
    let mistakes = TITLES.iter().flat_map(|(_, mistakes)| *mistakes).count();
    assert!(mistakes > 90, "{mistakes} mistakes");
    // 0 would be no mistake, 101 a panic
    assert_eq!(page.matches("(exit code 0)").count() + page.matches("(exit code 101)").count(), 0, "{page}");
    let types = [
        "Some(", "None", "Err(", "Ok(", "struct ", "enum ", " u8", " u16", " u32", " u64", " i64", "Utf8", "String(",
        "panic",
    ];
    for rust in types {
        assert!(!page.contains(rust), "`{rust}` is for programmers");
    }
}
