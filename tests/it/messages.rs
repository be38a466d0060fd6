//! docs/messages.md says what `meter` says: each message of its tables is in the code.

use crate::tidy::{files, read, root};

/// The literals of our programs in one text, with broken literals joined.
fn code() -> String {
    let folders = ["src", "jobs", "books"].map(|folder| root().join(folder));
    let sources = folders.iter().flat_map(|folder| files(folder, ".rs"));
    let all: String =
        sources.filter(|path| !path.to_string_lossy().contains("tests")).map(|path| read(&path)).collect();
    let mut joined = String::new();
    for (at, part) in all.split("\\\n").enumerate() {
        joined.push_str(if at == 0 { part } else { part.trim_start() });
    }
    joined.replace("\\\"", "\"")
}

/// The rows of the tables with three columns: message, meaning, what to do.
fn rows(text: &str) -> Vec<[&str; 3]> {
    let row = |line| -> Option<[&str; 3]> {
        let line: &str = line;
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ").map(str::trim).collect();
        cells.try_into().ok()
    };
    text.lines().filter_map(row).filter(|[message, ..]| message.starts_with('`')).collect()
}

#[test]
fn each_message_of_the_table_is_in_the_code() {
    let (text, code) = (read(&root().join("docs/messages.md")), code());
    let rows = rows(&text);
    assert!(rows.len() >= 40, "{} rows", rows.len());
    let mut faults = vec![];
    for [message, meaning, to_do] in rows {
        assert!(!meaning.is_empty() && !to_do.is_empty(), "{message}");
        let message = message.trim_matches('`');
        let parts: Vec<&str> = message.split('…').map(str::trim).filter(|part| part.len() > 3).collect();
        assert!(parts.iter().any(|part| part.len() >= 12), "too little of `{message}` is fixed");
        faults
            .extend(parts.into_iter().filter(|part| !code.contains(part)).map(|part| format!("{part:?} of {message}")));
    }
    assert!(faults.is_empty(), "no code says:\n{}", faults.join("\n"));
}
