//! The suites of the jobs once more, over the test server with round trips of 20 ms: in a process
//! of its own, in which every fixture puts the server in front of its file. Without `bad_input`,
//! which is about reading bills, `restore`, which begins with a copy of a file, and the months of
//! `bucket_world` and `bucket_bill`, which are the jobs of `inventory`, `access_logs` and
//! `apportion` once more.

use testkit::suite_database::run_over_a_server;

const SUITES: [&str; 22] = [
    "access_logs::",
    "accuracy::",
    "apportion::",
    "change_properties::",
    "changes::",
    "costs::",
    "due::",
    "enforce::",
    "erased::",
    "forecast::",
    "histories::",
    "hold::",
    "ingest::",
    "inventory::",
    "moved::",
    "operator::",
    "parts::",
    "race::",
    "settled::",
    "staged::",
    "undivided::",
    "uploads::",
];

/// Hundreds of statements by themselves; `tests/it/settled.rs` has the same sums over a server.
const TOO_LONG: &str = "settled::measured_usage_decides_as_if_it_were_billed";

#[test]
fn every_suite_of_the_jobs_runs_over_a_server() {
    run_over_a_server(&SUITES, &[TOO_LONG]);
}
