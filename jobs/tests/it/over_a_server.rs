//! The suites of the jobs once more, over the test server with round trips of 20 ms: in a process
//! of its own, in which every fixture puts the server in front of its file. Without `bad_input`,
//! which is about reading bills, and `restore`, which begins with a copy of a file.

use testkit::suite_database::run_over_a_server;

const SUITES: [&str; 15] = [
    "access_logs::",
    "accuracy::",
    "apportion::",
    "bucket_world::",
    "due::",
    "enforce::",
    "histories::",
    "hold::",
    "ingest::",
    "inventory::",
    "moved::",
    "parts::",
    "race::",
    "settled::",
    "staged::",
];

/// Hundreds of statements by themselves: `tests/it/settled.rs` has the sums of the first over a
/// server, and the other months and orders of the same suite those of the others.
const TOO_LONG: [&str; 3] = [
    "settled::measured_usage_decides_as_if_it_were_billed",
    "bucket_world::early_ends_are_off_by_what_the_world_says",
    "bucket_world::order_and_repetition_of_files_change_nothing",
];

#[test]
fn every_suite_of_the_jobs_runs_over_a_server() {
    run_over_a_server(&SUITES, &TOO_LONG);
}
