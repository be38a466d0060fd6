//! What a bill adds up to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::described::{KindDescription, KindKey};
use super::fault::FaultyLines;
use super::seen::Seen;
use books::shared_bucket::shares::BilledDay;
use books::units::calendar::Day;
use books::usage::bill::{LineKind, MeterTotals};
use books::usage::ledger::Cells;

/// The sums of a bill, ready to be compared with the books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Usage by customer, meter and day, in the unit of each meter.
    pub observed: Cells,
    /// Usage of shared buckets, in order; `observed` has none of it before it is apportioned.
    pub billed_days: Vec<BilledDay>,
    /// Every kind of line of the watched products.
    pub lines: Vec<LineKind>,
    /// Every kind of line that a cost meter claims; `amount` is money.
    pub cost_lines: Vec<LineKind>,
    /// Of usage, then of costs.
    pub meters: Vec<MeterTotals>,
    /// Rows that a meter counted.
    pub counted_rows: u64,
    /// Amounts with more than ten decimals.
    pub rounded_amounts: u64,
    /// Cells with more than ten decimals after their meter's factor.
    pub rounded_cells: u64,
    /// Counted lines of days outside the month.
    pub out_of_month_lines: u64,
    /// Counted lines of usage during more than a day.
    pub long_lines: u64,
    pub seen: Seen,
    /// Newest day with counted usage.
    pub newest_day: Option<Day>,
    pub unknown_line_types: Vec<UnknownLineType>,
    /// Lines that a meter counts and that cannot be booked as they are.
    pub faults: Vec<FaultyLines>,
    /// What lines that no rule claims say of themselves; empty where only sums are read.
    pub described: BTreeMap<KindKey, KindDescription>,
}

/// A line type of which it is unknown whether it carries usage, on lines that a meter claims.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct UnknownLineType {
    pub line_type: String,
    pub lines: u64,
}
