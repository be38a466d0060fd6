//! The laws of the code: who may depend on whom, and what every file and every public type has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Kinds, files, read, root};

/// Folders with code of ours, with everything below them.
const FOLDERS: [&str; 7] = ["books", "jobs", "src", "fakes", "testkit", "tests", "benches"];

/// The crates in which no two public types have one name, by the folder of each.
const CRATES: [(&str, &str); 3] = [("books", "books"), ("jobs", "jobs"), ("meter", "src")];

fn dependencies(manifest: &str) -> Vec<String> {
    let table: toml::Table = toml::from_str(&read(&root().join(manifest))).unwrap();
    table["dependencies"].as_table().unwrap().keys().cloned().collect()
}

fn sources() -> Vec<PathBuf> {
    FOLDERS.iter().flat_map(|folder| files(&root().join(folder), ".rs")).collect()
}

/// A path as a report shows it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// A source without its tests: nothing of a file of tests.
fn without_tests(path: &Path) -> String {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let is_test = name.starts_with("tests") || path.components().any(|part| part.as_os_str() == "tests");
    if is_test {
        return String::new();
    }
    read(path).split("#[cfg(test)]").next().unwrap().to_owned()
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
            "maud",
            "plotters",
            "meter",
            "fake-",
            "testkit",
            "indicatif",
            "figment",
            "toml",
        ];
        assert!(!banned.iter().any(|b| name.starts_with(b)), "jobs depends on {name}: law 1");
    }
    for (manifest, of) in [
        ("books/Cargo.toml", "books know nothing of ours"),
        ("fakes/aws/Cargo.toml", "a misreading would be made twice"),
        ("fakes/stripe/Cargo.toml", "a misreading would be made twice"),
    ] {
        let ours = ["books", "jobs", "meter", "testkit", "fake-aws", "fake-stripe"];
        let found = dependencies(manifest).into_iter().find(|name| ours.contains(&name.as_str()));
        assert_eq!(found, None, "{manifest}: {of}");
    }
}

/// Paths into the crate's root that a source names: `crate::NAME` and `crate::{NAME, …}`, with
/// `super` as with `crate`.
fn reached(text: &str) -> BTreeSet<&str> {
    let word = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let mut found = BTreeSet::new();
    for rest in text.split("crate::").skip(1).chain(text.split("super::").skip(1)) {
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(&rest[..word(rest)]);
            continue;
        };
        // the first word of each entry of the list, at its depth
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    let entry = list[start..i].trim();
                    found.insert(&entry[..word(entry)]);
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn jobs_call_no_other_job() {
    assert_eq!(
        reached("use crate::{a::{x, y}, b};\nuse super::c::{d};\ncrate::e::f()"),
        ["a", "b", "c", "e"].into(),
        "what is looked for is found"
    );
    let jobs = root().join("jobs");
    let kinds = Kinds::all().names();
    let mut without_a_place = vec![];
    for own in &kinds {
        let (file, folder) = (jobs.join(format!("{own}.rs")), jobs.join(own));
        let mut all = if folder.is_dir() { files(&folder, ".rs") } else { vec![] };
        all.extend(Some(file).filter(|file| file.is_file()));
        if all.is_empty() {
            without_a_place.push(*own);
        }
        for path in all {
            // previews of bills are no jobs: they read the books, and run and write nothing
            let previews = ["crate::push_stripe::bill::", "crate::push_stripe::forecast_bill::"];
            let text = previews.iter().fold(read(&path), |text, of| text.replace(of, "crate::preview::"));
            let reached = reached(&text);
            let other = kinds.iter().find(|kind| *kind != own && reached.contains(**kind));
            assert_eq!(other, None, "{} calls another job: law 2", shown(&path));
        }
    }
    // a part of a bill, and a manifest, are read by what reads bills
    assert_eq!(
        without_a_place,
        ["check_months", "ingest_part"],
        "kinds that have neither a file nor a folder of their name"
    );
}

#[test]
fn floats_come_in_at_one_door_only() {
    let all = ["books", "jobs"].iter().flat_map(|folder| files(&root().join(folder), ".rs"));
    let doors: Vec<_> = all
        .filter(|p| read(p).contains("clippy::float_arithmetic") || read(p).contains("clippy::as_conversions"))
        .collect();
    assert_eq!(doors, [root().join("jobs/ingest_cur/batch.rs")], "law 4");
}

/// Files of `books` that write the unit of quantities out, each with its reason.
const UNIT_WRITTEN_OUT: [(&str, &str); 3] = [
    ("books/limits/customer_facts.sql", "a file of SQL cannot use a macro"),
    ("books/store/rows.rs", "it gives the unit to all SQL"),
    ("books/units/quantity.rs", "it is the unit"),
];

#[test]
fn sql_has_the_unit_of_quantities_from_one_place() {
    let is_unit = |number: &str| number.replace('_', "") == "10000000000";
    let numbers = |text: &str| text.split(|c: char| !c.is_ascii_digit() && c != '_').any(is_unit);
    assert!(numbers("sum(a / 10000000000)") && numbers("10_000_000_000;") && !numbers("100000000000"));
    let all = [".rs", ".sql"].iter().flat_map(|ending| files(&root().join("books"), ending));
    let found: BTreeSet<String> = all.filter(|path| numbers(&without_tests(path))).map(|path| shown(&path)).collect();
    let allowed: BTreeSet<String> = UNIT_WRITTEN_OUT.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, allowed, "10_000_000_000 is written out; use the macros of books/store/rows.rs");
}

#[test]
fn files_stay_readable() {
    for path in sources() {
        let text = read(&path);
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", shown(&path));
        assert!(text.starts_with("//!"), "{} does not say what it is for", shown(&path));
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            !["utils", "common", "helpers", "misc"].contains(&name.as_str()),
            "{}: a name that says nothing",
            shown(&path)
        );
        let ignored = format!("#[{}", "ignore");
        assert!(!text.contains(&ignored), "{} has a test that does not run", shown(&path));
    }
}

/// The most parameters of a function, without `self`.
const PARAMETERS: usize = 5;

/// The functions that a source declares, each with the number of its parameters without `self`.
fn functions(source: &str) -> Vec<(&str, usize)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = vec![];
    for (at, _) in source.match_indices("fn ") {
        let rest = &source[at + 3..];
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        if name.is_empty() || source[..at].ends_with(is_name) {
            continue;
        }
        // the list of parameters is the first pair of parentheses outside of `<…>`
        let (mut depth, mut generics, mut start, mut before) = (0_usize, 0_usize, None, ' ');
        let (mut count, mut parameter) = (0, String::new());
        for c in rest[name.len()..].chars() {
            match c {
                '<' => generics += 1,
                '>' if before != '-' => generics = generics.saturating_sub(1),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            before = c;
            match start {
                None if generics == 0 && c == '(' => start = Some(depth),
                // not declared here: a type, such as `fn (u8)` in a comment
                None if generics == 0 && !c.is_whitespace() && c != '>' => break,
                None => {}
                Some(outer) if (generics == 0 && depth == outer && c == ',') || depth < outer => {
                    let plain = parameter.trim().trim_start_matches(['&', ' ']);
                    let words = plain.split(|c| !is_name(c) && c != '\'');
                    let receiver =
                        words.filter(|word| !word.starts_with('\'') && *word != "mut").find(|w| !w.is_empty());
                    count += usize::from(!plain.is_empty() && receiver != Some("self"));
                    parameter.clear();
                    if depth < outer {
                        found.push((name, count));
                        break;
                    }
                }
                Some(_) => parameter.push(c),
            }
        }
    }
    found
}

#[test]
fn functions_have_few_parameters() {
    let source = "fn a() {} pub async fn b<F: Fn(u8, u8) -> u8>(&'a mut self, f: F, (x, y): (u8, u8)) -> u8 {}
        fn c(\n    mut self,\n    one: HashMap<u8, u8>,\n    two: impl Fn(u8, u8) -> u8,\n    three: [u8; 3],\n) {}";
    assert_eq!(functions(source), [("a", 0), ("b", 2), ("c", 3)], "what is looked for is found");
    let (mut seen, mut faults) = (0, vec![]);
    for path in sources() {
        let text = read(&path);
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for (name, parameters) in functions(&code.join("\n")) {
            seen += 1;
            if parameters > PARAMETERS {
                faults.push(format!("{}: {name} has {parameters}", shown(&path)));
            }
        }
    }
    assert!(seen > 3000, "only {seen} functions were found");
    assert!(faults.is_empty(), "functions with more than {PARAMETERS} parameters: {faults:#?}");
}

/// The type that a line declares, and whether anybody may use it.
fn declared(line: &str) -> Option<(&str, &str, bool)> {
    let line = line.trim_start();
    let (rest, public) = match line.strip_prefix("pub ") {
        Some(rest) => (rest, true),
        None => (line.strip_prefix("pub(")?.split_once(") ")?.1, false),
    };
    let (keyword, rest) = rest.strip_prefix("unsafe ").unwrap_or(rest).split_once(' ')?;
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    matches!(keyword, "struct" | "enum" | "trait" | "type").then_some((keyword, name, public))
}

/// Pairs that are known to share a name and wait for another one; none may be added.
const KNOWN: [(&str, &str); 0] = [];

#[test]
fn no_two_public_types_of_a_crate_share_a_name() {
    let mut shared = vec![];
    for (of, folder) in CRATES {
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in files(&root().join(folder), ".rs") {
            for line in without_tests(&path).lines() {
                if let Some((_, name, true)) = declared(line) {
                    places.entry(name.to_owned()).or_default().push(shown(&path));
                }
            }
        }
        assert!(places.len() > 50, "only {} public types were found in {of}", places.len());
        let twice = places.into_iter().filter(|(name, at)| at.len() > 1 && !KNOWN.contains(&(of, name.as_str())));
        shared.extend(twice.map(|(name, at)| format!("{of}: {name} in {}", at.join(" and "))));
    }
    assert!(shared.is_empty(), "types of one name: {shared:#?}");
}

#[test]
fn every_public_type_says_what_it_is() {
    let mut silent = vec![];
    for path in FOLDERS.iter().flat_map(|folder| files(&root().join(folder), ".rs")) {
        let text = without_tests(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let Some((keyword @ ("struct" | "enum" | "trait"), name, _)) = declared(line) else { continue };
            // what only this crate sees is said by its file, such as the arguments of a command
            if !line.trim_start().starts_with("pub ") {
                continue;
            }
            // attributes may stand between, over several lines
            let above = lines[..i].iter().rev().map(|above| above.trim());
            let mut above = above.take_while(|above| !above.is_empty() && !above.ends_with(['}', ';', '{']));
            if !above.any(|above| above.starts_with("///")) {
                silent.push(format!("{}:{}: {keyword} {name}", shown(&path), i + 1));
            }
        }
    }
    assert!(silent.is_empty(), "types without a doc comment: {silent:#?}");
}

/// Cargo tests no documentation here (`doctest = false`), so there must be nothing to test.
#[test]
fn documentation_has_no_code_that_would_be_tested() {
    for path in sources() {
        let text = read(&path);
        let docs = text.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))
        });
        let mut open = false;
        for fence in docs.filter_map(|line| line.trim_start().strip_prefix("```")) {
            open = !open;
            let is_code = !["text", "sql", "sh", "toml", "json"].contains(&fence);
            assert!(!open || !is_code, "{} has code in its documentation that nothing runs", shown(&path));
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
            assert!(attribute.contains("reason"), "{}: {attribute}", shown(&path));
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
    assert_eq!(i64::try_from(found.len()).unwrap(), books::newest_schema_version(), "a migration is not listed");
}
