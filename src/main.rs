//! The binary: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // clap answers bad usage with 2 by itself, and --help with 0
    meter::cli::run(meter::cli::parse())
}
