//! The tests of the package `meter`, in one binary: each module is a subject.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

#[macro_use]
mod support;

mod accuracy;
mod backup;
mod billing;
mod billing_books;
mod billing_kill;
mod bills;
mod bombs;
mod browser;
mod bucket_kill;
mod changes;
mod chaos;
mod cli_status;
mod client;
mod commands;
mod conformance;
mod connection_errors;
mod conservation;
mod contract;
mod copy;
mod customers;
mod disk;
mod entitlements;
mod erased;
mod explain;
mod faults;
mod fetch;
mod forecast;
mod freshness;
mod hold;
mod hostile_text;
mod house;
mod hrana_server;
mod init;
mod kill;
mod known_customers;
mod large_booking;
mod machine_input;
mod margin;
mod measurements;
mod messages;

mod meters;
mod mistakes;
mod months;
mod notifications;
mod operator;
mod oracle;
mod over_a_server;
mod payloads;
mod plans;
mod price_list;
mod prometheus;
mod quota;
mod reach;
mod release;
mod restore;
mod round_trips;
mod rules;
mod s3;
mod serve;
mod settled;
mod shared_bucket;
mod simulate;
mod slow_readers;
mod stories;
mod stripe_items;
mod terminal;
mod tidy;
mod traffic;
mod unattributed;
mod work;
