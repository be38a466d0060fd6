//! An aggregator as bytes: the sums that one worker read from some files, for the worker that
//! merges all of them.
//!
//! The form is JSON under zlib: texts by number, sums in 10⁻¹⁰ units. The bytes stay in the
//! database for hours, so they have a version number and no compatibility: parts of another version
//! are read anew. Rows are arrays, because a large part has a million of them.

use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::fault::{Faults, Group};
use super::seen::Seen;
use super::{FaultKind, GroupKey, UsageAggregator};
use crate::ingest_cur::sums::{Place, id, idx};
use books::units::calendar::Month;
use books::usage::meter::Rules;

/// Must be changed whenever the form changes, or what may be in it.
pub(crate) const PARTIAL_SUMS_VERSION: u32 = 7;
/// Bytes of unpacked text; a longer text is refused.
const LARGEST: u64 = 4 << 30;

/// Product, usage type, line type, unit, lines, tagged lines, sum.
type GroupRow = (u32, u32, u32, u32, u64, u64, i128);

/// Customer, meter, and the days with a sum that is not 0.
type BlockRow = (u32, u8, Vec<(usize, i64)>);

#[derive(Serialize, Deserialize)]
struct Partial {
    form: u32,
    names: Vec<String>,
    line_groups: Vec<GroupRow>,
    customers: Vec<String>,
    blocks: Vec<BlockRow>,
    /// Customer, meter, day since 1970, sum.
    overflow: Vec<(u32, u8, i32, i128)>,
    counted_rows: u64,
    rounded: u64,
    out_of_month_lines: u64,
    long_lines: u64,
    seen: Seen,
    /// Meter, kind, and the faulty lines.
    faults: Vec<(u8, FaultKind, Group)>,
    /// Numbers of the currencies, in sums of costs.
    currencies: Vec<u32>,
    costs: Option<Box<Partial>>,
}

impl UsageAggregator {
    pub(crate) fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut packed = ZlibEncoder::new(vec![], Compression::fast());
        serde_json::to_writer(&mut packed, &self.partial())?;
        packed.flush()?;
        packed.finish()
    }

    fn partial(&self) -> Partial {
        let meters = self.rules.meters.len().max(1);
        let block = |(place, block): (usize, &u32)| {
            let days = self.sums.blocks[idx(*block) - 1].iter().copied().enumerate().filter(|(_, sum)| *sum != 0);
            (id(place / meters), u8::try_from(place % meters).unwrap_or(u8::MAX), days.collect())
        };
        let line_group = |s: &super::LineGroup| {
            let k = s.key;
            (k.product, k.usage_type, k.line_type, k.unit, s.lines, s.tagged, s.sum)
        };
        Partial {
            form: PARTIAL_SUMS_VERSION,
            names: self.names.texts.iter().map(ToString::to_string).collect(),
            line_groups: self.line_groups.iter().map(line_group).collect(),
            customers: self.customers.texts.iter().map(ToString::to_string).collect(),
            blocks: self.sums.blocks_of.iter().enumerate().filter(|(_, b)| **b != 0).map(block).collect(),
            overflow: self.sums.overflow.iter().map(|((c, m, d), sum)| (*c, *m, *d, *sum)).collect(),
            counted_rows: self.counted_rows,
            rounded: self.rounded,
            out_of_month_lines: self.out_of_month_lines,
            long_lines: self.long_lines,
            seen: self.seen.clone(),
            faults: self.faults.0.iter().map(|((meter, kind), group)| (*meter, *kind, group.clone())).collect(),
            currencies: self.money.iter().flat_map(|money| money.currencies.iter().copied()).collect(),
            costs: self.costs.as_ref().map(|costs| Box::new(costs.partial())),
        }
    }

    /// Unpacks an aggregator of the same rules and month.
    ///
    /// # Errors
    /// When the bytes are not those of [`UsageAggregator::pack`].
    pub(crate) fn unpack(rules: Arc<Rules>, month: Month, packed: &[u8]) -> Result<Self, String> {
        let mut text = vec![];
        ZlibDecoder::new(packed).take(LARGEST).read_to_end(&mut text).map_err(|e| e.to_string())?;
        let partial: Partial = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        if partial.form != PARTIAL_SUMS_VERSION {
            return Err(format!("form {} where {PARTIAL_SUMS_VERSION} is known", partial.form));
        }
        let mut aggregator = Self::new(rules, month);
        aggregator.put_in(partial)?;
        Ok(aggregator)
    }

    /// Puts stored sums into an empty aggregator.
    fn put_in(&mut self, partial: Partial) -> Result<(), String> {
        let aggregator = self;
        match (&mut aggregator.costs, partial.costs) {
            (None, None) => {}
            (Some(costs), Some(stored)) => costs.put_in(*stored)?,
            _ => return Err("it has costs that the rules do not sum, or lacks them".to_owned()),
        }
        let names: Vec<u32> = partial.names.iter().map(|text| aggregator.names.intern(text)).collect();
        let customers: Vec<u32> = partial.customers.iter().map(|text| aggregator.customers.intern(text)).collect();
        let unknown = |what: &str, n: u32| format!("{what} number {n} has no name");
        let name = |n: u32| names.get(idx(n)).copied().ok_or_else(|| unknown("text", n));
        let customer = |n: u32| customers.get(idx(n)).copied().ok_or_else(|| unknown("customer", n));
        for (product, usage_type, line_type, unit, lines, tagged, sum) in partial.line_groups {
            let key = GroupKey {
                product: name(product)?,
                usage_type: name(usage_type)?,
                line_type: name(line_type)?,
                unit: name(unit)?,
            };
            let place = aggregator.line_group(key);
            let line_group = &mut aggregator.line_groups[idx(place)];
            line_group.lines += lines;
            line_group.tagged += tagged;
            line_group.sum += sum;
        }
        let (shape, meters) = (aggregator.shape(), aggregator.rules.meters.len());
        let days = usize::try_from(aggregator.days).unwrap_or(0);
        for (of, meter, sums) in partial.blocks {
            let of = customer(of)?;
            if usize::from(meter) >= meters || sums.iter().any(|(day, _)| *day >= days) {
                return Err(format!("meter {meter} or a day of it does not exist"));
            }
            // creates the block even if all its days are 0: `overflow` may have amounts for it
            aggregator.sums.add(shape, Place { customer: of, meter, day: 0 }, 0);
            for (day, sum) in sums {
                aggregator.sums.add(shape, Place { customer: of, meter, day }, i128::from(sum));
            }
        }
        for (of, meter, day, sum) in partial.overflow {
            if usize::from(meter) >= meters {
                return Err(format!("meter {meter} does not exist"));
            }
            *aggregator.sums.overflow.entry((customer(of)?, meter, day)).or_default() += sum;
        }
        aggregator.counted_rows = partial.counted_rows;
        aggregator.rounded = partial.rounded;
        aggregator.out_of_month_lines = partial.out_of_month_lines;
        aggregator.long_lines = partial.long_lines;
        aggregator.seen.merge(&partial.seen);
        if let Some((meter, ..)) = partial.faults.iter().find(|(meter, ..)| usize::from(*meter) >= meters) {
            return Err(format!("meter {meter} does not exist"));
        }
        aggregator.faults =
            Faults(partial.faults.into_iter().map(|(meter, kind, group)| ((meter, kind), group)).collect());
        if let Some(money) = &mut aggregator.money {
            for code in partial.currencies {
                money.currencies.insert(names.get(idx(code)).copied().ok_or_else(|| unknown("text", code))?);
            }
        }
        Ok(())
    }
}
