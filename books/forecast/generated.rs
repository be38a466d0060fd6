//! Made-up usage of a meter: weekdays, growth, churn, new customers and outliers, from one seed.

use crate::units::calendar::Day;
use crate::units::quantity::UNIT;

/// The days that are made.
pub(super) const DAYS: usize = 182;

/// Chance without a float: xorshift64*.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to `below` - 1.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// About 1 in thousandths, with this spread.
    fn noise(&mut self, spread: u64) -> i128 {
        let one = |chance: &mut Self| i128::from(1_000 - spread / 2 + chance.below(spread + 1));
        one(self) * one(self) * one(self) / 1_000_000
    }
}

/// How the usage of a meter is.
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) customers: usize,
    /// By weekday, in thousandths; the first is that of the first day.
    week: [i128; 7],
    /// Of the day's noise, in thousandths.
    spread: u64,
    /// A customer's growth by day, in millionths, is between these.
    growth: (i128, i128),
    /// Percent of days without usage.
    rests: u64,
    /// Percent of days with ten times the usage.
    outliers: u64,
    /// Percent of customers that stop on some day, and that begin on some day.
    stop: u64,
    begin: u64,
}

const OFFICE: [i128; 7] = [1_250, 1_300, 1_350, 1_300, 1_150, 350, 300];
const FLAT: [i128; 7] = [1_000; 7];
const EVENINGS: [i128; 7] = [800, 800, 850, 900, 1_100, 1_350, 1_200];

pub(super) const WORLDS: [World; 5] = [
    World {
        name: "steady",
        customers: 150,
        week: FLAT,
        spread: 300,
        growth: (0, 0),
        rests: 0,
        outliers: 0,
        stop: 0,
        begin: 0,
    },
    World {
        name: "weekdays",
        customers: 150,
        week: OFFICE,
        spread: 500,
        growth: (-1_000, 1_000),
        rests: 0,
        outliers: 0,
        stop: 0,
        begin: 0,
    },
    World {
        name: "growth",
        customers: 150,
        week: EVENINGS,
        spread: 500,
        growth: (3_000, 9_000),
        rests: 0,
        outliers: 0,
        stop: 0,
        begin: 20,
    },
    World {
        name: "outliers",
        customers: 150,
        week: OFFICE,
        spread: 700,
        growth: (-2_000, 3_000),
        rests: 10,
        outliers: 2,
        stop: 0,
        begin: 0,
    },
    World {
        name: "churn",
        customers: 200,
        week: OFFICE,
        spread: 700,
        growth: (-2_000, 4_000),
        rests: 25,
        outliers: 1,
        stop: 35,
        begin: 35,
    },
];

/// The first day of all histories, a Monday.
pub(super) fn first() -> Day {
    "2026-05-25".parse().unwrap()
}

impl World {
    /// The usage of each customer by day, in scaled units.
    pub(super) fn histories(&self, seed: u64) -> Vec<Vec<i128>> {
        let mut chance = Chance::new(seed ^ u64::try_from(self.name.len()).unwrap());
        (0..self.customers).map(|_| self.customer(&mut chance)).collect()
    }

    fn customer(&self, chance: &mut Chance) -> Vec<i128> {
        // sizes over three decades
        let decade = 10_i128.pow(u32::try_from(chance.below(3)).unwrap());
        let mut level = i128::from(100 + chance.below(900)) * decade * UNIT / 100;
        let grows = self.growth.0 + i128::from(chance.below(u64::try_from(self.growth.1 - self.growth.0).unwrap() + 1));
        let any_day = |chance: &mut Chance| usize::try_from(chance.below(u64::try_from(DAYS).unwrap())).unwrap();
        let begins = if chance.percent(self.begin) { any_day(chance) } else { 0 };
        let ends = if chance.percent(self.stop) { any_day(chance) } else { DAYS };
        let day = |n: usize| {
            level += level * grows / 1_000_000;
            let (rests, outlier) = (chance.percent(self.rests), chance.percent(self.outliers));
            let used = level * self.week[n % 7] / 1_000 * chance.noise(self.spread) / 1_000;
            let used = if outlier { used * 10 } else { used };
            if rests || n < begins || n >= ends { 0 } else { used }
        };
        (0..DAYS).map(day).collect()
    }
}

/// The sum of all customers by day.
pub(super) fn all(histories: &[Vec<i128>]) -> Vec<i128> {
    (0..histories[0].len()).map(|day| histories.iter().map(|of| of[day]).sum()).collect()
}
