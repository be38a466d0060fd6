//! The lines of one customer, kept while a bill is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use books::store::erased::ErasedIds;
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use books::usage::meter::Rules;

/// Which lines are listed.
#[derive(Clone, Debug)]
pub struct WantedLines {
    pub customer: String,
    /// AWS's files still have the ids of customers who were erased.
    pub erased: ErasedIds,
    /// Names of meters.
    pub meters: Vec<String>,
    pub first: Day,
    pub last: Day,
    /// So many are kept, by their place in the files; the others are only summed.
    pub most: usize,
}

/// The place of a line: file, row group (none in CSV), and row, or in CSV the line of the file.
pub(crate) type LinePlace = (Arc<str>, Option<usize>, u64);

/// A counted line.
#[derive(Clone, Debug)]
pub(crate) struct ListedLine {
    pub(crate) place: LinePlace,
    pub(crate) meter: u8,
    /// Since 1970.
    pub(crate) day: i32,
    /// When the usage began, in seconds since 1970.
    pub(crate) start: i64,
    pub(crate) amount: i128,
    pub(crate) product: Arc<str>,
    pub(crate) usage_type: Arc<str>,
    pub(crate) unit: Arc<str>,
    /// None while nobody has looked it up, or when the file has no such column.
    pub(crate) resource: Option<String>,
}

/// Lines of a meter and day.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LineSum {
    pub(crate) lines: u64,
    pub(crate) amount: i128,
}

/// The lines that were found so far.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    wanted: Arc<WantedLines>,
    /// By number of the meter.
    is_wanted: Vec<bool>,
    days: std::ops::RangeInclusive<i32>,
    pub(crate) lines: BTreeMap<LinePlace, ListedLine>,
    /// By meter and day, of all lines.
    pub(crate) sums: BTreeMap<(u8, i32), LineSum>,
}

impl Listing {
    pub(crate) fn new(wanted: Arc<WantedLines>, rules: &Rules) -> Self {
        let is_wanted = rules.meters.iter().map(|meter| wanted.meters.contains(&meter.name)).collect();
        let days = wanted.first.epoch()..=wanted.last.epoch();
        Self { wanted, is_wanted, days, lines: BTreeMap::new(), sums: BTreeMap::new() }
    }

    pub(super) fn wants(&self, customer: &str, meter: u8, day: i32) -> bool {
        let is_own = || self.wanted.erased.pseudonym(customer).unwrap_or(customer) == self.wanted.customer;
        self.days.contains(&day) && self.is_wanted[usize::from(meter)] && is_own()
    }

    pub(super) fn add(&mut self, line: ListedLine) {
        let sum = self.sums.entry((line.meter, line.day)).or_default();
        sum.lines += 1;
        sum.amount += line.amount;
        self.keep(line);
    }

    /// Keeps a line if it is one of the first.
    fn keep(&mut self, line: ListedLine) {
        let is_full = self.lines.len() >= self.wanted.most;
        if is_full && self.lines.last_key_value().is_none_or(|(last, _)| *last < line.place) {
            return;
        }
        self.lines.insert(line.place.clone(), line);
        if is_full {
            self.lines.pop_last();
        }
    }

    /// Adds the lines of another part of the bill.
    pub(super) fn merge(&mut self, other: &Self) {
        for (of, theirs) in &other.sums {
            let own = self.sums.entry(*of).or_default();
            own.lines += theirs.lines;
            own.amount += theirs.amount;
        }
        other.lines.values().for_each(|line| self.keep(line.clone()));
    }
}

impl ListedLine {
    pub(crate) fn amount(&self) -> Quantity {
        Quantity::from_scaled(self.amount)
    }
}
