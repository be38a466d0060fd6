//! The list of tests that lacked something they need. Cargo shows no output of a test that passes.
//! So each skip is written to a file under `target/tmp`, and the target `skipped` of each package,
//! which cargo runs after `it`, prints the file.
//!
//! The file belongs to one run of cargo: its name is the process id and the start of the parent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, SystemTime};

/// Lists the running test as skipped, in part or whole. In CI it fails instead.
#[track_caller]
pub fn skip(reason: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "no test is skipped in CI: {reason}");
    list_as_skipped(reason);
}

/// Lists the running test as skipped, also in CI.
#[track_caller]
pub fn list_as_skipped(reason: impl Display) {
    eprintln!("SKIPPED: {reason}");
    let thread = std::thread::current();
    let caller = Location::caller();
    // a thread of the harness has the name of its test
    let test = match thread.name() {
        Some(name) if name.contains("::") => name.to_owned(),
        _ => format!("{}:{}", caller.file(), caller.line()),
    };
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let line = format!("{package}\t{test}\t{}\n", reason.to_string().replace(['\t', '\n'], " "));
    let list = list();
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| sweep(&list));
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&list).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// Prints the tests that were skipped since cargo was started. Counts those of `package` as
/// ignored, like the test harness: the target has no harness of its own.
pub fn report(package: &str) {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let text = std::fs::read_to_string(list()).unwrap_or_default();
    let mut by_reason: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for line in text.lines() {
        let mut columns = line.splitn(3, '\t');
        if let (Some(package), Some(test), Some(reason)) = (columns.next(), columns.next(), columns.next()) {
            by_reason.entry(reason).or_default().insert((package, test));
        }
    }
    let tests: BTreeSet<&(&str, &str)> = by_reason.values().flatten().collect();
    println!("\n{} skipped{}", tests.len(), if tests.is_empty() { "" } else { ", in whole or in part" });
    for (reason, tests) in &by_reason {
        println!("{reason}:");
        for (package, test) in tests {
            println!("    {package}: {test}");
        }
    }
    let of_package = tests.iter().filter(|(of, _)| *of == package).count();
    println!(
        "\ntest result: ok. 0 passed; 0 failed; {of_package} ignored; 0 measured; 0 filtered out; finished in 0.00s\n"
    );
}

/// The file of this run of cargo.
fn list() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    // target/debug/deps/it-0123456789abcdef
    let folder = program.ancestors().nth(3).unwrap().join("tmp/skipped");
    std::fs::create_dir_all(&folder).unwrap();
    let parent = std::os::unix::process::parent_id();
    // process ids are reused, soon in containers; id and start together are unique
    let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let start = fields.split(' ').nth(19).unwrap_or("0");
    folder.join(format!("{parent}-{start}.txt"))
}

/// Removes lists that are older than a day.
fn sweep(list: &std::path::Path) {
    let day = Duration::from_secs(86_400);
    for entry in std::fs::read_dir(list.parent().unwrap()).unwrap().flatten() {
        let modified = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if modified.elapsed().is_ok_and(|age| age > day) {
            // another process may have removed it
            drop(std::fs::remove_file(entry.path()));
        }
    }
}
