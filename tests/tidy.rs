//! The laws of ARCHITECTURE.md that a machine can see.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use meter::config::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder that end so, but for what is built.
fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(name.as_str(), "target" | ".git" | "venv") {
                folders.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} below {}", below.display());
    found
}

fn dependencies(manifest: &str) -> Vec<String> {
    let table: toml::Table = toml::from_str(&read(&root().join(manifest))).unwrap();
    table["dependencies"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn the_work_knows_no_machine() {
    for name in dependencies("jobs/Cargo.toml") {
        let banned = [
            "apalis",
            "clap",
            "axum",
            "hyper",
            "prometheus",
            "metrics",
            "meter",
            "bills",
            "indicatif",
            "figment",
            "toml",
        ];
        assert!(!banned.iter().any(|b| name.starts_with(b)), "jobs depends on {name}: law 1");
    }
    assert!(!dependencies("bills/Cargo.toml").iter().any(|n| n == "jobs"), "the generator shares code with the reader");
}

#[test]
fn books_import_no_job_and_jobs_no_other_job() {
    for path in files(&root().join("jobs/books"), ".rs") {
        assert!(!read(&path).contains("crate::ingest_"), "{} knows a job: law 2", path.display());
    }
    let kinds = ["ingest_cur", "reset_turn", "enforce_budgets", "push_stripe"];
    for own in kinds.iter().filter(|k| root().join("jobs").join(k).exists()) {
        for path in files(&root().join("jobs").join(own), ".rs") {
            let text = read(&path);
            let other = kinds.iter().find(|k| k != &own && text.contains(&format!("crate::{k}")));
            assert!(other.is_none(), "{} calls {other:?}: law 2", path.display());
        }
    }
}

#[test]
fn floats_come_in_at_one_door_only() {
    let doors: Vec<_> = files(&root().join("jobs"), ".rs")
        .into_iter()
        .filter(|p| read(p).contains("clippy::float_arithmetic") || read(p).contains("clippy::as_conversions"))
        .collect();
    assert_eq!(doors, [root().join("jobs/ingest_cur/columns.rs")], "law 4");
}

#[test]
fn files_stay_readable() {
    for folder in ["src", "jobs", "bills", "fakestripe", "tests", "benches"] {
        for path in files(&root().join(folder), ".rs") {
            let text = read(&path);
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines", path.display());
            assert!(text.starts_with("//!"), "{} does not say what it is for", path.display());
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(
                !["utils", "common", "helpers", "misc"].contains(&name.as_str()),
                "{}: a name that says nothing",
                path.display()
            );
            let ignored = format!("#[{}", "ignore");
            assert!(!text.contains(&ignored), "{} has a test that does not run", path.display());
        }
    }
}

#[test]
fn every_exception_to_a_lint_has_a_reason() {
    for path in files(root(), ".rs") {
        let text = read(&path);
        for (i, _) in text.match_indices("allow(").chain(text.match_indices("expect(")) {
            let before = text[..i].trim_end_matches(['!', '[']);
            if !before.ends_with('#') {
                continue;
            }
            let attribute = text[i..].split(']').next().unwrap();
            assert!(attribute.contains("reason"), "{}: {attribute}", path.display());
        }
    }
}

#[test]
fn migrations_are_numbered_and_say_why() {
    let mut found = files(&root().join("migrations"), ".sql");
    found.sort();
    for (i, path) in found.iter().enumerate() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with(&format!("{:04}_", i + 1)), "{name} is not number {}", i + 1);
        assert!(read(path).starts_with("-- "), "{name} does not say what it is for");
    }
    assert_eq!(i64::try_from(found.len()).unwrap(), jobs::books::newest_schema_version(), "a migration is not listed");
}

#[test]
fn the_readme_explains_every_key_of_the_configuration() {
    let readme = read(&root().join("README.md"));
    let toml = toml::to_string(&Config::default()).unwrap();
    let table: toml::Table = toml::from_str(&toml).unwrap();
    let mut missing = vec![];
    let mut stack: Vec<(String, toml::Value)> = table.into_iter().collect();
    while let Some((key, value)) = stack.pop() {
        match value {
            toml::Value::Table(below) => stack.extend(below.into_iter().map(|(k, v)| (format!("{key}.{k}"), v))),
            toml::Value::Array(list) if list.first().is_some_and(toml::Value::is_table) => {
                let first = list.into_iter().next().unwrap();
                stack.extend(first.as_table().unwrap().clone().into_iter().map(|(k, v)| (format!("{key}[].{k}"), v)));
            }
            _ if readme.contains(&format!("`{key}`")) => {}
            _ => missing.push(key),
        }
    }
    for key in [
        "exports[].name",
        "exports[].location",
        "exports[].format",
        "exports[].payer",
        "exports[].region",
        "exports[].endpoint",
        "guard.day_change_percent",
        "METER_DATABASE__TOKEN",
    ] {
        if !readme.contains(&format!("`{key}`")) {
            missing.push(key.into());
        }
    }
    assert!(missing.is_empty(), "README.md does not explain {missing:?}");
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
    for ending in [".md", ".toml", ".sql", ".txt", "run"] {
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
