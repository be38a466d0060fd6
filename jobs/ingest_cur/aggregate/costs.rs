//! Costs: what AWS charges for lines, summed beside their usage.
//!
//! An aggregator of a bill with cost meters has another one inside, whose meters are the cost
//! meters. It sees the same rows and sums columns of money, so a line that is usage of a meter can
//! have a cost as well, and costs are merged, packed and proven by the same code. It counts only
//! lines that a cost meter claims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::UsageAggregator;
use super::money::Money;
use super::names::DictionaryMap;
use crate::ingest_cur::batch::{Amounts, Batch};
use books::units::calendar::Month;
use books::units::quantity::{Quantity, QuantityError, Rounding};
use books::usage::cost::CURRENCY_COLUMN;
use books::usage::meter::{LineClaim, Rules};

impl UsageAggregator {
    /// An empty aggregator of the costs in a bill; none without cost meters.
    pub(super) fn of_costs(rules: &Rules, month: Month) -> Option<Box<Self>> {
        let all = rules.cost_columns();
        let column = |of| (all.iter().position(|column| *column == of).unwrap_or(usize::MAX), of.name());
        let columns = rules.costs.iter().map(|cost| column(cost.column)).collect();
        let money = Money { columns, codes: DictionaryMap::default(), currencies: BTreeSet::new(), newest: None };
        let mut costs = Self::new(Arc::new(rules.of_costs()?), month);
        costs.money = Some(money);
        Some(Box::new(costs))
    }

    /// The column that is summed of lines of a group; none for lines whose costs nobody sums.
    #[inline]
    pub(super) fn amounts<'b, 'a>(&self, batch: &'b Batch<'a>, line_group: u32) -> Option<&'b Amounts<'a>> {
        let Some(money) = &self.money else { return Some(&batch.amount) };
        match self.line_groups.get(usize::try_from(line_group).ok()?)?.claim {
            LineClaim::Counted(meter) | LineClaim::Excluded(meter) => {
                batch.costs.get(money.columns.get(usize::from(meter))?.0)
            }
            LineClaim::Ignored | LineClaim::Unrecognised | LineClaim::NotUsage => None,
        }
    }

    /// The name of the column that is summed for a meter.
    pub(super) fn amount_column(&self, meter: u8) -> &'static str {
        let of_money = self.money.as_ref().and_then(|money| money.columns.get(usize::from(meter)));
        of_money.map_or("line_item_usage_amount", |(_, name)| *name)
    }

    /// Notes the currency of a line that has a cost.
    #[inline]
    pub(super) fn see_currency(
        &mut self,
        batch: &Batch<'_>,
        row: usize,
        amount: &Result<(Quantity, Rounding), QuantityError>,
    ) {
        let Some(money) = &mut self.money else { return };
        if amount.as_ref().is_ok_and(|(amount, _)| !amount.is_zero()) {
            let code = batch.currency.as_ref().map_or(0, |currency| money.codes.get(currency.code(row)));
            if money.newest != Some(code) {
                money.newest = Some(code);
                money.currencies.insert(code);
            }
        }
    }

    /// The currencies of lines with a cost.
    fn currencies(&self) -> BTreeSet<&str> {
        let all = self.money.iter().flat_map(|money| &money.currencies);
        all.map(|code| self.names.text(*code)).collect()
    }

    /// The currency of an aggregator of costs; none when no line has a cost.
    pub(super) fn currency(&self) -> Option<String> {
        self.currencies().first().map(|code| (*code).to_owned())
    }

    /// What is wrong when the costs of a bill cannot be one sum.
    pub(super) fn no_one_currency(&self) -> Option<String> {
        let found = self.costs.as_ref()?.currencies();
        let is_code = |code: &str| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase());
        if found.len() < 2 && found.iter().all(|code| is_code(code)) {
            return None;
        }
        let shown = |code: &&str| match *code {
            "" => "none".to_owned(),
            code => code.chars().take(16).flat_map(char::escape_debug).collect(),
        };
        let found: Vec<String> = found.iter().take(5).map(shown).collect();
        Some(format!(
            "the lines that the cost meters sum do not have one currency in {CURRENCY_COLUMN}, but {}: money of two \
             currencies is no sum. Narrow [[cost_meters]] to lines of one currency, or remove it",
            found.join(" and ")
        ))
    }

    /// Adds the costs of another aggregator of the same bill.
    pub(super) fn merge_costs(&mut self, other: &Self) {
        if let (Some(own), Some(theirs)) = (&mut self.costs, &other.costs) {
            own.merge(theirs);
        }
        if let (Some(own), Some(theirs)) = (&mut self.money, &other.money) {
            let names = &mut self.names;
            own.currencies.extend(theirs.currencies.iter().map(|code| names.intern(other.names.text(*code))));
            // the texts have other numbers in the other one
            own.newest = None;
        }
    }

    /// The places of named faulty lines whose resource nobody has looked up: file, row group, rows.
    pub(crate) fn without_resource(&self) -> BTreeMap<(String, usize), BTreeSet<u64>> {
        let mut found = self.faults.without_resource();
        for (place, rows) in self.costs.iter().flat_map(|costs| costs.faults.without_resource()) {
            found.entry(place).or_default().extend(rows);
        }
        found
    }

    /// Adds the resources of faulty lines of a row group, by row.
    pub(crate) fn name_resources(&mut self, file: &str, row_group: usize, resources: &BTreeMap<u64, String>) {
        self.faults.name_resources(file, row_group, resources);
        if let Some(costs) = &mut self.costs {
            costs.faults.name_resources(file, row_group, resources);
        }
    }
}

#[cfg(test)]
mod tests;
