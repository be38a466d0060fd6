//! Months and days, in UTC.
//!
//! AWS bills by calendar month in UTC and every interval in a bill is UTC with an exclusive end
//! (<https://docs.aws.amazon.com/cur/latest/userguide/Lineitem-columns.html>), so a month here
//! needs no time zone.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A calendar month in UTC, written `2026-10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(Date);

/// A calendar day in UTC, written `2026-10-31`; counted in days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

/// A text that names no month or day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}; write it as {form}")]
pub struct PeriodError {
    text: String,
    what: &'static str,
    form: &'static str,
}

const EPOCH: Date = jiff::civil::date(1970, 1, 1);

/// Clocks of several hosts differ by less than this.
///
/// Kerberos recommends to accept as much (<https://www.rfc-editor.org/rfc/rfc4120#section-8.2>),
/// and Stripe accepts as much for a meter event
/// (<https://docs.stripe.com/api/billing/meter-event/create>).
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(300);

/// The instant of a stored second since 1970. A second outside the representable years becomes the
/// first or last representable instant.
pub fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The start of the minute in which `t` lies.
pub fn minute(t: i64) -> i64 {
    t - t.rem_euclid(60)
}

impl Month {
    /// The month of year `year` (1..=9998) with number `month` (1..=12).
    pub fn new(year: i16, month: i8) -> Option<Self> {
        (1..=9998).contains(&year).then(|| Date::new(year, month, 1).ok().map(Self)).flatten()
    }

    pub fn of(instant: Timestamp) -> Self {
        Self(instant.to_zoned(TimeZone::UTC).date().first_of_month())
    }

    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1.month()))
    }

    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1.month()))
    }

    pub fn year(self) -> i16 {
        self.0.year()
    }

    /// The number of the month, 1..=12.
    pub fn number(self) -> i8 {
        self.0.month()
    }

    pub fn first_day(self) -> Day {
        Day::from_date(self.0)
    }

    pub fn last_day(self) -> Day {
        Day::from_date(self.0.last_of_month())
    }

    /// This month and `lookback` months before it, in order.
    pub fn back_to(self, lookback: u8) -> Vec<Self> {
        Self::range((0..lookback).fold(self, |month, _| month.previous()), self)
    }

    /// From `from` to `to`, both included; empty when `to` is before `from`.
    pub fn range(from: Self, to: Self) -> Vec<Self> {
        std::iter::successors(Some(from), |m| Some(m.next())).take_while(|m| *m <= to).collect()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04}-{:02}", self.0.year(), self.0.month()))
    }
}

impl FromStr for Month {
    type Err = PeriodError;
    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let parse = || {
            let (year, month) = text.split_once('-')?;
            let plain = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
            (plain(year, 4) && plain(month, 2)).then_some(())?;
            Self::new(year.parse().ok()?, month.parse().ok()?)
        };
        parse().ok_or_else(|| PeriodError { text: text.to_owned(), what: "month", form: "YYYY-MM, e.g. 2026-10" })
    }
}

impl Day {
    /// 1970-01-01.
    pub const EPOCH: Self = Self(0);

    /// The day `days` after 1970-01-01; none outside the representable years.
    pub fn from_epoch(days: i32) -> Option<Self> {
        let span = jiff::Span::new().try_days(days).ok()?;
        EPOCH.checked_add(span).ok().map(|_| Self(days))
    }

    /// Days since 1970-01-01.
    pub const fn epoch(self) -> i32 {
        self.0
    }

    pub fn start(self) -> Timestamp {
        instant(i64::from(self.0) * 86_400)
    }

    /// The first instant after it.
    pub fn end(self) -> Timestamp {
        instant((i64::from(self.0) + 1) * 86_400)
    }

    fn from_date(date: Date) -> Self {
        Self(EPOCH.until(date).map_or(0, |span| span.get_days()))
    }

    fn date(self) -> Date {
        EPOCH.saturating_add(self.0.days())
    }

    pub fn month(self) -> Month {
        Month(self.date().first_of_month())
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.date().to_string())
    }
}

impl FromStr for Day {
    type Err = PeriodError;
    fn from_str(text: &str) -> Result<Self, PeriodError> {
        text.parse::<Date>().ok().filter(|_| text.len() == 10).map(Self::from_date).ok_or_else(|| PeriodError {
            text: text.to_owned(),
            what: "day",
            form: "YYYY-MM-DD, e.g. 2026-10-31",
        })
    }
}

macro_rules! text_form {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_form!(Month);
text_form!(Day);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_over_the_year() {
        let december: Month = "2026-12".parse().unwrap();
        assert_eq!(december.next().to_string(), "2027-01");
        assert_eq!(december.next().previous(), december);
        assert_eq!(Month::range("2026-11".parse().unwrap(), "2027-02".parse().unwrap()).len(), 4);
        assert!(Month::range(december, december.previous()).is_empty());
    }

    #[test]
    fn days_know_their_month_and_leap_years() {
        let february: Month = "2028-02".parse().unwrap();
        assert_eq!(february.last_day().to_string(), "2028-02-29");
        assert_eq!("2028-02-29".parse::<Day>().unwrap().month(), february);
        assert_eq!("1970-01-02".parse::<Day>().unwrap().epoch(), 1);
        assert_eq!(Day::from_epoch(20_000).unwrap().to_string(), "2024-10-04");
    }

    #[test]
    fn what_is_no_month_is_refused() {
        for text in ["2026-13", "2026-1", "26-01", "2026/01", "2026-00", "", "+026-01", "2026-01-01"] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
        assert!("2026-02-30".parse::<Day>().is_err());
    }
}
