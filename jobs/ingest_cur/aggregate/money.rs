//! What an aggregator of costs knows of money: its columns and currencies.

use std::collections::BTreeSet;

use super::names::DictionaryMap;

/// What an aggregator of costs sums.
#[derive(Clone, Debug)]
pub(super) struct Money {
    /// By number of the cost meter: the place of its column among those of the batch, and its name.
    pub(super) columns: Vec<(usize, &'static str)>,
    /// The currencies of the current dictionary.
    pub(super) codes: DictionaryMap,
    /// Currencies of lines with a cost, as numbers of texts.
    pub(super) currencies: BTreeSet<u32>,
    /// Of the line before.
    pub(super) newest: Option<u32>,
}
