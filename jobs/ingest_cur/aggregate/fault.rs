//! Lines that a meter counts and that cannot be booked as they are. They stop nothing: each has a
//! rule for what is booked in its place, and a person decides whether that rule may be applied.
//!
//! Of each kind and meter the first few lines are kept, by their place, and the others are counted.
//! So what is said of a bill does not depend on who read which part of it first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::listed::shown;
use books::units::quantity::Quantity;
use books::units::words::{several, verb};
use books::usage::meter::Rules;

/// Lines of a kind and meter that are named in full.
const NAMED: usize = 3;

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// No customer can be read from its tags. It counts as usage without a customer.
    Tag,
    /// Its amount cannot be read. It is left out.
    Amount,
    /// Its amount is larger than the books can hold. It is left out.
    TooLarge,
    /// Its amount is negative. It reduces the usage of its customer.
    Negative,
    /// Its day cannot be read. It is left out.
    Day,
    /// It belongs to another billing period. It is left out.
    Period,
}

impl FaultKind {
    fn says(self) -> &'static str {
        match self {
            Self::Tag => "a customer tag that cannot be used",
            Self::Amount => "an amount that cannot be read",
            Self::TooLarge => "an amount that is too large to be booked",
            Self::Negative => "a negative amount",
            Self::Day => "no readable day",
            Self::Period => "another billing period",
        }
    }
}

/// A faulty line, by its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
pub struct LineFault {
    /// Key in the bucket or path in the folder.
    pub file: String,
    /// None in CSV.
    pub row_group: Option<usize>,
    /// Row of the row group, from 0; in CSV the line of the file in which it begins, from 1.
    pub row: u64,
    pub column: String,
    pub why: String,
    /// `line_item_resource_id`; none while nobody has looked it up, or when it cannot be.
    pub resource: Option<String>,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        match self.row_group {
            Some(group) => write!(f, ", row group {group}, row {}", self.row)?,
            None => write!(f, ", line {}", self.row)?,
        }
        write!(f, ", column {}", self.column)?;
        match self.resource.as_deref() {
            Some("") => write!(f, ", no resource")?,
            Some(resource) => write!(f, ", resource {resource}")?,
            None => {}
        }
        write!(f, ": {}", self.why)
    }
}

/// Where the rows of a batch are.
pub struct Origin<'a> {
    /// Key in the bucket or path in the folder.
    pub file: &'a str,
    pub row_group: Option<usize>,
    /// The place of a row of the batch, as in [`LineFault::row`].
    pub place: &'a dyn Fn(usize) -> u64,
    /// The resource of a row of the batch, where the reader has it at hand.
    pub resource: &'a dyn Fn(usize) -> Option<String>,
}

/// The faulty lines of a kind and meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct FaultyLines {
    pub kind: FaultKind,
    pub meter: String,
    pub lines: u64,
    /// Sum of their amounts, in the unit of the bill.
    pub amount: Quantity,
    /// The first of them.
    pub first: Vec<LineFault>,
}

impl fmt::Display for FaultyLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lines, have) = (several(self.lines, "line"), verb(self.lines, "has", "have"));
        write!(f, "{lines} of {} {have} {}", self.meter, self.kind.says())?;
        if !matches!(self.kind, FaultKind::Amount | FaultKind::TooLarge) {
            write!(f, " (amount {})", self.amount)?;
        }
        for (i, fault) in self.first.iter().enumerate() {
            write!(f, "{}{fault}", if i == 0 { ": " } else { "; " })?;
        }
        match self.lines.saturating_sub(u64::try_from(self.first.len()).unwrap_or(0)) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Lines of one kind and meter, while a bill is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) lines: u64,
    pub(crate) sum: i128,
    pub(crate) first: BTreeSet<LineFault>,
}

/// All faulty lines of a bill, by meter and kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(pub(crate) BTreeMap<(u8, FaultKind), Group>);

impl Faults {
    /// Notes a line. `why` is asked for its column and reason when the line is one of the first.
    pub(super) fn note(
        &mut self,
        of: (u8, FaultKind),
        amount: Quantity,
        (origin, row): (&Origin<'_>, usize),
        why: impl FnOnce() -> (String, String),
    ) {
        let group = self.0.entry(of).or_default();
        group.lines += 1;
        group.sum += amount.scaled();
        let place = (origin.file, origin.row_group, (origin.place)(row));
        let later = |last: &LineFault| (last.file.as_str(), last.row_group, last.row) < place;
        if group.first.len() == NAMED && group.first.last().is_some_and(later) {
            return;
        }
        let (column, why) = why();
        let resource = (origin.resource)(row).map(|text| shown(&text));
        let (file, row_group, row) = place;
        let (file, column, why) = (file.to_owned(), shown(&column), shown(&why));
        group.insert(LineFault { file, row_group, row, column, why, resource });
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (of, theirs) in &other.0 {
            let own = self.0.entry(*of).or_default();
            own.lines += theirs.lines;
            own.sum += theirs.sum;
            theirs.first.iter().for_each(|fault| own.insert(fault.clone()));
        }
    }

    /// The places of named lines whose resource nobody has looked up: file, row group, rows.
    pub(crate) fn without_resource(&self) -> BTreeMap<(String, usize), BTreeSet<u64>> {
        let mut found: BTreeMap<(String, usize), BTreeSet<u64>> = BTreeMap::new();
        let named = self.0.values().flat_map(|group| &group.first).filter(|fault| fault.resource.is_none());
        for LineFault { file, row_group, row, .. } in named {
            if let Some(group) = row_group {
                found.entry((file.clone(), *group)).or_default().insert(*row);
            }
        }
        found
    }

    /// Adds the resources of lines of a row group, by row.
    pub(crate) fn name_resources(&mut self, file: &str, row_group: usize, resources: &BTreeMap<u64, String>) {
        for group in self.0.values_mut() {
            let named = std::mem::take(&mut group.first).into_iter().map(|mut fault| {
                if fault.file == file && fault.row_group == Some(row_group) && fault.resource.is_none() {
                    fault.resource = resources.get(&fault.row).map(|text| shown(text));
                }
                fault
            });
            group.first = named.collect();
        }
    }

    /// Everything that was noted, kind by kind.
    pub(super) fn of(&self, rules: &Rules) -> Vec<FaultyLines> {
        let mut found: Vec<FaultyLines> = self
            .0
            .iter()
            .map(|((meter, kind), Group { lines, sum, first })| FaultyLines {
                kind: *kind,
                meter: rules.meters.get(usize::from(*meter)).map(|m| m.name.clone()).unwrap_or_default(),
                lines: *lines,
                amount: Quantity::from_scaled(*sum),
                first: first.iter().cloned().collect(),
            })
            .collect();
        found.sort_by(|a, b| (a.kind, &a.meter).cmp(&(b.kind, &b.meter)));
        found
    }
}

impl Group {
    fn insert(&mut self, fault: LineFault) {
        self.first.insert(fault);
        if self.first.len() > NAMED {
            self.first.pop_last();
        }
    }
}
