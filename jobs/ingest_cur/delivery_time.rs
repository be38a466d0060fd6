//! Whether a version can have been delivered when it says so.
//!
//! Versions of a month are ordered by that time, which is in the name of a folder or is that of the
//! manifest. A time in the future would end the month: everything that AWS delivers later is older.

use jiff::{SignedDuration, Timestamp};

use books::units::calendar::Month;

/// How far a delivery may lie in the future, because clocks differ.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(24);

/// True for a time that has not come yet, whatever clocks say.
pub(super) fn is_future(delivered_at: Timestamp, now: Timestamp) -> bool {
    delivered_at.duration_since(now) > CLOCKS_DIFFER
}

/// Why a bill of `month` cannot have been delivered at this time; none when it can.
pub(super) fn impossible(delivered_at: Timestamp, month: Month, now: Timestamp) -> Option<String> {
    if delivered_at < month.first_day().start() {
        return Some(format!("{month} had not begun then"));
    }
    is_future(delivered_at, now).then(|| format!("it is {} now", now.strftime("%Y-%m-%d %H:%M UTC")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_of_its_month_or_later_and_not_of_the_future() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-29T14:00:00Z");
        for (delivered, why) in [
            ("2026-11-01T00:00:00Z", ""),
            ("2026-10-31T23:59:59.999Z", "2026-11 had not begun then"),
            ("1970-01-01T00:00:00Z", "2026-11 had not begun then"),
            ("-009999-01-02T01:59:59Z", "2026-11 had not begun then"),
            ("2026-11-30T14:00:00Z", ""),
            ("2026-11-30T14:00:01Z", "it is 2026-11-29 14:00 UTC now"),
            ("9999-12-30T22:00:00Z", "it is 2026-11-29 14:00 UTC now"),
        ] {
            let said = impossible(at(delivered), "2026-11".parse().unwrap(), now).unwrap_or_default();
            assert_eq!(said, why, "{delivered}");
        }
    }
}
