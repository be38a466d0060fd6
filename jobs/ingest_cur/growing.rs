//! The columns of a batch of CSV while it is being read: texts, and maps that are written as JSON.
//!
//! A map keeps all its entries, in order, also those of a key that comes twice: what they mean is
//! decided by the one rule for all forms of a bill ([`books::usage::tag_key`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, MapArray, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::error::ArrowError;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::batch::NO_CUSTOMER;
use crate::data_files::memory;

/// Longest map of tags, as text. AWS allows 50 tags of 128 and 256 characters.
const LONGEST_MAP: u64 = 1 << 20;

/// A column of the batch that is being read.
pub(super) enum Growing {
    Texts(Texts),
    Maps(Box<Maps>),
}

impl Growing {
    pub(super) fn texts() -> Self {
        Self::Texts(Texts::default())
    }

    pub(super) fn maps() -> Self {
        Self::Maps(Box::default())
    }

    /// Bytes of the longest value that a row may have.
    pub(super) fn longest(&self) -> u64 {
        match self {
            Self::Texts(_) => memory::LONGEST_VALUE,
            Self::Maps(_) => LONGEST_MAP,
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the batch has too many distinct texts.
    pub(super) fn push(&mut self, text: &str) -> Result<(), String> {
        match self {
            Self::Texts(texts) => texts.push(text).map(drop),
            Self::Maps(maps) => maps.push(text),
        }
    }

    /// Bytes of the distinct texts of the rows so far.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.bytes,
            Self::Maps(maps) => maps.rows.bytes + maps.keys.bytes + maps.values.bytes,
        }
    }

    /// The rows so far; the column is empty then.
    pub(super) fn take(&mut self) -> Result<ArrayRef, String> {
        let taken = match self {
            Self::Texts(texts) => std::mem::take(texts).finish(),
            Self::Maps(maps) => std::mem::take(maps).finish(),
        };
        taken.map_err(|e| e.to_string())
    }
}

/// Rows of texts, as codes.
#[derive(Default)]
pub(super) struct Texts {
    codes: Vec<i32>,
    index: HashMap<String, i32>,
    values: Vec<String>,
    /// Bytes of the distinct texts.
    bytes: usize,
}

impl Texts {
    /// Adds a row; true when no row before it has the text.
    fn push(&mut self, text: &str) -> Result<bool, String> {
        let known = self.index.get(text).copied();
        let code = match known {
            Some(code) => code,
            None => {
                let new = i32::try_from(self.values.len()).map_err(|e| e.to_string())?;
                self.values.push(text.to_owned());
                self.bytes += text.len();
                self.index.insert(text.to_owned(), new);
                new
            }
        };
        self.codes.push(code);
        Ok(known.is_none())
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let values = Arc::new(StringArray::from(self.values));
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(self.codes), values)?))
    }
}

/// Rows of maps, as codes: most rows share their map with others.
#[derive(Default)]
pub(super) struct Maps {
    rows: Texts,
    /// Where the entries of each distinct map end.
    ends: Vec<i32>,
    keys: Texts,
    values: Texts,
}

impl Maps {
    fn push(&mut self, text: &str) -> Result<(), String> {
        if self.rows.push(text)? {
            for (key, value) in entries(text) {
                self.keys.push(&key)?;
                self.values.push(&value)?;
            }
            self.ends.push(i32::try_from(self.keys.codes.len()).map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let (keys, values) = (self.keys.finish()?, self.values.finish()?);
        let field = |name: &str, array: &ArrayRef| Field::new(name, array.data_type().clone(), false);
        let fields = vec![field("key", &keys), field("value", &values)].into();
        let entries = StructArray::try_new(fields, vec![keys, values], None)?;
        let entry = Arc::new(Field::new("key_value", DataType::Struct(entries.fields().clone()), false));
        let offsets = OffsetBuffer::new(std::iter::once(0).chain(self.ends).collect::<Vec<i32>>().into());
        let maps = MapArray::try_new(entry, offsets, entries, None, false)?;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(self.rows.codes), Arc::new(maps))?))
    }
}

/// The entries of a map that is written as JSON; null is empty. Of a text that is no map, one entry
/// with the key [`NO_CUSTOMER`] that says so.
fn entries(json: &str) -> Vec<(String, String)> {
    if json.trim().is_empty() {
        return vec![];
    }
    match serde_json::from_str(json) {
        Ok(Entries(entries)) => entries,
        Err(why) => {
            let why = format!("{NO_CUSTOMER}this is no JSON object of texts ({why})");
            vec![(NO_CUSTOMER.into(), why)]
        }
    }
}

/// All entries of an object, in order; a map of the standard library keeps the last of a key alone.
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = vec![];
                while let Some((key, value)) = map.next_entry::<String, Option<String>>()? {
                    entries.push((key, value.unwrap_or_default()));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_keeps_entries_of_a_key_that_comes_twice() {
        let texts = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        for (json, want) in [
            (r#"{"k":"bob","k":""}"#, &[("k", "bob"), ("k", "")][..]),
            (r#"{"k":"bob","k":"Bob","a":null}"#, &[("k", "bob"), ("k", "Bob"), ("a", "")]),
            (r#"{"\u006b":"a\nb"}"#, &[("k", "a\nb")]),
            ("{}", &[]),
            (" ", &[]),
        ] {
            let want: Vec<(String, String)> = texts(want);
            assert_eq!(entries(json), want, "{json}");
        }
        for json in ["{", "[]", r#"{"k":1}"#, r#"{"k":{"v":"x"}}"#, "null", r#""k""#, r#"{"k":"v"} x"#] {
            let found = entries(json);
            assert_eq!((found.len(), found[0].0.as_str()), (1, "\0"), "{json}");
            assert!(found[0].1.starts_with("\0this is no JSON object of texts"), "{json}");
        }
    }

    #[test]
    fn rows_share_equal_maps() {
        let mut maps = Growing::maps();
        for json in ["{}", r#"{"a":"1","b":"2"}"#, "{}", r#"{"b":"2"}"#] {
            maps.push(json).unwrap();
        }
        let array = maps.take().unwrap();
        let codes = array.as_any().downcast_ref::<DictionaryArray<Int32Type>>().unwrap();
        assert_eq!(codes.keys().values().as_ref(), [0, 1, 0, 2]);
        let shared = codes.values().as_any().downcast_ref::<MapArray>().unwrap();
        assert_eq!(shared.offsets().as_ref(), [0, 0, 2, 3]);
        assert_eq!(maps.take().unwrap().len(), 0);
    }
}
