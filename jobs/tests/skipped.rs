//! Cargo runs this target after `it`: it prints which tests were skipped, and why.

fn main() {
    testkit::skipped::report(env!("CARGO_PKG_NAME"));
}
