//! The laws of what is written for people: comments and documents.

use std::path::Path;

use super::{files, read, root};

/// Characters of a line of prose.
const WIDTH: usize = 100;

/// The lines of prose that are too long, by number: of a document, or the comments of a source,
/// which begin with `mark`. Tables and blocks of code are no prose, and a line with an address
/// cannot be broken.
fn too_long(text: &str, mark: Option<&str>) -> Vec<(usize, usize)> {
    let (mut found, mut in_block) = (vec![], false);
    for (i, line) in text.lines().enumerate() {
        let content = match mark {
            None => line,
            Some(mark) => match line.trim_start().strip_prefix(mark) {
                Some(content) => content.trim_start_matches(['/', '!']),
                None => {
                    in_block = false;
                    continue;
                }
            },
        };
        let content = content.trim_start();
        let is_fence = content.starts_with("```");
        in_block ^= is_fence;
        let width = line.chars().count();
        if !is_fence && !in_block && !content.starts_with('|') && !line.contains("://") && width > WIDTH {
            found.push((i + 1, width));
        }
    }
    found
}

/// What a line of comment begins with, by the ending of a file's name.
const COMMENTS: [(&str, &str); 9] = [
    (".rs", "//"),
    (".ts", "//"),
    (".sql", "--"),
    (".toml", "#"),
    (".yml", "#"),
    (".yaml", "#"),
    ("Dockerfile", "#"),
    (".service", "#"),
    ("run", "#"),
];

#[test]
fn comments_and_documents_end_before_the_edge() {
    let mut found = vec![];
    let mut note = |path: &Path, lines: Vec<(usize, usize)>| {
        let name = path.strip_prefix(root()).unwrap().display();
        found.extend(lines.into_iter().map(|(line, width)| format!("{name}:{line} has {width} characters")));
    };
    for (ending, mark) in COMMENTS {
        for path in files(root(), ending) {
            note(&path, too_long(&read(&path), Some(mark)));
        }
    }
    for path in files(root(), ".md") {
        note(&path, too_long(&read(&path), None));
    }
    found.sort();
    assert!(found.is_empty(), "{} lines of prose are longer than {WIDTH}: {found:#?}", found.len());
}

#[test]
fn documents_that_everybody_reads_stay_short() {
    for (name, most) in [("README.md", 130), ("ARCHITECTURE.md", 160)] {
        let lines = read(&root().join(name)).lines().count();
        assert!(lines <= most, "{name} has {lines} lines, and {most} at most");
    }
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let glossary = architecture.split("\n## Glossary\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = glossary.lines().filter(|line| line.starts_with("- **")).count();
    assert!((1..=25).contains(&rows), "the glossary of ARCHITECTURE.md has {rows} rows, and 25 at most");
    let words = read(&root().join("docs/stripe.md")).split_whitespace().count();
    assert!(words <= 2438, "docs/stripe.md has {words} words (`wc -w`), and 2438 at most");
}

#[test]
fn the_edge_is_counted_in_characters_and_spares_what_cannot_be_broken() {
    let line = |n: usize| "ö".repeat(n);
    let comment = |n: usize| format!("    /// {}", "ö".repeat(n - 8));
    assert_eq!(too_long(&line(100), None), []);
    assert_eq!(too_long(&line(101), None), [(1, 101)]);
    assert_eq!(too_long(&format!("https://{}", line(101)), None), []);
    let page = format!("| {0} |\n```\n{0}\n```\n{0}\n", line(101));
    assert_eq!(too_long(&page, None), [(5, 101)]);
    assert_eq!(too_long(&comment(100), Some("//")), []);
    assert_eq!(too_long(&comment(101), Some("//")), [(1, 101)]);
    assert_eq!(too_long(&line(101), Some("//")), [], "code is rustfmt's");
    let block = format!("/// ```text\n{0}\n/// ```\n{0}", comment(101));
    assert_eq!(too_long(&block, Some("//")), [(4, 101)]);
}
