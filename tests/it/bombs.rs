//! Small files that stand for gigabytes: the binary reads or refuses each within the memory that
//! `docs/configuration.md` promises.

use std::process::Command;

use crate::support::{Ran, Workspace};
use testkit::bombs::{Bomb, csv_bombs, parquet_bombs};
use testkit::ingest_fixture::{self, deliver};

const INGEST: [&str; 3] = ["ingest", "--month", "2026-10"];
const VERSION: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
/// Data that the process may have, in KiB: what the documents promise, and the program itself.
const LIMIT_KIB: u32 = 256 << 10;

/// Reads the bill in bounded memory. An allocation beyond it would end the process by a signal.
fn ingest(place: &Workspace) -> Ran {
    let mut command = Command::new("sh");
    command.current_dir(place.folder.path()).env_clear().env("METER_READ__PARALLEL", "4");
    let script = format!("ulimit -d {LIMIT_KIB} && exec \"$0\" \"$@\"");
    let ran: Ran =
        crate::support::output(command.args(["-c", &script, env!("CARGO_BIN_EXE_meter")]).args(INGEST)).into();
    assert!((0..=3).contains(&ran.code), "exit code {}: {}", ran.code, ran.err);
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

fn try_all(bombs: Vec<Bomb>) {
    for Bomb { what, file, bytes, ends } in bombs {
        let place = Workspace::new();
        deliver(&place.path("bucket"), VERSION, &[(file, bytes)]);
        println!("{what}");
        let ran = ingest(&place);
        match ends {
            Ok(minutes) => {
                ran.ends(0);
                let booked = "SELECT coalesce(sum(quantity), 0) / 10000000000 FROM booked_usage WHERE customer = 'ann'";
                assert_eq!(place.query(booked), [minutes], "{what}");
            }
            Err(words) => {
                assert!(matches!(ran.code, 1 | 3), "{what}: {}{}", ran.out, ran.err);
                ran.says(&words);
                assert_eq!(place.query("SELECT count(*) FROM bill_versions WHERE state = 'applied'"), ["0"], "{what}");
            }
        }
    }
}

#[test]
fn parquet_is_decoded_in_bounded_memory() {
    try_all(parquet_bombs());
}

#[test]
fn csv_is_unpacked_in_bounded_memory() {
    try_all(csv_bombs());
}

/// The most that is not refused, in as many files as are read at once.
#[test]
fn what_is_just_allowed_is_read_in_bounded_memory_side_by_side() {
    let place = Workspace::new();
    let whole = || parquet_bombs().into_iter().chain(csv_bombs()).filter(|bomb| bomb.ends.is_ok());
    let named = (0..3).flat_map(|_| whole()).enumerate().map(|(at, bomb)| (format!("{at}-{}", bomb.file), bomb));
    let named: Vec<(String, Bomb)> = named.collect();
    let files: Vec<_> = named.iter().map(|(name, bomb)| (name.as_str(), bomb.bytes.clone())).collect();
    deliver(&place.path("bucket"), VERSION, &files);
    ingest(&place).ends(0);
    let minutes: i64 = named.iter().map(|(_, bomb)| bomb.ends.as_ref().unwrap().parse::<i64>().unwrap()).sum();
    let booked = "SELECT sum(quantity) / 10000000000 FROM booked_usage WHERE customer = 'ann'";
    assert_eq!(place.query(booked), [minutes.to_string()]);
}

#[test]
fn manifests_are_read_in_bounded_memory() {
    let many = |item: &str, count: usize| vec![item; count].join(",");
    let text = |files: &str| format!(r#"{{"executionId": "{VERSION}", "dataFiles": [{files}]}}"#);
    for (manifest, words) in [
        (text(&many("\"\"", 2_000_000)), "too large"),
        (text(&many("\"\"", 1_200_000)), "is not where a cur2 export keeps its data"),
        (format!(r#"{{"columns": {}"#, "[".repeat(3 << 20)), "this is no manifest of a cur2 export"),
        (format!(r#"{{"executionId": "{}", "dataFiles": ["s3://b/c"]}}"#, "v".repeat(3 << 20)), "more than 256 bytes"),
        (text(&format!("\"s3://b/{}\"", "x".repeat(3 << 20))), "is not where a cur2 export keeps its data"),
        (text(&"[".repeat(3 << 20)), "this is no manifest of a cur2 export"),
        (text(""), "lists no data files yet"),
    ] {
        let place = Workspace::new();
        ingest_fixture::manifest(&place.path("bucket"), VERSION, &[]);
        std::fs::write(place.path("bucket/e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json"), manifest).unwrap();
        let ran = ingest(&place).ends(1).says(&[words, "e-Manifest.json"]);
        assert!(ran.err.len() + ran.out.len() < 4_000, "the error is short: {}", ran.err);
    }
}
