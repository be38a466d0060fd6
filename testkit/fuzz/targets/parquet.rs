//! A whole Parquet file: its footer, and the pages that it leads to.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::read_file("e-1.snappy.parquet", data));
