//! The aggregator: rows of a bill → exact sums for each customer, meter and day. Pure: no file, no
//! database, no clock.
//!
//! Every line of a watched product is counted and summed in exactly one *line group* (product,
//! usage type, unit, line type), whatever it is. A line that a meter counts is summed in a *cell*
//! as well. The two sums are computed independently, so comparing them proves that nothing was
//! lost.
//!
//! No line stops a bill. A line that no meter counts and that cannot be read counts as untagged, or
//! without an amount. One that a meter counts is noted as a fault ([`FaultKind`]); if it is left
//! out, its line group is one of its own, and excluded.
//!
//! Aggregators of parts of a bill can be merged, in any order, with the same result.

mod costs;
mod describe;
mod described;
mod fault;
mod finish;
mod limits;
mod list;
mod listing;
mod mark;
mod money;
mod names;
mod partial;
mod resource;
mod seen;
mod shared;
mod tag_fault;
mod totals;

use std::collections::HashMap;
use std::sync::Arc;

use described::Described;
pub use described::{DESCRIPTION_COLUMNS, KindDescription, KindKey};
use fault::Faults;
pub use fault::{FaultKind, FaultyLines, LineFault, Origin};
pub use limits::UsageTooLarge;
use listing::Listing;
pub use listing::WantedLines;
pub(super) use listing::{LineSum, ListedLine};
pub(super) use mark::Mark;
use money::Money;
use names::{DictionaryMap, Interner};
pub(super) use partial::PARTIAL_SUMS_VERSION;
pub(super) use resource::WaitingLine;
use resource::{Counted, CountedLine};
use seen::Seen;
use tag_fault::{TagFault, checked_tag, tag_fault};
pub use totals::{Totals, UnknownLineType};

use super::batch::{Batch, Granularity, TagColumn};
use super::sums::{Place, Shape, Sums, id, idx, largest};
use books::shared_bucket::billed::BilledMeasure;
use books::units::calendar::{Day, Month};
use books::units::quantity::{Quantity, QuantityError, Rounding};
use books::usage::ledger::UNATTRIBUTED;
use books::usage::meter::{LineClaim, Rules};

const UNWATCHED: u32 = u32::MAX;
const UNRESOLVED: u32 = u32::MAX;
/// A tag value from which no customer can be read.
const UNUSABLE: u32 = u32::MAX - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct GroupKey {
    product: u32,
    usage_type: u32,
    line_type: u32,
    unit: u32,
}

#[derive(Clone, Debug)]
struct LineGroup {
    key: GroupKey,
    claim: LineClaim,
    /// What its lines measure, where their resource matters.
    measured: Option<BilledMeasure>,
    lines: u64,
    tagged: u64,
    sum: i128,
}

/// A row as it was read.
struct Line<'a> {
    batch: &'a Batch<'a>,
    origin: &'a Origin<'a>,
    row: usize,
    customer: Result<u32, TagFault>,
    amount: Result<(Quantity, Rounding), QuantityError>,
}

impl Line<'_> {
    fn amount(&self) -> Quantity {
        self.amount.as_ref().map_or(Quantity::ZERO, |(amount, _)| *amount)
    }
}

/// Sums over rows of one bill.
#[derive(Clone, Debug)]
pub struct UsageAggregator {
    rules: Arc<Rules>,
    first_day: i32,
    days: i32,
    names: Interner,
    products: DictionaryMap,
    usage_types: DictionaryMap,
    line_types: DictionaryMap,
    marked_line_types: HashMap<(u32, Mark), u32>,
    units: DictionaryMap,
    tags: Vec<DictionaryMap>,
    /// 1 for the intervals that are longer than a day.
    intervals: DictionaryMap,
    line_groups: Vec<LineGroup>,
    /// By number of the usage type: its line groups, which are few.
    slots_of: Vec<Vec<u32>>,
    customers: Interner,
    sums: Sums,
    counted_rows: u64,
    rounded: u64,
    out_of_month_lines: u64,
    long_lines: u64,
    pub(super) seen: Seen,
    /// By meter: the largest magnitude of an amount that can be booked, in scaled units.
    limits: Vec<i128>,
    faults: Faults,
    /// Counted when their resource is known.
    waiting: Vec<WaitingLine>,
    /// Of a reading that shows the lines of a customer.
    listing: Option<Listing>,
    /// Of a reading that shows what unclaimed lines say of themselves.
    described: Option<Described>,
    /// What the meters sum when they are cost meters; none in an aggregator of usage.
    money: Option<Money>,
    /// Sums the costs of the same rows.
    costs: Option<Box<Self>>,
}

impl UsageAggregator {
    /// An empty aggregator of the bill of `month`.
    pub fn new(rules: Arc<Rules>, month: Month) -> Self {
        let first_day = month.first_day().epoch();
        let mut customers = Interner::default();
        customers.intern(UNATTRIBUTED);
        let mut names = Interner::default();
        names.intern("");
        let costs = Self::of_costs(&rules, month);
        let limits = rules.meters.iter().map(|meter| largest(meter.factor.mantissa(), meter.factor.scale()));
        Self {
            limits: limits.collect(),
            rules,
            first_day,
            days: month.last_day().epoch() - first_day + 1,
            names,
            products: DictionaryMap::default(),
            usage_types: DictionaryMap::default(),
            line_types: DictionaryMap::default(),
            marked_line_types: HashMap::new(),
            units: DictionaryMap::default(),
            tags: vec![],
            intervals: DictionaryMap::default(),
            line_groups: vec![],
            slots_of: vec![],
            customers,
            sums: Sums::default(),
            counted_rows: 0,
            rounded: 0,
            out_of_month_lines: 0,
            long_lines: 0,
            seen: Seen::default(),
            faults: Faults::default(),
            waiting: vec![],
            listing: None,
            described: None,
            money: None,
            costs,
        }
    }

    fn shape(&self) -> Shape {
        Shape { meters: self.rules.meters.len(), first_day: self.first_day }
    }

    /// Rows that a meter counted so far.
    pub fn counted_rows(&self) -> u64 {
        self.counted_rows
    }

    /// Adds a batch of rows.
    pub fn add(&mut self, batch: &Batch<'_>, origin: &Origin<'_>) {
        self.sum(batch, origin);
        if let Some(costs) = &mut self.costs {
            costs.sum(batch, origin);
        }
    }

    fn sum(&mut self, batch: &Batch<'_>, origin: &Origin<'_>) {
        self.translate(batch);
        for row in 0..batch.rows {
            let product = self.products.get(batch.product.code(row));
            if product == UNWATCHED {
                continue;
            }
            let usage_type = self.usage_types.get(batch.usage_type.code(row));
            let mut line_type = self.line_types.get(batch.line_type.code(row));
            let unit = batch.unit.as_ref().map_or(0, |u| self.units.get(u.code(row)));
            if batch.split_parent.as_ref().is_some_and(|p| !p.value(p.code(row)).is_empty()) {
                line_type = self.marked(line_type, Mark::Split);
            }
            let key = GroupKey { product, usage_type, line_type, unit };
            let mut line_group = self.line_group(key);
            let Some(amounts) = self.amounts(batch, line_group) else { continue };
            let (customer, amount) = (self.customer(&batch.tags, row), amounts.get(row));
            self.see_currency(batch, row, &amount);
            let line = Line { batch, origin, row, customer, amount };
            let left_out = match self.line_groups[idx(line_group)].claim {
                LineClaim::Counted(meter) => match self.count(&line, meter, line_group) {
                    Counted::Yes => None,
                    Counted::LeftOut(mark) => Some(mark),
                    Counted::Waits => continue,
                },
                // a line that no meter counts may have no amount
                claim => {
                    if claim == LineClaim::Unrecognised {
                        self.describe(batch, row, line_group);
                    }
                    line.amount.as_ref().is_err_and(|e| *e != QuantityError::Missing).then_some(Mark::NoAmount)
                }
            };
            if let Some(mark) = left_out {
                let line_type = self.marked(line_type, mark);
                line_group = self.line_group(GroupKey { line_type, ..key });
            }
            let line_group = &mut self.line_groups[idx(line_group)];
            line_group.lines += 1;
            line_group.sum += line.amount().scaled();
            line_group.tagged += u64::from(line.customer.is_ok_and(|customer| customer != 0));
            self.rounded += u64::from(line.amount.is_ok_and(|(_, fit)| fit == Rounding::Rounded));
        }
    }

    /// Sums a line that a meter counts.
    #[inline]
    fn count(&mut self, line: &Line<'_>, meter: u8, line_group: u32) -> Counted {
        let Line { batch, origin, row, .. } = *line;
        let (amount, at) = (line.amount(), (origin, row));
        let column = self.amount_column(meter);
        if amount.scaled().abs() > self.limits[usize::from(meter)] {
            let why = || (column.to_owned(), QuantityError::TooLarge(amount.to_string()).to_string());
            self.faults.note((meter, FaultKind::TooLarge), amount, at, why);
            return Counted::LeftOut(Mark::TooLarge);
        }
        if let Err(why) = &line.amount {
            let (kind, mark) = match why {
                QuantityError::TooLarge(_) => (FaultKind::TooLarge, Mark::TooLarge),
                _ => (FaultKind::Amount, Mark::NoAmount),
            };
            self.faults.note((meter, kind), amount, at, || (column.to_owned(), why.to_string()));
            return Counted::LeftOut(mark);
        }
        let period = batch.period.as_ref().and_then(|p| p.get(row));
        if let Some(start) = period.filter(|start| *start != self.first_day) {
            let month = Day::from_epoch(self.first_day).map_or_else(String::new, |d| d.month().to_string());
            let why = || {
                let says = Day::from_epoch(start).map_or("another time".into(), |d| d.to_string());
                let why = format!("the billing period starts {says}, but the bill is that of {month}");
                ("bill_billing_period_start_date".to_owned(), why)
            };
            self.faults.note((meter, FaultKind::Period), amount, at, why);
            return Counted::LeftOut(Mark::OtherPeriod);
        }
        let Some(day) = batch.day.get(row).filter(|day| Day::from_epoch(*day).is_some()) else {
            let why = || ("line_item_usage_start_date".to_owned(), "there is no instant of a day in it".to_owned());
            self.faults.note((meter, FaultKind::Day), amount, at, why);
            return Counted::LeftOut(Mark::NoDay);
        };
        // a discount is a negative cost
        if amount < Quantity::ZERO && self.money.is_none() {
            let why = || (column.to_owned(), format!("the amount of a usage line is {amount}"));
            self.faults.note((meter, FaultKind::Negative), amount, at, why);
        }
        if let Err(fault) = line.customer {
            let customers = &self.customers;
            self.faults.note((meter, FaultKind::Tag), amount, at, || tag_fault(fault, batch, customers));
        }
        let counted = CountedLine {
            customer: line.customer.unwrap_or(0),
            meter,
            day,
            amount: amount.scaled(),
            is_long: !amount.is_zero() && seen::is_long(batch, row, &self.intervals),
            is_untagged: matches!(line.customer, Ok(0)),
            is_similar: matches!(line.customer, Ok(0)) && seen::has_similar_tag(batch, row),
        };
        let listed = self.wanted(line, &counted, line_group);
        let Some(measured) = self.needs_resource(line_group) else {
            self.put(counted);
            self.list(listed);
            return Counted::Yes;
        };
        let resource = (origin.resource)(row);
        if resource.is_none() && origin.row_group.is_some() {
            let is_rounded = line.amount.as_ref().is_ok_and(|(_, fit)| *fit == Rounding::Rounded);
            let row = usize::try_from((origin.place)(row)).unwrap_or(usize::MAX);
            self.wait(self.line_groups[idx(line_group)].key, row, counted, is_rounded);
            if let Some(waiting) = self.waiting.last_mut() {
                waiting.listed = listed;
            }
            return Counted::Waits;
        }
        let left_out = self.put_of_resource(counted, measured, &resource.unwrap_or_default());
        if left_out.is_none() {
            self.list(listed);
        }
        left_out.map_or(Counted::Yes, Counted::LeftOut)
    }

    fn translate(&mut self, batch: &Batch<'_>) {
        let (names, rules, unwatched) = (&mut self.names, &self.rules, &mut self.seen.unwatched);
        self.products.renew(&batch.product, |product| {
            if rules.watches(product) {
                return names.intern(product);
            }
            unwatched.see([product]);
            UNWATCHED
        });
        self.usage_types.renew(&batch.usage_type, |t| names.intern(t));
        self.line_types.renew(&batch.line_type, |t| names.intern(t));
        match &batch.unit {
            Some(unit) => self.units.renew(unit, |u| names.intern(u)),
            None => self.units = DictionaryMap::default(),
        }
        if let Some(interval) = &batch.interval {
            let shortest = &mut self.seen.granularity;
            self.intervals.renew(interval, |text| {
                let granularity = Granularity::of_interval(text);
                *shortest = seen::shorter(*shortest, granularity);
                u32::from(granularity == Some(Granularity::Monthly))
            });
        }
        if let (Some(money), Some(currency)) = (&mut self.money, &batch.currency) {
            money.codes.renew(currency, |code| names.intern(code));
        }
        self.tags.resize_with(batch.tags.len(), DictionaryMap::default);
        for (translation, TagColumn { tag, .. }) in self.tags.iter_mut().zip(&batch.tags) {
            translation.renew(tag.text(), |value| if value.is_empty() { 0 } else { UNRESOLVED });
        }
        self.seen.tags.see(seen::tags_of(&batch.tags));
    }

    fn marked(&mut self, line_type: u32, mark: Mark) -> u32 {
        let names = &mut self.names;
        *self.marked_line_types.entry((line_type, mark)).or_insert_with(|| {
            let name = mark.put_on(names.text(line_type));
            names.intern(&name)
        })
    }

    #[inline]
    fn line_group(&mut self, key: GroupKey) -> u32 {
        let usage_type = idx(key.usage_type);
        if let Some(of_type) = self.slots_of.get(usage_type)
            && let Some(known) = of_type.iter().find(|s| self.line_groups[idx(**s)].key == key)
        {
            return *known;
        }
        self.new_line_group(key)
    }

    fn new_line_group(&mut self, key: GroupKey) -> u32 {
        let name = |n| self.names.text(n);
        let (plain, marks) = Mark::strip(name(key.line_type));
        let claim = self.rules.claim(name(key.product), name(key.usage_type), plain);
        let claim = match claim {
            LineClaim::Counted(meter) if !marks.is_empty() => LineClaim::Excluded(meter),
            LineClaim::Unrecognised if marks.contains(&Mark::Split) => LineClaim::NotUsage,
            claim => claim,
        };
        let new = id(self.line_groups.len());
        let measured = self.measured(key);
        self.line_groups.push(LineGroup { key, claim, measured, lines: 0, tagged: 0, sum: 0 });
        let usage_type = idx(key.usage_type);
        if self.slots_of.len() <= usage_type {
            self.slots_of.resize_with(usage_type + 1, Vec::new);
        }
        self.slots_of[usage_type].push(new);
        new
    }

    /// The customer of a row; 0 for none. Of several configured keys the first one with a value
    /// counts, and all its values on the row must agree.
    #[inline]
    fn customer(&mut self, tags: &[TagColumn<'_>], row: usize) -> Result<u32, TagFault> {
        let (mut best, mut found, mut fault) = (u8::MAX, 0, None);
        for (i, TagColumn { tag, .. }) in tags.iter().enumerate() {
            tag.codes(row, |place, code| {
                let mut customer = self.tags[i].get(code);
                if customer == 0 || place > best {
                    return;
                }
                if place < best {
                    (best, found, fault) = (place, 0, None);
                }
                if customer == UNRESOLVED {
                    let value = checked_tag(tag.text().value(code));
                    customer = value.map_or(UNUSABLE, |value| self.customers.intern(value));
                    self.tags[i].set(code, customer);
                }
                if customer == UNUSABLE {
                    fault = fault.or(Some(TagFault::Unusable(i, code)));
                    return;
                }
                if found != 0 && customer != found {
                    fault = fault.or(Some(TagFault::Disagree(i, found, customer)));
                }
                found = customer;
            });
        }
        fault.map_or(Ok(found), Err)
    }

    /// Adds the sums of another aggregator of the same bill.
    pub fn merge(&mut self, other: &Self) {
        for line_group in &other.line_groups {
            let mut name = |n| self.names.intern(other.names.text(n));
            let key = GroupKey {
                product: name(line_group.key.product),
                usage_type: name(line_group.key.usage_type),
                line_type: name(line_group.key.line_type),
                unit: name(line_group.key.unit),
            };
            let place = self.line_group(key);
            let own = &mut self.line_groups[idx(place)];
            own.lines += line_group.lines;
            own.tagged += line_group.tagged;
            own.sum += line_group.sum;
        }
        let (shape, meters) = (self.shape(), self.rules.meters.len());
        let customers: Vec<u32> = other.customers.texts.iter().map(|c| self.customers.intern(c)).collect();
        for (place, block) in other.sums.blocks_of.iter().enumerate().filter(|(_, b)| **b != 0) {
            let (customer, meter) = (customers[place / meters], u8::try_from(place % meters).unwrap_or(u8::MAX));
            // creates the block even if all its days are 0: `overflow` may have amounts for it
            self.sums.add(shape, Place { customer, meter, day: 0 }, 0);
            for (day, amount) in other.sums.blocks[idx(*block) - 1].iter().enumerate().filter(|(_, a)| **a != 0) {
                self.sums.add(shape, Place { customer, meter, day }, i128::from(*amount));
            }
        }
        for ((customer, meter, day), amount) in &other.sums.overflow {
            *self.sums.overflow.entry((customers[idx(*customer)], *meter, *day)).or_default() += amount;
        }
        self.counted_rows += other.counted_rows;
        self.rounded += other.rounded;
        self.out_of_month_lines += other.out_of_month_lines;
        self.long_lines += other.long_lines;
        self.seen.merge(&other.seen);
        self.faults.merge(&other.faults);
        if let (Some(own), Some(theirs)) = (&mut self.listing, &other.listing) {
            own.merge(theirs);
        }
        if let (Some(own), Some(theirs)) = (&mut self.described, &other.described) {
            own.merge(theirs);
        }
        self.merge_costs(other);
    }
}

#[cfg(test)]
mod tests;
