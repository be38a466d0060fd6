//! The tests of the package `jobs`, in one binary: each module is a subject.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

mod access_logs;
mod accuracy;
mod apportion;
mod bad_input;
mod bills;
mod bucket_bill;
mod bucket_world;
mod change_properties;
mod changes;
mod costs;
mod due;
mod enforce;
mod erased;
mod forecast;
mod forms;
mod histories;
mod hold;
mod implausible;
mod ingest;
mod intake;
mod inventory;
mod inventory_input;
mod lines;
mod moved;
mod operator;
mod over_a_server;
mod parts;
mod race;
mod readers;
mod real;
mod restore;
mod settled;
mod staged;
mod undivided;
mod uploads;
mod week;
mod year;
