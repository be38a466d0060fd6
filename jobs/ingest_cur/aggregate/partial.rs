//! A fold on its way through the database: what one worker found in some files, for the worker that merges all of it.
//!
//! The form is JSON under zlib: texts by number, sums as whole numbers of 10⁻¹⁰. It never leaves the database and lives for hours, so it
//! has a version number and nothing more; parts of another version are read anew.

use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use super::{UsageAggregator, GroupKey};
use crate::books::meter::Rules;
use crate::books::calendar::Month;
use crate::ingest_cur::sums::{at, number};

/// Changes whenever the form does.
pub(crate) const PARTIAL_SUMS_VERSION: u32 = 1;
/// A part that unpacks to more than this is not one of ours.
const LARGEST: u64 = 4 << 30;

/// Product, usage type, line type, unit, lines, tagged lines, sum.
type GroupRow = (u32, u32, u32, u32, u64, u64, i128);

/// Customer, meter, and the days that are not 0.
type BlockRow = (u32, u8, Vec<(usize, i64)>);

#[derive(Serialize, Deserialize)]
struct Partial {
    form: u32,
    names: Vec<String>,
    slots: Vec<GroupRow>,
    customers: Vec<String>,
    blocks: Vec<BlockRow>,
    /// Customer, meter, day since 1970, sum.
    overflow: Vec<(u32, u8, i32, i128)>,
    matched: u64,
    rounded: u64,
    stray_lines: u64,
}

impl UsageAggregator {
    /// Packs the fold.
    ///
    /// # Errors
    /// None that the caller could do anything about.
    pub(crate) fn pack(&self) -> std::io::Result<Vec<u8>> {
        let meters = self.rules.meters.len().max(1);
        let block = |(place, block): (usize, &u32)| {
            let days = self.sums.blocks[at(*block) - 1].iter().copied().enumerate().filter(|(_, sum)| *sum != 0);
            (number(place / meters), u8::try_from(place % meters).unwrap_or(u8::MAX), days.collect())
        };
        let slot = |s: &super::LineGroup| {
            let k = s.key;
            (k.product, k.usage_type, k.line_type, k.unit, s.lines, s.tagged, s.sum)
        };
        let partial = Partial {
            form: PARTIAL_SUMS_VERSION,
            names: self.names.texts.iter().map(ToString::to_string).collect(),
            slots: self.slots.iter().map(slot).collect(),
            customers: self.customers.texts.iter().map(ToString::to_string).collect(),
            blocks: self.sums.blocks_of.iter().enumerate().filter(|(_, b)| **b != 0).map(block).collect(),
            overflow: self.sums.overflow.iter().map(|((c, m, d), sum)| (*c, *m, *d, *sum)).collect(),
            matched: self.matched,
            rounded: self.rounded,
            stray_lines: self.stray_lines,
        };
        let mut packed = ZlibEncoder::new(vec![], Compression::fast());
        serde_json::to_writer(&mut packed, &partial)?;
        packed.flush()?;
        packed.finish()
    }

    /// Unpacks a fold of the same rules and month.
    ///
    /// # Errors
    /// When the bytes are not what [`UsageAggregator::pack`] writes.
    pub(crate) fn unpack(rules: Arc<Rules>, month: Month, packed: &[u8]) -> Result<Self, String> {
        let mut text = vec![];
        ZlibDecoder::new(packed).take(LARGEST).read_to_end(&mut text).map_err(|e| e.to_string())?;
        let partial: Partial = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        if partial.form != PARTIAL_SUMS_VERSION {
            return Err(format!("form {} where {PARTIAL_SUMS_VERSION} is known", partial.form));
        }
        let mut fold = Self::new(rules, month);
        let names: Vec<u32> = partial.names.iter().map(|text| fold.names.number(text)).collect();
        let customers: Vec<u32> = partial.customers.iter().map(|text| fold.customers.number(text)).collect();
        let unknown = |what: &str, n: u32| format!("{what} number {n} has no name");
        let name = |n: u32| names.get(at(n)).copied().ok_or_else(|| unknown("text", n));
        let customer = |n: u32| customers.get(at(n)).copied().ok_or_else(|| unknown("customer", n));
        for (product, usage_type, line_type, unit, lines, tagged, sum) in partial.slots {
            let key = GroupKey {
                product: name(product)?,
                usage_type: name(usage_type)?,
                line_type: name(line_type)?,
                unit: name(unit)?,
            };
            let place = fold.slot(key);
            let slot = &mut fold.slots[at(place)];
            slot.lines += lines;
            slot.tagged += tagged;
            slot.sum += sum;
        }
        let meters = fold.rules.meters.len();
        let days = usize::try_from(fold.days).unwrap_or(0);
        for (of, meter, sums) in partial.blocks {
            let of = customer(of)?;
            if usize::from(meter) >= meters || sums.iter().any(|(day, _)| *day >= days) {
                return Err(format!("meter {meter} or a day of it does not exist"));
            }
            // makes the block even if all its days are 0: something may stand overflow it
            fold.sums.add(meters, fold.first_day, (of, meter, 0), 0);
            for (day, sum) in sums {
                fold.sums.add(meters, fold.first_day, (of, meter, day), i128::from(sum));
            }
        }
        for (of, meter, day, sum) in partial.overflow {
            if usize::from(meter) >= meters {
                return Err(format!("meter {meter} does not exist"));
            }
            *fold.sums.overflow.entry((customer(of)?, meter, day)).or_default() += sum;
        }
        fold.matched = partial.matched;
        fold.rounded = partial.rounded;
        fold.stray_lines = partial.stray_lines;
        Ok(fold)
    }
}
