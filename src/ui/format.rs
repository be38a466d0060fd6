//! Amounts, times and names in HTML.

use books::limits::entitlement::Reason;
use books::units::quantity::{Quantity, UNIT};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

pub(super) use crate::format::{bytes, customer, limit_reached, of_it_measured, quantity, span, two_decimals};
use crate::format::{group, url_encoded};

/// A count with separators: `1,234,567`.
pub(super) fn count(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", group(&n.unsigned_abs().to_string()))
}

/// A count with its noun: `1 job`, `2 jobs`.
pub(super) fn counted(n: i64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A quantity of which only the order matters, with as few decimals as its size allows.
pub(crate) fn about(q: Quantity) -> String {
    let units = q.abs().scaled() / UNIT;
    let step = match units {
        100.. => UNIT,
        10..100 => UNIT / 10,
        1..10 => UNIT / 100,
        _ => UNIT / 10_000,
    };
    quantity(Quantity::from_scaled((q.scaled() + step / 2).div_euclid(step) * step))
}

/// A quantity to two decimals, for reading.
pub(super) fn rounded(q: Quantity) -> String {
    crate::format::rounded(q, 2)
}

/// A part of a whole, in percent: `1.5 %`, never on two lines; none of nothing.
pub(super) fn share(part: Quantity, whole: Quantity) -> Option<String> {
    if whole <= Quantity::ZERO {
        return None;
    }
    let tenths = (part.scaled().checked_mul(1000)?).div_euclid(whole.scaled());
    let text = Quantity::from_scaled(tenths.checked_mul(UNIT / 10)?);
    match tenths {
        0 if part > Quantity::ZERO => Some("below 0.1\u{a0}%".into()),
        // never says that all is used while something is left
        _ => Some(format!("{}\u{a0}%", quantity(text))),
    }
}

/// How long a run took: the shorter, the finer.
pub(super) fn took(duration: SignedDuration) -> String {
    match duration.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        millis @ 1000..10_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => span(duration),
    }
}

/// A text in which commands and names are set apart by backticks.
pub(super) fn prose(text: &str) -> Markup {
    let parts: Vec<&str> = text.split('`').collect();
    // an odd one has no partner and stays what it is
    let paired = parts.len() - usize::from(parts.len().is_multiple_of(2));
    html! {
        @for (i, part) in parts.iter().enumerate() {
            @if i >= paired { "`" (part) } @else if i % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// An instant as people of any country read it.
pub(super) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A customer's id as a link to its page; words for usage without a tag.
pub(super) fn customer_link(id: &str) -> Markup {
    html! { @if id.is_empty() { (customer(id)) } @else { a href={ "/customers?id=" (url_encoded(id)) } { (id) } } }
}

/// The time since or until an instant; the instant itself is the tool tip.
pub(super) fn ago(then: Timestamp, now: Timestamp) -> Markup {
    let text = if then > now {
        format!("in {}", span(then.duration_since(now)))
    } else {
        format!("{} ago", span(now.duration_since(then)))
    };
    html! { time datetime=(then) title=(instant(then)) { (text) } }
}

/// The day (UTC) of an instant.
pub(super) fn date(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// `1 Mar`.
pub(super) fn short_day(day: Date) -> String {
    day.strftime("%-d %b").to_string()
}

/// `1 March 2026`.
pub(super) fn long_day(day: Date) -> String {
    day.strftime("%-d %B %Y").to_string()
}

/// `March 2026` of `2026-03`; other texts stay unchanged.
pub(super) fn month(text: &str) -> String {
    format!("{text}-01").parse::<Date>().map_or_else(|_| text.to_owned(), |day| day.strftime("%B %Y").to_string())
}

/// Why a meter may or may not be used: a sentence for a name of the books, anything else as it is.
pub(super) fn reason(name: &str) -> &str {
    Reason::named(name).map_or(name, |reason| reason.words())
}
