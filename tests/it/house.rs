//! The house: imports that never go up, no circles between files, and words that are no longer
//! said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tidy::{files, read, root};

/// The floors of a package, the lowest first: a file imports only from its own floor and those
/// below.
const FLOORS: [(&str, &[&str]); 2] = [("books", BOOKS), ("src", SRC)];
const BOOKS: &[&str] =
    &["units", "store", "measured", "shared_bucket", "limits", "customers", "usage", "stripe", "forecast", "audit"];
const SRC: &[&str] = &[
    "exit",
    "format",
    "report_sentence",
    "visible",
    "wording",
    "tls",
    "config",
    "price_list",
    "queue",
    "wiring",
    "plan_file",
    "statement",
    "margin",
    "statement_link",
    "health",
    "metrics",
    "worker",
    "ui",
    "http",
    "print",
    "demo",
    "cli",
];
/// Packages without circles. Fakes are no example.
const PACKAGES: [&str; 4] = ["books", "jobs", "src", "testkit"];

/// A module: the names that lead to it from the root of its crate.
type Module = Vec<String>;

/// A path in a `use` or in an expression, from the root of its crate.
struct Import {
    path: Module,
    /// `pub use`: the file gives the name on.
    exported: bool,
}

/// The code of a file without its tests and comments.
fn code(path: &Path) -> String {
    let text = read(path);
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The modules of a package and their files.
fn modules(package: &str) -> BTreeMap<Module, PathBuf> {
    let base = root().join(package);
    let mut found = BTreeMap::new();
    for file in files(&base, ".rs") {
        let inner = file.strip_prefix(&base).unwrap();
        let mut names: Module = inner.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let name = names.pop().unwrap();
        if names.iter().any(|name| name == "tests" || name == "it") || matches!(name.as_str(), "tests.rs" | "main.rs") {
            continue;
        }
        let stem = name.trim_end_matches(".rs");
        if !matches!(stem, "mod" | "lib") {
            names.push(stem.to_owned());
        }
        found.insert(names, file);
    }
    found
}

/// Takes apart one path with its groups, `a::{b, c::d}`, that begins at `at`; returns where it
/// ends.
fn paths(text: &[u8], mut at: usize, prefix: &[String], found: &mut Vec<Module>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        while text.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if text.get(at) == Some(&b'{') {
            at += 1;
            loop {
                while text.get(at).is_some_and(|c| c.is_ascii_whitespace() || *c == b',') {
                    at += 1;
                }
                if matches!(text.get(at), None | Some(b'}')) {
                    return at + 1;
                }
                let end = paths(text, at, &path, found);
                if end == at {
                    return at;
                }
                at = end;
            }
        }
        let start = at;
        while text.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == b'_' || *c == b'*') {
            at += 1;
        }
        if at == start {
            return at;
        }
        path.push(String::from_utf8_lossy(&text[start..at]).into_owned());
        if text[at..].starts_with(b"::") {
            at += 2;
            if text.get(at) != Some(&b'<') {
                continue;
            }
        }
        found.push(path);
        return at;
    }
}

/// What a file imports from its own crate.
fn imports(module: &Module, children: &BTreeSet<String>, text: &str) -> Vec<Import> {
    let mut found = vec![];
    let bytes = text.as_bytes();
    let mut take = |at: usize, exported: bool| {
        let mut taken = vec![];
        paths(bytes, at, &[], &mut taken);
        for names in taken {
            let mut names = names.into_iter().filter(|name| name != "self").peekable();
            let mut path = match names.peek().map(String::as_str) {
                Some("crate") => vec![],
                _ => module.clone(),
            };
            names.next_if(|name| name == "crate");
            while names.next_if(|name| name == "super").is_some() {
                path.pop();
            }
            path.extend(names);
            found.push(Import { path, exported });
        }
    };
    let line_of = |at: usize| text[..at].rfind('\n').map_or(0, |n| n + 1);
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = text[line_of(at)..at].trim_start();
            take(at, line.starts_with("pub") && line.trim_end().ends_with("use"));
        }
    }
    // `use child::Name` in the file that declares `mod child`
    for (at, _) in text.match_indices("use ") {
        let line = text[line_of(at)..at].trim_start();
        if (line.is_empty() || line.starts_with("pub"))
            && let Some(first) = text[at + 4..].split("::").next()
            && children.contains(first)
        {
            take(at + 4, line.starts_with("pub"));
        }
    }
    found
}

/// Which file imports which; a name that a folder's `mod.rs` gives on leads to the file that has
/// it.
fn graph(package: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules = modules(package);
    let mut all: BTreeMap<&Module, Vec<Import>> = BTreeMap::new();
    for (module, file) in &modules {
        let below = modules.keys().filter(|m| m.len() == module.len() + 1 && m.starts_with(module));
        let children = below.map(|m| m[module.len()].clone()).collect();
        all.insert(module, imports(module, &children, &code(file)));
    }
    let resolve = |path: &Module| {
        let mut path = path.clone();
        for _ in 0..8 {
            let n = (0..=path.len()).rev().find(|n| modules.contains_key(&path[..*n]))?;
            let (module, rest) = (path[..n].to_vec(), path[n..].to_vec());
            let Some(name) = rest.first() else { return Some(module) };
            let given_on = all[&module].iter().find(|i| i.exported && i.path.last() == Some(name) && i.path != path);
            let Some(import) = given_on else { return Some(module) };
            path = [&import.path[..], &rest[1..]].concat();
        }
        None
    };
    let mut found = BTreeMap::new();
    for (module, imports) in &all {
        let targets = imports.iter().filter(|i| !(i.exported && i.path.starts_with(module)));
        let targets = targets.filter_map(|i| resolve(&i.path)).filter(|target| target != *module);
        found.insert((*module).clone(), targets.collect());
    }
    found
}

#[test]
fn imports_never_go_up() {
    let mut faults = vec![];
    for (package, floors) in FLOORS {
        let graph = graph(package);
        let floor = |module: &Module| floors.iter().position(|name| module.first().is_some_and(|m| m == name));
        let unknown: Vec<_> = graph.keys().filter(|m| !m.is_empty() && floor(m).is_none()).collect();
        assert!(unknown.is_empty(), "{package}: no floor is known of {unknown:?}");
        for (from, targets) in &graph {
            let own = if from.is_empty() { usize::MAX } else { floor(from).unwrap() };
            for to in targets.iter().filter(|to| !to.is_empty()) {
                if floor(to).unwrap() > own {
                    faults.push(format!("{package}: {} imports {}", from.join("::"), to.join("::")));
                }
            }
        }
    }
    assert!(faults.is_empty(), "imports that go up:\n{}", faults.join("\n"));
}

/// All files that can be reached from one.
fn reach<'a>(graph: &'a BTreeMap<Module, BTreeSet<Module>>, start: &'a Module) -> BTreeSet<&'a Module> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
    while let Some(module) = open.pop() {
        open.extend(graph[module].iter().filter(|next| seen.insert(*next)));
    }
    seen
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let mut faults = vec![];
    for package in PACKAGES {
        let graph = graph(package);
        let edges: usize = graph.values().map(BTreeSet::len).sum();
        assert!(edges > graph.len(), "{package}: {edges} imports were found between {} files", graph.len());
        for module in graph.keys() {
            if reach(&graph, module).contains(module) {
                faults.push(format!("{package}: {}", module.join("::")));
            }
        }
    }
    assert!(faults.is_empty(), "files in circles:\n{}", faults.join("\n"));
}

/// Words of before the move, and what is said now.
const OLD_WORDS: [(&str, &str); 46] = [
    ("intent", "meter event"),
    ("intents", "meter events"),
    ("doubtful", "unconfirmed"),
    ("in_doubt", "maybe_applied"),
    ("adopt", "import"),
    ("adopted", "imported"),
    ("stripe_intents", "meter_events"),
    ("stripe_totals", "billing_targets"),
    ("stripe_state", "settings"),
    ("held_because", "deferred_reason, hold_reason"),
    ("held_since", "deferred_since"),
    ("reset_turn", "roll_periods"),
    ("reset-turn", "roll-periods"),
    ("deliver_notices", "deliver_notifications"),
    ("notices", "notifications"),
    ("redeliver", "retry"),
    ("told_up_to", "usage_through"),
    ("strangers", "unknown_customers"),
    ("stray_lines", "out_of_month_lines"),
    ("contested", "overlapping"),
    ("keeper", "dispatcher"),
    ("lapsed", "expired"),
    ("unstick", "requeue_stuck"),
    ("bring_forward", "expedite"),
    ("patiently", "with_retry"),
    ("Observer", "StatsCollector"),
    ("Standing", "Overview, Stats"),
    ("Told", "SubscriptionUpdate, RecordMetrics"),
    ("Ground", "RunInputs, TestStore"),
    ("Lens", "ReadSettings"),
    ("Fold", "UsageAggregator"),
    ("needs_a_person", "needs_attention"),
    ("AT_ONCE", "MAX_CONCURRENT"),
    ("ABOUT", "DESCRIPTION"),
    ("fakestripe", "fake_stripe"),
    ("Doomed", "KillableWorker"),
    ("Shop", "BillingFixture"),
    ("shop", "fixture"),
    ("ground", "store, run inputs"),
    ("told", "reported, asked, notified"),
    ("doubt", "unconfirmed, maybe_applied"),
    ("lapse", "expire"),
    ("beats", "heartbeats"),
    ("strange", "foreign"),
    ("standing", "overview, stats"),
    ("matched_rows", "counted_rows"),
];

/// Whether `word` stands in `text` by itself.
fn says(text: &str, word: &str) -> Option<usize> {
    let inner = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).find_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let alone = !before.ends_with(inner) && !after.starts_with(inner);
        alone.then(|| before.lines().count().max(1))
    })
}

#[test]
fn old_words_are_not_said() {
    let mut faults = vec![];
    for ending in [".rs", ".ts", ".sql", ".md", ".toml", ".yml", ".json", ".css", ".mjs", ".example"] {
        for path in files(root(), ending) {
            let inner = path.strip_prefix(root()).unwrap().display().to_string();
            // these two tell what was renamed
            if inner == "CHANGELOG.md" || inner.ends_with("house.rs") {
                continue;
            }
            let text = read(&path);
            let text = if inner == "ARCHITECTURE.md" { without_renamed(&text) } else { text };
            for (word, now) in OLD_WORDS {
                if let Some(line) = says(&text, word) {
                    faults.push(format!("{inner}:{line}: `{word}` is called `{now}` now"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} old words:\n{}", faults.len(), faults.join("\n"));
}

/// ARCHITECTURE.md without its paragraph on what was renamed.
fn without_renamed(text: &str) -> String {
    let Some((before, rest)) = text.split_once("\nRenamed in 0.1.0") else { return text.to_owned() };
    format!("{before}{}", rest.split_once("\n\n").map_or("", |(_, after)| after))
}
