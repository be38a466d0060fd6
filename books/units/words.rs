//! Counts in sentences.

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
