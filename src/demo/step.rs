//! The headings of the demo.

use crate::print;

pub(super) fn step(number: u8, title: &str) {
    print::out("");
    print::out(&format!("{number}. {title}"));
    print::out("");
}
