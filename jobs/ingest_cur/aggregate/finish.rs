//! The end of a reading: what the sums of an aggregator add up to.

use std::collections::BTreeMap;

use super::mark::Mark;
use super::resource::pool;
use super::{Totals, UnknownLineType, UsageAggregator, UsageTooLarge};
use crate::ingest_cur::sums::{id, idx};
use books::shared_bucket::shares::BilledDay;
use books::units::calendar::Day;
use books::units::quantity::{Quantity, Rounding};
use books::usage::bill::{ClaimKind, LineKind, MeterTotals};
use books::usage::cost::booked_name;
use books::usage::ledger::{Cell, Cells, UNATTRIBUTED};
use books::usage::meter::LineClaim;

/// Cells of an aggregator, with the names of its meters.
#[derive(Default)]
struct Summed {
    meters: Vec<String>,
    cells: Vec<Cell>,
}

impl UsageAggregator {
    /// The sums.
    ///
    /// # Errors
    /// When a sum is too large to be booked.
    pub fn finish(mut self) -> Result<Totals, UsageTooLarge> {
        let mut totals = Totals {
            lines: self.lines(),
            counted_rows: self.counted_rows,
            rounded_amounts: self.rounded,
            out_of_month_lines: self.out_of_month_lines,
            long_lines: self.long_lines,
            seen: self.seen.clone(),
            unknown_line_types: self.unknown_line_types(),
            faults: self.faults.of(&self.rules),
            described: self.described.take().map(|described| described.0).unwrap_or_default(),
            ..Totals::default()
        };
        let mut summed = self.summed(&mut totals)?;
        if let Some(costs) = self.costs.take() {
            self.add_costs(*costs, &mut totals, &mut summed)?;
        }
        let customers: Vec<String> = self.customers.texts.iter().map(|t| t.to_string()).collect();
        drop(self);
        totals.observed = Cells::sorted(&customers, &summed.meters, summed.cells);
        totals.billed_days.sort();
        Ok(totals)
    }

    /// The cells, and the totals of each meter.
    fn summed(&self, totals: &mut Totals) -> Result<Summed, UsageTooLarge> {
        let mut meters = self.meter_totals();
        let mut cells = vec![];
        for (customer, meter, day, sum) in self.cells() {
            let (own, factor) = (&mut meters[usize::from(meter)], self.rules.meters[usize::from(meter)].factor);
            let billed = Quantity::from_scaled(sum);
            totals.newest_day = totals.newest_day.max(Some(day));
            if let Some((bucket, measure, class)) = pool(self.customers.text(customer)) {
                let (bucket, class) = (bucket.to_owned(), class.to_owned());
                totals.billed_days.push(BilledDay { bucket, meter: own.meter.clone(), measure, class, day, billed });
                continue;
            }
            if customer == 0 {
                own.unattributed += billed
            } else {
                own.attributed += billed
            }
            let too_large = |_| {
                let customer = match self.customers.text(customer) {
                    UNATTRIBUTED => "usage without a customer".to_owned(),
                    name => format!("customer {name}"),
                };
                let meter = self.rules.meters[usize::from(meter)].name.clone();
                UsageTooLarge { customer, meter, day, billed }
            };
            let (quantity, fit) = billed.times(factor).map_err(too_large)?;
            own.booked += quantity;
            totals.rounded_cells += u64::from(fit == Rounding::Rounded);
            if !quantity.is_zero() {
                cells.push(Cell {
                    customer,
                    meter: u32::from(meter),
                    day,
                    quantity: quantity.to_cell().map_err(too_large)?,
                });
            }
        }
        totals.meters = meters;
        Ok(Summed { meters: self.rules.meters.iter().map(|m| m.name.clone()).collect(), cells })
    }

    /// Adds what an aggregator of costs adds up to. Its long lines and days are those of usage, if
    /// they count at all: money decides nothing about a day.
    fn add_costs(&mut self, costs: Self, totals: &mut Totals, summed: &mut Summed) -> Result<(), UsageTooLarge> {
        let mut of_costs = Totals::default();
        let Summed { meters, cells } = costs.summed(&mut of_costs)?;
        totals.rounded_amounts += costs.rounded;
        totals.faults.extend(costs.faults.of(&costs.rules));
        totals.faults.sort_by(|a, b| (a.kind, &a.meter).cmp(&(b.kind, &b.meter)));
        for found in costs.unknown_line_types() {
            // a line that is usage of a meter, too, is in the list already
            match totals.unknown_line_types.iter_mut().find(|known| known.line_type == found.line_type) {
                Some(known) => known.lines = known.lines.max(found.lines),
                None => totals.unknown_line_types.push(found),
            }
        }
        totals.unknown_line_types.sort_by(|a, b| a.line_type.cmp(&b.line_type));
        // without a currency every cost is 0
        let Some(currency) = costs.currency() else { return Ok(()) };
        let first = id(summed.meters.len());
        summed.meters.extend(meters.iter().map(|meter| booked_name(meter, &currency)));
        let customers: Vec<u32> = costs.customers.texts.iter().map(|text| self.customers.intern(text)).collect();
        let own = |cell: Cell| Cell { customer: customers[idx(cell.customer)], meter: first + cell.meter, ..cell };
        summed.cells.extend(cells.into_iter().map(own));
        totals.meters.extend(of_costs.meters.into_iter().map(|of| MeterTotals {
            meter: booked_name(&of.meter, &currency),
            unit: currency.clone(),
            ..of
        }));
        let lines = costs.lines().into_iter().filter(|line| !line.meter.is_empty());
        totals.cost_lines = lines.map(|line| LineKind { meter: booked_name(&line.meter, &currency), ..line }).collect();
        Ok(())
    }

    /// All sums that are not 0, customer by customer.
    fn cells(&self) -> impl Iterator<Item = (u32, u8, Day, i128)> + '_ {
        let meters = self.rules.meters.len();
        let overflow = &self.sums.overflow;
        let blocks = self.sums.blocks_of.iter().enumerate().filter(|(_, b)| **b != 0);
        let in_month = blocks.flat_map(move |(place, block)| {
            let (customer, meter) = (id(place / meters), u8::try_from(place % meters).unwrap_or(u8::MAX));
            // a block has 31 days, also in a shorter month
            let days = (self.first_day..self.first_day + self.days).zip(&self.sums.blocks[idx(*block) - 1]);
            days.map(move |(day, sum)| {
                let more = if overflow.is_empty() { None } else { overflow.get(&(customer, meter, day)) };
                (customer, meter, day, i128::from(*sum) + more.unwrap_or(&0))
            })
        });
        // a day of the month that is in `overflow` has a block as well
        let month = self.first_day..self.first_day + self.days;
        let strays = overflow.iter().filter(move |((_, _, day), _)| !month.contains(day));
        let strays = strays.map(|((customer, meter, day), sum)| (*customer, *meter, *day, *sum));
        let all = in_month.chain(strays).filter(|c| c.3 != 0);
        all.filter_map(|(customer, meter, day, sum)| Some((customer, meter, Day::from_epoch(day)?, sum)))
    }

    /// Totals of each meter from its line groups. The caller adds the sums of the cells.
    fn meter_totals(&self) -> Vec<MeterTotals> {
        let empty = self.rules.meters.iter().map(|meter| MeterTotals {
            meter: meter.name.clone(),
            unit: meter.unit.clone(),
            lines: 0,
            total: Quantity::ZERO,
            attributed: Quantity::ZERO,
            apportioned: Quantity::ZERO,
            unattributed: Quantity::ZERO,
            excluded: Quantity::ZERO,
            booked: Quantity::ZERO,
        });
        let mut meters: Vec<_> = empty.collect();
        for line_group in &self.line_groups {
            let (LineClaim::Counted(meter) | LineClaim::Excluded(meter)) = line_group.claim else { continue };
            let own = &mut meters[usize::from(meter)];
            own.lines += line_group.lines;
            own.total += Quantity::from_scaled(line_group.sum);
            if matches!(line_group.claim, LineClaim::Excluded(_)) {
                own.excluded += Quantity::from_scaled(line_group.sum);
            }
        }
        meters
    }

    fn lines(&self) -> Vec<LineKind> {
        let name = |n| self.names.text(n).to_owned();
        let mut lines: Vec<LineKind> = self
            .line_groups
            .iter()
            .map(|line_group| {
                let (claim, meter) = match line_group.claim {
                    LineClaim::Counted(m) => (ClaimKind::Counted, Some(m)),
                    LineClaim::Excluded(m) => (ClaimKind::Excluded, Some(m)),
                    LineClaim::Ignored => (ClaimKind::Ignored, None),
                    LineClaim::Unrecognised => (ClaimKind::Unrecognised, None),
                    LineClaim::NotUsage => (ClaimKind::NotUsage, None),
                };
                LineKind {
                    product: name(line_group.key.product),
                    usage_type: name(line_group.key.usage_type),
                    unit: name(line_group.key.unit),
                    line_type: name(line_group.key.line_type),
                    claim,
                    meter: meter.map(|m| self.rules.meters[usize::from(m)].name.clone()).unwrap_or_default(),
                    lines: line_group.lines,
                    tagged_lines: line_group.tagged,
                    amount: Quantity::from_scaled(line_group.sum),
                }
            })
            .collect();
        let key = |l: &LineKind| (l.product.clone(), l.usage_type.clone(), l.unit.clone(), l.line_type.clone());
        lines.sort_by_cached_key(key);
        lines
    }

    fn unknown_line_types(&self) -> Vec<UnknownLineType> {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        for line_group in &self.line_groups {
            let line_type = self.names.text(line_group.key.line_type);
            let (plain, _) = Mark::strip(line_type);
            if matches!(line_group.claim, LineClaim::Excluded(_)) && !self.rules.knows_line_type(plain) {
                *found.entry(plain.to_owned()).or_default() += line_group.lines;
            }
        }
        found.into_iter().map(|(line_type, lines)| UnknownLineType { line_type, lines }).collect()
    }
}
