//! The configuration file `meter.toml`, and the rules of the meters in it.

#![no_main]

use meter::config::Config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let file = std::env::temp_dir().join(format!("meter-fuzz-{}.toml", std::process::id()));
    std::fs::write(&file, data).expect("the temporary folder can be written");
    match Config::load(Some(&file), std::iter::empty()) {
        Ok(config) => _ = config.checked_rules(),
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
});
