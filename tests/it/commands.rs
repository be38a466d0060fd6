//! `docs/commands.md` is made from the command line's own definition, so that it cannot differ from
//! it.

use std::fmt::Write;
use std::time::Duration;

use clap::{Arg, Command};
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
    // the first line has no full stop, and the others are a text of their own
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let parts = about.split("\n\n").map(|part| sentence(Some(part)));
    let about = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
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
    let mut command = meter::cli::command();
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
    page.push_str(&wrapped(
        "`--json` prints one document on standard output, whatever happens: a command that fails prints its own, or \
         `{\"error\": {\"message\": …, \"exit_code\": …}}`, and the message on standard error as ever. `json.md` has the rules, and `meter \
         schema` prints the JSON Schema of each document.",
    ));
    page.push_str("These arguments go with every command:\n\n");
    table(&mut page, &arguments(&command, true));
    for below in command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set()) {
        section(&mut page, &format!("meter {}", below.get_name()), below);
    }
    page.trim_end().to_owned() + "\n"
}

/// The commands that do something, by their path: `customer add`.
fn leaves(command: &Command, path: &str, into: &mut Vec<(String, Command)>) {
    for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let path = format!("{path} {}", below.get_name()).trim().to_owned();
        if !below.has_subcommands() || !below.is_subcommand_required_set() {
            into.push((path.clone(), below.clone()));
        }
        leaves(below, &path, into);
    }
}

#[test]
fn every_command_is_in_one_group_and_fits_on_its_line() {
    let command = meter::cli::command();
    let all: Vec<&str> = command.get_subcommands().map(Command::get_name).filter(|n| *n != "help").collect();
    let mut grouped: Vec<&str> = meter::cli::GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
    for name in &all {
        assert_eq!(grouped.iter().filter(|n| *n == name).count(), 1, "`{name}` is in one group of src/cli/help.rs");
    }
    grouped.retain(|name| !all.contains(name));
    assert!(grouped.is_empty(), "no commands: {grouped:?}");
    let place = Workspace::new();
    for line in ["--help", "-h"] {
        let help = place.run_with(line, &[("COLUMNS", "80")]).ends(0).out;
        for (heading, _) in meter::cli::GROUPS {
            assert!(help.contains(&format!("\n{heading}:\n")), "{help}");
        }
        let wide: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }
    let long = place.run("--help").ends(0).out;
    for (code, meaning) in meter::cli::EXIT_TABLE {
        let words: Vec<&str> = long.split_whitespace().collect();
        let meaning: Vec<&str> = meaning.split_whitespace().collect();
        assert!(
            long.contains(&format!("\n{code:>5}  ")) && words.windows(meaning.len()).any(|w| w == meaning),
            "{long}"
        );
    }
}

/// Examples are read, and tried: each parses.
#[test]
fn every_command_has_examples_that_it_takes() {
    let mut found = vec![];
    leaves(&meter::cli::command(), "", &mut found);
    for (path, _) in &found {
        let of: Vec<_> = meter::cli::EXAMPLES.iter().filter(|(of, _)| of == path).collect();
        assert_eq!(of.len(), 1, "`meter {path}` has examples in src/cli/help.rs");
    }
    let place = Workspace::new();
    for (path, examples) in meter::cli::EXAMPLES {
        assert!(found.iter().any(|(of, _)| of == path), "there is no `meter {path}`");
        let help = place.run_with(&format!("{path} --help"), &[("COLUMNS", "80")]).ends(0).out;
        for (what, line) in *examples {
            assert!(help.contains(&format!("  # {what}\n  {line}\n")), "{help}");
            assert!(line.chars().count() <= 78, "{line}");
            let alone = line.trim_start_matches("source <(").split([')', '>']).next().unwrap();
            let mut words = vec![];
            for (i, quoted) in alone.split('\'').enumerate() {
                match i % 2 {
                    0 => words.extend(quoted.split_whitespace().map(str::to_owned)),
                    _ => words.push(quoted.to_owned()),
                }
            }
            let parsed = meter::cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            assert!(line.contains(&format!("meter {path}")), "{line}");
        }
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let place = Workspace::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(&format!("completions {shell}")).ends(0).out;
        for name in ["explain-entitlement", "import-totals", "--lookback"] {
            assert_eq!(script.contains(name), name != "--lookback", "{shell}: {name}");
        }
    }
    let script = place.run("completions bash").ends(0).out;
    std::fs::write(place.path("meter.bash"), script).unwrap();
    let mut bash = std::process::Command::new("bash");
    bash.args([
        "-c",
        "source meter.bash && COMP_WORDS=(meter cust) COMP_CWORD=1 && _meter meter cust meter && echo ${COMPREPLY[*]}",
    ])
    .current_dir(place.folder.path());
    let checked = crate::support::output(&mut bash);
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "customer\n", "{checked:?}");
    place.run("completions tcsh").ends(2).says(&["bash"]);
    let page = place.run("man").ends(0).out;
    assert!(page.contains(".TH meter 1") && page.contains("explain\\-entitlement"), "{page}");
    place.run("man pages").ends(0).says(&["pages/meter.1"]);
    for file in ["meter.1", "meter-customer-add.1", "meter-restore-import-totals.1"] {
        assert!(place.path("pages").join(file).exists(), "{file}");
    }
    std::fs::write(place.path("taken"), "").unwrap();
    place.run("man taken").ends(2).says(&["taken cannot be written"]);
    // they need no configuration
    std::fs::write(place.path("meter.toml"), "nonsense = 1\n").unwrap();
    place.run("completions bash").ends(0);
    place.run("man").ends(0);
}

/// A script that reads JSON gets one document, also when the command fails.
#[test]
fn errors_are_json_where_json_is_asked_for() {
    let place = Workspace::new();
    for (line, code, message) in [
        ("usage --json", 1, "there are no books"),
        ("usage --json --mnth 2026-10", 2, "unexpected argument '--mnth'"),
        ("usage --json --month october", 2, "`october` is no month"),
        ("jobs list --json --kind nothing", 2, "there is no kind of job"),
    ] {
        if line.starts_with("jobs") {
            place.run("migrate").ends(0);
        }
        let ran = place.run(line).ends(code);
        let found = ran.json();
        assert!(found["error"]["message"].as_str().unwrap().contains(message), "{line}: {found}");
        assert_eq!(found["error"]["exit_code"], code, "{line}");
        assert!(ran.err.contains(message), "{line}: a person reads it as before: {}", ran.err);
    }
    assert_eq!(place.run("usage --month october").ends(2).out, "");
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
