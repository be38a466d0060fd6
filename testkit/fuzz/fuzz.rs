//! The target that `METER_FUZZ_TARGET` names, as libFuzzer runs it.

#![no_main]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a target that cannot go on fails")]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    fuzz::end_with_a_panic();
    let name = std::env::var("METER_FUZZ_TARGET").unwrap();
    fuzz::TARGETS.iter().find(|(of, _)| *of == name).unwrap().1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
