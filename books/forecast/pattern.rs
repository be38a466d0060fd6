//! The weekdays of a meter, and a mean that an outlier does not move. Pure.

use super::ONE;

/// Whole weeks that the factors are made of, at most.
const WEEKS: usize = 12;
/// With fewer, every weekday counts the same.
const LEAST_WEEKS: usize = 4;
/// No weekday counts for less than this, so that dividing by it stays harmless.
const LEAST_FACTOR: i128 = ONE / 50;
/// A day above so many times the typical used day counts as so many of it.
const OUTLIER: i128 = 4;
/// Used days from which on a day can be called an outlier.
const LEAST_USED: usize = 5;
const WEEK: usize = 7;

/// How a day of the week compares with the average day. The days of a history are numbered from its
/// first one; only the number modulo 7 matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekdayFactors([i128; WEEK]);

impl WeekdayFactors {
    /// Every day counts the same.
    pub const FLAT: Self = Self([ONE; WEEK]);

    /// Of all usage of a meter, from the newest whole weeks: the median of each weekday's share.
    pub fn of(all: &[i128]) -> Self {
        let (first, mut shares) = (all.len() % WEEK, [const { vec![] }; WEEK]);
        let weeks: Vec<(usize, &[i128])> = all[first..].chunks_exact(WEEK).enumerate().collect();
        for (n, week) in &weeks[weeks.len().saturating_sub(WEEKS)..] {
            let sum: i128 = week.iter().map(|used| (*used).max(0)).sum();
            for (of_week, used) in week.iter().enumerate().filter(|_| sum > 0) {
                shares[(first + n * WEEK + of_week) % WEEK].push((*used).max(0) * ONE * 7 / sum);
            }
        }
        if shares[0].len() < LEAST_WEEKS {
            return Self::FLAT;
        }
        let factors = shares.map(|mut of| median(&mut of).max(LEAST_FACTOR));
        let sum: i128 = factors.iter().sum();
        Self(factors.map(|factor| factor * ONE * 7 / sum))
    }

    /// Of the day with this number.
    pub fn at(&self, day: usize) -> i128 {
        self.0[day % WEEK]
    }
}

/// The middle value, the lower one of two; 0 of none.
pub fn median(values: &mut [i128]) -> i128 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// The mean of values with weights. What lies far above the median of the used days is cut, so that
/// one wrong day moves the mean little; days without usage count, because usage may be rare.
pub fn robust_mean(values: &[(i128, i128)]) -> i128 {
    let mut used: Vec<i128> = values.iter().map(|(value, _)| *value).filter(|value| *value > 0).collect();
    let most = if used.len() < LEAST_USED { i128::MAX } else { median(&mut used).saturating_mul(OUTLIER) };
    let weight: i128 = values.iter().map(|(_, weight)| weight).sum();
    let sum: i128 = values.iter().map(|(value, weight)| (*value).clamp(0, most) * weight).sum();
    if weight > 0 { sum / weight } else { 0 }
}
