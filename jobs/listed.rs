//! What is named of many things: a bill may have thousands of kinds of a fault.

use std::cmp::Reverse;

/// Kinds that are listed, at most.
pub(crate) const LISTED: usize = 20;
/// Characters of a text of the bill in a message.
const SHOWN: usize = 200;

/// All, or those with the most lines.
pub(crate) fn most<T>(mut all: Vec<T>, lines: impl Fn(&T) -> u64) -> Vec<T> {
    if all.len() > LISTED {
        all.sort_by_key(|kind| Reverse(lines(kind)));
        all.truncate(LISTED);
    }
    all
}

/// Text of a bill for a message: without control characters, and not longer than a line.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
