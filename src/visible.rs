//! Text that others wrote (bills, the web backend, Stripe, servers), as it may be printed: a
//! character that would act instead of showing itself is written out, as `\u{1b}` or `\n`.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character moves, hides or reorders what is printed: control characters, the marks of
/// writing direction, line separators, and what Unicode calls default-ignorable (zero width), but
/// for the variation selectors of emoji.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}')
        || matches!(c, '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with what acts written out by `write`.
fn rewritten(text: &str, acts: impl Fn(char) -> bool, write: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) { write(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn escaped(out: &mut String, c: char) {
    out.extend(c.escape_default());
}

/// The text as one line.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    rewritten(text, acts, escaped)
}

/// The text as a cell of a file for other programs: it keeps what only hides or reorders, such as
/// the joiners of emoji and of Persian.
pub(crate) fn cell(text: &str) -> Cow<'_, str> {
    rewritten(text, char::is_control, escaped)
}

/// The name of a file as one line.
pub(crate) fn path(path: &std::path::Path) -> String {
    line(&path.display().to_string()).into_owned()
}

/// A text of several lines.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    rewritten(text, |c| c != '\n' && acts(c), escaped)
}

/// JSON, laid out or in one line: the same values, with such characters as `\u202e`.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let unit = |out: &mut String, c: char| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    };
    // they stand only in its strings: outside of those it has lines and blanks
    rewritten(text, |c| c != '\n' && acts(c), unit)
}

/// A line in which a program of ours has set colours (`ESC [ 1 ; 31 m`), which stay.
pub(crate) fn coloured(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(&line(before));
        let code = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        match code.strip_prefix('m') {
            Some(next) => {
                out.push_str("\u{1b}[");
                out.push_str(&after[..after.len() - next.len()]);
                rest = next;
            }
            None => {
                out.push_str("\\u{1b}[");
                rest = after;
            }
        }
    }
    out.push_str(&line(rest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\r\n\tb\u{7f}\u{9b}c\u{202e}d\u{200b}e\u{feff}f\u{e0041}";

    #[test]
    fn what_acts_is_written_out() {
        let shown = "a\\u{1b}[2J\\r\\n\\tb\\u{7f}\\u{9b}c\\u{202e}d\\u{200b}e\\u{feff}f\\u{e0041}";
        assert_eq!(line(HOSTILE), shown);
        assert_eq!(lines(HOSTILE), shown.replace("\\n", "\n"));
        let cell_shown = "a\\u{1b}[2J\\r\\n\\tb\\u{7f}\\u{9b}c\u{202e}d\u{200b}e\u{feff}f\u{e0041}";
        assert_eq!(cell(HOSTILE), cell_shown);
        for plain in ["", "Zoë Ångström", "e\u{301}", "日本", "עברית", "❤\u{fe0f}", "a\\nb", "`x` – “y”"]
        {
            assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain), "{plain}");
        }
    }

    #[test]
    fn json_keeps_its_values() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "plain"] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let safe = json(&text);
            assert!(!safe.chars().any(|c| c != '\n' && acts(c)), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }

    #[test]
    fn only_colours_are_kept() {
        assert_eq!(coloured("\u{1b}[1;33mWARN\u{1b}[0m a\nb"), "\u{1b}[1;33mWARN\u{1b}[0m a\\nb");
        assert_eq!(coloured("\u{1b}[2J\u{1b}]0;x\u{7}\u{1b}["), "\\u{1b}[2J\\u{1b}]0;x\\u{7}\\u{1b}[");
    }
}
