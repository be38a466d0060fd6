//! The ledger: the usage of every customer, meter and day, as entries that are only appended.
//!
//! AWS delivers a bill whole, so booking it is a comparison: for each customer, meter and day the
//! quantity of the new version minus the quantity that is booked for the same bill. Each difference
//! becomes an entry. That one path serves a first delivery, a grown month, a restatement, a version
//! that was applied before, and a change of the rules.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use crate::store::connection::params;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::store::database::Database;
use crate::store::erased::ErasedIds;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, sum_of};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::{Quantity, UNIT};
use crate::usage::bill::BillId;

/// Observed cells between two pages of booked ones: a server's answer has at most 10 MB.
const CELLS_PER_PAGE: usize = 60_000;

/// The customer of lines without a customer tag. AWS treats a blank tag as none, so no real
/// customer has this id.
pub const UNATTRIBUTED: &str = "";

/// Usage of one customer, meter and day. Customer and meter are places in the name tables of its
/// [`Cells`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Place in [`Cells::customers`].
    pub customer: u32,
    /// Place in [`Cells::meters`].
    pub meter: u32,
    pub day: Day,
    /// Quantity in 10⁻¹⁰ units; never 0.
    pub quantity: i64,
}

/// Usage cells of one bill, in order of customer, meter and day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cells {
    pub customers: Vec<String>,
    pub meters: Vec<String>,
    pub cells: Vec<Cell>,
}

/// How an entry came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The first quantity booked for its customer, meter and day.
    Usage,
    /// A change of what was booked.
    Adjustment,
    /// The first share of a shared bucket, or a change of one.
    Apportioned,
}

/// Customers, meters and days with a share of a shared bucket.
pub type SharedCells<'a> = HashSet<(&'a str, &'a str, Day)>;

/// An entry to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// The difference: observed minus booked, never 0.
    pub cell: Cell,
    pub kind: EntryKind,
}

/// An entry as it is booked.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct VersionEntry {
    /// Customer id; empty for usage without a tag.
    pub customer: String,
    pub meter: String,
    pub day: Day,
    /// In 10⁻¹⁰ units.
    pub quantity: i64,
    pub kind: EntryKind,
}

/// The entries to be appended, with name tables of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adjustments {
    pub customers: Vec<String>,
    pub meters: Vec<String>,
    /// In the order of their cells.
    pub entries: Vec<Adjustment>,
}

/// A place in a name table. Names are distinct tag values in memory, so there are fewer than 4
/// billion.
fn place(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn index(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Cells {
    /// Brings names and cells into order, so that equal usage has one form.
    pub fn sorted(customers: &[String], meters: &[String], mut cells: Vec<Cell>) -> Self {
        let rank = |names: &[String]| -> (Vec<u32>, Vec<String>) {
            let mut order: Vec<usize> = (0..names.len()).collect();
            order.sort_unstable_by(|a, b| names[*a].cmp(&names[*b]));
            let mut ranks = vec![0; names.len()];
            for (i, at) in order.iter().enumerate() {
                ranks[*at] = place(i);
            }
            (ranks, order.into_iter().map(|at| names[at].clone()).collect())
        };
        let (customer_ranks, customers) = rank(customers);
        let (meter_ranks, meters) = rank(meters);
        for cell in &mut cells {
            cell.customer = customer_ranks[index(cell.customer)];
            cell.meter = meter_ranks[index(cell.meter)];
        }
        cells.sort_unstable();
        Self { customers, meters, cells }
    }

    /// Ranges of customers that are read one after another, each from a customer and up to before
    /// another one; together they are all customers.
    fn pages(&self) -> Vec<(Option<String>, Option<String>)> {
        let first = |cells: &[Cell]| cells.first().map(|cell| self.customers[index(cell.customer)].clone());
        let mut bounds: Vec<_> = self.cells.chunks(CELLS_PER_PAGE).skip(1).map(first).collect();
        bounds.dedup();
        let from = std::iter::once(None).chain(bounds.iter().cloned());
        from.zip(bounds.iter().cloned().chain([None])).collect()
    }

    /// Names this usage: other usage of any customer, meter or day has another checksum.
    pub fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        for Cell { customer, meter, day, quantity } in &self.cells {
            for name in [&self.customers[index(*customer)], &self.meters[index(*meter)]] {
                hash.update(name.len().to_le_bytes());
                hash.update(name);
            }
            hash.update(day.epoch().to_le_bytes());
            hash.update(quantity.to_le_bytes());
        }
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Gives what is under an erased id to the pseudonym in its place.
    ///
    /// # Errors
    /// When a sum does not fit into a cell.
    pub fn pseudonymise(&mut self, erased: &ErasedIds) -> Result<(), BooksError> {
        let name = |id: &String| erased.pseudonym(id).unwrap_or(id).to_owned();
        let customers: Vec<String> = self.customers.iter().map(name).collect();
        if customers == self.customers {
            return Ok(());
        }
        let renamed = Self::sorted(&customers, &self.meters, std::mem::take(&mut self.cells));
        *self = Self::default();
        self.add(&renamed)
    }

    /// Adds the usage of other cells to these.
    ///
    /// # Errors
    /// When a sum does not fit into a cell.
    pub fn add(&mut self, more: &Self) -> Result<(), BooksError> {
        if more.cells.is_empty() {
            return Ok(());
        }
        let (customers, own_customers, more_customers) = union(&self.customers, &more.customers);
        let (meters, own_meters, more_meters) = union(&self.meters, &more.meters);
        let renamed = |cell: &Cell, customers: &[u32], meters: &[u32]| Cell {
            customer: customers[index(cell.customer)],
            meter: meters[index(cell.meter)],
            ..*cell
        };
        let mut all: Vec<Cell> = self.cells.iter().map(|cell| renamed(cell, &own_customers, &own_meters)).collect();
        all.extend(more.cells.iter().map(|cell| renamed(cell, &more_customers, &more_meters)));
        all.sort_unstable();
        let mut cells: Vec<Cell> = Vec::with_capacity(all.len());
        for of_one in all.chunk_by(|a, b| (a.customer, a.meter, a.day) == (b.customer, b.meter, b.day)) {
            let sum = of_one.iter().map(|cell| i128::from(cell.quantity)).sum();
            let quantity = Quantity::from_scaled(sum).to_cell()?;
            if quantity != 0 {
                cells.push(Cell { quantity, ..of_one[0] });
            }
        }
        *self = Self { customers, meters, cells };
        Ok(())
    }

    /// These cells but for some days of meters.
    pub fn without(&self, days: &HashSet<(&str, Day)>) -> Cow<'_, Self> {
        if days.is_empty() {
            return Cow::Borrowed(self);
        }
        let is_left = |cell: &&Cell| !days.contains(&(self.meters[index(cell.meter)].as_str(), cell.day));
        let cells = self.cells.iter().filter(is_left).copied().collect();
        Cow::Owned(Self { customers: self.customers.clone(), meters: self.meters.clone(), cells })
    }

    /// Sums by meter name.
    pub fn by_meter(&self) -> BTreeMap<String, Quantity> {
        let mut sums = vec![0_i128; self.meters.len()];
        for cell in &self.cells {
            sums[index(cell.meter)] += i128::from(cell.quantity);
        }
        self.meters.iter().cloned().zip(sums.into_iter().map(Quantity::from_scaled)).collect()
    }

    /// Sums by customer id and meter name.
    pub fn by_customer_and_meter(&self) -> BTreeMap<(&str, &str), Quantity> {
        let mut sums: BTreeMap<(&str, &str), Quantity> = BTreeMap::new();
        for of_one in self.cells.chunk_by(|a, b| (a.customer, a.meter) == (b.customer, b.meter)) {
            let names =
                (self.customers[index(of_one[0].customer)].as_str(), self.meters[index(of_one[0].meter)].as_str());
            sums.insert(names, of_one.iter().map(|c| Quantity::from_scaled(i128::from(c.quantity))).sum());
        }
        sums
    }

    /// The cells with their names, and their quantities in 10⁻¹⁰ units.
    pub fn named(&self) -> impl Iterator<Item = ((&str, &str, Day), i64)> {
        self.cells.iter().map(|cell| {
            let names = (self.customers[index(cell.customer)].as_str(), self.meters[index(cell.meter)].as_str());
            ((names.0, names.1, cell.day), cell.quantity)
        })
    }

    /// Sums by meter name and day.
    pub fn by_meter_and_day(&self) -> BTreeMap<(String, Day), Quantity> {
        let mut sums: BTreeMap<(u32, Day), i128> = BTreeMap::new();
        for cell in &self.cells {
            *sums.entry((cell.meter, cell.day)).or_default() += i128::from(cell.quantity);
        }
        let named = |((meter, day), sum)| ((self.meters[index(meter)].clone(), day), Quantity::from_scaled(sum));
        sums.into_iter().map(named).collect()
    }
}

/// The union of two ascending name tables, and the places of each table's names in it.
fn union(a: &[String], b: &[String]) -> (Vec<String>, Vec<u32>, Vec<u32>) {
    let mut all: Vec<String> = a.iter().chain(b).cloned().collect();
    all.sort_unstable();
    all.dedup();
    let places = |names: &[String]| names.iter().map(|n| place(all.binary_search(n).unwrap_or(usize::MAX))).collect();
    let (first, second) = (places(a), places(b));
    (all, first, second)
}

/// The entries that turn `booked` into `observed`. Pure. `shared` has the cells of customers with a
/// share of a shared bucket: customer, meter and day.
///
/// # Errors
/// When a difference does not fit into a cell.
pub fn adjustments(observed: &Cells, booked: &Cells, shared: &SharedCells<'_>) -> Result<Adjustments, BooksError> {
    let (customers, observed_customers, booked_customers) = union(&observed.customers, &booked.customers);
    let (meters, observed_meters, booked_meters) = union(&observed.meters, &booked.meters);
    let translate = |cell: &Cell, customers: &[u32], meters: &[u32]| Cell {
        customer: customers[index(cell.customer)],
        meter: meters[index(cell.meter)],
        ..*cell
    };
    let mut left = observed.cells.iter().map(|c| translate(c, &observed_customers, &observed_meters)).peekable();
    let mut right = booked.cells.iter().map(|c| translate(c, &booked_customers, &booked_meters)).peekable();
    // a first delivery makes an entry of every cell; later ones make few
    let mut entries = Vec::with_capacity(if booked.cells.is_empty() { observed.cells.len() } else { 0 });
    let key = |c: &Cell| (c.customer, c.meter, c.day);
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => key(l).cmp(&key(r)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        let seen = if order.is_le() { left.next() } else { None };
        let known = if order.is_ge() { right.next() } else { None };
        let Some(cell) = seen.or(known) else { break };
        let quantity = |c: Option<Cell>| i128::from(c.map_or(0, |c| c.quantity));
        let delta = Quantity::from_scaled(quantity(seen) - quantity(known));
        if !delta.is_zero() {
            let names = (customers[index(cell.customer)].as_str(), meters[index(cell.meter)].as_str());
            let is_shared = !shared.is_empty() && shared.contains(&(names.0, names.1, cell.day));
            let kind = match known {
                _ if is_shared => EntryKind::Apportioned,
                Some(_) => EntryKind::Adjustment,
                None => EntryKind::Usage,
            };
            entries.push(Adjustment { cell: Cell { quantity: delta.to_cell()?, ..cell }, kind });
        }
    }
    Ok(Adjustments { customers, meters, entries })
}

/// How much one customer's usage of a meter changes.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct LedgerChange {
    /// Customer id; empty for usage without a tag.
    pub customer: String,
    pub meter: String,
    pub delta: Quantity,
}

/// The sum of entries of a meter and day, with a customer or without one: meter, day, 1 or 0, whole
/// units, and the rest in 10⁻¹⁰ units.
pub type DaySum<'a> = (&'a str, Day, u8, i64, i64);

impl Adjustments {
    /// The opposite of `entries`, which are in the order of customer, meter and day.
    ///
    /// # Errors
    /// When a quantity has no opposite.
    pub fn opposite(entries: Vec<VersionEntry>) -> Result<Self, BooksError> {
        let mut meters: Vec<String> = entries.iter().map(|entry| entry.meter.clone()).collect();
        meters.sort_unstable();
        meters.dedup();
        let (mut customers, mut opposite) = (Vec::<String>::new(), Vec::with_capacity(entries.len()));
        for VersionEntry { customer, meter, day, quantity, kind } in entries {
            if customers.last() != Some(&customer) {
                customers.push(customer);
            }
            let quantity = Quantity::from_scaled(-i128::from(quantity)).to_cell()?;
            let meter = place(meters.binary_search(&meter).unwrap_or(usize::MAX));
            opposite
                .push(Adjustment { cell: Cell { customer: place(customers.len() - 1), meter, day, quantity }, kind });
        }
        Ok(Self { customers, meters, entries: opposite })
    }

    /// Customer and meter of a cell.
    pub fn names(&self, cell: &Cell) -> (&str, &str) {
        (&self.customers[index(cell.customer)], &self.meters[index(cell.meter)])
    }

    /// How many entries there are up to this customer, meter and day (`YYYY-MM-DD`).
    pub fn place_after(&self, last: Option<(String, String, String)>) -> usize {
        let Some((customer, meter, day)) = last else { return 0 };
        let last = (customer.as_str(), meter.as_str(), day);
        self.entries.partition_point(|entry| {
            let (customer, meter) = self.names(&entry.cell);
            (customer, meter, entry.cell.day.to_string()) <= last
        })
    }

    /// What the entries add to the sums of their days.
    ///
    /// # Errors
    /// When a sum has more than 2⁶³ units.
    pub fn by_meter_and_day(&self) -> Result<Vec<DaySum<'_>>, BooksError> {
        let mut sums: BTreeMap<(u32, Day, u8), (i128, i128)> = BTreeMap::new();
        for Adjustment { cell, .. } in &self.entries {
            let attributed = u8::from(self.names(cell).0 != UNATTRIBUTED);
            let sum = sums.entry((cell.meter, cell.day, attributed)).or_default();
            sum.0 += i128::from(cell.quantity) / UNIT;
            sum.1 += i128::from(cell.quantity) % UNIT;
        }
        let number = |n: i128| i64::try_from(n).map_err(|_| BooksError::Integrity(format!("a day with {n} units")));
        let named = |((meter, day, attributed), (units, rest)): ((u32, Day, u8), (i128, i128))| {
            Ok((self.meters[index(meter)].as_str(), day, attributed, number(units)?, number(rest)?))
        };
        sums.into_iter().map(named).collect()
    }

    /// The customers with the largest changes of each meter, at most `count` a meter.
    pub fn largest(&self, count: usize) -> Vec<LedgerChange> {
        let mut sums: BTreeMap<(u32, u32), i128> = BTreeMap::new();
        for Adjustment { cell, .. } in &self.entries {
            *sums.entry((cell.meter, cell.customer)).or_default() += i128::from(cell.quantity);
        }
        let mut found = vec![];
        for meter in 0..place(self.meters.len()) {
            let mut of_meter: Vec<_> = sums.range((meter, 0)..=(meter, u32::MAX)).filter(|s| *s.1 != 0).collect();
            of_meter.sort_by_key(|((_, customer), sum)| (std::cmp::Reverse(sum.abs()), *customer));
            found.extend(of_meter.into_iter().take(count).map(|((meter, customer), sum)| LedgerChange {
                customer: self.customers[index(*customer)].clone(),
                meter: self.meters[index(*meter)].clone(),
                delta: Quantity::from_scaled(*sum),
            }));
        }
        found
    }
}

/// A customer's usage of one meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Usage {
    /// Customer id; empty for usage without a tag.
    pub customer: String,
    /// True when a customer row with that id exists.
    pub known: bool,
    pub meter: String,
    /// None in sums over a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    pub quantity: Quantity,
}

impl Database {
    /// The booked usage of a bill, to be compared with `observed`.
    pub async fn booked(&self, bill: &BillId, observed: &Cells) -> Result<Cells, BooksError> {
        let (mut customers, mut meters, mut cells) = (vec![], Vec::<String>::new(), vec![]);
        let month = bill.month.first_day().epoch();
        let wrong = |text: &str| BooksError::Integrity(format!("`{text}` is no booked usage"));
        for (from, before) in observed.pages() {
            let values = params![bill.payer.clone(), bill.month.to_string(), from, before];
            let page = self.with_connection(async move |c| {
                let mut rows = c.query(include_str!("booked.sql"), values).await?;
                let mut page: Vec<(String, String)> = vec![];
                while let Some(row) = rows.next().await? {
                    page.push((row.get(0)?, row.get(1)?));
                }
                Ok(page)
            });
            for (customer, usage) in page.await? {
                customers.push(customer);
                let mut meter = None;
                for text in usage.split(' ') {
                    let Some((day, quantity)) = text.split_once(':') else {
                        meter = Some(meters.iter().position(|known| known == text).unwrap_or(meters.len()));
                        if meter == Some(meters.len()) {
                            meters.push(text.to_owned());
                        }
                        continue;
                    };
                    let day: i32 = day.parse().map_err(|_| wrong(text))?;
                    let (number, factor) = quantity.strip_suffix("e9").map_or((quantity, 1), |n| (n, 1_000_000_000));
                    let number = number.parse::<i64>().ok().and_then(|n| n.checked_mul(factor));
                    cells.push(Cell {
                        customer: place(customers.len() - 1),
                        meter: place(meter.ok_or_else(|| wrong(&usage))?),
                        day: Day::from_epoch(month + day).ok_or_else(|| wrong(text))?,
                        quantity: number.ok_or_else(|| wrong(text))?,
                    });
                }
            }
        }
        Ok(Cells::sorted(&customers, &meters, cells))
    }

    /// Usage in the days of `month`: sums of all customers, or the days of one customer.
    pub async fn usage(&self, month: Month, customer: Option<String>) -> Result<Vec<Usage>, BooksError> {
        self.usage_between((month.first_day(), month.last_day()), customer).await
    }

    /// As [`Database::usage`], from the first to the last day.
    pub async fn usage_between(
        &self,
        (first, last): (Day, Day),
        customer: Option<String>,
    ) -> Result<Vec<Usage>, BooksError> {
        self.with_connection(async move |c| {
            let one = concat!(
                "SELECT customer, meter, day, ",
                exact_sum!("quantity"),
                ", EXISTS (SELECT 1 FROM customers WHERE id = customer) FROM booked_usage \
                 WHERE customer = ?3 AND day BETWEEN ?1 AND ?2 GROUP BY customer, meter, day"
            );
            let all = concat!(
                "SELECT customer, meter, NULL, ",
                exact_sum!("quantity"),
                ", EXISTS (SELECT 1 FROM customers WHERE id = customer) FROM booked_usage \
                 WHERE ?3 IS NULL AND day BETWEEN ?1 AND ?2 GROUP BY customer, meter"
            );
            let days = (first.to_string(), last.to_string());
            let sql = if customer.is_some() { one } else { all };
            let mut rows = c.query(sql, params![days.0, days.1, customer]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let usage = Usage {
                    customer: row.get(0)?,
                    meter: row.get(1)?,
                    day: row.get(2)?,
                    quantity: sum_of(&row.get::<String>(3)?)?,
                    known: row.get::<i64>(4)? == 1,
                };
                if !usage.quantity.is_zero() {
                    found.push(usage);
                }
            }
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Map = BTreeMap<(String, String, i32), i64>;

    fn cells(map: &Map) -> Cells {
        let customers: Vec<String> = map.keys().map(|k| k.0.clone()).rev().collect();
        let meters: Vec<String> = map.keys().map(|k| k.1.clone()).rev().collect();
        let unique = |mut names: Vec<String>| {
            names.dedup();
            let mut seen = std::collections::BTreeSet::new();
            names.retain(|n| seen.insert(n.clone()));
            names
        };
        let (customers, meters) = (unique(customers), unique(meters));
        let find = |names: &[String], name: &String| place(names.iter().position(|n| n == name).unwrap());
        let list = map.iter().filter(|(_, q)| **q != 0).map(|((c, m, d), q)| Cell {
            customer: find(&customers, c),
            meter: find(&meters, m),
            day: Day::from_epoch(*d).unwrap(),
            quantity: *q,
        });
        let list = list.rev().collect();
        Cells::sorted(&customers, &meters, list)
    }

    fn map() -> impl Strategy<Value = Map> {
        prop::collection::btree_map(("[ab]{0,2}", "[mn]", 0..4_i32), -3..4_i64, 0..20)
    }

    /// Pages cover every customer once.
    #[test]
    fn pages_leave_nobody_out() {
        let many = (0..200_000).map(|n| ((format!("c{:04}", n / 31), "m".to_owned(), n), 1)).collect::<Map>();
        for observed in [Cells::default(), cells(&many)] {
            let pages = observed.pages();
            assert_eq!(pages.len(), observed.cells.len() / CELLS_PER_PAGE + 1);
            assert_eq!((&pages[0].0, &pages[pages.len() - 1].1), (&None, &None));
            assert!(pages.windows(2).all(|two| two[0].1 == two[1].0 && two[0].1.is_some()), "{pages:?}");
        }
    }

    proptest! {
        /// Booked plus adjustments is observed, and no adjustment is 0.
        #[test]
        fn booked_plus_adjustments_is_observed(observed in map(), booked in map()) {
            let found = adjustments(&cells(&observed), &cells(&booked), &SharedCells::new()).unwrap();
            let mut sum: Map = booked.clone();
            for Adjustment { cell, kind } in &found.entries {
                prop_assert_ne!(cell.quantity, 0);
                let key = (
                    found.customers[index(cell.customer)].clone(),
                    found.meters[index(cell.meter)].clone(),
                    cell.day.epoch(),
                );
                let was = booked.get(&key).copied().unwrap_or(0);
                prop_assert_eq!(*kind == EntryKind::Adjustment, was != 0);
                *sum.entry(key).or_default() += cell.quantity;
            }
            let plain = |m: Map| m.into_iter().filter(|(_, q)| *q != 0).collect::<Map>();
            prop_assert_eq!(plain(sum), plain(observed.clone()));
            prop_assert!(found.entries.windows(2).all(|w| w[0].cell < w[1].cell));
            prop_assert!(adjustments(&cells(&observed), &cells(&observed), &SharedCells::new()).unwrap().entries.is_empty());
        }

        #[test]
        fn cells_are_added_one_by_one(first in map(), second in map()) {
            let mut found = cells(&first);
            found.add(&cells(&second)).unwrap();
            let mut sum = first.clone();
            for (key, quantity) in &second {
                *sum.entry(key.clone()).or_default() += quantity;
            }
            let none = SharedCells::new();
            prop_assert!(adjustments(&cells(&sum), &found, &none).unwrap().entries.is_empty());
            prop_assert!(found.cells.windows(2).all(|two| two[0] < two[1]) && found.cells.iter().all(|c| c.quantity != 0));
        }
    }
}
