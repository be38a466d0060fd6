//! A CSV bill, as plain text or, when it looks so, as gzip.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let packed = data.starts_with(&[0x1f, 0x8b]);
    fuzz::read_file(if packed { "e-1.csv.gz" } else { "e-1.csv" }, data);
});
