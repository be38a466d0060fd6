//! `docs/commands.md` is made from the command line's own definition, so that it cannot differ from
//! it.

use std::fmt::Write;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};
use nix::sys::signal::Signal;

use crate::support::Workspace;
use crate::support::served::Served;
use crate::tidy::{read, root};

/// Set, the test writes the page instead of comparing it.
const WRITE: &str = "METER_TEST_WRITE_DOCS";

fn sentence(text: Option<impl ToString>) -> String {
    let text = text.map(|text| text.to_string()).unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() || text.ends_with('.') { text } else { text + "." }
}

/// How an argument is written: `--month <YYYY-MM>`, `[CUSTOMER]`.
fn written(arg: &Arg) -> String {
    let takes = arg.get_action().takes_values();
    let many = if takes && arg.get_num_args().is_some_and(|n| n.max_values() > 1) { "…" } else { "" };
    let names = arg.get_value_names().unwrap_or_default();
    let bracketed = |open: char, close: char| {
        let values: Vec<String> = names.iter().map(|name| format!("{open}{name}{close}")).collect();
        if takes { values.join(" ") + many } else { String::new() }
    };
    let value = bracketed('<', '>');
    match (arg.get_long(), value.is_empty()) {
        (Some(long), true) => format!("--{long}"),
        (Some(long), false) => format!("--{long} {value}"),
        (None, _) if arg.is_required_set() => value,
        (None, _) => bracketed('[', ']'),
    }
}

fn meaning(arg: &Arg) -> String {
    let mut text = sentence(arg.get_help()).replace('|', "\\|");
    let values: Vec<String> = arg.get_possible_values().iter().map(|v| format!("`{}`", v.get_name())).collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        let _ = write!(text, " One of {}.", values.join(", "));
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(text, " Default: {}.", defaults.join(", "));
    }
    text
}

fn arguments(command: &Command, global: bool) -> Vec<&Arg> {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(shown).filter(|arg| arg.is_global_set() == global).collect()
}

fn table(page: &mut String, arguments: &[&Arg]) {
    if arguments.is_empty() {
        return;
    }
    page.push_str("| argument | meaning |\n|---|---|\n");
    for arg in arguments {
        let _ = writeln!(page, "| `{}` | {} |", written(arg), meaning(arg));
    }
    page.push('\n');
}

fn section(page: &mut String, name: &str, command: &Command) {
    let own = arguments(command, false);
    let _ = writeln!(page, "## {name}\n");
    let about = sentence(command.get_long_about().or_else(|| command.get_about()));
    page.push_str(&wrapped(&about));
    table(page, &own);
    for below in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        section(page, &format!("{name} {}", below.get_name()), below);
    }
}

/// A paragraph of lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let (mut out, mut line) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > 100 {
            out.push('\n');
            line = 0;
        }
        if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += length;
    }
    if out.is_empty() { out } else { out + "\n\n" }
}

fn page() -> String {
    let mut command = meter::cli::Cli::command();
    command.build();
    let mut page = String::from("# Commands\n\n");
    page.push_str(&wrapped(
        "Made from the command line's own definition: `METER_TEST_WRITE_DOCS=1 cargo test -p meter --test it commands` \
         writes this page, and a test compares it. `meter COMMAND --help` says the same.",
    ));
    page.push_str("| exit code | meaning |\n|---|---|\n");
    for (code, meaning) in meter::cli::EXIT_TABLE {
        let _ = writeln!(page, "| {code} | {meaning} |");
    }
    page.push('\n');
    page.push_str("These arguments go with every command:\n\n");
    table(&mut page, &arguments(&command, true));
    for below in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        section(&mut page, &format!("meter {}", below.get_name()), below);
    }
    page.trim_end().to_owned() + "\n"
}

#[test]
fn who_waits_for_a_job_that_no_worker_runs_is_not_left_waiting() {
    let place = Workspace::new();
    let ran = place.run("enqueue probe name=alone --wait --timeout 1").ends(1);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].contains("no worker is running; start one with `meter work`"), "{}", ran.err);
    assert!(lines[1].contains("waited 1 s, and no worker is running; the jobs stay in the queue"), "{}", ran.err);
    assert_eq!(place.query("SELECT state FROM jobs"), ["pending"]);
}

/// Each code of the table, from the binary.
#[test]
fn the_table_of_exit_codes_is_what_commands_end_with() {
    let place = Workspace::new();
    place.run("usage").ends(1);
    place.run("migrate").ends(0);
    place.run("ingest --nonsense").ends(2);
    place.run("usage nobody").ends(2);
    place.run("verify").ends(0);
    place.run("status").ends(3);
    std::fs::write(place.path("bad.toml"), "nonsense = 1\n").unwrap();
    place.run("--config bad.toml usage").ends(2);
    place.run("enqueue probe name=long millis=60000").ends(0);
    let worker = Served::start(place.folder.path(), "--no-schedule", &[]);
    worker.until("/metrics", |a| a.body.contains("meter_jobs{kind=\"probe\",state=\"running\"} 1"));
    worker.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(worker.stop(), 130);
    let codes = meter::cli::EXIT_TABLE.map(|(code, _)| code);
    assert_eq!(codes, [0, 1, 2, 3, 130], "each is seen above");
}

#[test]
fn the_page_of_commands_is_the_command_line() {
    let file = root().join("docs/commands.md");
    let page = page();
    assert!(page.contains("## meter ingest\n") && page.contains("`--dry-run`"), "{page}");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(read(&file) == page, "docs/commands.md is not what the command line says; set {WRITE}=1 to write it");
}
