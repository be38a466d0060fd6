//! The pages of one column, in a file whose footer is right. The first byte is the codec.

#![no_main]

use fuzz::handmade_parquet::{Column, bill, file};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, pages)) = data.split_first() else { return };
    let unit = Column { codec: i64::from(first % 8), rest: pages.to_vec(), ..Column::text("pricing_unit", vec![]) };
    fuzz::read_file("e-1.snappy.parquet", &file(4, &[bill(4), vec![unit]].concat()));
});
