//! The file of plans that `meter plan apply` reads.

#![no_main]

use books::limits::plan::Plans;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(plans) = meter::plan_file::read(text) {
        let _ = Plans::new(plans);
    }
});
