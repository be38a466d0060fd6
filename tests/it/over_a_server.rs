//! Stories once more, over the test server with round trips of 20 ms: in a process of its own, in
//! which every workspace puts the server in front of its file.

use std::process::Command;

use testkit::suite_database::VARIABLE;

const SUITES: [&str; 8] = [
    "billing::",
    "conservation::",
    "entitlements::",
    "meters::",
    "notifications::",
    "plans::",
    "stories::",
    "stripe_items::",
];
/// A killed worker leaves its transaction open for 5 seconds here, and this kills dozens.
const TOO_LONG: &str = "entitlements::kill_9_at_any_moment_of_both_jobs_loses_and_doubles_nothing";

#[test]
fn every_story_runs_over_a_server() {
    let mut suites = Command::new(std::env::current_exe().unwrap());
    suites.args(SUITES).args(["--skip", TOO_LONG]).env(VARIABLE, "server").env("RUST_TEST_THREADS", "2");
    let ran = suites.output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    for suite in SUITES {
        assert!(out.contains(&format!("test {suite}")), "no test of {suite} ran:\n{out}");
    }
}
