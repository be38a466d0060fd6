//! Stories of `meter init`: from nothing to a configuration that works, and what the account needs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use testkit::needs::python;

use crate::s3::Server;
use crate::support::{Ran, meter};
use crate::tidy::{SECRETS, fault_of, read, root};

/// An empty folder.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// With a bill of the current month in `bucket`.
    fn with_bill() -> Self {
        let place = Self::new();
        place.run("demo generate bucket --rows 600").ends(0);
        place
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = meter(self.0.path());
        command.args(line.split_whitespace()).envs(variables.iter().copied());
        crate::support::output(&mut command).into()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        read(&self.path(name))
    }

    /// The files that are there, beside a bucket.
    fn files(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "bucket").collect()
    }

    /// Answers on a pseudo-terminal: what is waited for, and what is typed then.
    fn answers(&self, python: &Path, line: &str, dialogue: &[(&str, &str)]) -> Ran {
        let own = meter(self.0.path());
        let mut command = Command::new(python);
        command.arg(root().join("tests/it/init/terminal.py")).arg(own.get_program()).args(line.split_whitespace());
        command.current_dir(self.0.path()).env_clear();
        command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "dumb");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut terminal = command.spawn().unwrap();
        let dialogue = serde_json::to_vec(dialogue).unwrap();
        terminal.stdin.take().unwrap().write_all(&dialogue).unwrap();
        terminal.wait_with_output().unwrap().into()
    }
}

/// The commands that a run ends with exist.
fn next_steps(ran: &Ran) -> Vec<String> {
    let steps: Vec<String> =
        ran.out.lines().filter_map(|line| line.strip_prefix("  meter ")).map(str::to_owned).collect();
    assert!(steps.len() >= 5, "{}", ran.out);
    for step in &steps {
        // a remark is two blanks away
        let command = step.split("  ").next().unwrap();
        assert_eq!(fault_of(&format!("meter {command}")), None, "{step}");
    }
    for line in ran.out.lines() {
        assert!(line.chars().count() <= 80 || !line.contains(' '), "{line}");
    }
    steps
}

#[test]
fn a_bill_in_a_folder_becomes_a_configuration_that_reads_it() {
    let place = Place::with_bill();
    let ran = place.run("init --bucket ./bucket").ends(0).says(&[
        "ok     folder: ./bucket can be listed: 1 export",
        "ok     export: ./bucket/cur/bill: CUR 2.0, Parquet",
        "600 lines, hourly",
        "ok     tag on chime_minutes:",
        "%) carry",
        "ok     books: meter.db will be made",
        "Written: meter.toml, and .env",
    ]);
    next_steps(&ran);
    place.run("config check").ends(0).says(&["sound: 1 export(s)"]);
    assert!(!place.path("meter.db").exists(), "it only looks");
    place.run("ingest").ends(0).says(&["booked"]);
    assert!(place.text("meter.toml").contains("location = \"./bucket/cur/bill\""), "{}", place.text("meter.toml"));

    let env = place.text(".env");
    assert_eq!(place.path(".env").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let names: BTreeSet<&str> =
        env.lines().map(|line| line.trim_matches(['#', '='])).filter(|n| n.starts_with("METER_")).collect();
    assert_eq!(names, SECRETS.iter().map(|(name, _)| *name).collect(), "{env}");
    let empty: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    place.run_with("config check", &empty).ends(0);

    // nothing is overwritten, and everything else is as good as new in another folder
    let before = (place.text("meter.toml"), env);
    place.run("init --bucket ./bucket").ends(2).says(&["meter.toml is there already", "--output FOLDER"]);
    std::fs::remove_file(place.path("meter.toml")).unwrap();
    place.run("init --bucket ./bucket").ends(2).says(&[".env is there already"]);
    assert!(!place.path("meter.toml").exists() && place.text(".env") == before.1);
    let ran = place
        .run("init --bucket ./bucket --output conf/new --database libsql://b.example.com --stripe test")
        .ends(0)
        .says(&[
            "METER_DATABASE__TOKEN is not set; `meter doctor` tries it",
            "because METER_STRIPE__KEY is not",
            "export METER_CONFIG=conf/new/meter.toml",
            "set -a; . conf/new/.env; set +a",
        ]);
    assert!(next_steps(&ran).iter().any(|step| step.starts_with("stripe setup")), "{}", ran.out);
    let shown = place.run("--config conf/new/meter.toml config show").ends(0);
    for line in ["event_name = \"chime_milliminutes\"", "grace_hours = 72", "url = \"libsql://b.example.com\""] {
        assert!(shown.out.contains(line), "{line} is not in {}", shown.out);
    }
    assert!(place.text("conf/new/.env").contains("\nMETER_STRIPE__KEY=\n"), "it is needed, so it is no comment");
}

#[test]
fn the_key_is_tried_where_there_is_one_and_never_shown() {
    let place = Place::with_bill();
    let key = [("METER_STRIPE__KEY", "sk_test_secret")];
    let ran = place
        .run_with("init --bucket ./bucket --stripe live", &key)
        .ends(3)
        .says(&["WRONG  Stripe: METER_STRIPE__KEY is no key of a live account", "sk_live_ or rk_live_"]);
    let all = [ran.out, ran.err, place.text("meter.toml"), place.text(".env")].concat();
    assert!(!all.contains("sk_test_secret"), "{all}");
    let token = [("METER_DATABASE__TOKEN", "secret-token")];
    let ran = place
        .run_with("init --bucket ./bucket --output b --database libsql://127.0.0.1:9", &token)
        .ends(3)
        .says(&["WRONG  books:", "`meter init --print turso`"]);
    assert!(!(ran.out + &ran.err).contains("secret-token"));
}

#[test]
fn without_a_terminal_what_is_missing_or_wrong_is_named_and_nothing_is_written() {
    let place = Place::with_bill();
    std::fs::write(place.path("bucket/file"), "").unwrap();
    for (line, said) in [
        ("init --bucket ./bucket --output bucket/file", "bucket/file is no folder"),
        ("init", "nobody can be asked, and --bucket is missing"),
        ("init --bucket bills/a", "write s3://bills/a for a bucket and its prefix, or ./bills/a for a folder"),
        ("init --bucket Bills", "no bucket name"),
        ("init --bucket ./bucket --prefix a", "a folder has no prefix"),
        ("init --bucket ./bucket --region eu-central-1", "is a folder and has none"),
        ("init --bucket bills --region Frankfurt", "--region: `Frankfurt` is no AWS region"),
        ("init --bucket bills --endpoint nowhere", "it is no address of a server"),
        ("init --bucket ./bucket --tag --", "--tag: "),
        ("init --bucket ./bucket --database libsql://h?authToken=x", "a token goes into METER_DATABASE__TOKEN"),
        ("init --bucket ./bucket --stripe sk_live_x", "none, test and live"),
        ("init --bucket ./bucket --print turso --output x", "cannot be used with"),
        ("init --bucket ./bucket --account 111122223333", "--print"),
        ("init --print nothing", "possible values: iam-policy, bucket-policy"),
        ("init --print iam-policy --bucket ./bucket", "a folder needs no rights"),
        ("init --print turso --turso-database a;b", "--turso-database"),
    ] {
        let line = line.replace("--tag --", "--tag=--");
        let ran = place.run(&line).ends(2);
        assert!(ran.err.contains(said), "{line}: {}", ran.err);
        assert!(place.files().is_empty(), "{line} wrote {:?}", place.files());
    }
}

#[test]
fn of_several_exports_one_is_named() {
    let place = Place::new();
    place.run("demo generate bucket/a --rows 300").ends(0);
    place.run("demo generate bucket/b --rows 300 --format legacy --files-as csv-gz").ends(0);
    let ran = place.run("init --bucket ./bucket").ends(2).says(&["name one of them by --bucket"]);
    assert!(
        ran.err.contains("./bucket/a/cur/bill (cur2)") && ran.err.contains("./bucket/b/cur/bill (legacy)"),
        "{}",
        ran.err
    );
    assert!(place.files().is_empty());
    place.run("init --bucket ./bucket/b").ends(0).says(&["legacy CUR, CSV with gzip", "hourly"]);
    place.run("ingest --dry-run").ends(0);
    let Some(python) = python() else { return };
    let ran = place.answers(
        &python,
        "init --bucket ./bucket --tag chitchatter-customer-id --database x.db --stripe none --output c",
        &[("Which export?", "3\n"), ("no number from 1 to 2", "2\n")],
    );
    ran.ends(0).says(&["Written: c/meter.toml"]);
    assert!(place.text("c/meter.toml").contains("\"./bucket/b/cur/bill\""));
}

#[test]
fn what_is_not_there_yet_is_said_and_the_files_are_written_all_the_same() {
    let place = Place::new();
    std::fs::create_dir(place.path("bucket")).unwrap();
    let init = |bucket: &str, name: &str| place.run(&format!("init --bucket {bucket} --output {name}"));
    let ran =
        init("./bucket", "empty").ends(3).says(&["warn   folder: ./bucket can be listed, and there is no export"]);
    next_steps(&ran);
    assert!(place.text("empty/meter.toml").contains("# There was no bill at this place"));
    init("./nowhere", "nowhere").ends(3).says(&["WRONG  folder:", "there is no such folder", "check the name"]);
    // a file in its place
    std::fs::write(place.path("file"), "").unwrap();
    init("./file", "file-conf").ends(3).says(&["WRONG  folder:", "./file/: there is no such folder"]);
    for name in ["empty", "nowhere", "file-conf"] {
        place.run(&format!("--config {name}/meter.toml config check")).ends(0);
    }
    // an export that AWS has not filled
    std::fs::create_dir_all(place.path("bucket/e/data")).unwrap();
    std::fs::create_dir_all(place.path("bucket/e/metadata")).unwrap();
    init("./bucket", "unfilled")
        .ends(3)
        .says(&["./bucket/e is an export (cur2) without a bill so far", "within a day"]);
    // a bill whose data is gone
    place.run("demo generate broken --rows 300 --files-as csv").ends(0);
    std::fs::remove_dir_all(place.path("broken/cur/bill/data")).unwrap();
    std::fs::create_dir(place.path("broken/cur/bill/data")).unwrap();
    init("./broken", "broken-conf").ends(3).says(&["WRONG  bill:", "does not exist"]);
    // books where nothing can be written
    place.run("demo generate bill --rows 300").ends(0);
    place
        .run("init --bucket ./bill --output d --database no/such/folder/meter.db")
        .ends(3)
        .says(&["WRONG  books: no/such/folder cannot be written to"]);
    // another tag than that of the bill
    let ran = place.run("init --bucket ./bill --output t --tag chitchatter-customerid").ends(3);
    let said = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("the bill has the similar `chitchatter_customer_id` -> name that tag (--tag)"), "{said}");
    next_steps(&ran);
}

#[test]
fn a_person_is_asked_for_what_no_flag_says() {
    let Some(python) = python() else { return };
    let place = Place::with_bill();
    let ran = place.answers(
        &python,
        "init",
        &[
            ("or a folder, such as ./bucket", "not a bucket\n"),
            ("is no bucket name; write s3://bucket/prefix. Once more:", "./nowhere\n"),
            ("keep it, and make it right later [./nowhere]", "./bucket\n"),
            ("customer's id [chitchatter-customer-id]", "chitchatter-customerid\n"),
            ("Another key of the tag; or keep it [chitchatter-customerid]", "chitchatter-customer-id\n"),
            ("Books: the path of a file, or libsql://HOST of a server [meter.db]", "\n"),
            ("none, test (a test account) or live (real money) [none]", "maybe\n"),
            ("Once more:", "test\n"),
        ],
    );
    // what was wrong and is not any more leaves no trace in the end
    let ran = ran.ends(0).says(&["No secret is asked for", "Written: meter.toml", "because METER_STRIPE__KEY is not"]);
    next_steps(&ran);
    let toml = place.text("meter.toml");
    for line in [
        "tag_key = \"chitchatter-customer-id\"",
        "location = \"./bucket/cur/bill\"",
        "url = \"meter.db\"",
        "\nlive = false",
    ] {
        assert!(toml.contains(line), "{line} is not in {toml}");
    }
    place.run("config check").ends(0);

    let other = Place::with_bill();
    let ran = other.answers(&python, "init --bucket ./bucket", &[("customer's id", "\u{4}")]);
    ran.ends(2).says(&["the input ended before all was answered; nothing was written"]);
    assert!(other.files().is_empty());
}

/// Users of a server: one with the printed policy of the role, one that may only list, and one
/// without rights. Prints the keys of each.
const USERS: &str = "
import boto3, json, sys
url, key, secret, policy = sys.argv[1:]
iam = boto3.client('iam', endpoint_url=url, region_name='us-east-1', aws_access_key_id=key, aws_secret_access_key=secret)
listing = json.loads(policy)
listing['Statement'] = [s for s in listing['Statement'] if s['Action'] == ['s3:ListBucket']]
for name, document in [('role', policy), ('lists', json.dumps(listing)), ('nobody', None)]:
    iam.create_user(UserName=name)
    if document:
        iam.put_user_policy(UserName=name, PolicyName='p', PolicyDocument=document)
    made = iam.create_access_key(UserName=name)['AccessKey']
    print(made['AccessKeyId'], made['SecretAccessKey'])
";

#[test]
fn the_printed_rights_are_enough_and_a_missing_one_is_named() {
    let Some(python) = python() else { return };
    let place = Place::with_bill();
    let server = Server::start(&python, &place.path("bucket"));
    let policy = place.run("init --print iam-policy --bucket billing --prefix cur").ends(0);
    assert!(policy.err.is_empty(), "nothing is a placeholder: {}", policy.err);
    let mut command = Command::new(&python);
    command.args(["-c", USERS, &server.url(), &server.key, &server.secret, &policy.out]);
    let made = crate::support::output(&mut command);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let keys = String::from_utf8(made.stdout).unwrap();
    let keys: Vec<(&str, &str)> = keys.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let init = |(key, secret): (&str, &str), bucket: &str, name: &str| {
        let line = format!("init --bucket {bucket} --region us-east-1 --endpoint {} --output {name}", server.url());
        place.run_with(&line, &[("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)])
    };
    init(keys[0], "s3://billing/cur", "a").ends(0).says(&[
        "ok     bucket: s3://billing/cur can be listed: 1 export",
        "ok     export: s3://billing/cur/bill: CUR 2.0, Parquet",
    ]);
    let toml = place.text("a/meter.toml");
    assert!(toml.contains("location = \"s3://billing/cur/bill\"") && toml.contains("region = \"us-east-1\""), "{toml}");
    assert!(toml.contains(&format!("endpoint = \"{}\"", server.url())), "{toml}");
    init(keys[1], "s3://billing/cur", "b").ends(3).says(&["WRONG  bill:", "allow s3:GetObject there"]);
    init(keys[2], "s3://billing/cur", "c").ends(3).says(&["WRONG  bucket:", "allow s3:ListBucket there"]);
    init(keys[2], "s3://no-such-bucket", "d").ends(3).says(&["WRONG  bucket:"]);
    init((&server.key, &server.secret), "s3://no-such-bucket", "e")
        .ends(3)
        .says(&["no such bucket", "--print aws-commands"]);
    init(("AKIAWRONG", "wrong"), "billing", "f").ends(3).says(&["WRONG  bucket:", "access denied"]);
    for name in ["a", "b", "c", "d", "e", "f"] {
        place.run(&format!("--config {name}/meter.toml config check")).ends(0);
    }
}

/// An S3 server whose bucket is in eu-central-1 and empty.
fn server_in_frankfurt() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = vec![];
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match client.read(&mut buffer) {
                    Ok(n @ 1..) => head.extend(&buffer[..n]),
                    _ => break,
                }
            }
            let (status, body) = match String::from_utf8_lossy(&head).contains("/eu-central-1/s3/") {
                true => ("200 OK", "<ListBucketResult><Name>bills</Name><KeyCount>0</KeyCount></ListBucketResult>"),
                false => (
                    "301 Moved Permanently",
                    "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>",
                ),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nx-amz-bucket-region: eu-central-1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            drop(client.write_all(answer.as_bytes()));
        }
    });
    url
}

#[test]
fn the_region_that_s3_names_is_written() {
    let place = Place::new();
    let line = format!("init --bucket bills --region us-east-1 --endpoint {}", server_in_frankfurt());
    place
        .run_with(&line, &[("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")])
        .ends(3)
        .says(&["s3://bills can be listed, and there is no export"]);
    let toml = place.text("meter.toml");
    assert!(toml.contains("region = \"eu-central-1\"") && !toml.contains("us-east-1"), "{toml}");
}

/// The columns that the tutorial says are needed, or useful.
fn documented_columns() -> BTreeSet<String> {
    let page = read(&root().join("docs/getting-started.md"));
    let section = page.split("\n## 2. ").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let codes = section.split('`').skip(1).step_by(2);
    let is_column = |code: &&str| {
        let starts = ["line_item_", "identity_", "bill_", "pricing_", "resource_", "split_"];
        starts.iter().any(|start| code.starts_with(start)) && !code.contains(' ')
    };
    codes.filter(is_column).map(str::to_owned).collect()
}

#[test]
fn what_the_account_needs_is_what_aws_takes() {
    let place = Place::new();
    // it needs no configuration, and not even a sound one
    std::fs::write(place.path("meter.toml"), "nonsense = 1\n").unwrap();
    let names =
        "--bucket s3://my-bills/exports --region eu-central-1 --account 111122223333 --reports s3://reports/inventory";
    std::fs::create_dir(place.path("printed")).unwrap();
    for what in ["iam-policy", "bucket-policy", "terraform", "aws-commands", "turso"] {
        let ran = place.run(&format!("init --print {what} {names}")).ends(0);
        assert!(ran.err.is_empty(), "{what}: {}", ran.err);
        std::fs::write(place.path("printed").join(what), &ran.out).unwrap();
        let bare = place.run(&format!("init --print {what}")).ends(0);
        let missing = if what == "turso" { "YOUR-REGION" } else { "YOUR-BUCKET" };
        assert!(bare.out.contains(missing) && bare.err.contains(&format!("{missing} stands for what was not given")));
    }
    let reports = place.text("printed/iam-policy");
    for right in ["arn:aws:s3:::reports\"", "arn:aws:s3:::reports/inventory/*", "arn:aws:s3:::my-bills/exports/*"] {
        assert!(reports.contains(right), "{right} is not in {reports}");
    }
    let Some(python) = python() else { return };
    let checker = root().join("tests/it/init/account.py");
    let checked = crate::support::output(Command::new(python).arg(checker).arg(place.path("printed")));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let query = String::from_utf8(checked.stdout).unwrap();
    let selected =
        query.trim().strip_prefix("SELECT ").and_then(|q| q.strip_suffix(" FROM COST_AND_USAGE_REPORT")).unwrap();
    let selected: BTreeSet<String> = selected.split(", ").map(str::to_owned).collect();
    let mut documented = documented_columns();
    assert!(documented.len() > 10, "{documented:?}");
    // of an export that has rows for parts of a line; this one has none
    assert!(documented.remove("split_line_item_parent_resource_id"));
    assert_eq!(selected, documented, "docs/getting-started.md, section 2");
}

#[test]
fn the_tokens_of_turso_have_the_rights_of_the_contract() {
    let contract = read(&root().join("docs/backend-contract.md"));
    let rights = |text: &str| -> BTreeSet<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        words.windows(2).filter(|pair| pair[0] == "-p").map(|pair| pair[1].trim_end_matches('\\').to_owned()).collect()
    };
    let block = contract.split("turso db tokens create").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let ran = Place::new().run("init --print turso --region eu-west-1 --turso-database ours").ends(0);
    assert_eq!(rights(&ran.out), rights(block));
    assert!(rights(block).len() > 4 && ran.out.contains("turso db create ours --group ours"), "{}", ran.out);
    assert!(ran.out.contains("--read-only") && ran.err.is_empty(), "{}", ran.err);
}
