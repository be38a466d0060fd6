//! What a bill says of the lines that no rule claims: operation, rate and description, for whoever
//! writes a rule. Only `meter discover` reads these columns.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

/// Kinds of line that are described; of more, the first ones in the alphabet.
const KINDS: usize = 1_000;
/// Texts of each column that are kept of a kind; of more, the first ones in the alphabet.
const TEXTS: usize = 8;
/// Characters of a text that are kept.
const CHARACTERS: usize = 200;

/// The columns that describe a line, in the order of a batch.
pub const DESCRIPTION_COLUMNS: [&str; 3] =
    ["line_item_operation", "line_item_unblended_rate", "line_item_line_item_description"];

/// Product, usage type and unit of lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KindKey {
    /// `line_item_product_code`.
    pub product: String,
    /// `line_item_usage_type`.
    pub usage_type: String,
    /// `pricing_unit`.
    pub unit: String,
}

/// What the lines of a kind say of themselves: the texts of each column, without the empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct KindDescription {
    /// `line_item_operation`.
    pub operations: BTreeSet<String>,
    /// `line_item_unblended_rate`.
    pub rates: BTreeSet<String>,
    /// `line_item_line_item_description`.
    pub descriptions: BTreeSet<String>,
}

impl KindDescription {
    pub(super) fn columns(&mut self) -> [&mut BTreeSet<String>; 3] {
        [&mut self.operations, &mut self.rates, &mut self.descriptions]
    }

    /// Adds a text to those of a column, unless there are enough.
    pub(super) fn keep(column: &mut BTreeSet<String>, text: &str) {
        if text.is_empty() || column.contains(text) {
            return;
        }
        let end = text.char_indices().nth(CHARACTERS).map_or(text.len(), |(at, _)| at);
        column.insert(text[..end].to_owned());
        if column.len() > TEXTS {
            column.pop_last();
        }
    }
}

/// The kinds of line that no rule claims, with their descriptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described(pub(crate) BTreeMap<KindKey, KindDescription>);

impl Described {
    /// The description of a kind; none when it is not one of the first.
    pub(super) fn of(&mut self, key: KindKey) -> Option<&mut KindDescription> {
        if !self.0.contains_key(&key) && self.0.len() >= KINDS {
            if self.0.last_key_value().is_some_and(|(last, _)| *last < key) {
                return None;
            }
            self.0.pop_last();
        }
        Some(self.0.entry(key).or_default())
    }

    /// Adds what another part of the bill says.
    pub(super) fn merge(&mut self, other: &Self) {
        for (key, theirs) in &other.0 {
            let (Some(own), mut theirs) = (self.of(key.clone()), theirs.clone()) else { continue };
            for (own, theirs) in own.columns().into_iter().zip(theirs.columns()) {
                theirs.iter().for_each(|text| KindDescription::keep(own, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(usage_type: &str) -> KindKey {
        KindKey { product: "AmazonChime".into(), usage_type: usage_type.into(), unit: "minutes".into() }
    }

    /// The parts of a bill are merged in any order, so what is left out must not depend on it.
    #[test]
    fn few_texts_of_few_kinds_are_kept_in_any_order() {
        let part = |texts: std::ops::Range<usize>| {
            let mut described = Described::default();
            for n in texts {
                if let Some(own) = described.of(key(&format!("K{n:05}"))) {
                    KindDescription::keep(&mut own.rates, "0.0017");
                }
                let operation = format!("{n:05}{}", "x".repeat(300));
                KindDescription::keep(&mut described.of(key("K00000")).unwrap().operations, &operation);
            }
            described
        };
        let merged = |parts: [&Described; 2]| {
            let mut all = Described::default();
            parts.into_iter().for_each(|part| all.merge(part));
            all.0
        };
        let (one, two) = (part(0..700), part(700..1400));
        let all = merged([&one, &two]);
        assert_eq!(all, merged([&two, &one]));
        assert_eq!((all.len(), all.last_key_value().unwrap().0), (KINDS, &key("K00999")));
        let operations = &all[&key("K00000")].operations;
        assert_eq!((operations.len(), operations.first().unwrap().len()), (TEXTS, CHARACTERS));
    }
}
