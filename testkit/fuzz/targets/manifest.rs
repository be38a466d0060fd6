//! The manifest of an export.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::read_bill(data, "e-1.csv", fuzz::CSV_HEAD.as_bytes()));
