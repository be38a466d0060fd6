//! The tables of the aggregator's sums: a cell for each customer, meter and day.

use std::collections::BTreeMap;

use books::units::quantity::CELL_LIMIT;

/// Days of the longest month.
const DAYS: usize = 31;

/// A number as a place in a table.
pub(super) fn idx(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A place in a table as a number. A table of 4 billion entries does not fit into memory.
pub(super) fn id(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The largest amount that fits into a cell of the ledger after a meter's factor.
pub(super) fn largest(mantissa: i128, scale: u32) -> i128 {
    let unscaled = 10_i128.checked_pow(scale).and_then(|one| i128::from(CELL_LIMIT).checked_mul(one));
    unscaled.map_or(i128::MAX, |limit| limit / mantissa.abs().max(1))
}

/// What the tables of a bill are laid out by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) meters: usize,
    /// First day of the month, since 1970.
    pub(super) first_day: i32,
}

/// A cell of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) customer: u32,
    pub(super) meter: u8,
    /// Day of the month, from 0.
    pub(super) day: usize,
}

/// Sums for each customer, meter and day of the month. A customer that used a meter has a block of
/// days for it.
///
/// Reading a large bill mostly waits for the memory of these cells, so they are 64 bits wide.
/// Amounts that do not fit go to `overflow`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// By customer × meters + meter: block number + 1, or 0.
    pub(super) blocks_of: Vec<u32>,
    pub(super) blocks: Vec<[i64; DAYS]>,
    /// By customer, meter, day: usage of days outside the month (AWS bills late usage with a later
    /// month), and amounts that do not fit into their cell.
    pub(super) overflow: BTreeMap<(u32, u8, i32), i128>,
}

impl Sums {
    /// Adds to a day of the month.
    #[inline]
    pub(super) fn add(&mut self, shape: Shape, Place { customer, meter, day }: Place, amount: i128) {
        let place = idx(customer) * shape.meters + usize::from(meter);
        if place >= self.blocks_of.len() {
            self.blocks_of.resize(place + 1, 0);
        }
        if self.blocks_of[place] == 0 {
            self.blocks.push([0; DAYS]);
            self.blocks_of[place] = id(self.blocks.len());
        }
        let cell = &mut self.blocks[idx(self.blocks_of[place]) - 1][day];
        match i64::try_from(amount).ok().and_then(|amount| cell.checked_add(amount)) {
            Some(sum) => *cell = sum,
            None => {
                let day = shape.first_day + i32::try_from(day).unwrap_or(0);
                *self.overflow.entry((customer, meter, day)).or_default() += amount;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_too_small_for_its_sum_loses_nothing() {
        let mut sums = Sums::default();
        let large = i128::from(i64::MAX) - 5;
        for amount in [large, 3, large, i128::MAX / 4, -large, 7] {
            sums.add(Shape { meters: 2, first_day: 100 }, Place { customer: 1, meter: 1, day: 30 }, amount);
        }
        let kept = i128::from(sums.blocks[0][30]) + sums.overflow[&(1, 1, 130)];
        assert_eq!(kept, large + 10 + i128::MAX / 4);
        assert_eq!(sums.blocks.len(), 1);
    }
}
