//! The ledger: the usage of every customer, meter and day, as entries that are only appended.
//!
//! AWS delivers a bill whole, so booking it is a comparison: for each customer, meter and day the
//! quantity of the new version minus the quantity that is booked for the same bill. Each difference
//! becomes an entry. That one path serves a first delivery, a grown month, a restatement, a version
//! that was applied before, and a change of the rules.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use serde::Serialize;

use crate::customers::customer::refresh_counters;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, first_row, json, sum_of};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;
use crate::usage::bill::{
    BillFile, BillId, Decision, LineKind, MeterTotals, Version, booked_as, current, insert_parts, insert_version,
    release_on_hold,
};

/// Entries in one statement. They are one parameter of JSON, which is fast on a file and over a
/// network.
const ROWS_PER_STATEMENT: usize = 4000;

/// A booking of more entries leaves a long write-ahead log, which is folded into the file.
const LARGE: usize = 20_000;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// The first quantity booked for its customer, meter and day.
    Usage,
    /// A change of what was booked.
    Adjustment,
}

/// An entry to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// The difference: observed minus booked, never 0.
    pub cell: Cell,
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

/// The entries that turn `booked` into `observed`. Pure.
///
/// # Errors
/// When a difference does not fit into a cell.
pub fn adjustments(observed: &Cells, booked: &Cells) -> Result<Adjustments, BooksError> {
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
            let kind = if known.is_some() { EntryKind::Adjustment } else { EntryKind::Usage };
            entries.push(Adjustment { cell: Cell { quantity: delta.to_cell()?, ..cell }, kind });
        }
    }
    Ok(Adjustments { customers, meters, entries })
}

/// How much one customer's usage of a meter changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerChange {
    /// Customer id; empty for usage without a tag.
    pub customer: String,
    pub meter: String,
    pub delta: Quantity,
}

impl Adjustments {
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

/// Everything that applying a version writes.
#[derive(Clone, Debug)]
pub struct Booking {
    pub version: Version,
    /// The version that was current when the difference was computed.
    pub against: Option<i64>,
    pub files: Vec<BillFile>,
    pub lines: Vec<LineKind>,
    pub totals: Vec<MeterTotals>,
    pub adjustments: Adjustments,
}

/// A customer's usage of one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// The booked usage of a bill.
    pub async fn booked(&self, bill: &BillId) -> Result<Cells, BooksError> {
        let bill = bill.clone();
        self.with_connection(async move |c| {
            let sql = "SELECT customer, meter, day, quantity FROM usage_days \
                       WHERE payer = ?1 AND month = ?2 AND quantity <> 0 ORDER BY customer, meter, day";
            let mut rows = c.query(sql, params![bill.payer, bill.month.to_string()]).await?;
            let (mut customers, mut meters, mut cells) = (vec![], vec![], vec![]);
            while let Some(row) = rows.next().await? {
                let customer: String = row.get(0)?;
                let (meter, day): (String, String) = (row.get(1)?, row.get(2)?);
                if customers.last() != Some(&customer) {
                    customers.push(customer);
                }
                let known = meters.iter().position(|m| *m == meter);
                let meter = known.unwrap_or_else(|| {
                    meters.push(meter);
                    meters.len() - 1
                });
                let day = day
                    .parse()
                    .map_err(|e: crate::units::calendar::PeriodError| BooksError::Integrity(e.to_string()))?;
                cells.push(Cell {
                    customer: place(customers.len() - 1),
                    meter: place(meter),
                    day,
                    quantity: row.get(3)?,
                });
            }
            Ok(Cells::sorted(&customers, &meters, cells))
        })
        .await
    }

    /// Applies a version: claim, entries, derived tables and counters in one transaction. Returns
    /// the id of the version.
    ///
    /// When two workers apply versions of a bill at once, the second finds another current version
    /// than the one it compared with and gets [`BooksError::Raced`]. The UNIQUE chain of
    /// `supersedes` would refuse it as well.
    ///
    /// # Errors
    /// [`BooksError::Raced`], and [`BooksError::Integrity`] when the books would not add up.
    pub async fn book(&self, booking: Booking, now: Timestamp) -> Result<i64, BooksError> {
        let large = booking.adjustments.entries.len() > LARGE;
        let id = self.transaction(async move |c| book_version(c, &booking, now).await).await?;
        if large && let Err(error) = self.checkpoint().await {
            tracing::debug!(%error, "the write-ahead log stays as it is");
        }
        // a remote server may drop a transaction silently, so the version is read back before it
        // is reported as booked
        let sql = "SELECT 1 FROM bill_versions WHERE id = ?1 AND state = 'applied'";
        match self.with_connection(async move |c| first_row(c, sql, params![id]).await).await? {
            Some(_) => Ok(id),
            None => Err(BooksError::Network("the transaction was lost".into())),
        }
    }

    /// Usage in the days of `month`: sums of all customers, or the days of one customer.
    pub async fn usage(&self, month: Month, customer: Option<String>) -> Result<Vec<Usage>, BooksError> {
        self.with_connection(async move |c| {
            let one = concat!(
                "SELECT customer, meter, day, ",
                exact_sum!("quantity"),
                ", EXISTS (SELECT 1 FROM customers WHERE id = customer) FROM usage_days \
                 WHERE customer = ?3 AND day BETWEEN ?1 AND ?2 GROUP BY customer, meter, day"
            );
            let all = concat!(
                "SELECT customer, meter, NULL, ",
                exact_sum!("quantity"),
                ", EXISTS (SELECT 1 FROM customers WHERE id = customer) FROM usage_days \
                 WHERE ?3 IS NULL AND day BETWEEN ?1 AND ?2 GROUP BY customer, meter"
            );
            let days = (month.first_day().to_string(), month.last_day().to_string());
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

async fn book_version(c: &Connection, booking: &Booking, now: Timestamp) -> Result<i64, BooksError> {
    let bill = &booking.version.bill;
    if current(c, bill).await?.map(|v| v.id) != booking.against {
        return Err(BooksError::Raced);
    }
    // checked again under the lock: two workers may read one account's bill under two payer labels
    if booked_as(c, bill, &booking.version.account).await?.is_some() {
        return Err(BooksError::Raced);
    }
    let decision = Decision::Applied { supersedes: booking.against };
    let id = insert_version(c, &booking.version, decision, now).await?;
    insert_parts(c, id, &booking.files, &booking.lines, &booking.totals).await?;
    append(c, id, bill, &booking.adjustments, now).await?;
    check_sums(c, bill, &booking.totals).await?;
    release_on_hold(c, bill).await?;
    crate::usage::partial_reads::clear(c, bill).await?;
    refresh_counters(c, Month::of(now), Some(id)).await?;
    Ok(id)
}

async fn append(
    c: &Connection,
    id: i64,
    bill: &BillId,
    adjustments: &Adjustments,
    now: Timestamp,
) -> Result<(), BooksError> {
    let insert = c.prepare(include_str!("append.sql")).await?;
    let booked_at = crate::usage::bill::stored_instant(now);
    for chunk in adjustments.entries.chunks(ROWS_PER_STATEMENT) {
        let rows: Vec<_> = chunk
            .iter()
            .map(|Adjustment { cell, kind }| {
                let customer = &adjustments.customers[index(cell.customer)];
                (customer, &adjustments.meters[index(cell.meter)], cell.day, cell.quantity, kind)
            })
            .collect();
        let json = json(&rows)?;
        insert.execute(params![id, bill.payer.clone(), bill.month.to_string(), booked_at.clone(), json]).await?;
        insert.reset();
    }
    Ok(())
}

/// Proves the booking before it commits: for each meter, the ledger holds what the version says.
async fn check_sums(c: &Connection, bill: &BillId, totals: &[MeterTotals]) -> Result<(), BooksError> {
    let sql = concat!(
        "SELECT meter, ",
        exact_sum!("quantity"),
        " FROM usage_days WHERE payer = ?1 AND month = ?2 GROUP BY meter"
    );
    let mut rows = c.query(sql, params![bill.payer.clone(), bill.month.to_string()]).await?;
    let mut booked = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        booked.insert(row.get::<String>(0)?, sum_of(&row.get::<String>(1)?)?);
    }
    for t in totals {
        let found = booked.remove(&t.meter).unwrap_or_default();
        if found != t.booked || !t.is_conserved() {
            return Err(BooksError::Integrity(format!(
                "meter {}: {} attributed + {} unattributed + {} excluded against {} in the file; {found} booked against {} wanted",
                t.meter, t.attributed, t.unattributed, t.excluded, t.total, t.booked
            )));
        }
    }
    match booked.into_iter().find(|(_, sum)| !sum.is_zero()) {
        Some((meter, sum)) => {
            Err(BooksError::Integrity(format!("{sum} stays booked for meter {meter}, which no rule knows")))
        }
        None => Ok(()),
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

    proptest! {
        /// Booked plus adjustments is observed, and no adjustment is 0.
        #[test]
        fn booked_plus_adjustments_is_observed(observed in map(), booked in map()) {
            let found = adjustments(&cells(&observed), &cells(&booked)).unwrap();
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
            prop_assert!(adjustments(&cells(&observed), &cells(&observed)).unwrap().entries.is_empty());
        }
    }
}
