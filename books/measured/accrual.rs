//! How a level over time becomes usage of days. Pure.
//!
//! Everything is an integer *weight* in the meter's smallest unit: attendee-seconds, byte-seconds,
//! bytes. Weights add up exactly, however a use is cut. Only the sum of a day becomes a
//! [`Quantity`], which rounds once.

use serde::{Deserialize, Serialize};

use crate::units::calendar::{Day, Month};
use crate::units::quantity::{Quantity, QuantityError, UNIT, divide_half_even};

const DAY: i64 = 86_400;
/// Bytes of a GB of S3
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/aws-usage-report-understand.html>).
const GB: i128 = 1 << 30;

/// What a meter counts when it is measured, and so its smallest unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accrues {
    /// Attendees × time, in minutes. The smallest unit is an attendee-second.
    AttendeeMinutes,
    /// Bytes × time: GB × hours / hours of that month. The smallest unit is a byte-second.
    GbMonths,
    /// Bytes that went through. The smallest unit is a byte; nothing runs.
    Gb,
}

impl Accrues {
    /// Its name in the configuration and in the books.
    pub fn name(self) -> &'static str {
        match self {
            Self::AttendeeMinutes => "attendee-minutes",
            Self::GbMonths => "gb-months",
            Self::Gb => "gb",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::AttendeeMinutes, Self::GbMonths, Self::Gb].into_iter().find(|accrues| accrues.name() == name)
    }

    /// What a built-in meter counts.
    pub fn built_in(meter: &str) -> Option<Self> {
        match meter {
            "chime_minutes" => Some(Self::AttendeeMinutes),
            "storage_gb" => Some(Self::GbMonths),
            "transfer_gb" => Some(Self::Gb),
            _ => None,
        }
    }

    /// Whether a level can run.
    pub fn runs(self) -> bool {
        self != Self::Gb
    }

    /// Smallest units of one unit, in that month.
    fn divisor(self, month: Month) -> i128 {
        let days = i128::from(month.last_day().epoch() - month.first_day().epoch() + 1);
        match self {
            Self::AttendeeMinutes => 60,
            Self::GbMonths => GB * i128::from(DAY) * days,
            Self::Gb => GB,
        }
    }

    /// The usage that a day's weight is, rounded half-even at the tenth decimal.
    ///
    /// # Errors
    /// When it does not fit into 128 bits.
    pub fn quantity(self, weight: i128, day: Day) -> Result<Quantity, QuantityError> {
        let scaled = weight.checked_mul(UNIT).ok_or_else(|| QuantityError::TooLarge(weight.to_string()))?;
        Ok(Quantity::from_scaled(divide_half_even(scaled, self.divisor(day.month())).0))
    }
}

/// What somebody measured. Instants are seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// A quantity at an instant.
    Counted { quantity: i64, at: i64 },
    /// A level from an instant on, and before another one. An end before the start is none.
    Level { level: i64, starts_at: i64, ends_at: i64 },
}

impl Measurement {
    /// What it adds to each day, from `from` on and before `to`, in the smallest unit. Days without
    /// anything are left out.
    pub fn by_day(self, from: i64, to: i64) -> impl Iterator<Item = (Day, i128)> {
        let (mut at, end) = match self {
            Self::Counted { at, .. } => (at, at.saturating_add(1)),
            Self::Level { starts_at, ends_at, .. } => (starts_at, ends_at),
        };
        at = at.max(from);
        let end = end.min(to);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let number = at.div_euclid(DAY);
            let next = ((number + 1) * DAY).min(end);
            let weight = match self {
                Self::Counted { quantity, .. } => i128::from(quantity),
                Self::Level { level, .. } => i128::from(level) * i128::from(next - at),
            };
            at = next;
            Some((Day::from_epoch(i32::try_from(number).ok()?)?, weight))
        })
        .filter(|(_, weight)| *weight != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    fn start(of: Day) -> i64 {
        i64::from(of.epoch()) * DAY
    }

    fn level(level: i64, starts_at: i64, ends_at: i64) -> Measurement {
        Measurement::Level { level, starts_at, ends_at }
    }

    fn weights(all: &[Measurement], from: i64, to: i64) -> BTreeMap<Day, i128> {
        let mut sums = BTreeMap::new();
        for (day, weight) in all.iter().flat_map(|m| m.by_day(from, to)) {
            *sums.entry(day).or_default() += weight;
        }
        sums
    }

    #[test]
    fn units_are_those_of_the_bill() {
        let quantity = |accrues: Accrues, weight, of: &str| accrues.quantity(weight, day(of)).unwrap().to_string();
        assert_eq!(quantity(Accrues::AttendeeMinutes, 3 * 90, "2026-11-29"), "4.5");
        assert_eq!(quantity(Accrues::AttendeeMinutes, 1, "2026-11-29"), "0.0166666667");
        // a GB for all of a month is one GB-month, in each month
        for (of, days) in [("2026-02-11", 28), ("2028-02-11", 29), ("2026-11-29", 30), ("2026-10-01", 31)] {
            assert_eq!(quantity(Accrues::GbMonths, GB * 86_400 * days, of), "1", "{of}");
        }
        assert_eq!(quantity(Accrues::GbMonths, GB * 86_400, "2026-11-29"), "0.0333333333");
        assert_eq!(quantity(Accrues::Gb, GB * 5 / 2, "2026-11-29"), "2.5");
        assert_eq!(quantity(Accrues::Gb, 0, "2026-11-29"), "0");
        assert!(Accrues::Gb.quantity(i128::MAX, day("2026-11-29")).is_err());
        for accrues in [Accrues::AttendeeMinutes, Accrues::GbMonths, Accrues::Gb] {
            assert_eq!(Accrues::named(accrues.name()), Some(accrues));
        }
        assert_eq!(Accrues::named("hours"), None);
    }

    #[test]
    fn a_use_is_cut_at_midnight_and_at_the_window() {
        let midnight = start(day("2026-11-30"));
        let all = i64::MIN..i64::MAX;
        let use_of = |from: i64, to: i64| weights(&[level(2, midnight + from, midnight + to)], all.start, all.end);
        let (before, after) = (day("2026-11-29"), day("2026-11-30"));
        assert_eq!(use_of(-60, 30), [(before, 120), (after, 60)].into());
        assert_eq!(use_of(-60, 0), [(before, 120)].into());
        assert_eq!(use_of(0, 86_400), [(after, 172_800)].into());
        for nothing in [use_of(0, 0), use_of(10, -10), weights(&[level(0, 0, 1000)], all.start, all.end)] {
            assert_eq!(nothing, BTreeMap::new());
        }
        let cut = weights(&[level(2, midnight - 60, midnight + 30)], midnight - 10, midnight + 5);
        assert_eq!(cut, [(before, 20), (after, 10)].into());
        // an instant belongs to the day that begins with it
        let counted = Measurement::Counted { quantity: 7, at: midnight };
        assert_eq!(weights(&[counted], all.start, all.end), [(after, 7)].into());
        assert_eq!(weights(&[counted], midnight, midnight + 1), [(after, 7)].into());
        assert_eq!(weights(&[counted], midnight - 9, midnight), BTreeMap::new());
        assert_eq!(weights(&[counted], midnight + 1, all.end), BTreeMap::new());
    }

    #[test]
    fn the_largest_rows_do_not_overflow() {
        let most = 1_000_000_000_000_000;
        let month = level(most, start(day("2026-11-01")), start(day("2026-12-01")));
        let sums = weights(&vec![month; 1000], i64::MIN, i64::MAX);
        assert_eq!(sums.len(), 30);
        for (day, weight) in sums {
            Accrues::AttendeeMinutes.quantity(weight, day).unwrap();
        }
    }

    proptest! {
        /// However a use is cut, its parts are the whole, and so the rounded sums are equal, too.
        #[test]
        fn cuts_change_no_sum(
            size in 0..10_000_000_000_i64,
            from in 0..3_000_000_i64,
            length in 0..400_000_i64,
            mut cuts in prop::collection::vec(0..3_400_000_i64, 0..6),
        ) {
            let (from, to) = (1_700_000_000 + from, 1_700_000_000 + from + length);
            cuts.iter_mut().for_each(|cut| *cut = (1_700_000_000 + *cut).clamp(from, to));
            cuts.extend([from, to]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|two| level(size, two[0], two[1])).collect();
            let whole = weights(&[level(size, from, to)], i64::MIN, i64::MAX);
            prop_assert_eq!(&weights(&parts, i64::MIN, i64::MAX), &whole);
            // and so do windows
            let mut windows: BTreeMap<Day, i128> = BTreeMap::new();
            for two in cuts.windows(2) {
                for (day, weight) in level(size, from, to).by_day(two[0], two[1]) {
                    *windows.entry(day).or_default() += weight;
                }
            }
            prop_assert_eq!(&windows, &whole);
            let all: i128 = whole.values().sum();
            prop_assert_eq!(all, i128::from(size) * i128::from(length));
        }

        /// Against a model that looks at each second.
        #[test]
        fn a_use_is_what_its_seconds_are(
            uses in prop::collection::vec((0..5_i64, -200..200_i64, -200..200_i64), 0..6),
            counted in prop::collection::vec((0..5_i64, -200..200_i64), 0..6),
            from in -200..200_i64,
            to in -200..200_i64,
        ) {
            let midnight = start(day("2026-03-01"));
            let (from, to) = (midnight + from, midnight + to);
            let mut model: BTreeMap<Day, i128> = BTreeMap::new();
            for second in from..to {
                let of = Day::from_epoch(i32::try_from(second.div_euclid(DAY)).unwrap()).unwrap();
                let running = uses.iter().filter(|(_, start, end)| (midnight + start..midnight + end).contains(&second));
                let at = counted.iter().filter(|(_, at)| midnight + at == second);
                let sum: i64 = running.map(|(level, ..)| level).sum::<i64>() + at.map(|(n, _)| n).sum::<i64>();
                if sum > 0 {
                    *model.entry(of).or_default() += i128::from(sum);
                }
            }
            let uses = uses.iter().map(|(size, start, end)| level(*size, midnight + start, midnight + end));
            let counted = counted.iter().map(|(n, at)| Measurement::Counted { quantity: *n, at: midnight + at });
            prop_assert_eq!(weights(&uses.chain(counted).collect::<Vec<_>>(), from, to), model);
        }
    }
}
