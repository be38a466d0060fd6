//! The laws of ARCHITECTURE.md that a machine can see.

mod code;
mod prose;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meter::config::Config;
use meter::health::{ALERTS, Severity};
use meter::worker::Kinds;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder that end so, but for what is built.
pub(crate) fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "venv" | "node_modules" | "dist") {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} below {}", below.display());
    found
}

/// Keys that a configuration has only when somebody says so.
const OPTIONAL: [&str; 45] = [
    "database.rows_quota.read",
    "database.rows_quota.written",
    "tag_key",
    "tag_keys",
    "exports",
    "exports[].name",
    "exports[].location",
    "exports[].format",
    "exports[].payer",
    "exports[].region",
    "exports[].endpoint",
    "meters[].display_name",
    "cost_meters",
    "cost_meters[].name",
    "cost_meters[].cost_of",
    "cost_meters[].products",
    "cost_meters[].usage_types",
    "cost_meters[].line_types",
    "cost_meters[].amount_column",
    "guard.day_change_percent",
    "notifications.url",
    "operator.status_page",
    "shared_buckets[].name",
    "shared_buckets[].customer_key",
    "shared_buckets[].customer_pattern",
    "shared_buckets[].customer_parameter",
    "shared_buckets[].customer_uploads",
    "shared_buckets[].expire_days",
    "shared_buckets[].quiet_hours",
    "shared_buckets[].remainder",
    "shared_buckets[].floor_percent",
    "shared_buckets[].ceiling_percent",
    "shared_buckets[].band_percent",
    "shared_buckets[].inventory.location",
    "shared_buckets[].inventory.region",
    "shared_buckets[].inventory.endpoint",
    "shared_buckets[].access_logs.location",
    "shared_buckets[].access_logs.region",
    "shared_buckets[].access_logs.endpoint",
    "queue.max_concurrent",
    "stripe.meters.NAME",
    "stripe.meters.NAME.event_name",
    "stripe.meters.NAME.per_unit",
    "stripe.meters.NAME.display_name",
    "stripe.per_second",
];
/// Secrets, which only a variable can hold.
pub(crate) const SECRETS: [(&str, &str); 8] = [
    ("METER_DATABASE__TOKEN", "token"),
    ("METER_DATABASE__COPY_TOKEN", "token of a copy"),
    ("METER_NOTIFICATIONS__SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
    ("METER_STRIPE__KEY", "rk_live_of_nobody"),
    ("METER_HTTP__TOKEN", "sixteen or more characters"),
    ("METER_HTTP__STATEMENT_KEY", "sixteen or more of another key"),
    ("METER_OPERATOR__SLACK_URL", "https://hooks.slack.com/services/of/nobody"),
    ("METER_OPERATOR__WEBHOOK_URL", "https://example.com/hooks/of/nobody"),
];

/// The keys of the default configuration, with their values; lists of sections by their first
/// entry.
fn defaults() -> BTreeMap<String, toml::Value> {
    let table: toml::Table = toml::from_str(&toml::to_string(&Config::default()).unwrap()).unwrap();
    let mut found = BTreeMap::new();
    let mut stack: Vec<(String, toml::Value)> = table.into_iter().collect();
    while let Some((key, value)) = stack.pop() {
        match value {
            toml::Value::Table(below) => stack.extend(below.into_iter().map(|(k, v)| (format!("{key}.{k}"), v))),
            toml::Value::Array(list) if list.first().is_some_and(toml::Value::is_table) => {
                let first = list[0].as_table().unwrap().clone();
                stack.extend(first.into_iter().map(|(k, v)| (format!("{key}[].{k}"), v)));
                found.insert(key, toml::Value::Array(list));
            }
            value => drop(found.insert(key, value)),
        }
    }
    found
}

/// Key and default of each row of the tables of keys.
fn explained(page: &str) -> Vec<(String, String)> {
    let (mut rows, mut in_table) = (vec![], false);
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "key", "default", ..] => in_table = true,
            ["", key, default, _, ""] if in_table => {
                if let Some(key) = key.strip_prefix('`').and_then(|key| key.strip_suffix('`')) {
                    rows.push((key.to_owned(), default.to_owned()));
                }
            }
            _ => in_table = false,
        }
    }
    rows
}

#[test]
fn every_key_of_the_configuration_is_explained_and_no_other() {
    let rows = explained(&read(&root().join("docs/configuration.md")));
    let explained_keys: BTreeSet<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(explained_keys.len(), rows.len(), "docs/configuration.md explains a key twice");
    let defaults = defaults();
    let (secrets, optional) = (SECRETS.iter().map(|(name, _)| *name), OPTIONAL.iter().copied());
    let there: BTreeSet<&str> = defaults.keys().map(String::as_str).chain(optional).chain(secrets).collect();
    let missing: Vec<_> = there.difference(&explained_keys).collect();
    let invented: Vec<_> = explained_keys.difference(&there).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not explain {missing:?}");
    assert!(invented.is_empty(), "docs/configuration.md explains what there is not: {invented:?}");
}

#[test]
fn the_defaults_that_are_written_down_are_the_ones_that_hold() {
    let defaults = defaults();
    for (key, shown) in explained(&read(&root().join("docs/configuration.md"))) {
        // of the built-in meters and rules, each has its own
        let Some(value) = defaults.get(&key).filter(|_| !key.contains("[]") && !OPTIONAL.contains(&key.as_str()))
        else {
            continue;
        };
        let shown = shown.trim_matches('`');
        let same = match value {
            toml::Value::String(text) => shown == text,
            toml::Value::Array(list) if list.first().is_some_and(toml::Value::is_table) => true,
            value => toml::from_str::<toml::Table>(&format!("v = {shown}")).is_ok_and(|t| t["v"] == *value),
        };
        assert!(same, "docs/configuration.md says that `{key}` is {shown} by default, and it is {value}");
    }
}

#[test]
fn the_example_of_a_configuration_has_no_fault() {
    let page = read(&root().join("docs/configuration.md"));
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meter.toml");
    std::fs::write(&file, example).unwrap();
    let secrets = SECRETS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Config::load(Some(&file), secrets.into_iter()).unwrap();
}

/// An alert, as the rules have it.
struct Alert {
    name: String,
    severity: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let mut found: Vec<Alert> = vec![];
    for line in read(&root().join("dashboards/prometheus/rules/alerts.yml")).lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            found.push(Alert { name: name.to_owned(), severity: String::new(), runbook: String::new() });
        } else if let Some(severity) = line.strip_prefix("severity: ") {
            found.last_mut().unwrap().severity = severity.to_owned();
        } else if let Some(url) = line.strip_prefix("runbook_url: ") {
            found.last_mut().unwrap().runbook = url.to_owned();
        }
    }
    assert!(!found.is_empty(), "no alerts");
    found
}

#[test]
fn every_alert_has_a_section_in_the_runbook() {
    let runbook = read(&root().join("docs/operations.md"));
    let sections: BTreeMap<&str, &str> = runbook
        .split("\n### ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .filter(|(name, _)| name.starts_with("Meter"))
        .collect();
    let alerts = alerts();
    let names: BTreeSet<&str> = alerts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, sections.keys().copied().collect(), "alerts and sections of docs/operations.md");
    for Alert { name, severity, runbook } in &alerts {
        let end = format!("/runbook#{}", name.to_lowercase());
        assert!(runbook.ends_with(&end), "the link of {name} does not end with {end}: {runbook}");
        let said = match severity.as_str() {
            "critical" => "\n**Critical.**",
            "warning" => "\n**Warning.**",
            other => panic!("{name} has the severity {other}"),
        };
        assert!(sections[name.as_str()].starts_with(said), "docs/operations.md does not say {said} of {name}");
    }
}

#[test]
fn every_finding_is_an_alert_and_as_bad_as_it() {
    let alerts = alerts();
    for (name, severity) in ALERTS {
        let alert = alerts.iter().find(|a| a.name == name);
        let in_rules = alert.unwrap_or_else(|| panic!("alerts.yml has no {name}")).severity.as_str();
        let in_code = match severity {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
        };
        assert_eq!(in_rules, in_code, "{name}: severity as an alert, and as a finding");
    }
    // a finding that the table does not have would be critical
    let text = read(&root().join("src/health/checks.rs"));
    let text = text.split("#[cfg(test)]").next().unwrap();
    let named: BTreeSet<&str> = text.split("\"Meter").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let listed = ALERTS.iter().map(|(name, _)| name.strip_prefix("Meter").unwrap()).collect();
    assert_eq!(named, listed, "alerts that checks name, and the table ALERTS");
}

/// Why a command line of a document is none, if it is not: its first words are no command, no kind
/// of job, or a flag is unknown.
pub(crate) fn fault_of(line: &str) -> Option<String> {
    let mut command = meter::cli::command();
    command.build();
    let mut words = line.split_whitespace().map(|w| w.trim_matches(|c| "[](),;…".contains(c))).skip(1).peekable();
    while command.has_subcommands() {
        let Some(word) = words.next_if(|w| w.starts_with(|c: char| c.is_ascii_lowercase())) else { break };
        let Some(below) = command.find_subcommand(word).cloned() else { return Some(format!("there is no `{word}`")) };
        command = below;
    }
    if matches!(command.get_name(), "run" | "enqueue")
        && let Some(kind) = words.peek().filter(|w| w.starts_with(|c: char| c.is_ascii_lowercase()))
        && Kinds::all().get(&kind.replace('-', "_")).is_none()
    {
        return Some(format!("there is no kind of job `{kind}`"));
    }
    let unknown = words.filter_map(|w| w.strip_prefix("--")).map(|w| w.split('=').next().unwrap_or_default());
    let mut unknown = unknown.filter(|flag| !command.get_arguments().any(|arg| arg.get_long() == Some(*flag)));
    unknown.next().map(|flag| format!("there is no --{flag}"))
}

/// The command lines that a text names: in backticks, and in blocks of a shell.
pub(crate) fn commands(text: &str) -> Vec<String> {
    let (mut found, mut prose, mut fence) = (vec![], String::new(), None);
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language),
            (Some(_), Some(_)) => fence = None,
            (None, None) => prose.extend([line, "\n"]),
            (None, Some("sh")) if line.trim_start().starts_with("meter ") => {
                found.push(line.split(" #").next().unwrap().trim().to_owned());
            }
            (None, Some(_)) => {}
        }
    }
    found.extend(prose.split('`').skip(1).step_by(2).filter(|code| code.starts_with("meter ")).map(str::to_owned));
    found
}

const PAGES_WITH_COMMANDS: [&str; 12] = [
    "README.md",
    "CONTRIBUTING.md",
    "dashboards/README.md",
    "docs/configuration.md",
    "docs/customers.md",
    "docs/deployment.md",
    "docs/getting-started.md",
    "docs/metrics.md",
    "docs/operator-messages.md",
    "docs/shared-bucket.md",
    "docs/stripe.md",
    "docs/stripe-setup.md",
];

/// Files of the repository that a page names in backticks: with a folder, or an ending of a source.
fn paths(text: &str) -> Vec<String> {
    let prose = text.split("```").step_by(2).collect::<String>();
    let is_path = |code: &&str| {
        let plain = code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let folder = [
            "books/",
            "jobs/",
            "src/",
            "tests/",
            "testkit/",
            "fakes/",
            "migrations/",
            "docs/",
            "deploy/",
            "dashboards/",
            "clients/",
            ".ci/",
        ];
        plain && folder.iter().any(|start| code.starts_with(start))
    };
    prose.split('`').skip(1).step_by(2).filter(is_path).map(str::to_owned).collect()
}

#[test]
fn every_file_that_a_document_names_exists() {
    let (mut seen, mut faults) = (0, vec![]);
    for page in files(root(), ".md") {
        for path in paths(&read(&page)) {
            seen += 1;
            let there = root().join(&path).exists() || root().join(format!("{path}.rs")).exists();
            // made by CI or by the reader, or a placeholder
            let not_here = [".ci/venv", "deploy/meter.toml", "migrations/NNNN", "tests/it/payloads/KIND"];
            if !there && !not_here.iter().any(|start| path.starts_with(start)) {
                faults.push(format!("{}: {path}", page.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} paths were found");
    assert!(faults.is_empty(), "files that there are not: {faults:#?}");
}

#[test]
fn every_command_that_a_person_is_told_to_run_exists() {
    let runbook = read(&root().join("docs/operations.md"));
    let rules = read(&root().join("dashboards/prometheus/rules/alerts.yml"));
    let mut all = [commands(&runbook), commands(&rules)].concat();
    assert!(all.len() > 50, "only {} commands were found", all.len());
    for page in PAGES_WITH_COMMANDS {
        all.extend(commands(&read(&root().join(page))));
    }
    let mut faults = BTreeSet::new();
    for line in &all {
        // one of several, as a table writes them
        let line = line.split('|').next().unwrap();
        if let Some(fault) = fault_of(line) {
            faults.insert(format!("`{line}`: {fault}"));
        }
    }
    assert!(faults.is_empty(), "commands that there are not: {faults:#?}");
}

#[test]
fn every_table_and_view_is_explained_and_no_other() {
    // the table of applied migrations is made before the first of them
    let mut there = BTreeSet::from(["schema_versions".to_owned()]);
    let mut migrations = files(&root().join("migrations"), ".sql");
    migrations.sort();
    for path in migrations {
        for line in read(&path).lines() {
            if let Some(gone) = ["DROP TABLE ", "DROP VIEW "].iter().find_map(|start| line.strip_prefix(start)) {
                there.remove(gone.trim_end_matches(';'));
            }
            let name = ["CREATE TABLE ", "CREATE VIEW "].iter().find_map(|start| line.strip_prefix(start));
            there.extend(name.and_then(|rest| rest.split([' ', '(']).next()).map(str::to_owned));
        }
    }
    assert!(there.len() > 30, "{there:?}");
    let page = read(&root().join("docs/database.md"));
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.map(str::to_owned).collect::<BTreeSet<_>>(), there);
}

#[test]
fn ci_runs_the_test_command_of_the_readme() {
    let (readme, ci) = (read(&root().join("README.md")), read(&root().join(".ci/run")));
    let command = "cargo test --workspace";
    assert!(readme.lines().any(|l| l.trim() == command), "README.md does not name `{command}`");
    assert!(ci.lines().any(|l| l.trim() == command), ".ci/run does not run `{command}`");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        read(&root().join("CHANGELOG.md")).contains(&format!("[{version}]")),
        "CHANGELOG.md does not know {version}"
    );
}

#[test]
fn project_text_speaks_of_the_project_alone() {
    let mut all = files(root(), ".rs");
    for ending in [
        ".md",
        ".toml",
        ".sql",
        ".txt",
        ".css",
        ".json",
        ".yml",
        ".yaml",
        ".mjs",
        ".service",
        ".example",
        ".csv",
        "Dockerfile",
        "run",
    ] {
        all.extend(files(root(), ending));
    }
    for path in all {
        let text = read(&path);
        // put together so that this file does not break its own law
        let machine = ["/wo", "rk/"].concat();
        let home = ["/ro", "ot/"].concat();
        for word in [machine, home] {
            assert!(!text.contains(&word), "{} names a path of a machine: {word}", path.display());
        }
    }
}
