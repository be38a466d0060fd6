//! The suites of the jobs once more, over the test server with round trips of 20 ms: in a process
//! of its own, in which every fixture puts the server in front of its file. Without `bad_input`,
//! which is about reading bills, and `restore`, which begins with a copy of a file.

use std::process::Command;

use testkit::suite_database::VARIABLE;

const SUITES: [&str; 7] = ["enforce::", "histories::", "ingest::", "moved::", "parts::", "race::", "staged::"];

#[test]
fn every_suite_of_the_jobs_runs_over_a_server() {
    let mut suites = Command::new(std::env::current_exe().unwrap());
    suites.args(SUITES).env(VARIABLE, "server").env("RUST_TEST_THREADS", "2").env("METER_TEST_HISTORIES", "3");
    let ran = suites.output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    for suite in SUITES {
        assert!(out.contains(&format!("test {suite}")), "no test of {suite} ran:\n{out}");
    }
}
