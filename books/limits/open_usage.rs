//! What was measured of a customer on open days, now and later: what runs goes on. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::limits::settled::beyond_bill;
use crate::measured::accrual::Accrues;
use crate::store::error::BooksError;
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

const DAY: i64 = 86_400;

/// What measurements add to the bill, by meter and day.
pub type MeasuredAdds = BTreeMap<(String, Day), Quantity>;

/// A customer's measured usage of the current billing period. Weights are in the smallest unit of
/// the meter.
#[derive(Clone, Debug)]
pub struct MeasuredUsage {
    /// Up to the instant at which it was read.
    pub(super) days: Vec<OpenDay>,
    /// What follows, in order.
    pub(super) edges: Vec<Edge>,
    /// The day of the reading, and the last one of the period.
    pub(super) read_on: Day,
    pub(super) last_day: Day,
    pub(super) accrues: BTreeMap<String, Accrues>,
}

/// An open day of a meter.
#[derive(Clone, Debug)]
pub(super) struct OpenDay {
    pub(super) meter: String,
    pub(super) day: Day,
    pub(super) weight: i128,
    pub(super) billed: Quantity,
}

/// An instant from which on more or less of a meter runs, or at which something is counted.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    pub(super) meter: String,
    /// In seconds.
    pub(super) at: i64,
    /// How much more runs from then on.
    pub(super) level: i128,
    pub(super) quantity: i128,
}

type Weights<'a> = BTreeMap<(&'a str, Day), (i128, Quantity)>;

impl MeasuredUsage {
    /// Adds to what the bill has of an open day.
    pub(super) fn bill(&mut self, meter: &str, day: Day, change: Quantity) {
        for of in self.days.iter_mut().filter(|of| of.meter == meter && of.day == day) {
            of.billed += change;
        }
    }

    /// True when it changes by time alone.
    pub fn runs(&self) -> bool {
        !self.edges.is_empty()
    }

    /// The next instant after `now` at which more or less runs, or a quantity counts: it does so in
    /// the second after its own.
    pub fn next_edge(&self, now: i64) -> Option<i64> {
        let level = self.edges.iter().filter(|edge| edge.level != 0 && edge.at > now).map(|edge| edge.at);
        let quantity = self.edges.iter().filter(|edge| edge.quantity > 0).map(|edge| edge.at + 1);
        level.chain(quantity).min()
    }

    /// What measurements add to the bill at an instant that is not before the reading, if nothing
    /// else is reported until then. It never falls. What adds nothing is left out.
    ///
    /// # Errors
    /// When the usage of a day does not fit into 128 bits.
    pub fn adds_at(&self, at: i64) -> Result<MeasuredAdds, BooksError> {
        let weights = self.days.iter().map(|of| ((of.meter.as_str(), of.day), (of.weight, of.billed)));
        let mut days: Weights<'_> = weights.collect();
        let mut running: BTreeMap<&str, (i64, i128)> = BTreeMap::new();
        for edge in self.edges.iter().filter(|edge| edge.at < at) {
            let (since, level) = running.entry(&edge.meter).or_insert((edge.at, 0));
            self.add(&mut days, &edge.meter, *level, *since..edge.at);
            (*since, *level) = (edge.at, *level + edge.level);
            self.add(&mut days, &edge.meter, edge.quantity, edge.at..edge.at + 1);
        }
        for (meter, (since, level)) in running {
            self.add(&mut days, meter, level, since..at);
        }
        let adds = days.into_iter().filter_map(|((meter, day), (weight, billed))| {
            let measured = self.accrues.get(meter)?.quantity(weight, day);
            let adds = measured.map(|measured| beyond_bill(measured, billed));
            let wrong = |e| BooksError::Integrity(format!("measured usage of {meter}, {day}: {e}"));
            Some(adds.map(|adds| ((meter.to_owned(), day), adds)).map_err(wrong))
        });
        adds.filter(|of| !matches!(of, Ok((_, adds)) if adds.is_zero())).collect()
    }

    /// Adds a level that runs for some seconds.
    fn add<'a>(&'a self, days: &mut Weights<'a>, meter: &'a str, level: i128, seconds: Range<i64>) {
        let mut from = seconds.start;
        while level != 0 && from < seconds.end {
            let number = from.div_euclid(DAY);
            let to = ((number + 1) * DAY).min(seconds.end);
            let day = i32::try_from(number).ok().and_then(Day::from_epoch).filter(|day| *day <= self.last_day);
            let of = day.and_then(|day| match day > self.read_on {
                // no bill has anything of it
                true => Some(days.entry((meter, day)).or_default()),
                // one that was not read is settled
                false => days.get_mut(&(meter, day)),
            });
            if let Some((weight, _)) = of {
                *weight += level * i128::from(to - from);
            }
            from = to;
        }
    }
}
