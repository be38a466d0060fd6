//! Billing periods, counted from the anchor: the 31st returns after a shorter month.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The length of an interval with which the search for a period begins.
fn about(interval: &str) -> i64 {
    match interval {
        "day" => 86_400,
        "week" => 7 * 86_400,
        "year" => 31_556_952,
        _ => 2_629_746,
    }
}

/// The boundary that is so many intervals after the anchor.
fn boundary(anchor: i64, interval: &str, nth: i64) -> i64 {
    let exact = || -> Result<i64, jiff::Error> {
        let start: DateTime = TimeZone::UTC.to_datetime(Timestamp::from_second(anchor)?);
        let span = match interval {
            "day" => Span::new().try_days(nth)?,
            "week" => Span::new().try_weeks(nth)?,
            "year" => Span::new().try_years(nth)?,
            _ => Span::new().try_months(nth)?,
        };
        Ok(TimeZone::UTC.to_timestamp(start.checked_add(span)?)?.as_second())
    };
    // Beyond the calendar's end any boundary will do.
    exact().unwrap_or_else(|_| anchor.saturating_add(nth.saturating_mul(about(interval))))
}

/// The period that contains an instant, by the anchor alone. Its end is exclusive.
pub(crate) fn around(anchor: i64, interval: &str, time: i64) -> (i64, i64) {
    let mut nth = (time - anchor).div_euclid(about(interval));
    while boundary(anchor, interval, nth) > time {
        nth -= 1;
    }
    while boundary(anchor, interval, nth + 1) <= time {
        nth += 1;
    }
    (boundary(anchor, interval, nth), boundary(anchor, interval, nth + 1))
}

#[cfg(test)]
mod tests {
    use super::around;

    fn second(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    #[test]
    fn the_31st_is_clamped_and_comes_back() {
        let anchor = second("2026-01-31T09:30:00Z");
        let bounds = ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"];
        let bounds = bounds.map(|day| second(&format!("{day}T09:30:00Z")));
        for pair in bounds.windows(2) {
            let expected = (pair[0], pair[1]);
            assert_eq!(around(anchor, "month", pair[0]), expected);
            assert_eq!(around(anchor, "month", pair[1] - 1), expected);
        }
    }

    #[test]
    fn periods_reach_back_before_the_anchor() {
        let anchor = second("2026-03-01T00:00:00Z");
        let expected = (second("2025-12-01T00:00:00Z"), second("2026-01-01T00:00:00Z"));
        assert_eq!(around(anchor, "month", second("2025-12-24T00:00:00Z")), expected);
        assert_eq!(around(anchor, "day", anchor + 5), (anchor, anchor + 86_400));
    }
}
