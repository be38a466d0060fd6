//! The day on which an amount will be used up. Pure.

use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// A customer's usage of a billing period, and what is expected of its other days.
#[derive(Clone, Debug)]
pub struct UsagePath {
    /// Used on settled days of the period.
    pub settled: Quantity,
    /// Used by now, with what was measured.
    pub used: Quantity,
    pub today: Day,
    /// The days of the period that are not settled, in order: the larger one of what is expected
    /// and what is booked.
    pub days: Vec<(Day, Quantity)>,
}

impl UsagePath {
    /// The first day, from today on, after which `amount` is used up; the day before today when it
    /// is used up already. None when it lasts longer than the period, or when it is 0.
    pub fn uses_up(&self, amount: Quantity) -> Option<Day> {
        if amount <= Quantity::ZERO {
            return None;
        }
        if self.used >= amount {
            return Some(Day::from_epoch(self.today.epoch() - 1).unwrap_or(self.today));
        }
        let mut sum = self.settled;
        for (day, quantity) in &self.days {
            sum += *quantity;
            if *day == self.today {
                sum = sum.max(self.used);
            }
            if sum >= amount {
                return Some((*day).max(self.today));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::quantity::UNIT;

    #[test]
    fn the_day_is_the_first_from_today_on_that_uses_it_up() {
        let units = |n: i128| Quantity::from_scaled(n * UNIT);
        let day = |text: &str| text.parse::<Day>().unwrap();
        let days = [("2026-11-28", 10), ("2026-11-29", 10), ("2026-11-30", 20), ("2026-12-01", 10)];
        let path = |settled, used| UsagePath {
            settled: units(settled),
            used: units(used),
            today: day("2026-11-29"),
            days: days.map(|(on, of)| (day(on), units(of))).to_vec(),
        };
        for (settled, used, amount, on) in [
            (100, 100, 0, None),
            (100, 100, 100, Some("2026-11-28")),
            // on a day that is over, and not settled
            (100, 100, 110, Some("2026-11-29")),
            (100, 100, 120, Some("2026-11-29")),
            (100, 100, 121, Some("2026-11-30")),
            (100, 100, 140, Some("2026-11-30")),
            (100, 100, 150, Some("2026-12-01")),
            (100, 100, 151, None),
            // more was measured than expected
            (100, 145, 150, Some("2026-11-30")),
            (100, 160, 150, Some("2026-11-28")),
        ] {
            assert_eq!(path(settled, used).uses_up(units(amount)), on.map(day), "{settled} {used} {amount}");
        }
    }
}
