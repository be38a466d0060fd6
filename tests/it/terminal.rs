//! What a person sees: in a terminal of 80, 100 and 160 columns, and in a pipe.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use testkit::needs::tool;

use crate::support::served::{billed_month, demo};
use crate::support::{Ran, Workspace, meter, output};

/// Commands that print tables, lists and sentences. `{customer}` is one of the demo's.
const COMMANDS: [&str; 30] = [
    "usage",
    "usage {customer}",
    "measured",
    "accuracy",
    "shared",
    "bill",
    "bill {customer}",
    "margin",
    "margin {customer}",
    "forecast",
    "forecast {customer}",
    "forecast --backtest",
    "explain {customer}",
    "versions",
    "discover",
    "customer list",
    "customer show {customer}",
    "plan list",
    "budget show {customer}",
    "budget history {customer}",
    "status",
    "doctor",
    "entitlements",
    "explain-entitlement {customer} chime_minutes",
    "turn",
    "notifications list",
    "events list",
    "reconcile",
    "jobs list",
    "schedule",
];

/// Runs a command in a terminal of that many columns.
fn in_terminal(folder: &Path, line: &str, columns: usize, variables: &[(&str, &str)]) -> String {
    let exe = env!("CARGO_BIN_EXE_meter");
    let mut command = Command::new("script");
    command.current_dir(folder).env_clear().envs(meter(folder).get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.env("TERM", "xterm").env("PAGER", "").envs(variables.iter().copied());
    command.args(["-qec", &format!("stty cols {columns} rows 50; {exe} {line} 2>/dev/null"), "/dev/null"]);
    Ran::from(output(&mut command)).out.replace('\r', "")
}

fn customer(folder: &Path) -> String {
    let query = "SELECT customer FROM billing_targets WHERE billable > 0 ORDER BY billable DESC LIMIT 1";
    crate::support::query(&folder.join("meter.db"), query).remove(0)
}

#[test]
fn a_command_of_more_than_a_second_shows_that_it_goes_on() {
    if !tool("script") {
        return;
    }
    let place = Workspace::new();
    place.run("migrate").ends(0);
    let seen = |line: &str| {
        let mut command = Command::new("script");
        command
            .current_dir(place.folder.path())
            .envs(meter(place.folder.path()).get_envs().filter_map(|(k, v)| Some((k, v?))));
        command.args(["-qec", &format!("{} {line}", env!("CARGO_BIN_EXE_meter")), "/dev/null"]).env("TERM", "xterm");
        Ran::from(output(&mut command)).out
    };
    let long = seen("run probe name=a millis=2500");
    assert!(long.contains("meter run probe name=a millis=2500 1s"), "{long:?}");
    // it is gone when there is something to read
    let (before, after) = long.split_once("probe: ").unwrap();
    assert!(before.contains("1s") && !after.contains("meter run"), "{long:?}");
    assert!(!seen("run probe name=b").contains("meter run"));
}

#[test]
fn nothing_breaks_at_the_edge_of_a_terminal() {
    if !tool("script") {
        return;
    }
    let (_folder, kept) = demo();
    let customer = customer(&kept);
    for line in COMMANDS {
        let line = line.replace("{customer}", &customer);
        let mut command = meter(&kept);
        let piped = Ran::from(output(command.args(line.split_whitespace())));
        let words: BTreeSet<&str> = piped.out.split_whitespace().chain(piped.err.split_whitespace()).collect();
        for columns in [80, 100, 160] {
            let seen = in_terminal(&kept, &line, columns, &[("NO_COLOR", "1")]);
            assert!(!seen.trim().is_empty(), "{line}");
            let wide: Vec<&str> = seen.lines().filter(|line| line.chars().count() > columns).collect();
            assert!(wide.is_empty(), "`meter {line}` at {columns}:\n{}", wide.join("\n"));
            // a word of a column that breaks is the start or the end of a whole one; ages go on
            let fragment = |word: &&str| {
                let word = *word;
                let part =
                    |whole: &&str| whole.len() > word.len() && (whole.starts_with(word) || whole.ends_with(word));
                word.len() > 3
                    && word.contains(|c: char| c.is_ascii_digit())
                    && !words.contains(word)
                    && words.iter().any(part)
            };
            let broken: Vec<&str> = seen.split_whitespace().filter(fragment).collect();
            assert!(broken.is_empty(), "`meter {line}` at {columns}: {broken:?} is not in:\n{}\n{seen}", piped.out);
        }
    }
}

#[test]
fn wide_tables_are_whole_on_demand_and_say_what_they_leave_out() {
    if !tool("script") {
        return;
    }
    let (_folder, kept) = demo();
    let narrow = in_terminal(&kept, "forecast", 80, &[]);
    assert!(narrow.contains("(no room for: ") && narrow.contains("--wide shows them)"), "{narrow}");
    let whole = in_terminal(&kept, "--wide forecast", 80, &[]);
    assert!(!whole.contains("(no room for: ") && whole.contains("bill P90"), "{whole}");
}

#[test]
fn colours_are_for_terminals_and_can_be_had_or_not() {
    if !tool("script") {
        return;
    }
    let (_folder, kept) = demo();
    let red = "\u{1b}[1;";
    for (line, variables, coloured) in [
        ("doctor", &[][..], true),
        ("status", &[][..], true),
        ("verify", &[][..], true),
        ("verify", &[("NO_COLOR", "1")][..], false),
        ("verify", &[("NO_COLOR", "")][..], true),
        ("verify", &[("TERM", "dumb")][..], false),
        ("--color never verify", &[][..], false),
        ("--color always verify", &[("NO_COLOR", "1")][..], true),
    ] {
        let seen = in_terminal(&kept, line, 80, variables);
        assert_eq!(seen.contains(red), coloured, "{line} {variables:?}: {seen:?}");
    }
    for (line, coloured) in [("verify", false), ("--color always verify", true)] {
        let mut command = meter(&kept);
        let seen = Ran::from(output(command.args(line.split(' ')))).out;
        assert_eq!(seen.contains(red), coloured, "{line}: {seen:?}");
    }
    let mut command = meter(&kept);
    Ran::from(output(command.args(["--color", "sometimes", "verify"]))).ends(2).says(&["auto, always, never"]);
}

/// What is longer than a screen goes through the pager, and what a pager does not take is no error.
#[test]
fn a_pager_shows_what_is_read() {
    if !tool("script") {
        return;
    }
    let (_folder, kept) = demo();
    let usage = format!("usage --month {}", billed_month(&kept.join("meter.db")));
    let seen = in_terminal(&kept, &usage, 80, &[("PAGER", "sed s/^/paged:/")]);
    assert!(seen.lines().count() > 3 && seen.lines().all(|line| line.starts_with("paged:")), "{seen}");
    let seen = in_terminal(&kept, &usage, 80, &[("PAGER", "head -n 1")]);
    assert_eq!(seen.lines().count(), 1, "{seen}");
    let seen = in_terminal(&kept, &usage, 80, &[("PAGER", "no-such-pager")]);
    assert!(seen.lines().count() > 3, "{seen}");
    let seen = in_terminal(&kept, "migrate", 80, &[("PAGER", "sed s/^/paged:/")]);
    assert!(!seen.contains("paged:"), "{seen}");
}
