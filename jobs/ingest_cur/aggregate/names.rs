//! Texts of a bill as numbers: all that were seen, and those of the current dictionary.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, StringArray};

use crate::ingest_cur::batch::TextColumn;
use crate::ingest_cur::sums::{id, idx};

/// Distinct texts and their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Interner {
    numbers: HashMap<Arc<str>, u32>,
    pub(super) texts: Vec<Arc<str>>,
    pub(super) bytes: usize,
}

impl Interner {
    pub(super) fn intern(&mut self, text: &str) -> u32 {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let text: Arc<str> = text.into();
        let new = id(self.texts.len());
        self.bytes += text.len();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, new);
        new
    }

    pub(super) fn text(&self, number: u32) -> &str {
        &self.texts[idx(number)]
    }
}

/// The meaning of each code of the current dictionary. It is rebuilt when the dictionary changes,
/// which is once a row group.
#[derive(Clone, Debug, Default)]
pub(super) struct DictionaryMap {
    of: Option<StringArray>,
    /// By code + 1; [`BLANK`](crate::ingest_cur::batch::BLANK) is at 0.
    table: Vec<u32>,
}

impl DictionaryMap {
    /// True when the column has the dictionary that the table was built for. That dictionary is
    /// kept alive, so an equal address means the same dictionary.
    fn fits(&self, text: &TextColumn<'_>) -> bool {
        self.of.as_ref().is_some_and(|of| {
            std::ptr::eq(of.value_data().as_ptr(), text.values().value_data().as_ptr())
                && std::ptr::eq(of.value_offsets().as_ptr(), text.values().value_offsets().as_ptr())
                && of.len() == text.values().len()
        })
    }

    pub(super) fn renew(&mut self, text: &TextColumn<'_>, mut meaning: impl FnMut(&str) -> u32) {
        if self.fits(text) {
            return;
        }
        self.of = Some(text.values().clone());
        self.table.clear();
        self.table.push(meaning(""));
        let values = text.values();
        self.table.extend((0..values.len()).map(|i| meaning(if values.is_valid(i) { values.value(i) } else { "" })));
    }

    #[inline]
    pub(super) fn get(&self, code: i32) -> u32 {
        self.table[usize::try_from(code + 1).unwrap_or(0)]
    }

    #[inline]
    pub(super) fn set(&mut self, code: i32, meaning: u32) {
        self.table[usize::try_from(code + 1).unwrap_or(0)] = meaning;
    }
}
