//! Counts and quantities in sentences.

use crate::units::quantity::{DECIMALS, Quantity, divide_half_even};

/// Digits with separators between thousands.
pub fn group(digits: &str) -> String {
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A quantity with separators in its whole part: `-1,234.5`.
pub fn decimal(q: Quantity) -> String {
    let text = q.abs().to_string();
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let sign = if q < Quantity::ZERO { "-" } else { "" };
    match fraction {
        Some(fraction) => format!("{sign}{}.{fraction}", group(whole)),
        None => format!("{sign}{}", group(whole)),
    }
}

/// A quantity rounded half-even to so many decimals, at most ten.
pub fn round(q: Quantity, decimals: u32) -> Quantity {
    let step = 10_i128.pow(DECIMALS.saturating_sub(decimals));
    let (steps, _) = divide_half_even(q.scaled(), step);
    Quantity::from_scaled(steps * step)
}

/// A count with separators: `1,234,567`.
pub fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().map_or_else(|_| "?".into(), |n: u64| n.to_string());
    group(&digits)
}

/// A count of things: `1 event`, `1,204 events`.
pub fn several(n: impl TryInto<u64>, thing: &str) -> String {
    match count(n).as_str() {
        "1" => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

/// `one` for a single thing, otherwise `more`: the verb after [`several`].
pub fn verb<'a>(n: impl TryInto<u64>, one: &'a str, more: &'a str) -> &'a str {
    if n.try_into().is_ok_and(|n| n == 1) { one } else { more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_things() {
        let says = |n: u64| format!("{} {} here", several(n, "line"), verb(n, "is", "are"));
        assert_eq!(says(0), "0 lines are here");
        assert_eq!(says(1), "1 line is here");
        assert_eq!(says(1_234_567), "1,234,567 lines are here");
    }
}
