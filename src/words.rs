//! How amounts, spans and customers are said to people, in a terminal and in a browser.

use books::units::quantity::Quantity;

/// Digits with separators between thousands.
pub(crate) fn group(digits: &str) -> String {
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
pub(crate) fn quantity(q: Quantity) -> String {
    let text = q.abs().to_string();
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let sign = if q < Quantity::ZERO { "-" } else { "" };
    match fraction {
        Some(fraction) => format!("{sign}{}.{fraction}", group(whole)),
        None => format!("{sign}{}", group(whole)),
    }
}

/// A customer for people: usage without a tag has a name too.
pub(crate) fn customer(id: &str) -> &str {
    if id.is_empty() { "(no customer tag)" } else { id }
}

/// A span of time for people: `45 s`, `12 min`, `5 h`, `3 d`.
pub(crate) fn span(duration: jiff::SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
