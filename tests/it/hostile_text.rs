//! Text that others wrote: it clears no terminal, forges no line and hides nothing, wherever it is
//! printed, and JSON still has it as it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::billing_fixture::{KEY, config};
use crate::support::served::{free_port, request};
use crate::support::{Ran, Workspace, meter};
use crate::tidy::{files, read, root};
use testkit::ingest_fixture::{Line, chime, deliver_lines};

/// Clears the terminal, forges a line, and turns the direction of writing.
const HOSTILE: &str = "Evil\u{1b}[2J\nforged: all is well\r\t\u{9b}\u{202e}\u{200b}x";
/// Its begin, as it is shown.
const SHOWN: &str = r"Evil\u{1b}[2J\nforged: all is well\r\t\u{9b}\u{202e}\u{200b}x";
/// An id that a backend may store.
const CUSTOMER: &str = "zoë\u{202e}\u{200b}\u{feff}b";
const VERSION: &str = "2026-10-12T03:00:00.000Z-44444444-4444-4444-8444-444444444444";

/// Whether a character does something on a terminal or a page.
fn acts(c: char) -> bool {
    c != '\n' && (c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}'))
}

/// Nothing in it acts, and no line of it is another's.
#[track_caller]
fn clean(text: &str) {
    assert!(!text.contains(acts), "{text:?}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("forged")), "{text}");
}

#[track_caller]
fn is_clean(ran: Ran) -> Ran {
    clean(&ran.out);
    clean(&ran.err);
    ran
}

/// Like [`Workspace::run_with`], with arguments that have any characters.
fn run(place: &Workspace, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = meter(place.folder.path());
    command.args(arguments).envs(variables.iter().copied());
    is_clean(crate::support::output(&mut command).into())
}

#[test]
fn a_bill_neither_clears_the_terminal_nor_forges_a_line() {
    let place = Workspace::new();
    let evil = Line { usage_type: HOSTILE.into(), ..chime("ann", 10, 5.0) };
    deliver_lines(&place.path("bucket"), VERSION, &[evil, chime(CUSTOMER, 10, 3.0)]);
    let found = run(&place, &["discover", "--month", "2026-10"], &[]).ends(0).says(&[SHOWN]);
    // the columns behind it are below their titles
    let lines: Vec<&str> = found.out.lines().collect();
    let column = lines.iter().find_map(|line| line.find("line type")).unwrap();
    let rows: Vec<&&str> = lines.iter().filter(|line| line.trim_start().starts_with("AmazonChime")).collect();
    assert_eq!(rows.len(), 2, "{}", found.out);
    assert!(rows.iter().all(|row| row[column..].starts_with("Usage ")), "{}", found.out);
    let json = run(&place, &["discover", "--month", "2026-10", "--json"], &[]).ends(0).json();
    let types: Vec<&str> =
        json[0]["lines"].as_array().unwrap().iter().filter_map(|l| l["usage_type"].as_str()).collect();
    assert!(types.contains(&HOSTILE), "{types:?}");

    run(&place, &["ingest", "--month", "2026-10"], &[]);
    let usage = run(&place, &["usage", "--month", "2026-10"], &[]);
    assert!(usage.out.contains(r"zoë\u{202e}\u{200b}\u{feff}b"), "{}", usage.out);
    let page = run(&place, &["report", "--month", "2026-10", "--html", "-"], &[]).ends(0);
    assert!(page.out.contains("<html") && page.out.contains(r"zoë\u{202e}"), "{}", page.out);
    for line in ["status", "versions", "verify", "doctor"] {
        run(&place, &[line], &[]);
    }
}

/// A server that answers every request with an error in Stripe's form.
fn stripe_that_says(message: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let body = serde_json::json!({ "error": { "message": message, "type": "invalid_request_error" } }).to_string();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    url
}

#[test]
fn an_error_of_stripe_is_one_line_in_a_terminal_and_in_the_log() {
    let place = Workspace::with(&config(&stripe_that_says(HOSTILE)));
    let key = [("METER_STRIPE__KEY", KEY)];
    place.run("migrate").ends(0);
    let said = run(&place, &["stripe", "check"], &key).ends(1).says(&["Stripe answered 400", SHOWN]);
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    for line in ["push", "doctor", "run sync-stripe", "reconcile"] {
        run(&place, &line.split(' ').collect::<Vec<_>>(), &key);
    }
    run(&place, &["plan", "apply", "no\u{1b}[2J\nforged such file"], &[])
        .ends(2)
        .says(&[r"no\u{1b}[2J\nforged such file"]);

    // a job that fails with it: in the log, in the list, and beside its fields
    place.run("enqueue sync_stripe").ends(0);
    let log = run(&place, &["work", "--once", "--no-schedule", "--kinds", "sync_stripe"], &key);
    let of_job: Vec<&str> = log.err.lines().filter(|line| line.contains("forged")).collect();
    assert!(!of_job.is_empty() && of_job.iter().all(|line| line.contains("job ")), "{}", log.err);
    for line in ["jobs list", "jobs show 1", "status"] {
        run(&place, &line.split(' ').collect::<Vec<_>>(), &[]);
    }
    let reason = run(&place, &["jobs", "show", "1", "--json"], &[]).ends(0).json()["reason"].to_string();
    assert!(reason.contains(r"\n") && !reason.contains(r"\\n"), "{reason}");
    place.run("jobs retry 1").ends(0);
    let json = [key[0], ("METER_LOG__FORMAT", "json")];
    let log = run(&place, &["work", "--once", "--no-schedule", "--kinds", "sync_stripe"], &json);
    let events: Vec<serde_json::Value> = log.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let exact = events.iter().any(|event| event["fields"]["message"].as_str().is_some_and(|m| m.contains(HOSTILE)));
    assert!(exact, "{}", log.err);
}

/// What is in the books already is no safer than what comes.
#[test]
fn stored_texts_are_shown_and_not_obeyed() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(&format!(
        "INSERT INTO customers (id) VALUES ('{CUSTOMER}'); \
         INSERT INTO workers (id, host, pid, version, kinds, concurrency, state, started_at, seen_at) \
         VALUES ('{HOSTILE}', 'h', 7, '0', '[]', 1, 'working', 1, unixepoch() * 1000)"
    ));
    let workers = run(&place, &["workers"], &[]);
    assert!(workers.out.contains(r"Evil\u{1b}[2J\nforged"), "{}", workers.out);
    let customers = run(&place, &["customer", "list"], &[]).ends(0);
    assert!(customers.out.contains(r"zoë\u{202e}\u{200b}\u{feff}b"), "{}", customers.out);
    run(&place, &["enqueue", "probe", &format!("name={HOSTILE}")], &[]).ends(0);
    run(&place, &["jobs", "list"], &[]).ends(0);
    run(&place, &["work", "--once", "--no-schedule"], &[]).ends(0);
    run(&place, &["jobs", "show", "1"], &[]).ends(0);

    // the pages, as a browser gets them
    let port = free_port();
    let mut worker = meter(place.folder.path())
        .args(["work", "--no-schedule", "--listen", &format!("127.0.0.1:{port}")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let page = |path: &str| {
        let start = Instant::now();
        loop {
            match request(port, "GET", path, &[], "") {
                Some(answer) if answer.status == 200 => return answer.body,
                other => assert!(start.elapsed().as_secs() < 30, "{path}: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    for path in ["/", "/jobs", "/jobs/1"] {
        assert!(!page(path).contains(acts), "{:?}", page(path));
    }
    assert!(page("/jobs/1").contains(r"Evil\u001b[2J\nforged"));
    worker.kill().unwrap();
    let mut log = String::new();
    worker.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    crate::support::ended(&mut worker);
    clean(&log);
}

/// What is printed passes one of the two doors.
#[test]
fn only_print_and_log_write_to_a_terminal() {
    let doors = ["src/print/mod.rs", "src/cli/log.rs"];
    let all = ["src", "jobs", "books"].iter().flat_map(|package| files(&root().join(package), ".rs"));
    for file in
        all.filter(|file| !doors.iter().any(|door| file.ends_with(door)) && !file.iter().any(|part| part == "tests"))
    {
        for word in ["println!(", "print!(", "dbg!(", ".write_all(b"] {
            assert!(!read(&file).contains(word), "{}: {word}", file.display());
        }
    }
}
