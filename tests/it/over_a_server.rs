//! Stories once more, over the test server with round trips of 20 ms: in a process of its own, in
//! which every workspace puts the server in front of its file.

use std::process::Command;

use testkit::suite_database::VARIABLE;

const SUITES: [&str; 9] = [
    "billing::",
    "cli_status::",
    "conservation::",
    "entitlements::",
    "meters::",
    "notifications::",
    "plans::",
    "stories::",
    "stripe_items::",
];
/// What is so on a file only.
const ON_A_FILE: [&str; 0] = [];

#[test]
fn every_story_runs_over_a_server() {
    let mut suites = Command::new(std::env::current_exe().unwrap());
    suites.args(SUITES).env(VARIABLE, "server");
    for name in ON_A_FILE {
        suites.args(["--skip", name]);
    }
    let ran = suites.output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    for suite in SUITES {
        assert!(out.contains(&format!("test {suite}")), "no test of {suite} ran:\n{out}");
    }
}
