//! meter
fn main() {}
