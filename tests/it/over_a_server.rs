//! Stories once more, over the test server with round trips of 20 ms: in a process of its own, in
//! which every workspace puts the server in front of its file.

use testkit::suite_database::run_over_a_server;

const SUITES: [&str; 13] = [
    "billing::",
    "bucket_kill::",
    "changes::",
    "conservation::",
    "customers::",
    "entitlements::",
    "erased::",
    "meters::",
    "notifications::",
    "operator::",
    "plans::",
    "stories::",
    "stripe_items::",
];
/// What they expect is so with a file only.
const ON_A_FILE: [&str; 12] = [
    // writes to the database's file
    "bucket_kill::a_kill_at_any_write_of_ingest_inventory_leaves_whole_days",
    "bucket_kill::a_kill_at_any_write_of_ingest_access_logs_leaves_whole_days",
    // copies the database's file
    "erased::a_killed_erasure_is_whole_or_did_nothing",
    // reports and output without a cost of requests
    "notifications::notifications_arrive_signed_and_once",
    // a file that is restored
    "notifications::what_the_lost_books_knew_is_not_sent_by_restored_ones",
    // figures of a server are read each minute
    "operator::a_finding_is_a_message_when_it_begins_and_when_it_ends_and_workers_send_it_once",
    "plans::a_dry_run_of_a_push_ends_as_the_push_would_and_says_who_has_no_invoice",
    // `config check` reads stored plans without a connection
    "plans::a_price_that_is_reported_to_nobody_is_named_and_opens_no_overage",
    "plans::a_stored_price_of_turn_counts_as_none",
    // what is said of a file that is not there, or is made
    "stories::a_dry_run_writes_nothing_and_says_what_it_would",
    "stories::a_kept_demo_can_be_looked_around_in",
    "stories::usage_is_shown_by_customer_and_by_day",
];
/// A killed worker leaves its transaction open for 5 seconds here, and this kills dozens.
const TOO_LONG: &str = "entitlements::kill_9_at_any_moment_of_both_jobs_loses_and_doubles_nothing";

#[test]
fn every_story_runs_over_a_server() {
    let skipped: Vec<&str> = ON_A_FILE.into_iter().chain([TOO_LONG]).collect();
    run_over_a_server(&SUITES, &skipped);
}
