//! The tags of a line of a CSV bill, which are JSON.

#![no_main]

use fuzz::{CSV_HEAD, CSV_LINE};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let tags = String::from_utf8_lossy(data).replace('"', "\"\"");
    let bill = format!("{CSV_HEAD}{CSV_LINE}\"{tags}\"\n");
    fuzz::read_file("e-1.csv", bill.as_bytes());
});
