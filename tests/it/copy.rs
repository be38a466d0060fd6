//! `meter copy`: whole books from a file to a server and back, or nothing.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::hrana::HranaServer;

use crate::support::{Ran, Workspace, meter, query};

const INGEST: &str = "ingest --month 2026-10";
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Books with a row in most tables, and with amounts of many digits.
fn books() -> Workspace {
    let place = Workspace::new();
    place.run("demo generate bucket --month 2026-10 --rows 40000 --customers 2000").ends(0);
    place.run(INGEST).ends(0);
    std::fs::write(place.path("plans.toml"), crate::support::billing_fixture::PLANS).unwrap();
    place.run("plan apply plans.toml").ends(0);
    let booked = place.query("SELECT DISTINCT customer FROM booked_usage WHERE customer <> '' ORDER BY 1 LIMIT 50");
    let list = booked.iter().map(|id| format!("{id},pro\n")).collect::<String>();
    std::fs::write(place.path("customers.csv"), format!("id,plan\n{list}")).unwrap();
    place.run("customer import customers.csv").ends(0);
    for kind in ["roll-periods", "enforce-budgets", "roll-counters", "verify-books"] {
        // the bill is old
        let code = if kind == "enforce-budgets" { 3 } else { 0 };
        place.run(&format!("run {kind}")).ends(code);
    }
    place.run("enqueue probe name=x").ends(0);
    // floats that a reader of JSON rounds wrongly, and a text with everything that needs care
    for (id, float) in [("a", "0.30000000000000004"), ("b", "9007199254740993.5"), ("c", "1.7976931348623157e308")] {
        place.execute(&format!("INSERT INTO customers (id, storage_gb_used) VALUES ('{id}', {float})"));
    }
    place.execute(
        "INSERT INTO customers (id, instance_id) VALUES (char(39, 34, 92, 233, 128512), 'a' || char(0) || 'b')",
    );
    // AUTOINCREMENT goes on after rows that are gone
    place.execute("UPDATE sqlite_sequence SET seq = seq + 7 WHERE name = 'jobs'");
    place
}

/// Every row of every table with its type, and the schema. Without what the copy itself cost.
fn dump(file: &Path) -> Vec<String> {
    let schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name";
    let tables = query(file, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
    assert!(tables.len() > 30, "{tables:?}");
    let mut all = query(file, schema);
    for table in tables {
        let columns = query(file, &format!("SELECT name FROM pragma_table_info('{table}')"));
        let quoted: Vec<String> =
            columns.iter().map(|c| format!("quote(\"{c}\") || hex(CAST(\"{c}\" AS BLOB))")).collect();
        let some = if table == "settings" { "WHERE name NOT LIKE 'rows ____-__'" } else { "" };
        let rows = query(file, &format!("SELECT '{table}', {} FROM \"{table}\" {some}", quoted.join(", ")));
        all.extend(rows);
    }
    all
}

fn at(url: &str) -> [(&'static str, &str); 1] {
    [("METER_DATABASE__URL", url)]
}

/// The number that a query finds in a file that others may be writing.
fn number(file: &Path, sql: &str) -> Result<i64, libsql::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let database = libsql::Builder::new_local(file).build().await?;
        let mut rows = database.connect()?.query(sql, ()).await?;
        rows.next().await?.map_or(Ok(0), |row| row.get(0))
    })
}

fn until(what: &str, enough: impl Fn() -> bool) {
    let start = Instant::now();
    while !enough() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn books_go_to_a_server_and_back_and_stay_the_same() {
    let place = books();
    let before = dump(&place.path("meter.db"));
    let server = HranaServer::start(&place.path("served.db"));
    server.require_token("the copy's");
    server.faults().slow(ROUND_TRIP);
    server.fail_transactions_longer_than(Duration::from_secs(2));
    let url = server.url();
    let start = Instant::now();
    let copied = place.run_with(&format!("copy --to {url} --json"), &[("METER_DATABASE__COPY_TOKEN", "the copy's")]);
    let (report, took, counts) = (copied.ends(0).json(), start.elapsed(), server.counts());
    let entries = |table: &Value| table["table"] == "ledger_entries" && table["rows"].as_u64().unwrap() > 5000;
    assert!(report["tables"].as_array().unwrap().iter().any(entries), "{report}");
    assert_eq!(server.long_transactions(), Vec::<String>::new());
    println!("{} lines in {took:?}: {counts:?}", before.len());
    assert!(dump(&place.path("served.db")) == before, "the copy on the server differs");

    let served = [at(&url)[0], ("METER_DATABASE__TOKEN", "the copy's")];
    place.run_with("copy --to back.db", &served).ends(0).says(&["ledger_entries", "are the same", "next:"]);
    let back = dump(&place.path("back.db"));
    assert!(back == before, "the copy of the copy differs");
    place.run_with("verify", &served).ends(0);
    place.run_with(INGEST, &served).ends(0).says(&["booked already"]);
    place.run_with("verify", &at("back.db")).ends(0);
    place.run_with(INGEST, &at("back.db")).ends(0).says(&["booked already"]);
    // triggers are there again
    let refused = number(&place.path("back.db"), "UPDATE ledger_entries SET quantity = 1").unwrap_err();
    assert!(refused.to_string().contains("append-only"), "{refused}");
    assert!(dump(&place.path("meter.db")) == before, "the source is as it was");
}

#[test]
fn a_copy_needs_an_empty_target_and_quiet_books() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    let refused = |line: &str, code: i32, words: &[&str]| {
        place.run(line).ends(code).says(words);
    };
    refused("copy --to meter.db", 1, &["it is not empty", "Name a new file"]);
    place.run_with("migrate", &at("other.db")).ends(0);
    refused("copy --to other.db", 1, &["nothing was copied to other.db", "it is not empty"]);
    refused("copy --to ftp://host", 2, &["--to: it is neither a path nor libsql://"]);
    refused("copy --to libsql://host?authToken=s3cret", 2, &["METER_DATABASE__COPY_TOKEN"]);
    refused("copy --to libsql:host?authToken=s3cret", 2, &["--to: it looks like an address without `//`"]);
    refused("copy --to host?authToken=s3cret", 2, &["--to: it looks like an address"]);
    refused("copy --to no/such/folder/meter.db", 1, &["nothing was copied to", "cannot be opened"]);
    let server = HranaServer::start(&place.path("served.db"));
    server.require_token("right");
    refused(&format!("copy --to {}", server.url()), 1, &["METER_DATABASE__COPY_TOKEN", "The JWT is invalid"]);
    server.pause();
    refused(&format!("copy --to {}", server.url()), 1, &["nothing was copied to", "cannot be reached"]);

    let worker = "INSERT INTO workers (id, host, pid, version, kinds, concurrency, state, started_at, seen_at) \
                  VALUES ('here:7:x', 'here', 7, '0', '[]', 1, 'working', 1, ";
    place.execute(&format!("{worker} unixepoch() * 1000)"));
    refused("copy --to new.db", 1, &["workers run on meter.db", "here:7:x (seen", "Stop them"]);
    assert!(!place.path("new.db").exists());
    // a worker that was killed long ago, and one that stopped a moment ago, do not write
    place.execute("UPDATE workers SET seen_at = seen_at - 61000");
    place.execute(&format!("{} unixepoch() * 1000)", worker.replace("here:7:x", "b").replace("working", "stopped")));
    refused("copy --to new.db", 0, &["workers", "is a copy of meter.db"]);
}

/// Starts a copy to a slow server, and calls `meanwhile` when it has begun to copy entries.
fn interrupted(place: &Workspace, server: &HranaServer, meanwhile: impl FnOnce(&mut std::process::Child)) -> Ran {
    server.faults().slow(ROUND_TRIP);
    let mut command = meter(place.folder.path());
    command.args(["copy", "--to", &server.url()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let entries = "SELECT count(*) FROM ledger_entries";
    until("it copies", || number(&place.path("served.db"), entries).is_ok_and(|n| n > 0));
    meanwhile(&mut child);
    let ran: Ran = crate::support::ended_with_output(child).into();
    server.faults().slow(Duration::ZERO);
    ran
}

#[test]
fn no_command_uses_a_copy_that_was_killed() {
    let place = books();
    let before = dump(&place.path("meter.db"));
    let server = HranaServer::start(&place.path("served.db"));
    assert_eq!(interrupted(&place, &server, |child| child.kill().unwrap()).code, -1);
    let url = server.url();
    for line in [
        "migrate",
        "verify",
        "status",
        "usage",
        INGEST,
        "work --once",
        "enqueue probe name=x",
        "jobs list",
        "customer add x",
        "run roll-periods",
        "copy --to another.db",
    ] {
        place.run_with(line, &at(&url)).ends(1).says(&["unfinished copy", "delete this database"]);
    }
    place.run_with("doctor", &at(&url)).says(&["unfinished copy"]);
    place.run(&format!("copy --to {url}")).ends(1).says(&["nothing was copied", "unfinished copy"]);
    place.run("verify --database served.db").ends(1).says(&["unfinished copy"]);
    assert!(dump(&place.path("meter.db")) == before, "the source is as it was");
}

#[test]
fn a_change_of_the_source_ends_a_copy() {
    let place = books();
    let server = HranaServer::start(&place.path("served.db"));
    // the web backend hands out a TURN credential, in a table that may be copied already or not yet
    let ran =
        interrupted(&place, &server, |_| place.execute("UPDATE customers SET instance_id = 'new' WHERE id = 'a'"));
    let ran = ran.ends(1).says(&["customers of the source changed", "unfinished copy", "delete it"]);
    assert_eq!(ran.out, "");
    place.run_with("verify", &at(&server.url())).ends(1).says(&["unfinished copy"]);
}
