//! The billing periods that a command is about: by the month or the day on which they begin.

use std::ops::Range;
use std::str::FromStr;

use books::units::calendar::{Day, Month};

/// A day or a month, on which billing periods begin (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BillingPeriod {
    Month(Month),
    Day(Day),
}

impl FromStr for BillingPeriod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let month = text.parse().map(Self::Month);
        let period = month.or_else(|_| text.parse().map(Self::Day));
        period.map_err(|_| {
            format!("`{text}` is no month like 2026-11 and no day like 2026-11-03, on which a period begins")
        })
    }
}

impl BillingPeriod {
    /// When the periods begin, in seconds since 1970.
    pub(crate) fn starts(self) -> Range<i64> {
        let (first, last) = match self {
            Self::Month(month) => (month.first_day(), month.last_day()),
            Self::Day(day) => (day, day),
        };
        first.start().as_second()..last.end().as_second()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_named_by_a_month_or_a_day() {
        let starts = |text: &str| text.parse::<BillingPeriod>().map(BillingPeriod::starts);
        assert_eq!(starts("1970-02"), Ok(31 * 86_400..59 * 86_400));
        assert_eq!(starts("1970-01-03"), Ok(2 * 86_400..3 * 86_400));
        for text in ["", "2026", "2026-13", "2026-1", "2026-11-31", "2026-11-3", "november", "2026-11-03T00:00:00Z"] {
            let why = starts(text).unwrap_err();
            assert!(why.contains("2026-11-03, on which a period begins"), "{text}: {why}");
        }
    }
}
